//! The section `rechead` of a recipe.

use super::direct_recipe::DirectRecipe;
use super::fit::FitConfig;
use crate::nn::{PUBLISHED_GAMMA, RecheadShape, RecheadWiring};
use crate::scorer::RECHEAD_INPUT;
use anyhow::ensure;
use serde::{Deserialize, Serialize};

/// The paper's weight of the thought's correction.
const PAPER_GAMMA: f32 = 0.5;
/// Candidates of an example besides the one taken, at most.
const NEGATIVES_MAX: usize = 4_096;
/// Layers of the Transformer, at most.
const LAYERS_MAX: usize = 32;
/// The hidden width of its feed-forward parts, at most.
const FFN_MAX: usize = 16_384;
/// The shares of the training time that the Rechead may learn from before the scorer does.
const SHARES: std::ops::RangeInclusive<f64> = 0.05..=0.95;

/// The Rechead.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecheadRecipe {
    /// Whether the language model predicts an item for each shopper.
    #[serde(default)]
    pub answers: bool,
    /// How its parts are wired.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wiring: RecheadWiring,
    /// Width of a shopper's and of an item's vector. In the published wiring it is that of the text encoder's wide
    /// vectors, which 0 stands for.
    #[serde(default)]
    pub width: usize,
    /// The weight of the thought's correction (RPORec's γ): 0.5 by default in the paper's wiring, 0.1 in the published
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gamma: Option<f32>,
    /// Layers of the Transformer, if not the wiring's own: 1, or 4 as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<usize>,
    /// Its heads: 4, or 8 as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<usize>,
    /// The hidden width of its feed-forward parts: twice the width, or 2,048 as published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ffn: Option<usize>,
    /// Whether the published wiring trains its tables of tokens.
    #[serde(default, skip_serializing_if = "is_default")]
    pub encoders: TokenTables,
    /// The dropout rate of the published wiring's Transformer.
    #[serde(default = "published_dropout", skip_serializing_if = "is_published_dropout")]
    pub dropout: f32,
    /// The share of the training time, at its beginning, that it learns from where the direct path reads its score. The
    /// scorer learns from the rest, so no slate that the scorer learns from taught the Rechead. Without this key the
    /// scorer does not read the score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_scorer: Option<f64>,
    /// Whether the stage's report has the checks of the Rechead: the true answer, shuffled texts, swapped texts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub checks: bool,
    /// Examples, at most.
    pub examples_max: usize,
    /// Candidates of an example from the slate, without the one that was taken.
    pub candidates: usize,
    /// Random candidates from the catalogue. The published wiring draws its candidates once, 49 as published.
    pub sampled: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Epochs, at most.
    pub epochs: usize,
    /// The highest learning rate; it falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay. Tables of tokens have none.
    pub weight_decay: f64,
    /// Epochs without a better validation metric after which training stops.
    pub patience: usize,
}

/// Whether the tables of tokens are trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenTables {
    /// All three.
    #[default]
    Trained,
    /// None: they stay as the text encoder has them.
    Frozen,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn published_dropout() -> f32 {
    0.1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_published_dropout(rate: &f32) -> bool {
    rate.to_bits() == published_dropout().to_bits()
}

// === impl RecheadRecipe ===

impl RecheadRecipe {
    /// How long and how fast it learns, in epochs of this many steps.
    pub(super) fn fit_config(&self, steps: usize) -> FitConfig {
        let Self { epochs, learning_rate, weight_decay, patience, .. } = *self;
        FitConfig { epochs, steps, learning_rate, weight_decay, patience }
    }

    /// The sizes, for a text encoder of this many tokens whose vectors have these widths. `item_length` is the length of
    /// an item's vector in the published wiring.
    pub fn shape(
        &self,
        vocabulary: usize,
        [narrow, wide]: [usize; 2],
        item_length: f32,
    ) -> anyhow::Result<RecheadShape> {
        let plain = match self.wiring {
            RecheadWiring::Paper => {
                RecheadShape::of(narrow, self.width, self.gamma.unwrap_or(PAPER_GAMMA))
            }
            RecheadWiring::Published => {
                let width = self.width;
                ensure!(
                    width == 0 || width == wide,
                    "`rechead.width` is {width}, and the text encoder's vectors have {wide} numbers: \
                     the published wiring takes items as they are"
                );
                let gamma = self.gamma.unwrap_or(PUBLISHED_GAMMA);
                RecheadShape { gamma, ..RecheadShape::published(vocabulary, wide, item_length) }
            }
        };
        Ok(RecheadShape {
            layers: self.layers.unwrap_or(plain.layers),
            heads: self.heads.unwrap_or(plain.heads),
            ffn: self.ffn.unwrap_or(plain.ffn),
            ..plain
        })
    }

    /// Candidates of an example, the one taken among them.
    pub fn candidates_of_example(&self) -> usize {
        1 + self.candidates + self.sampled
    }

    /// Checks every setting beside those of the direct path; the error names the one that is wrong.
    pub fn check(&self, direct: Option<&DirectRecipe>) -> anyhow::Result<()> {
        let Self { wiring, width, dropout, candidates, sampled, answers, .. } = *self;
        ensure!(
            wiring == RecheadWiring::Published || width > 0,
            "`rechead.width` is 0, expected at least 1 in the paper's wiring"
        );
        ensure!(
            (0.0..1.0).contains(&dropout),
            "`rechead.dropout` is {dropout}, expected 0 to below 1"
        );
        let negatives = candidates.saturating_add(sampled);
        ensure!(
            (1..=NEGATIVES_MAX).contains(&negatives),
            "`rechead.candidates` and `rechead.sampled` are {negatives} together, expected 1 to {NEGATIVES_MAX}"
        );
        let sizes = [("layers", self.layers, LAYERS_MAX), ("ffn", self.ffn, FFN_MAX)];
        for (name, size, most) in sizes {
            let size = size.unwrap_or(1);
            ensure!((1..=most).contains(&size), "`rechead.{name}` is {size}, expected 1 to {most}");
        }
        let is_read = direct.is_some_and(|direct| direct.reads(RECHEAD_INPUT));
        let Some(share) = self.before_scorer else {
            ensure!(
                !is_read,
                "the direct path reads `rechead`, which needs `rechead.before_scorer`: the Rechead has to be there \
                 before the scorer"
            );
            return Ok(());
        };
        ensure!(
            SHARES.contains(&share),
            "`rechead.before_scorer` is {share}, expected {} to {}",
            SHARES.start(),
            SHARES.end()
        );
        ensure!(
            is_read,
            "`rechead.before_scorer` is {share}, and the direct path does not read `rechead`: add it to `direct.also`"
        );
        ensure!(
            !answers,
            "`rechead.before_scorer` and `rechead.answers` exclude each other: the language model is trained after the \
             scorer"
        );
        Ok(())
    }

    /// Refuses a direct path that reads the score of a Rechead that no section asks for.
    pub fn check_absent(direct: &DirectRecipe) -> anyhow::Result<()> {
        let is_read = direct.reads(RECHEAD_INPUT);
        ensure!(
            !is_read,
            "the direct path reads `rechead`, and the recipe has no section `rechead`"
        );
        Ok(())
    }
}
