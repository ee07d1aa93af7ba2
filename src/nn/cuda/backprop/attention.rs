//! Attention over whole sequences, forward and backward, as products with a softmax between them.
//!
//! With `P = softmax(s Q K^T)` and `O = P V`: `V' = P^T O'`, `P' = O' V^T`, `S' = P (P' - Σ P P')`, `Q' = s S' K` and
//! `K' = s S'^T Q`. The query heads that share a KV head are rows of one product with it.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::super::blas::{DeviceMatrix, ProductSize};
use super::super::device::{CudaError, DeviceBuffer};
use super::super::interface::{
    AttentionScore, AttentionSoftmax, AttentionSoftmaxBack, AttentionWeight, DevicePtr, FirstHead,
    HeadCount, JoinHeads, Length, Product, RowCount, SplitHeads, WARP, Window,
};
use super::super::load::HeadNorms;
use super::state::{THREADS, TrainState};
use std::ops::Range;

/// Warps of a block. Each has a head, or a row of scores.
const WARPS: usize = (THREADS / WARP) as usize;

/// The matrices of some KV heads, one behind the other.
struct HeadMatrices {
    queries: DeviceMatrix,
    keys: DeviceMatrix,
    values: DeviceMatrix,
    scores: DeviceMatrix,
    weights: DeviceMatrix,
    /// Rows of the queries of one KV head.
    rows: usize,
    /// Rows of its keys.
    length: usize,
    dim: usize,
    heads: Range<usize>,
}

impl TrainState {
    /// From rotated heads to attention's output.
    pub(super) fn attend(&self, layer: usize) -> Result<(), CudaError> {
        let scratch = &self.scratch;
        for some in self.heads_at_once() {
            let heads = self.head_matrices(some);
            let attended = DeviceMatrix::bf16(scratch.attended_heads.at(0), heads.dim);
            let attended = heads.queries_of(attended);
            let size = heads.size([heads.rows, heads.dim, heads.length]);
            self.softmax(layer, &heads)?;
            // SAFETY: buffers have space for a batch's heads.
            unsafe {
                self.blas.multiply(attended, [heads.weights, heads.values], size, 1.0, None)?;
            }
        }
        let arguments = JoinHeads {
            rows: scratch.attended.at(0),
            heads: scratch.attended_heads.at(0),
            sequences: self.sequences(),
        };
        let (kernel, grid) = (&self.kernels.join_heads, [self.rows(), 1, 1]);
        // SAFETY: both buffers have space for a batch's rows.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments) }
    }

    /// From the gradient of attention's output to those of rotated heads.
    pub(super) fn attend_back(&self, layer: usize) -> Result<(), CudaError> {
        let scratch = &self.scratch;
        let arguments = SplitHeads {
            heads: scratch.attended_heads_gradient.at(0),
            rows: scratch.attended_gradient.at(0),
            sequences: self.sequences(),
        };
        let (kernel, grid) = (&self.kernels.split_heads, [self.rows(), 1, 1]);
        // SAFETY: both buffers have space for a batch's rows.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments)? };
        let scale = self.score_scale();
        for some in self.heads_at_once() {
            let heads = self.head_matrices(some);
            let HeadMatrices { rows, length, dim, .. } = heads;
            let attended = DeviceMatrix::bf16(scratch.attended_heads_gradient.at(0), dim);
            let attended = heads.queries_of(attended);
            let queries = DeviceMatrix::f32(scratch.query_gradient.at(0), dim);
            let queries = heads.queries_of(queries);
            let keys = heads.keys_of(DeviceMatrix::f32(scratch.key_gradient.at(0), dim));
            let values = heads.keys_of(DeviceMatrix::f32(scratch.value_gradient.at(0), dim));
            let of_keys = heads.size([length, dim, rows]);
            self.softmax(layer, &heads)?;
            // SAFETY: buffers have space for a batch's heads.
            unsafe {
                let sides = [heads.weights.transposed(), attended];
                self.blas.multiply(values, sides, of_keys, 1.0, None)?;
                let size = heads.size([rows, length, dim]);
                let sides = [attended, heads.values.transposed()];
                self.blas.multiply(heads.scores, sides, size, 1.0, None)?;
            }
            self.softmax_back(&heads)?;
            // SAFETY: buffers have space for a batch's heads.
            unsafe {
                let size = heads.size([rows, dim, length]);
                self.blas.multiply(queries, [heads.weights, heads.keys], size, scale, None)?;
                let sides = [heads.weights.transposed(), heads.queries];
                self.blas.multiply(keys, sides, of_keys, scale, None)?;
            }
        }
        Ok(())
    }

    /// KV heads, counted over all sequences, as many at a time as there is space for.
    fn heads_at_once(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let group = self.config.heads / self.config.kv_heads;
        let of_one = group * self.upload.length * self.upload.length;
        let at_once = (self.scratch.scores.len() / of_one).max(1);
        let all = self.upload.sequences * self.config.kv_heads;
        (0..all).step_by(at_once).map(move |first| first..all.min(first + at_once))
    }

    fn head_matrices(&self, some: Range<usize>) -> HeadMatrices {
        let (scratch, dim, length) = (&self.scratch, self.config.head_dim, self.upload.length);
        let rows = self.config.heads / self.config.kv_heads * length;
        let scores = DeviceMatrix::f32(scratch.scores.at(0), length);
        let weights = DeviceMatrix::bf16(scratch.weights.at(0), length);
        let mut heads = HeadMatrices {
            queries: DeviceMatrix::bf16(scratch.queries.at(0), dim),
            keys: DeviceMatrix::bf16(scratch.keys.at(0), dim),
            values: DeviceMatrix::bf16(scratch.values.at(0), dim),
            scores: scores.with_stride(rows * length),
            weights: weights.with_stride(rows * length),
            rows,
            length,
            dim,
            heads: some,
        };
        heads.queries = heads.queries_of(heads.queries);
        heads.keys = heads.keys_of(heads.keys);
        heads.values = heads.keys_of(heads.values);
        heads
    }

    /// Attention's weights: the softmax of queries times keys.
    fn softmax(&self, layer: usize, heads: &HeadMatrices) -> Result<(), CudaError> {
        let sides = [heads.queries, heads.keys.transposed()];
        let size = heads.size([heads.rows, heads.length, heads.dim]);
        // SAFETY: there is space for the scores of these heads.
        unsafe { self.blas.multiply(heads.scores, sides, size, self.score_scale(), None)? };
        let arguments = AttentionSoftmax {
            weights: self.scratch.weights.at(0),
            scores: self.scratch.scores.at(0),
            positions: self.upload.at(self.upload.positions),
            segments: self.upload.at(self.upload.segments),
            first: FirstHead::of(heads.heads.start),
            count: HeadCount::of(heads.heads.len()),
            window: Window::of(self.config.windows[layer].unwrap_or(0)),
            sequences: self.sequences(),
        };
        let (kernel, grid) = (&self.kernels.attention_softmax, heads.grid());
        // SAFETY: there are as many weights as scores.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments) }
    }

    fn softmax_back(&self, heads: &HeadMatrices) -> Result<(), CudaError> {
        let weights: DevicePtr<AttentionWeight> = self.scratch.weights.at(0);
        let gradient: DevicePtr<AttentionScore> = self.scratch.scores.at(0);
        let rows = RowCount::of(heads.rows * heads.heads.len());
        let length = Length::of(heads.length);
        let arguments = AttentionSoftmaxBack { weights, gradient, rows, length };
        let (kernel, grid) = (&self.kernels.attention_softmax_back, heads.grid());
        // SAFETY: there are as many weights as gradients.
        unsafe { self.device.launch(kernel, grid, THREADS, &arguments) }
    }

    /// A layer's norms over heads, if it has them.
    pub(super) fn head_norms(&self, layer: usize, head_norms: bool) -> Option<&HeadNorms> {
        head_norms.then(|| {
            let norms = self.layers[layer].head_norms.as_ref();
            norms.expect("a model with head norms loads their scales")
        })
    }

    /// Projected queries, keys and values, with their bias.
    pub(super) fn qkv(&self, layer: usize) -> Product {
        let bias = DeviceBuffer::or_null(self.layers[layer].qkv.bias.as_ref());
        Product { sums: self.scratch.qkv.at(0), bias, ..Product::default() }
    }

    /// The grid of a kernel with one warp per head.
    pub(super) fn grid_of_heads(&self) -> [usize; 3] {
        let heads = self.config.heads + 2 * self.config.kv_heads;
        [self.rows(), heads.div_ceil(WARPS), 1]
    }

    fn score_scale(&self) -> f32 {
        (self.config.head_dim as f32).sqrt().recip()
    }
}

// === impl HeadMatrices ===

impl HeadMatrices {
    fn size(&self, [rows, columns, inner]: [usize; 3]) -> ProductSize {
        ProductSize { rows, columns, inner, count: self.heads.len() }
    }

    /// The grid of a kernel with one warp per row of scores.
    fn grid(&self) -> [usize; 3] {
        [(self.rows * self.heads.len()).div_ceil(WARPS), 1, 1]
    }

    /// The part of a table of queries that belongs to these heads.
    fn queries_of(&self, all: DeviceMatrix) -> DeviceMatrix {
        let each = self.rows * self.dim;
        all.from(self.heads.start * each).with_stride(each)
    }

    /// The part of a table of keys or values that belongs to these heads.
    fn keys_of(&self, all: DeviceMatrix) -> DeviceMatrix {
        let each = self.length * self.dim;
        all.from(self.heads.start * each).with_stride(each)
    }
}
