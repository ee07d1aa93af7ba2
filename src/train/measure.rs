//! Ranking metrics, and their confidence intervals.
//!
//! A ranking is a slice of items, best first. `relevant` holds the items that the shopper then bought,
//! without duplicates. If it is empty, the metrics are zero: leave such shoppers out.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// Resamples of a bootstrap, enough for two digits of a 95 % interval's ends.
pub const RESAMPLES: usize = 2_000;
/// The share of resampled means below an interval, and the share above it.
const TAIL: f64 = 0.025;
/// Steck's α: how much of the history's categories is mixed into those shown, so that a category that
/// is never shown costs a finite amount.
const CALIBRATION_ALPHA: f64 = 0.01;

/// The share of the relevant items within the first `k`, in `0..=1`.
///
/// Divided by `min(k, |relevant|)`, so that a perfect ranking of a big basket scores one.
pub fn recall<T: PartialEq>(ranking: &[T], relevant: &[T], k: usize) -> f64 {
    let possible = k.min(relevant.len());
    if possible == 0 {
        return 0.0;
    }
    ranking.iter().take(k).filter(|item| relevant.contains(item)).count() as f64 / possible as f64
}

/// Normalised discounted cumulative gain of the first `k` with gains of zero and one, in `0..=1`.
///
/// `Σ 1/log₂(rank + 1)` over the hits, divided by the same for a perfect ranking.
pub fn ndcg<T: PartialEq>(ranking: &[T], relevant: &[T], k: usize) -> f64 {
    let discount = |index: usize| 1.0 / ((index + 2) as f64).log2();
    let ideal: f64 = (0..k.min(relevant.len())).map(discount).sum();
    if ideal == 0.0 {
        return 0.0;
    }
    let hits = ranking.iter().take(k).enumerate().filter(|(_, item)| relevant.contains(item));
    hits.map(|(index, _)| discount(index)).sum::<f64>() / ideal
}

/// One over the rank of the first relevant item, zero when there is none; its mean is the MRR.
pub fn reciprocal_rank<T: PartialEq>(ranking: &[T], relevant: &[T]) -> f64 {
    let first = ranking.iter().position(|item| relevant.contains(item));
    first.map_or(0.0, |index| 1.0 / (index + 1) as f64)
}

/// The share of a catalogue of `items` that is in the first `k` of any ranking.
pub fn coverage<'a, T: Eq + Hash + 'a>(
    rankings: impl IntoIterator<Item = &'a [T]>,
    k: usize,
    items: usize,
) -> f64 {
    let shown: HashSet<&T> =
        rankings.into_iter().flat_map(|ranking| ranking.iter().take(k)).collect();
    if items == 0 { 0.0 } else { shown.len() as f64 / items as f64 }
}

/// How surprising the first `k` of a ranking are: the mean of `−log₂(buyers of the item ÷ shoppers)`, in
/// bits (Vargas and Castells 2011). An item without a buyer counts as one with one buyer. `None` for an
/// empty ranking.
pub fn novelty<T>(
    ranking: &[T],
    k: usize,
    buyers: impl Fn(&T) -> u32,
    shoppers: usize,
) -> Option<f64> {
    let bits = |item: &T| -(f64::from(buyers(item).max(1)) / shoppers.max(1) as f64).log2();
    mean_of(ranking.iter().take(k).map(bits))
}

/// How alike the first `k` of a ranking are: the mean over their pairs of the cosine of their vectors
/// (Ziegler 2005). A vector of zeros is like nothing. `None` for fewer than two items.
pub fn intra_list_similarity<'a, T>(
    ranking: &[T],
    k: usize,
    vector: impl Fn(&T) -> &'a [f32],
) -> Option<f64> {
    let unit = |item: &T| -> Vec<f64> {
        let vector: Vec<f64> = vector(item).iter().map(|&value| f64::from(value)).collect();
        let length = vector.iter().map(|value| value * value).sum::<f64>().sqrt();
        let length = if length > 0.0 { length } else { 1.0 };
        vector.into_iter().map(|value| value / length).collect()
    };
    let vectors: Vec<Vec<f64>> = ranking.iter().take(k).map(unit).collect();
    let cosine = |a: &Vec<f64>, b: &Vec<f64>| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let pairs = vectors.iter().enumerate();
    mean_of(pairs.flat_map(|(at, a)| vectors[..at].iter().map(move |b| cosine(a, b))))
}

/// How unequally a catalogue of `items` is shown in the first `k` of all rankings, in `0..=1`: the Gini
/// coefficient of the number of rankings that show each item. At 0 all are shown alike, and near 1 one
/// item is shown alone. Zero if nothing is shown.
pub fn exposure_gini<'a, T: Eq + Hash + 'a>(
    rankings: impl IntoIterator<Item = &'a [T]>,
    k: usize,
    items: usize,
) -> f64 {
    let mut shown: HashMap<&T, usize> = HashMap::new();
    for item in rankings.into_iter().flat_map(|ranking| ranking.iter().take(k)) {
        *shown.entry(item).or_default() += 1;
    }
    let mut counts: Vec<usize> = shown.into_values().collect();
    counts.sort_unstable();
    let all = items.max(counts.len());
    // Items that are never shown come first in ascending order, and add nothing to the sum.
    let unseen = all - counts.len();
    let rank = |at: usize| 2.0 * (unseen + at + 1) as f64 - all as f64 - 1.0;
    let weighted: f64 = counts.iter().enumerate().map(|(at, &n)| rank(at) * n as f64).sum();
    let total = counts.iter().sum::<usize>() as f64;
    if total == 0.0 { 0.0 } else { weighted / (all as f64 * total) }
}

/// The share of the first `k` of a ranking of which `is_repeat` is true; `None` for an empty ranking.
pub fn repeats<T>(ranking: &[T], k: usize, is_repeat: impl Fn(&T) -> bool) -> Option<f64> {
    mean_of(ranking.iter().take(k).map(|item| f64::from(u8::from(is_repeat(item)))))
}

/// How far the categories of what is shown are from those of the history (Steck 2018, *Calibrated
/// recommendations*): `Σ_g p(g) · ln(p(g) ÷ q̃(g))` in nats, where `p` are the shares of the history's
/// categories, `q` those of what is shown, and `q̃ = (1 − α) · q + α · p` with Steck's α = 0.01. Zero
/// is the best. `None` if either is empty.
pub fn calibration<G: Eq + Hash>(
    history: impl IntoIterator<Item = G>,
    shown: impl IntoIterator<Item = G>,
) -> Option<f64> {
    let (history, of_history) = counted(history);
    let (shown, of_shown) = counted(shown);
    if of_history == 0 || of_shown == 0 {
        return None;
    }
    let mut terms: Vec<f64> = history
        .iter()
        .map(|(category, &count)| {
            let p = count as f64 / of_history as f64;
            let q = shown.get(category).copied().unwrap_or(0) as f64 / of_shown as f64;
            p * (p / ((1.0 - CALIBRATION_ALPHA) * q + CALIBRATION_ALPHA * p)).ln()
        })
        .collect();
    // A map has no order, and the last bits of a sum depend on it.
    terms.sort_unstable_by(f64::total_cmp);
    Some(terms.iter().sum())
}

/// How often each value comes, and how many there are.
fn counted<G: Eq + Hash>(values: impl IntoIterator<Item = G>) -> (HashMap<G, usize>, usize) {
    let (mut counts, mut all) = (HashMap::new(), 0);
    for value in values {
        *counts.entry(value).or_insert(0_usize) += 1;
        all += 1;
    }
    (counts, all)
}

/// The mean of some values; `None` if there are none.
pub fn mean_of(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_usize);
    for value in values {
        sum += value;
        count += 1;
    }
    (count > 0).then(|| sum / count as f64)
}

/// To five digits, for reports. Never a negative zero.
pub fn rounded(value: f64) -> f64 {
    (value * 1e5).round() / 1e5 + 0.0
}

/// The share of pairs (given, ranked) whose two orders are equal.
pub fn identity_rate<'a, T: PartialEq + 'a>(
    pairs: impl IntoIterator<Item = (&'a [T], &'a [T])>,
) -> f64 {
    let (mut same, mut all) = (0_usize, 0_usize);
    for (given, ranked) in pairs {
        same += usize::from(given == ranked);
        all += 1;
    }
    if all == 0 { 0.0 } else { same as f64 / all as f64 }
}

/// A mean with its 95 % percentile-bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The mean of the sample itself.
    pub mean: f64,
    /// The 2.5th percentile of the resampled means.
    pub low: f64,
    /// The 97.5th percentile of the resampled means.
    pub high: f64,
}

impl Interval {
    /// Whether zero is outside of the interval.
    pub fn clear_of_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// Two systems measured on the same shoppers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The system compared against.
    pub before: Interval,
    /// The system compared.
    pub after: Interval,
    /// `after − before`.
    pub gain: Interval,
    /// `after ÷ before − 1`; `None` if the mean of `before` is zero in some resample.
    pub relative: Option<Interval>,
}

/// The mean of one figure per shopper, with its interval; `None` without shoppers.
pub fn bootstrap(values: &[f64], resamples: usize, seed: u64) -> Option<Interval> {
    compare(values, values, resamples, seed).map(|comparison| comparison.before)
}

/// The paired bootstrap: each resample draws shoppers, with both figures of each.
///
/// Shoppers differ far more than systems do, and pairing removes their differences from the interval of
/// the gain. `None` without shoppers, or if the slices differ in length.
pub fn compare(before: &[f64], after: &[f64], resamples: usize, seed: u64) -> Option<Comparison> {
    if before.is_empty() || before.len() != after.len() || resamples == 0 {
        return None;
    }
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let means: Vec<[f64; 2]> =
        (0..resamples).map(|_| resampled_means(before, after, &mut random)).collect();
    let mean = [mean(before), mean(after)];
    let interval = |figure: fn([f64; 2]) -> f64| {
        percentiles(figure(mean), means.iter().map(|&pair| figure(pair)).collect())
    };
    let divisible = mean[0] != 0.0 && means.iter().all(|pair| pair[0] != 0.0);
    Some(Comparison {
        before: interval(|[before, _]| before),
        after: interval(|[_, after]| after),
        gain: interval(|[before, after]| after - before),
        relative: divisible.then(|| interval(|[before, after]| after / before - 1.0)),
    })
}

/// The figures of many systems on the same shoppers, and their means in many resamples of the shoppers.
///
/// Every system is measured on the same draws, so that each difference of two is paired, and a table
/// of many systems costs one bootstrap. The draws are those of [`compare`] with the same seed.
#[derive(Clone, Debug)]
pub struct Resampled {
    means: Vec<f64>,
    /// (resamples, columns).
    resampled: Vec<f64>,
}

impl Resampled {
    /// Resamples shoppers. `columns` holds one figure of one system for each shopper; `None` without
    /// shoppers, columns or resamples, or if the columns differ in length.
    pub fn new(columns: &[Vec<f64>], resamples: usize, seed: u64) -> Option<Self> {
        let (width, shoppers) = (columns.len(), columns.first()?.len());
        let ragged = columns.iter().any(|column| column.len() != shoppers);
        if shoppers == 0 || resamples == 0 || ragged {
            return None;
        }
        // By shopper, so that a draw reads one piece of memory.
        let rows: Vec<f64> =
            (0..shoppers).flat_map(|at| columns.iter().map(move |column| column[at])).collect();
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut resampled = vec![0.0; resamples * width];
        for sums in resampled.chunks_exact_mut(width) {
            for _ in 0..shoppers {
                let row = &rows[random.random_range(0..shoppers) * width..][..width];
                sums.iter_mut().zip(row).for_each(|(sum, figure)| *sum += figure);
            }
            for sum in sums {
                *sum /= shoppers as f64;
            }
        }
        Some(Self { means: columns.iter().map(|column| mean(column)).collect(), resampled })
    }

    /// The mean of a column.
    pub fn mean(&self, column: usize) -> Interval {
        self.interval(|means| means[column])
    }

    /// The mean of `after − before`.
    pub fn gain(&self, before: usize, after: usize) -> Interval {
        self.interval(|means| means[after] - means[before])
    }

    /// `after ÷ before − 1`; `None` if the mean of `before` is zero in some resample.
    pub fn relative(&self, before: usize, after: usize) -> Option<Interval> {
        let mut all = self.resampled.chunks_exact(self.means.len()).chain([&self.means[..]]);
        let divisible = all.all(|means| means[before] != 0.0);
        divisible.then(|| self.interval(|means| means[after] / means[before] - 1.0))
    }

    fn interval(&self, figure: impl Fn(&[f64]) -> f64) -> Interval {
        let resampled = self.resampled.chunks_exact(self.means.len()).map(&figure).collect();
        percentiles(figure(&self.means), resampled)
    }
}

fn resampled_means(before: &[f64], after: &[f64], random: &mut ChaCha8Rng) -> [f64; 2] {
    let mut sums = [0.0; 2];
    for _ in 0..before.len() {
        let shopper = random.random_range(0..before.len());
        sums[0] += before[shopper];
        sums[1] += after[shopper];
    }
    sums.map(|sum| sum / before.len() as f64)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The interval between the tails of `resampled`, which is not empty.
fn percentiles(mean: f64, mut resampled: Vec<f64>) -> Interval {
    resampled.sort_unstable_by(f64::total_cmp);
    let last = (resampled.len() - 1) as f64;
    let at = |share: f64| resampled[(share * last).round() as usize];
    Interval { mean, low: at(TAIL), high: at(1.0 - TAIL) }
}

/// Distinct-2 (Li 2016): distinct pairs of neighbouring words over all such pairs, of all texts
/// together. It is low for repetitive texts.
pub fn distinct_2(texts: &[&str]) -> f64 {
    let pairs = texts.iter().flat_map(|text| pairs(text));
    let (mut all, mut different) = (0_usize, HashSet::new());
    for pair in pairs {
        all += 1;
        different.insert(pair);
    }
    different.len() as f64 / all.max(1) as f64
}

/// The mean Jaccard similarity of each text to the next one, over pairs of neighbouring words.
pub fn overlap(texts: &[&str]) -> f64 {
    let sets: Vec<HashSet<_>> = texts.iter().map(|text| pairs(text).collect()).collect();
    let shares = sets.windows(2).map(|two| {
        let both = two[0].intersection(&two[1]).count();
        both as f64 / two[0].union(&two[1]).count().max(1) as f64
    });
    shares.sum::<f64>() / sets.len().saturating_sub(1).max(1) as f64
}

fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split_whitespace().zip(text.split_whitespace().skip(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn close(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-9, "{left} is not {right}");
    }

    #[test]
    fn recall_counts_hits_among_those_possible() {
        let slate = [5, 3, 9, 1];
        close(recall(&slate, &[9], 2), 0.0);
        close(recall(&slate, &[9], 3), 1.0);
        close(recall(&slate, &[9, 5, 7], 3), 2.0 / 3.0);
        close(recall(&slate, &[9, 5, 7], 2), 0.5);
        close(recall(&slate, &[], 2), 0.0);
        close(recall(&slate, &[5], 0), 0.0);
        close(recall(&slate, &[1], 100), 1.0);
    }

    #[test]
    fn ndcg_discounts_by_rank() {
        let slate = [5, 3, 9, 1];
        close(ndcg(&slate, &[5], 10), 1.0);
        close(ndcg(&slate, &[3], 10), 1.0 / 3_f64.log2());
        close(ndcg(&slate, &[9], 2), 0.0);
        // Hits at ranks 1 and 3 against an ideal of ranks 1 and 2.
        close(ndcg(&slate, &[9, 5], 10), (1.0 + 0.5) / (1.0 + 1.0 / 3_f64.log2()));
        close(ndcg(&slate, &[], 10), 0.0);
    }

    #[test]
    fn reciprocal_rank_is_that_of_the_first_hit() {
        let slate = [5, 3, 9, 1];
        close(reciprocal_rank(&slate, &[1, 3]), 0.5);
        close(reciprocal_rank(&slate, &[8]), 0.0);
    }

    #[test]
    fn coverage_and_identity_look_across_shoppers() {
        let rankings: [&[u32]; 3] = [&[1, 2, 3], &[2, 1, 4], &[1, 2]];
        close(coverage(rankings, 2, 8), 0.25);
        close(coverage(rankings, 3, 8), 0.5);
        let given: [&[u32]; 3] = [&[1, 2, 3], &[1, 2, 4], &[1, 2]];
        close(identity_rate(given.into_iter().zip(rankings)), 2.0 / 3.0);
    }

    #[test]
    fn what_is_shown_is_measured_beyond_hits() {
        let slate = [0_u32, 1, 2, 3];
        // One of two buyers in eight shoppers: 2 bits; eight of eight: 0 bits; nobody counts as one: 3 bits.
        let buyers = |item: &u32| [2, 8, 0, 4][*item as usize];
        close(novelty(&slate, 3, buyers, 8).unwrap(), (2.0 + 0.0 + 3.0) / 3.0);
        assert_eq!(novelty(&[], 3, buyers, 8), None);

        // Cosines of the three pairs: 1/√2, 0 and 1/√2; a vector of zeros is like nothing.
        let vectors: [[f32; 2]; 4] = [[1.0, 0.0], [2.0, 2.0], [0.0, 3.0], [0.0, 0.0]];
        let vector = |item: &u32| &vectors[*item as usize][..];
        close(intra_list_similarity(&slate, 3, vector).unwrap(), 2.0_f64.sqrt() / 3.0);
        close(intra_list_similarity(&slate, 4, vector).unwrap(), 2.0_f64.sqrt() / 6.0);
        assert_eq!(intra_list_similarity(&slate, 1, vector), None);

        // All alike, one alone, and shares of 0, 0, 1 and 3.
        let lists: [&[u32]; 4] = [&[0], &[1], &[2], &[3]];
        close(exposure_gini(lists, 1, 4), 0.0);
        close(exposure_gini([&slate[..1]; 3], 1, 4), 0.75);
        let lists: [&[u32]; 4] = [&[0, 9], &[0, 9], &[0, 9], &[1, 9]];
        close(exposure_gini(lists, 1, 4), (3.0 * 3.0 + 1.0) / 16.0);
        close(exposure_gini(std::iter::empty::<&[u32]>(), 1, 4), 0.0);

        close(repeats(&slate, 4, |item| *item == 3).unwrap(), 0.25);
        close(repeats(&slate, 3, |item| *item == 3).unwrap(), 0.0);
        assert_eq!(repeats(&slate[..0], 3, |_| true), None);
    }

    #[test]
    fn calibration_compares_categories_with_the_history() {
        close(calibration(["a", "b"], ["b", "a", "a", "b"]).unwrap(), 0.0);
        // All of the history is `a`, and nothing that is shown: ln(1 ÷ 0.01).
        close(calibration(["a"], ["b", "c"]).unwrap(), 100_f64.ln());
        // p = (3/4, 1/4), q = (1/2, 1/2), q̃ = (0.5025, 0.4975).
        let expected = 0.75 * (0.75 / 0.5025_f64).ln() + 0.25 * (0.25 / 0.4975_f64).ln();
        close(calibration(["a", "a", "b", "a"], ["a", "b"]).unwrap(), expected);
        assert_eq!(calibration([], ["a"]), None);
        assert_eq!(calibration(["a"], []), None);
    }

    /// `tests/fixtures/evaluation/make.py` computed the expected figures with numpy.
    #[test]
    fn figures_beyond_accuracy_are_those_of_numpy() {
        let text = include_str!("../../tests/fixtures/evaluation/beyond.json");
        let fixture: serde_json::Value = serde_json::from_str(text).unwrap();
        let numbers = |value: &serde_json::Value| -> Vec<usize> {
            value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
        };
        let lists = |key: &str| -> Vec<Vec<usize>> {
            fixture[key].as_array().unwrap().iter().map(numbers).collect()
        };
        let vector = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
        };
        let vectors: Vec<Vec<f32>> =
            fixture["vectors"].as_array().unwrap().iter().map(vector).collect();
        let (orders, histories) = (lists("orders"), lists("histories"));
        let (buyers, categories) = (numbers(&fixture["buyers"]), numbers(&fixture["categories"]));
        let [items, shoppers] =
            ["items", "shoppers"].map(|key| fixture[key].as_u64().unwrap() as usize);
        let expected = &fixture["expected"];
        let all = || orders.iter().map(Vec::as_slice);
        close(coverage(all(), 10, items), expected["coverage"].as_f64().unwrap());
        close(exposure_gini(all(), 10, items), expected["gini"].as_f64().unwrap());
        assert_eq!(orders.len(), 12);
        for (at, (order, history)) in orders.iter().zip(&histories).enumerate() {
            let category = |item: &usize| categories[*item];
            let shown = order.iter().take(10).map(category);
            let found = [
                ("novelty", novelty(order, 10, |&item| buyers[item] as u32, shoppers)),
                ("similarity", intra_list_similarity(order, 10, |&item| &vectors[item][..])),
                ("repeats", repeats(order, 10, |item| history.contains(item))),
                ("calibration", calibration(history.iter().map(category), shown)),
            ];
            for (name, found) in found {
                let expected = expected[name][at].as_f64();
                assert_eq!(found.is_some(), expected.is_some(), "{name} of case {at}");
                close(found.unwrap_or(0.0), expected.unwrap_or(0.0));
            }
        }
    }

    #[test]
    fn many_systems_are_resampled_as_two_are() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut column = || -> Vec<f64> { (0..60).map(|_| random.random::<f64>()).collect() };
        let columns = [column(), column(), column()];
        let resampled = Resampled::new(&columns, 200, 9).unwrap();
        for [before, after] in [[0, 1], [0, 2], [2, 1]] {
            let two = compare(&columns[before], &columns[after], 200, 9).unwrap();
            assert_eq!(resampled.mean(before), two.before);
            assert_eq!(resampled.mean(after), two.after);
            assert_eq!(resampled.gain(before, after), two.gain);
            assert_eq!(resampled.relative(before, after), two.relative);
        }
        assert!(Resampled::new(&[], 200, 9).is_none());
        assert!(Resampled::new(&[vec![]], 200, 9).is_none());
        assert!(Resampled::new(&[vec![1.0], vec![1.0, 2.0]], 200, 9).is_none());
        let nothing = Resampled::new(&[vec![0.0; 4], vec![1.0; 4]], 20, 9).unwrap();
        assert_eq!(nothing.relative(0, 1), None);
    }

    #[test]
    fn a_rounded_figure_is_never_a_negative_zero() {
        for value in [-0.000_001, -0.0, 0.0, 0.000_001] {
            assert!(rounded(value).is_sign_positive(), "{value}");
        }
        close(rounded(-0.123_456), -0.123_46);
        close(rounded(0.123_454), 0.123_45);
    }

    #[test]
    fn an_interval_covers_the_true_mean_about_as_often_as_it_says() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        let covered = (0..200)
            .filter(|&trial| {
                let sample: Vec<f64> =
                    (0..100).map(|_| f64::from(u8::from(random.random_bool(0.3)))).collect();
                let interval = bootstrap(&sample, 500, trial).unwrap();
                interval.low <= 0.3 && 0.3 <= interval.high
            })
            .count();
        assert!((180..=198).contains(&covered), "{covered} of 200");
    }

    #[test]
    fn pairing_finds_a_small_gain_among_large_differences() {
        let before: Vec<f64> = (0..400).map(|shopper| f64::from(shopper % 10)).collect();
        let after: Vec<f64> = before.iter().map(|figure| figure * 1.02).collect();
        let found = compare(&before, &after, RESAMPLES, 1).unwrap();
        close(found.before.mean, 4.5);
        close(found.gain.mean, 0.09);
        assert!(found.gain.clear_of_zero());
        assert!(found.after.low < found.before.high, "unpaired, the two intervals overlap");
        let relative = found.relative.unwrap();
        close(relative.low, 0.02);
        close(relative.high, 0.02);
    }

    #[test]
    fn repetitive_texts_are_measured() {
        let texts = ["likes red mugs", "likes red pots", "likes red mugs"];
        close(distinct_2(&texts), 3.0 / 6.0);
        close(overlap(&texts), 1.0 / 3.0);
        close(overlap(&["a b c", "a b c"]), 1.0);
        close(distinct_2(&[]), 0.0);
        close(overlap(&["one"]), 0.0);
    }

    #[test]
    fn a_bootstrap_repeats_from_its_seed_and_refuses_what_does_not_pair() {
        let values = [0.0, 1.0, 1.0, 0.0, 1.0];
        assert_eq!(bootstrap(&values, 300, 5), bootstrap(&values, 300, 5));
        assert!(!bootstrap(&values, 300, 5).unwrap().mean.is_nan());
        assert_eq!(bootstrap(&[], 300, 5), None);
        assert_eq!(compare(&values, &values[1..], 300, 5), None);
        let nothing = [0.0; 5];
        assert_eq!(compare(&nothing, &values, 300, 5).unwrap().relative, None);
    }
}
