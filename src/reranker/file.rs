//! How what the language model says is fused with what the rung below says.

use super::grounds::Grounds;
use super::model::ThinkingMode;
use serde::{Deserialize, Serialize};

/// A language model's part in a bundle's ladder: which rungs it climbs, and what they count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RerankerFile {
    /// Each candidate weighed alone; absent if that did not pay on validation slates.
    pub weighed: Option<WeighedFile>,
    /// The best compared at once; absent if that did not pay on validation slates.
    pub reranked: Option<ComparedFile>,
    /// The best compared after a thought; absent if that did not pay on validation slates, and what was
    /// thought mostly did not hold. Its order may count for nothing, where it is there for what it says.
    pub reasoned: Option<ComparedFile>,
}

/// How weighed candidates are fused.
///
/// A candidate's final score is what the scored rung gave it, plus `weight` times the logit of
/// its branch. The logit depends on the shopper and the item alone, so neither the order nor the
/// company that a candidate comes in changes it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeighedFile {
    /// What a logit counts: fitted on validation slates.
    pub weight: f32,
    /// Candidates that are weighed: the best of the scored order.
    pub candidates_max: usize,
}

/// How compared candidates are fused.
///
/// A candidate's final score is what the rung below gave it, minus `weight · ln(1 + place)` for its
/// place in the order that the language model answered (0 is the first), plus `rechead_weight` times
/// what the Rechead says of it to the shopper, the thought and the answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComparedFile {
    /// What a place costs: fitted on validation slates.
    pub weight: f32,
    /// What the Rechead's score counts, once it has read the thought and the answer: fitted on
    /// validation slates, 0 where nothing is thought or that did not pay.
    #[serde(default)]
    pub rechead_weight: f32,
    /// Candidates that are compared: the best of the order below.
    pub offered_max: usize,
    /// Tokens of the thought that comes first; 0 for none.
    pub thought_tokens_max: usize,
    /// Whether nothing may be thought but what can be shown.
    #[serde(default)]
    pub grounded: bool,
}

/// An order of candidates, best first: each by its number, with its score.
pub type ScoredOrder = Vec<(usize, f32)>;

// === impl WeighedFile ===

impl WeighedFile {
    /// The order below with the logits of its first candidates fused in. One that could not be
    /// weighed is taken for an ordinary one.
    pub fn fuse(self, order: &mut ScoredOrder, logits: &[Option<f32>]) {
        let known = || logits.iter().flatten();
        let ordinary = known().sum::<f32>() / known().count().max(1) as f32;
        improve(order, self.candidates_max.min(logits.len()), |place, score| {
            score + self.weight * logits[place].unwrap_or(ordinary)
        });
    }
}

// === impl ComparedFile ===

impl ComparedFile {
    /// How a language model thinks on this rung. `grounds` says what can be shown.
    pub fn thinks(self, grounds: impl FnOnce() -> Grounds) -> ThinkingMode {
        match self {
            Self { thought_tokens_max: 0, .. } => ThinkingMode::Not,
            Self { grounded: true, thought_tokens_max, .. } => {
                ThinkingMode::Within(grounds(), thought_tokens_max)
            }
            Self { thought_tokens_max, .. } => ThinkingMode::Freely(thought_tokens_max),
        }
    }

    /// The order below with an answer fused in: `answer` names its first candidates by their places
    /// in it, best first, and `rechead` says something of each of them, or of none. A candidate that
    /// was not offered, since the language model has no name for it, is taken for an ordinary one.
    pub fn fuse(self, order: &mut ScoredOrder, answer: &[usize], rechead: &[f32]) {
        let cost = |answered: usize| self.weight * (answered as f32).ln_1p();
        let mean = |sum: f32| sum / answer.len().max(1) as f32;
        let ordinary = mean(rechead.iter().sum::<f32>()) * self.rechead_weight
            - mean((0..answer.len()).map(cost).sum());
        let best = answer.iter().max().map_or(0, |last| last + 1);
        improve(order, best, |place, score| {
            let Some(answered) = answer.iter().position(|&other| other == place) else {
                return score + ordinary;
            };
            let heard = rechead.get(answered).map_or(0.0, |heard| self.rechead_weight * heard);
            score - cost(answered) + heard
        });
    }
}

/// Gives the first `best` of an order new scores and sorts them by those; equal ones by their
/// numbers. The others keep their places behind them.
fn improve(order: &mut ScoredOrder, best: usize, score: impl Fn(usize, f32) -> f32) {
    let best = best.min(order.len());
    let (best, behind) = order.split_at_mut(best);
    for (place, (_, old)) in best.iter_mut().enumerate() {
        *old = score(place, *old);
    }
    best.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let mut lowest = best.last().map_or(f32::INFINITY, |(_, score)| *score);
    for (_, score) in behind {
        lowest = lowest.min(*score);
        *score = lowest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(order: &ScoredOrder) -> Vec<usize> {
        order.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn logits_move_the_best_and_no_others() {
        let mut order = vec![(7, 3.0), (2, 2.0), (5, 1.0), (1, 0.5)];
        let file = WeighedFile { weight: 0.5, candidates_max: 3 };
        file.fuse(&mut order, &[Some(-4.0), Some(1.0), None]);
        // The second stays at 2.5; the third gets the mean, -1.5, half of it; the first loses 2.
        assert_eq!(order, [(2, 2.5), (7, 1.0), (5, 0.25), (1, 0.25)]);
    }

    #[test]
    fn places_of_an_answer_cost() {
        let mut order = vec![(7, 1.0), (2, 0.9), (5, 0.8), (1, 0.7)];
        let file = ComparedFile {
            weight: 1.0,
            rechead_weight: 0.0,
            offered_max: 3,
            thought_tokens_max: 0,
            grounded: false,
        };
        file.fuse(&mut order, &[2, 0, 1], &[]);
        assert_eq!(numbers(&order), [5, 7, 2, 1]);
        assert!(order.is_sorted_by(|a, b| a.1 >= b.1));
        let before = order.clone();
        ComparedFile { weight: 0.0, ..file }.fuse(&mut order, &[2, 1, 0], &[]);
        assert_eq!(order, before, "an answer that counts for nothing changes nothing");
    }

    #[test]
    fn who_was_not_offered_is_an_ordinary_one() {
        let file = ComparedFile {
            weight: 1.0,
            rechead_weight: 2.0,
            offered_max: 3,
            thought_tokens_max: 9,
            grounded: false,
        };
        let mut order = vec![(7, 0.0), (2, 0.0), (5, 0.0), (1, -9.0)];
        file.fuse(&mut order, &[2, 0], &[0.5, -0.5]);
        // The one in between lies in between; the last one stays behind.
        assert_eq!(numbers(&order), [5, 2, 7, 1]);
        assert!((order[1].1 + 0.5 * 2_f32.ln()).abs() < 1e-6);
    }
}
