//! One member of the direct path as candle trains it.

use super::DirectShape;
use crate::nn::dropout::{Dropout, drop};
use crate::nn::layers::{LayerNormModule, LinearModule};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// One member; its tensors are those of [`DirectShape::member_tensors`].
#[derive(Debug)]
pub struct DirectNetwork {
    /// (1, 2F)
    linear: Tensor,
    hidden: LinearModule,
    norm: LayerNormModule,
    out: LinearModule,
}

// === impl DirectNetwork ===

impl DirectNetwork {
    /// Takes the member's tensors from `vb`.
    pub fn new(shape: &DirectShape, vb: &VarBuilder<'_>) -> Result<Self> {
        shape.check().map_err(candle_core::Error::wrap)?;
        let (inputs, hidden) = (2 * shape.inputs, shape.hidden);
        Ok(Self {
            linear: vb.get((1, inputs), "linear.weight")?,
            hidden: LinearModule::new(inputs, hidden, &vb.pp("hidden"))?,
            norm: LayerNormModule::new(hidden, &vb.pp("norm"))?,
            out: LinearModule::new(hidden, 1, &vb.pp("out"))?,
        })
    }

    /// The logits (N) of inputs u (N, 2F).
    pub fn forward(&self, inputs: &Tensor) -> Result<Tensor> {
        self.pass(inputs, None)
    }

    /// The same with dropout on the hidden layer.
    pub fn forward_train(&self, inputs: &Tensor, dropout: &mut Dropout) -> Result<Tensor> {
        self.pass(inputs, Some(dropout))
    }

    fn pass(&self, inputs: &Tensor, dropout: Option<&mut Dropout>) -> Result<Tensor> {
        let hidden = self.norm.forward(&self.hidden.forward(inputs)?)?.gelu()?;
        let hidden = self.out.forward(&drop(dropout, hidden)?)?;
        (hidden + inputs.matmul(&self.linear.t()?)?)?.squeeze(1)
    }
}
