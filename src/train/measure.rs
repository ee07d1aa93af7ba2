//! Ranking metrics, and their confidence intervals.
//!
//! A ranking is a slice of items, best first. `relevant` holds the items that the shopper then bought,
//! without duplicates. If it is empty, the metrics are zero: leave such shoppers out.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashSet;
use std::hash::Hash;

/// Resamples of a bootstrap, enough for two digits of a 95 % interval's ends.
pub const RESAMPLES: usize = 2_000;
/// The share of resampled means below an interval, and the share above it.
const TAIL: f64 = 0.025;

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
    resampled.sort_by(f64::total_cmp);
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
