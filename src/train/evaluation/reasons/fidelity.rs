//! Does the scorer rest on what is told? Told reasons are taken out of its input, one item at a time, and beside them
//! as many that are drawn at random: what moves the score and the place more?

use super::compared;
use super::told::CaseTold;
use crate::scorer::SlateScores;
use crate::train::cases::Case;
use crate::train::measure::mean_of;
use crate::train::offline_scorer::OfflineScorer;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// How far items moved, a mean for each case.
#[derive(Debug, Default)]
pub(super) struct Fidelity {
    items: usize,
    /// By the reasons that are told, and by random ones.
    score: [Vec<f64>; 2],
    place: [Vec<f64>; 2],
}

// === impl Fidelity ===

impl Fidelity {
    /// Measures one case. Only items that have more reasons than are told can tell the two apart.
    pub(super) fn add(
        &mut self,
        scorer: &OfflineScorer,
        case: &Case,
        of: &CaseTold,
        score: &mut dyn FnMut(&[u16]) -> SlateScores,
        seed: u64,
    ) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ u64::from(case.user));
        let (mut scores, mut places) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for ((row, told), fit) in of.shown.iter().zip(&of.fit) {
            if told.is_empty() || fit.len() <= told.len() {
                continue;
            }
            let mut random = fit.clone();
            random.shuffle(&mut rng);
            random.truncate(told.len());
            for (at, out) in [told, &random].into_iter().enumerate() {
                let mut left_out = vec![0_u16; case.slate.len()];
                left_out[*row] = out.iter().fold(0, |bits, &m| bits | 1 << m);
                let without = scorer.fused(case, &score(&left_out));
                scores[at].push(f64::from((without[*row] - of.scores[*row]).abs()));
                places[at].push(place(&without, *row).abs_diff(place(&of.scores, *row)) as f64);
            }
        }
        self.items += scores[0].len();
        for at in 0..2 {
            self.score[at].extend(mean_of(scores[at].iter().copied()));
            self.place[at].extend(mean_of(places[at].iter().copied()));
        }
    }

    /// Figures with intervals: `before` is of random reasons, `after` of those that are told.
    pub(super) fn to_json(&self, resamples: usize, seed: u64) -> Value {
        let figure = |[told, random]: &[Vec<f64>; 2]| compared(random, told, resamples, seed);
        json!({
            "cases": self.score[0].len(),
            "items": self.items,
            "score": figure(&self.score),
            "place": figure(&self.place),
        })
    }
}

/// The place of a row by these scores: how many are better.
fn place(scores: &[f32], row: usize) -> usize {
    scores.iter().filter(|&&score| score > scores[row]).count()
}

#[cfg(test)]
mod tests {
    use super::place;

    #[test]
    fn a_place_counts_what_is_better() {
        let scores = [0.5, 0.9, 0.5, -1.0];
        let places: Vec<usize> = (0..4).map(|row| place(&scores, row)).collect();
        assert_eq!(places, [1, 0, 1, 3]);
    }
}
