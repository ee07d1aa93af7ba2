//! One learner for all stages that train a language model.
//!
//! A step takes lessons from its caller, packs them into micro-batches that fit into memory, and computes
//! each on a thread of its own. Their gradients add up to those of one big batch. A step is a function of the
//! lessons, the seed and the step's number, so a resumed training comes to the same bits.
//!
//! Which lessons come in which order is the caller's: [`Trainer`](super::Trainer) takes them from a fixed
//! dataset, and an online training generates fresh ones before each step.
//!
//! Passes are in f32 or bf16. TrainedVariable weights, their gradients and the optimiser's moments are always in f32.
//! A GPU may compute the passes of LoRA; the optimiser stays on the CPU.

use super::checkpoint::{self, DataFingerprint};
use super::gpu::GpuGradients;
use super::gradients::{self, BatchGradients};
use super::learner_config::{LearnerConfig, TrainScope};
use super::lesson::{Lesson, LessonBatch, LossNormalisers, normalisers, pack};
use crate::nn::decoder::{Adapters, EMBEDDING, LinearId, TrainableDecoder, forward, lora};
use crate::nn::optim::{AdamW, AdamWConfig, TrainedVariable};
use anyhow::{Context as _, ensure};
use candle_core::{DType, Device, Tensor, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::Serialize;
use std::path::Path;
use tokio::time::Instant;

/// The figures of one step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// The step's number, from 1 on.
    pub step: usize,
    /// Steps of the whole training.
    pub of: usize,
    /// The loss before the step.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Tokens of the lessons, those of branches included.
    pub tokens: usize,
    /// Padding tokens.
    pub padding: usize,
    /// The duration, s.
    pub seconds: f64,
}

/// A model in training.
#[derive(Debug)]
pub struct Learner {
    model: TrainableDecoder,
    config: LearnerConfig,
    optimiser: AdamW,
    /// Computes the passes, if the configured device is a GPU.
    gpu: Option<GpuGradients>,
    /// The loss of each step so far.
    losses: Vec<f64>,
}

// === impl Learner ===

impl Learner {
    /// Prepares a training of `model`: selects the trained weights and reserves the GPU's memory.
    pub fn new(mut model: TrainableDecoder, config: LearnerConfig) -> anyhow::Result<Self> {
        config.check()?;
        let trained = select_trained(&mut model, &config)?;
        let settings = AdamWConfig { weight_decay: config.weight_decay, ..AdamWConfig::default() };
        let optimiser = AdamW::new(trained, settings)?;
        let gpu = GpuGradients::open(&model, &config)?;
        Ok(Self { model, config, optimiser, gpu, losses: Vec::new() })
    }

    /// The model in its current state.
    pub fn model(&self) -> &TrainableDecoder {
        &self.model
    }

    /// The trained model.
    pub fn into_model(self) -> TrainableDecoder {
        self.model
    }

    /// The hyperparameters.
    pub fn config(&self) -> &LearnerConfig {
        &self.config
    }

    /// Bytes of GPU memory that the training holds, if it runs on a GPU.
    pub fn gpu_bytes(&self) -> Option<usize> {
        self.gpu.as_ref().map(GpuGradients::bytes)
    }

    /// Steps so far.
    pub fn steps(&self) -> usize {
        self.losses.len()
    }

    /// The loss of each step since the training began, in earlier processes as well.
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// Whether the model can learn these lessons within the configured limits. An error names the lesson by
    /// its index.
    pub fn check<'l>(&self, lessons: impl IntoIterator<Item = &'l Lesson>) -> anyhow::Result<()> {
        for (index, lesson) in lessons.into_iter().enumerate() {
            lesson.check(index, &self.model.config, self.config.max_batched_tokens)?;
            let (tokens, max) = (lesson.total_tokens(), self.config.max_lesson_tokens);
            let max = max.unwrap_or(tokens);
            ensure!(
                tokens <= max,
                "lesson {index}: `tokens` is {tokens}, and `max_lesson_tokens` is {max}"
            );
        }
        Ok(())
    }

    /// Makes one optimiser step on these lessons. The number of lessons may differ from step to step.
    pub fn step(&mut self, lessons: &[&Lesson]) -> anyhow::Result<StepReport> {
        let begun = Instant::now();
        let (step, of) = (self.steps(), self.config.steps);
        ensure!(step < of, "all {of} steps of the training are done");
        ensure!(!lessons.is_empty(), "`lessons` is empty");
        self.check(lessons.iter().copied())?;
        let normalisers = normalisers(lessons.iter().copied());
        let (mut loss, mut tokens, mut padding) = (0.0, 0, 0);
        let batches = pack(lessons, self.config.max_batched_tokens);
        let batches: Vec<_> = batches.into_iter().enumerate().collect();
        // One micro-batch per CPU thread at a time; a GPU computes all of them, one after the other.
        let concurrency = match &self.gpu {
            Some(_) => batches.len(),
            None => rayon::current_num_threads(),
        };
        for some in batches.chunks(concurrency) {
            // Gradients are added up in the order of the batches, so the number of threads changes no bit.
            for part in self.gradients(some, normalisers) {
                let mut part = part?;
                self.optimiser.add(&mut part.gradients)?;
                loss += part.loss;
                padding += part.padding;
                tokens += part.tokens;
            }
        }
        ensure!(loss.is_finite(), "the loss is {loss} at step {}", step + 1);
        let learning_rate = self.config.learning_rate_at(step);
        let grad_norm = self.optimiser.step(learning_rate, self.config.max_grad_norm)?;
        ensure!(grad_norm.is_finite(), "the gradients' norm is {grad_norm} at step {}", step + 1);
        self.losses.push(loss);
        Ok(StepReport {
            step: step + 1,
            of,
            loss,
            learning_rate,
            grad_norm,
            tokens,
            padding,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// The gradients of some of a step's micro-batches, each with its index.
    fn gradients(
        &mut self,
        batches: &[(usize, Vec<&Lesson>)],
        normalisers: LossNormalisers,
    ) -> Vec<anyhow::Result<BatchGradients>> {
        let step = self.steps();
        let Self { model, config, gpu, .. } = self;
        let seed = |index| dropout_seed(config.seed, step, index);
        if let Some(gpu) = gpu {
            return vec![gpu.compute(model, batches, normalisers, seed)];
        }
        let compute = |(index, lessons): &(usize, Vec<&Lesson>)| {
            gradients::compute(model, config, lessons, normalisers, seed(*index))
        };
        batches.par_iter().map(compute).collect()
    }

    /// Writes a checkpoint. `data` identifies what the training reads.
    pub fn save_checkpoint(&self, file: &Path, data: &DataFingerprint) -> anyhow::Result<()> {
        checkpoint::write(file, &self.config, data, &self.optimiser, &self.losses)
            .with_context(|| format!("saving the checkpoint {}", file.display()))
    }

    /// Resumes from a checkpoint of the same model, configuration and data. Others are refused.
    pub fn load_checkpoint(&mut self, file: &Path, data: &DataFingerprint) -> anyhow::Result<()> {
        self.losses = checkpoint::read(file, &self.config, data, &mut self.optimiser)
            .with_context(|| format!("resuming from the checkpoint {}", file.display()))?;
        Ok(())
    }
}

/// The dropout seed of a micro-batch: its own in each step, and the same in a resumed training.
fn dropout_seed(seed: u64, step: usize, batch: usize) -> u64 {
    seed ^ (step as u64) << 20 ^ (batch as u64) << 44
}

/// The mean loss of a model on lessons, without dropout.
pub fn evaluation_loss(
    model: &TrainableDecoder,
    lessons: &[Lesson],
    max_batched_tokens: usize,
) -> anyhow::Result<f64> {
    let mut model = model.clone();
    model.parameters.freeze();
    if let Some(adapters) = &mut model.adapters {
        adapters.drop_out(None);
    }
    let (normalisers, all) = (normalisers(lessons), lessons.iter().collect::<Vec<_>>());
    let mut sum = 0.0;
    for lessons in pack(&all, max_batched_tokens) {
        let batch = LessonBatch::new(&lessons);
        let mut exact = model.exact(&batch.batch, DType::F32)?;
        let rows = forward(&model.config, &mut exact)?.detach();
        sum += f64::from(batch.loss(&exact, &rows, normalisers)?.to_scalar::<f32>()?);
    }
    Ok(sum)
}

/// Makes variables of the trained weights, and constants of the others.
fn select_trained(
    model: &mut TrainableDecoder,
    config: &LearnerConfig,
) -> anyhow::Result<Vec<TrainedVariable>> {
    model.parameters.freeze();
    let variable = |(name, tensor): (String, &Tensor), decays, from| {
        let variable = Var::from_tensor(tensor)?;
        Ok(TrainedVariable { name, variable, decays, from })
    };
    match config.scope {
        TrainScope::Full => model.parameters.train(|_| true)?,
        TrainScope::NewTokens { from } => {
            let unembedding = LinearId::Unembed.name();
            model.parameters.train(|name| name == EMBEDDING || name == unembedding)?;
            let tables = model.parameters.iter().filter(|(_, tensor)| tensor.is_variable());
            let tables = tables.map(|(name, tensor)| (name.to_owned(), tensor));
            return tables.map(|table| variable(table, false, from)).collect();
        }
        TrainScope::Lora { rank, alpha, dropout } => {
            model.parameters.keep_in(config.dtype.into())?;
            let mut random = ChaCha8Rng::seed_from_u64(config.seed);
            let matrices = (0..model.config.layers).flat_map(LinearId::of_layer);
            let plan = lora::LoraConfig { rank, alpha, dropout };
            let adapters = match model.adapters.take() {
                Some(adapters) => adapters,
                None => Adapters::new(&model.config, plan, matrices, &mut random, &Device::Cpu)?,
            };
            let adapters = model.adapters.insert(adapters);
            return adapters.tensors().map(|adapter| variable(adapter, true, 0)).collect();
        }
    }
    let all = model.parameters.iter().map(|(name, tensor)| (name.to_owned(), tensor));
    all.map(|(name, tensor)| variable((name, tensor), tensor.rank() > 1, 0)).collect()
}
