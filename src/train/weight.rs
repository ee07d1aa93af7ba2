//! Fits the weight of a rung's scores beside the order below, and tests whether they pay at all.
//!
//! The best of a dozen weights shows a gain on its own cases even where there is none. So the weight is
//! chosen on all cases, but the gain is cross-validated: each fold is judged by the weight that is best
//! on the other folds (Stone 1974). A rung gets the weight 0, and is not shipped, unless chance would
//! give a useless rung that gain in at most one shop of ten. A useless rung costs milliseconds, and a
//! useful one that is left out costs better orders.

pub use super::measure::rounded;
use super::measure::{self, Interval, RESAMPLES};
use serde_json::{Value, json};

/// The weights that are tried.
pub const WEIGHTS: [f32; 12] = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5];
/// Folds of the cases. Each is judged by the weight that the others chose.
const FOLDS: usize = 5;

/// Standard errors by which a gain has to exceed zero: by chance, one in ten does.
const ERRORS_MIN: f64 = 1.2816;
/// Standard errors from the mean to the ends of a 95 % interval.
const ERRORS_OF_INTERVAL: f64 = 1.9600;

/// A figure for each case of each task.
pub type TaskFigures = Vec<Vec<f64>>;

/// A weight that was fitted.
#[derive(Clone, Debug)]
pub struct FittedWeight {
    /// The weight, or 0 where the scores do not pay.
    pub weight: f32,
    /// The mean over tasks at weight 0, and at each of [`WEIGHTS`].
    without: f64,
    tried: Vec<f64>,
    /// The cross-validated gain.
    gain: Option<Interval>,
}

/// Fits a weight. `without` are the figures of the order below, `with` those at each of [`WEIGHTS`].
pub fn fit(without: &TaskFigures, with: &[TaskFigures], seed: u64) -> FittedWeight {
    debug_assert_eq!(with.len(), WEIGHTS.len());
    let best = best(without, with, |_| true);
    let mut before = Vec::new();
    let mut after = Vec::new();
    let chosen: Vec<Option<usize>> =
        (0..FOLDS).map(|fold| self::best(without, with, |at| at % FOLDS != fold)).collect();
    let all = without.iter().map(Vec::len).sum::<usize>() as f64;
    for (task, figures) in without.iter().enumerate() {
        // Each task has the same share, however many cases it has.
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

/// The index of the weight that is best on the counted cases; `None` if weight 0 is.
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

/// The mean over tasks of the mean over the counted cases.
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
    /// For a stage's report. `figure` is the name of the figures.
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
    fn a_gain_by_luck_gets_no_weight() {
        let (mut picked, mut shipped) = (0, 0);
        for seed in 0..60 {
            let (without, with) = figures(seed, |_| 0.0);
            picked += usize::from(best(&without, &with, |_| true).is_some());
            shipped += usize::from(fit(&without, &with, seed).weight > 0.0);
        }
        assert!(picked > 55 && shipped <= 12, "{picked} and {shipped} of 60");
    }

    #[test]
    fn scores_that_pay_get_the_best_weight() {
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
