//! How do features become scores, many requests at once?
//!
//! Each scorer thread has a bounded inbox. A request posts its slate to one of them and waits for the reply. A thread
//! takes all waiting slates and scores one after the other. A GPU has a thread of its own, which takes large slates and
//! scores all waiting ones as one batch.

mod backed;
mod direct;
pub mod features;
mod fusion;
#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "no_gpu.rs"]
mod gpu;
mod item_vectors;
mod model;
mod open;
mod query;
mod reader;
mod rechead;

pub use direct::{
    DirectColumns, DirectError, DirectFile, DirectScorer, NamedInputs, RECHEAD_INPUT,
};
pub use fusion::{Fusion, PositionPenalty, is_cold};
pub use gpu::{Gpu, GpuError};
pub use item_vectors::{ItemVectors, ItemVectorsError};
pub use model::{
    LiveModel, LiveRows, ScorerModel, ScorerSlate, ScoringScratch, SlateItem, SlateScores,
    network_shape,
};
pub use open::{OpenedScorer, ScorerFile, score_golden};
pub use query::{QueryError, QueryFile, QueryScorer};
pub use reader::{TextReader, TextReaderError, open_bert, open_pretrained, open_static};
pub use rechead::{
    RecheadFile, RecheadScorer, ShopperTexts, ShopperTokens, TextSources, history_vector,
    predicted_next_item,
};

use self::features::{HistoryCounts, LiveCounts, SpokenQuery};
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

/// A handle on the threads that score with one model. Dropping it ends them.
#[derive(Debug)]
pub struct Scorer {
    threads: Vec<ScorerThread>,
    next: AtomicUsize,
    /// The GPU's thread, and the pairs of a slate from which it takes it.
    gpu: Option<(ScorerThread, usize)>,
}

#[derive(Debug)]
struct ScorerThread {
    inbox: Inbox<ScoreJob>,
    _thread: Worker,
}

/// Bounds on a scorer's threads and queues.
#[derive(Clone, Copy, Debug)]
pub struct ScorerLimits {
    /// Threads on the processor.
    pub threads: NonZeroUsize,
    /// Slates that may wait for one thread, and that it takes at a time.
    pub slates: worker::InboxLimits,
    /// The GPU for large slates, if there is one.
    pub gpu: Option<GpuLimits>,
}

/// Which slates go to a GPU, and how many rows it holds.
#[derive(Clone, Copy, Debug)]
pub struct GpuLimits {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Pairs of a candidate and an event from which a slate is scored there.
    pub pairs_min: usize,
    /// Rows of items in its memory, and as many of cards; the least recently used are evicted.
    pub rows_max: usize,
}

/// A slate to be scored for a user.
#[derive(Clone, Debug)]
pub struct ScoreRequest {
    /// The shopper.
    pub user: UserId,
    /// The time of the request.
    pub now: Timestamp,
    /// The shopper's card.
    pub card: Arc<UserCard>,
    /// The counts of the card's history, if they were made before.
    pub counts: Option<Arc<HistoryCounts>>,
    /// What is counted live for the shopper, if anything is.
    pub live: Option<Arc<LiveCounts>>,
    /// What the request says in words, if the model hears it.
    pub query: Option<Arc<SpokenQuery>>,
    /// The candidates.
    pub items: Arc<[SlateItem]>,
}

/// The scores of one request.
#[derive(Debug)]
pub struct ScoreReply {
    /// The scores, in the order of the items.
    pub scores: SlateScores,
    /// Time that the request waited in the inbox.
    pub queue: Duration,
    /// Time to score it; on a GPU, to score its batch.
    pub compute: Duration,
}

/// Why there is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScorerError {
    /// Too many slates wait already.
    #[error("the scorer's inbox is full")]
    Full,
    /// The scorer's thread has ended.
    #[error("the scorer's thread has ended")]
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
    /// Starts a model's threads, and that of a GPU that holds it.
    pub fn start(
        model: &Arc<ScorerModel>,
        gpu: Option<Gpu>,
        limits: ScorerLimits,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let threads =
            (0..limits.threads.get()).map(|_| ScorerThread::start(model, limits, metrics));
        let gpu = gpu
            .zip(limits.gpu)
            .map(|(gpu, of)| (ScorerThread::start_gpu(model, gpu, limits, metrics), of.pairs_min));
        Self { threads: threads.collect(), next: AtomicUsize::new(0), gpu }
    }

    /// Scores a slate. Dropping the future cancels the work if it has not begun.
    pub async fn score(&self, request: ScoreRequest) -> Result<ScoreReply, ScorerError> {
        let thread = self.thread_for(&request);
        let (reply, receiver) = oneshot::channel();
        let job = ScoreJob { request, posted: Instant::now(), reply };
        thread.inbox.try_post(job).map_err(|rejected| match rejected {
            PostError::Full(_) => ScorerError::Full,
            PostError::Closed(_) => ScorerError::Gone,
        })?;
        receiver.await.map_err(|_| ScorerError::Gone)
    }

    fn thread_for(&self, request: &ScoreRequest) -> &ScorerThread {
        match &self.gpu {
            Some((thread, pairs_min)) if request.pairs() >= *pairs_min => thread,
            _ => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                &self.threads[turn % self.threads.len()]
            }
        }
    }

    /// Whether every thread still runs.
    pub fn is_alive(&self) -> bool {
        let gpu = self.gpu.iter().map(|(thread, _)| thread);
        self.threads.iter().chain(gpu).all(|thread| thread.inbox.is_alive())
    }
}

// === impl ScorerThread ===

impl ScorerThread {
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

    /// Starts the thread of a GPU, which scores all waiting slates as one batch. Where the GPU fails, the processor
    /// scores them.
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
            let started = Instant::now();
            let slates: Vec<ScorerSlate<'_>> = jobs.iter().map(|job| job.request.slate()).collect();
            match model.score_on(&slates, gpu) {
                Ok(scores) => {
                    drop(slates);
                    for (job, scores) in jobs.drain(..).zip(scores) {
                        job.reply(scores, started, &metrics);
                    }
                }
                Err(error) => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "the GPU failed to score a batch; the processor scores it"
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
        // Nobody waits for the reply: the caller hung up, or its deadline passed.
        if self.reply.is_closed() {
            return;
        }
        let started = Instant::now();
        let scores = model.score(&self.request.slate(), scratch);
        self.reply(scores, started, metrics);
    }

    /// Sends scores whose computation started then.
    fn reply(self, scores: SlateScores, started: Instant, metrics: &Metrics) {
        let compute = started.elapsed();
        metrics.scored(self.request.items.len(), compute);
        // The caller may have hung up meanwhile.
        let _ = self.reply.send(ScoreReply { scores, queue: started - self.posted, compute });
    }
}

// === impl ScoreRequest ===

impl ScoreRequest {
    /// The slate to score.
    pub fn slate(&self) -> ScorerSlate<'_> {
        let Self { user, now, card, counts, live, query, items } = self;
        ScorerSlate {
            user,
            now: *now,
            history: &card.history,
            pattern: Some(&card.vector),
            pattern_text: &card.pattern,
            rechead: Some(&card.rechead_vector),
            expected_item: card.expected_item,
            counts: counts.as_ref(),
            live: live.as_deref().map_or(LiveRows::None, LiveRows::Count),
            query: query.as_deref(),
            candidates: items,
        }
    }

    /// Pairs of a candidate and an event, to which the time to score a slate is proportional.
    fn pairs(&self) -> usize {
        self.items.len() * self.card.history.len().clamp(1, HISTORY_LEN)
    }
}
