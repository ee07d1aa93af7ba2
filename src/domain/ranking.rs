//! An answer: an order of the slate, with scores and reasons.

use super::{Reason, Version};
use std::sync::Arc;

/// An order of a query's candidates: always a permutation of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranking {
    /// Best first.
    pub order: Vec<Ranked>,
    /// The rung that reached this order.
    pub quality: Quality,
    /// The bundle whose models reached it.
    pub version: Version,
    /// The thought of the language model before it answered, if it could be proved.
    pub rationale: Option<Arc<str>>,
}

/// One candidate of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranked {
    /// Its position in the query's slate, from 0.
    pub input: usize,
    /// The score that it is sorted by. Scores compare within one ranking only.
    pub score: f32,
    /// The parts of that score.
    pub scores: Scores,
    /// Why the shopper may want it, most telling first.
    pub reasons: Arc<[Reason]>,
}

/// The parts of a score. A part is absent if its rung was not reached.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// The upstream ranker's score.
    pub prior: Option<f32>,
    /// The logit of the scorer (CURec's reward model).
    pub scorer: Option<f32>,
    /// The Rechead's score: a dot product.
    pub rechead: Option<f32>,
    /// The language model's logit for the item alone.
    pub weighed: Option<f32>,
    /// Minus ln(1 + rank) for its rank in the language model's answer (0 is the first).
    pub reranker: Option<f32>,
}

/// The rung that reached an order. Later is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Quality {
    /// None: the order given.
    Given,
    /// The small models.
    Scored,
    /// The language model, which weighs each candidate alone.
    Weighed,
    /// The language model, which compares the best at once.
    Reranked,
    /// The language model, which compares the best after a thought.
    Reasoned,
}

impl Quality {
    /// Its word in files, reports, logs and metric labels.
    pub const fn as_str(self) -> &'static str {
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
    /// The order given, with the upstream ranker's scores.
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

    /// Sorts best first. Candidates with equal scores keep the order given.
    pub fn sort(&mut self) {
        self.order.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.input.cmp(&b.input)));
    }

    /// Whether its order is the order given.
    pub fn is_as_given(&self) -> bool {
        self.order.iter().enumerate().all(|(place, ranked)| ranked.input == place)
    }

    /// Whether it holds every candidate of a slate of this length exactly once.
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
