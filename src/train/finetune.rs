//! Fine-tuning of a language model as a recipe configures it: with progress, checkpoints and a stop signal.

use super::learner::StepReport;
use super::learner_config::{LearnerConfig, TrainScope};
use super::lesson::Lesson;
use super::progress::ProgressUpdate;
use super::recipe::TrainingRecipe;
use super::stop::Stopped;
use super::trainer::{CheckpointPolicy, TrainReport, Trainer};
use super::workspace::Workspace;
use crate::nn::decoder::TrainableDecoder;
use crate::reranker::Prompts;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::path::Path;

/// Steps between two checkpoints.
const CHECKPOINT_EVERY: usize = 200;
/// The share of the steps that warm up, and their upper bound.
const WARMUP_RATIO: f64 = 0.05;
const WARMUP_STEPS_MAX: usize = 100;
/// Losses in a report: each is the mean of a run of steps.
const LOSSES_SHOWN: usize = 20;

/// Opens a model for training, and adds embeddings for the prompts' new tokens.
pub fn open_model(folder: &Path, prompts: &Prompts, seed: u64) -> anyhow::Result<TrainableDecoder> {
    let opening = || format!("opening the language model {}", folder.display());
    let mut model = TrainableDecoder::open(folder).with_context(opening)?;
    let known = model.config.vocabulary;
    model.grow(known.max(prompts.tokenizer().len()), seed)?;
    Ok(model)
}

/// Writes a trained model and its tokenizer as a Hugging Face folder.
pub fn save_model(
    model: &TrainableDecoder,
    prompts: &Prompts,
    folder: &Path,
) -> anyhow::Result<()> {
    let writing = || format!("writing the language model {}", folder.display());
    model.save(folder, Path::new("")).with_context(writing)?;
    prompts.tokenizer().save(folder).with_context(writing)
}

/// Trains a model on `lessons`. `task` names the training in its progress and its checkpoint; a checkpoint of the same
/// training is resumed. A requested stop is the error [`Stopped`].
pub fn train(
    workspace: &mut Workspace<'_>,
    task: &str,
    model: TrainableDecoder,
    recipe: &TrainingRecipe,
    scope: TrainScope,
    lessons: &[Lesson],
) -> anyhow::Result<(TrainableDecoder, TrainReport)> {
    let steps = (recipe.epochs * lessons.len() as f64 / recipe.batch as f64).ceil() as usize;
    let config = LearnerConfig {
        scope,
        steps,
        lessons_per_step: recipe.batch,
        max_batched_tokens: recipe.max_batched_tokens,
        learning_rate: recipe.learning_rate,
        warmup_steps: ((steps as f64 * WARMUP_RATIO) as usize).min(WARMUP_STEPS_MAX),
        weight_decay: recipe.weight_decay,
        gradient_checkpointing: recipe.recompute,
        dtype: recipe.dtype,
        device: recipe.device,
        seed: workspace.recipe.seed,
        ..LearnerConfig::default()
    };
    let mut trainer = Trainer::new(model, config, lessons)?;
    let file = workspace.dir.join(format!("{task}.training.safetensors"));
    if file.exists() {
        trainer.load_checkpoint(&file)?;
    }
    let checkpoints = CheckpointPolicy { file: &file, every: CHECKPOINT_EVERY };
    let stop = workspace.stop.clone();
    let report = trainer.run(Some(checkpoints), &stop, |progress| {
        let StepReport { step, of, loss, learning_rate, grad_norm, .. } = progress.step;
        workspace.progress.report(&ProgressUpdate {
            losses: &[("loss", loss)],
            metrics: &[
                ("learning_rate", learning_rate),
                ("grad_norm", grad_norm),
                ("tokens_per_second", progress.tokens_per_second),
            ],
            eta_seconds: Some(progress.eta_seconds),
            ..ProgressUpdate::new(task, step as u64, of as u64)
        });
    })?;
    if report.stopped {
        let (task, step) = (task.to_owned(), report.losses.len());
        return Err(Stopped::Training { task, step, of: steps, file }.into());
    }
    std::fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
    Ok((trainer.into_model(), report))
}
/// A training's figures, for a stage's report.
pub fn report_json(report: &TrainReport) -> Value {
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
