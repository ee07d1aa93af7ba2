//! Fits the fusion of a scorer's logits with the order given, on the cases of the validation time.

use super::cases::{Case, PredictionTask};
use super::measure;
use crate::scorer::{Fusion, PositionPenalty};

/// Weights of the position penalty that are tried.
const PRIOR_WEIGHTS: [f32; 15] =
    [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5, 4.0, 7.0, 12.0];
/// The cut of the NDCG that epochs and weights are chosen by.
const CUT: usize = 10;

/// A logit of each candidate of each case of each task.
pub type TaskLogits = Vec<Vec<Vec<f32>>>;

/// The cases of the validation time, by task.
#[derive(Clone, Copy, Debug)]
pub struct ValidationCases<'a>(pub &'a [(PredictionTask, Vec<Case>)]);

// === impl ValidationCases ===

impl ValidationCases<'_> {
    /// The NDCG of these logits, as the mean over both tasks, with the position penalty that is best for all shoppers;
    /// and the best fusion.
    pub fn fit(&self, logits: &TaskLogits) -> (f64, Fusion) {
        let (ndcg, prior) = self.best_prior(logits, |_| true);
        // Without cold cases, every weight is equally good, and the first one is 0.
        let cold = self.0.iter().flat_map(|(_, cases)| cases).any(Case::is_cold);
        let cold = if cold { self.best_prior(logits, Case::is_cold).1 } else { prior };
        let fusion = Fusion { prior_weight: prior.weight, cold_prior_weight: cold.weight };
        (ndcg, fusion)
    }

    /// The NDCG of the orders given, as the mean over both tasks.
    pub fn given(&self) -> f64 {
        let of_task = |(_, cases): &(PredictionTask, Vec<Case>)| {
            mean(cases.iter().map(|case| measure::ndcg(&case.slate, &case.relevant, CUT)))
        };
        mean(self.0.iter().map(of_task))
    }

    /// The best position penalty for the cases that `counts` selects, and its NDCG.
    fn best_prior(&self, logits: &TaskLogits, counts: fn(&Case) -> bool) -> (f64, PositionPenalty) {
        let scored = PRIOR_WEIGHTS.map(|weight| {
            let prior = PositionPenalty { weight };
            let of_task = |(at, (_, cases)): (usize, &(PredictionTask, Vec<Case>))| {
                let cases = cases.iter().zip(&logits[at]).filter(|(case, _)| counts(case));
                let each = cases.map(|(case, logits)| {
                    let order: Vec<u32> =
                        prior.order(logits).into_iter().map(|index| case.slate[index]).collect();
                    measure::ndcg(&order, &case.relevant, CUT)
                });
                mean(each)
            };
            (mean(self.0.iter().enumerate().map(of_task)), prior)
        });
        let first = scored[0];
        scored.into_iter().fold(first, |best, next| if next.0 > best.0 { next } else { best })
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    sum / count.max(1) as f64
}
