//! The decoder's arithmetic on candle's tensors, in operations that all have gradients.
//!
//! candle's fast softmax, norms and rotations drop the gradient silently, so those of [`ops`] are used here. They
//! train a decoder, and are the reference that the serving kernels are compared with.

use super::{
    Adapters, DecoderConfig, EMBEDDING, LinearId, NormId, Parameters, TokenBatch, UnfusedKernels,
};
use crate::nn::ops::{self, AttentionSpec, CrossEntropyTargets};
use candle_core::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A forward pass over a batch. Its rows are `(sequences, length, numbers)`.
///
/// In bf16, weights and rows are bf16. Products are summed in f32, and norms, rotations, gates, attention and losses
/// are computed in f32.
#[derive(Debug)]
pub struct Exact<'a> {
    config: &'a DecoderConfig,
    parameters: &'a Parameters,
    adapters: Option<&'a Adapters>,
    dtype: DType,
    shape: (usize, usize),
    tokens: Tensor,
    rotations: [Tensor; 2],
    /// By window: layers with the same window share a mask.
    masks: BTreeMap<Option<usize>, Tensor>,
}

// === impl Exact ===

impl<'a> Exact<'a> {
    /// A pass over `batch`, computed in `dtype`.
    pub fn new(
        config: &'a DecoderConfig,
        parameters: &'a Parameters,
        batch: &TokenBatch,
        dtype: DType,
    ) -> Result<Self> {
        batch.check()?;
        let device = &parameters.get(EMBEDDING)?.device().clone();
        let mut masks = BTreeMap::new();
        for &window in &config.windows {
            // A window as long as the batch hides nothing.
            let window = window.filter(|&window| window < batch.length);
            if let Entry::Vacant(vacant) = masks.entry(window) {
                vacant.insert(batch.mask(window, device)?);
            }
        }
        Ok(Self {
            config,
            parameters,
            adapters: None,
            dtype,
            shape: (batch.sequences, batch.length),
            tokens: Tensor::from_slice(&batch.tokens, batch.tokens.len(), device)?,
            rotations: batch.rotations(&config.inverse_frequencies(), device)?,
            masks,
        })
    }

    /// The same pass with low-rank adapters on some of its matrices.
    pub fn with_adapters(self, adapters: &'a Adapters) -> Self {
        Self { adapters: Some(adapters), ..self }
    }

    /// The decoder's configuration.
    pub fn config(&self) -> &'a DecoderConfig {
        self.config
    }

    /// The decoder's tensors.
    pub fn parameters(&self) -> &'a Parameters {
        self.parameters
    }

    /// The decoder's adapters.
    pub fn adapters(&self) -> Option<&'a Adapters> {
        self.adapters
    }

    /// `(…, numbers)` after the last norm to `(…, vocabulary)` in f32.
    pub fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        self.project(rows, LinearId::Unembed)?.to_dtype(DType::F32)
    }

    /// `(rows, numbers)` after the last norm to the f32 logits of one token: `(rows)`.
    pub fn token_logits(&self, rows: &Tensor, token: u32) -> Result<Tensor> {
        let weight = self.unembedding()?.narrow(0, token as usize, 1)?.contiguous()?;
        ops::linear(&rows.to_dtype(DType::F32)?, &weight.to_dtype(DType::F32)?)?.squeeze(1)
    }

    /// The cross-entropy of the target tokens, from `(rows, numbers)` after the last norm; see [`ops::cross_entropy`].
    pub fn cross_entropy(&self, rows: &Tensor, targets: CrossEntropyTargets<'_>) -> Result<Tensor> {
        ops::cross_entropy(rows, &self.unembedding()?, targets)
    }

    /// `(vocabulary, width)`, with its adapter's product added.
    fn unembedding(&self) -> Result<Tensor> {
        let weight = self.parameter(&self.weight_name(LinearId::Unembed))?;
        match self
            .adapters
            .map(|adapters| adapters.weight(LinearId::Unembed))
            .transpose()?
            .flatten()
        {
            Some(more) => weight + more.to_dtype(self.dtype)?,
            None => Ok(weight),
        }
    }

    fn weight_name(&self, matrix: LinearId) -> String {
        match matrix {
            LinearId::Unembed if self.config.tied => EMBEDDING.into(),
            matrix => matrix.name(),
        }
    }

    /// A parameter in the dtype of the pass.
    fn parameter(&self, name: &str) -> Result<Tensor> {
        self.parameters.get(name)?.to_dtype(self.dtype)
    }

    /// `rows W^T + b`, plus the adapter's output.
    fn project(&self, rows: &Tensor, matrix: LinearId) -> Result<Tensor> {
        let weight = self.parameter(&self.weight_name(matrix))?;
        let mut out = ops::linear(rows, &weight)?;
        if let Some(bias) = matrix.bias(self.config) {
            out = out.broadcast_add(&self.parameter(&bias)?)?;
        }
        if let Some(more) = self.adapters.map(|a| a.forward(matrix, rows)).transpose()?.flatten() {
            out = (out + more)?;
        }
        Ok(out)
    }

    fn normed(&self, rows: &Tensor, norm: NormId) -> Result<Tensor> {
        let scale = self.parameters.get(&norm.name())?.to_dtype(DType::F32)?;
        ops::rms_norm(rows, &scale, self.config.norm_epsilon)
    }

    /// The device that computes the pass.
    pub fn device(&self) -> &Device {
        self.tokens.device()
    }
}

impl UnfusedKernels for Exact<'_> {
    type Rows = Tensor;
    type Error = candle_core::Error;

    fn embedding(&mut self) -> Result<Tensor> {
        let (sequences, length) = self.shape;
        let rows = self.parameters.get(EMBEDDING)?.index_select(&self.tokens, 0)?;
        rows.reshape((sequences, length, ()))?.to_dtype(self.dtype)
    }

    fn rms_norm(&mut self, rows: &Tensor, norm: NormId) -> Result<Tensor> {
        self.normed(rows, norm)
    }

    fn rms_norm_in_place(&mut self, rows: Tensor, norm: NormId) -> Result<Tensor> {
        self.normed(&rows, norm)
    }

    fn linear<const N: usize>(
        &mut self,
        rows: Tensor,
        matrices: [LinearId; N],
    ) -> Result<[Tensor; N]> {
        let out = matrices.map(|matrix| self.project(&rows, matrix));
        let out = out.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(out.try_into().expect("each matrix has an output"))
    }

    fn rope(&mut self, rows: Tensor) -> Result<Tensor> {
        ops::rope(&rows, &self.rotations)
    }

    fn attention(&mut self, layer: usize, queries_keys_values: [Tensor; 3]) -> Result<Tensor> {
        let DecoderConfig { kv_heads, head_dim, .. } = *self.config;
        let window = self.config.windows[layer].filter(|&window| window < self.shape.1);
        let mask = self.masks[&window].clone();
        ops::attend(&queries_keys_values, AttentionSpec { kv_heads, head_dim, mask })
    }

    fn silu_mul(&mut self, gate: Tensor, up: Tensor) -> Result<Tensor> {
        ops::gate(&gate, &up)
    }

    fn add(&mut self, rows: Tensor, delta: Tensor) -> Result<Tensor> {
        rows + delta
    }
}
