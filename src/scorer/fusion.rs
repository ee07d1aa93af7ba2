//! Fuses the scorer's logits with the order given.

use crate::bundle::HistoryEvent;
use crate::domain::EventKind;
use serde::{Deserialize, Serialize};

/// The most purchases of a cold shopper.
const COLD_PURCHASES: usize = 3;

/// The weights of the order given. It counts more for cold shoppers, of whom the scorer knows little.
///
/// Training fits the weights on validation slates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fusion {
    /// The weight of `ln(1 + position)` that a candidate loses.
    pub prior_weight: f32,
    /// The same weight for a cold shopper.
    pub cold_prior_weight: f32,
}

/// The cost of a late position in the order given, for one shopper.
///
/// A candidate's final score is `logit − weight · ln(1 + position)`. The upstream ranker's scores are not read, so
/// their scale does not matter, and they need not be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PositionPenalty {
    /// The weight of `ln(1 + position)`.
    pub weight: f32,
}

/// Whether the shopper with this history has few purchases.
pub fn is_cold(history: &[HistoryEvent]) -> bool {
    let purchases = history.iter().filter(|past| past.kind == EventKind::Purchase);
    purchases.take(COLD_PURCHASES + 1).count() <= COLD_PURCHASES
}

// === impl Fusion ===

impl Fusion {
    /// The penalty for the shopper with this history.
    pub fn position_penalty(self, history: &[HistoryEvent]) -> PositionPenalty {
        PositionPenalty {
            weight: if is_cold(history) { self.cold_prior_weight } else { self.prior_weight },
        }
    }
}

// === impl PositionPenalty ===

impl PositionPenalty {
    /// The final score of a candidate with this logit and position (0 is the first).
    pub fn fuse(self, logit: f32, position: usize) -> f32 {
        logit - self.weight * (position as f32).ln_1p()
    }

    /// Ranks a slate with these logits: positions in the order given, best first.
    pub fn order(self, logits: &[f32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let score = |position: usize| self.fuse(logits[position], position);
        order.sort_by(|&a, &b| score(b).total_cmp(&score(a)).then(a.cmp(&b)));
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_weight_the_logits_decide() {
        assert_eq!(PositionPenalty::default().order(&[0.1, 0.3, 0.2]), [1, 2, 0]);
    }

    #[test]
    fn with_weight_the_order_given_breaks_near_ties() {
        assert_eq!(PositionPenalty { weight: 1.0 }.order(&[0.1, 0.3, 0.2]), [0, 1, 2]);
        assert_eq!(PositionPenalty { weight: 1.0 }.order(&[0.1, 0.3, 5.0]), [2, 0, 1]);
    }

    #[test]
    fn only_purchases_warm_a_shopper_up() {
        let fusion = Fusion { prior_weight: 0.2, cold_prior_weight: 1.0 };
        let past = |kind| HistoryEvent { item: 0, time: 0, kind };
        let clicks = [past(EventKind::Click); 9];
        assert!((fusion.position_penalty(&clicks).weight - 1.0).abs() < 1e-6);
        let bought = [past(EventKind::Purchase); COLD_PURCHASES + 1];
        assert!((fusion.position_penalty(&bought).weight - 0.2).abs() < 1e-6);
        assert!(is_cold(&bought[1..]));
    }
}
