//! One trainer for all stages that train a language model.
//!
//! A step takes the next lessons of an order that a seed decides, and goes over them in batches that
//! fit into memory, each on a thread of its own; their gradients add up to those of one big batch. Everything that happens in a
//! step is a function of the seed and the step's number, so a training that was put down goes on as
//! if it never had been.
//!
//! A pass is calculated in f32, or in bf16 where memory is short; what is trained, its gradients and
//! the optimiser's moments are in f32 in either case, and frozen matrices are kept as they are used.
//! A GPU may go over the batches where adapters are trained; the optimiser stays here.

use super::gpu::Gpu;
use super::lesson::{Lesson, LessonBatch, LossTotals, Order, pack, totals};
use super::resume::{self, Fingerprint};
use crate::engine::ComputeDevice;
use crate::nn::decoder::{
    Adapters, EMBEDDING, LinearId, TrainableDecoder, backprop, forward, lora, lora::RANK_MAX,
};
use crate::nn::optim::{AdamW, AdamWConfig, TrainedVariable};
use anyhow::{Context as _, ensure};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Var};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::Instant;

/// Steps that a training may have.
pub const STEPS_MAX: usize = 1 << 24;
/// Lessons that a step may have.
pub const LESSONS_MAX: usize = 1 << 16;

/// What is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TrainScope {
    /// Every weight.
    #[serde(rename = "everything")]
    Full,
    /// The rows of new tokens alone, from this token on: what comes before everything else when a
    /// vocabulary has grown, so that the rest is not torn by rows that say nothing yet.
    NewTokens {
        /// The first of them.
        from: usize,
    },
    /// Low-rank adapters (LoRA) on every matrix of every layer.
    #[serde(rename = "adapters")]
    Lora {
        /// Inputs of the second of an adapter's two matrices.
        rank: usize,
        /// What an adapter adds is multiplied by `alpha / rank`.
        alpha: f64,
        /// The share of inputs that is left out in training.
        dropout: f32,
    },
}

/// What an adapter's sum is multiplied by, times its rank.
const ALPHA_PER_RANK: f64 = 2.0;

/// What a pass multiplies and keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeDtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of 32: as a model is served that is too large for more. Sums are in 32
    /// bits. On a processor it saves memory, above all of frozen matrices, and takes four times as long.
    Bf16,
}

/// How it is trained.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LearnerConfig {
    /// What is trained.
    pub scope: TrainScope,
    /// Steps of the optimiser.
    pub steps: usize,
    /// Lessons of a step.
    #[serde(rename = "lessons")]
    pub lessons_per_step: usize,
    /// Rows that a thread calculates at a time, padding included.
    #[serde(rename = "rows_max")]
    pub max_batched_tokens: usize,
    /// The highest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises.
    #[serde(rename = "warm_up")]
    pub warmup_steps: usize,
    /// The share of it that is left when it has fallen along a cosine.
    #[serde(rename = "learning_rate_floor")]
    pub min_lr_ratio: f64,
    /// What a matrix loses in a step, times the learning rate.
    pub weight_decay: f64,
    /// What the norm of all gradients together is shortened to.
    #[serde(rename = "norm_max")]
    pub max_grad_norm: f64,
    /// Whether each layer is calculated a second time on the way back, to keep little in memory.
    #[serde(rename = "recompute")]
    pub gradient_checkpointing: bool,
    /// What a pass multiplies and keeps.
    pub dtype: ComputeDtype,
    /// Where passes are calculated. A training that was put down may go on elsewhere.
    #[serde(default, skip_serializing)]
    pub device: ComputeDevice,
    /// Everything random comes from it.
    pub seed: u64,
}

/// What happened in a step.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StepReport {
    /// Its number, from 1 on.
    pub number: usize,
    /// Steps of the whole training.
    pub of: usize,
    /// The loss before the step.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// The norm of the gradients before it was shortened.
    pub norm: f64,
    /// Tokens that were learned from, those of branches included.
    pub tokens: usize,
    /// Rows that only filled sequences up.
    pub padding: usize,
    /// How long it took.
    pub seconds: f64,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// The loss of each step since the training began, in earlier runs as well.
    pub losses: Vec<f64>,
    /// Whether it was told to stop before it was done.
    pub stopped: bool,
    /// Tokens per second of this run.
    pub tokens_per_second: f64,
    /// The share of rows that only filled sequences up.
    pub padding: f64,
    /// How long this run took.
    pub seconds: f64,
}

/// Where a training is put down, and how often.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPolicy<'a> {
    /// The file.
    pub file: &'a Path,
    /// Steps between.
    pub every: usize,
}

/// A model that is learning.
#[derive(Debug)]
pub struct Learner<'a> {
    model: TrainableDecoder,
    plan: LearnerConfig,
    lessons: &'a [Lesson],
    order: Order,
    optimiser: AdamW,
    /// Who goes over batches, if it is not this machine's processor.
    gpu: Option<Gpu>,
    losses: Vec<f64>,
}

/// What one of a step's batches gave, or several.
pub(super) struct Part {
    pub loss: f64,
    pub gradients: GradStore,
    pub tokens: usize,
    pub padding: usize,
}

// === impl Learner ===

impl<'a> Learner<'a> {
    /// Lays out a training of `model` on `lessons`.
    pub fn new(
        mut model: TrainableDecoder,
        plan: LearnerConfig,
        lessons: &'a [Lesson],
    ) -> anyhow::Result<Self> {
        plan.check()?;
        ensure!(!lessons.is_empty(), "`lessons` is empty");
        for (place, lesson) in lessons.iter().enumerate() {
            lesson.check(place, &model.config, plan.max_batched_tokens)?;
        }
        let trained = choose(&mut model, &plan)?;
        let settings = AdamWConfig { weight_decay: plan.weight_decay, ..AdamWConfig::default() };
        let optimiser = AdamW::new(trained, settings)?;
        let order = Order::new(lessons.len(), plan.seed);
        let gpu = Gpu::open(&model, &plan, lessons)?;
        Ok(Self { model, plan, lessons, order, optimiser, gpu, losses: Vec::new() })
    }

    /// The model as it is.
    pub fn model(&self) -> &TrainableDecoder {
        &self.model
    }

    /// The model that has learned.
    pub fn into_model(self) -> TrainableDecoder {
        self.model
    }

    /// Bytes of a GPU's memory that the training holds, if one takes part in it.
    pub fn gpu_bytes(&self) -> Option<usize> {
        self.gpu.as_ref().map(Gpu::bytes)
    }

    /// Steps that were made.
    pub fn steps(&self) -> usize {
        self.losses.len()
    }

    /// Makes the steps that are left, or those before `stop` is set, and tells of each. Where they
    /// are to be kept, they are also kept at the end.
    pub fn run(
        &mut self,
        keeping: Option<CheckpointPolicy<'_>>,
        stop: &AtomicBool,
        mut progress: impl FnMut(&StepReport),
    ) -> anyhow::Result<TrainReport> {
        let begun = Instant::now();
        let (mut tokens, mut padding) = (0, 0);
        while self.steps() < self.plan.steps && !stop.load(Ordering::Relaxed) {
            let step = self.step()?;
            (tokens, padding) = (tokens + step.tokens, padding + step.padding);
            progress(&step);
            if let Some(keeping) = keeping.filter(|keeping| step.number % keeping.every.max(1) == 0)
            {
                self.keep(keeping.file)?;
            }
        }
        if let Some(keeping) = keeping {
            self.keep(keeping.file)?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(TrainReport {
            losses: self.losses.clone(),
            stopped: self.steps() < self.plan.steps,
            tokens_per_second: tokens as f64 / seconds,
            padding: padding as f64 / (tokens + padding).max(1) as f64,
            seconds,
        })
    }

    /// Makes one step.
    pub fn step(&mut self) -> anyhow::Result<StepReport> {
        let begun = Instant::now();
        let at = self.steps();
        let places = self.order.of_step(at, self.plan.lessons_per_step);
        let lessons: Vec<_> = places.map(|place| &self.lessons[place]).collect();
        let totals = totals(lessons.iter().copied());
        let (mut loss, mut tokens, mut padding) = (0.0, 0, 0);
        let batches: Vec<_> =
            pack(&lessons, self.plan.max_batched_tokens).into_iter().enumerate().collect();
        // As many at a time as there are threads, or all where a GPU goes over them one after the other.
        let at_once = self.gpu.as_ref().map_or_else(rayon::current_num_threads, |_| batches.len());
        for some in batches.chunks(at_once) {
            // Their gradients are added up in one order whoever is done first, so that the number of
            // threads changes no bit.
            for part in self.parts(some, totals) {
                let mut part = part?;
                self.optimiser.add(&mut part.gradients)?;
                loss += part.loss;
                padding += part.padding;
                tokens += part.tokens;
            }
        }
        ensure!(loss.is_finite(), "the loss is {loss} at step {}", at + 1);
        let learning_rate = self.plan.learning_rate_at(at);
        let norm = self.optimiser.step(learning_rate, self.plan.max_grad_norm)?;
        ensure!(norm.is_finite(), "the gradients' norm is {norm} at step {}", at + 1);
        self.losses.push(loss);
        Ok(StepReport {
            number: at + 1,
            of: self.plan.steps,
            loss,
            learning_rate,
            norm,
            tokens,
            padding,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    /// Goes over some of a step's batches.
    fn parts(
        &mut self,
        batches: &[(usize, Vec<&Lesson>)],
        totals: LossTotals,
    ) -> Vec<anyhow::Result<Part>> {
        let step = self.steps();
        let Self { model, plan, gpu, .. } = self;
        let origin = |part| origin(plan.seed, step, part);
        if let Some(gpu) = gpu {
            return vec![gpu.step(model, batches, totals, origin)];
        }
        let part =
            |(at, lessons): &(usize, Vec<&Lesson>)| part(model, plan, lessons, totals, origin(*at));
        batches.par_iter().map(part).collect()
    }

    /// Puts the training down in a file.
    pub fn keep(&self, file: &Path) -> anyhow::Result<()> {
        self.mark()
            .and_then(|mark| resume::write(file, &mark, &self.optimiser, &self.losses))
            .with_context(|| format!("keeping the training in {}", file.display()))
    }

    /// Takes up what [`Learner::keep`] put down: the same model, plan and lessons go on.
    pub fn resume(&mut self, file: &Path) -> anyhow::Result<()> {
        let losses = self
            .mark()
            .and_then(|mark| resume::read(file, &mark, &mut self.optimiser))
            .with_context(|| format!("taking up the training in {}", file.display()))?;
        self.losses = losses;
        Ok(())
    }

    fn mark(&self) -> anyhow::Result<Fingerprint> {
        Fingerprint::new(&self.plan, self.lessons)
    }
}

/// Goes over one of a step's batches on the processor.
fn part(
    model: &TrainableDecoder,
    plan: &LearnerConfig,
    lessons: &[&Lesson],
    totals: LossTotals,
    origin: u64,
) -> anyhow::Result<Part> {
    let taught = LessonBatch::new(lessons);
    let mut model = model.clone();
    if let Some(adapters) = &mut model.adapters {
        adapters.drop_out(Some(origin));
    }
    let mut exact = model.exact(&taught.batch, plan.dtype.into())?;
    let (loss, gradients) = if plan.gradient_checkpointing {
        backprop(&mut exact, |exact, rows| taught.loss(exact, rows, totals))?
    } else {
        let rows = forward(&model.config, &mut exact)?;
        let loss = taught.loss(&exact, &rows, totals)?;
        let gradients = loss.backward()?;
        (loss, gradients)
    };
    Ok(Part {
        loss: f64::from(loss.to_scalar::<f32>()?),
        gradients,
        tokens: taught.batch.tokens.len() - taught.padding(),
        padding: taught.padding(),
    })
}

/// Where that comes from which a batch leaves out: another for each, and the same when a training is resumed.
fn origin(seed: u64, step: usize, part: usize) -> u64 {
    seed ^ (step as u64) << 20 ^ (part as u64) << 44
}

/// The mean loss of a model on lessons that it does not learn.
pub fn measure(
    model: &TrainableDecoder,
    lessons: &[Lesson],
    rows_max: usize,
) -> anyhow::Result<f64> {
    let mut model = model.clone();
    model.parameters.freeze();
    if let Some(adapters) = &mut model.adapters {
        adapters.drop_out(None);
    }
    let (totals, all) = (totals(lessons), lessons.iter().collect::<Vec<_>>());
    let mut sum = 0.0;
    for lessons in pack(&all, rows_max) {
        let taught = LessonBatch::new(&lessons);
        let mut exact = model.exact(&taught.batch, DType::F32)?;
        let rows = forward(&model.config, &mut exact)?.detach();
        sum += f64::from(taught.loss(&exact, &rows, totals)?.to_scalar::<f32>()?);
    }
    Ok(sum)
}

/// Makes variables of what the plan trains, and constants of the rest.
fn choose(
    model: &mut TrainableDecoder,
    plan: &LearnerConfig,
) -> anyhow::Result<Vec<TrainedVariable>> {
    model.parameters.freeze();
    let variable = |(name, tensor): (String, &candle_core::Tensor), decays, from| {
        let variable = Var::from_tensor(tensor)?;
        Ok(TrainedVariable { name, variable, decays, from })
    };
    match plan.scope {
        TrainScope::Full => model.parameters.train(|_| true)?,
        TrainScope::NewTokens { from } => {
            let unembedding = LinearId::Unembed.name();
            model.parameters.train(|name| name == EMBEDDING || name == unembedding)?;
            let tables = model.parameters.iter().filter(|(_, tensor)| tensor.is_variable());
            let tables = tables.map(|(name, tensor)| (name.to_owned(), tensor));
            return tables.map(|table| variable(table, false, from)).collect();
        }
        TrainScope::Lora { rank, alpha, dropout } => {
            model.parameters.keep_in(plan.dtype.into())?;
            let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
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

// === impl TrainScope ===

impl TrainScope {
    /// Adapters of a rank, or everything where there is none.
    pub fn of(adapter_rank: Option<usize>) -> Self {
        match adapter_rank {
            None => Self::Full,
            Some(rank) => Self::Lora { rank, alpha: ALPHA_PER_RANK * rank as f64, dropout: 0.0 },
        }
    }
}

// === impl ComputeDtype ===

impl From<ComputeDtype> for DType {
    fn from(dtype: ComputeDtype) -> Self {
        match dtype {
            ComputeDtype::F32 => Self::F32,
            ComputeDtype::Bf16 => Self::BF16,
        }
    }
}

// === impl LearnerConfig ===

impl Default for LearnerConfig {
    fn default() -> Self {
        Self {
            scope: TrainScope::Full,
            steps: 1000,
            lessons_per_step: 32,
            max_batched_tokens: 2048,
            learning_rate: 3e-4,
            warmup_steps: 50,
            min_lr_ratio: 0.1,
            weight_decay: 0.1,
            max_grad_norm: 1.0,
            gradient_checkpointing: false,
            dtype: ComputeDtype::F32,
            device: ComputeDevice::Cpu,
            seed: 0,
        }
    }
}

impl LearnerConfig {
    /// Whether it can be carried out.
    pub fn check(&self) -> anyhow::Result<()> {
        let counts = [
            ("steps", self.steps, STEPS_MAX),
            ("lessons_per_step", self.lessons_per_step, LESSONS_MAX),
            ("max_batched_tokens", self.max_batched_tokens, super::lesson::ROWS_MAX),
        ];
        for (field, value, max) in counts {
            ensure!((1..=max).contains(&value), "`{field}` is {value}, not from 1 to {max}");
        }
        if let TrainScope::Lora { rank, .. } = self.scope {
            ensure!((1..=RANK_MAX).contains(&rank), "`rank` is {rank}, not from 1 to {RANK_MAX}");
        }
        let adapts =
            matches!(self.scope, TrainScope::Lora { .. }) && self.dtype == ComputeDtype::Bf16;
        ensure!(
            self.device == ComputeDevice::Cpu || adapts,
            "`device` is \"{}\", and a GPU trains adapters alone, in bf16",
            self.device
        );
        let sizes = [
            ("learning_rate", self.learning_rate, 0.0..=1.0),
            ("min_lr_ratio", self.min_lr_ratio, 0.0..=1.0),
            ("weight_decay", self.weight_decay, 0.0..=1.0),
            ("max_grad_norm", self.max_grad_norm, f64::MIN_POSITIVE..=f64::INFINITY),
        ];
        for (field, value, bounds) in sizes {
            let (least, most) = (bounds.start(), bounds.end());
            ensure!(bounds.contains(&value), "`{field}` is {value}, not from {least} to {most}");
        }
        Ok(())
    }

    /// Up a ramp, then down a cosine to the floor.
    fn learning_rate_at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.learning_rate * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let way =
            (step - self.warmup_steps) as f64 / (self.steps - self.warmup_steps).max(1) as f64;
        let fall = 0.5 * (1.0 + (PI * way).cos());
        self.learning_rate * (self.min_lr_ratio + (1.0 - self.min_lr_ratio) * fall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_and_falls_to_its_floor() {
        let plan = LearnerConfig {
            steps: 110,
            warmup_steps: 10,
            learning_rate: 2.0,
            ..LearnerConfig::default()
        };
        let at = |step| plan.learning_rate_at(step);
        assert!((at(0) - 0.2).abs() < 1e-12 && (at(9) - 2.0).abs() < 1e-12);
        assert!((at(10) - 2.0).abs() < 1e-12 && (at(60) - 1.1).abs() < 1e-12);
        assert!((10..109).all(|step| at(step) > at(step + 1)));
        assert!((at(110) - 0.2).abs() < 1e-12);
        // A training that ends on the ramp divides by nothing.
        let short = LearnerConfig { steps: 5, warmup_steps: 10, ..plan };
        assert!((short.learning_rate_at(4) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn plans_that_cannot_be_carried_out_are_named() {
        let says = |plan: LearnerConfig| plan.check().unwrap_err().to_string();
        let plan = LearnerConfig::default();
        plan.check().unwrap();
        assert_eq!(
            says(LearnerConfig { steps: 0, ..plan }),
            "`steps` is 0, not from 1 to 16777216"
        );
        let nan = says(LearnerConfig { learning_rate: f64::NAN, ..plan });
        assert_eq!(nan, "`learning_rate` is NaN, not from 0 to 1");
        let scope = TrainScope::Lora { rank: 0, alpha: 1.0, dropout: 0.0 };
        assert_eq!(says(LearnerConfig { scope, ..plan }), "`rank` is 0, not from 1 to 1024");
        let gpu = says(LearnerConfig { device: ComputeDevice::Gpu(1), ..plan });
        assert_eq!(gpu, "`device` is \"cuda:1\", and a GPU trains adapters alone, in bf16");
    }
}
