//! Builds a server from a configuration and runs it.

mod canary;
mod signals;

pub use canary::Canary;
pub use signals::{HangupSignals, shutdown_signal};

use crate::api::{
    ApiLimits, ApiListener, BindError, Readiness, ReadinessState, RerankHandler, ShutdownTimeout,
    WallClock, router, wall_clock,
};
use crate::bundle::read_catalog;
use crate::config::{self, Config, Quantize};
use crate::domain::ItemId;
use crate::engine;
use crate::events::{EventRecorder, EventsOptions};
use crate::items::{ItemWriter, NewItems};
use crate::rank::{self, CardCacheLimits, LadderOptions, LiveLadder};
use crate::reranker::RerankerOptions;
use crate::scorer::{self, OpenedScorer};
use crate::store::{BatchStore, EmbeddedStore, Store};
use crate::telemetry::Metrics;
use crate::worker;
use anyhow::Context as _;
use canary::{CANARY_LATE, CANARY_TIMEOUT};
use std::cell::OnceCell;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How often a canary request is sent through the ladder.
const CANARY_INTERVAL: Duration = Duration::from_secs(2);
/// How often the metrics' upkeep runs.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The parts that a server is built from.
pub struct Services {
    /// The ladder that answers requests.
    pub live: Arc<LiveLadder>,
    /// Checks that the ladder answers.
    pub canary: Canary,
    /// The metrics that the ladder records to.
    pub metrics: Arc<Metrics>,
    /// Takes events, if there is a store.
    pub events: Option<EventRecorder>,
    /// Ready-made requests, in `raisonne demo` only.
    pub samples: Option<serde_json::Value>,
    /// What puts items, if there is a store.
    pub items: Option<Arc<ItemWriter>>,
}

/// A server that runs.
#[derive(Debug)]
pub struct App {
    address: SocketAddr,
    readiness: Arc<Readiness>,
    serving: JoinHandle<Result<(), ShutdownTimeout>>,
}

/// Why a server did not shut down cleanly.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// Requests were still in flight when the grace period ended.
    #[error(transparent)]
    ShutdownTimeout(#[from] ShutdownTimeout),
    /// The task that serves has panicked.
    #[error("the server panicked")]
    Panicked(#[from] JoinError),
}

/// Opens the store and the bundle that a configuration names, and builds the ladder.
pub async fn open_services(config: &Config) -> anyhow::Result<(Services, Arc<OpenedScorer>)> {
    let store = match &config.store.path {
        Some(path) => Some(Arc::new(EmbeddedStore::open(path)?)),
        None => None,
    };
    let metrics = Arc::new(Metrics::new());
    let new_items = NewItems::default();
    let events = match &store {
        Some(store) => Some(open_events(store.clone(), &config.events, &metrics)?),
        None => None,
    };
    // `Config::check` has refused zeros.
    let nonzero = |count| NonZeroUsize::new(count).unwrap_or(NonZeroUsize::MIN);
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let engine = &config.engine;
    // Before the bundle, whose counts include the events of these items.
    let items = match &store {
        Some(store) => Some(open_items(store.clone(), &new_items, &config.bundle.path)?),
        None => None,
    };
    let options = LadderOptions {
        store: store.clone().map(|store| store as Arc<dyn Store>),
        new_items,
        events: events.clone(),
        card_cache: CardCacheLimits {
            bytes: config.rank.profile_cache.0,
            ttl: config.rank.profile_ttl.0,
        },
        scorer: scorer::ScorerLimits {
            threads: nonzero(config.scorer.threads),
            slates: worker::InboxLimits {
                waiting_max: nonzero(config.scorer.slates_waiting_max),
                batch_max: nonzero(config.scorer.slates_max),
            },
            gpu: gpu_limits(&config.scorer),
        },
        engine: RerankerOptions {
            device: engine.device.0,
            threads: NonZeroUsize::new(engine.threads).unwrap_or(cores),
            kv_cache_bytes: engine.cache.0,
            weight_dtype: engine.quantize.map(Quantize::dtype),
            kv_cache_dtype: engine.quantize_cache.map(Quantize::dtype),
            max_batched_tokens: nonzero(engine.max_batched_tokens),
            cuda_graphs: engine.graphs,
            scheduler: engine::SchedulerConfig {
                running_max: nonzero(engine.running_max),
                waiting_max: nonzero(engine.waiting_max),
                prefill_chunk_max: nonzero(engine.prefill_chunk_max),
            },
        },
        metrics: metrics.clone(),
    };
    let dir = &config.bundle.path;
    let (ladder, opened) = rank::open(dir, &options)
        .await
        .with_context(|| format!("opening the bundle {}", dir.display()))?;
    let live = Arc::new(LiveLadder::start(ladder, options, config.bundle.swap.manner()));
    let canary = canary::golden_canary(live.clone());
    Ok((Services { live, canary, metrics, samples: None, items, events }, opened))
}

/// Reads the items that were put, and starts the thread that puts more. The catalogue is read only if items are so old that
/// those which the bundle holds are removed.
fn open_items(
    store: Arc<dyn BatchStore>,
    readers: &NewItems,
    bundle: &Path,
) -> anyhow::Result<Arc<ItemWriter>> {
    let catalog = OnceCell::new();
    let is_in_bundle = |item: &ItemId| {
        // Whoever opens the bundle says why it can't be read.
        let catalog = catalog.get_or_init(|| read_catalog(bundle).unwrap_or_default());
        catalog.number(item).is_some()
    };
    Ok(Arc::new(ItemWriter::open(store, readers.clone(), is_in_bundle, wall_clock())?))
}

/// Starts the owner of a store's events.
fn open_events(
    store: Arc<dyn BatchStore>,
    config: &config::EventsConfig,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<EventRecorder> {
    let calls = NonZeroUsize::new(config.calls_waiting_max).unwrap_or(NonZeroUsize::MIN);
    let options = EventsOptions {
        keep_days: config.keep_days as u32,
        calls_waiting_max: calls,
        cache_bytes: config.cache.0,
    };
    EventRecorder::open(store, options, metrics.clone()).context("opening the stored events")
}

/// The GPU for large slates, if the configuration names one.
fn gpu_limits(config: &config::ScorerConfig) -> Option<scorer::GpuLimits> {
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
    /// Binds the port and serves on it.
    pub async fn start(config: &config::ApiConfig, services: Services) -> Result<Self, BindError> {
        Self::start_with_clock(config, services, wall_clock).await
    }

    /// Binds the port and serves on it, with another clock for the moments of requests.
    pub async fn start_with_clock(
        config: &config::ApiConfig,
        services: Services,
        clock: WallClock,
    ) -> Result<Self, BindError> {
        let Services { live, canary, metrics, samples, items, events } = services;
        let listener = ApiListener::bind(config.listen).await?;
        let readiness = Arc::new(Readiness::starting().await);
        let limits = ApiLimits {
            requests_max: config.requests_max,
            deadline_default: config.deadline_default.0,
            reply_reserve: config.reply_reserve.0,
        };
        let samples = samples.map(|samples| samples.to_string().into());
        let handler = RerankHandler::new(live, metrics.clone(), readiness.clone(), limits, samples);
        let handler = handler.with_items(items).with_events(events).with_clock(clock);
        tokio::spawn(watch_canary(canary, readiness.clone()));
        tokio::spawn(run_upkeep(metrics, readiness.clone()));
        let (address, grace) = (listener.address(), config.shutdown_grace.0);
        let stopping = readiness.clone();
        let stop = async move { stopping.draining().await };
        let serving = tokio::spawn(listener.serve(router(Arc::new(handler)), stop, grace));
        tracing::info!(%address, "serving gRPC and HTTP");
        Ok(Self { address, readiness, serving })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's state.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Reports that it is draining, finishes the requests in flight, and ends.
    pub async fn stop(self) -> Result<(), StopError> {
        self.readiness.set(ReadinessState::Draining).await;
        Ok(self.serving.await??)
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Services").field("live", &self.live).finish_non_exhaustive()
    }
}

async fn watch_canary(canary: Canary, readiness: Arc<Readiness>) {
    let mut ticks = interval(CANARY_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !readiness.is_draining() {
        ticks.tick().await;
        let outcome = timeout(CANARY_TIMEOUT, canary()).await.unwrap_or(Err(CANARY_LATE));
        readiness
            .set(outcome.map_or_else(ReadinessState::Degraded, |()| ReadinessState::Ready))
            .await;
    }
}

async fn run_upkeep(metrics: Arc<Metrics>, readiness: Arc<Readiness>) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    while !readiness.is_draining() {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}
