//! The gradients of adapters on a GPU agree with those on the CPU. Run by `scripts/cuda-check`, on an emulated device where
//! there is no GPU.

#![cfg(feature = "cuda")]
#![expect(clippy::unwrap_used, reason = "a test's helper fails as a test does")]

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use raisonne::engine::ComputeDevice;
use raisonne::nn::cuda::{Backprop, BackpropError, BackpropOptions};
use raisonne::nn::decoder::{Adapters, LinearId, TokenBatch, TrainableDecoder, backprop, lora};
use raisonne::nn::{BranchTargets, RowTargets};
use raisonne::train::learner_config::{ComputeDtype, LearnerConfig, TrainScope};
use raisonne::train::lesson::{Choose, Lesson, LessonBatch, Reinforce, normalisers};
use raisonne::train::{StopSignal, Trainer};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The models beside `fixtures/decoder/make.py`: norms of heads, windows, long positions, tied tables and biases.
const MODELS: [&str; 6] =
    ["qwen3", "qwen3-window", "qwen2-yarn", "qwen2-tied", "llama3", "llama-biased"];
const RANK: usize = 4;
const ROWS_MAX: usize = 96;
/// How far a loss in 16 bits may be from the right one, and gradients, which many sums go into.
const NEAR: f64 = 5e-3;
const SHORT: f64 = 0.02;

/// One test at a time: an emulated device has one thread.
static DEVICE: Mutex<()> = Mutex::new(());

fn device() -> MutexGuard<'static, ()> {
    DEVICE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fixture(name: &str) -> PathBuf {
    // Where the test runs, and not where it was built: a machine with a GPU may have nothing to build with.
    Path::new("tests/fixtures/decoder").join(name)
}

/// A model of the fixtures whose adapters have learned something already, on some matrices or on all.
fn model(name: &str, dropout: f32, matrices: impl Fn(LinearId) -> bool) -> TrainableDecoder {
    let mut model = TrainableDecoder::open(&fixture(name)).unwrap();
    model.parameters.freeze();
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let plan = lora::LoraConfig { rank: RANK, alpha: 8.0, dropout };
    let all =
        (0..model.config.layers).flat_map(LinearId::of_layer).filter(|matrix| matrices(*matrix));
    let adapters = Adapters::new(&model.config, plan, all, &mut random, &Device::Cpu).unwrap();
    for variable in adapters.variables().unwrap() {
        let drawn = (0..variable.elem_count()).map(|_| random.random_range(-0.2_f32..0.2));
        let drawn = Tensor::from_iter(drawn, &Device::Cpu).unwrap();
        variable.set(&drawn.reshape(variable.shape()).unwrap()).unwrap();
    }
    model.adapters = Some(adapters);
    model
}

/// Texts of two lengths, one of which the model wrote itself, and a trunk with branches that also teaches some of its
/// tokens.
fn lessons(vocabulary: u32) -> Vec<Lesson> {
    let tokens = |length: u32, turn: u32| -> Vec<u32> {
        (0..length).map(|at| (at * at * turn + at) % vocabulary).collect()
    };
    let branches = vec![vec![3, 9], vec![17], vec![5, 11, 2], vec![8]];
    let choose = Choose { branches, taken: 2, label_token: 7 };
    let mut choice = Lesson::choice((1..15).map(|at| at * 5 % vocabulary).collect(), choose);
    choice.sft_weights[5] = 0.5;
    choice.sft_weights[9] = 2.0;
    // It may go far: what lies beyond a bound is for the kernels to show.
    let advantages = (0..19).map(|at| [0.0, 1.0, -0.5][at % 3]).collect();
    let reinforce = Reinforce {
        advantages,
        old_logprobs: vec![-5.0; 19],
        clip_eps: [0.9, 1e6],
        normaliser: 40.0,
    };
    let mut written = Lesson::reinforced(tokens(19, 7), reinforce);
    written.sft_weights[4] = 1.0;
    vec![Lesson::text(tokens(23, 3)), choice, written]
}

/// The gradients of a model's adapters by a store, one after the other.
fn numbers(model: &TrainableDecoder, gradients: &GradStore) -> Vec<f32> {
    let adapters = model.adapters.as_ref().unwrap();
    let each = |variable: Var| {
        let gradient = gradients.get(&variable).unwrap();
        gradient.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    adapters.variables().unwrap().into_iter().flat_map(each).collect()
}

fn on_processor(model: &TrainableDecoder, lessons: &[&Lesson], dtype: DType) -> (f64, Vec<f32>) {
    let (lesson_batch, normalisers) =
        (LessonBatch::new(lessons), normalisers(lessons.iter().copied()));
    let mut exact = model.exact(&lesson_batch.batch, dtype).unwrap();
    let (loss, gradients) =
        backprop(&mut exact, |exact, rows| lesson_batch.loss(exact, rows, normalisers)).unwrap();
    (f64::from(loss.to_scalar::<f32>().unwrap()), numbers(model, &gradients))
}

fn options(length_max: usize) -> BackpropOptions {
    BackpropOptions { ordinal: 0, rows_max: ROWS_MAX, length_max, logits_max: 1 << 20 }
}

fn load(model: &TrainableDecoder, length_max: usize) -> Backprop {
    Backprop::load(model, options(length_max)).unwrap()
}

fn on_gpu(
    backprop: &mut Backprop,
    model: &TrainableDecoder,
    lessons: &[&[&Lesson]],
) -> (f64, Vec<f32>) {
    let normalisers = normalisers(lessons.iter().copied().flatten().copied());
    let adapters = model.adapters.as_ref().unwrap();
    backprop.take(adapters).unwrap();
    let pass = |lessons: &&[&Lesson]| {
        let lesson_batch = LessonBatch::new(lessons);
        backprop.pass(&lesson_batch.batch, lesson_batch.row_targets(normalisers), 7).unwrap()
    };
    let loss = lessons.iter().map(pass).sum();
    (loss, numbers(model, &backprop.gradients(adapters).unwrap()))
}

/// The root mean square of what is off, over that of what is right.
fn off(found: &[f32], right: &[f32]) -> f64 {
    let square = |number: f32| f64::from(number).powi(2);
    let error: f64 = found.iter().zip(right).map(|(found, right)| square(found - right)).sum();
    (error / right.iter().copied().map(square).sum::<f64>()).sqrt()
}

#[test]
fn gradients_are_as_near_to_f32_as_the_processors_in_16_bits() {
    let _one = device();
    for name in MODELS {
        let model = model(name, 0.0, |_| true);
        let lessons = lessons(model.config.vocabulary as u32);
        let lessons: Vec<&Lesson> = lessons.iter().collect();
        let (loss, right) = on_processor(&model, &lessons, DType::F32);
        let (_, short) = on_processor(&model, &lessons, DType::BF16);
        let (found_loss, found) = on_gpu(&mut load(&model, 24), &model, &[&lessons]);
        let (found_off, short_off) = (off(&found, &right), off(&short, &right));
        println!("{name}: {found_off:.4} off, and a processor's bf16 {short_off:.4}");
        assert!(found_off <= short_off, "{name}: {found_off}, and in 16 bits {short_off}");
        assert!((found_loss / loss - 1.0).abs() < NEAR, "{name}: {found_loss}, not {loss}");
    }
}

#[test]
fn only_what_has_an_adapter_is_trained() {
    let _one = device();
    let model = model("qwen3", 0.0, |of| matches!(of, LinearId::Query(_) | LinearId::Value(1)));
    let lessons = lessons(model.config.vocabulary as u32);
    let lessons: Vec<&Lesson> = lessons.iter().collect();
    let (_, right) = on_processor(&model, &lessons, DType::F32);
    let (_, found) = on_gpu(&mut load(&model, 24), &model, &[&lessons]);
    let of_all = (0..model.config.layers).flat_map(LinearId::of_layer).count();
    assert!(model.adapters.as_ref().unwrap().variables().unwrap().len() < of_all);
    assert!(off(&found, &right) < SHORT, "{} off", off(&found, &right));
}

#[test]
fn little_room_for_logits_changes_no_bit() {
    let _one = device();
    let model = model("qwen3-window", 0.0, |_| true);
    let lessons = lessons(model.config.vocabulary as u32);
    let lessons: Vec<&Lesson> = lessons.iter().collect();
    let whole = on_gpu(&mut load(&model, 24), &model, &[&lessons]);
    // One row of the vocabulary and one head of keys at a time, or a few.
    for logits_max in [1, 3 * model.config.vocabulary] {
        let options = BackpropOptions { logits_max, ..options(24) };
        let parts = on_gpu(&mut Backprop::load(&model, options).unwrap(), &model, &[&lessons]);
        assert_eq!(parts, whole);
    }
}

#[test]
fn batches_add_up_and_what_was_taken_anew_begins_at_nothing() {
    let _one = device();
    let model = model("qwen3", 0.0, |_| true);
    let lessons = lessons(model.config.vocabulary as u32);
    let each: Vec<&Lesson> = lessons.iter().collect();
    let mut backprop = load(&model, 24);
    let (loss, together) = on_gpu(&mut backprop, &model, &[&each]);
    let (parts_loss, parts) = on_gpu(&mut backprop, &model, &[&each[..1], &each[1..]]);
    assert!((loss / parts_loss - 1.0).abs() < 1e-5, "{parts_loss}, not {loss}");
    assert!(off(&parts, &together) < SHORT, "{} off", off(&parts, &together));
    assert_eq!(on_gpu(&mut backprop, &model, &[&each]), (loss, together));
}

#[test]
fn what_is_left_out_is_left_out_on_the_way_back() {
    let _one = device();
    let model = model("qwen3", 0.3, |_| true);
    let lessons = lessons(model.config.vocabulary as u32);
    let lessons: Vec<&Lesson> = lessons.iter().collect();
    let mut backprop = load(&model, 24);
    let (loss, gradient) = on_gpu(&mut backprop, &model, &[&lessons]);
    assert_eq!(on_gpu(&mut backprop, &model, &[&lessons]).1, gradient);
    // A small step along the gradient changes the loss by about as much as it says; the same origin leaves out the same inputs.
    let length: f64 = gradient.iter().map(|number| f64::from(*number).powi(2)).sum::<f64>().sqrt();
    let step = 0.01;
    let [up, down] = [step, -step].map(|step| {
        let mut at = 0;
        let variables = model.adapters.as_ref().unwrap().variables().unwrap();
        let before: Vec<Tensor> =
            variables.iter().map(|variable| variable.copy().unwrap()).collect();
        for variable in &variables {
            let part = &gradient[at..at + variable.elem_count()];
            at += part.len();
            let part = Tensor::from_slice(part, variable.shape(), &Device::Cpu).unwrap();
            variable
                .set(&(variable.as_tensor() + (part * (step / length)).unwrap()).unwrap())
                .unwrap();
        }
        let (loss, _) = on_gpu(&mut backprop, &model, &[&lessons]);
        variables.iter().zip(before).for_each(|(variable, before)| variable.set(&before).unwrap());
        loss
    });
    let slope = (up - down) / (2.0 * step);
    assert!((slope / length - 1.0).abs() < 0.1, "a slope of {slope}, not {length}; loss {loss}");
}

#[test]
fn a_learner_learns_on_a_gpu_what_it_learns_on_a_processor() {
    let _one = device();
    let begin = || {
        let mut model = TrainableDecoder::open(&fixture("qwen3")).unwrap();
        model.parameters.freeze();
        model
    };
    let vocabulary = begin().config.vocabulary as u32;
    let lessons = lessons(vocabulary);
    let config = LearnerConfig {
        scope: TrainScope::of(Some(RANK)),
        steps: 8,
        lessons_per_step: 3,
        max_batched_tokens: ROWS_MAX,
        learning_rate: 1e-2,
        warmup_steps: 2,
        dtype: ComputeDtype::Bf16,
        ..LearnerConfig::default()
    };
    let train = |device: ComputeDevice| {
        let mut trainer =
            Trainer::new(begin(), LearnerConfig { device, ..config }, &lessons).unwrap();
        trainer.run(None, &StopSignal::default(), |_| {}).unwrap().losses
    };
    let (right, found) = (train(ComputeDevice::Cpu), train(ComputeDevice::Gpu(0)));
    for (found, right) in found.iter().zip(&right) {
        assert!((found / right - 1.0).abs() < 0.02, "{found}, not {right}");
    }
    assert!(found[7] < 0.8 * found[0], "{found:?}");

    // A checkpoint of one device resumes on the other.
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("training.safetensors");
    let on_gpu = LearnerConfig { device: ComputeDevice::Gpu(0), ..config };
    let mut first = Trainer::new(begin(), on_gpu, &lessons).unwrap();
    (0..4).for_each(|_| assert!(first.step().unwrap().loss > 0.0));
    first.save_checkpoint(&file).unwrap();
    drop(first);
    for (device, near) in [(ComputeDevice::Gpu(0), 1e-9), (ComputeDevice::Cpu, 0.02)] {
        let mut second =
            Trainer::new(begin(), LearnerConfig { device, ..config }, &lessons).unwrap();
        second.load_checkpoint(&file).unwrap();
        let losses = second.run(None, &StopSignal::default(), |_| {}).unwrap().losses;
        assert!((losses[7] / found[7] - 1.0).abs() < near, "{}, not {}", losses[7], found[7]);
    }
}

#[test]
fn what_does_not_fit_is_named() {
    let _one = device();
    let mut model = model("qwen3", 0.0, |_| true);
    let mut backprop = load(&model, 24);
    let batch = TokenBatch::plain(&[vec![1; 25]]);
    let lesson_batch = LessonBatch::default();
    let normalisers = normalisers([]);
    let error =
        backprop.pass(&batch, lesson_batch.row_targets(normalisers), 0).unwrap_err().to_string();
    let right = "a batch has 25 rows in sequences of 25, and there is room for 96 in such of 24";
    assert_eq!(error, right);
    let mut batch = TokenBatch::plain(&[vec![1; 9]]);
    batch.positions[3] = 24;
    let error =
        backprop.pass(&batch, lesson_batch.row_targets(normalisers), 0).unwrap_err().to_string();
    assert_eq!(error, "a batch has position 24, and there are 24");
    let batch = TokenBatch::plain(&[vec![model.config.vocabulary as u32]]);
    let error =
        backprop.pass(&batch, lesson_batch.row_targets(normalisers), 0).unwrap_err().to_string();
    assert!(error.starts_with("a batch has token "), "{error}");
    let choices = [BranchTargets { rows: vec![8, 9], label_token: 3 }];
    let aims = RowTargets {
        branches: &choices,
        branches_normaliser: 1.0,
        ..lesson_batch.row_targets(normalisers)
    };
    let error = backprop.pass(&TokenBatch::plain(&[vec![1; 9]]), aims, 0).unwrap_err().to_string();
    assert_eq!(error, "2 rows of a choice are not two of 9 or more");
    let plan = lora::LoraConfig { rank: RANK, ..lora::LoraConfig::default() };
    let mut random = ChaCha8Rng::seed_from_u64(3);
    let adapters =
        Adapters::new(&model.config, plan, [LinearId::Unembed], &mut random, &Device::Cpu);
    model.adapters = Some(adapters.unwrap());
    let error = Backprop::load(&model, options(24)).unwrap_err().to_string();
    assert!(error.ends_with("has one on `lm_head.weight`"), "{error}");
    model.adapters = None;
    let error = Backprop::load(&model, options(24)).unwrap_err();
    assert!(matches!(error, BackpropError::NoAdapters), "{error}");
}
