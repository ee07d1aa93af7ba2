//! The trainable layers that the scorer and the Rechead share.
//!
//! Only operations with a gradient are used: candle's fused softmax and layer norm have none, and drop it without an
//! error. Broadcasts over long tensors are products where possible, because candle's strided loops and their sums in the
//! backward pass dominate a training step.

use super::dropout::{Dropout, drop};
use candle_core::{D, DType, Result, Tensor};
use candle_nn::VarBuilder;

/// Added to a masked logit. Finite, so that a row without a valid entry gives finite numbers, which its mask removes.
pub(super) const FAR: f64 = -1e9;
/// Keeps the norm of a constant vector finite; PyTorch's default.
const NORM_EPSILON: f64 = 1e-5;
/// The slope of LeakyReLU below zero; PyTorch's default.
pub(super) const LEAK: f64 = 0.01;

#[derive(Debug)]
pub(super) struct LinearModule {
    /// (outputs, inputs)
    pub weight: Tensor,
    /// (outputs)
    pub bias: Tensor,
}

#[derive(Debug)]
pub(super) struct LayerNormModule {
    scale: Tensor,
    shift: Tensor,
}

#[derive(Debug)]
pub(super) struct AttentionModule {
    /// (3d, d) and (3d): queries, keys, values
    weight: Tensor,
    bias: Tensor,
    pub out: LinearModule,
}

/// A Transformer layer, with its norms before each part (PyTorch's `norm_first`) or after it.
#[derive(Debug)]
pub(super) struct EncoderModule {
    heads: usize,
    norms: [LayerNormModule; 2],
    attention: AttentionModule,
    up: LinearModule,
    down: LinearModule,
}

// === impl LinearModule ===

impl LinearModule {
    pub fn new(inputs: usize, outputs: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self { weight: vb.get((outputs, inputs), "weight")?, bias: vb.get(outputs, "bias")? })
    }

    /// (…, inputs) → (…, outputs)
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let (outputs, inputs) = self.weight.dims2()?;
        let mut dims = xs.dims().to_vec();
        *dims.last_mut().expect("a layer's input has a last dimension") = outputs;
        let ys = xs.reshape(((), inputs))?.matmul(&self.weight.t()?)?.reshape(dims)?;
        &ys + repeat(&self.bias, ys.dims())?
    }
}

// === impl LayerNormModule ===

impl LayerNormModule {
    pub fn new(width: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self { scale: vb.get(width, "weight")?, shift: vb.get(width, "bias")? })
    }

    /// (…, d) → (…, d)
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let xs = xs.broadcast_sub(&xs.mean_keepdim(D::Minus1)?)?;
        let spread = (xs.sqr()?.mean_keepdim(D::Minus1)? + NORM_EPSILON)?.sqrt()?;
        let xs = xs.broadcast_div(&spread)?;
        (&xs * repeat(&self.scale, xs.dims())?)? + repeat(&self.shift, xs.dims())?
    }
}

// === impl AttentionModule ===

impl AttentionModule {
    pub fn new(width: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            weight: vb.get((3 * width, width), "in_proj_weight")?,
            bias: vb.get(3 * width, "in_proj_bias")?,
            out: LinearModule::new(width, width, &vb.pp("out_proj"))?,
        })
    }

    /// The projection of queries (0), keys (1) or values (2).
    pub fn part(&self, index: usize) -> Result<LinearModule> {
        let d = self.bias.dim(0)? / 3;
        let weight = self.weight.narrow(0, index * d, d)?;
        Ok(LinearModule { weight, bias: self.bias.narrow(0, index * d, d)? })
    }
}

// === impl EncoderModule ===

impl EncoderModule {
    pub fn new(width: usize, ffn: usize, heads: usize, vb: &VarBuilder<'_>) -> Result<Self> {
        Ok(Self {
            heads,
            norms: [
                LayerNormModule::new(width, &vb.pp("norm1"))?,
                LayerNormModule::new(width, &vb.pp("norm2"))?,
            ],
            attention: AttentionModule::new(width, &vb.pp("self_attn"))?,
            up: LinearModule::new(width, ffn, &vb.pp("linear1"))?,
            down: LinearModule::new(ffn, width, &vb.pp("linear2"))?,
        })
    }

    /// (B, H, d) → (B, H, d). `far` (B, heads, H, H) is added to the logits: [`FAR`] where attention is masked.
    pub fn forward(&self, rows: &Tensor, far: Option<&Tensor>) -> Result<Tensor> {
        let rows = (rows + self.attend(&self.norms[0].forward(rows)?, far, None)?)?;
        let hidden = self.up.forward(&self.norms[1].forward(&rows)?)?.relu()?;
        rows + self.down.forward(&hidden)?
    }

    /// The same with norms after each part, PyTorch's default. Dropout is where PyTorch has it: on the attention, on the
    /// hidden row and on each part's result.
    pub fn forward_norms_after(
        &self,
        rows: &Tensor,
        mut dropout: Option<&mut Dropout>,
    ) -> Result<Tensor> {
        let seen = self.attend(rows, None, dropout.as_deref_mut())?;
        let rows = self.norms[0].forward(&(rows + drop(dropout.as_deref_mut(), seen)?)?)?;
        let hidden = drop(dropout.as_deref_mut(), self.up.forward(&rows)?.relu()?)?;
        let out = drop(dropout, self.down.forward(&hidden)?)?;
        self.norms[1].forward(&(rows + out)?)
    }

    fn attend(
        &self,
        xs: &Tensor,
        far: Option<&Tensor>,
        dropout: Option<&mut Dropout>,
    ) -> Result<Tensor> {
        let (b, h, d) = xs.dims3()?;
        let heads = |part: usize| -> Result<Tensor> {
            let xs = self.attention.part(part)?.forward(xs)?;
            xs.reshape((b, h, self.heads, ()))?.transpose(1, 2)?.contiguous()
        };
        let scale = ((d / self.heads) as f64).sqrt().recip();
        let mut logits = (heads(0)? * scale)?.matmul(&heads(1)?.t()?)?;
        if let Some(far) = far {
            logits = (logits + far)?;
        }
        let seen = drop(dropout, softmax(&logits)?)?.matmul(&heads(2)?)?;
        self.attention.out.forward(&seen.transpose(1, 2)?.reshape((b, h, d))?)
    }
}

/// `x` where it is positive, and a hundredth of it elsewhere (PyTorch's default slope).
pub(super) fn leaky_relu(xs: &Tensor) -> Result<Tensor> {
    (xs.relu()? * (1.0 - LEAK))? + (xs * LEAK)?
}

/// Repeats a vector (d) to `dims` (…, d).
///
/// As a product with ones, whose gradient is a product too; candle sums the gradient of a broadcast number by number.
pub(super) fn repeat(vector: &Tensor, dims: &[usize]) -> Result<Tensor> {
    let rows = dims.iter().product::<usize>() / vector.dim(0)?;
    let ones = Tensor::ones((rows, 1), DType::F32, vector.device())?;
    ones.matmul(&vector.unsqueeze(0)?)?.reshape(dims)
}

/// Softmax over the last dimension. The maximum is detached: its gradient would cancel.
pub(super) fn softmax(logits: &Tensor) -> Result<Tensor> {
    let top = logits.max_keepdim(D::Minus1)?.detach();
    let odds = logits.broadcast_sub(&top)?.exp()?;
    odds.broadcast_div(&odds.sum_keepdim(D::Minus1)?)
}

/// `1 / (1 + e^-x)`.
pub(super) fn sigmoid(xs: &Tensor) -> Result<Tensor> {
    (xs.neg()?.exp()? + 1.0)?.recip()
}
