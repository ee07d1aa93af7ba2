//! What may a word count beside the order below it, and does it pay at all?
//!
//! Whoever tries a dozen weights on some cases and keeps the best finds a gain where there is none.
//! So the weight is chosen on all cases, but the gain is counted crosswise: on each fold by the
//! weight that is best on the others (Stone 1974). A word counts nothing, and its rung is not
//! shipped, unless that gain is one that chance would give a useless word in one of ten shops: to
//! ship what does nothing costs milliseconds, and to leave out what helps costs better orders.

use super::measure::{self, Interval, RESAMPLES};
use serde_json::{Value, json};

/// What a word may count.
pub const WEIGHTS: [f32; 12] = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5];
/// Parts of the cases, each judged by a weight that the others chose.
const FOLDS: usize = 5;

/// Standard errors that a gain has to be above zero: one in ten is, by chance.
const ERRORS_MIN: f64 = 1.2816;
/// Standard errors from the mean to the ends of an interval of 95 %.
const ERRORS_OF_INTERVAL: f64 = 1.9600;

/// A figure for each case of each task.
pub type TaskFigures = Vec<Vec<f64>>;

/// A weight that was fitted.
#[derive(Clone, Debug)]
pub struct FittedWeight {
    /// What the word counts: nothing where it does not pay.
    pub weight: f32,
    /// The mean over tasks without the word, and with it at each of [`WEIGHTS`].
    without: f64,
    tried: Vec<f64>,
    /// What is gained on cases that had no say in the weight.
    gain: Option<Interval>,
}

/// Fits a weight: `without` are the figures of the order below, `with` those at each of [`WEIGHTS`].
pub fn fit(without: &TaskFigures, with: &[TaskFigures], seed: u64) -> FittedWeight {
    debug_assert_eq!(with.len(), WEIGHTS.len());
    let best = best(without, with, |_| true);
    let mut before = Vec::new();
    let mut after = Vec::new();
    let chosen: Vec<Option<usize>> =
        (0..FOLDS).map(|fold| self::best(without, with, |at| at % FOLDS != fold)).collect();
    let all = without.iter().map(Vec::len).sum::<usize>() as f64;
    for (task, figures) in without.iter().enumerate() {
        // Tasks count alike, however many cases each has.
        let share = all / (without.len() * figures.len().max(1)) as f64;
        for (at, figure) in figures.iter().enumerate() {
            before.push(share * figure);
            let with = chosen[at % FOLDS].map_or(*figure, |weight| with[weight][task][at]);
            after.push(share * with);
        }
    }
    let gain = measure::compare(&before, &after, RESAMPLES, seed).map(|compared| compared.gain);
    let pays = gain.is_some_and(|gain| {
        let error = (gain.high - gain.low) / 2.0 / ERRORS_OF_INTERVAL;
        gain.mean > ERRORS_MIN * error
    });
    FittedWeight {
        weight: best.filter(|_| pays).map_or(0.0, |best| WEIGHTS[best]),
        without: mean(without),
        tried: with.iter().map(mean).collect(),
        gain,
    }
}

/// Which weight is best on the cases that are counted, if any is better than none.
fn best(
    without: &TaskFigures,
    with: &[TaskFigures],
    counted: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut best = (mean_of(without, &counted), None);
    for (weight, figures) in with.iter().enumerate() {
        let figure = mean_of(figures, &counted);
        if figure > best.0 {
            best = (figure, Some(weight));
        }
    }
    best.1
}

/// The mean over tasks.
pub fn mean(figures: &TaskFigures) -> f64 {
    mean_of(figures, |_| true)
}

/// The mean over tasks of the mean over the cases that are counted.
fn mean_of(figures: &TaskFigures, counted: impl Fn(usize) -> bool) -> f64 {
    let of_task = |figures: &Vec<f64>| {
        let counted = figures.iter().enumerate().filter(|(at, _)| counted(*at));
        let (sum, count) =
            counted.fold((0.0, 0_usize), |(sum, count), (_, figure)| (sum + figure, count + 1));
        sum / count.max(1) as f64
    };
    figures.iter().map(of_task).sum::<f64>() / figures.len().max(1) as f64
}

// === impl FittedWeight ===

impl FittedWeight {
    /// For a stage's report; the figures are those called `figure`.
    pub fn to_json(&self, figure: &str) -> Value {
        let tried = WEIGHTS.iter().zip(&self.tried).map(|(weight, tried)| {
            json!({ "weight": rounded(f64::from(*weight)), figure: rounded(*tried) })
        });
        let gain = self.gain.map(|gain| {
            json!({
                "mean": rounded(gain.mean), "low": rounded(gain.low), "high": rounded(gain.high),
            })
        });
        json!({
            "weight": rounded(f64::from(self.weight)),
            "without": rounded(self.without),
            "tried": tried.collect::<Vec<_>>(),
            "gain": gain,
        })
    }
}

/// To five digits.
pub fn rounded(value: f64) -> f64 {
    (value * 1e5).round() / 1e5
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    /// Figures of two tasks, and with each weight those and `of(weight)` and noise.
    fn figures(seed: u64, of: fn(f32) -> f64) -> (TaskFigures, Vec<TaskFigures>) {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut some = |more: f64| -> TaskFigures {
            [300, 500]
                .map(|count| (0..count).map(|_| more + random.random::<f64>()).collect())
                .into()
        };
        (some(0.0), WEIGHTS.map(|weight| some(of(weight))).into())
    }

    #[test]
    fn what_is_only_luck_counts_nothing() {
        let (mut picked, mut shipped) = (0, 0);
        for seed in 0..60 {
            let (without, with) = figures(seed, |_| 0.0);
            picked += usize::from(best(&without, &with, |_| true).is_some());
            shipped += usize::from(fit(&without, &with, seed).weight > 0.0);
        }
        assert!(picked > 55 && shipped <= 12, "{picked} and {shipped} of 60");
    }

    #[test]
    fn what_pays_gets_the_weight_that_is_best() {
        let (without, with) = figures(1, |weight| 0.3 - f64::from((weight - 0.4).abs()));
        let fitted = fit(&without, &with, 1);
        assert!((fitted.weight - 0.4).abs() < 0.11, "{fitted:?}");
        let gain = fitted.gain.unwrap();
        assert!(gain.low > 0.2 && gain.high < 0.4, "{gain:?}");
        // A small task counts as much as a big one.
        let (without, with) =
            (vec![vec![0.0; 900], vec![0.0; 10]], vec![vec![0.0; 900], vec![1.0; 10]]);
        let gain = fit(&without, &vec![with; WEIGHTS.len()], 1).gain.unwrap();
        assert!((gain.mean - 0.5).abs() < 1e-9, "{gain:?}");
    }

    #[test]
    fn nothing_is_fitted_on_nothing() {
        let nothing = vec![Vec::new(), Vec::new()];
        let fitted = fit(&nothing, &vec![nothing.clone(); WEIGHTS.len()], 1);
        assert!(fitted.weight == 0.0 && fitted.gain.is_none());
    }
}
