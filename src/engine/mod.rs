//! How do tokens become more tokens, many requests at once?
//!
//! One thread owns the model. It takes what was asked, lets the scheduler choose a step, computes
//! it, and tells those who asked what became of it; then the next step. The engine knows tokens
//! only: what they stand for is for others to know.
//!
//! | file | |
//! |---|---|
//! | `ask` | what a caller wants, and whether it could ever be done |
//! | `reply` | what a caller hears |
//! | `constraint` | which tokens may come next |
//! | `sampler` | how logits become a token |
//! | `pages` | which page holds which tokens |
//! | `sequence` | a text that is being computed |
//! | `scheduler` | who is in the next step |
//! | `step` | what the scheduler and the model agree on |
//! | `runner` | the model on this machine's processor |
//!
//! A step that there is no memory for is computed in parts. When what the model runs on is lost, the owner ends every
//! ask, and itself: from then on the engine is gone, and says so at once to whoever asks.
//!
//! Whatever is asked gets the same answer in any company: what is drawn is keyed by the ask alone,
//! and the model's arithmetic does not depend on who else is in a step.

mod compute_device;
pub mod constraint;
mod cpu_runner;
#[cfg(feature = "cuda")]
mod cuda_runner;
mod forward;
pub mod kv_pages;
mod request;
mod response;
pub mod sampler;
pub mod scheduler;
mod sequence;

pub use crate::nn::softmax::SampleSpec;
pub use compute_device::{ComputeDevice, ComputeDeviceError};
pub use constraint::{Allowed, Constraint, ConstraintError, Thinking, Trie};
pub use cpu_runner::CpuRunner;
#[cfg(feature = "cuda")]
pub use cuda_runner::CudaRunner;
pub use forward::{
    BANNED_MAX, ForwardBatch, ForwardOutput, OutputKind, RowOutput, Runner, RunnerError,
    RunnerLimits, SequenceSpan,
};
pub use request::{
    BranchOutput, EngineRequest, GenerateRequest, Priority, Rejection, RequestKind,
    SchedulerConfig, SchedulerConfigError, WeighRequest,
};
pub use response::{EngineEvent, FinishReason, RequestFailure, ResponseStream, Usage};
pub use sampler::{SampleError, SamplingParams, SamplingParamsError};
pub use scheduler::Scheduler;

use crate::telemetry::{EngineLoad, EngineStep, Metrics};
use crate::worker::{self, Inbox, NextTurn, PostError, Worker};
use request::Admission;
use rustc_hash::FxHashMap;
use scheduler::RequestId;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// A handle on the owner of one model. Dropping it ends the owner, and with it all that it works
/// on.
#[derive(Debug)]
pub struct Engine {
    inbox: Inbox<EngineJob>,
    admission: Admission,
    /// Sequences that may still be taken on.
    room: Arc<Semaphore>,
    _thread: Worker,
}

/// Why there is no engine, or no reply.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The model could not be made ready.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The limits do not fit the model.
    #[error(transparent)]
    Config(#[from] SchedulerConfigError),
    /// The ask was not taken.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The owner is gone for good.
    #[error("the engine's owner is gone")]
    Gone,
}

/// What an owner is asked.
#[derive(Debug)]
struct EngineJob {
    ask: EngineRequest,
    events: mpsc::Sender<EngineEvent>,
    room: OwnedSemaphorePermit,
}

/// Who waits for what becomes of an ask.
#[derive(Debug)]
struct ResponseSender {
    events: mpsc::Sender<EngineEvent>,
    _room: OwnedSemaphorePermit,
}

/// The state of the owner's thread.
struct EngineCore<R> {
    runner: R,
    scheduler: Scheduler,
    listeners: FxHashMap<RequestId, ResponseSender>,
    answers: ForwardOutput,
    metrics: Arc<Metrics>,
    /// Whether what the model runs on is lost: then this turn is the last.
    lost: bool,
}

// === impl Engine ===

impl Engine {
    /// Starts the owner of the model that `build` makes, on the owner's own thread, and waits until
    /// it is ready.
    pub fn start<R: Runner + 'static>(
        build: impl FnOnce() -> Result<R, RunnerError> + Send + 'static,
        limits: SchedulerConfig,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, EngineError> {
        let (tell, ready) = std_mpsc::sync_channel(1);
        let metrics = metrics.clone();
        let build = move || {
            let built = EngineCore::new(build, limits, metrics);
            let (told, owner) = match built {
                Ok(owner) => (Ok(owner.scheduler.admission()), Some(owner)),
                Err(error) => (Err(error), None),
            };
            // Whoever starts an engine waits for it.
            let _ = tell.send(told);
            owner
        };
        // One ask is one sequence or more, and each has a permit: so many always fit.
        let waiting_max = NonZeroUsize::MIN.saturating_add(limits.sequences_max() - 1);
        let (inbox, thread) = worker::start_busy("engine", waiting_max, build, EngineCore::turn);
        let admission = ready.recv().map_err(|_| EngineError::Gone)??;
        let room = Arc::new(Semaphore::new(limits.sequences_max()));
        Ok(Self { inbox, admission, room, _thread: thread })
    }

    /// Asks for something, without waiting: what could never be done, or finds no room, is refused
    /// at once.
    pub fn submit(&self, ask: EngineRequest) -> Result<ResponseStream, EngineError> {
        self.admission.check(&ask)?;
        let full = || Rejection::Full(self.admission.limits.sequences_max());
        let sequences = ask.sequences();
        let permits = u32::try_from(sequences).map_err(|_| full())?;
        let room = self.room.clone().try_acquire_many_owned(permits).map_err(|_| full())?;
        // All that can become of it fits, so a slow reader never holds up the owner.
        let (events, heard) = mpsc::channel(ask.events_max());
        self.inbox.try_post(EngineJob { ask, events, room }).map_err(
            |rejected| match rejected {
                PostError::Full(_) => EngineError::Rejected(full()),
                PostError::Closed(_) => EngineError::Gone,
            },
        )?;
        Ok(ResponseStream::new(heard, sequences))
    }

    /// Whether the owner is still at work.
    pub fn is_alive(&self) -> bool {
        self.inbox.is_alive()
    }
}

// === impl EngineCore ===

impl<R: Runner> EngineCore<R> {
    fn new(
        build: impl FnOnce() -> Result<R, RunnerError>,
        limits: SchedulerConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, EngineError> {
        let runner = build()?;
        let scheduler = Scheduler::new(runner.limits(), limits)?;
        let (listeners, answers) = (FxHashMap::default(), ForwardOutput::default());
        Ok(Self { runner, scheduler, listeners, answers, metrics, lost: false })
    }

    /// Takes what was asked, computes a step, and tells what became of it.
    fn turn(&mut self, jobs: &mut Vec<EngineJob>) -> NextTurn {
        let now = Instant::now();
        jobs.drain(..).for_each(|job| self.admit(job, now));
        self.hang_up();
        self.step();
        self.observe();
        self.tell();
        self.scheduler.settle();
        if self.lost {
            NextTurn::Never
        } else if self.scheduler.is_idle() {
            NextTurn::OnMessage
        } else {
            NextTurn::AtOnce
        }
    }

    fn admit(&mut self, job: EngineJob, now: Instant) {
        let EngineJob { ask, events, room } = job;
        match self.scheduler.admit(ask, now) {
            Ok(id) => drop(self.listeners.insert(id, ResponseSender { events, _room: room })),
            Err(refused) => send(&events, EngineEvent::Failed(refused.into())),
        }
    }

    /// Drops the work that nobody waits for any more.
    fn hang_up(&mut self) {
        let Self { scheduler, listeners, .. } = self;
        listeners.retain(|id, listener| {
            let listens = !listener.events.is_closed();
            if !listens {
                scheduler.abort(*id);
            }
            listens
        });
    }

    /// Computes a step. If there is no memory for all of it, its sequences take turns, half of them at a time or
    /// fewer; only one that is too large alone fails.
    fn step(&mut self) {
        if self.scheduler.plan(Instant::now()).is_none() {
            assert!(self.scheduler.is_idle(), "the most urgent of those at hand always gets on");
            return;
        }
        let (mut rows, begun) = (0, Instant::now());
        loop {
            let step = self.scheduler.step();
            match self.runner.forward(step, &mut self.answers) {
                Ok(()) => {
                    rows += step.tokens.len();
                    self.scheduler.commit(&self.answers);
                }
                Err(error) => {
                    self.metrics.engine_failed(error.as_str());
                    if matches!(error, RunnerError::Full(_)) && self.scheduler.halve() {
                        continue;
                    }
                    self.fail(error);
                }
            }
            if self.lost || !self.scheduler.resume() {
                break;
            }
        }
        if rows == 0 {
            return;
        }
        let tally = self.scheduler.tally();
        self.metrics.engine_step(&EngineStep {
            rows,
            prefill_tokens: tally.prefill_tokens,
            decode_tokens: tally.decode_tokens,
            prefix_hit_tokens: tally.hit_tokens,
            preempted: tally.preempted,
            took: begun.elapsed(),
        });
    }

    /// Ends the asks of the step at hand; or all of them, if there will be no other step.
    fn fail(&mut self, error: RunnerError) {
        self.lost = matches!(error, RunnerError::Lost(_));
        // What failed is at the end of the chain, and all of it is said.
        let error = format!("{:#}", anyhow::Error::from(error));
        tracing::error!(error, lost = self.lost, "a step failed");
        let failure = RequestFailure::Runner(error.into());
        if self.lost {
            self.scheduler.fail_all(&failure);
        } else {
            self.scheduler.fail_step(&failure);
        }
    }

    fn observe(&self) {
        let load = self.scheduler.load();
        self.metrics.engine_load(&EngineLoad {
            running: load.running,
            waiting: load.waiting,
            pages: [load.pages.free, load.pages.cached, load.pages.held],
        });
    }

    fn tell(&mut self) {
        for output in self.scheduler.outputs() {
            let Some(listener) = self.listeners.get(&output.id) else { continue };
            send(&listener.events, output.event);
            if output.last {
                self.listeners.remove(&output.id);
            }
        }
    }
}

/// Sends an event to somebody who may have hung up: the next turn finds out.
fn send(events: &mpsc::Sender<EngineEvent>, event: EngineEvent) {
    let sent = events.try_send(event);
    let full = matches!(sent, Err(mpsc::error::TrySendError::Full(_)));
    assert!(!full, "a reply has room for all that can become of its ask");
}
