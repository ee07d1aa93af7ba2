//! How do tokens become more tokens, many requests at once?
//!
//! One thread owns the model. Each step, it admits new requests, lets the scheduler plan a batch, computes the batch,
//! and sends the events. This is continuous batching with a paged KV cache, as in vLLM. The engine knows tokens only.
//!
//! | file | |
//! |---|---|
//! | `request` | what a caller requests, and the limits of it |
//! | `response` | the events that a caller receives |
//! | `priority` | the order of requests |
//! | `constraint` | which tokens may come next |
//! | `sampler` | how logits become a token |
//! | `kv_pages` | the KV pages and the prefix cache |
//! | `sequence` | the state of one sequence |
//! | `scheduler` | which sequences the next step computes |
//! | `forward` | the batch, the runner's trait, and its output |
//! | `paged_batch` | the batch as `nn` reads it |
//! | `cpu_runner`, `cuda_runner` | the model on a CPU and on a GPU |
//! | `compute_device` | which of the two |
//!
//! A batch that lacks memory is split. When the device is lost, the engine fails every request and stops: later
//! requests fail at once.
//!
//! An answer does not depend on the rest of the batch: sampling is keyed by the request alone, and the model's
//! arithmetic is batch-invariant.

mod compute_device;
pub mod constraint;
mod cpu_runner;
#[cfg(feature = "cuda")]
mod cuda_runner;
mod forward;
pub mod kv_pages;
mod paged_batch;
mod priority;
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
pub use priority::Priority;
pub use request::{
    BranchOutput, EngineRequest, GenerateRequest, Rejection, RequestKind, SchedulerConfig,
    SchedulerConfigError, WeighRequest,
};
pub use response::{EngineEvent, FinishReason, RequestFailure, ResponseStream, Usage};
pub use sampler::{SampleError, SamplingParams, SamplingParamsError};
pub use scheduler::Scheduler;

use crate::telemetry::{EngineLoad, EngineStep, Metrics};
use crate::worker::{self, Inbox, NextTurn, PostError, Worker};
use priority::RequestId;
use request::AdmissionLimits;
use rustc_hash::FxHashMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// A handle to the thread that owns one model. Dropping it stops the thread and aborts its requests.
#[derive(Debug)]
pub struct Engine {
    inbox: Inbox<EngineJob>,
    limits: AdmissionLimits,
    /// A permit for each sequence that may run or wait.
    permits: Arc<Semaphore>,
    _thread: Worker,
}

/// Why an engine does not start, or does not take a request.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The runner could not be built.
    #[error(transparent)]
    Runner(#[from] RunnerError),
    /// The scheduler's limits do not fit the runner's.
    #[error(transparent)]
    Config(#[from] SchedulerConfigError),
    /// The request was rejected.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The engine has stopped.
    #[error("the engine has stopped")]
    Gone,
}

/// A request on its way to the owner's thread.
#[derive(Debug)]
struct EngineJob {
    request: EngineRequest,
    events: mpsc::Sender<EngineEvent>,
    permits: OwnedSemaphorePermit,
}

/// The sending end of a [`ResponseStream`].
#[derive(Debug)]
struct ResponseSender {
    events: mpsc::Sender<EngineEvent>,
    _permits: OwnedSemaphorePermit,
}

/// The state of the owner's thread.
struct EngineCore<R> {
    runner: R,
    scheduler: Scheduler,
    responses: FxHashMap<RequestId, ResponseSender>,
    output: ForwardOutput,
    metrics: Arc<Metrics>,
    /// Whether the device is lost, so that this turn is the last.
    lost: bool,
}

// === impl Engine ===

impl Engine {
    /// Starts the owner's thread, builds the runner on it, and waits until it is ready.
    pub fn start<R: Runner + 'static>(
        build: impl FnOnce() -> Result<R, RunnerError> + Send + 'static,
        config: SchedulerConfig,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, EngineError> {
        let (ready_sender, ready) = std_mpsc::sync_channel(1);
        let metrics = metrics.clone();
        let build = move || {
            let (result, core) = match EngineCore::new(build, config, metrics) {
                Ok(core) => (Ok(core.scheduler.limits()), Some(core)),
                Err(error) => (Err(error), None),
            };
            // `start` waits for it.
            let _ = ready_sender.send(result);
            core
        };
        // Each request has a permit for each of its sequences, so the inbox is never full.
        let waiting_max = NonZeroUsize::MIN.saturating_add(config.sequences_max() - 1);
        let (inbox, thread) = worker::start_busy("engine", waiting_max, build, EngineCore::turn);
        let limits = ready.recv().map_err(|_| EngineError::Gone)??;
        let permits = Arc::new(Semaphore::new(config.sequences_max()));
        Ok(Self { inbox, limits, permits, _thread: thread })
    }

    /// Submits a request without waiting. It is rejected at once if it exceeds a limit or the engine is full.
    pub fn submit(&self, request: EngineRequest) -> Result<ResponseStream, EngineError> {
        self.limits.check(&request)?;
        let full = || Rejection::Full(self.limits.scheduler.sequences_max());
        let sequences = request.sequences();
        let count = u32::try_from(sequences).map_err(|_| full())?;
        let permits = self.permits.clone().try_acquire_many_owned(count).map_err(|_| full())?;
        // Every event has a place in the channel, so a slow reader never blocks the engine.
        let (events, received) = mpsc::channel(request.events_max());
        let job = EngineJob { request, events, permits };
        self.inbox.try_post(job).map_err(|error| match error {
            PostError::Full(_) => EngineError::Rejected(full()),
            PostError::Closed(_) => EngineError::Gone,
        })?;
        Ok(ResponseStream::new(received, sequences))
    }

    /// Whether the engine takes requests.
    pub fn is_alive(&self) -> bool {
        self.inbox.is_alive()
    }
}

// === impl EngineCore ===

impl<R: Runner> EngineCore<R> {
    fn new(
        build: impl FnOnce() -> Result<R, RunnerError>,
        config: SchedulerConfig,
        metrics: Arc<Metrics>,
    ) -> Result<Self, EngineError> {
        let runner = build()?;
        let scheduler = Scheduler::new(runner.limits(), config)?;
        let (responses, output) = (FxHashMap::default(), ForwardOutput::default());
        Ok(Self { runner, scheduler, responses, output, metrics, lost: false })
    }

    /// Admits the new requests, computes one step, and sends its events.
    fn turn(&mut self, jobs: &mut Vec<EngineJob>) -> NextTurn {
        let now = Instant::now();
        jobs.drain(..).for_each(|job| self.admit(job, now));
        self.abort_abandoned();
        self.step();
        self.record_load();
        self.send_events();
        self.scheduler.assert_invariants();
        if self.lost {
            NextTurn::Never
        } else if self.scheduler.is_idle() {
            NextTurn::OnMessage
        } else {
            NextTurn::AtOnce
        }
    }

    fn admit(&mut self, job: EngineJob, now: Instant) {
        let EngineJob { request, events, permits } = job;
        match self.scheduler.admit(request, now) {
            Ok(id) => {
                drop(self.responses.insert(id, ResponseSender { events, _permits: permits }));
            }
            Err(rejection) => send(&events, EngineEvent::Failed(rejection.into())),
        }
    }

    /// Aborts the requests whose response stream was dropped.
    fn abort_abandoned(&mut self) {
        let Self { scheduler, responses, .. } = self;
        responses.retain(|id, response| {
            let is_open = !response.events.is_closed();
            if !is_open {
                scheduler.abort(*id);
            }
            is_open
        });
    }

    /// Computes a step. A batch that lacks memory is split in halves, until each fits or has one sequence, which then
    /// fails.
    fn step(&mut self) {
        if self.scheduler.plan(Instant::now()).is_none() {
            assert!(self.scheduler.is_idle(), "the first sequence always makes progress");
            return;
        }
        let (mut rows, begun) = (0, Instant::now());
        loop {
            let batch = self.scheduler.batch();
            match self.runner.forward(batch, &mut self.output) {
                Ok(()) => {
                    rows += batch.tokens.len();
                    self.scheduler.commit(&self.output);
                }
                Err(error) => {
                    self.metrics.engine_failed(error.as_str());
                    if matches!(error, RunnerError::Full(_)) && self.scheduler.split_batch() {
                        continue;
                    }
                    self.fail(error);
                }
            }
            if self.lost || !self.scheduler.next_split() {
                break;
            }
        }
        if rows == 0 {
            return;
        }
        let stats = self.scheduler.stats();
        self.metrics.engine_step(&EngineStep {
            rows,
            prefill_tokens: stats.prefill_tokens,
            decode_tokens: stats.decode_tokens,
            prefix_hit_tokens: stats.prefix_hit_tokens,
            preempted: stats.preempted,
            took: begun.elapsed(),
        });
    }

    /// Fails the requests of the batch, or all requests if the device is lost.
    fn fail(&mut self, error: RunnerError) {
        self.lost = matches!(error, RunnerError::Lost(_));
        // The alternate form prints the whole chain of causes.
        let error = format!("{:#}", anyhow::Error::from(error));
        tracing::error!(error, lost = self.lost, "a forward pass failed");
        let failure = RequestFailure::Runner(error.into());
        if self.lost {
            self.scheduler.fail_all(&failure);
        } else {
            self.scheduler.fail_batch(&failure);
        }
    }

    fn record_load(&self) {
        let load = self.scheduler.load();
        self.metrics.engine_load(&EngineLoad {
            running: load.running,
            waiting: load.waiting,
            pages: [load.pages.free, load.pages.cached, load.pages.held],
        });
    }

    fn send_events(&mut self) {
        for event in self.scheduler.events() {
            let Some(response) = self.responses.get(&event.id) else { continue };
            send(&response.events, event.event);
            if event.last {
                self.responses.remove(&event.id);
            }
        }
    }
}

/// Sends an event. If the stream was dropped, the next turn aborts the request.
fn send(events: &mpsc::Sender<EngineEvent>, event: EngineEvent) {
    let sent = events.try_send(event);
    let full = matches!(sent, Err(mpsc::error::TrySendError::Full(_)));
    assert!(!full, "the channel has a place for every event of a request");
}
