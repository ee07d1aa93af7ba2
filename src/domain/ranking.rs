//! An answer: an order of the slate, with scores and reasons.

use super::{Reason, Version};
use std::sync::Arc;

/// An order of a query's candidates: always a permutation of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Best first.
    pub order: Vec<Ranked>,
    /// How this order was reached.
    pub quality: Quality,
    /// Which models reached it.
    pub version: Version,
    /// What a language model thought before it gave this order.
    pub rationale: Option<Arc<str>>,
}

/// One candidate in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Its index in the query's slate.
    pub input: usize,
    /// The score that it is sorted by. Comparable within one ranking only.
    pub score: f32,
    /// Where that score comes from.
    pub scores: Scores,
    /// Why a shopper might want it, most telling first.
    pub reasons: Arc<[Reason]>,
}

/// The parts of a score; a part that was not reached is absent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// What the upstream ranker gave.
    pub prior: Option<f32>,
    /// What the scorer (CURec's reward model) gave: a logit.
    pub scorer: Option<f32>,
    /// What the Rechead gave: a dot product.
    pub rechead: Option<f32>,
    /// What the language model gave, weighing the item alone: a logit.
    pub weighed: Option<f32>,
    /// What the language model gave, comparing the best: minus the logarithm of its place.
    pub reranker: Option<f32>,
}

/// How an order was reached; later is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quality {
    /// As it came.
    Given,
    /// By the small models.
    Scored,
    /// By the language model, each candidate weighed alone.
    Weighed,
    /// By the language model, the best compared at once.
    Reranked,
    /// By the language model, the best compared after a thought.
    Reasoned,
}

impl Quality {
    /// The word for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Scored => "scored",
            Self::Weighed => "weighed",
            Self::Reranked => "reranked",
            Self::Reasoned => "reasoned",
        }
    }
}

impl Ranking {
    /// The order given, with the scores that came with it.
    pub fn given(priors: impl ExactSizeIterator<Item = Option<f32>>, version: Version) -> Self {
        let length = priors.len();
        let order = priors
            .enumerate()
            .map(|(input, prior)| Ranked {
                input,
                score: (length - input) as f32 / length as f32,
                scores: Scores { prior, ..Scores::default() },
                reasons: Arc::default(),
            })
            .collect();
        Self { order, quality: Quality::Given, version, rationale: None }
    }

    /// Sorts best first. Ties keep the order they came in, so equal input gives equal output.
    pub fn sort(&mut self) {
        self.order.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.input.cmp(&b.input)));
    }

    /// Whether its order is the one that came.
    pub fn is_as_given(&self) -> bool {
        self.order.iter().enumerate().all(|(place, ranked)| ranked.input == place)
    }

    /// Whether every candidate of a slate of `length` stands in it exactly once.
    pub fn is_permutation(&self, length: usize) -> bool {
        let mut seen = vec![false; length];
        self.order.len() == length
            && self.order.iter().all(|ranked| {
                seen.get_mut(ranked.input).is_some_and(|seen| !std::mem::replace(seen, true))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(length: usize) -> Ranking {
        Ranking::given(vec![None; length].into_iter(), "test".into())
    }

    #[test]
    fn the_order_given_is_a_permutation_that_falls() {
        let ranking = given(5);
        assert!(ranking.is_permutation(5));
        assert!(ranking.order.is_sorted_by(|a, b| a.score > b.score));
    }

    #[test]
    fn a_repeated_or_missing_candidate_is_no_permutation() {
        let mut ranking = given(3);
        ranking.order[2].input = 1;
        assert!(!ranking.is_permutation(3));
        assert!(!given(3).is_permutation(4));
    }

    #[test]
    fn ties_keep_the_order_given() {
        let mut ranking = given(4);
        for ranked in &mut ranking.order {
            ranked.score = 1.0;
        }
        ranking.order.reverse();
        ranking.sort();
        assert_eq!(ranking.order.iter().map(|r| r.input).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
