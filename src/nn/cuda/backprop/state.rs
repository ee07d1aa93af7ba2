//! A decoder on a GPU whose adapters are trained: its weights, its buffers, its kernels, and products with its weights.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::super::blas::{Blas, DeviceMatrix, ProductSize};
use super::super::buffers::norm_threads;
use super::super::device::{CudaError, Device, DeviceBuffer, Kernel};
use super::super::interface::{
    AddBias, AddNorm, AddNormPicked, ApplyDropout, ApplyDropoutBack, AttentionSoftmax,
    AttentionSoftmaxBack, ChoiceCrossEntropy, ChosenLogits, CrossEntropy, DevicePtr, Embed,
    Epsilon, FourCount, JoinHeads, NormAndRope, NormAndRopeBack, NormBack, NormScale, Product,
    Residual, RopeAngle, RowIndex, Sequences, SiluMul, SiluMulBack, SplitHeads, ToBf16,
    VocabularyWeight, Width,
};
use super::load::{FrozenLayer, FrozenWeights};
use super::scratch::TrainScratch;
use super::tape::StreamBuffer;
use super::upload::TrainUpload;
use crate::nn::decoder::{DecoderConfig, NormId};

/// Threads of a block.
pub(super) const THREADS: u32 = 256;
/// Blocks of kernels that go over any numbers, at most.
const BLOCKS_MAX: usize = 4_096;

/// A decoder on a GPU whose adapters are trained.
#[derive(Debug)]
pub(super) struct TrainState {
    pub config: DecoderConfig,
    pub device: Device,
    pub blas: Blas,
    pub kernels: TrainKernels,
    pub layers: Vec<FrozenLayer>,
    pub embedding: DeviceBuffer<VocabularyWeight>,
    /// The unembedding, if the model does not tie it to the embedding.
    pub unembedding: Option<DeviceBuffer<VocabularyWeight>>,
    pub last_norm: DeviceBuffer<NormScale>,
    pub rope: DeviceBuffer<RopeAngle>,
    /// The factor of an adapter's output.
    pub scale: f32,
    /// The share of an adapter's inputs that are left out.
    pub dropout: f32,
    pub upload: TrainUpload,
    pub scratch: TrainScratch,
}

/// The kernels of forward and backward passes.
#[derive(Debug)]
pub(super) struct TrainKernels {
    pub embed: Kernel<Embed>,
    pub add_norm: Kernel<AddNorm>,
    pub add_norm_picked: Kernel<AddNormPicked>,
    pub chosen_logits: Kernel<ChosenLogits>,
    pub silu_mul: Kernel<SiluMul>,
    pub silu_mul_back: Kernel<SiluMulBack>,
    pub norm_back: Kernel<NormBack>,
    pub norm_and_rope: Kernel<NormAndRope>,
    pub norm_and_rope_back: Kernel<NormAndRopeBack>,
    pub join_heads: Kernel<JoinHeads>,
    pub split_heads: Kernel<SplitHeads>,
    pub attention_softmax: Kernel<AttentionSoftmax>,
    pub attention_softmax_back: Kernel<AttentionSoftmaxBack>,
    pub add_bias: Kernel<AddBias>,
    pub to_bf16: Kernel<ToBf16>,
    pub apply_dropout: Kernel<ApplyDropout>,
    pub apply_dropout_back: Kernel<ApplyDropoutBack>,
    pub cross_entropy: Kernel<CrossEntropy>,
    pub choice_cross_entropy: Kernel<ChoiceCrossEntropy>,
}

/// The grid of a kernel that goes over any numbers.
pub(super) fn grid_over(numbers: usize) -> [usize; 3] {
    [numbers.div_ceil(THREADS as usize).min(BLOCKS_MAX), 1, 1]
}

// === impl TrainState ===

impl TrainState {
    /// The rows of a buffer of the stream.
    pub fn stream(&self, stream: StreamBuffer) -> DevicePtr<Residual> {
        match stream {
            StreamBuffer::Before(layer) => self.scratch.stream[layer].at(0),
            StreamBuffer::Middle => self.scratch.middle.at(0),
        }
    }

    /// The scale of a norm over rows.
    pub fn norm_scale(&self, norm: NormId) -> DevicePtr<NormScale> {
        match norm {
            NormId::Attention(layer) => self.layers[layer].attention_norm.at(0),
            NormId::Mlp(layer) => self.layers[layer].mlp_norm.at(0),
            NormId::Last => self.last_norm.at(0),
            NormId::Query(_) | NormId::Key(_) => unreachable!("{norm:?} is a norm over heads"),
        }
    }

    /// The table that unembeds.
    pub fn unembedding(&self) -> DevicePtr<VocabularyWeight> {
        self.unembedding.as_ref().unwrap_or(&self.embedding).at(0)
    }

    /// Rows of the batch, padding included.
    pub fn rows(&self) -> usize {
        self.upload.rows()
    }

    /// Numbers of a row of the stream.
    pub fn width(&self) -> Width {
        Width::of(self.config.width)
    }

    pub fn epsilon(&self) -> Epsilon {
        Epsilon::of(self.config.norm_epsilon as f32)
    }

    pub fn sequences(&self) -> Sequences {
        Sequences {
            heads: self.config.heads as u32,
            kv_heads: self.config.kv_heads as u32,
            dim: self.config.head_dim as u32,
            length: self.upload.length as u32,
        }
    }

    /// Numbers of a row's queries, and of its keys or values.
    pub fn head_widths(&self) -> (usize, usize) {
        let dim = self.config.head_dim;
        (self.config.heads * dim, self.config.kv_heads * dim)
    }

    /// Gates and ups, with their bias.
    pub fn gates_ups(&self, layer: usize) -> Product {
        let bias = DeviceBuffer::or_null(self.layers[layer].gates_ups.bias.as_ref());
        Product { sums: self.scratch.gates_ups.at(0), bias, ..Product::default() }
    }

    /// `out = rows W^T (+ addend)`
    pub fn multiply(
        &self,
        out: DeviceMatrix,
        rows: DeviceMatrix,
        of: &FrozenWeights,
        addend: Option<DevicePtr<Residual>>,
    ) -> Result<(), CudaError> {
        let inner = rows.pitch;
        let weights = DeviceMatrix::bf16(of.numbers.at(0), inner);
        let (rows_count, columns) = (self.rows(), of.numbers.len() / inner);
        let size = ProductSize { rows: rows_count, columns, inner, count: 1 };
        let addend = addend.map(DevicePtr::address);
        // SAFETY: buffers have space for a batch's rows, and weights have the configuration's shapes.
        unsafe { self.blas.multiply(out, [rows, weights.transposed()], size, 1.0, addend) }
    }

    /// `inputs = gradient W`, for a gradient with `inner` numbers in a row.
    pub fn multiply_back(
        &self,
        inputs: DeviceMatrix,
        gradient: DeviceMatrix,
        inner: usize,
        of: &FrozenWeights,
    ) -> Result<(), CudaError> {
        let columns = inputs.pitch;
        let weights = DeviceMatrix::bf16(of.numbers.at(0), columns);
        let size = ProductSize { rows: self.rows(), columns, inner, count: 1 };
        // SAFETY: as of `multiply`.
        unsafe { self.blas.multiply(inputs, [gradient, weights], size, 1.0, None) }
    }

    /// Adds the gradient of rows to the stream's gradient, from the gradient of their norm. `picked` is a list of `count`
    /// rows, or null for all rows.
    pub fn norm_back(
        &self,
        rows: DevicePtr<Residual>,
        picked: DevicePtr<RowIndex>,
        norm: NormId,
        count: usize,
    ) -> Result<(), CudaError> {
        let arguments = NormBack {
            stream: self.scratch.stream_gradient.at(0),
            normed: self.scratch.normed_gradient.at(0),
            rows,
            picked,
            norm_scale: self.norm_scale(norm),
            epsilon: self.epsilon(),
            width: self.width(),
        };
        let (kernel, threads) = (&self.kernels.norm_back, norm_threads(self.config.width));
        // SAFETY: a list names rows of the batch, none of them twice.
        unsafe { self.device.launch(kernel, [count, 1, 1], threads, &arguments) }
    }

    /// Converts the stream's gradient to bf16, for products. Returns the rows.
    pub fn stream_gradient_bf16(&self) -> Result<DeviceMatrix, CudaError> {
        let fours = self.rows() * self.config.width / 4;
        let to = self.scratch.stream_gradient_bf16.at(0);
        let arguments =
            ToBf16 { to, from: self.scratch.stream_gradient.at(0), fours: FourCount::of(fours) };
        let grid = grid_over(fours);
        // SAFETY: the width of a row is a multiple of four.
        unsafe { self.device.launch(&self.kernels.to_bf16, grid, THREADS, &arguments)? };
        Ok(DeviceMatrix::bf16(to, self.config.width))
    }
}

// === impl TrainKernels ===

impl TrainKernels {
    pub fn find(device: &Device) -> Result<Self, CudaError> {
        Ok(Self {
            embed: device.kernel()?,
            add_norm: device.kernel()?,
            add_norm_picked: device.kernel()?,
            chosen_logits: device.kernel()?,
            silu_mul: device.kernel()?,
            silu_mul_back: device.kernel()?,
            norm_back: device.kernel()?,
            norm_and_rope: device.kernel()?,
            norm_and_rope_back: device.kernel()?,
            join_heads: device.kernel()?,
            split_heads: device.kernel()?,
            attention_softmax: device.kernel()?,
            attention_softmax_back: device.kernel()?,
            add_bias: device.kernel()?,
            to_bf16: device.kernel()?,
            apply_dropout: device.kernel()?,
            apply_dropout_back: device.kernel()?,
            cross_entropy: device.kernel()?,
            choice_cross_entropy: device.kernel()?,
        })
    }
}
