//! Requests to the engine leak no memory.
//!
//! This test is a process of its own, because other tests in the process would allocate too.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use raisonne::bench::memory_bytes;
use raisonne::engine::{
    BranchOutput, Constraint, CpuRunner, Engine, EngineEvent, EngineRequest, GenerateRequest,
    Priority, RequestKind, ResponseStream, SamplingParams, SchedulerConfig, WeighRequest,
};
use raisonne::nn::decoder::Checkpoint;
use raisonne::nn::packed::{KvDtype, PackedOptions, SimdLevel, WeightDtype};
use raisonne::telemetry::Metrics;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

const REQUESTS: usize = 10_000;
/// Requests before the first measurement, so that pools and tables have reached their size.
const WARM_UP: usize = 2_000;
/// Open requests: more than may run.
const OPEN: usize = 24;
const VOCABULARY: u32 = 64;
const CONTEXT: usize = 128;
/// Bytes by which memory may grow after the warm-up: 100 bytes per request.
const GROWTH_MAX: u64 = 800_000;

fn engine() -> Engine {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder/qwen3");
    let nonzero = |n| NonZeroUsize::new(n).unwrap();
    let options = PackedOptions {
        weight_dtype: WeightDtype::Int8,
        kv_dtype: KvDtype::Model,
        threads: nonzero(2),
        level: SimdLevel::best(),
        // So few that sequences are preempted and cached pages are evicted.
        kv_pages: 40,
        max_batched_tokens: 64,
    };
    let build = move || {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        Ok(CpuRunner::load(checkpoint, options, CONTEXT)?)
    };
    let limits = SchedulerConfig {
        running_max: nonzero(8),
        waiting_max: nonzero(4 * OPEN),
        prefill_chunk_max: nonzero(32),
    };
    Engine::start(build, limits, &Arc::new(Metrics::new())).unwrap()
}

fn tokens(rng: &mut ChaCha8Rng, most: usize) -> Vec<u32> {
    (0..rng.random_range(1..=most)).map(|_| rng.random_range(0..VOCABULARY)).collect()
}

fn random_request(rng: &mut ChaCha8Rng) -> RequestKind {
    if rng.random_bool(0.3) {
        let branches = (0..rng.random_range(1..20)).map(|_| tokens(rng, 6)).collect();
        return RequestKind::Weigh(WeighRequest {
            trunk: tokens(rng, 90),
            branches,
            output: BranchOutput::TokenLogits(vec![1, 2]),
        });
    }
    let constraint = if rng.random_bool(0.3) {
        Constraint::permutation(&[vec![1], vec![2, 3], vec![4, 5]], &[9]).unwrap()
    } else {
        Constraint::Free
    };
    RequestKind::Generate(GenerateRequest {
        prompt: tokens(rng, 90),
        samples: NonZeroUsize::new(rng.random_range(1..=3)).unwrap(),
        tokens_max: rng.random_range(8..24),
        sampling: SamplingParams::untruncated(rng.random()),
        constraint,
        stop_tokens: vec![7],
    })
}

fn drain(mut response: ResponseStream) {
    while let Some(event) = response.blocking_next() {
        assert!(!matches!(event, EngineEvent::Failed(_)), "{event:?}");
    }
}

#[test]
fn ten_thousand_requests_leave_no_memory_behind() {
    let engine = engine();
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let (mut open, mut before) = (VecDeque::new(), 0);
    for request in 0..REQUESTS {
        if request == WARM_UP {
            open.drain(..).for_each(drain);
            before = memory_bytes().unwrap();
        }
        let kind = random_request(&mut rng);
        let response = engine.submit(EngineRequest { kind, priority: Priority::BACKGROUND });
        let response = response.unwrap();
        // Some clients leave at once.
        if rng.random_bool(0.8) {
            open.push_back(response);
        }
        if open.len() > OPEN {
            open.pop_front().into_iter().for_each(drain);
        }
    }
    open.drain(..).for_each(drain);
    let after = memory_bytes().unwrap();
    let grown = after.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{before} bytes became {after}");
}
