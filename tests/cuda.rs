//! A decoder on a GPU agrees with the CPU's. `scripts/cuda-check` runs these tests over an emulated device. It checks every
//! address, stride and launch, but no speed. It also fails on demand, so that running out of memory and losing the device
//! can be tested.

#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

#[path = "support/bundle.rs"]
#[expect(dead_code, reason = "a bundle is copied here, and never damaged")]
mod bundle;

use raisonne::api::ReadinessState;
use raisonne::api::pb::rerank_service_client::RerankServiceClient;
use raisonne::api::pb::{Quality, RerankRequest, Why};
use raisonne::app::{App, open_services};
use raisonne::bundle::{Manifest, Part};
use raisonne::config::{self, ByteSize, Config, DeviceSetting};
use raisonne::engine::sampler::Sampler;
use raisonne::engine::{
    Allowed, BranchOutput, ComputeDevice, Constraint, CpuRunner, CudaRunner, Engine, EngineError,
    EngineEvent, EngineRequest, ForwardBatch, ForwardOutput, GenerateRequest, OutputKind, Priority,
    RequestFailure, RequestKind, ResponseStream, RowOutput, Runner, RunnerError, SampleSpec,
    SamplingParams, SchedulerConfig, SequenceSpan, WeighRequest,
};
use raisonne::nn::cuda::{CudaOptions, CudaWeightDtype};
use raisonne::nn::decoder::Checkpoint;
use raisonne::nn::packed::{KvDtype, PAGE_TOKENS, PackedOptions, SimdLevel, WeightDtype};
use raisonne::telemetry::Metrics;
use std::collections::HashMap;
use std::error::Error as _;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The models beside `fixtures/decoder/make.py`. `tests/runner.rs` compares the CPU's logits with those of transformers.
const MODELS: [&str; 6] =
    ["qwen3", "qwen3-window", "qwen2-yarn", "qwen2-tied", "llama3", "llama-biased"];
/// Layers of each model.
const LAYERS: u64 = 2;
const CONTEXT: usize = 256;
const PAGES: usize = 64;
const ROWS_MAX: usize = 64;
/// The GPU's error in bf16 may be so many times the CPU's error in bf16.
const SLACK: f32 = 1.5;
/// The variable that names the file in which an emulated device counts calls.
const CALLS: &str = "EMULATED_CALLS";
/// The variable that names the file of calls that it should fail.
const FAULTS: &str = "EMULATED_FAULTS";
/// A timeout that is long enough for a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Errors of the driver: out of memory, and a failed launch, which loses the device.
const NO_MEMORY: u32 = 2;
const LAUNCH_FAILED: u32 = 719;

/// One test at a time: an emulated device has one thread, and its counts are global.
static DEVICE: Mutex<()> = Mutex::new(());

fn device() -> MutexGuard<'static, ()> {
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fixture(name: &str) -> PathBuf {
    // Relative to the working directory: the tests may be built on another machine.
    Path::new("tests/fixtures/decoder").join(name)
}

fn options(decodes_max: usize) -> CudaOptions {
    CudaOptions {
        ordinal: 0,
        kv_pages: PAGES,
        max_batched_tokens: ROWS_MAX,
        context_tokens_max: CONTEXT,
        decodes_max,
        weight_dtype: CudaWeightDtype::Bf16,
        kv_dtype: KvDtype::Model,
    }
}

/// The model, with graphs for up to so many decoding sequences.
fn with_graphs(name: &str, decodes_max: usize) -> CudaRunner {
    CudaRunner::load(&Checkpoint::open(&fixture(name)).unwrap(), options(decodes_max)).unwrap()
}

fn on_gpu(name: &str) -> CudaRunner {
    with_graphs(name, 0)
}

/// The model with a longer context than its configuration allows.
fn of_long_texts(name: &str, context_tokens_max: usize, options: CudaOptions) -> CudaRunner {
    let home = tempfile::tempdir().unwrap();
    let files = fs::read_dir(fixture(name)).unwrap().map(|file| file.unwrap().path());
    for file in files.filter(|path| path.is_file()) {
        fs::copy(&file, home.path().join(file.file_name().unwrap())).unwrap();
    }
    let path = home.path().join("config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["max_position_embeddings"] = context_tokens_max.into();
    fs::write(&path, config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(home.path()).unwrap();
    CudaRunner::load(&checkpoint, CudaOptions { context_tokens_max, ..options }).unwrap()
}

fn on_cpu(name: &str, precision: WeightDtype) -> CpuRunner {
    let threads = NonZeroUsize::MIN;
    let (kept, level) = (KvDtype::Model, SimdLevel::best());
    let options = PackedOptions {
        weight_dtype: precision,
        kv_dtype: kept,
        threads,
        level,
        kv_pages: PAGES,
        max_batched_tokens: ROWS_MAX,
    };
    CpuRunner::load(Checkpoint::open(&fixture(name)).unwrap(), options, CONTEXT).unwrap()
}

/// Tokens that repeat late.
fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|at| (at * at * 7 + at * 13 + seed * 31) % 128).collect()
}

/// A forward batch of some sequences, each with so many past tokens, in pages of its own.
#[derive(Default)]
struct Steps {
    step: ForwardBatch,
}

impl Steps {
    fn span(mut self, tokens: &[u32], past: usize, first_page: u32, branch: bool) -> Self {
        let step = &mut self.step;
        let held = if branch { past } else { past + tokens.len() };
        let (row, page) = (step.tokens.len(), step.block_tables.len());
        step.tokens.extend(tokens);
        step.block_tables.extend((first_page..).take(held.div_ceil(PAGE_TOKENS)));
        let (rows, block_table) = (row..step.tokens.len(), page..step.block_tables.len());
        step.spans.push(SequenceSpan { rows, block_table, past, branch });
        self
    }

    /// Requests an output of the last row so far.
    fn read(mut self, what: OutputKind) -> Self {
        let row = self.step.tokens.len() - 1;
        self.step.outputs.push(RowOutput { row, kind: what });
        self
    }

    /// Requests full logits of every so many rows of the last span.
    fn read_every(mut self, rows: usize) -> Self {
        let span = self.step.spans.last().unwrap();
        let read = |row| RowOutput { row, kind: OutputKind::FullLogits };
        self.step.outputs.extend(span.rows.clone().skip(rows - 1).step_by(rows).map(read));
        self
    }

    fn run(&self, runner: &mut dyn Runner) -> Vec<Vec<f32>> {
        let mut answers = ForwardOutput::default();
        runner.forward(&self.step, &mut answers).unwrap();
        (0..answers.len()).map(|index| answers.get(index).to_vec()).collect()
    }
}

/// The error of numbers, relative to the expected ones.
fn error(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let pairs = || found.iter().flatten().zip(expected.iter().flatten());
    assert_eq!(found.iter().flatten().count(), expected.iter().flatten().count());
    let squares = |of: fn((&f32, &f32)) -> f32| pairs().map(of).map(|x| x * x).sum::<f32>();
    (squares(|(a, b)| a - b) / squares(|(_, b)| *b)).sqrt()
}

#[test]
fn every_model_has_the_logits_of_the_cpu() {
    let _device = device();
    for model in MODELS {
        // Three sequences at once, one longer than a page and one longer than a window, read at several rows.
        let step = || {
            let texts = [(0, 37), (1, 5), (2, 17)];
            texts.into_iter().fold(Steps::default(), |steps, (text, length)| {
                let steps = steps.span(&tokens(length, text), 0, text * 8, false);
                steps.read_every(4).read(OutputKind::HiddenState)
            })
        };
        let exact = step().run(&mut on_cpu(model, WeightDtype::F32));
        let halves = step().run(&mut on_cpu(model, WeightDtype::Bf16));
        let found = step().run(&mut on_gpu(model));
        let (found, halves) = (error(&found, &exact), error(&halves, &exact));
        assert!(
            found <= SLACK * halves && found > 0.0,
            "{model}: {found} off, the CPU's bf16 {halves}"
        );
    }
}

#[test]
fn weights_of_eight_bits_have_almost_the_same_logits() {
    let _device = device();
    // The largest relative errors: E4M3 has three bits of mantissa, and an H200's error was .124.
    for (format, far) in [(CudaWeightDtype::Float8, 0.2), (CudaWeightDtype::Int8, 0.06)] {
        for model in MODELS {
            check_almost_the_same(model, format, far);
        }
    }
}

fn check_almost_the_same(model: &str, format: CudaWeightDtype, far: f32) {
    let step = || {
        let steps = Steps::default().span(&tokens(37, 0), 0, 0, false).read_every(4);
        // With few rows as well.
        steps.span(&tokens(5, 1), 0, 8, false).read(OutputKind::HiddenState)
    };
    let exact = step().run(&mut on_cpu(model, WeightDtype::F32));
    let halves = step().run(&mut on_gpu(model));
    let checkpoint = Checkpoint::open(&fixture(model)).unwrap();
    let short = CudaOptions { weight_dtype: format, ..options(2) };
    let mut runner = CudaRunner::load(&checkpoint, short).unwrap();
    let found = step().run(&mut runner);
    let (found, halves) = (error(&found, &exact), error(&halves, &exact));
    assert!(found < far && found > halves, "{model}, {format:?}: {found} off, and bf16 {halves}");
    // In any batch, and token by token, which replays a graph.
    let text = tokens(20, 2);
    let whole = Steps::default().span(&text, 0, 0, false).read(OutputKind::FullLogits);
    let whole = whole.run(&mut runner);
    let company = Steps::default().span(&tokens(9, 4), 0, 16, false);
    company.span(&text[..19], 0, 8, false).run(&mut runner);
    let last = Steps::default().span(&text[19..], 19, 8, false).read(OutputKind::FullLogits);
    assert_eq!(whole, last.run(&mut runner), "{model}, {format:?}");
}

#[test]
fn keys_and_values_of_eight_bits_have_almost_the_same_logits() {
    /// The largest relative error: E4M3 has three bits of mantissa.
    const FAR: f32 = 0.1;
    let _device = device();
    for model in MODELS {
        let short = |decodes_max| {
            let options = CudaOptions { kv_dtype: KvDtype::Float8, ..options(decodes_max) };
            CudaRunner::load(&Checkpoint::open(&fixture(model)).unwrap(), options).unwrap()
        };
        let step = || {
            let steps = Steps::default().span(&tokens(37, 0), 0, 0, false).read_every(4);
            steps.span(&tokens(5, 1), 0, 8, false).read(OutputKind::HiddenState)
        };
        let exact = step().run(&mut on_cpu(model, WeightDtype::F32));
        let halves = step().run(&mut on_gpu(model));
        let (mut graphs, mut eager) = (short(2), short(0));
        let found = step().run(&mut eager);
        assert_eq!(found, step().run(&mut graphs), "{model}");
        let (found, halves) = (error(&found, &exact), error(&halves, &exact));
        assert!(found < FAR && found > halves, "{model}: {found} off, and bf16 {halves}");
        // In two chunks beside another sequence, token by token, and as a branch.
        let text = tokens(40, 2);
        let whole = Steps::default().span(&text, 0, 0, false).read(OutputKind::FullLogits);
        let whole = whole.run(&mut eager);
        for runner in [&mut graphs, &mut eager] {
            Steps::default().span(&text[..23], 0, 8, false).run(runner);
            let second = Steps::default().span(&tokens(9, 4), 0, 16, false);
            let second = second.span(&text[23..], 23, 8, false).read(OutputKind::FullLogits);
            assert_eq!(whole, second.run(runner), "{model}");
            Steps::default().span(&text[..39], 0, 24, false).run(runner);
            let last =
                Steps::default().span(&text[39..], 39, 24, false).read(OutputKind::FullLogits);
            assert_eq!(whole, last.run(runner), "{model}");
            let branches = Steps::default().span(&tokens(3, 5), 30, 24, true);
            let branches = branches.span(&text[30..], 30, 24, true).read(OutputKind::FullLogits);
            assert_eq!(whole, branches.run(runner), "{model}");
        }
    }
}

#[test]
fn a_token_is_drawn_as_the_sampler_draws_it() {
    let _device = device();
    let mut runner = with_graphs("qwen3", 11);
    assert!(runner.limits().samples_on_device);
    let mut sampler = Sampler::default();
    for texts in [1, 3, 11] {
        let row = |steps: Steps, text: u32| steps.span(&tokens(5, text), 0, text * 4, false);
        let whole =
            (0..texts).fold(Steps::default(), |s, text| row(s, text).read(OutputKind::FullLogits));
        let whole = whole.run(&mut runner);
        for temperature in [0.0, 0.7, 1.5] {
            // Some rows request full logits as well.
            let mut steps = (0..texts).fold(Steps::default(), |steps, text| {
                let steps = row(steps, text).read(OutputKind::Sampled(text as usize));
                if text % 2 == 0 { steps } else { steps.read(OutputKind::FullLogits) }
            });
            let chance = |text: u32| f64::from(text * 2 + 1) / f64::from(texts * 2);
            steps.step.banned_tokens = vec![3, 40, 41, 42];
            let draw = |text| SampleSpec { temperature, chance: chance(text), banned: 1..4 };
            steps.step.sample_specs = (0..texts).map(draw).collect();
            let mut answers = ForwardOutput::default();
            runner.forward(&steps.step, &mut answers).unwrap();
            for text in 0..texts {
                let sampling = SamplingParams { temperature, ..SamplingParams::untruncated(0) };
                let logits = &whole[text as usize];
                let allowed = Allowed::AllBut(&[40, 41, 42]);
                let right = sampler.sample_with(logits, allowed, &sampling, chance(text)).unwrap();
                let found = answers.sampled[text as usize].unwrap();
                assert_eq!(found.token, right.token, "{texts} texts, {temperature}");
                assert!((found.logprob - right.logprob).abs() < 1e-5);
            }
            let read = steps
                .step
                .outputs
                .iter()
                .zip(0..)
                .filter(|(read, _)| read.kind == OutputKind::FullLogits);
            for ((_, index), text) in read.zip((1..).step_by(2)) {
                assert_eq!(answers.get(index), whole[text]);
            }
        }
    }
}

#[test]
fn chunks_other_sequences_and_branches_change_nothing() {
    let _device = device();
    let text = tokens(40, 3);
    let mut runner = on_gpu("qwen3");
    let whole =
        Steps::default().span(&text, 0, 0, false).read(OutputKind::FullLogits).run(&mut runner);
    // In two chunks, the second beside another sequence's first.
    Steps::default().span(&text[..23], 0, 8, false).run(&mut runner);
    let second = Steps::default()
        .span(&tokens(9, 4), 0, 16, false)
        .span(&text[23..], 23, 8, false)
        .read(OutputKind::FullLogits)
        .run(&mut runner);
    assert_eq!(whole, second);
    // Token by token.
    Steps::default().span(&text[..39], 0, 24, false).run(&mut runner);
    let last = Steps::default().span(&text[39..], 39, 24, false).read(OutputKind::FullLogits);
    assert_eq!(whole, last.run(&mut runner));
    // As a branch of its beginning, beside another branch; nothing is left in the pages.
    let branches = || {
        Steps::default()
            .span(&tokens(3, 5), 30, 24, true)
            .read(OutputKind::HiddenState)
            .span(&text[30..], 30, 24, true)
            .read(OutputKind::FullLogits)
    };
    let branched = branches().run(&mut runner);
    assert_eq!(whole[0], branched[1]);
    assert_eq!(branched, branches().run(&mut runner));
}

#[test]
fn branches_of_a_long_trunk_have_the_bits_of_each_alone() {
    // Three parts of pages, two of which all branches share.
    const TRUNK: usize = 20 * PAGE_TOKENS - 3;
    let _device = device();
    for (model, kept) in MODELS
        .into_iter()
        .flat_map(|model| [KvDtype::Model, KvDtype::Float8].map(|kept| (model, kept)))
    {
        let mut runner =
            of_long_texts(model, 2 * TRUNK, CudaOptions { kv_dtype: kept, ..options(0) });
        let text = tokens(TRUNK + 5, 12);
        for (at, chunk) in text[..TRUNK].chunks(ROWS_MAX).enumerate() {
            Steps::default().span(chunk, at * ROWS_MAX, 0, false).run(&mut runner);
        }
        let branch = |steps: Steps, seed: usize| {
            let tokens = tokens(1 + seed % 5, seed as u32);
            steps.span(&tokens, TRUNK, 0, true).read(OutputKind::HiddenState)
        };
        let alone = (0..14).flat_map(|seed| branch(Steps::default(), seed).run(&mut runner));
        let alone: Vec<_> = alone.collect();
        // Beside another sequence, and then beside the trunk itself, which decodes.
        let other = |steps: Steps| steps.span(&tokens(7, 40), 0, 40, false);
        let on = |steps: Steps| {
            steps.span(&text[TRUNK..], TRUNK, 0, false).read(OutputKind::HiddenState)
        };
        let gone_on = on(Steps::default()).run(&mut runner);
        let together = on((0..14).fold(other(Steps::default()), branch)).run(&mut runner);
        assert_eq!(together[..14], alone, "{model}, {kept:?}");
        assert_eq!(together[14..], gone_on, "{model}, {kept:?}");
    }
}

#[test]
fn some_logits_are_those_of_all() {
    let _device = device();
    for model in ["qwen3", "qwen2-tied"] {
        let mut runner = on_gpu(model);
        let text = tokens(11, 6);
        let of = |what: OutputKind| Steps::default().span(&text, 0, 0, false).read(what);
        let all = of(OutputKind::FullLogits).run(&mut runner);
        let mut some = of(OutputKind::TokenLogits(0..3));
        some.step.logit_tokens = vec![5, 127, 0];
        let some = some.run(&mut runner);
        for (found, token) in some[0].iter().zip([5, 127, 0]) {
            assert!((found - all[0][token]).abs() < 1e-4 * all[0][token].abs().max(1.0), "{model}");
        }
    }
}

/// The calls that an emulated device has counted.
fn calls() -> Option<HashMap<String, u64>> {
    let text = fs::read_to_string(std::env::var_os(CALLS)?).unwrap();
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    Some(lines.map(|(name, count)| (name.to_owned(), count.parse().unwrap())).collect())
}

/// The calls between two counts, by name.
fn between<'a>(
    before: &'a HashMap<String, u64>,
    after: &'a HashMap<String, u64>,
) -> impl Fn(&str) -> u64 + 'a {
    let of = |calls: &HashMap<String, u64>, name: &str| calls.get(name).copied().unwrap_or(0);
    move |name| of(after, name) - of(before, name)
}

#[test]
fn a_step_takes_one_upload_no_memory_and_nine_launches_a_layer() {
    let _device = device();
    let mut runner = on_gpu("qwen3");
    let text = tokens(20, 7);
    let step = |at: usize| {
        Steps::default().span(&text[at..=at], at, 0, false).read(OutputKind::FullLogits)
    };
    Steps::default().span(&text[..17], 0, 0, false).run(&mut runner);
    let Some(before) = calls() else { return };
    step(17).run(&mut runner);
    let after = calls().unwrap();
    let count = between(&before, &after);
    // And the embedding, the last norm, and the unembedding.
    assert_eq!(count("launch"), 9 * LAYERS + 3, "{after:?}");
    assert_eq!((count("multiply_few"), count("gate_few")), (3 * LAYERS + 1, LAYERS));
    assert_eq!((count("cuMemAlloc"), count("cuMemset"), count("cuMemFree")), (0, 0, 0));
    assert_eq!((count("cuMemcpyHtoD"), count("cuMemcpyDtoH")), (1, 1));
}

/// The next token of each of some sequences, which are four pages apart. Some request full logits, others a few logits, and
/// some the hidden state.
fn next(texts: &[Vec<u32>], lengths: &[usize], past: usize) -> Steps {
    let each = texts.iter().zip(lengths).enumerate();
    let mut steps = each.fold(Steps::default(), |steps, (index, (text, length))| {
        let at = length + past;
        let what = [OutputKind::FullLogits, OutputKind::TokenLogits(0..3), OutputKind::HiddenState]
            [index % 3]
            .clone();
        steps.span(&text[at..=at], at, index as u32 * 4, false).read(what)
    });
    steps.step.logit_tokens = vec![5, 127, 0];
    steps
}

#[test]
fn graphs_have_the_bits_of_launches() {
    const MOST: usize = 11;
    const STEPS: usize = 5;
    let _device = device();
    for model in ["qwen3", "qwen3-window", "llama-biased"] {
        let (mut graphs, mut eager) = (with_graphs(model, MOST), on_gpu(model));
        // In exact buckets, and padded to 16. Each sequence reaches the end of a page in another pass.
        for texts in [1, 2, 7, 9, MOST] {
            let lengths: Vec<_> = (0..texts).map(|text| 12 + text).collect();
            let texts: Vec<_> = (0..texts as u32).map(|text| tokens(40, text)).collect();
            for (index, (text, &length)) in texts.iter().zip(&lengths).enumerate() {
                let prompt = || Steps::default().span(&text[..length], 0, index as u32 * 4, false);
                prompt().run(&mut graphs);
                prompt().run(&mut eager);
            }
            for past in 0..STEPS {
                let step = || next(&texts, &lengths, past);
                let before = calls();
                let found = step().run(&mut graphs);
                let after = calls();
                assert_eq!(found, step().run(&mut eager), "{model}: {} texts", texts.len());
                let (Some(before), Some(after)) = (before, after) else { continue };
                let count = between(&before, &after);
                // Beside the graph only the outputs: an unembedding, and a launch for chosen logits.
                let chosen = u64::from(texts.len() > 1);
                assert_eq!((count("cuGraphLaunch"), count("launch")), (1, 1 + chosen), "{after:?}");
                assert_eq!(count("cuMemcpyHtoD"), 1);
                assert_eq!((count("cuMemAlloc"), count("cuMemset"), count("cuMemFree")), (0, 0, 0));
            }
        }
    }
}

#[test]
fn batches_other_than_decodes_are_launched() {
    let _device = device();
    let mut runner = with_graphs("qwen3", 4);
    let text = tokens(20, 8);
    Steps::default().span(&text[..16], 0, 0, false).run(&mut runner);
    let Some(before) = calls() else { return };
    // A prompt, a branch of one token, more sequences than the largest graph, and more rows than sequences.
    Steps::default().span(&text[..3], 0, 4, false).run(&mut runner);
    Steps::default()
        .span(&text[16..17], 16, 0, true)
        .read(OutputKind::HiddenState)
        .run(&mut runner);
    (8..13)
        .fold(Steps::default(), |steps, page| steps.span(&text[..1], 0, page, false))
        .run(&mut runner);
    Steps::default().span(&text[16..18], 16, 0, false).run(&mut runner);
    let after = calls().unwrap();
    assert_eq!(between(&before, &after)("cuGraphLaunch"), 0, "{after:?}");
    Steps::default().span(&text[18..19], 18, 0, false).run(&mut runner);
    assert_eq!(between(&after, &calls().unwrap())("cuGraphLaunch"), 1);
}

// === Failures ===

/// Makes an emulated device fail: the `nth` call of this name from now on returns this error. Returns false on a real one.
fn fault(name: &str, nth: u64, error: u32) -> bool {
    let file = std::env::var_os(FAULTS);
    if let Some(file) = &file {
        fs::write(file, format!("{name} {nth} {error}\n")).unwrap();
    }
    file.is_some()
}

#[test]
fn a_model_takes_fewer_kv_pages_if_memory_is_short() {
    /// About the reserve, cuBLAS's workspace, and the model's memory beside its KV pages.
    const TAKEN: u64 = (512 << 20) + (32 << 20) + (8 << 20);
    let _device = device();
    let text = tokens(20, 1);
    let ask = || Steps::default().span(&text, 0, 0, false).read(OutputKind::FullLogits);
    let whole = ask().run(&mut on_gpu("qwen3"));
    let mut before = usize::MAX;
    // Memory for all pages, for fewer, and for the minimum.
    for (memory, fits) in [(1 << 30, true), (TAKEN, false), (TAKEN - (16 << 20), false)] {
        if !fault("memory", memory, 0) {
            return;
        }
        let mut runner = CudaRunner::load(
            &Checkpoint::open(&fixture("qwen3")).unwrap(),
            CudaOptions { kv_pages: 10_000, ..options(2) },
        )
        .unwrap();
        let pages = runner.limits().kv_pages;
        assert!((pages == 10_000) == fits && pages < before, "{pages} pages of {memory} bytes");
        before = pages;
        if pages > 1 {
            assert_eq!(ask().run(&mut runner), whole);
        }
    }
    assert_eq!(before, 1);
}

#[test]
fn keys_and_values_of_eight_bits_fit_almost_twice() {
    /// The KV pages get a few megabytes beside the reserve, cuBLAS's workspace, and the model.
    const MEMORY: u64 = (512 << 20) + (32 << 20) + (8 << 20);
    let _device = device();
    let pages = |kept| {
        fault("memory", MEMORY, 0).then(|| {
            let options = CudaOptions { kv_pages: 10_000, kv_dtype: kept, ..options(0) };
            let checkpoint = Checkpoint::open(&fixture("qwen3")).unwrap();
            CudaRunner::load(&checkpoint, options).unwrap().limits().kv_pages + ROWS_MAX
        })
    };
    let (Some(plain), Some(short)) = (pages(KvDtype::Model), pages(KvDtype::Float8)) else {
        return;
    };
    // A token of a head takes 17 bytes instead of 32.
    let most = plain * 32 / 17;
    assert!((most - 2..=most + 2).contains(&short), "{plain} pages, and {short} of 8 bits");
}

#[test]
fn without_memory_for_a_graph_passes_are_launched() {
    let _device = device();
    if !fault("cuGraphInstantiate", 3, NO_MEMORY) {
        return;
    }
    let mut runner = with_graphs("qwen3", 4);
    let texts: Vec<_> = (0..3).map(|text| tokens(8, text)).collect();
    for count in 1..=texts.len() {
        let before = calls().unwrap();
        let step = || next(&texts[..count], &[0, 0, 0], 0);
        assert_eq!(step().run(&mut runner), step().run(&mut on_gpu("qwen3")));
        let after = calls().unwrap();
        assert_eq!(between(&before, &after)("cuGraphLaunch"), u64::from(count < 3), "{after:?}");
    }
}

#[test]
fn a_pass_without_memory_fails_and_the_next_one_succeeds() {
    let _device = device();
    let mut runner = with_graphs("qwen3", 2);
    let text = tokens(20, 2);
    let prompt = || Steps::default().span(&text[..19], 0, 0, false).read(OutputKind::FullLogits);
    let decode = || Steps::default().span(&text[19..], 19, 0, false).read(OutputKind::FullLogits);
    let whole = [prompt().run(&mut runner), decode().run(&mut runner)];
    for (call, nth) in [("launch", 1), ("launch", 2), ("launch", 21), ("cuMemcpyHtoD", 1)] {
        if !fault(call, nth, NO_MEMORY) {
            return;
        }
        let error = runner.forward(&prompt().step, &mut ForwardOutput::default()).unwrap_err();
        assert!(matches!(error, RunnerError::Full(_)), "{call} {nth}: {error:?}");
        assert_eq!(prompt().run(&mut runner), whole[0]);
    }
    fault("cuGraphLaunch", 1, NO_MEMORY);
    let error = runner.forward(&decode().step, &mut ForwardOutput::default()).unwrap_err();
    assert!(matches!(error, RunnerError::Full(_)), "{error:?}");
    assert_eq!(decode().run(&mut runner), whole[1]);
}

#[test]
fn a_pass_with_too_many_outputs_can_be_halved() {
    let _device = device();
    let mut runner = on_gpu("qwen3");
    let all: Vec<u32> = (0..128).cycle().take(ROWS_MAX * 256 / 2 + 1).collect();
    let mut steps = Steps::default();
    steps.step.logit_tokens = all.clone();
    let step = [0, 8].into_iter().fold(steps, |steps, page| {
        steps.span(&tokens(3, page), 0, page, false).read(OutputKind::TokenLogits(0..all.len()))
    });
    let error = runner.forward(&step.step, &mut ForwardOutput::default()).unwrap_err();
    assert!(matches!(error, RunnerError::Full(_)), "{error:?}");
    let mut step = Steps::default()
        .span(&tokens(3, 0), 0, 0, false)
        .read(OutputKind::TokenLogits(0..all.len()));
    step.step.logit_tokens = all;
    assert_eq!(step.run(&mut runner).len(), 1);
}

#[test]
fn a_device_that_is_lost_is_lost() {
    let _device = device();
    let text = tokens(20, 2);
    let prompt = Steps::default().span(&text, 0, 0, false).read(OutputKind::FullLogits);
    for (call, nth) in
        [("launch", 1), ("launch", 2), ("cuStreamSynchronize", 1), ("cuMemcpyDtoH", 1)]
    {
        let mut runner = on_gpu("qwen3");
        if !fault(call, nth, LAUNCH_FAILED) {
            return;
        }
        for _ in 0..2 {
            let error = runner.forward(&prompt.step, &mut ForwardOutput::default()).unwrap_err();
            assert!(matches!(error, RunnerError::Lost(_)), "{call} {nth}: {error:?}");
            assert!(error.source().is_some());
        }
    }
}

/// An engine on the device, and requests that it can batch.
fn engine() -> (Engine, Arc<Metrics>, Vec<EngineRequest>) {
    let metrics = Arc::new(Metrics::new());
    let [running_max, waiting_max, prefill_chunk_max] =
        [8, 8, 32].map(|number| NonZeroUsize::new(number).unwrap());
    let limits = SchedulerConfig { running_max, waiting_max, prefill_chunk_max };
    let engine = Engine::start(|| Ok(with_graphs("qwen3", 8)), limits, &metrics).unwrap();
    let request = |kind| EngineRequest { kind, priority: Priority::BACKGROUND };
    let text = |seed: u32| {
        request(RequestKind::Generate(GenerateRequest {
            prompt: tokens(10 + seed as usize, seed),
            samples: NonZeroUsize::MIN,
            tokens_max: 12,
            sampling: SamplingParams::GREEDY,
            constraint: Constraint::Free,
            stop_tokens: Vec::new(),
        }))
    };
    let weighs = request(RequestKind::Weigh(WeighRequest {
        trunk: tokens(30, 9),
        branches: (1..6).map(|length| tokens(length, 10)).collect(),
        output: BranchOutput::TokenLogits(vec![7, 9]),
    }));
    (engine, metrics, (0..5).map(text).chain([weighs]).collect())
}

fn all(mut reply: ResponseStream) -> Vec<EngineEvent> {
    std::iter::from_fn(|| reply.blocking_next()).collect()
}

/// The events of requests that were sent at once, without those of cached pages.
fn answers(engine: &Engine, asks: &[EngineRequest]) -> Vec<Vec<EngineEvent>> {
    let replies: Vec<_> = asks.iter().map(|ask| engine.submit(ask.clone()).unwrap()).collect();
    let events = replies.into_iter().map(|reply| {
        let events = all(reply).into_iter();
        events.filter(|event| !matches!(event, EngineEvent::Done { .. })).collect()
    });
    events.collect()
}

#[test]
fn an_engine_without_memory_for_a_pass_answers_all_the_same() {
    let _device = device();
    let (engine, metrics, asks) = engine();
    let whole = answers(&engine, &asks);
    // Past the first pass, which may have the first request only.
    for (call, nth) in [("launch", 40), ("launch", 60), ("cuGraphLaunch", 2)] {
        if !fault(call, nth, NO_MEMORY) {
            return;
        }
        assert_eq!(answers(&engine, &asks), whole, "{call} {nth}");
    }
    let text = metrics.render();
    assert!(text.contains(r#"raisonne_engine_failed_total{why="full"} 3"#), "{text}");
}

#[test]
fn an_engine_whose_device_is_lost_ends_at_once() {
    let _device = device();
    let (engine, metrics, asks) = engine();
    if !fault("cuGraphLaunch", 3, LAUNCH_FAILED) {
        return;
    }
    for events in answers(&engine, &asks[..5]) {
        let Some(EngineEvent::Failed(RequestFailure::Runner(said))) = events.last() else {
            panic!("{events:?}")
        };
        assert!(said.contains("the model's device is lost"), "{said}");
    }
    while engine.is_alive() {
        std::thread::yield_now();
    }
    assert!(matches!(engine.submit(asks[0].clone()), Err(EngineError::Gone)));
    let text = metrics.render();
    assert!(text.contains(r#"raisonne_engine_failed_total{why="lost"} 1"#), "{text}");
}

/// The demo with one golden request of its language model: emulated, all of them take minutes.
fn unweighed_demo(home: &Path) -> PathBuf {
    let dir = bundle::copied_bundle(home, "demo");
    let path = dir.join(Part::Golden.file());
    let mut golden: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let others = golden.as_array_mut().unwrap().iter_mut().skip(1);
    others.for_each(|golden| golden["weighed"] = [0; 0].into());
    fs::write(&path, golden.to_string()).unwrap();
    Manifest::of(&dir, "demo").unwrap().write(&dir).unwrap();
    dir
}

#[test]
fn a_server_whose_device_is_lost_reports_it_and_serves_the_low_rungs() {
    let _device = device();
    if std::env::var_os(FAULTS).is_some() {
        tokio::runtime::Runtime::new().unwrap().block_on(serves_without_its_device());
    }
}

async fn serves_without_its_device() {
    let home = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.api.listen = "127.0.0.1:0".parse().unwrap();
    config.api.deadline_default = config::HumanDuration(PATIENCE);
    config.bundle.path = unweighed_demo(home.path());
    config.engine.device = DeviceSetting(ComputeDevice::Gpu(0));
    config.engine.cache = ByteSize(8 << 20);
    (config.engine.max_batched_tokens, config.engine.running_max) = (64, 2);
    let (services, _) = open_services(&config).await.unwrap();
    let (canary, metrics) = (services.canary.clone(), services.metrics.clone());
    let mut drop_signal = services.live.ladder().drop_signal();
    // The first canary sends the first request.
    fault("launch", 1, LAUNCH_FAILED);
    let app = App::start(&config.api, services).await.unwrap();
    let degraded = async {
        loop {
            match app.readiness().state() {
                ReadinessState::Degraded(why) if why.contains("the language model is gone") => {
                    break;
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE, degraded).await.expect("readiness reports the lost model");
    assert!(canary().await.unwrap_err().contains("this process must be started anew"));
    // Requests are answered from the rungs below, at once.
    let address = app.address();
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}")).unwrap();
    let mut client = RerankServiceClient::new(channel.connect().await.unwrap());
    let samples = fs::read(config.bundle.path.join(Part::Samples.file())).unwrap();
    let samples: Vec<RerankRequest> = serde_json::from_slice(&samples).unwrap();
    let answer = client.rerank(samples[0].clone()).await.unwrap().into_inner();
    assert_eq!(answer.quality(), Quality::Scored);
    assert_eq!(answer.shortfalls[0].why(), Why::Broken);
    let text = metrics.render();
    for line in [
        r#"raisonne_engine_failed_total{why="lost"} 1"#,
        r#"raisonne_rank_shortfall_total{rung="weighed",why="broken"} "#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    drop((client, canary));
    app.stop().await.unwrap();
    timeout(PATIENCE, drop_signal.dropped()).await.expect("a lost device is dropped");
}
