//! The encoder and the decoder in training.

use super::{Mlp, RqVaeLinear};
use candle_core::{Device, Result, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Two layers with a ReLU between them, as variables: (outputs, inputs) and (1, outputs) each.
pub(super) struct MlpModule([[Var; 2]; 2]);

// === impl MlpModule ===

impl MlpModule {
    /// He's uniform initialisation, within the root of six over the inputs; biases of zero.
    pub fn new(sizes: [usize; 3], rng: &mut ChaCha8Rng) -> Result<Self> {
        let mut layer = |inputs: usize, outputs: usize| -> Result<[Var; 2]> {
            let bound = (6.0 / inputs as f32).sqrt();
            let values = (0..inputs * outputs).map(|_| rng.random_range(-bound..bound)).collect();
            let weight = Var::from_vec(values, (outputs, inputs), &Device::Cpu)?;
            Ok([weight, Var::from_vec(vec![0.0_f32; outputs], (1, outputs), &Device::Cpu)?])
        };
        Ok(Self([layer(sizes[0], sizes[1])?, layer(sizes[1], sizes[2])?]))
    }

    /// (rows, inputs) → (rows, outputs)
    pub fn forward(&self, xs: &Tensor) -> Result<Tensor> {
        let [first, second] = &self.0;
        linear(second, &linear(first, xs)?.relu()?)
    }

    pub fn variables(&self) -> impl Iterator<Item = Var> + '_ {
        self.0.iter().flatten().cloned()
    }

    /// The trained weights.
    pub fn frozen(&self) -> Result<Mlp> {
        let dense = |[weight, bias]: &[Var; 2]| -> Result<RqVaeLinear> {
            let values = |table: &Var| table.flatten_all()?.to_vec1();
            Ok(RqVaeLinear { weight: values(weight)?, bias: values(bias)? })
        };
        Ok(Mlp([dense(&self.0[0])?, dense(&self.0[1])?]))
    }
}

fn linear([weight, bias]: &[Var; 2], xs: &Tensor) -> Result<Tensor> {
    xs.matmul(&weight.t()?)?.broadcast_add(bias)
}
