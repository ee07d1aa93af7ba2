//! How do features become scores, many requests at once?
//!
//! The models are owned by threads of their own. A request posts its slate to an owner's bounded
//! inbox and waits; an owner takes whatever is waiting, scores it, and answers each. A GPU has an owner of its own, to
//! whom large slates are posted: what waits for it is one batch.

pub mod features;
mod fusion;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;
mod model;
mod open;
mod reader;
mod rechead;

pub use fusion::{Fusion, PositionPenalty, is_cold};
pub use gpu::{Gpu, GpuError};
pub use model::{ScorerModel, ScorerSlate, ScoringScratch, SlateItem, SlateScores, network_shape};
pub use open::{OpenedScorer, ScorerFile, score_golden};
pub use reader::TextReader;
pub use rechead::{RecheadFile, RecheadScorer, ShopperTexts, history_vector, predicted_next_item};

use self::features::HistoryCounts;
use crate::bundle::{HISTORY_LEN, UserCard};
use crate::domain::{Timestamp, UserId};
use crate::telemetry::Metrics;
use crate::worker::{self, Inbox, PostError, Worker};
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
    /// The owner of a GPU, and the pairs of a slate from which it is asked.
    gpu: Option<(Owner, usize)>,
}

#[derive(Debug)]
struct Owner {
    inbox: Inbox<ScoreJob>,
    _thread: Worker,
}

/// How much the owners may take on.
#[derive(Clone, Copy, Debug)]
pub struct ScorerLimits {
    /// Owner threads.
    pub threads: NonZeroUsize,
    /// How many slates may wait for one owner, and how many it scores in one turn.
    pub slates: worker::InboxLimits,
    /// Whether large slates go to a GPU.
    pub gpu: Option<GpuLimits>,
}

/// What goes to a GPU, and what lies there.
#[derive(Clone, Copy, Debug)]
pub struct GpuLimits {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Pairs of a candidate and an event from which a slate goes there.
    pub pairs_min: usize,
    /// Items that lie there, and as many cards; those that were used longest ago give way.
    pub rows_max: usize,
}

/// A slate to be scored for a user.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// For whom.
    pub user: UserId,
    /// When.
    pub now: Timestamp,
    /// What we know about them.
    pub card: Arc<UserCard>,
    /// The counts of the card's history, if they were made before.
    pub counts: Option<Arc<HistoryCounts>>,
    /// What they may be shown.
    pub items: Arc<[SlateItem]>,
}

/// What an owner answers.
#[derive(Debug)]
pub struct ScoreReply {
    /// The scores, in the order of the items.
    pub scores: SlateScores,
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
struct ScoreJob {
    request: ScoreRequest,
    posted: Instant,
    reply: oneshot::Sender<ScoreReply>,
}

// === impl Scorer ===

impl Scorer {
    /// Starts the owners of a model, and that of a GPU that it lies on.
    pub fn start(
        model: &Arc<ScorerModel>,
        gpu: Option<Gpu>,
        limits: ScorerLimits,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let owners = (0..limits.threads.get()).map(|_| Owner::start(model, limits, metrics));
        let gpu = gpu
            .zip(limits.gpu)
            .map(|(gpu, of)| (Owner::start_gpu(model, gpu, limits, metrics), of.pairs_min));
        Self { owners: owners.collect(), next: AtomicUsize::new(0), gpu }
    }

    /// Scores a slate. Dropping the future cancels the work if it has not begun.
    pub async fn score(&self, request: ScoreRequest) -> Result<ScoreReply, ScorerError> {
        let owner = self.owner_for(&request);
        let (reply, answer) = oneshot::channel();
        let job = ScoreJob { request, posted: Instant::now(), reply };
        owner.inbox.try_post(job).map_err(|rejected| match rejected {
            PostError::Full(_) => ScorerError::Full,
            PostError::Closed(_) => ScorerError::Gone,
        })?;
        answer.await.map_err(|_| ScorerError::Gone)
    }

    fn owner_for(&self, request: &ScoreRequest) -> &Owner {
        match &self.gpu {
            Some((owner, pairs_min)) if request.pairs() >= *pairs_min => owner,
            _ => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                &self.owners[turn % self.owners.len()]
            }
        }
    }

    /// Whether every owner is still at work.
    pub fn is_alive(&self) -> bool {
        let gpu = self.gpu.iter().map(|(owner, _)| owner);
        self.owners.iter().chain(gpu).all(|owner| owner.inbox.is_alive())
    }
}

// === impl Owner ===

impl Owner {
    fn start(model: &Arc<ScorerModel>, limits: ScorerLimits, metrics: &Arc<Metrics>) -> Self {
        let (model, metrics) = (model.clone(), metrics.clone());
        let scratch = {
            let model = model.clone();
            move || model.scratch()
        };
        let turn = move |scratch: &mut ScoringScratch, jobs: &mut Vec<ScoreJob>| {
            for job in jobs.drain(..) {
                job.serve(&model, scratch, &metrics);
            }
        };
        let (inbox, thread) = worker::start("scorer", limits.slates, |_| {}, scratch, turn);
        Self { inbox, _thread: thread }
    }

    /// The owner of a GPU: what waits is one batch. A GPU that fails costs time, not answers.
    fn start_gpu(
        model: &Arc<ScorerModel>,
        gpu: Gpu,
        limits: ScorerLimits,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (model, metrics) = (model.clone(), metrics.clone());
        let state = {
            let model = model.clone();
            move || (gpu, model.scratch())
        };
        let turn = move |(gpu, scratch): &mut (Gpu, ScoringScratch), jobs: &mut Vec<ScoreJob>| {
            jobs.retain(|job| !job.reply.is_closed());
            let begun = Instant::now();
            let slates: Vec<ScorerSlate<'_>> = jobs.iter().map(|job| job.request.slate()).collect();
            match model.score_on(&slates, gpu) {
                Ok(scores) => {
                    drop(slates);
                    for (job, scores) in jobs.drain(..).zip(scores) {
                        job.answer(scores, begun, &metrics);
                    }
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a GPU does not score"
                    );
                    drop(slates);
                    for job in jobs.drain(..) {
                        job.serve(&model, scratch, &metrics);
                    }
                }
            }
        };
        let (inbox, thread) = worker::start("scorer-gpu", limits.slates, |_| {}, state, turn);
        Self { inbox, _thread: thread }
    }
}

// === impl ScoreJob ===

impl ScoreJob {
    fn serve(self, model: &ScorerModel, scratch: &mut ScoringScratch, metrics: &Metrics) {
        // A caller who hung up, or whose deadline came, waits for nothing.
        if self.reply.is_closed() {
            return;
        }
        let begun = Instant::now();
        let scores = model.score(&self.request.slate(), scratch);
        self.answer(scores, begun, metrics);
    }

    /// Answers with scores that were begun then.
    fn answer(self, scores: SlateScores, begun: Instant, metrics: &Metrics) {
        let compute = begun.elapsed();
        metrics.scored(self.request.items.len(), compute);
        // The caller may have hung up meanwhile.
        let _ = self.reply.send(ScoreReply { scores, queue: begun - self.posted, compute });
    }
}

// === impl ScoreRequest ===

impl ScoreRequest {
    /// What is to be scored.
    pub fn slate(&self) -> ScorerSlate<'_> {
        let Self { user, now, card, counts, items } = self;
        ScorerSlate {
            user,
            now: *now,
            history: &card.history,
            pattern: Some(&card.vector),
            rechead: Some(&card.rechead_vector),
            expected_item: card.expected_item,
            counts: counts.as_ref(),
            candidates: items,
        }
    }

    /// Pairs of a candidate and an event: what the time of a slate goes by.
    fn pairs(&self) -> usize {
        self.items.len() * self.card.history.len().clamp(1, HISTORY_LEN)
    }
}
