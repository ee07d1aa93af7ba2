//! The decoder's arithmetic on candle's tensors, in operations that all have gradients.
//!
//! candle's fast softmax, norms and rotations lose the gradient without a word, so those of
//! [`ops`] are used here. This is what trains a decoder, and the twin that the serving kernels are
//! held against.

use super::{Adapters, Batch, Config, EMBEDDING, Kernels, LinearId, NormId, Parameters};
use crate::nn::ops::{self, Sight, Targets};
use candle_core::{DType, Device, Result, Tensor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// A pass over a batch; its rows are `(sequences, length, numbers)`.
///
/// In bf16, weights are multiplied as bf16 and rows are kept as bf16; products add up in f32, and norms,
/// rotations, gates, attention and losses are calculated in f32.
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
            rotations: batch.rotations(&config.inverse_frequencies(), device)?,
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
        self.project(rows, LinearId::Unembed)?.to_dtype(DType::F32)
    }

    /// `(rows, numbers)` after the last norm to the f32 logits of one token: `(rows)`.
    pub fn logits_of(&self, rows: &Tensor, token: u32) -> Result<Tensor> {
        let weight = self.unembedding()?.narrow(0, token as usize, 1)?.contiguous()?;
        ops::linear(&rows.to_dtype(DType::F32)?, &weight.to_dtype(DType::F32)?)?.squeeze(1)
    }

    /// How surprised `(rows, numbers)` after the last norm are by the tokens that follow them; see
    /// [`ops::surprise`].
    pub fn surprise(&self, rows: &Tensor, targets: Targets<'_>) -> Result<Tensor> {
        ops::surprise(rows, &self.unembedding()?, targets)
    }

    /// `(vocabulary, width)`, with what an adapter adds to it.
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

    /// A parameter in the type that the pass is calculated in.
    fn parameter(&self, name: &str) -> Result<Tensor> {
        self.parameters.get(name)?.to_dtype(self.dtype)
    }

    /// `rows W^T + b`, and what an adapter adds.
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

    fn norm(&mut self, rows: &Tensor, norm: NormId) -> Result<Tensor> {
        self.normed(rows, norm)
    }

    fn norm_in_place(&mut self, rows: Tensor, norm: NormId) -> Result<Tensor> {
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

    fn rotate(&mut self, rows: Tensor) -> Result<Tensor> {
        ops::rotate(&rows, &self.rotations)
    }

    fn attend(&mut self, layer: usize, queries_keys_values: [Tensor; 3]) -> Result<Tensor> {
        let Config { kv_heads, head_dim, .. } = *self.config;
        let window = self.config.windows[layer].filter(|&window| window < self.shape.1);
        let mask = self.masks[&window].clone();
        ops::attend(&queries_keys_values, Sight { kv_heads, head_dim, mask })
    }

    fn gate(&mut self, gate: Tensor, up: Tensor) -> Result<Tensor> {
        ops::gate(&gate, &up)
    }

    fn add(&mut self, rows: Tensor, more: Tensor) -> Result<Tensor> {
        rows + more
    }
}
