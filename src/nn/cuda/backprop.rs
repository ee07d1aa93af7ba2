//! The backward pass through a decoder on a GPU: a batch's loss, and the gradients of its adapters.
//!
//! As in [`crate::nn::decoder::backprop`], only the stream before each layer is kept in the forward pass, and a layer is
//! recomputed in the backward pass (Chen et al. 2016). Frozen matrices, adapters and inputs of products are bf16. Sums, the
//! residual stream, and the gradients of rows and adapters are f32. The CPU's optimiser learns from the gradients, because
//! an adapter is small beside its matrix.
//!
//! Attention is products of whole sequences, of as many heads at a time as there is memory for: training has long batches
//! and no KV pages.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

mod adapters;
mod attention;
mod error;
mod gradients;
mod load;
mod pass;
mod scratch;
mod state;
mod tape;
mod upload;

pub use error::BackpropError;
pub use scratch::BackpropOptions;

use super::blas::{Blas, DeviceMatrix, ProductSize};
use super::buffers::norm_threads;
use super::device::{CudaError, DECODER, Device};
use super::interface::{
    AddNormPicked, ChoiceCrossEntropy, ChoiceWeight, ChosenLogits, CrossEntropy, CudaWeightDtype,
    DRAW_THREADS, PairCount, Product, Vocabulary, WARP,
};
use super::load::check;
use super::rope::upload_rope;
use crate::nn::RowTargets;
use crate::nn::decoder::{
    self, Adapters, EMBEDDING, LinearId, NormId, TokenBatch, TrainableDecoder,
};
use candle_core::backprop::GradStore;
use load::{FrozenLayer, TensorLoader};
use pass::{LastRows, TrainPass};
use scratch::TrainScratch;
use state::{THREADS, TrainKernels, TrainState};
use std::ops::Range;
use tape::StreamBuffer;
use upload::TrainUpload;

/// A decoder on a GPU whose adapters are trained.
#[derive(Debug)]
pub struct Backprop {
    state: TrainState,
    bytes: usize,
}

// === impl Backprop ===

impl Backprop {
    /// Uploads a model, and allocates the memory of its largest batch.
    pub fn load(model: &TrainableDecoder, options: BackpropOptions) -> Result<Self, BackpropError> {
        let config = model.config.clone();
        check(&config, CudaWeightDtype::Bf16)?;
        let adapters = model.adapters.as_ref().ok_or(BackpropError::NoAdapters)?;
        if adapters.pair(LinearId::Unembed).is_some() {
            return Err(BackpropError::OnUnembedding);
        }
        let device = Device::open(options.ordinal, DECODER)?;
        let free = device.free()?;
        let loader = TensorLoader { model, adapters, device: &device };
        let layers = (0..config.layers).map(|layer| loader.layer(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let embedding = loader.bf16(&[EMBEDDING.into()])?;
        let unembedding =
            (!config.tied).then(|| loader.bf16(&[LinearId::Unembed.name()])).transpose()?;
        let last_norm = loader.f32(&[NormId::Last.name()])?;
        let rope = upload_rope(&device, &config, options.length_max)?;
        let scratch = TrainScratch::new(&device, &config, options, adapters.plan())?;
        let upload = TrainUpload::new(&device, options.max_batched_tokens)?;
        let (kernels, blas) = (TrainKernels::find(&device)?, Blas::open(&device)?);
        device.wait()?;
        let bytes = free.saturating_sub(device.free()?);
        let state = TrainState {
            kernels,
            blas,
            scale: adapters.scale() as f32,
            dropout: adapters.plan().dropout,
            config,
            device,
            layers,
            embedding,
            unembedding,
            last_norm,
            rope,
            upload,
            scratch,
        };
        Ok(Self { state, bytes })
    }

    /// Bytes of the GPU's memory that the model and its largest batch use.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Uploads the adapters, and sets their gradients to zero.
    pub fn upload_adapters(&mut self, adapters: &Adapters) -> Result<(), BackpropError> {
        let TrainState { layers, device, .. } = &mut self.state;
        for adapter in layers.iter_mut().flat_map(FrozenLayer::adapters_mut) {
            adapter.upload(device, adapters)?;
        }
        Ok(self.state.device.wait()?)
    }

    /// A forward and a backward pass over a batch. Adds to the gradients of the adapters, and returns the loss. `seed` is
    /// that of the adapters' dropout.
    pub fn pass(
        &mut self,
        batch: &TokenBatch,
        targets: RowTargets<'_>,
        seed: u64,
    ) -> Result<f64, BackpropError> {
        self.check(batch, &targets)?;
        let TrainState { upload, device, .. } = &mut self.state;
        upload.fill(batch, &targets);
        upload.upload(device)?;
        let last = self.state.forward(seed)?;
        let TrainState { scratch, device, .. } = &mut self.state;
        device.clear(&mut scratch.stream_gradient)?;
        self.state.losses(&targets, last)?;
        for layer in (0..self.state.config.layers).rev() {
            self.state.layer_back(layer, seed)?;
        }
        let TrainState { upload, scratch, device, .. } = &self.state;
        let mut losses = vec![0.0_f32; upload.losses()];
        device.read(&scratch.losses, &mut losses)?;
        device.wait()?;
        Ok(losses.into_iter().map(f64::from).sum())
    }

    /// Reads the gradients since the last [`Backprop::upload_adapters`].
    pub fn gradients(&self, adapters: &Adapters) -> Result<GradStore, BackpropError> {
        let mut gradients = GradStore::default();
        for adapter in self.state.layers.iter().flat_map(FrozenLayer::adapters) {
            for (variable, gradient) in adapter.read(&self.state.device, adapters)? {
                gradients.insert(&variable, gradient);
            }
        }
        Ok(gradients)
    }

    /// Refuses a batch that is too large, or that has indices out of bounds.
    fn check(&self, batch: &TokenBatch, targets: &RowTargets<'_>) -> Result<(), BackpropError> {
        let TokenBatch { sequences, length, .. } = *batch;
        let TrainScratch { rows_max, length_max, .. } = self.state.scratch;
        let vocabulary = self.state.config.vocabulary;
        let rows = sequences * length;
        if rows > rows_max || length > length_max {
            return Err(BackpropError::TooLarge { rows, length, rows_max, length_max });
        }
        batch.check()?;
        targets.check(rows, vocabulary)?;
        let bounds =
            [("token", &batch.tokens, vocabulary), ("position", &batch.positions, length_max)];
        for (what, values, count) in bounds {
            if let Some(&value) = values.iter().find(|&&value| value as usize >= count) {
                return Err(BackpropError::OutOfBounds { what, value, count });
            }
        }
        Ok(())
    }
}

// === impl TrainState ===

impl TrainState {
    /// The forward pass over the uploaded batch. Keeps the stream before each layer.
    fn forward(&self, seed: u64) -> Result<LastRows, CudaError> {
        decoder::forward(&self.config, &mut TrainPass::new(self, seed))
    }

    /// From the gradient of the stream after a layer to that before it: recomputes the layer, and goes back along its tape.
    fn layer_back(&self, layer: usize, seed: u64) -> Result<(), CudaError> {
        let mut pass = TrainPass::new(self, seed);
        // The last projection is on the tape, but it is not launched: nothing reads its sum again.
        decoder::residual_block(&self.config, &mut pass, layer, StreamBuffer::Before(layer))?;
        pass.into_tape().into_reversed().try_for_each(|op| self.back(op, seed))
    }

    /// From the rows after the last layer to the losses, and back to the gradient of those rows.
    fn losses(&self, targets: &RowTargets<'_>, last: LastRows) -> Result<(), CudaError> {
        let [imitated, generated] = targets.tokens.map(|text| text.rows.len());
        let tokens = imitated + generated;
        let some = |rows: Range<usize>| {
            let at_once = self.scratch.logit_rows;
            let each = rows.clone().step_by(at_once);
            each.map(move |row| (row, at_once.min(rows.end - row)))
        };
        for (row, count) in some(0..imitated).chain(some(imitated..tokens)) {
            self.token_losses(last, row, count)?;
        }
        let choices = targets.branches.len();
        if choices == 0 {
            return Ok(());
        }
        let weight = ChoiceWeight::of((1.0 / targets.branches_normaliser) as f32);
        self.choice_losses(last, tokens, choices, weight)
    }

    /// The losses of some target tokens, and the gradient of their rows.
    fn token_losses(&self, last: LastRows, row: usize, count: usize) -> Result<(), CudaError> {
        let (width, vocabulary) = (self.config.width, self.config.vocabulary);
        let (scratch, upload) = (&self.scratch, &self.upload);
        self.norm_picked(last, row, count)?;
        let normed = DeviceMatrix::bf16(scratch.normed[0].at(0), width);
        let unembedding = DeviceMatrix::bf16(self.unembedding(), width);
        let logits = DeviceMatrix::f32(scratch.logits.at(0), vocabulary);
        let size = ProductSize { rows: count, columns: vocabulary, inner: width, count: 1 };
        // SAFETY: there is space for the logits of so many rows, and for their gradients.
        unsafe {
            self.blas.multiply(logits, [normed, unembedding.transposed()], size, 1.0, None)?;
        };
        let arguments = CrossEntropy {
            gradient: scratch.logits_gradient.at(0),
            losses: scratch.losses.at(row),
            logits: scratch.logits.at(0),
            tokens: upload.at(upload.targets).from(row),
            weights: upload.at(upload.weights).from(row),
            old_policy: upload.old_policies_from(row),
            vocabulary: Vocabulary::of(vocabulary),
        };
        let logits_gradient = DeviceMatrix::bf16(scratch.logits_gradient.at(0), vocabulary);
        let normed_gradient = DeviceMatrix::f32(scratch.normed_gradient.at(0), width);
        let size = ProductSize { rows: count, columns: width, inner: vocabulary, count: 1 };
        let (kernel, grid) = (&self.kernels.cross_entropy, [count, 1, 1]);
        // SAFETY: targets are checked to be the vocabulary's.
        unsafe {
            self.device.launch(kernel, grid, DRAW_THREADS, &arguments)?;
            self.blas.multiply(normed_gradient, [logits_gradient, unembedding], size, 1.0, None)?;
        }
        self.norm_picked_back(last, row, count)
    }

    /// The losses of choices between branches, whose ends are the picked rows from `first` on, and the gradient of those.
    fn choice_losses(
        &self,
        last: LastRows,
        first: usize,
        choices: usize,
        weight: ChoiceWeight,
    ) -> Result<(), CudaError> {
        let (scratch, upload) = (&self.scratch, &self.upload);
        let ends = upload.picked_count - first;
        self.norm_picked(last, first, ends)?;
        let arguments = ChosenLogits {
            logits: scratch.end_logits.at(0),
            normed: scratch.normed[0].at(0).with_role(),
            table: self.unembedding(),
            pairs: upload.at(upload.pairs),
            count: PairCount::of(ends),
            width: self.width(),
        };
        let grid = [(ends * WARP as usize).div_ceil(THREADS as usize), 1, 1];
        let kernel = &self.kernels.chosen_logits;
        // SAFETY: pairs are of picked rows and tokens of the vocabulary.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments)? };
        let arguments = ChoiceCrossEntropy {
            gradient: scratch.normed_gradient.at(0),
            losses: scratch.losses.at(first),
            scores: scratch.end_logits.at(0),
            table: self.unembedding(),
            choices: upload.at(upload.choices),
            weight,
            width: self.width(),
        };
        let (kernel, grid) = (&self.kernels.choice_cross_entropy, [choices, 1, 1]);
        // SAFETY: choices are ranges of the scores, and every score is in one of them.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments)? };
        self.norm_picked_back(last, first, ends)
    }

    /// Norms some of the rows that the losses read.
    fn norm_picked(&self, last: LastRows, first: usize, count: usize) -> Result<(), CudaError> {
        let (scratch, upload) = (&self.scratch, &self.upload);
        let arguments = AddNormPicked {
            normed: scratch.normed[0].at(0).with_role(),
            hidden: scratch.middle.at(0).with_role(),
            stream: self.stream(last.stream),
            delta: Product::default(),
            picked: upload.at(upload.picked).from(first),
            norm_scale: self.norm_scale(last.norm),
            epsilon: self.epsilon(),
            width: self.width(),
        };
        let (kernel, threads) = (&self.kernels.add_norm_picked, norm_threads(self.config.width));
        // SAFETY: no more rows are picked at a time than a batch has.
        unsafe { self.device.launch(kernel, [count, 1, 1], threads, &arguments) }
    }

    /// The backward pass of [`TrainState::norm_picked`].
    fn norm_picked_back(
        &self,
        last: LastRows,
        first: usize,
        count: usize,
    ) -> Result<(), CudaError> {
        let picked = self.upload.at(self.upload.picked).from(first);
        self.norm_back(self.stream(last.stream), picked, last.norm, count)
    }
}
