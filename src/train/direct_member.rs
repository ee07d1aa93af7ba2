//! Trains one member of the direct path.

use super::direct_recipe::DirectRecipe;
use super::direct_slates::DirectSlate;
use super::fit::{self, FitConfig};
use crate::nn::direct::{DirectNetwork, DirectShape, Standardiser};
use crate::nn::{Dropout, Weights, listwise_loss};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Keeps the seeds of the direct path apart from those of the deep network.
const SEED: u64 = 0xd12e_c700;

/// One run of a member's training.
pub(super) struct MemberTraining<'a> {
    pub(super) recipe: &'a DirectRecipe,
    /// The shape of one member.
    pub(super) shape: &'a DirectShape,
    pub(super) moments: &'a Moments,
    pub(super) examples: Vec<&'a DirectSlate>,
    /// Slates of a batch.
    pub(super) batch: usize,
    pub(super) seed: u64,
    /// Epochs without a better metric after which it stops.
    pub(super) patience: usize,
}

/// Means and deviations of the features of the training slates.
pub(super) struct Moments {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

/// Whole slates, padded to the longest: B slates of N candidates.
struct SlateBatch {
    /// (B · N, 2F)
    inputs: Tensor,
    /// (B, N): the candidates that were taken share 1 equally.
    targets: Tensor,
    /// (B, N), 1 where there is a candidate.
    mask: Tensor,
    /// (B, N): the scores that the logits are added to, if any slate has some.
    offsets: Option<Tensor>,
}

/// The seed of a member.
pub(super) fn member_seed(seed: u64, member: usize) -> u64 {
    seed ^ SEED ^ ((member as u64) << 32)
}

// === impl MemberTraining ===

impl MemberTraining<'_> {
    /// Steps of an epoch.
    pub(super) fn steps(&self) -> usize {
        self.examples.len().div_ceil(self.batch)
    }

    /// Trains from these weights on. `validate` gets the number of each epoch, from 0, and its weights.
    pub(super) fn run(
        &self,
        begin: &Weights,
        mut validate: impl FnMut(usize, Weights) -> anyhow::Result<f64>,
        progress: impl FnMut(f64, usize),
    ) -> anyhow::Result<Vec<fit::Epoch>> {
        let (recipe, steps) = (self.recipe, self.steps());
        let variables = begin.to_varmap(&Device::Cpu)?;
        let built = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = DirectNetwork::new(self.shape, &built)?;
        let standardiser = Standardiser::new(&self.moments.mean, &self.moments.deviation);
        let mut dropout =
            Dropout { rate: recipe.dropout, rng: ChaCha8Rng::seed_from_u64(self.seed ^ 2) };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 1);
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        let config = FitConfig {
            epochs: recipe.epochs,
            steps,
            learning_rate: recipe.learning_rate,
            weight_decay: recipe.weight_decay,
            patience: self.patience,
        };
        let loss_of = |step: usize| -> anyhow::Result<Tensor> {
            if step.is_multiple_of(steps) {
                order.shuffle(&mut rng);
            }
            let start = step % steps * self.batch;
            let chosen = &order[start..order.len().min(start + self.batch)];
            let slates: Vec<&DirectSlate> = chosen.iter().map(|&at| self.examples[at]).collect();
            let batch = SlateBatch::of(&standardiser, &slates)?;
            let logits = network.forward_train(&batch.inputs, &mut dropout)?;
            let mut logits = logits.reshape(batch.mask.shape())?;
            if let Some(offsets) = &batch.offsets {
                logits = (logits + offsets)?;
            }
            Ok(listwise_loss(&logits, &batch.targets, &batch.mask)?)
        };
        let validate = |epoch| validate(epoch, Weights::from_varmap(&variables)?);
        fit::fit(&variables, config, loss_of, validate, progress)
    }
}

// === impl Moments ===

impl Moments {
    /// Those of these slates, whose rows have so many features.
    pub(super) fn of(inputs: usize, slates: &[DirectSlate]) -> Self {
        let rows = slates.iter().map(|slate| &*slate.rows);
        let (mean, deviation) = Standardiser::fit(inputs, rows);
        Self { mean, deviation }
    }

    /// One direct path of several members.
    pub(super) fn assemble(&self, shape: &DirectShape, members: &[&Weights]) -> Weights {
        let mut all = Weights::default();
        all.insert("mean", &[shape.inputs], self.mean.clone());
        all.insert("deviation", &[shape.inputs], self.deviation.clone());
        for (at, weights) in members.iter().enumerate() {
            all.insert_all(&DirectShape::member(at), weights);
        }
        all
    }

    /// The names of the features that never vary.
    pub(super) fn constant<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let constant = names.iter().zip(&self.deviation).filter(|(_, spread)| **spread <= 0.0);
        constant.map(|(name, _)| name.as_str()).collect()
    }
}

// === impl SlateBatch ===

impl SlateBatch {
    fn of(standardiser: &Standardiser, slates: &[&DirectSlate]) -> candle_core::Result<Self> {
        let width = 2 * standardiser.inputs();
        let longest = slates.iter().map(|slate| slate.taken.len()).max().unwrap_or(0);
        let (b, n) = (slates.len(), longest);
        let mut inputs = vec![0.0_f32; b * n * width];
        inputs.par_chunks_mut((n * width).max(1)).zip(slates).for_each(|(inputs, slate)| {
            let u = standardiser.slate(&slate.rows);
            inputs[..u.len()].copy_from_slice(&u);
        });
        let (mut targets, mut mask) = (vec![0.0_f32; b * n], vec![0.0_f32; b * n]);
        for (at, slate) in slates.iter().enumerate() {
            let count = slate.taken.iter().filter(|taken| **taken).count().max(1);
            for (column, &taken) in slate.taken.iter().enumerate() {
                mask[at * n + column] = 1.0;
                targets[at * n + column] = if taken { (count as f32).recip() } else { 0.0 };
            }
        }
        let cpu = &Device::Cpu;
        let mut offsets = vec![0.0_f32; b * n];
        for (offsets, slate) in offsets.chunks_mut(n.max(1)).zip(slates) {
            offsets[..slate.offsets.len()].copy_from_slice(&slate.offsets);
        }
        let any = slates.iter().any(|slate| !slate.offsets.is_empty());
        let offsets = any.then(|| Tensor::from_vec(offsets, (b, n), cpu)).transpose()?;
        Ok(Self {
            offsets,
            inputs: Tensor::from_vec(inputs, (b * n, width), cpu)?,
            targets: Tensor::from_vec(targets, (b, n), cpu)?,
            mask: Tensor::from_vec(mask, (b, n), cpu)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_pads_short_slates_and_shares_one_among_those_taken() {
        let standardiser = Standardiser::new(&[0.0; 2], &[1.0; 2]);
        let slates = [
            DirectSlate { rows: vec![1.0, 2.0], taken: vec![true], offsets: vec![7.0] },
            DirectSlate {
                rows: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
                taken: vec![true, false, true],
                offsets: Vec::new(),
            },
        ];
        let batch = SlateBatch::of(&standardiser, &slates.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(batch.inputs.dims(), [6, 4]);
        let offsets = batch.offsets.unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(offsets, [[7.0, 0.0, 0.0], [0.0; 3]]);
        assert_eq!(batch.mask.to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0], [1.0; 3]]);
        assert_eq!(batch.targets.to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]);
        let inputs = batch.inputs.to_vec2::<f32>().unwrap();
        assert_eq!(inputs[0], [1.0, 2.0, 0.0, 0.0]);
        assert_eq!(inputs[1..3], [[0.0; 4], [0.0; 4]]);
        assert_eq!(inputs[4][..2], [2.0, 3.0]);
    }
}
