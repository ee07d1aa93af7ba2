//! Which rungs of a bundle are the language model's, and what each counts: the file `reranker.toml`.

use super::grounds::{Grounds, ThinkingMode};
use serde::{Deserialize, Serialize};

/// The language model's rungs in a bundle, with their settings.
///
/// A rung is absent if it did not pay on validation slates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankerFile {
    /// Each candidate weighed alone.
    pub weighed: Option<WeighedFile>,
    /// The best compared at once.
    pub reranked: Option<ComparedFile>,
    /// The best compared after a thought. It may be present with weight 0, for its thoughts alone, if
    /// most of them hold.
    pub reasoned: Option<ComparedFile>,
}

/// How weighed candidates are fused.
///
/// A candidate's final score is its score on the scored rung plus `weight` times the logit of its
/// branch. The logit depends on the shopper and the item alone, so neither the order of the
/// candidates nor the rest of the slate changes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeighedFile {
    /// The weight of a logit, fitted on validation slates.
    pub weight: f32,
    /// How many candidates are weighed: the best of the order below.
    pub candidates_max: usize,
}

/// How compared candidates are fused.
///
/// A candidate's final score is `below − weight · ln(1 + rank) + rechead_weight · rechead`. Its `rank` in
/// the language model's answer starts at 0. `rechead` is its Rechead score after the thought.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparedFile {
    /// The cost of a rank, fitted on validation slates.
    pub weight: f32,
    /// The weight of the Rechead's score, fitted on validation slates. It is 0 where the model does
    /// not think, and where it did not pay.
    #[serde(default)]
    pub rechead_weight: f32,
    /// How many candidates are compared: the best of the order below.
    pub offered_max: usize,
    /// The length of the thought before the answer, in tokens; 0 for none.
    pub thought_tokens_max: usize,
    /// Whether the thought is constrained to claims that can be proved.
    #[serde(default)]
    pub grounded: bool,
}

// === impl ComparedFile ===

impl ComparedFile {
    /// How a language model thinks on this rung. `grounds` gives the claims that can be proved.
    pub fn thinks(self, grounds: impl FnOnce() -> Grounds) -> ThinkingMode {
        match self {
            Self { thought_tokens_max: 0, .. } => ThinkingMode::Off,
            Self { grounded: true, thought_tokens_max, .. } => {
                ThinkingMode::Grounded(grounds(), thought_tokens_max)
            }
            Self { thought_tokens_max, .. } => ThinkingMode::Free(thought_tokens_max),
        }
    }
}
