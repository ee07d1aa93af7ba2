//! From a configuration to a running server: the wiring, and the only file that knows every floor.

mod canary;
mod signals;

pub use canary::Canary;
pub use signals::{HangupSignals, shutdown_signal};

use crate::api::{
    ApiLimits, ApiListener, BindError, Readiness, ReadinessState, RerankHandler, ShutdownTimeout,
    router,
};
use crate::config::{self, Config, Quantize};
use crate::engine;
use crate::rank::{self, CardCacheLimits, LadderOptions, LiveLadder};
use crate::reranker::RerankerOptions;
use crate::scorer::{self, OpenedScorer};
use crate::store::{EmbeddedStore, Store};
use crate::telemetry::Metrics;
use crate::worker;
use anyhow::Context as _;
use canary::{CANARY_TIMEOUT, LATE};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often a canary slate is sent through the ladder.
const CANARY_INTERVAL: Duration = Duration::from_secs(2);
/// How often observations are folded into buckets.
const FOLD_INTERVAL: Duration = Duration::from_secs(5);

/// What a server is made from.
pub struct Services {
    /// What answers.
    pub live: Arc<LiveLadder>,
    /// What shows that it does.
    pub canary: Canary,
    /// Where things are counted: the ladders' own.
    pub metrics: Arc<Metrics>,
    /// Requests to try, in a demo.
    pub samples: Option<serde_json::Value>,
}

/// A server that runs.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    readiness: Arc<Readiness>,
    serving: JoinHandle<Result<(), ShutdownTimeout>>,
}

/// Why a server did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Requests were cut off.
    #[error(transparent)]
    ShutdownTimeout(#[from] ShutdownTimeout),
    /// The task that serves has panicked.
    #[error("the server broke down")]
    Broken(#[from] JoinError),
}

/// Opens the store and the bundle that a configuration names, and builds the ladder.
pub async fn open_services(config: &Config) -> anyhow::Result<(Services, Arc<OpenedScorer>)> {
    let store = match &config.store.path {
        Some(path) => Some(Arc::new(EmbeddedStore::open(path)?) as Arc<dyn Store>),
        None => None,
    };
    let metrics = Arc::new(Metrics::new());
    // The configuration has checked that these are at least one.
    let some = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let of = &config.engine;
    let building = LadderOptions {
        store,
        card_cache: CardCacheLimits {
            bytes: config.rank.profile_cache.0,
            ttl: config.rank.profile_ttl.0,
        },
        scorer: scorer::ScorerLimits {
            threads: some(config.scorer.threads),
            slates: worker::InboxLimits {
                waiting_max: some(config.scorer.slates_waiting_max),
                batch_max: some(config.scorer.slates_max),
            },
            gpu: gpu(&config.scorer),
        },
        engine: RerankerOptions {
            device: of.device.0,
            threads: NonZeroUsize::new(of.threads).unwrap_or(cores),
            kv_cache_bytes: of.cache.0,
            weight_dtype: of.quantize.map(Quantize::precision),
            kv_cache_dtype: of.quantize_cache.map(Quantize::precision),
            max_batched_tokens: some(of.rows_max),
            cuda_graphs: of.graphs,
            scheduler: engine::SchedulerConfig {
                running_max: some(of.running_max),
                waiting_max: some(of.waiting_max),
                prefill_chunk_max: some(of.share_max),
            },
        },
        metrics: metrics.clone(),
    };
    let dir = &config.bundle.path;
    let (ladder, opened) = rank::open(dir, &building)
        .await
        .with_context(|| format!("opening the bundle {}", dir.display()))?;
    let live = Arc::new(LiveLadder::start(ladder, building, config.bundle.swap.manner()));
    let canary = canary::canary(live.clone());
    Ok((Services { live, canary, metrics, samples: None }, opened))
}

/// What of the scorer goes to a GPU, if something does.
fn gpu(config: &config::ScorerConfig) -> Option<scorer::GpuLimits> {
    match config.device.0 {
        engine::ComputeDevice::Cpu => None,
        engine::ComputeDevice::Gpu(ordinal) => Some(scorer::GpuLimits {
            ordinal,
            pairs_min: config.device_from,
            rows_max: config.device_rows_max,
        }),
    }
}

impl App {
    /// Takes the port and serves on it.
    pub async fn start(config: &config::ApiConfig, services: Services) -> Result<Self, BindError> {
        let Services { live, canary, metrics, samples } = services;
        let listener = ApiListener::bind(config.listen).await?;
        let readiness = Arc::new(Readiness::starting().await);
        let limits = ApiLimits {
            requests_max: config.requests_max,
            deadline_default: config.deadline_default.0,
            reply_reserve: config.reply_reserve.0,
        };
        let samples = samples.map(|samples| samples.to_string().into());
        let handler = RerankHandler::new(live, metrics.clone(), readiness.clone(), limits, samples);
        tokio::spawn(watch(canary, readiness.clone()));
        tokio::spawn(fold(metrics, readiness.clone()));
        let (address, grace) = (listener.address(), config.shutdown_grace.0);
        let drained = readiness.clone();
        let stop = async move { drained.drained().await };
        let serving = tokio::spawn(listener.serve(router(Arc::new(handler)), stop, grace));
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
        self.readiness.turn(ReadinessState::Draining).await;
        Ok(self.serving.await??)
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("live", &self.live).finish_non_exhaustive()
    }
}

async fn watch(canary: Canary, readiness: Arc<Readiness>) {
    let mut ticks = interval(CANARY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !readiness.is_draining() {
        ticks.tick().await;
        let outcome = timeout(CANARY_TIMEOUT, canary()).await.unwrap_or(Err(LATE));
        readiness
            .turn(outcome.map_or_else(ReadinessState::Degraded, |()| ReadinessState::Ready))
            .await;
    }
}

async fn fold(metrics: Arc<Metrics>, readiness: Arc<Readiness>) {
    let mut ticks = interval(FOLD_INTERVAL);
    while !readiness.is_draining() {
        ticks.tick().await;
        metrics.fold();
    }
}
