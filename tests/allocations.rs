//! A step on a warm model allocates nothing, whatever its tokens, layers and outputs.
//!
//! Four bits are left out, since candle allocates their tensors in each pass. So are GGUF files, whose embeddings
//! candle decodes row by row.
//!
//! This process has one test, because the allocations of another would be counted as well.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]
#![expect(unsafe_code, reason = "an allocator is unsafe by its nature")]

use raisonne::engine::{
    CpuRunner, ForwardBatch, ForwardOutput, OutputKind, RowOutput, Runner, SequenceSpan,
};
use raisonne::nn::decoder::Checkpoint;
use raisonne::nn::packed::{KvDtype, PAGE_TOKENS, PackedOptions, SimdLevel, WeightDtype};
use std::alloc::{GlobalAlloc, Layout, System};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, with a count of its allocations. `realloc` is counted too: its default calls `alloc`.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call is passed to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` took the memory from the system.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Steps before the count. The buffers of the pool change roles from step to step, so each has its final size only
/// after some rounds.
const WARM_UP: usize = 120;
/// Counted steps.
const STEPS: usize = 60;
/// Times that they are counted. Which thread computes which part differs, so on a busy machine a thread may meet its
/// longest part late. One round without an allocation shows that none is needed.
const ROUNDS: usize = 3;
const THREADS: usize = 2;

const VOCABULARY: u32 = 128;
const CONTEXT: usize = 128;

fn runner(precision: WeightDtype, level: SimdLevel) -> CpuRunner {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder/qwen3");
    let threads = NonZeroUsize::new(THREADS).unwrap();
    let options = PackedOptions {
        weight_dtype: precision,
        kv_dtype: KvDtype::Model,
        threads,
        level,
        kv_pages: 64,
        max_batched_tokens: 128,
    };
    CpuRunner::load(Checkpoint::open(&folder).unwrap(), options, CONTEXT).unwrap()
}

/// Adds a span of sequence number `text`, which has KV pages of its own.
fn push_span(step: &mut ForwardBatch, text: usize, tokens: Range<usize>, branch: bool) {
    let (row, page) = (step.tokens.len(), step.block_tables.len());
    step.tokens.extend(tokens.clone().map(|at| (at * 5 + text) as u32 % VOCABULARY));
    let cached = if branch { tokens.start } else { tokens.end };
    let first = text * CONTEXT / PAGE_TOKENS;
    step.block_tables.extend((0..cached.div_ceil(PAGE_TOKENS)).map(|page| (first + page) as u32));
    let (rows, block_table) = (row..step.tokens.len(), page..step.block_tables.len());
    step.spans.push(SequenceSpan { rows, block_table, past: tokens.start, branch });
}

fn push_output(step: &mut ForwardBatch, kind: OutputKind) {
    step.outputs.push(RowOutput { row: step.tokens.len() - 1, kind });
}

/// Decodes after `past` tokens. One of them allows some tokens only.
fn decode(past: usize) -> ForwardBatch {
    let mut step = ForwardBatch { logit_tokens: vec![3, 70, 9], ..ForwardBatch::default() };
    for text in 0..6 {
        push_span(&mut step, text, past..past + 1, false);
        push_output(
            &mut step,
            if text == 4 { OutputKind::TokenLogits(0..3) } else { OutputKind::FullLogits },
        );
    }
    step
}

/// Chunks of two prompts beside a decode.
fn prefill(past: usize) -> ForwardBatch {
    let mut step = ForwardBatch::default();
    push_span(&mut step, 0, past..past + 1, false);
    push_output(&mut step, OutputKind::FullLogits);
    push_span(&mut step, 1, past..past + 29, false);
    push_span(&mut step, 2, 0..37, false);
    push_output(&mut step, OutputKind::FullLogits);
    step
}

/// Branches on a trunk that is in the KV cache.
fn weigh(past: usize) -> ForwardBatch {
    let mut step = ForwardBatch { logit_tokens: vec![3, 70, 9], ..ForwardBatch::default() };
    for branch in 0..9 {
        push_span(&mut step, 0, past..past + 3 + branch, true);
        push_output(
            &mut step,
            if branch == 4 { OutputKind::HiddenState } else { OutputKind::TokenLogits(0..3) },
        );
    }
    step
}

/// Computes `count` steps in a cycle, and returns the number of allocations.
fn compute(
    runner: &mut CpuRunner,
    output: &mut ForwardOutput,
    steps: &[ForwardBatch],
    count: usize,
) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for step in steps.iter().cycle().take(count) {
        runner.forward(step, output).unwrap();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn a_step_on_a_warm_model_allocates_nothing() {
    // The longest first, so that later steps need no larger buffers.
    let decodes: Vec<_> = (40..80).rev().map(decode).collect();
    let prompts: Vec<_> = (40..80).rev().map(prefill).collect();
    let branches: Vec<_> = (40..80).rev().map(weigh).collect();
    let mixed = [decode(60), prefill(60), weigh(60)];
    let kinds =
        [("decode", &decodes[..]), ("prefill", &prompts), ("weigh", &branches), ("mixed", &mixed)];
    for precision in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8] {
        for level in SimdLevel::all_here() {
            for (kind, steps) in kinds {
                let mut runner = runner(precision, level);
                let mut output = ForwardOutput::default();
                let cold = compute(&mut runner, &mut output, steps, WARM_UP);
                assert!(cold > 0, "a cold model allocates, so the count works");
                let mut rounds =
                    (0..ROUNDS).map(|_| compute(&mut runner, &mut output, steps, STEPS));
                let warm = rounds.find(|&count| count == 0).map_or("some", |_| "no");
                let name = (kind, precision.as_str(), level.as_str());
                println!("{name:?}: {cold} allocations, then {warm} in {STEPS} steps");
                assert_eq!(
                    warm, "no",
                    "allocations in {ROUNDS} times {STEPS} warm steps, {name:?}"
                );
            }
        }
    }
}
