//! Lessons to a language model, as a recipe has it: with progress, and taken up where they were
//! put down.

use super::learner::{CheckpointPolicy, Learner, LearnerConfig, TrainReport, TrainScope};
use super::lesson::Lesson;
use super::recipe::TrainingRecipe;
use super::workspace::Workspace;
use crate::nn::decoder::TrainableDecoder;
use crate::reranker::Prompts;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// Steps after which a training is put down.
const KEPT_EVERY: usize = 200;
/// The share of the steps over which the learning rate rises, and the most steps.
const WARM_UP: (f64, usize) = (0.05, 100);
/// Losses that a report shows.
const LOSSES_SHOWN: usize = 20;
/// Opens a model that is to learn, with room for every token of the prompts.
pub fn open(folder: &Path, prompts: &Prompts, seed: u64) -> anyhow::Result<TrainableDecoder> {
    let opening = || format!("opening the language model {}", folder.display());
    let mut model = TrainableDecoder::open(folder).with_context(opening)?;
    let known = model.config.vocabulary;
    model.grow(known.max(prompts.vocabulary().len()), seed)?;
    Ok(model)
}

/// Writes a model that has learned, with its words.
pub fn save(model: &TrainableDecoder, prompts: &Prompts, folder: &Path) -> anyhow::Result<()> {
    let writing = || format!("writing the language model {}", folder.display());
    model.save(folder, Path::new("")).with_context(writing)?;
    prompts.vocabulary().save(folder).with_context(writing)
}

/// Teaches a model what is in `lessons`. `what` names the training in its progress and in the file
/// that it is put down in: if there is one from before, it goes on from there.
pub fn teach(
    workspace: &mut Workspace<'_>,
    what: &str,
    model: TrainableDecoder,
    teaching: &TrainingRecipe,
    scope: TrainScope,
    lessons: &[Lesson],
) -> anyhow::Result<(TrainableDecoder, TrainReport)> {
    let steps = (teaching.epochs * lessons.len() as f64 / teaching.batch as f64).ceil() as usize;
    let plan = LearnerConfig {
        scope,
        steps,
        lessons_per_step: teaching.batch,
        max_batched_tokens: teaching.rows_max,
        learning_rate: teaching.learning_rate,
        warmup_steps: ((steps as f64 * WARM_UP.0) as usize).min(WARM_UP.1),
        weight_decay: teaching.weight_decay,
        gradient_checkpointing: teaching.recompute,
        dtype: teaching.dtype,
        device: teaching.device,
        seed: workspace.recipe.seed,
        ..LearnerConfig::default()
    };
    let mut learner = Learner::new(model, plan, lessons)?;
    let file = workspace.dir.join(format!("{what}.training.safetensors"));
    if file.exists() {
        learner.resume(&file)?;
    }
    let keeping = CheckpointPolicy { file: &file, every: KEPT_EVERY };
    let report = learner.run(Some(keeping), &AtomicBool::new(false), |step| {
        let told = format!("{what}, loss {:.3}", step.loss);
        workspace.progress.show(&told, step.number as u64, step.of as u64);
    })?;
    std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    Ok((learner.into_model(), report))
}

/// What a training did, for a stage's report.
pub fn told(report: &TrainReport) -> Value {
    let losses = &report.losses;
    let each = losses.len().div_ceil(LOSSES_SHOWN).max(1);
    let mean = |part: &[f64]| {
        let mean = part.iter().sum::<f64>() / part.len() as f64;
        (mean * 1e4).round() / 1e4
    };
    json!({
        "steps": losses.len(),
        "losses": losses.chunks(each).map(mean).collect::<Vec<_>>(),
        "tokens_per_second": report.tokens_per_second.round(),
        "padding": (report.padding * 1e4).round() / 1e4,
        "seconds": report.seconds.round(),
    })
}
