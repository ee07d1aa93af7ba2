//! How a rung's answer becomes an order: the pure steps of a climb.
//!
//! Serving climbs one slate at a time, and training climbs many to judge rungs. Both call these
//! functions, so what training measures is what is served.

use super::file::{ComparedFile, WeighedFile};
use super::model::ComparedAnswer;
use crate::bundle::HistoryEvent;
use crate::scorer::{PositionPenalty, RecheadScorer, ShopperTexts, SlateScores, TextSources};

/// Candidates by their positions in the slate, best first, each with its score.
pub type ScoredOrder = Vec<(usize, f32)>;

/// The candidates that a language model is offered: the best of an order that the catalogue holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// How many of the best were looked at, those that the catalogue does not hold among them.
    pub considered: usize,
    /// Where each stands in the order.
    pub places: Vec<usize>,
    /// The catalogue's number of each.
    pub items: Vec<u32>,
}

/// The order of the scored rung for a slate of `length` candidates.
///
/// `known` are the positions of the candidates that were scored, in the rows of `scores`. The others
/// come last, in the order given and with the lowest score.
pub fn scored_order(
    scores: &SlateScores,
    prior: PositionPenalty,
    known: &[usize],
    length: usize,
) -> ScoredOrder {
    let rows = known.iter().enumerate();
    let mut order: ScoredOrder =
        rows.map(|(row, &position)| (position, scores.fused(row, prior, position))).collect();
    sort(&mut order);
    let mut is_known = vec![false; length];
    for &position in known {
        is_known[position] = true;
    }
    let lowest = order.last().map_or(0.0, |(_, score)| *score);
    order.extend((0..length).filter(|&position| !is_known[position]).map(|at| (at, lowest)));
    order
}

/// The order of a slate in which each candidate has one of these scores.
pub fn order_by_score(scores: &[f32]) -> ScoredOrder {
    let mut order: ScoredOrder = scores.iter().copied().enumerate().collect();
    sort(&mut order);
    order
}

/// Best first. Candidates with equal scores keep the order given.
fn sort(order: &mut [(usize, f32)]) {
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
}

/// The Rechead's score of each candidate of an answer, in the answer's order, after it has read the
/// thought and the answer. Empty if the model did not think.
pub fn rechead_scores(
    head: &RecheadScorer,
    from: TextSources<'_>,
    history: &[HistoryEvent],
    answer: &ComparedAnswer,
) -> Vec<f32> {
    if answer.thought.is_empty() {
        return Vec::new();
    }
    let thought = from.reader.vector(&answer.thought);
    let written = ShopperTexts {
        history,
        thought: Some(&thought),
        thought_text: &answer.thought,
        answer: answer.order.first().copied(),
    };
    let shopper = head.shopper_vector(written, from);
    answer.order.iter().map(|&item| head.score(&shopper, item)).collect()
}

// === impl Offered ===

impl Offered {
    /// The best `most` of an order; `number` gives the catalogue's number of the candidate at a
    /// position, if the catalogue holds it.
    pub fn best_of(
        order: &[(usize, f32)],
        most: usize,
        number: impl Fn(usize) -> Option<u32>,
    ) -> Self {
        let best = &order[..order.len().min(most)];
        let numbered = best.iter().enumerate();
        let (places, items) =
            numbered.filter_map(|(place, &(at, _))| Some((place, number(at)?))).unzip();
        Self { considered: best.len(), places, items }
    }

    /// Where the items of an answer stand in the order, in the answer's order.
    pub fn places_of(&self, answer: &[u32]) -> Vec<usize> {
        answer.iter().filter_map(|item| self.place_of(*item)).collect()
    }

    /// Where an item stands in the order.
    pub fn place_of(&self, item: u32) -> Option<usize> {
        self.items.iter().position(|other| *other == item).map(|at| self.places[at])
    }
}

// === impl WeighedFile ===

impl WeighedFile {
    /// Adds the logits of the offered candidates to the order below. A candidate that was looked at
    /// but not offered gets the mean logit.
    pub fn fuse(self, order: &mut ScoredOrder, offered: &Offered, logits: &[f32]) {
        let mut of_place = vec![None; offered.considered];
        for (&place, &logit) in offered.places.iter().zip(logits) {
            of_place[place] = Some(logit);
        }
        let known = || of_place.iter().flatten();
        let mean = known().sum::<f32>() / known().count().max(1) as f32;
        rescore(order, offered.considered, |place, score| {
            score + self.weight * of_place[place].unwrap_or(mean)
        });
    }
}

// === impl ComparedFile ===

impl ComparedFile {
    /// Offered candidates below which nothing is compared.
    pub const OFFERED_MIN: usize = 2;

    /// Adds an answer to the order below. `answer` names candidates by their places in that order,
    /// best first; `rechead` has the Rechead's score of each, or is empty. A candidate in between
    /// that was not offered gets the mean of those that were.
    pub fn fuse(self, order: &mut ScoredOrder, answer: &[usize], rechead: &[f32]) {
        let cost = |rank: usize| self.weight * (rank as f32).ln_1p();
        let mean = |sum: f32| sum / answer.len().max(1) as f32;
        let unknown = mean(rechead.iter().sum::<f32>()) * self.rechead_weight
            - mean((0..answer.len()).map(cost).sum());
        let best = answer.iter().max().map_or(0, |last| last + 1);
        rescore(order, best, |place, score| {
            let Some(rank) = answer.iter().position(|&other| other == place) else {
                return score + unknown;
            };
            let rechead = rechead.get(rank).map_or(0.0, |score| self.rechead_weight * score);
            score - cost(rank) + rechead
        });
    }
}

/// Gives the first `best` of an order new scores and sorts them by those. The others keep their
/// places behind them, with scores that do not rise.
fn rescore(order: &mut ScoredOrder, best: usize, score: impl Fn(usize, f32) -> f32) {
    let best = best.min(order.len());
    let (best, behind) = order.split_at_mut(best);
    for (place, (_, old)) in best.iter_mut().enumerate() {
        *old = score(place, *old);
    }
    sort(best);
    let mut lowest = best.last().map_or(f32::INFINITY, |(_, score)| *score);
    for (_, score) in behind {
        lowest = lowest.min(*score);
        *score = lowest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(order: &ScoredOrder) -> Vec<usize> {
        order.iter().map(|(position, _)| *position).collect()
    }

    fn offered(order: &ScoredOrder, most: usize, unknown: usize) -> Offered {
        Offered::best_of(order, most, |position| (position != unknown).then_some(position as u32))
    }

    #[test]
    fn logits_move_the_best_and_no_others() {
        let mut order = vec![(7, 3.0), (2, 2.0), (5, 1.0), (1, 0.5)];
        let file = WeighedFile { weight: 0.5, candidates_max: 3 };
        let offered = offered(&order, file.candidates_max, 5);
        assert_eq!((&*offered.places, &*offered.items), (&[0, 1][..], &[7, 2][..]));
        file.fuse(&mut order, &offered, &[-4.0, 1.0]);
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
        let answer = offered(&order, file.offered_max, usize::MAX).places_of(&[5, 7, 2]);
        file.fuse(&mut order, &answer, &[]);
        assert_eq!(positions(&order), [5, 7, 2, 1]);
        assert!(order.is_sorted_by(|a, b| a.1 >= b.1));
        let before = order.clone();
        ComparedFile { weight: 0.0, ..file }.fuse(&mut order, &[2, 1, 0], &[]);
        assert_eq!(order, before, "an answer that counts for nothing changes nothing");
    }

    #[test]
    fn a_candidate_that_was_not_offered_is_an_ordinary_one() {
        let file = ComparedFile {
            weight: 1.0,
            rechead_weight: 2.0,
            offered_max: 3,
            thought_tokens_max: 9,
            grounded: false,
        };
        let mut order = vec![(7, 0.0), (2, 0.0), (5, 0.0), (1, -9.0)];
        let offered = offered(&order, file.offered_max, 2);
        file.fuse(&mut order, &offered.places_of(&[5, 7]), &[0.5, -0.5]);
        // The one in between lies in between; the last one stays behind.
        assert_eq!(positions(&order), [5, 2, 7, 1]);
        assert!((order[1].1 + 0.5 * 2_f32.ln()).abs() < 1e-6);
    }

    #[test]
    fn ties_and_what_was_not_scored_keep_the_order_given() {
        assert_eq!(positions(&order_by_score(&[1.0, 2.0, 1.0])), [1, 0, 2]);
        let mut scores = SlateScores::default();
        scores.logits = vec![0.5, 0.75];
        let order = scored_order(&scores, PositionPenalty::default(), &[1, 3], 5);
        assert_eq!(order, [(3, 0.75), (1, 0.5), (0, 0.5), (2, 0.5), (4, 0.5)]);
    }
}
