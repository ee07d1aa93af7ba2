//! A step on a warm model allocates nothing of its own, however many tokens, layers and reads it
//! has. What rayon takes to hand work to threads is left, and counted: a block for many steps, and
//! some for each thread once.
//!
//! Four bits are left out, since candle makes its tensors anew; so are GGUF files, whose embeddings
//! candle takes out of their blocks row by row.
//!
//! A process of its own with one test, because whatever else runs in it would be counted as well.

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

/// The system's allocator, which counts. What grows is counted as well, because it is allocated
/// anew where an allocator says nothing else.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller promises of the layout what the system's allocator asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above, and all memory is the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

/// Steps before anything is counted: pools and tables grow as far as they will.
const WARM_UP: usize = 12;
/// Steps that are counted.
const STEPS: usize = 60;
/// Times that a step hands work to the model's threads: the layers, and two kinds of logits.
const HANDED_OVER: usize = 3;
/// Work that is handed over goes through rayon's queue, which takes a block of memory for as many.
const QUEUE_BLOCK: usize = 63;
/// What rayon sets up once, when a thread first takes work from another, and not before.
const ONCE: usize = 8;
/// What rayon may allocate in the counted steps: far less than once a step.
const ALLOWED: usize = (STEPS * HANDED_OVER).div_ceil(QUEUE_BLOCK) + ONCE;

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

/// Adds some rows of text number `text`, whose pages are its own.
fn add(step: &mut ForwardBatch, text: usize, tokens: Range<usize>, branch: bool) {
    let (row, page) = (step.tokens.len(), step.block_tables.len());
    step.tokens.extend(tokens.clone().map(|at| (at * 5 + text) as u32 % VOCABULARY));
    let seen = if branch { tokens.start } else { tokens.end };
    let first = text * CONTEXT / PAGE_TOKENS;
    step.block_tables.extend((0..seen.div_ceil(PAGE_TOKENS)).map(|page| (first + page) as u32));
    let (rows, pages) = (row..step.tokens.len(), page..step.block_tables.len());
    step.spans.push(SequenceSpan { rows, pages, past: tokens.start, branch });
}

fn read(step: &mut ForwardBatch, what: OutputKind) {
    step.outputs.push(RowOutput { row: step.tokens.len() - 1, kind: what });
}

/// Texts that go on after so many tokens, one of them where only some tokens may follow.
fn decode(past: usize) -> ForwardBatch {
    let mut step = ForwardBatch { logit_tokens: vec![3, 70, 9], ..ForwardBatch::default() };
    for text in 0..6 {
        add(&mut step, text, past..past + 1, false);
        read(
            &mut step,
            if text == 4 { OutputKind::TokenLogits(0..3) } else { OutputKind::FullLogits },
        );
    }
    step
}

/// Two prompts, of which parts are read, beside a text that goes on.
fn prefill(past: usize) -> ForwardBatch {
    let mut step = ForwardBatch::default();
    add(&mut step, 0, past..past + 1, false);
    read(&mut step, OutputKind::FullLogits);
    add(&mut step, 1, past..past + 29, false);
    add(&mut step, 2, 0..37, false);
    read(&mut step, OutputKind::FullLogits);
    step
}

/// Branches on a trunk of which nothing is left to read.
fn weigh(past: usize) -> ForwardBatch {
    let mut step = ForwardBatch { logit_tokens: vec![3, 70, 9], ..ForwardBatch::default() };
    for branch in 0..9 {
        add(&mut step, 0, past..past + 3 + branch, true);
        read(
            &mut step,
            if branch == 4 { OutputKind::HiddenState } else { OutputKind::TokenLogits(0..3) },
        );
    }
    step
}

/// Computes the steps over and over, and says how many allocations there were.
fn compute(
    runner: &mut CpuRunner,
    answers: &mut ForwardOutput,
    steps: &[ForwardBatch],
    count: usize,
) -> usize {
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    for step in steps.iter().cycle().take(count) {
        runner.forward(step, answers).unwrap();
    }
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn a_step_on_a_warm_model_allocates_nothing_of_its_own() {
    // The last tokens first: what comes afterwards is no longer.
    let texts: Vec<_> = (40..80).rev().map(decode).collect();
    let prompts: Vec<_> = (40..80).rev().map(prefill).collect();
    let branches: Vec<_> = (40..80).rev().map(weigh).collect();
    let mixed = [decode(60), prefill(60), weigh(60)];
    let kinds =
        [("decode", &texts[..]), ("prefill", &prompts), ("weigh", &branches), ("mixed", &mixed)];
    for precision in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8] {
        for level in SimdLevel::all_here() {
            for (kind, steps) in kinds {
                let mut runner = runner(precision, level);
                let mut answers = ForwardOutput::default();
                let cold = compute(&mut runner, &mut answers, steps, WARM_UP);
                assert!(cold > ALLOWED, "a cold model allocates, and only {cold} count");
                let warm = compute(&mut runner, &mut answers, steps, STEPS);
                let name = (kind, precision.as_str(), level.as_str());
                println!("{name:?}: {cold} allocations, then {warm} in {STEPS} steps");
                assert!(warm <= ALLOWED, "{warm} allocations in {STEPS} steps, {name:?}");
            }
        }
    }
}
