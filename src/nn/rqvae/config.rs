//! The hyperparameters of the quantiser's training, with their bounds.

use super::{CODES_MAX, LEVELS_MAX};
use candle_core::Result;
use serde::{Deserialize, Serialize};

/// Most dimensions of a latent or of a hidden layer.
const WIDTH_MAX: usize = 4096;
/// Most vectors of a batch: the contrastive loss compares all pairs.
const BATCH_MAX: usize = 8192;
/// Most batches before a dead code is reset.
const RESET_AFTER_MAX: usize = 1_000_000;

/// The hyperparameters of the quantiser's training. Values that the paper leaves open come from trials in
/// `loadtest/RESULTS.md`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RqVaeConfig {
    /// Learnt levels.
    pub levels: usize,
    /// Codes of each level.
    pub codes: usize,
    /// Width of the latent.
    pub width: usize,
    /// Width of the encoder's and of the decoder's hidden layer.
    pub hidden: usize,
    /// Epochs over all vectors.
    pub epochs: usize,
    /// Most vectors of a batch.
    pub batch: usize,
    /// The initial learning rate, which decays linearly to zero.
    pub learning_rate: f64,
    /// Weight of the commitment loss: a latent's distance from its codes.
    pub commitment: f64,
    /// Decay of the moving average by which a code follows the mean of its latents.
    pub decay: f32,
    /// Batches without a latent after which a code is reset.
    pub reset_after: usize,
    /// Weight of the diversity loss: uneven use of the codes.
    pub diversity: f64,
    /// Weight of the contrastive loss: items that are bought together get close latents.
    pub contrast: f64,
    /// Temperature of the cosines in the contrastive loss.
    pub temperature: f64,
    /// The techniques that are switched on.
    pub techniques: Techniques,
}

/// The techniques against codebook collapse (GR2, section 2.3), as switches of an ablation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is one independent switch of a table")]
pub struct Techniques {
    /// Codebooks are initialised by k-means; off, at random.
    pub kmeans: bool,
    /// Codes follow the moving average of their latents; off, a gradient.
    pub ema: bool,
    /// A dead code is reset to the residual that is farthest from its code.
    pub reset: bool,
    /// The diversity loss.
    pub diversity: bool,
    /// The contrastive loss.
    pub contrast: bool,
}

impl Default for RqVaeConfig {
    fn default() -> Self {
        Self {
            levels: 3,
            codes: 256,
            width: 8,
            hidden: 128,
            epochs: 60,
            batch: 256,
            learning_rate: 5e-3,
            commitment: 0.25,
            decay: 0.95,
            reset_after: 100,
            diversity: 0.01,
            contrast: 0.02,
            temperature: 0.1,
            techniques: Techniques::default(),
        }
    }
}

impl Default for Techniques {
    fn default() -> Self {
        Self { kmeans: true, ema: true, reset: true, diversity: true, contrast: true }
    }
}

// === impl RqVaeConfig ===

impl RqVaeConfig {
    /// Checks the hyperparameters; an error gives name, limit and value.
    pub(super) fn check(&self) -> Result<()> {
        let counts = [
            ("levels", self.levels, LEVELS_MAX),
            ("codes", self.codes, CODES_MAX),
            ("width", self.width, WIDTH_MAX),
            ("hidden", self.hidden, WIDTH_MAX),
            ("batch", self.batch, BATCH_MAX),
            ("reset_after", self.reset_after, RESET_AFTER_MAX),
        ];
        for (name, value, max) in counts {
            if !(1..=max).contains(&value) {
                candle_core::bail!("{name} must be 1 to {max}, not {value}");
            }
        }
        if !(0.0..1.0).contains(&self.decay) {
            candle_core::bail!("decay must be at least 0 and below 1, not {}", self.decay);
        }
        if self.temperature <= 0.0 || !self.temperature.is_finite() {
            candle_core::bail!("temperature must be above 0, not {}", self.temperature);
        }
        Ok(())
    }
}
