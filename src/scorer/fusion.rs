//! How much the order given still counts beside the scorer.

use serde::{Deserialize, Serialize};

/// A candidate's final score: its logit, less a penalty for its place in the order given.
///
/// `logit − weight · ln(1 + place)`. Only the place is read, not the upstream ranker's score, so
/// it makes no difference on what scale that ranker works, or whether it tells its scores at all.
/// The weight is fitted on validation slates when the model is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// What a place costs.
    pub prior_weight: f32,
}

impl Fusion {
    /// The final score of a candidate with this logit that came at this place (0 is the first).
    pub fn fuse(self, logit: f32, place: usize) -> f32 {
        logit - self.prior_weight * (place as f32).ln_1p()
    }

    /// The order of a slate with these logits: places in the order given, best first.
    pub fn order(self, logits: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let score = |place: usize| self.fuse(logits[place], place);
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_weight_the_logits_decide() {
        assert_eq!(Fusion::default().order(&[0.1, 0.3, 0.2]), [1, 2, 0]);
    }

    #[test]
    fn with_weight_the_order_given_breaks_near_ties() {
        assert_eq!(Fusion { prior_weight: 1.0 }.order(&[0.1, 0.3, 0.2]), [0, 1, 2]);
        assert_eq!(Fusion { prior_weight: 1.0 }.order(&[0.1, 0.3, 5.0]), [2, 0, 1]);
    }
}
