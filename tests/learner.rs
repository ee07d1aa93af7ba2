//! The learner of all stages that train a language model: what it trains, that it changes nothing else, and that a resumed
//! training comes to the same bits.

#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use candle_core::{D, DType, Device, Tensor, Var};
#[cfg(not(feature = "cuda"))]
use raisonne::engine::ComputeDevice;
use raisonne::engine::{
    BranchOutput, Constraint, CpuRunner, Engine, EngineEvent, EngineRequest, GenerateRequest,
    Priority, RequestKind, SamplingParams, SchedulerConfig, WeighRequest,
};
use raisonne::nn::decoder::{
    Adapters, Checkpoint, EMBEDDING, TokenBatch, TrainableDecoder, forward,
};
use raisonne::nn::ops::{CrossEntropyTargets, cross_entropy};
use raisonne::nn::optim::{AdamW, AdamWConfig, TrainedVariable};
use raisonne::nn::packed::{KvDtype, PackedOptions, SimdLevel, WeightDtype};
use raisonne::telemetry::Metrics;
use raisonne::train::StopSignal;
use raisonne::train::checkpoint::DataFingerprint;
use raisonne::train::learner::{Learner, evaluation_loss};
use raisonne::train::learner_config::{ComputeDtype, LearnerConfig, TrainScope};
use raisonne::train::lesson::{Choose, Lesson, LessonBatch, LessonOrder, Reinforce, normalisers};
use raisonne::train::recipe::DecoderSizes;
use raisonne::train::trainer::{CheckpointPolicy, TrainReport, Trainer};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const VOCABULARY: usize = 40;
/// The token whose logit scores a branch.
const LABEL_TOKEN: u32 = 33;

/// A decoder of the Qwen3 shape: two layers, 32 wide.
fn model(seed: u64) -> TrainableDecoder {
    let sizes = DecoderSizes {
        vocabulary: VOCABULARY,
        width: 32,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head_dim: 8,
        mlp_width: 64,
    };
    TrainableDecoder::random(sizes.config(VOCABULARY, 128, Vec::new()), seed).unwrap()
}

fn texts() -> Vec<Lesson> {
    let text = |start: u32, turn: u32, length: u32| {
        Lesson::text((0..length).map(|at| (start + at * at * turn) % 30 + at % 3).collect())
    };
    vec![text(1, 3, 14), text(8, 5, 11), text(15, 7, 12), text(22, 11, 9), text(29, 13, 14)]
}

/// Trunks whose last token determines the taken branch.
fn choices() -> Vec<Lesson> {
    let choice = |which: u32| {
        let branches = vec![vec![20, 21], vec![22], vec![24, 25, 26]];
        let choose = Choose { branches, taken: which as usize, label_token: LABEL_TOKEN };
        Lesson::choice(vec![5, 6 + which, 9, 10 + which], choose)
    };
    (0..3).map(choice).collect()
}

fn config() -> LearnerConfig {
    LearnerConfig {
        steps: 6,
        lessons_per_step: 4,
        max_batched_tokens: 64,
        learning_rate: 1e-2,
        warmup_steps: 2,
        weight_decay: 0.01,
        seed: 5,
        ..LearnerConfig::default()
    }
}

fn run(trainer: &mut Trainer<'_>) -> TrainReport {
    trainer.run(None, &StopSignal::default(), |_| {}).unwrap()
}

/// The losses of a training, and the trained model.
fn train(
    model: TrainableDecoder,
    config: LearnerConfig,
    lessons: &[Lesson],
) -> (Vec<f64>, TrainableDecoder) {
    let mut trainer = Trainer::new(model, config, lessons).unwrap();
    let losses = run(&mut trainer).losses;
    (losses, trainer.into_model())
}

fn values(model: &TrainableDecoder) -> HashMap<String, Vec<f32>> {
    let parameters = model.parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor));
    let adapters = model.adapters.iter().flat_map(Adapters::tensors);
    let values = |tensor: &Tensor| {
        tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    parameters.chain(adapters).map(|(name, tensor)| (name, values(tensor))).collect()
}

fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}

/// Greedy decoding by the training forward pass.
fn exact_generates(model: &TrainableDecoder, prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        let batch = TokenBatch::plain(&[&tokens]);
        let mut exact = model.exact(&batch, DType::F32).unwrap();
        let rows = forward(&model.config, &mut exact).unwrap();
        let last = rows.narrow(1, tokens.len() - 1, 1).unwrap().flatten_to(1).unwrap();
        let best = exact.logits(&last).unwrap().argmax(D::Minus1).unwrap();
        tokens.push(best.to_vec1::<u32>().unwrap()[0]);
    }
    tokens
}

/// A saved model on the serving engine.
struct Served {
    engine: Engine,
    _home: TempDir,
}

impl Served {
    fn new(model: &TrainableDecoder) -> Self {
        let (home, none) = (tempfile::tempdir().unwrap(), Path::new(""));
        model.save(home.path(), none).unwrap();
        let folder = home.path().to_owned();
        let one = NonZeroUsize::MIN;
        let options = PackedOptions {
            weight_dtype: WeightDtype::F32,
            kv_dtype: KvDtype::Model,
            threads: one,
            level: SimdLevel::best(),
            kv_pages: 64,
            max_batched_tokens: 64,
        };
        let runner =
            move || Ok(CpuRunner::load(Checkpoint::open(&folder).unwrap(), options, 128).unwrap());
        let limits = SchedulerConfig { running_max: one, waiting_max: one, prefill_chunk_max: one };
        let engine = Engine::start(runner, limits, &Arc::new(Metrics::new())).unwrap();
        Self { engine, _home: home }
    }

    fn submit(&self, kind: RequestKind) -> (Vec<u32>, Vec<f32>) {
        let request = EngineRequest { kind, priority: Priority::BACKGROUND };
        let mut response = self.engine.submit(request).unwrap();
        let (mut tokens, mut weights) = (Vec::new(), Vec::new());
        while let Some(event) = response.blocking_next() {
            match event {
                EngineEvent::Token { token, .. } => tokens.push(token),
                EngineEvent::Weighed(branches) => weights = branches.concat(),
                EngineEvent::Done { .. } => {}
                EngineEvent::Failed(failure) => panic!("{failure}"),
            }
        }
        (tokens, weights)
    }

    fn generates(&self, prompt: &[u32], count: usize) -> Vec<u32> {
        let text = GenerateRequest {
            prompt: prompt.to_vec(),
            samples: NonZeroUsize::MIN,
            tokens_max: count,
            sampling: SamplingParams {
                temperature: 0.0,
                top_k: 0,
                top_p: 1.0,
                min_p: 0.0,
                seed: 0,
            },
            constraint: Constraint::Free,
            stop_tokens: Vec::new(),
        };
        [prompt.to_vec(), self.submit(RequestKind::Generate(text)).0].concat()
    }

    fn weighs(&self, trunk: &[u32], branches: &[Vec<u32>]) -> Vec<f32> {
        let (trunk, branches) = (trunk.to_vec(), branches.to_vec());
        self.submit(RequestKind::Weigh(WeighRequest {
            trunk,
            branches,
            output: BranchOutput::TokenLogits(vec![LABEL_TOKEN]),
        }))
        .1
    }
}

// === PyTorch agrees ===

fn expected() -> HashMap<String, Tensor> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/learner/expected.safetensors");
    candle_core::safetensors::load(file, &Device::Cpu).unwrap()
}

#[track_caller]
fn assert_near(got: &Tensor, expected: &Tensor) {
    assert_eq!(got.dims(), expected.dims());
    let all = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (got, expected) in all(got).into_iter().zip(all(expected)) {
        assert!((got - expected).abs() < 2e-6, "{got} is not {expected}");
    }
}

#[test]
fn the_weighted_loss_and_its_gradients_are_pytorchs() {
    let expected = expected();
    let variable = |name: &str| Var::from_tensor(&expected[name]).unwrap();
    let (rows, unembedding) = (variable("rows"), variable("unembedding"));
    let tokens = expected["tokens"].to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
    let weights = expected["weights"].to_vec1::<f32>().unwrap();
    let total = weights.iter().copied().map(f64::from).sum();
    let targets =
        CrossEntropyTargets { tokens: &tokens, weights: &weights, normaliser: total, rollout: &[] };
    let loss = cross_entropy(&rows, &unembedding, targets).unwrap();
    assert_near(&loss, &expected["loss"]);
    let gradients = loss.backward().unwrap();
    assert_near(gradients.get(&rows).unwrap(), &expected["to_rows"]);
    assert_near(gradients.get(&unembedding).unwrap(), &expected["to_unembedding"]);
}

#[test]
fn the_optimiser_steps_as_pytorchs() {
    let expected = expected();
    let trained = |name: &str, decays| {
        let variable = Var::from_tensor(&expected[name]).unwrap();
        TrainedVariable { name: name.into(), variable, decays, from: 0 }
    };
    let (matrix, norm) = (trained("matrix", true), trained("norm", false));
    let variables = [matrix.variable.clone(), norm.variable.clone()];
    let mut optimiser = AdamW::new(vec![matrix, norm], AdamWConfig::default()).unwrap();
    for norm_before in expected["norms"].to_vec1::<f32>().unwrap() {
        let [matrix, norm] = &variables;
        let out = expected["inputs"].matmul(&matrix.t().unwrap()).unwrap();
        let loss = out.broadcast_mul(norm).unwrap().sqr().unwrap().mean_all().unwrap();
        optimiser.add(&mut loss.backward().unwrap()).unwrap();
        let got = optimiser.step(0.05, 0.5).unwrap();
        assert!((got / f64::from(norm_before) - 1.0).abs() < 1e-5, "{got} is not {norm_before}");
    }
    assert_near(&variables[0], &expected["matrix_after"]);
    assert_near(&variables[1], &expected["norm_after"]);
}

// === What it learns ===

#[test]
fn texts_are_memorised_and_generated_again() {
    let config = LearnerConfig { steps: 150, lessons_per_step: 5, ..config() };
    let (losses, model) = train(model(1), config, &texts());
    let last = losses[losses.len() - 1];
    assert!(losses[0] > 3.0 && last < 0.05, "from {} to {last}", losses[0]);
    assert!(evaluation_loss(&model, &texts(), 64).unwrap() < 0.05);
    let served = Served::new(&model);
    for text in texts() {
        let (prompt, rest) = text.tokens.split_at(3);
        assert_eq!(exact_generates(&model, prompt, rest.len()), text.tokens);
        assert_eq!(served.generates(prompt, rest.len()), text.tokens);
    }
}

#[test]
fn choices_are_learned_as_they_are_served() {
    let config = LearnerConfig { steps: 80, lessons_per_step: 3, ..config() };
    let (losses, model) = train(model(2), config, &choices());
    assert!((losses[0] - 3_f64.ln()).abs() < 0.5, "{}", losses[0]);
    assert!(losses[losses.len() - 1] < 0.05, "{}", losses[losses.len() - 1]);

    let lessons = choices();
    let batch = LessonBatch::new(&lessons.iter().collect::<Vec<_>>());
    let mut exact = model.exact(&batch.batch, DType::F32).unwrap();
    let rows = forward(&model.config, &mut exact).unwrap();
    let trained = batch.scores(&exact, &rows).unwrap();
    let served = Served::new(&model);
    for (lesson, trained) in lessons.iter().zip(trained) {
        let choose = lesson.choose.as_ref().unwrap();
        let weighed = served.weighs(&lesson.tokens, &choose.branches);
        assert!(weighed.iter().zip(&trained).all(|(a, b)| (a - b).abs() < 1e-4));
        let best = (0..3).max_by(|a, b| weighed[*a].total_cmp(&weighed[*b])).unwrap();
        assert_eq!(best, choose.taken);
    }
}

#[test]
fn only_tokens_with_a_weight_are_learned() {
    let mut lesson = texts().remove(0);
    lesson.sft_weights[7..].fill(0.0);
    let config = LearnerConfig { steps: 80, lessons_per_step: 1, ..config() };
    let (_, model) = train(model(1), config, &[lesson.clone()]);
    let loss_with = |sft_weights: Vec<f32>| {
        evaluation_loss(&model, &[Lesson { sft_weights, ..lesson.clone() }], 64).unwrap()
    };
    let others = lesson.sft_weights.iter().enumerate();
    let others = others.map(|(at, weight)| f32::from(u8::from(at > 0 && *weight == 0.0))).collect();
    let (counted, left_out) = (loss_with(lesson.sft_weights.clone()), loss_with(others));
    assert!(counted < 0.05 && left_out > 1.0, "{counted} and {left_out}");
    // Weights are relative: doubling all of them changes nothing.
    let double = lesson.sft_weights.iter().map(|weight| 2.0 * weight).collect();
    assert!((loss_with(double) - counted).abs() < 1e-6);
}

#[test]
fn a_token_with_a_higher_weight_becomes_likelier() {
    // One prefix has two continuations. One has three times the other's weight.
    let lesson = |follower, weight| Lesson {
        sft_weights: vec![0.0, 0.0, weight],
        ..Lesson::text(vec![1, 2, follower])
    };
    let lessons = [lesson(5, 0.75), lesson(6, 0.25)];
    let config = LearnerConfig { steps: 200, lessons_per_step: 2, weight_decay: 0.0, ..config() };
    let (losses, model) = train(model(1), config, &lessons);
    // The minimum of the loss is the entropy of odds of three to one.
    let least = -(0.75 * 0.75_f64.ln() + 0.25 * 0.25_f64.ln());
    assert!((losses[losses.len() - 1] - least).abs() < 0.01, "{:?}", losses.last());
    let apart = evaluation_loss(&model, &lessons[1..], 64).unwrap()
        - evaluation_loss(&model, &lessons[..1], 64).unwrap();
    assert!((apart - 3_f64.ln()).abs() < 0.1, "{apart}");
}

#[test]
fn a_token_with_an_advantage_becomes_likelier_up_to_the_clip() {
    // One prefix has two sampled continuations: one with a positive advantage, one with a negative one.
    let cross_entropy = |model: &TrainableDecoder, follower| {
        let lesson =
            Lesson { sft_weights: vec![0.0, 0.0, 1.0], ..Lesson::text(vec![1, 2, follower]) };
        evaluation_loss(model, &[lesson], 64).unwrap()
    };
    let before = model(1);
    let ratios = |clip_eps: [f32; 2]| {
        let lesson = |follower, advantage| {
            let chance = -cross_entropy(&before, follower) as f32;
            let advantages = vec![0.0, 0.0, advantage];
            let old_logprobs = vec![0.0, 0.0, chance];
            let reinforce = Reinforce { advantages, old_logprobs, clip_eps, normaliser: 1.0 };
            Lesson::reinforced(vec![1, 2, follower], reinforce)
        };
        let lessons = [lesson(5, 1.0), lesson(6, -1.0)];
        let config = LearnerConfig {
            steps: 30,
            lessons_per_step: 2,
            learning_rate: 2e-3,
            weight_decay: 0.0,
            ..config()
        };
        let (losses, after) = train(before.clone(), config, &lessons);
        // Before the first step, both ratios are 1 and the advantages cancel.
        assert!(losses[0].abs() < 1e-5, "{losses:?}");
        [5, 6].map(|follower| {
            (cross_entropy(&before, follower) - cross_entropy(&after, follower)).exp()
        })
    };
    let [likelier, less_likely] = ratios([0.2, 0.28]);
    assert!((1.2..1.8).contains(&likelier), "{likelier}");
    assert!((0.5..0.85).contains(&less_likely), "{less_likely}");
    // Without a clip, the ratio grows further.
    let [likelier, _] = ratios([0.999, 1e3]);
    assert!(likelier > 3.0, "{likelier}");
}

#[cfg(not(feature = "cuda"))]
#[test]
fn a_gpu_needs_a_build_with_cuda() {
    let scope = TrainScope::of(Some(4));
    let config = LearnerConfig {
        scope,
        dtype: ComputeDtype::Bf16,
        device: ComputeDevice::Gpu(0),
        ..config()
    };
    let error = Trainer::new(model(1), config, &texts()).unwrap_err().to_string();
    assert_eq!(error, "this program was built without the feature `cuda`, and can't use a GPU");
}

// === Which weights it trains ===

/// The names of the tensors that changed.
fn changed(before: &TrainableDecoder, after: &TrainableDecoder) -> Vec<String> {
    let (before, after) = (values(before), values(after));
    let mut names: Vec<_> =
        after.into_iter().filter(|(name, now)| before.get(name) != Some(now)).collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    names.into_iter().map(|(name, _)| name).collect()
}

#[test]
fn everything_moves_and_everything_gets_a_gradient() {
    let before = model(1);
    let lessons = [texts(), choices()].concat();
    let config = LearnerConfig { steps: 1, lessons_per_step: 8, weight_decay: 0.0, ..config() };
    let (_, after) = train(before.clone(), config, &lessons);
    // Without weight decay, only a gradient moves anything.
    assert_eq!(changed(&before, &after).len(), before.parameters.iter().count());
}

#[test]
fn adapters_alone_move_where_adapters_are_trained() {
    let before = model(1);
    let scope = TrainScope::Lora { rank: 4, alpha: 8.0, dropout: 0.1 };
    let config = LearnerConfig { steps: 20, scope, ..config() };
    let (losses, after) = train(before.clone(), config, &texts());
    let changed = changed(&before, &after);
    assert_eq!(changed.len(), 2 * 7 * 2);
    assert!(changed.iter().all(|name| name.contains("lora_")), "{changed:?}");
    assert!(losses[19] < losses[0] - 0.2, "{losses:?}");
    // The saved folder holds the merged adapters.
    let home = tempfile::tempdir().unwrap();
    after.save(home.path(), Path::new("")).unwrap();
    let saved =
        evaluation_loss(&TrainableDecoder::open(home.path()).unwrap(), &texts(), 64).unwrap();
    assert!((saved - evaluation_loss(&after, &texts(), 64).unwrap()).abs() < 1e-4);
}

#[test]
fn new_tokens_alone_move_where_they_are_trained() {
    let mut before = model(1);
    before.grow(VOCABULARY + 3, 9).unwrap();
    let new = VOCABULARY as u32;
    let lessons = [Lesson::text(vec![1, new, 2, new + 1, 3, new + 2])];
    let config = LearnerConfig {
        steps: 40,
        lessons_per_step: 1,
        scope: TrainScope::NewTokens { from: VOCABULARY },
        ..config()
    };
    let (losses, after) = train(before.clone(), config, &lessons);
    assert_eq!(changed(&before, &after), [EMBEDDING]);
    let rows = |model: &TrainableDecoder| {
        model.parameters.get(EMBEDDING).unwrap().to_vec2::<f32>().unwrap()
    };
    let (old, now) = (rows(&before), rows(&after));
    assert_eq!(old[..VOCABULARY], now[..VOCABULARY]);
    assert!((VOCABULARY..VOCABULARY + 3).all(|row| old[row] != now[row]));
    assert!(losses[39] < losses[0], "{losses:?}");
    let error = Trainer::new(
        before,
        LearnerConfig { scope: TrainScope::NewTokens { from: 43 }, ..config },
        &lessons,
    );
    assert!(error.unwrap_err().to_string().contains("none from 43 on"));
}

// === How it trains ===

#[test]
fn small_batches_add_up_to_the_big_one() {
    let lessons = [texts(), choices()].concat();
    let with = |max_batched_tokens| {
        let config = LearnerConfig {
            steps: 4,
            lessons_per_step: 8,
            max_batched_tokens,
            learning_rate: 1e-3,
            ..config()
        };
        train(model(3), config, &lessons)
    };
    let ((big, one), (small, many)) = (with(1000), with(14));
    assert!(close(&big, &small, 1e-5), "{big:?} and {small:?}");
    let (one, many) = (values(&one), values(&many));
    for (name, one) in one {
        assert!(one.iter().zip(&many[&name]).all(|(a, b)| (a - b).abs() < 5e-4), "{name}");
    }
}

#[test]
fn recomputed_layers_learn_the_same() {
    let lessons = [texts(), choices()].concat();
    let with = |gradient_checkpointing| {
        let scope = TrainScope::Lora { rank: 4, alpha: 8.0, dropout: 0.2 };
        [TrainScope::Full, scope].map(|scope| {
            train(model(3), LearnerConfig { gradient_checkpointing, scope, ..config() }, &lessons).0
        })
    };
    let (plain, recomputed) = (with(false), with(true));
    for (plain, recomputed) in plain.iter().zip(&recomputed) {
        assert!(close(plain, recomputed, 1e-5), "{plain:?} and {recomputed:?}");
    }
}

#[test]
fn in_bf16_the_same_is_learned_from_smaller_rows() {
    let lessons = [texts(), choices()].concat();
    let scope = TrainScope::Lora { rank: 4, alpha: 8.0, dropout: 0.0 };
    for (scope, gradient_checkpointing) in
        [(TrainScope::Full, false), (scope, false), (scope, true)]
    {
        let config = LearnerConfig {
            scope,
            gradient_checkpointing,
            steps: 20,
            learning_rate: 3e-3,
            ..config()
        };
        let (full, _) = train(model(3), config, &lessons);
        let (half, learned) =
            train(model(3), LearnerConfig { dtype: ComputeDtype::Bf16, ..config }, &lessons);
        for (full, half) in full.iter().zip(&half) {
            assert!((half / full - 1.0).abs() < 0.03, "{half} is not near {full}");
        }
        assert!(half != full && half[19] < half[0] - 0.2, "{half:?}");
        // Trained weights are stored in 32 bits, and frozen ones in 16.
        let kept = learned.parameters.iter().filter(|(_, tensor)| tensor.rank() > 1);
        let kept: Vec<_> = kept.map(|(_, tensor)| tensor.dtype()).collect();
        let expected = if scope == TrainScope::Full { DType::F32 } else { DType::BF16 };
        assert!(kept.iter().all(|dtype| *dtype == expected), "{kept:?}");
        let home = tempfile::tempdir().unwrap();
        learned.save(home.path(), Path::new("")).unwrap();
        let saved =
            evaluation_loss(&TrainableDecoder::open(home.path()).unwrap(), &texts(), 64).unwrap();
        assert!((saved / evaluation_loss(&learned, &texts(), 64).unwrap() - 1.0).abs() < 0.02);
    }
}

#[test]
fn gradients_of_a_pass_in_bf16_are_near_and_all_there() {
    let mut model = model(3);
    model.parameters.train(|_| true).unwrap();
    let lessons = [texts(), choices()].concat();
    let batch = LessonBatch::new(&lessons.iter().collect::<Vec<_>>());
    let gradients = |dtype| {
        let mut exact = model.exact(&batch.batch, dtype).unwrap();
        let rows = forward(&model.config, &mut exact).unwrap();
        assert_eq!(rows.dtype(), dtype);
        batch.loss(&exact, &rows, normalisers(&lessons)).unwrap().backward().unwrap()
    };
    let (full, half) = (gradients(DType::F32), gradients(DType::BF16));
    for (name, variable) in model.parameters.iter() {
        let (full, half) = (full.get(variable).unwrap(), half.get(variable).unwrap());
        assert_eq!(half.dtype(), DType::F32, "{name}");
        let size = |tensor: &Tensor| tensor.sqr().unwrap().sum_all().unwrap();
        let size = |tensor| size(tensor).to_scalar::<f32>().unwrap().sqrt();
        let apart = size(&(full - half).unwrap()) / size(full);
        assert!(apart > 0.0 && apart < 0.05, "{name} is {apart} apart");
    }
}

#[test]
fn a_resumed_training_goes_on_as_if_it_had_not_stopped() {
    let lessons = texts();
    let adapters = TrainScope::Lora { rank: 4, alpha: 8.0, dropout: 0.2 };
    let kinds = [
        (TrainScope::Full, ComputeDtype::F32),
        (adapters, ComputeDtype::F32),
        (adapters, ComputeDtype::Bf16),
    ];
    for (scope, dtype) in kinds {
        let config = LearnerConfig { scope, dtype, ..config() };
        let (straight, straight_model) = train(model(4), config, &lessons);
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("kept/training.safetensors");
        let checkpoints = Some(CheckpointPolicy { file: &file, every: 100 });
        let stop = StopSignal::default();
        let mut first = Trainer::new(model(4), config, &lessons).unwrap();
        let report = first.run(checkpoints, &stop, |progress| {
            if progress.step.step == 3 {
                stop.request();
            }
        });
        let report = report.unwrap();
        assert!(report.stopped && report.losses.len() == 3);
        drop(first);

        let mut second = Trainer::new(model(4), config, &lessons).unwrap();
        second.load_checkpoint(&file).unwrap();
        let report = run(&mut second);
        assert!(!report.stopped);
        assert_eq!(report.losses, straight);
        assert_eq!(values(second.learner().model()), values(&straight_model));

        let says = |config, lessons: &[Lesson]| {
            let mut other = Trainer::new(model(4), config, lessons).unwrap();
            let error = other.load_checkpoint(&file).unwrap_err();
            format!("{error:#}")
        };
        assert!(
            says(LearnerConfig { seed: 6, ..config }, &lessons)
                .contains("it has another configuration")
        );
        assert!(says(config, &lessons[1..]).contains("it was trained on other lessons"));
    }
}

#[test]
fn a_learner_takes_the_lessons_of_each_step_from_its_caller() {
    let (dataset, config) = (texts(), config());
    let (expected, trained) = train(model(4), config, &dataset);
    let mut order = LessonOrder::new(dataset.len(), config.seed);
    let mut learner = Learner::new(model(4), config).unwrap();
    for (step, loss) in expected.iter().enumerate() {
        let indices = order.of_step(step, config.lessons_per_step);
        let lessons: Vec<&Lesson> = indices.map(|index| &dataset[index]).collect();
        let report = learner.step(&lessons).unwrap();
        assert_eq!((report.step, report.of, report.loss), (step + 1, config.steps, *loss));
    }
    assert_eq!(values(learner.model()), values(&trained));
    let error = learner.step(&[&dataset[0]]).unwrap_err().to_string();
    assert_eq!(error, "all 6 steps of the training are done");
}

#[test]
fn an_online_training_resumes_to_the_same_bits() {
    let fresh = |step: u32| -> Vec<Lesson> {
        let count = 1 + step % 3;
        let text =
            |at| Lesson::text((0..9 + at).map(|token| (token * (step + 3) + at) % 30).collect());
        (0..count).map(text).collect()
    };
    let teach = |learner: &mut Learner, step| {
        let lessons = fresh(step);
        learner.step(&lessons.iter().collect::<Vec<_>>()).unwrap();
    };
    let mut straight = Learner::new(model(4), config()).unwrap();
    (0..6).for_each(|step| teach(&mut straight, step));
    assert_eq!(straight.losses().len(), 6);

    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("training.safetensors");
    let data = DataFingerprint::of_source(b"the prompts of an online training");
    let mut first = Learner::new(model(4), config()).unwrap();
    (0..2).for_each(|step| teach(&mut first, step));
    first.save_checkpoint(&file, &data).unwrap();
    let mut second = Learner::new(model(4), config()).unwrap();
    second.load_checkpoint(&file, &data).unwrap();
    (2..6).for_each(|step| teach(&mut second, step));
    assert_eq!(second.losses(), straight.losses());
    assert_eq!(values(second.model()), values(straight.model()));
    let other = DataFingerprint::of_source(b"other prompts");
    let error =
        Learner::new(model(4), config()).unwrap().load_checkpoint(&file, &other).unwrap_err();
    assert!(format!("{error:#}").contains("it was trained on other lessons"), "{error:#}");
}

#[test]
fn a_lesson_that_does_not_fit_is_refused_before_the_step() {
    let config = LearnerConfig { max_lesson_tokens: Some(10), ..config() };
    let mut learner = Learner::new(model(4), config).unwrap();
    let before = values(learner.model());
    let says =
        |learner: &mut Learner, lessons: &[&Lesson]| learner.step(lessons).unwrap_err().to_string();
    let (short, long) = (Lesson::text(vec![1; 10]), Lesson::text(vec![1; 11]));
    assert_eq!(says(&mut learner, &[]), "`lessons` is empty");
    let error = says(&mut learner, &[&short, &long]);
    assert_eq!(error, "lesson 1: `tokens` is 11, and `max_lesson_tokens` is 10");
    let error = says(&mut learner, &[&Lesson::text(vec![VOCABULARY as u32, 1])]);
    assert_eq!(error, "lesson 0: `token` is 40, and `the highest token` is 39");
    assert_eq!((learner.steps(), values(learner.model())), (0, before));
    learner.step(&[&short]).unwrap();
}

#[test]
fn a_run_reports_each_step_and_the_time_left() {
    let lessons = texts();
    let mut trainer = Trainer::new(model(1), config(), &lessons).unwrap();
    let mut seen = Vec::new();
    let report =
        trainer.run(None, &StopSignal::default(), |progress| seen.push(*progress)).unwrap();
    let steps: Vec<_> =
        seen.iter().map(|progress| (progress.step.step, progress.step.of)).collect();
    assert_eq!(steps, [(1, 6), (2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]);
    let losses: Vec<_> = seen.iter().map(|progress| progress.step.loss).collect();
    assert_eq!(losses, report.losses);
    assert!(seen.iter().all(|progress| progress.tokens_per_second > 0.0));
    let left: Vec<_> = seen.iter().map(|progress| progress.eta_seconds).collect();
    assert!(left[..5].iter().all(|left| *left > 0.0) && left[5].abs() < 1e-9, "{left:?}");
}

#[test]
fn a_loss_that_is_not_finite_stops_the_training() {
    let mut model = model(1);
    let norm = Tensor::full(f32::NAN, 32, &Device::Cpu).unwrap();
    model.parameters.insert("model.norm.weight", norm);
    let lessons = texts();
    let mut trainer = Trainer::new(model, config(), &lessons).unwrap();
    let error = trainer.run(None, &StopSignal::default(), |_| {}).unwrap_err().to_string();
    assert_eq!(error, "the loss is NaN at step 1");
}
