//! The way back through a decoder on a GPU: a batch's loss, and the gradients of its adapters.
//!
//! As in [`crate::nn::decoder::backprop`], only what came into each layer is kept on the way there, and a layer is
//! calculated once more on the way back (Chen et al. 2016). Frozen matrices, adapters and what goes into products are
//! bf16; sums, the rows between layers, and all gradients of rows and adapters are f32. What learns from the gradients is
//! the processor's optimiser: an adapter is small beside what it adapts.
//!
//! Attention here is products of whole sequences, whose logits are there at once for as many heads as there is room
//! for: training has long batches and no pages.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

mod attention;
mod layer;
mod load;
mod work;

use super::blas::{Blas, Matrix, Sizes};
use super::device::{Address, Argument, CudaError, DECODER, Device, Kernel, Product, Table};
use super::load::check;
use super::model::{ROW_THREADS as THREADS, WARP};
use super::products::CudaWeightDtype;
use super::rows::norm_threads;
use crate::nn::RowTargets;
use crate::nn::decoder::{
    Adapters, DecoderConfig, DecoderConfigError, EMBEDDING, LinearId, NormId, TokenBatch,
    TrainableDecoder,
};
use candle_core::backprop::GradStore;
use half::bf16;
use load::{Layer, Loader};
use std::ops::Range;
use work::{Plan, Work};

/// Threads of a block that goes over a row of logits.
const LOGIT_THREADS: u32 = 1_024;
/// Blocks of kernels that go over numbers wherever they lie.
const BLOCKS_MAX: usize = 4_096;
/// Numbers of a weight's row come in fours.
const FOUR: usize = 4;
/// Beside it, the origins of what two adapters leave out have nothing in common.
const ORIGINS_APART: u64 = 0xd134_2543_de82_ef95;

/// How much a GPU is asked for at a time.
#[derive(Clone, Copy, Debug)]
pub struct BackpropOptions {
    /// The number of the GPU.
    pub ordinal: usize,
    /// Rows of a batch, at most.
    pub rows_max: usize,
    /// Rows of one of its sequences, at most.
    pub length_max: usize,
    /// Logits that are there at a time, over a vocabulary as over rows, unless those of a single row or head are more.
    pub logits_max: usize,
}

/// A decoder on a GPU whose adapters are trained.
#[derive(Debug)]
pub struct Backprop {
    config: DecoderConfig,
    device: Device,
    blas: Blas,
    launches: Launches,
    layers: Vec<Layer>,
    embedding: Table<bf16>,
    /// The unembedding, where it is another table.
    unembedding: Option<Table<bf16>>,
    last_norm: Table<f32>,
    turns: Table<f32>,
    /// What an adapter's sum is multiplied by, and the share of inputs that is left out.
    scale: f32,
    dropout: f32,
    plan: Plan,
    work: Work,
    bytes: usize,
}

/// Why gradients can't be calculated on a GPU.
#[derive(Debug, thiserror::Error)]
pub enum BackpropError {
    /// The model is one that there are no kernels for.
    #[error(transparent)]
    Config(#[from] DecoderConfigError),
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] CudaError),
    /// A tensor is not what the model says.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A model has no adapters.
    #[error("a GPU trains adapters only, and the model has none")]
    NoAdapters,
    /// It has one on its unembedding.
    #[error("a GPU trains adapters of layers, and the model has one on `{}`", LinearId::Unembed.name())]
    OnUnembedding,
    /// A batch is larger than what was asked for.
    #[error(
        "a batch has {rows} rows in sequences of {length}, and there is room for {rows_max} in such of {length_max}"
    )]
    TooLarge {
        /// Its rows, padding included.
        rows: usize,
        /// Rows of a sequence.
        length: usize,
        /// The limit of the rows.
        rows_max: usize,
        /// The limit of a sequence.
        length_max: usize,
    },
    /// A batch has something that the model has not.
    #[error("a batch has {what} {value}, and there are {count}")]
    OutOfBounds {
        /// What it has, by its number.
        what: &'static str,
        /// That number.
        value: u32,
        /// How many there are.
        count: usize,
    },
}

#[derive(Debug)]
struct Launches {
    embed: Kernel,
    norm: Kernel,
    pick: Kernel,
    columns: Kernel,
    gate: Kernel,
    gate_back: Kernel,
    norm_back: Kernel,
    turn_heads: Kernel,
    turn_heads_back: Kernel,
    join_heads: Kernel,
    split_heads: Kernel,
    share: Kernel,
    share_back: Kernel,
    add_bias: Kernel,
    shorten: Kernel,
    leave_out: Kernel,
    leave_out_back: Kernel,
    surprise: Kernel,
    choose: Kernel,
}

// === impl Backprop ===

impl Backprop {
    /// Brings a model onto a GPU, and takes the memory that its largest batch needs.
    pub fn load(model: &TrainableDecoder, options: BackpropOptions) -> Result<Self, BackpropError> {
        let config = model.config.clone();
        check(&config, CudaWeightDtype::Bf16)?;
        let adapters = model.adapters.as_ref().ok_or(BackpropError::NoAdapters)?;
        if adapters.pair(LinearId::Unembed).is_some() {
            return Err(BackpropError::OnUnembedding);
        }
        let device = Device::open(options.ordinal, DECODER)?;
        let free = device.free()?;
        let loader = Loader { model, adapters, device: &device };
        let layers = (0..config.layers).map(|layer| loader.layer(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let embedding = loader.short(&[EMBEDDING.into()])?;
        let unembedding =
            (!config.tied).then(|| loader.short(&[LinearId::Unembed.name()])).transpose()?;
        let last_norm = loader.exact(&[NormId::Last.name()])?;
        let turns = loader.turns(options.length_max)?;
        let work = Work::new(&device, &config, options, adapters.plan())?;
        let plan = Plan::new(&device, options.rows_max)?;
        let (launches, blas) = (Launches::find(&device)?, Blas::open(&device)?);
        device.wait()?;
        let bytes = free.saturating_sub(device.free()?);
        Ok(Self {
            launches,
            blas,
            scale: adapters.scale() as f32,
            dropout: adapters.plan().dropout,
            config,
            device,
            layers,
            embedding,
            unembedding,
            last_norm,
            turns,
            plan,
            work,
            bytes,
        })
    }

    /// Bytes of the GPU's memory that the model and its largest batch take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes over what the adapters are now. The gradients begin at nothing.
    pub fn take(&mut self, adapters: &Adapters) -> Result<(), BackpropError> {
        for adapter in self.layers.iter_mut().flat_map(Layer::adapters_mut) {
            adapter.take(&self.device, adapters)?;
        }
        Ok(self.device.wait()?)
    }

    /// Goes over a batch, adds what it gives to the gradients of the adapters, and says what its loss is. `origin` is
    /// where it comes from what is left out of the adapters' inputs.
    pub fn pass(
        &mut self,
        batch: &TokenBatch,
        aims: RowTargets<'_>,
        origin: u64,
    ) -> Result<f64, BackpropError> {
        self.check(batch, &aims)?;
        self.plan.fill(batch, &aims);
        self.plan.upload(&self.device)?;
        let last = self.config.layers;
        self.embed()?;
        for layer in 0..last {
            self.forward(layer, origin)?;
            self.project_down(layer, origin)?;
        }
        self.work.clear(&self.device)?;
        self.head(&aims)?;
        for layer in (0..last).rev() {
            self.forward(layer, origin)?;
            self.back(layer, origin)?;
        }
        let mut losses = vec![0.0_f32; self.plan.losses()];
        self.device.read(&self.work.losses, &mut losses)?;
        self.device.wait()?;
        Ok(losses.into_iter().map(f64::from).sum())
    }

    /// Reads the gradients since the last [`Backprop::take`].
    pub fn gradients(&self, adapters: &Adapters) -> Result<GradStore, BackpropError> {
        let mut gradients = GradStore::default();
        for adapter in self.layers.iter().flat_map(Layer::adapters) {
            for (variable, gradient) in adapter.read(&self.device, adapters)? {
                gradients.insert(&variable, gradient);
            }
        }
        Ok(gradients)
    }

    /// Whether there is room for a batch, and nothing in it leads anywhere else.
    fn check(&self, batch: &TokenBatch, aims: &RowTargets<'_>) -> Result<(), BackpropError> {
        let TokenBatch { sequences, length, .. } = *batch;
        let Work { rows_max, length_max, .. } = self.work;
        let rows = sequences * length;
        if rows > rows_max || length > length_max {
            return Err(BackpropError::TooLarge { rows, length, rows_max, length_max });
        }
        batch.check()?;
        aims.check(rows, self.config.vocabulary)?;
        let bounds = [
            ("token", &batch.tokens, self.config.vocabulary),
            ("position", &batch.positions, length_max),
        ];
        for (what, values, count) in bounds {
            if let Some(&value) = values.iter().find(|&&value| value as usize >= count) {
                return Err(BackpropError::OutOfBounds { what, value, count });
            }
        }
        Ok(())
    }

    fn embed(&self) -> Result<(), CudaError> {
        let arguments = [
            Argument::Table(self.work.stream[0].at(0)),
            Argument::Table(self.embedding.at(0)),
            Argument::Table(self.plan.at(self.plan.tokens)),
            Argument::Count(self.config.width as u32),
        ];
        // SAFETY: the arguments of `embed`; tokens are the vocabulary's, as a lesson's are checked to be.
        unsafe {
            self.device.launch(&self.launches.embed, [self.rows(), 1, 1], THREADS, &arguments)
        }
    }

    /// From the rows after the last layer to the losses, and back to the gradient of those rows.
    fn head(&self, aims: &RowTargets<'_>) -> Result<(), CudaError> {
        let (width, vocabulary) = (self.config.width, self.config.vocabulary);
        let table = self.unembedding.as_ref().unwrap_or(&self.embedding).at(0);
        let work = &self.work;
        let (normed, back) = (Matrix::short(work.normed[0].at(0), width), work.normed_back.at(0));
        let [imitated, reinforced] = aims.tokens.map(|text| text.rows.len());
        let followed = imitated + reinforced;
        let some = |rows: Range<usize>| {
            let each = rows.clone().step_by(work.logit_rows);
            each.map(move |row| (row, work.logit_rows.min(rows.end - row)))
        };
        for (row, count) in some(0..imitated).chain(some(imitated..followed)) {
            self.pick(row, count)?;
            let logits = Matrix::exact(work.logits.at(0), vocabulary);
            let sizes = Sizes { rows: count, columns: vocabulary, inner: width, count: 1 };
            let unembedding = Matrix::short(table, width);
            // SAFETY: there is room for the logits of so many rows, and their gradients.
            unsafe {
                self.blas.multiply(logits, [normed, unembedding.turned()], sizes, 1.0, None)?;
            };
            let arguments = [
                Argument::Table(work.logits_back.at(0)),
                Argument::Table(work.losses.at(row)),
                Argument::Table(work.logits.at(0)),
                Argument::Table(self.plan.at(self.plan.followers + row)),
                Argument::Table(self.plan.at(self.plan.weights + row)),
                Argument::Table(self.plan.written_at(row)),
                Argument::Count(vocabulary as u32),
            ];
            let sizes = Sizes { rows: count, columns: width, inner: vocabulary, count: 1 };
            let logits_back = Matrix::short(work.logits_back.at(0), vocabulary);
            let to = Matrix::exact(back, width);
            // SAFETY: the arguments of `surprise`; followers are the vocabulary's.
            unsafe {
                let surprise = &self.launches.surprise;
                self.device.launch(surprise, [count, 1, 1], LOGIT_THREADS, &arguments)?;
                self.blas.multiply(to, [logits_back, unembedding], sizes, 1.0, None)?;
            }
            self.picked_back(row, count)?;
        }
        if aims.branches.is_empty() {
            return Ok(());
        }
        let ends = self.plan.picked - followed;
        self.pick(followed, ends)?;
        let arguments = [
            Argument::Table(work.scores.at(0)),
            Argument::Table(work.normed[0].at(0)),
            Argument::Table(table),
            Argument::Table(self.plan.at(self.plan.pairs)),
            Argument::Count(ends as u32),
            Argument::Count(width as u32),
        ];
        let blocks = (ends * WARP as usize).div_ceil(THREADS as usize);
        // SAFETY: the arguments of `columns`; pairs are picked rows and tokens of the vocabulary.
        unsafe { self.device.launch(&self.launches.columns, [blocks, 1, 1], THREADS, &arguments)? };
        let arguments = [
            Argument::Table(back),
            Argument::Table(work.losses.at(followed)),
            Argument::Table(work.scores.at(0)),
            Argument::Table(table),
            Argument::Table(self.plan.at(self.plan.choices)),
            Argument::Number((1.0 / aims.branches_normaliser) as f32),
            Argument::Count(width as u32),
        ];
        let choices = aims.branches.len();
        // SAFETY: the arguments of `choose`; choices are among the scores, and every score is in one of them.
        unsafe { self.device.launch(&self.launches.choose, [choices, 1, 1], THREADS, &arguments)? };
        self.picked_back(followed, ends)
    }

    /// Norms some of the rows that something is asked of.
    fn pick(&self, first: usize, count: usize) -> Result<(), CudaError> {
        let Self { config, work, plan, .. } = self;
        let arguments = [
            Argument::Table(work.normed[0].at(0)),
            Argument::Table(work.middle.at(0)),
            Argument::Table(work.stream[config.layers].at(0)),
            Argument::Product(Product::default()),
            Argument::Table(plan.at(plan.wanted + first)),
            Argument::Table(self.last_norm.at(0)),
            Argument::Number(config.norm_epsilon as f32),
            Argument::Count(config.width as u32),
        ];
        let threads = norm_threads(config.width);
        // SAFETY: the arguments of `pick`; no more rows are picked than a batch has.
        unsafe { self.device.launch(&self.launches.pick, [count, 1, 1], threads, &arguments) }
    }

    /// The way back of [`Backprop::pick`].
    fn picked_back(&self, first: usize, count: usize) -> Result<(), CudaError> {
        let rows = self.work.stream[self.config.layers].at(0);
        let list = self.plan.at(self.plan.wanted + first);
        self.norm_back(rows, Some(list), self.last_norm.at(0), count)
    }

    /// Adds to the gradient of the stream what comes back through a norm.
    fn norm_back(
        &self,
        rows: Address,
        list: Option<Address>,
        scale: Address,
        count: usize,
    ) -> Result<(), CudaError> {
        let arguments = [
            Argument::Table(self.work.back.at(0)),
            Argument::Table(self.work.normed_back.at(0)),
            Argument::Table(rows),
            Argument::Table(list.unwrap_or(0)),
            Argument::Table(scale),
            Argument::Number(self.config.norm_epsilon as f32),
            Argument::Count(self.config.width as u32),
        ];
        let threads = norm_threads(self.config.width);
        // SAFETY: the arguments of `norm_back`; a list names rows of the batch, none of them twice.
        unsafe { self.device.launch(&self.launches.norm_back, [count, 1, 1], threads, &arguments) }
    }

    fn rows(&self) -> usize {
        self.plan.sequences * self.plan.length
    }
}

// === impl Launches ===

impl Launches {
    fn find(device: &Device) -> Result<Self, CudaError> {
        Ok(Self {
            embed: device.kernel("embed")?,
            norm: device.kernel("add_norm")?,
            pick: device.kernel("pick")?,
            columns: device.kernel("columns")?,
            gate: device.kernel("silu_mul")?,
            gate_back: device.kernel("gate_back")?,
            norm_back: device.kernel("norm_back")?,
            turn_heads: device.kernel("turn_heads")?,
            turn_heads_back: device.kernel("turn_heads_back")?,
            join_heads: device.kernel("join_heads")?,
            split_heads: device.kernel("split_heads")?,
            share: device.kernel("share")?,
            share_back: device.kernel("share_back")?,
            add_bias: device.kernel("add_bias")?,
            shorten: device.kernel("shorten")?,
            leave_out: device.kernel("leave_out")?,
            leave_out_back: device.kernel("leave_out_back")?,
            surprise: device.kernel("surprise")?,
            choose: device.kernel("choose")?,
        })
    }
}
