//! How many tokens does a training step process in a second?

use crate::nn::decoder::TrainableDecoder;
use crate::train::learner::StepReport;
use crate::train::learner_config::{LearnerConfig, TrainScope};
use crate::train::lesson::{Lesson, LessonOrder, Reinforce};
use crate::train::{StopSignal, Trainer};
use anyhow::{Context as _, Result, ensure};
use candle_core::{DType, Device};
use serde::Serialize;
use std::io::Write;
use std::path::PathBuf;

/// Untimed steps at the start, while memory is cold.
const COLD_STEPS: usize = 2;
/// The tensor of a file of lessons: (lessons, tokens).
const TOKENS: &str = "tokens";

/// The options of `raisonne bench learner`.
#[derive(Debug, Clone)]
pub struct LearnerOptions {
    /// The model to train.
    pub model: PathBuf,
    /// The file of lessons.
    pub lessons: PathBuf,
    /// The training configuration.
    pub plan: LearnerConfig,
    /// Whether lessons count as the model's own samples, for policy gradients.
    pub reinforce: bool,
    /// Prints JSON instead of lines.
    pub json: bool,
}

/// The measurements.
#[derive(Debug, Serialize)]
struct LearnerReport {
    threads: usize,
    parameters: usize,
    /// The rank of the adapters, if only adapters are trained.
    rank: Option<usize>,
    /// GPU memory of the training.
    gpu_bytes: Option<usize>,
    /// The tokens of a step over the median time of a step.
    tokens_per_second: f64,
    step_seconds: f64,
    losses: Vec<f64>,
    norms: Vec<f64>,
    /// The lessons of each step, so that another trainer can take the same.
    order: Vec<Vec<usize>>,
}

/// Trains a model for some steps.
pub fn learner(options: &LearnerOptions, out: &mut dyn Write) -> Result<()> {
    let LearnerOptions { model, lessons, plan, reinforce, json } = options;
    ensure!(plan.steps > COLD_STEPS, "`steps` is {}, not above {COLD_STEPS}", plan.steps);
    let tensors = candle_core::safetensors::load(lessons, &Device::Cpu)
        .with_context(|| format!("reading {}", lessons.display()))?;
    let tokens = tensors.get(TOKENS).with_context(|| format!("there is no tensor `{TOKENS}`"))?;
    let tokens = tokens.to_dtype(DType::U32)?.to_vec2()?;
    // Trained parameters are in f32, whatever the products are in.
    let (rank, kept) = match plan.scope {
        TrainScope::Lora { rank, .. } => (Some(rank), plan.dtype.into()),
        TrainScope::Full | TrainScope::NewTokens { .. } => (None, DType::F32),
    };
    let opened = TrainableDecoder::open_in(model, kept);
    let model = opened.with_context(|| format!("opening {}", model.display()))?;
    let lessons: Vec<Lesson> = if *reinforce {
        let lessons = tokens.into_iter().enumerate();
        lessons.map(|(at, tokens)| generated_lesson(tokens, at, model.config.vocabulary)).collect()
    } else {
        tokens.into_iter().map(Lesson::text).collect()
    };
    let parameters = model.parameters.iter().map(|(_, tensor)| tensor.elem_count()).sum();
    let mut steps: Vec<StepReport> = Vec::new();
    let mut trainer = Trainer::new(model, *plan, &lessons)?;
    trainer.run(None, &StopSignal::default(), |progress| steps.push(progress.step))?;

    let mut order = LessonOrder::new(lessons.len(), plan.seed);
    let mut times: Vec<StepReport> = steps[COLD_STEPS..].to_vec();
    times.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    let median = times[times.len() / 2];
    let report = LearnerReport {
        threads: rayon::current_num_threads(),
        parameters,
        rank,
        gpu_bytes: trainer.learner().gpu_bytes(),
        tokens_per_second: median.tokens as f64 / median.seconds,
        step_seconds: median.seconds,
        losses: steps.iter().map(|step| step.loss).collect(),
        norms: steps.iter().map(|step| step.grad_norm).collect(),
        order: (0..plan.steps)
            .map(|step| order.of_step(step, plan.lessons_per_step).collect())
            .collect(),
    };
    if *json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&report)?)?);
    }
    let LearnerReport { threads, tokens_per_second, step_seconds, losses, gpu_bytes, .. } = report;
    match gpu_bytes {
        Some(bytes) => writeln!(out, "{parameters} parameters, {bytes} bytes on a GPU")?,
        None => writeln!(out, "{parameters} parameters, {threads} threads")?,
    }
    writeln!(out, "{tokens_per_second:.0} tokens/s, {step_seconds:.3} s a step")?;
    writeln!(out, "loss {:.4} -> {:.4}", losses[0], losses[losses.len() - 1])?;
    Ok(())
}

/// A lesson as if the model had sampled it from a uniform distribution. Every second one has a negative advantage.
fn generated_lesson(tokens: Vec<u32>, at: usize, vocabulary: usize) -> Lesson {
    let count = tokens.len();
    let advantage = if at.is_multiple_of(2) { 1.0 } else { -1.0 };
    let advantages = (0..count).map(|place| if place > 0 { advantage } else { 0.0 }).collect();
    let old_logprobs = vec![-(vocabulary as f32).ln(); count];
    let normaliser = count.saturating_sub(1) as f64;
    Lesson::reinforced(
        tokens,
        Reinforce { advantages, old_logprobs, clip_eps: [0.2, 0.28], normaliser },
    )
}
