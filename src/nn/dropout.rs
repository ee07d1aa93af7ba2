//! Dropout for training.

use candle_core::{Result, Tensor};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Dropout with a seeded generator, since candle's cannot be seeded on a CPU.
#[derive(Debug)]
pub struct Dropout {
    /// Dropout probability, below 1.
    pub rate: f32,
    /// The generator.
    pub rng: ChaCha8Rng,
}

/// Drops a share of the values and scales the rest up, when there is a dropout.
pub(super) fn drop(dropout: Option<&mut Dropout>, xs: Tensor) -> Result<Tensor> {
    let Some(dropout) = dropout.filter(|dropout| dropout.rate > 0.0) else { return Ok(xs) };
    let keep = 1.0 - dropout.rate;
    let draw = |_| if dropout.rng.random::<f32>() < keep { keep.recip() } else { 0.0 };
    let mask: Vec<f32> = (0..xs.elem_count()).map(draw).collect();
    let mask = Tensor::from_vec(mask, xs.shape(), xs.device())?;
    xs * mask
}
