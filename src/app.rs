//! From a configuration to a running server: the wiring, and the only file that knows every floor.

use crate::api::{BindError, CutOff, Desk, Door, Limits, Readiness, State, router};
use crate::bundle::Golden;
use crate::config::{self, Config, Quantize};
use crate::domain::{Candidate, Criticality, Deadline, Effort, Explain, Query};
use crate::engine;
use crate::rank::{self, Building, Ladder, MemoryLimits, Update};
use crate::reranker::RunLimits;
use crate::scorer::{self, Opened};
use crate::store::{Embedded, Store};
use crate::telemetry::Metrics;
use crate::worker;
use anyhow::Context as _;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// How often a canary slate is sent through the ladder.
const CANARY_INTERVAL: Duration = Duration::from_secs(2);
/// How long it may take.
const CANARY_TIMEOUT: Duration = Duration::from_secs(1);
/// How often observations are folded into buckets.
const FOLD_INTERVAL: Duration = Duration::from_secs(5);

/// Sends a slate through every rung that is switched on, and says whether it came back from the
/// top one.
pub type Canary = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// What a server is made from.
pub struct Parts {
    /// What answers.
    pub ladder: Arc<Ladder>,
    /// What shows that it does.
    pub canary: Canary,
    /// Where things are counted: the ladder's own.
    pub metrics: Arc<Metrics>,
    /// Requests to try, in a demo.
    pub samples: Option<serde_json::Value>,
}

/// A server that runs.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    readiness: Arc<Readiness>,
    serving: JoinHandle<Result<(), CutOff>>,
}

/// Why a server did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Requests were cut off.
    #[error(transparent)]
    CutOff(#[from] CutOff),
    /// The task that serves has panicked.
    #[error("the server broke down")]
    Broken(#[from] JoinError),
}

/// Opens the store and the bundle that a configuration names, and builds the ladder.
pub async fn furnish(config: &Config) -> anyhow::Result<(Parts, Arc<Opened>)> {
    let store = match &config.store.path {
        Some(path) => Some(Arc::new(Embedded::open(path)?) as Arc<dyn Store>),
        None => None,
    };
    let metrics = Arc::new(Metrics::new());
    // The configuration has checked that these are at least one.
    let some = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let of = &config.engine;
    let building = Building {
        store,
        memory: MemoryLimits { bytes: config.rank.profile_cache.0, ttl: config.rank.profile_ttl.0 },
        scorer: scorer::Limits {
            threads: some(config.scorer.threads),
            slates: worker::Limits {
                waiting_max: some(config.scorer.slates_waiting_max),
                batch_max: some(config.scorer.slates_max),
            },
        },
        engine: RunLimits {
            threads: NonZeroUsize::new(of.threads).unwrap_or(cores),
            cache: of.cache.0,
            precision: of.quantize.map(Quantize::precision),
            rows_max: some(of.rows_max),
            sequences: engine::Limits {
                running_max: some(of.running_max),
                waiting_max: some(of.waiting_max),
                share_max: some(of.share_max),
            },
        },
        metrics: metrics.clone(),
    };
    let dir = &config.bundle.path;
    let (ladder, opened) = rank::open(dir, &building)
        .await
        .with_context(|| format!("opening the bundle {}", dir.display()))?;
    let canary = canary(ladder.clone(), opened.golden().first().cloned());
    Ok((Parts { ladder, canary, metrics, samples: None }, opened))
}

/// Sends the first golden request through the whole ladder.
fn canary(ladder: Arc<Ladder>, golden: Option<Golden>) -> Canary {
    Arc::new(move || {
        let (ladder, golden) = (ladder.clone(), golden.clone());
        async move {
            let Some(golden) = golden else { return false };
            let top = ladder.top();
            let climb = ladder.climb(golden_query(golden));
            let last = climb.fold(None, |_, update| async { Some(update) }).await;
            matches!(last, Some(Update::Answer(answer)) if answer.ranking.quality == top)
        }
        .boxed()
    })
}

fn golden_query(golden: Golden) -> Query {
    let candidate = |item: String| Candidate { item: item.into(), prior_score: None, inline: None };
    Query {
        request_id: "canary".into(),
        user: golden.user.into(),
        history: None,
        request: None,
        top_n: golden.items.len(),
        candidates: golden.items.into_iter().map(candidate).collect(),
        effort: Effort::Auto,
        explain: Explain::None,
        reasons_per_item: 0,
        criticality: Criticality::Critical,
        bundle: None,
        now: golden.now,
        deadline: Deadline::after(Instant::now(), CANARY_TIMEOUT),
    }
}

impl App {
    /// Takes the port and serves on it.
    pub async fn start(config: &config::Api, parts: Parts) -> Result<Self, BindError> {
        let Parts { ladder, canary, metrics, samples } = parts;
        let door = Door::bind(config.listen).await?;
        let readiness = Arc::new(Readiness::starting().await);
        let limits = Limits {
            requests_max: config.requests_max,
            deadline_default: config.deadline_default.0,
            reply_reserve: config.reply_reserve.0,
        };
        metrics.bundle("stable", ladder.version().as_str(), None);
        let samples = samples.map(|samples| samples.to_string().into());
        let desk = Desk::new(ladder, metrics.clone(), readiness.clone(), limits, samples);
        tokio::spawn(watch(canary, readiness.clone()));
        tokio::spawn(fold(metrics, readiness.clone()));
        let (address, grace) = (door.address(), config.shutdown_grace.0);
        let drained = readiness.clone();
        let stop = async move { drained.drained().await };
        let serving = tokio::spawn(door.serve(router(Arc::new(desk)), stop, grace));
        tracing::info!(%address, "serving gRPC and HTTP");
        Ok(Self { address, readiness, serving })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it is ready.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Says that it is leaving, finishes what is in flight, and ends.
    pub async fn stop(self) -> Result<(), StopError> {
        self.readiness.turn(State::Draining).await;
        Ok(self.serving.await??)
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("ladder", &self.ladder).finish_non_exhaustive()
    }
}

/// Completes when the operator wants the process to end: Ctrl-C, or SIGTERM.
pub async fn told_to_stop() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = signal::unix::signal(signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    signal::ctrl_c().await
}

async fn watch(canary: Canary, readiness: Arc<Readiness>) {
    let mut ticks = interval(CANARY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !readiness.is_draining() {
        ticks.tick().await;
        let alive = timeout(CANARY_TIMEOUT, canary()).await.unwrap_or(false);
        readiness.turn(if alive { State::Ready } else { State::Degraded }).await;
    }
}

async fn fold(metrics: Arc<Metrics>, readiness: Arc<Readiness>) {
    let mut ticks = interval(FOLD_INTERVAL);
    while !readiness.is_draining() {
        ticks.tick().await;
        metrics.fold();
    }
}
