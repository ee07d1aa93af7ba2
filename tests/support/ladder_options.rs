//! Options for ladders in tests: small limits, on the CPU.

use raisonne::engine;
use raisonne::items::NewItems;
use raisonne::rank::{CardCacheLimits, LadderOptions};
use raisonne::reranker::RerankerOptions;
use raisonne::scorer;
use raisonne::telemetry::Metrics;
use raisonne::worker;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

pub fn ladder_options(metrics: Arc<Metrics>) -> LadderOptions {
    let nonzero = |count| NonZeroUsize::new(count).unwrap();
    LadderOptions {
        store: None,
        new_items: NewItems::default(),
        events: None,
        card_cache: CardCacheLimits { bytes: 1 << 20, ttl: Duration::from_mins(1) },
        scorer: scorer::ScorerLimits {
            threads: nonzero(1),
            slates: worker::InboxLimits { waiting_max: nonzero(64), batch_max: nonzero(8) },
            gpu: None,
        },
        engine: RerankerOptions {
            device: engine::ComputeDevice::Cpu,
            threads: nonzero(2),
            kv_cache_bytes: 8 << 20,
            weight_dtype: None,
            kv_cache_dtype: None,
            max_batched_tokens: nonzero(256),
            cuda_graphs: false,
            scheduler: engine::SchedulerConfig {
                running_max: nonzero(8),
                waiting_max: nonzero(8),
                prefill_chunk_max: nonzero(256),
            },
        },
        metrics,
    }
}
