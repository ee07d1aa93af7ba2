//! How do features become scores, many requests at once?
//!
//! The models are owned by threads of their own. A request posts its slate to an owner's bounded
//! inbox and waits; an owner takes whatever is waiting, scores it, and answers each.

pub mod features;
mod fusion;
mod model;
mod open;
mod reader;
mod rechead;

pub use fusion::{Fusion, Prior, is_cold};
pub use model::{Desk, Entry, Model, Scores, Slate};
pub use open::{Opened, ScorerFile, score_golden};
pub use reader::Reader;
pub use rechead::{Head, RecheadFile, Written, foreseen, history_text};

use crate::bundle::UserCard;
use crate::domain::{Timestamp, UserId};
use crate::telemetry::Metrics;
use crate::worker::{self, Inbox, Rejected, Worker};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A handle on the owners of one model. Dropping it ends them.
#[derive(Debug)]
pub struct Scorer {
    owners: Vec<Owner>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Owner {
    inbox: Inbox<Job>,
    _thread: Worker,
}

/// How much the owners may take on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Owner threads.
    pub threads: NonZeroUsize,
    /// How many slates may wait for one owner, and how many it scores in one turn.
    pub slates: worker::Limits,
}

/// A slate to be scored for a user.
#[derive(Clone, Debug)]
pub struct Request {
    /// For whom.
    pub user: UserId,
    /// When.
    pub now: Timestamp,
    /// What we know about them.
    pub card: Arc<UserCard>,
    /// What they may be shown.
    pub entries: Arc<[Entry]>,
}

/// What an owner answers.
#[derive(Debug)]
pub struct Reply {
    /// The scores, in the order of the entries.
    pub scores: Scores,
    /// How long the request waited.
    pub queue: Duration,
    /// How long it was worked on.
    pub compute: Duration,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScorerError {
    /// Too many slates wait already.
    #[error("the scorer's inbox is full")]
    Full,
    /// The owner is gone for good.
    #[error("the scorer's owner is gone")]
    Gone,
}

#[derive(Debug)]
struct Job {
    request: Request,
    posted: Instant,
    reply: oneshot::Sender<Reply>,
}

// === impl Scorer ===

impl Scorer {
    /// Starts the owners of a model.
    pub fn start(model: &Arc<Model>, limits: Limits, metrics: &Arc<Metrics>) -> Self {
        let owners = (0..limits.threads.get()).map(|_| Owner::start(model, limits, metrics));
        Self { owners: owners.collect(), next: AtomicUsize::new(0) }
    }

    /// Scores a slate. Dropping the future cancels the work if it has not begun.
    pub async fn score(&self, request: Request) -> Result<Reply, ScorerError> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let owner = &self.owners[turn % self.owners.len()];
        let (reply, answer) = oneshot::channel();
        let job = Job { request, posted: Instant::now(), reply };
        owner.inbox.try_post(job).map_err(|rejected| match rejected {
            Rejected::Full(_) => ScorerError::Full,
            Rejected::Closed(_) => ScorerError::Gone,
        })?;
        answer.await.map_err(|_| ScorerError::Gone)
    }

    /// Whether every owner is still at work.
    pub fn is_alive(&self) -> bool {
        self.owners.iter().all(|owner| owner.inbox.is_alive())
    }
}

// === impl Owner ===

impl Owner {
    fn start(model: &Arc<Model>, limits: Limits, metrics: &Arc<Metrics>) -> Self {
        let (model, metrics) = (model.clone(), metrics.clone());
        let desk = {
            let model = model.clone();
            move || model.desk()
        };
        let turn = move |desk: &mut Desk, jobs: &mut Vec<Job>| {
            for job in jobs.drain(..) {
                job.serve(&model, desk, &metrics);
            }
        };
        let (inbox, thread) = worker::start("scorer", limits.slates, |_| {}, desk, turn);
        Self { inbox, _thread: thread }
    }
}

// === impl Job ===

impl Job {
    fn serve(self, model: &Model, desk: &mut Desk, metrics: &Metrics) {
        // A caller who hung up, or whose deadline came, waits for nothing.
        if self.reply.is_closed() {
            return;
        }
        let begun = Instant::now();
        let Request { user, now, card, entries } = &self.request;
        let slate = Slate {
            user,
            now: *now,
            history: &card.history,
            pattern: Some(&card.vector),
            head: Some(&card.head),
            expects: card.expects,
            candidates: entries,
        };
        let scores = model.score(&slate, desk);
        let compute = begun.elapsed();
        metrics.scored(entries.len(), compute);
        // The caller may have hung up meanwhile.
        let _ = self.reply.send(Reply { scores, queue: begun - self.posted, compute });
    }
}
