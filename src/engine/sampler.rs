//! How do logits become a token?
//!
//! The policy is the softmax of the logits, divided by the temperature, over the tokens that the constraint allows.
//! Top-k, top-p and min-p then truncate it, in this order, and a token is drawn from the rest. The reported
//! log-probability is the policy's before truncation: a trainer recomputes it from the same logits. Greedy
//! decoding reports it at temperature 1.
//!
//! A draw is keyed by the seed, the index of the sample and the position in it alone. So neither the rest of the
//! batch nor preemption changes it.

use super::constraint::Allowed;
use crate::nn::softmax::{BLOCK, exponentiate, highest};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;

/// How tokens are sampled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// The divisor of the logits. Zero is greedy: the highest logit, and of equal ones the lowest token.
    pub temperature: f32,
    /// Keeps this many of the most probable tokens; zero keeps all.
    pub top_k: usize,
    /// Keeps the most probable tokens that together reach this probability; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens with at least this fraction of the highest probability; zero keeps all.
    pub min_p: f32,
    /// The seed of the random numbers.
    pub seed: u64,
}

/// A sampling parameter out of range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {value}, and must be {range}")]
pub struct SamplingParamsError {
    /// The parameter.
    pub field: &'static str,
    /// Its value.
    pub value: f32,
    /// The range allowed.
    pub range: &'static str,
}

/// A sampled token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub token: u32,
    /// Its log-probability under the policy.
    pub logprob: f32,
}

/// Logits that no token can be sampled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The model computed a broken logit.
    #[error("the logit of token {0} is not a number or is infinite")]
    NotFinite(u32),
    /// Every allowed token has a logit of minus infinity.
    #[error("no allowed token has a probability")]
    Impossible,
}

/// Samples tokens. Its buffers are reused.
#[derive(Debug, Default)]
pub struct Sampler {
    /// The probability of each allowed token, relative to the highest.
    weights: Vec<f32>,
    /// The sum of each block of [`BLOCK`] weights.
    sums: Vec<f64>,
    /// Indices into `weights`, the most probable first as far as they are sorted.
    order: Vec<u32>,
}

/// The position of a sampled token.
#[derive(Clone, Copy, Debug)]
pub struct SamplePosition {
    /// The index of the sample in its request.
    pub sample: usize,
    /// Tokens before it in the sample.
    pub token: usize,
}

/// The lowest temperature that is not greedy.
const TEMPERATURE_MIN: f32 = 1e-3;
/// The highest temperature.
const TEMPERATURE_MAX: f32 = 10.0;
/// Most probable tokens that top-p sorts at first. If they do not reach it, it sorts more.
const SORTED_FIRST: usize = 256;

// === impl SamplingParams ===

impl SamplingParams {
    /// Greedy decoding: always the most probable token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// Temperature 1, without truncation.
    pub fn untruncated(seed: u64) -> Self {
        Self { temperature: 1.0, seed, ..Self::GREEDY }
    }

    /// Rejects parameters out of range.
    pub fn check(&self) -> Result<(), SamplingParamsError> {
        let Self { temperature, top_k: _, top_p, min_p, seed: _ } = *self;
        let bounds = [
            (
                "temperature",
                temperature,
                temperature == 0.0 || (TEMPERATURE_MIN..=TEMPERATURE_MAX).contains(&temperature),
                "0, or 0.001 to 10",
            ),
            ("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, at most 1"),
            ("min_p", min_p, (0.0..1.0).contains(&min_p), "at least 0, below 1"),
        ];
        match bounds.into_iter().find(|(_, _, within, _)| !within) {
            Some((field, value, _, range)) => Err(SamplingParamsError { field, value, range }),
            None => Ok(()),
        }
    }

    /// The uniform random number in [0, 1) that draws the token at a position; 0 for greedy decoding, which needs
    /// none.
    pub(super) fn chance(&self, position: SamplePosition) -> f64 {
        if self.temperature > 0.0 { self.rng(position).random() } else { 0.0 }
    }

    /// Whether truncation cannot change what is sampled from a vocabulary of this size.
    pub(super) fn is_untruncated(&self, vocabulary: usize) -> bool {
        self.temperature == 0.0 || !self.truncates(vocabulary)
    }

    /// Whether top-k, top-p or min-p can remove one of so many tokens.
    fn truncates(&self, tokens: usize) -> bool {
        self.top_k_truncates(tokens) || self.top_p < 1.0 || self.min_p > 0.0
    }

    fn top_k_truncates(&self, tokens: usize) -> bool {
        self.top_k > 0 && self.top_k < tokens
    }

    fn rng(&self, position: SamplePosition) -> ChaCha8Rng {
        /// Separates this stream from other streams of the same seed.
        const PURPOSE: u64 = u64::from_le_bytes(*b"sampling");
        let mut key = [0; 32];
        let words = [self.seed, position.sample as u64, position.token as u64, PURPOSE];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

// === impl Sampler ===

impl Sampler {
    /// Samples the token at a position.
    ///
    /// The logits are those of `Allowed::Only`, in its order, or of the whole vocabulary for `Allowed::AllBut`.
    pub fn sample(
        &mut self,
        logits: &[f32],
        allowed: Allowed<'_>,
        sampling: &SamplingParams,
        position: SamplePosition,
    ) -> Result<SampledToken, SampleError> {
        self.sample_with(logits, allowed, sampling, sampling.chance(position))
    }

    /// Samples the token that `chance`, in [0, 1), selects.
    pub fn sample_with(
        &mut self,
        logits: &[f32],
        allowed: Allowed<'_>,
        sampling: &SamplingParams,
        chance: f64,
    ) -> Result<SampledToken, SampleError> {
        let (tokens, banned) = match allowed {
            Allowed::Only(tokens) => {
                assert_eq!(tokens.len(), logits.len(), "every allowed token has a logit");
                (Some(tokens), &[][..])
            }
            Allowed::AllBut(banned) => (None, banned),
        };
        let token_at = |index: usize| tokens.map_or(index as u32, |tokens| tokens[index]);
        let (best, highest) = self.load(logits, banned, token_at)?;
        let temperature = if sampling.temperature > 0.0 { sampling.temperature } else { 1.0 };
        exponentiate(&mut self.weights, highest, temperature, &mut self.sums);
        let total: f64 = self.sums.iter().sum();
        let index =
            if sampling.temperature > 0.0 { self.pick(sampling, total, chance) } else { best };
        let logprob = f64::from((logits[index] - highest) / temperature) - total.ln();
        Ok(SampledToken { token: token_at(index), logprob: logprob as f32 })
    }

    /// Copies the logits, with minus infinity for banned tokens. Returns the index and the value of the highest; of
    /// equal ones the first.
    fn load(
        &mut self,
        logits: &[f32],
        banned: &[u32],
        token_at: impl Fn(usize) -> u32,
    ) -> Result<(usize, f32), SampleError> {
        self.weights.clear();
        self.weights.extend_from_slice(logits);
        for &token in banned {
            if let Some(weight) = self.weights.get_mut(token as usize) {
                *weight = f32::NEG_INFINITY;
            }
        }
        match highest(&self.weights) {
            Ok((_, f32::NEG_INFINITY)) => Err(SampleError::Impossible),
            Ok(found) => Ok(found),
            Err(index) => Err(SampleError::NotFinite(token_at(index))),
        }
    }

    /// The index that `chance` selects from the truncated weights.
    fn pick(&mut self, sampling: &SamplingParams, total: f64, chance: f64) -> usize {
        if !sampling.truncates(self.weights.len()) {
            return self.pick_from_all(total, chance);
        }
        self.truncate(sampling, total);
        let Self { weights, order, .. } = self;
        let weight = |index: &u32| f64::from(weights[*index as usize]);
        let mass: f64 = order.iter().map(weight).sum();
        let at = index_at_mass(order.iter().map(weight).enumerate(), chance * mass);
        order[at] as usize
    }

    /// Finds the block that `chance` falls into, and then the index within it.
    fn pick_from_all(&self, total: f64, chance: f64) -> usize {
        let Self { weights, sums, .. } = self;
        let point = chance * total;
        let block = index_at_mass(sums.iter().copied().enumerate(), point);
        let before: f64 = sums[..block].iter().sum();
        let weights = weights[block * BLOCK..].iter().take(BLOCK);
        let within = weights.map(|&weight| f64::from(weight)).enumerate();
        block * BLOCK + index_at_mass(within, point - before)
    }

    /// Leaves in `order` the indices that top-k, top-p and min-p keep.
    fn truncate(&mut self, sampling: &SamplingParams, total: f64) {
        let SamplingParams { top_k, top_p, min_p, .. } = *sampling;
        let Self { weights, order, .. } = self;
        let top_k_truncates = sampling.top_k_truncates(weights.len());
        // All weights below this together have less mass than top-p removes. So it keeps none of them, and they
        // need no sorting.
        let least = if top_k_truncates {
            0.0
        } else {
            (1.0 - f64::from(top_p)) * total / weights.len() as f64
        };
        order.clear();
        let heavy = weights.iter().enumerate().filter(|(_, weight)| f64::from(**weight) >= least);
        order.extend(heavy.map(|(index, _)| index as u32));
        // Ties are broken by the index, so the order is the same on every machine.
        let by_probability = |a: &u32, b: &u32| -> Ordering {
            weights[*b as usize].total_cmp(&weights[*a as usize]).then(a.cmp(b))
        };
        let weight = |index: &u32| f64::from(weights[*index as usize]);
        let mut mass = total;
        if top_k_truncates {
            order.select_nth_unstable_by(top_k - 1, by_probability);
            order.truncate(top_k);
            // The selection leaves any order, and the sum needs a fixed one.
            order.sort_unstable();
            mass = order.iter().map(weight).sum();
        }
        if top_p < 1.0 {
            keep_mass(order, f64::from(top_p) * mass, by_probability, weight);
        }
        if min_p > 0.0 {
            order.retain(|index| weights[*index as usize] >= min_p);
        }
    }
}

/// Keeps the most probable indices that together reach `mass`, sorted.
fn keep_mass(
    order: &mut Vec<u32>,
    mass: f64,
    by_probability: impl Fn(&u32, &u32) -> Ordering,
    weight: impl Fn(&u32) -> f64,
) {
    let mut sorted = SORTED_FIRST;
    loop {
        let whole = sorted >= order.len();
        if !whole {
            order.select_nth_unstable_by(sorted - 1, &by_probability);
        }
        let head = sorted.min(order.len());
        order[..head].sort_unstable_by(&by_probability);
        let mut reached = 0.0;
        let enough = order[..head].iter().position(|index| {
            reached += weight(index);
            reached >= mass
        });
        match enough {
            Some(last) => return order.truncate(last + 1),
            // Rounding may leave the sum of all just below.
            None if whole => return,
            None => sorted *= 8,
        }
    }
}

/// The first index at which the cumulative weight exceeds `point`.
fn index_at_mass(weights: impl Iterator<Item = (usize, f64)>, point: f64) -> usize {
    let (mut reached, mut last) = (0.0, 0);
    for (index, weight) in weights {
        if weight > 0.0 {
            reached += weight;
            last = index;
            if reached > point {
                break;
            }
        }
    }
    // If rounding leaves the sum below `point`, this is the last index with a weight.
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Allowed<'_> = Allowed::AllBut(&[]);

    fn draws(logits: &[f32], sampling: SamplingParams, count: usize) -> Vec<usize> {
        let mut sampler = Sampler::default();
        let mut met = vec![0; logits.len()];
        for token in 0..count {
            let position = SamplePosition { sample: 0, token };
            met[sampler.sample(logits, FREE, &sampling, position).unwrap().token as usize] += 1;
        }
        met
    }

    fn draw(
        logits: &[f32],
        allowed: Allowed<'_>,
        sampling: &SamplingParams,
    ) -> Result<SampledToken, SampleError> {
        Sampler::default().sample(logits, allowed, sampling, SamplePosition { sample: 0, token: 0 })
    }

    #[test]
    fn a_draw_follows_the_policy() {
        let logits = [0.0, 2.0_f32.ln(), f32::NEG_INFINITY, 5.0_f32.ln()];
        let met = draws(&logits, SamplingParams::untruncated(3), 8_000);
        assert_eq!(met[2], 0);
        for (met, expected) in met.iter().zip([1_000, 2_000, 0, 5_000]) {
            assert!(met.abs_diff(expected) < 150, "{met} for {expected}");
        }
        let hot = draws(
            &logits,
            SamplingParams { temperature: 2.0, ..SamplingParams::untruncated(3) },
            8_000,
        );
        assert!(hot[0] > 1_400, "{hot:?}");
    }

    #[test]
    fn truncation_leaves_the_most_probable() {
        let logits = [1.0_f32, 4.0, 3.0, 2.0].map(f32::ln);
        let untruncated = SamplingParams::untruncated(5);
        for (params, kept) in [
            (SamplingParams { top_k: 2, ..untruncated }, vec![1, 2]),
            (SamplingParams { top_k: 9, ..untruncated }, vec![0, 1, 2, 3]),
            (SamplingParams { top_p: 0.39, ..untruncated }, vec![1]),
            (SamplingParams { top_p: 0.41, ..untruncated }, vec![1, 2]),
            (SamplingParams { min_p: 0.49, ..untruncated }, vec![1, 2, 3]),
            (SamplingParams { top_k: 2, top_p: 0.5, ..untruncated }, vec![1]),
            (SamplingParams { top_p: 0.95, min_p: 0.6, ..untruncated }, vec![1, 2]),
        ] {
            let met = draws(&logits, params, 500);
            let met: Vec<_> = (0..4).filter(|&token| met[token] > 0).collect();
            assert_eq!(met, kept, "{params:?}");
        }
    }

    #[test]
    fn top_p_finds_a_long_head() {
        let logits = vec![0.0; 5_000];
        let half = SamplingParams { top_p: 0.5, ..SamplingParams::untruncated(1) };
        let met = draws(&logits, half, 500);
        assert!(met[2_501..].iter().all(|&count| count == 0), "equal weights are ordered by token");
        assert!(met[2_000..2_501].iter().any(|&count| count > 0));
    }

    #[test]
    fn greedy_takes_the_lowest_of_equal_tokens() {
        let drawn = draw(&[1.0, 3.0, 3.0], FREE, &SamplingParams::GREEDY).unwrap();
        assert_eq!(drawn.token, 1);
        let expected = -(2.0 + (-2.0_f32).exp()).ln();
        assert!((drawn.logprob - expected).abs() < 1e-6, "{drawn:?}");
    }

    #[test]
    fn the_log_probability_is_over_the_allowed_tokens() {
        let greedy = SamplingParams::GREEDY;
        let only = draw(&[0.0, 0.0], Allowed::Only(&[7, 9]), &greedy).unwrap();
        assert_eq!((only.token, only.logprob), (7, -std::f32::consts::LN_2));
        let but = draw(&[0.0, 9.0, 0.0], Allowed::AllBut(&[1]), &greedy).unwrap();
        assert_eq!((but.token, but.logprob), (0, -std::f32::consts::LN_2));
        // Truncation does not change it; the temperature does.
        let cold = SamplingParams { temperature: 0.5, top_k: 1, ..SamplingParams::untruncated(1) };
        let drawn = draw(&[0.0, 1.0], FREE, &cold).unwrap();
        assert!((drawn.logprob + (1.0 + (-2.0_f32).exp()).ln()).abs() < 1e-6, "{drawn:?}");
    }

    #[test]
    fn a_draw_is_keyed_by_seed_sample_and_position() {
        let logits = vec![0.0; 1_000];
        let mut sampler = Sampler::default();
        let mut at = |seed, sample, token| {
            let position = SamplePosition { sample, token };
            sampler
                .sample(&logits, FREE, &SamplingParams::untruncated(seed), position)
                .unwrap()
                .token
        };
        let first = at(1, 2, 3);
        assert_eq!(first, at(1, 2, 3));
        for other in [at(2, 2, 3), at(1, 1, 3), at(1, 2, 4), at(1, 3, 2)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn broken_logits_are_an_error() {
        let untruncated = SamplingParams::untruncated(1);
        assert_eq!(draw(&[0.0, f32::NAN], FREE, &untruncated), Err(SampleError::NotFinite(1)));
        let only = Allowed::Only(&[4, 6]);
        assert_eq!(draw(&[0.0, f32::INFINITY], only, &untruncated), Err(SampleError::NotFinite(6)));
        assert_eq!(draw(&[f32::NEG_INFINITY], FREE, &untruncated), Err(SampleError::Impossible));
        assert_eq!(draw(&[0.0], Allowed::AllBut(&[0]), &untruncated), Err(SampleError::Impossible));
    }

    #[test]
    fn parameters_out_of_range_are_named() {
        let error = |sampling: SamplingParams| sampling.check().unwrap_err().to_string();
        let untruncated = SamplingParams::untruncated(1);
        assert!(untruncated.check().is_ok() && SamplingParams::GREEDY.check().is_ok());
        let hot = error(SamplingParams { temperature: 11.0, ..untruncated });
        assert_eq!(hot, "`temperature` is 11, and must be 0, or 0.001 to 10");
        let nan = error(SamplingParams { temperature: f32::NAN, ..untruncated });
        assert_eq!(nan, "`temperature` is NaN, and must be 0, or 0.001 to 10");
        error(SamplingParams { temperature: 1e-39, ..untruncated });
        let none = error(SamplingParams { top_p: 0.0, ..untruncated });
        assert_eq!(none, "`top_p` is 0, and must be above 0, at most 1");
        let all = error(SamplingParams { min_p: 1.0, ..untruncated });
        assert_eq!(all, "`min_p` is 1, and must be at least 0, below 1");
    }
}
