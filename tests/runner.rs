//! The model on a CPU: its logits agree with those of transformers at every SIMD level, and are bitwise the same in every
//! batch.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use candle_core::{DType, Device, Tensor};
use raisonne::bench::{self, LogitsOptions};
use raisonne::engine::{
    BranchOutput, ComputeDevice, Constraint, CpuRunner, Engine, EngineEvent, EngineRequest,
    ForwardBatch, ForwardOutput, GenerateRequest, OutputKind, Priority, RequestKind,
    ResponseStream, RowOutput, Runner, SamplingParams, SchedulerConfig, SequenceSpan, Trie,
    WeighRequest,
};
use raisonne::nn::decoder::Checkpoint;
use raisonne::nn::packed::{KvDtype, PAGE_TOKENS, PackedOptions, SimdLevel, WeightDtype};
use raisonne::telemetry::Metrics;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The tolerance against the logits of transformers.
const TOLERANCE: f32 = 1e-4;
/// The models beside `fixtures/decoder/make.py`.
const MODELS: [&str; 6] =
    ["qwen3", "qwen3-window", "qwen2-yarn", "qwen2-tied", "llama3", "llama-biased"];
/// Positions between those whose logits `make.py` keeps.
const LOGITS_EVERY: usize = 4;
const CONTEXT: usize = 256;
/// Samples of one request here.
const SAMPLES_MAX: usize = 3;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/decoder").join(name)
}

fn options(precision: WeightDtype, level: SimdLevel, max_batched_tokens: usize) -> PackedOptions {
    let threads = NonZeroUsize::new(2).unwrap();
    PackedOptions {
        weight_dtype: precision,
        kv_dtype: KvDtype::Model,
        threads,
        level,
        kv_pages: 256,
        max_batched_tokens,
    }
}

fn runner(folder: &Path, options: PackedOptions) -> CpuRunner {
    CpuRunner::load(Checkpoint::open(folder).unwrap(), options, CONTEXT).unwrap()
}

struct Expected {
    tokens: Vec<Vec<u32>>,
    top: Vec<Vec<u32>>,
    /// Of each sequence and each kept position.
    logits: Vec<Vec<Vec<f32>>>,
}

impl Expected {
    fn open(name: &str) -> Self {
        let file = fixture(name).join("expected.safetensors");
        let tensors: HashMap<String, Tensor> =
            candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let integers = |name: &str| tensors[name].to_dtype(DType::U32).unwrap().to_vec2().unwrap();
        let logits = tensors["logits"].to_dtype(DType::F32).unwrap().to_vec3().unwrap();
        Self { tokens: integers("tokens"), top: integers("top"), logits }
    }
}

/// The logits of every position of some texts, computed in chunks that cycle through the given sizes.
fn logits(runner: &mut CpuRunner, texts: &[Vec<u32>], chunks: &[usize]) -> Vec<Vec<Vec<f32>>> {
    let mut done = vec![Vec::new(); texts.len()];
    let mut chunks = chunks.iter().cycle();
    let mut out = ForwardOutput::default();
    while done.iter().zip(texts).any(|(done, text)| done.len() < text.len()) {
        let mut batch = ForwardBatch::default();
        let mut whose = Vec::new();
        for (t, text) in texts.iter().enumerate() {
            let past = done[t].len();
            let taken = &text[past..text.len().min(past + chunks.next().unwrap())];
            if taken.is_empty() {
                continue;
            }
            let (row, page) = (batch.tokens.len(), batch.block_tables.len());
            batch.tokens.extend(taken);
            // The pages of a text are scattered and out of order.
            let pages = (past + taken.len()).div_ceil(PAGE_TOKENS);
            batch.block_tables.extend((0..pages).map(|page| ((page * 7 + t * 32) % 251) as u32));
            batch.spans.push(SequenceSpan {
                rows: row..batch.tokens.len(),
                block_table: page..batch.block_tables.len(),
                past,
                branch: false,
            });
            whose.push(t);
            let reads = row..batch.tokens.len();
            batch.outputs.extend(reads.map(|row| RowOutput { row, kind: OutputKind::FullLogits }));
        }
        runner.forward(&batch, &mut out).unwrap();
        let mut answer = 0;
        for (span, t) in batch.spans.iter().zip(whose) {
            for _ in span.rows.clone() {
                done[t].push(out.get(answer).to_vec());
                answer += 1;
            }
        }
    }
    done
}

fn top(logits: &[f32]) -> u32 {
    let best = |best: usize, at: usize| if logits[at] > logits[best] { at } else { best };
    (0..logits.len()).fold(0, best) as u32
}

#[test]
fn bench_logits_writes_the_logits_of_the_model() {
    let Expected { tokens, logits: expected, .. } = Expected::open("qwen3");
    let (home, last) = (tempfile::tempdir().unwrap(), 2 * LOGITS_EVERY);
    let [file, out] = ["tokens.json", "logits.safetensors"].map(|name| home.path().join(name));
    fs::write(&file, serde_json::to_string(&tokens[0]).unwrap()).unwrap();
    let options = |last| LogitsOptions {
        model: fixture("qwen3"),
        precision: Some(WeightDtype::F32),
        kv_cache_dtype: None,
        threads: NonZeroUsize::MIN,
        level: SimdLevel::best(),
        device: ComputeDevice::Cpu,
        tokens: file.clone(),
        max_batched_tokens: 7,
        last,
        out: out.clone(),
    };
    bench::logits(&options(last)).unwrap();
    let tables = candle_core::safetensors::load(&out, &Device::Cpu).unwrap();
    let first = tokens[0].len() - last;
    let kept = (0..tokens[0].len()).step_by(LOGITS_EVERY).zip(&expected[0]);
    for (row, expected) in kept.filter(|(row, _)| *row >= first) {
        for name in ["prefill", "decode"] {
            let got = tables[name].get(row - first).unwrap().to_vec1::<f32>().unwrap();
            let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < TOLERANCE, "{name}, row {row}: {worst}");
        }
    }
    let error = bench::logits(&options(tokens[0].len())).unwrap_err().to_string();
    assert!(error.contains("of which some come before"), "{error}");
}

#[test]
fn logits_are_those_of_transformers_at_every_level() {
    for level in SimdLevel::all_here() {
        let mut positions = 0;
        for name in MODELS {
            let Expected { tokens, top: tops, logits: expected } = Expected::open(name);
            let mut runner = runner(&fixture(name), options(WeightDtype::F32, level, 512));
            let got = logits(&mut runner, &tokens, &[7, 1, 40]);
            let mut worst = 0.0_f32;
            for (text, got) in got.iter().enumerate() {
                for (kept, expected) in expected[text].iter().enumerate() {
                    for (a, b) in got[kept * LOGITS_EVERY].iter().zip(expected) {
                        assert!((a - b).abs() <= TOLERANCE, "{name} on {}", level.as_str());
                        worst = worst.max((a - b).abs());
                    }
                }
                assert_eq!(got.iter().map(|row| top(row)).collect::<Vec<_>>(), tops[text]);
                positions += got.len();
            }
            println!("{name} on {}: at most {worst:.1e} off", level.as_str());
        }
        assert!(positions > 1_000, "only {positions} positions were compared");
    }
}

/// The relative error of logits: the norm of the difference over the norm of the right ones.
fn relative_error(got: &[Vec<Vec<f32>>], right: &[Vec<Vec<f32>>]) -> f64 {
    let flat = |logits: &[Vec<Vec<f32>>]| logits.concat().concat();
    let (got, right) = (flat(got), flat(right));
    let squares = |numbers: &mut dyn Iterator<Item = f32>| -> f64 {
        numbers.map(|number| f64::from(number).powi(2)).sum()
    };
    let error = squares(&mut got.iter().zip(&right).map(|(a, b)| a - b));
    (error / squares(&mut right.iter().copied())).sqrt()
}

#[test]
fn quantized_logits_are_as_close_as_those_of_candle() {
    for name in MODELS {
        let Expected { tokens, .. } = Expected::open(name);
        let of = |precision, level| {
            let checkpoint = Checkpoint::open(&fixture(name)).unwrap();
            let options = options(precision, level, 512);
            let runner = CpuRunner::load(checkpoint, options, CONTEXT);
            runner.map(|mut runner| logits(&mut runner, &tokens, &[16]))
        };
        let right = of(WeightDtype::F32, SimdLevel::best()).unwrap();
        // These models are too narrow for blocks of four bits. candle's Q8_0 is the counterpart of our int8.
        let twin = of(WeightDtype::Int4, SimdLevel::best());
        let twin = twin.map_or(f64::INFINITY, |twin| relative_error(&twin, &right));
        for level in SimdLevel::all_here() {
            let error = |precision| relative_error(&of(precision, level).unwrap(), &right);
            let (bf16, int8) = (error(WeightDtype::Bf16), error(WeightDtype::Int8));
            println!("{name} on {}: {bf16:.4}, {int8:.4}, candle {twin:.4}", level.as_str());
            assert!(bf16 < 0.015, "{name}: bf16 is {bf16} off");
            assert!(int8 < 1.25 * twin, "{name}: int8 is {int8} off, candle's Q8_0 {twin}");
        }
    }
}

fn engine(folder: &Path, options: PackedOptions, running_max: usize) -> Engine {
    observed_engine(folder, options, running_max, &Arc::new(Metrics::new()))
}

fn observed_engine(
    folder: &Path,
    options: PackedOptions,
    running_max: usize,
    metrics: &Arc<Metrics>,
) -> Engine {
    let folder = folder.to_owned();
    let nonzero = |n| NonZeroUsize::new(n).unwrap();
    let limits = SchedulerConfig {
        running_max: nonzero(running_max),
        waiting_max: nonzero(64),
        prefill_chunk_max: nonzero(options.max_batched_tokens / 2),
    };
    Engine::start(move || Ok(runner(&folder, options)), limits, metrics).unwrap()
}

fn request_of(kind: RequestKind) -> EngineRequest {
    EngineRequest { kind, priority: Priority::BACKGROUND }
}

fn text(prompt: &[u32], tokens_max: usize, temperature: f32) -> EngineRequest {
    request_of(RequestKind::Generate(GenerateRequest {
        prompt: prompt.to_vec(),
        samples: NonZeroUsize::MIN,
        tokens_max,
        sampling: SamplingParams { temperature, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 7 },
        constraint: Constraint::Free,
        stop_tokens: Vec::new(),
    }))
}

fn weigh(trunk: &[u32], branches: &[Vec<u32>], output: BranchOutput) -> EngineRequest {
    request_of(RequestKind::Weigh(WeighRequest {
        trunk: trunk.to_vec(),
        branches: branches.to_vec(),
        output,
    }))
}

/// All events of a response, with floats as bits.
fn received(mut response: ResponseStream) -> Vec<u32> {
    let (mut received, mut texts) = (Vec::new(), vec![Vec::new(); SAMPLES_MAX]);
    while let Some(event) = response.blocking_next() {
        match event {
            // The samples of one request may interleave.
            EngineEvent::Token { sample, token, logprob } => {
                texts[sample].extend([token, logprob.to_bits()]);
            }
            EngineEvent::Weighed(branches) => {
                received.extend(branches.concat().into_iter().map(f32::to_bits));
            }
            EngineEvent::Done { .. } => {}
            EngineEvent::Failed(failure) => panic!("{failure}"),
        }
    }
    received.extend(texts.concat());
    received
}

#[test]
fn greedy_decoding_agrees_with_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/tiny-llm/hf");
    if !folder.is_dir() {
        println!("skipped: there is no {}", folder.display());
        return;
    }
    let expected = fs::read_to_string(fixture("greedy.json")).unwrap();
    let expected: Vec<u32> = serde_json::from_str(&expected).unwrap();
    let options = options(WeightDtype::F32, SimdLevel::best(), 64);
    let runner = move || {
        let checkpoint = Checkpoint::open(&folder).unwrap();
        Ok(CpuRunner::load(checkpoint, options, 512).unwrap())
    };
    let one = NonZeroUsize::MIN;
    let limits = SchedulerConfig { running_max: one, waiting_max: one, prefill_chunk_max: one };
    let engine = Engine::start(runner, limits, &Arc::new(Metrics::new())).unwrap();
    let response = engine.submit(text(&expected[..1], expected.len() - 1, 0.0)).unwrap();
    let received = received(response);
    let written: Vec<u32> = received.chunks(2).map(|pair| pair[0]).collect();
    assert_eq!(written, expected[1..]);
}

#[test]
fn branches_agree_with_separate_prompts() {
    for name in ["qwen3", "qwen3-window", "llama3"] {
        let tokens = Expected::open(name).tokens.remove(0);
        let (trunk, rest) = tokens.split_at(37);
        let branches =
            [rest[..5].to_vec(), rest[5..23].to_vec(), rest[23..24].to_vec(), rest[..4].to_vec()];
        let output = BranchOutput::TokenLogits(vec![3, 1, 40]);
        for max_batched_tokens in [24, 64] {
            let options = options(WeightDtype::F32, SimdLevel::best(), max_batched_tokens);
            let alone: Vec<Vec<f32>> = branches
                .iter()
                .map(|branch| {
                    // A separate prompt: its only branch is its last token.
                    let whole = [trunk, branch].concat();
                    let (last, whole) = whole.split_last().unwrap();
                    let engine = engine(&fixture(name), options, 1);
                    let request_of = weigh(whole, &[vec![*last]], output.clone());
                    floats(received(engine.submit(request_of).unwrap()))
                })
                .collect();
            let engine = engine(&fixture(name), options, 4);
            let mut places: Vec<usize> = (0..branches.len()).collect();
            // With a cold cache, a warm one, and in another order.
            for _ in 0..3 {
                let company = engine.submit(text(&rest[2..30], 9, 0.0)).unwrap();
                let asked: Vec<_> = places.iter().map(|place| branches[*place].clone()).collect();
                let response = engine.submit(weigh(trunk, &asked, output.clone())).unwrap();
                let together = floats(received(response));
                for (place, got) in places.iter().zip(together.chunks(3)) {
                    for (got, right) in got.iter().zip(&alone[*place]) {
                        assert!((got - right).abs() < TOLERANCE, "{name}: {got} is not {right}");
                    }
                }
                received(company);
                places.rotate_left(1);
            }
        }
    }
}

fn floats(bits: Vec<u32>) -> Vec<f32> {
    bits.into_iter().map(f32::from_bits).collect()
}

/// Completions, branches, a permutation and entries of a catalogue.
fn all_kinds(tokens: &[Vec<u32>]) -> Vec<EngineRequest> {
    let text_of = |n: usize| &tokens[n % tokens.len()];
    let mut requests: Vec<EngineRequest> = (0..8)
        .map(|n| {
            let prompt = &text_of(n)[n..n + 20 + 3 * n];
            if n % 3 == 2 {
                let branches: Vec<_> =
                    (1..6).map(|b| text_of(b)[b..b + 1 + 2 * b].to_vec()).collect();
                let output = if n == 2 {
                    BranchOutput::HiddenState
                } else {
                    BranchOutput::TokenLogits(vec![5, 9])
                };
                weigh(prompt, &branches, output)
            } else {
                text(prompt, 12, if n % 2 == 0 { 0.0 } else { 0.9 })
            }
        })
        .collect();
    let labels = [vec![4], vec![70, 5], vec![70, 6], vec![100, 7, 8]];
    let trie = Arc::new(Trie::new(&labels).unwrap());
    for constraint in
        [Constraint::permutation(&labels, &[9]).unwrap(), Constraint::entries(trie, 3).unwrap()]
    {
        let mut request_of = text(&text_of(3)[..33], 16, 0.9);
        if let RequestKind::Generate(generate) = &mut request_of.kind {
            generate.constraint = constraint;
            generate.samples = NonZeroUsize::new(3).unwrap();
        }
        requests.push(request_of);
    }
    requests
}

#[test]
fn the_rest_of_the_batch_changes_no_bit() {
    let (folder, mut preempted) = (fixture("qwen3"), 0);
    let requests = all_kinds(&Expected::open("qwen3").tokens);
    for precision in [WeightDtype::F32, WeightDtype::Bf16, WeightDtype::Int8, WeightDtype::Int4] {
        for level in SimdLevel::all_here() {
            let mut rng = ChaCha8Rng::seed_from_u64(1);
            let alone: Vec<_> = requests
                .iter()
                .map(|request_of| {
                    let engine = engine(&folder, options(precision, level, 64), 8);
                    received(engine.submit(request_of.clone()).unwrap())
                })
                .collect();
            // With too few pages for all, some sequences are preempted.
            let few = PackedOptions { kv_pages: 12, ..options(precision, level, 48) };
            let metrics = Arc::new(Metrics::new());
            let engine = observed_engine(&folder, few, 8, &metrics);
            for _ in 0..20 {
                let mut order: Vec<usize> = (0..requests.len()).collect();
                order.shuffle(&mut rng);
                order.truncate(rng.random_range(1..=requests.len()));
                let responses: Vec<_> = order
                    .iter()
                    .map(|n| (*n, engine.submit(requests[*n].clone()).unwrap()))
                    .collect();
                for (n, response) in responses {
                    let name = (precision.as_str(), level.as_str());
                    assert_eq!(received(response), alone[n], "ask {n}, {name:?}");
                }
            }
            preempted += usize::from(!metrics.render().contains("engine_preempted_total 0"));
        }
    }
    assert!(preempted > 0, "somebody lost their pages");
}
