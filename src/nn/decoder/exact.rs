//! The decoder's arithmetic on candle's tensors, in operations that all have gradients.
//!
//! candle's fast softmax, norms and rotations lose the gradient without a word, so each is composed
//! of plain operations here. This is what trains a decoder, and the slow twin that the serving
//! kernels are held against.

use super::{
    Adapters, Batch, Config, EMBEDDING, Kernels, Linear, Norm, Parameters, frozen::frozen_linear,
};
use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::ops::silu;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A pass over a batch; its rows are `(sequences, length, numbers)`.
///
/// Norms and attention's softmax are calculated in f32 whatever the pass is calculated in.
#[derive(Debug)]
pub struct Exact<'a> {
    config: &'a Config,
    parameters: &'a Parameters,
    adapters: Option<&'a Adapters>,
    dtype: DType,
    shape: (usize, usize),
    tokens: Tensor,
    rotations: [Tensor; 2],
    /// By window, so that layers which see alike share one.
    masks: BTreeMap<Option<usize>, Tensor>,
}

// === impl Exact ===

impl<'a> Exact<'a> {
    /// A pass over `batch` that is calculated in `dtype`.
    pub fn new(
        config: &'a Config,
        parameters: &'a Parameters,
        batch: &Batch,
        dtype: DType,
    ) -> Result<Self> {
        batch.check()?;
        let device = &parameters.get(EMBEDDING)?.device().clone();
        let mut masks = BTreeMap::new();
        for &window in &config.windows {
            // A window that no row looks beyond hides nothing.
            let window = window.filter(|&window| window < batch.length);
            if let Entry::Vacant(place) = masks.entry(window) {
                place.insert(batch.mask(window, device)?);
            }
        }
        Ok(Self {
            config,
            parameters,
            adapters: None,
            dtype,
            shape: (batch.sequences, batch.length),
            tokens: Tensor::from_slice(&batch.tokens, batch.tokens.len(), device)?,
            rotations: batch.rotations(&config.inverse_frequencies(), dtype, device)?,
            masks,
        })
    }

    /// The same with low-rank adapters on some of its matrices.
    pub fn with_adapters(self, adapters: &'a Adapters) -> Self {
        Self { adapters: Some(adapters), ..self }
    }

    /// The sizes and switches of the decoder.
    pub fn config(&self) -> &'a Config {
        self.config
    }

    /// What the decoder is made of.
    pub fn parameters(&self) -> &'a Parameters {
        self.parameters
    }

    /// The adapters on it.
    pub fn adapters(&self) -> Option<&'a Adapters> {
        self.adapters
    }

    /// `(…, numbers)` after the last norm to `(…, vocabulary)` in f32.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        self.project(rows, Linear::Unembed)?.to_dtype(DType::F32)
    }

    /// A parameter in the type that the pass is calculated in.
    fn parameter(&self, name: &str) -> Result<Tensor> {
        self.parameters.get(name)?.to_dtype(self.dtype)
    }

    /// `rows W^T + b`, and what an adapter adds.
    fn project(&self, rows: &Tensor, matrix: Linear) -> Result<Tensor> {
        let name = match matrix {
            Linear::Unembed if self.config.tied => EMBEDDING.into(),
            matrix => matrix.name(),
        };
        let mut dims = rows.dims().to_vec();
        let rows = rows.reshape(((), rows.dim(D::Minus1)?))?;
        let weight = self.parameter(&name)?;
        let mut out = if self.parameters.get(&name)?.is_variable() {
            rows.matmul(&weight.t()?)?
        } else {
            frozen_linear(&rows, weight)?
        };
        if let Some(bias) = matrix.bias(self.config) {
            out = out.broadcast_add(&self.parameter(&bias)?)?;
        }
        if let Some(more) = self.adapters.map(|a| a.forward(matrix, &rows)).transpose()?.flatten() {
            out = (out + more)?;
        }
        let last = dims.len() - 1;
        dims[last] = out.dim(1)?;
        out.reshape(dims)
    }

    fn normed(&self, rows: &Tensor, norm: Norm) -> Result<Tensor> {
        let rows = rows.to_dtype(DType::F32)?;
        let square = rows.sqr()?.mean_keepdim(D::Minus1)?;
        let rows = rows.broadcast_div(&(square + self.config.norm_epsilon)?.sqrt()?)?;
        let scale = self.parameters.get(&norm.name())?.to_dtype(DType::F32)?;
        rows.broadcast_mul(&scale)?.to_dtype(self.dtype)
    }

    /// `(sequences, length, heads, head)`
    fn heads(&self, rows: &Tensor) -> Result<Tensor> {
        let (sequences, length) = self.shape;
        rows.reshape((sequences, length, (), self.config.head_dim))
    }

    fn rows_of(&self, heads: &Tensor) -> Result<Tensor> {
        let (sequences, length) = self.shape;
        heads.reshape((sequences, length, ()))
    }

    /// The device that the pass is calculated on.
    pub fn device(&self) -> &Device {
        self.tokens.device()
    }
}

impl Kernels for Exact<'_> {
    type Rows = Tensor;
    type Error = candle_core::Error;

    fn embed(&mut self) -> Result<Tensor> {
        let (sequences, length) = self.shape;
        let rows = self.parameters.get(EMBEDDING)?.index_select(&self.tokens, 0)?;
        rows.reshape((sequences, length, ()))?.to_dtype(self.dtype)
    }

    fn norm(&mut self, rows: &Tensor, norm: Norm) -> Result<Tensor> {
        self.normed(rows, norm)
    }

    fn norm_heads(&mut self, rows: Tensor, norm: Norm) -> Result<Tensor> {
        self.rows_of(&self.normed(&self.heads(&rows)?, norm)?)
    }

    fn linear<const N: usize>(
        &mut self,
        rows: Tensor,
        matrices: [Linear; N],
    ) -> Result<[Tensor; N]> {
        let out = matrices.map(|matrix| self.project(&rows, matrix));
        let out = out.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(out.try_into().expect("each matrix has an output"))
    }

    fn rotate(&mut self, rows: Tensor) -> Result<Tensor> {
        let heads = self.heads(&rows)?;
        let half = self.config.head_dim / 2;
        let (first, second) = (heads.narrow(3, 0, half)?, heads.narrow(3, half, half)?);
        let [cos, sin] = &self.rotations;
        let rotated = [
            (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
            (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
        ];
        self.rows_of(&Tensor::cat(&rotated, 3)?)
    }

    fn attend(&mut self, layer: usize, queries_keys_values: [Tensor; 3]) -> Result<Tensor> {
        let (sequences, length) = self.shape;
        let Config { heads, kv_heads, head_dim, .. } = *self.config;
        let group = heads / kv_heads;
        let [queries, keys, values] =
            queries_keys_values.map(|rows| self.heads(&rows)?.transpose(1, 2)?.contiguous());
        let (keys, values) = (keys?, values?);
        // The query heads that share keys lie next to each other, and are rows of one product.
        let queries = (queries? * (head_dim as f64).powf(-0.5))?;
        let queries = queries.reshape((sequences, kv_heads, group * length, head_dim))?;
        let logits = queries.matmul(&keys.transpose(2, 3)?)?.to_dtype(DType::F32)?;
        let logits = logits.reshape((sequences, kv_heads, group, length, length))?;
        let window = self.config.windows[layer].filter(|&window| window < length);
        let shares = softmax(&logits.broadcast_add(&self.masks[&window])?)?.to_dtype(self.dtype)?;
        let shares = shares.reshape((sequences, kv_heads, group * length, length))?;
        let seen = shares.matmul(&values)?.reshape((sequences, heads, length, head_dim))?;
        self.rows_of(&seen.transpose(1, 2)?.contiguous()?)
    }

    fn gate(&mut self, gate: Tensor, up: Tensor) -> Result<Tensor> {
        silu(&gate)? * up
    }

    fn add(&mut self, rows: Tensor, more: Tensor) -> Result<Tensor> {
        rows + more
    }
}

/// Over the last dimension. The largest logit is taken off first, and since that changes nothing it
/// needs no gradient.
fn softmax(logits: &Tensor) -> Result<Tensor> {
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    let shares = logits.broadcast_sub(&largest)?.exp()?;
    shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)
}
