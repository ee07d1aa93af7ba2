//! The scorer on the bench: what the rung below a language model says of slates.

use super::bench::Bench;
use super::cases::Case;
use super::world::World;
use crate::bundle::Part;
use crate::nn::Weights;
use crate::scorer::ScorerFile;
use anyhow::Context as _;

/// The scorer that lies on a bench.
pub struct Scorer {
    weights: Weights,
    file: ScorerFile,
}

// === impl Scorer ===

impl Scorer {
    /// Reads it.
    pub fn read(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let weights = std::fs::read(bench.path(Part::Scorer)).context("reading the scorer")?;
        let file = std::fs::read_to_string(bench.path(Part::ScorerShape))
            .context("reading the scorer's shape")?;
        let file = toml::from_str(&file).context("reading the scorer's shape")?;
        Ok(Self { weights: Weights::from_bytes(&weights)?, file })
    }

    /// The final scores of the scored rung for each candidate of each case's slate.
    pub fn scores(&self, world: &World, cases: &[Case]) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut logits = world.score(&self.weights, &self.file.shape, cases)?;
        for (case, logits) in cases.iter().zip(&mut logits) {
            let prior = self.file.fusion.prior(&case.history);
            for (place, logit) in logits.iter_mut().enumerate() {
                *logit = prior.fuse(*logit, place);
            }
        }
        Ok(logits)
    }
}
