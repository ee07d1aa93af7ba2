//! The published wiring as candle trains it. The tables of tokens are kept apart: a step updates few of their rows.

use super::{MLP_LAYERS, MLPS, RecheadBatch, RecheadShape, selected};
use crate::nn::dropout::Dropout;
use crate::nn::layers::{EncoderModule, LayerNormModule, LinearModule, leaky_relu, sigmoid};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// The network of the published wiring; its tensors are those of [`RecheadShape::network_tensors`].
///
/// The batch's vectors of texts are means of rows of the tables, and its items are the vectors that never move.
#[derive(Debug)]
pub struct PublishedNetwork {
    gamma: f64,
    history: NormedMlpModule,
    thought: NormedMlpModule,
    layers: Vec<EncoderModule>,
    gate: Vec<LinearModule>,
}

/// Linear layers with a norm before each and LeakyReLU between them.
#[derive(Debug)]
struct NormedMlpModule(Vec<(LayerNormModule, LinearModule)>);

// === impl PublishedNetwork ===

impl PublishedNetwork {
    /// Takes the network's tensors from `vb`.
    pub fn new(shape: &RecheadShape, vb: &VarBuilder<'_>) -> Result<Self> {
        shape.check().map_err(candle_core::Error::wrap)?;
        let [history, thought] = MLPS.map(|text| NormedMlpModule::new(shape.width, &vb.pp(text)));
        let layer = |layer: usize| {
            let vb = vb.pp(format!("encoder.layers.{layer}"));
            EncoderModule::new(shape.width, shape.ffn, shape.heads, &vb)
        };
        let gate = shape.gate_sizes().into_iter().enumerate().map(|(layer, (inputs, outputs))| {
            LinearModule::new(inputs, outputs, &vb.pp(format!("gate.{layer}")))
        });
        Ok(Self {
            gamma: shape.gamma.into(),
            history: history?,
            thought: thought?,
            layers: (0..shape.layers).map(layer).collect::<Result<_>>()?,
            gate: gate.collect::<Result<_>>()?,
        })
    }

    /// s (B, N), with dropout in training.
    pub fn forward(&self, batch: &RecheadBatch, dropout: Option<&mut Dropout>) -> Result<Tensor> {
        let shoppers = self.shoppers(batch, dropout)?.unsqueeze(2)?;
        batch.items.matmul(&shoppers)?.squeeze(2)
    }

    /// h_u (B, d), with dropout in training.
    pub fn shoppers(
        &self,
        batch: &RecheadBatch,
        mut dropout: Option<&mut Dropout>,
    ) -> Result<Tensor> {
        let history = self.history.forward(&batch.history)?;
        let thought = self.thought.forward(&batch.thought)?;
        let selected = selected(&history, &batch.answer, &batch.answered)?;
        let mut rows = Tensor::stack(&[&history, &thought, &selected], 1)?;
        for layer in &self.layers {
            rows = layer.forward_norms_after(&rows, dropout.as_deref_mut())?;
        }
        let pooled = rows.narrow(1, 2, 1)?.squeeze(1)?.contiguous()?;
        let gate = (sigmoid(&self.gate(&selected, &pooled)?)? * self.gamma)?;
        selected + pooled.broadcast_mul(&gate)?
    }

    /// The gate's logit: (B, 1).
    fn gate(&self, selected: &Tensor, pooled: &Tensor) -> Result<Tensor> {
        let mut hidden = Tensor::cat(&[selected, pooled], 1)?;
        for (place, layer) in self.gate.iter().enumerate() {
            hidden = layer.forward(&if place > 0 { leaky_relu(&hidden)? } else { hidden })?;
        }
        Ok(hidden)
    }
}

// === impl NormedMlpModule ===

impl NormedMlpModule {
    fn new(width: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        let layer = |layer: usize| {
            let norm = LayerNormModule::new(width, &vb.pp(format!("norms.{layer}")))?;
            Ok((norm, LinearModule::new(width, width, &vb.pp(format!("layers.{layer}")))?))
        };
        Ok(Self((0..MLP_LAYERS).map(layer).collect::<Result<_>>()?))
    }

    /// (B, d) → (B, d)
    fn forward(&self, rows: &Tensor) -> Result<Tensor> {
        let mut rows = rows.clone();
        for (place, (norm, linear)) in self.0.iter().enumerate() {
            let inputs = if place > 0 { leaky_relu(&rows)? } else { rows };
            rows = linear.forward(&norm.forward(&inputs)?)?;
        }
        Ok(rows)
    }
}
