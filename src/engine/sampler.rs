//! How do logits become a token?
//!
//! The policy is the softmax, at the temperature asked for, over the tokens that the constraint
//! allows; top-k, top-p and min-p then cut its tail (in this order), and a token is drawn from what
//! remains. The log-probability that is reported is the policy's, before the tail is cut: it is
//! what a trainer computes again from the same logits, and without cuts it is exactly the
//! distribution that was drawn from. Greedy decoding reports it at temperature 1.
//!
//! A draw is keyed by the seed, the sample and the token's place in it, and by nothing else, so
//! neither company nor preemption changes what is drawn.

use super::constraint::Allowed;
use crate::nn::softmax::{BLOCK, exponentiate, highest};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// What the logits are divided by; zero takes the highest, the lowest token first.
    pub temperature: f32,
    /// Only so many of the likeliest tokens; zero means all.
    pub top_k: usize,
    /// Only the likeliest tokens that together have this share; 1 means all.
    pub top_p: f32,
    /// Only tokens that have this share of the likeliest one's probability; zero means all.
    pub min_p: f32,
    /// Where chance comes from.
    pub seed: u64,
}

/// A number that cannot be sampled with.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {value}, and must be {range}")]
pub struct SamplingParamsError {
    /// Which.
    pub field: &'static str,
    /// Its value.
    pub value: f32,
    /// What it may be.
    pub range: &'static str,
}

/// A token that was drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampledToken {
    /// The token.
    pub token: u32,
    /// Its log-probability under the policy.
    pub logprob: f32,
}

/// Logits that nothing can be drawn from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// The model is broken.
    #[error("the logit of token {0} is not a number or is infinite")]
    NotFinite(u32),
    /// Every allowed token has a logit of minus infinity.
    #[error("no allowed token has a probability")]
    Impossible,
}

/// Draws tokens, with buffers of its own.
#[derive(Debug, Default)]
pub struct Sampler {
    /// The probability of each allowed token, relative to the likeliest.
    weights: Vec<f32>,
    /// The sum of each block of them.
    sums: Vec<f64>,
    /// Places in `weights`, the likeliest first as far as they are sorted.
    order: Vec<u32>,
}

/// Where a draw stands.
#[derive(Clone, Copy, Debug)]
pub struct SamplePosition {
    /// The sample of the ask.
    pub sample: usize,
    /// Tokens before it in the sample.
    pub token: usize,
}

/// Below this, greedy is meant.
const TEMPERATURE_MIN: f32 = 1e-3;
/// Above this, a temperature is a mistake.
const TEMPERATURE_MAX: f32 = 10.0;
/// How many of the likeliest tokens are sorted at first, to find the ones that top-p keeps.
const SORTED_FIRST: usize = 256;

// === impl SamplingParams ===

impl SamplingParams {
    /// The likeliest token, always.
    pub const GREEDY: Self = Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 };

    /// The policy itself, at temperature 1.
    pub fn plain(seed: u64) -> Self {
        Self { temperature: 1.0, seed, ..Self::GREEDY }
    }

    /// Refuses numbers that cannot be sampled with.
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

    /// The number, of 0 to 1, that draws the token at a place.
    pub(super) fn chance(&self, place: SamplePosition) -> f64 {
        self.stream(place).random()
    }

    /// Whether a token is drawn of all that are allowed of so many: no tail is cut, or none would be drawn of anyway.
    pub(super) fn is_of_all(&self, vocabulary: usize) -> bool {
        self.temperature == 0.0 || !self.cuts(vocabulary)
    }

    /// Whether the tail of so many tokens is cut.
    fn cuts(&self, vocabulary: usize) -> bool {
        self.cuts_by_count(vocabulary) || self.top_p < 1.0 || self.min_p > 0.0
    }

    fn cuts_by_count(&self, tokens: usize) -> bool {
        self.top_k > 0 && self.top_k < tokens
    }

    fn stream(&self, place: SamplePosition) -> ChaCha8Rng {
        /// Tells this stream from others of the same seed.
        const PURPOSE: u64 = u64::from_le_bytes(*b"sampling");
        let mut key = [0; 32];
        let words = [self.seed, place.sample as u64, place.token as u64, PURPOSE];
        for (bytes, word) in key.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        ChaCha8Rng::from_seed(key)
    }
}

// === impl Sampler ===

impl Sampler {
    /// Draws from logits: of the tokens that are allowed, in their order, or of the whole
    /// vocabulary where only some are not.
    pub fn draw(
        &mut self,
        logits: &[f32],
        allowed: Allowed<'_>,
        sampling: &SamplingParams,
        place: SamplePosition,
    ) -> Result<SampledToken, SampleError> {
        let chance = if sampling.temperature > 0.0 { sampling.chance(place) } else { 0.0 };
        self.draw_at(logits, allowed, sampling, chance)
    }

    /// The same, given the number, of 0 to 1, that chance would be.
    pub fn draw_at(
        &mut self,
        logits: &[f32],
        allowed: Allowed<'_>,
        sampling: &SamplingParams,
        chance: f64,
    ) -> Result<SampledToken, SampleError> {
        let (tokens, banned) = match allowed {
            Allowed::Only(tokens) => {
                assert_eq!(tokens.len(), logits.len(), "the model answered for every token");
                (Some(tokens), &[][..])
            }
            Allowed::AllBut(banned) => (None, banned),
        };
        let token_at = |at: usize| tokens.map_or(at as u32, |tokens| tokens[at]);
        let (likeliest, highest) = self.load(logits, banned, token_at)?;
        let temperature = if sampling.temperature > 0.0 { sampling.temperature } else { 1.0 };
        exponentiate(&mut self.weights, highest, temperature, &mut self.sums);
        let total: f64 = self.sums.iter().sum();
        let chosen =
            if sampling.temperature > 0.0 { self.pick(sampling, total, chance) } else { likeliest };
        let logprob = f64::from((logits[chosen] - highest) / temperature) - total.ln();
        Ok(SampledToken { token: token_at(chosen), logprob: logprob as f32 })
    }

    /// Copies the logits, those of banned tokens as minus infinity, and finds the highest. Tokens
    /// ascend, so the first of equals is the lowest token.
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
            Err(at) => Err(SampleError::NotFinite(token_at(at))),
        }
    }

    /// Where `chance`, in `0..1`, falls among the weights that the cuts leave.
    fn pick(&mut self, sampling: &SamplingParams, total: f64, chance: f64) -> usize {
        let SamplingParams { top_k, top_p, min_p, .. } = *sampling;
        let Self { weights, sums, order } = self;
        let cut_k = sampling.cuts_by_count(weights.len());
        if !sampling.cuts(weights.len()) {
            let point = chance * total;
            let block = fall(sums.iter().copied().enumerate(), point);
            let before: f64 = sums[..block].iter().sum();
            let weights = weights[block * BLOCK..].iter().take(BLOCK);
            let within = weights.map(|&weight| f64::from(weight)).enumerate();
            return block * BLOCK + fall(within, point - before);
        }
        // All that weigh less together weigh less than what top-p leaves out, so none of them is
        // kept, and nobody need sort them.
        let least =
            if cut_k { 0.0 } else { (1.0 - f64::from(top_p)) * total / weights.len() as f64 };
        order.clear();
        let heavy = weights.iter().enumerate().filter(|(_, weight)| f64::from(**weight) >= least);
        order.extend(heavy.map(|(at, _)| at as u32));
        // The lower token goes first among equals, so the order is one and the same everywhere.
        let likelier = |a: &u32, b: &u32| -> Ordering {
            weights[*b as usize].total_cmp(&weights[*a as usize]).then(a.cmp(b))
        };
        let weight = |at: &u32| f64::from(weights[*at as usize]);
        let mut mass = total;
        if cut_k {
            order.select_nth_unstable_by(top_k - 1, likelier);
            order.truncate(top_k);
            // Added up in a fixed order: selection leaves them in any.
            order.sort_unstable();
            mass = order.iter().map(weight).sum();
        }
        if top_p < 1.0 {
            keep_mass(order, f64::from(top_p) * mass, likelier, weight);
        }
        if min_p > 0.0 {
            order.retain(|at| weights[*at as usize] >= min_p);
        }
        let mass: f64 = order.iter().map(weight).sum();
        let at = fall(order.iter().map(weight).enumerate(), chance * mass);
        order[at] as usize
    }
}

/// Keeps the likeliest that together reach `mass`, in order.
fn keep_mass(
    order: &mut Vec<u32>,
    mass: f64,
    likelier: impl Fn(&u32, &u32) -> Ordering,
    weight: impl Fn(&u32) -> f64,
) {
    let mut sorted = SORTED_FIRST;
    loop {
        let whole = sorted >= order.len();
        if !whole {
            order.select_nth_unstable_by(sorted - 1, &likelier);
        }
        let head = sorted.min(order.len());
        order[..head].sort_unstable_by(&likelier);
        let mut reached = 0.0;
        let enough = order[..head].iter().position(|at| {
            reached += weight(at);
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

/// The first place at which the weights so far exceed `point`.
fn fall(weights: impl Iterator<Item = (usize, f64)>, point: f64) -> usize {
    let (mut reached, mut last) = (0.0, 0);
    for (at, weight) in weights {
        if weight > 0.0 {
            reached += weight;
            last = at;
            if reached > point {
                break;
            }
        }
    }
    // Rounding may walk past the end, never to a weight of zero.
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
            let place = SamplePosition { sample: 0, token };
            met[sampler.draw(logits, FREE, &sampling, place).unwrap().token as usize] += 1;
        }
        met
    }

    fn draw(
        logits: &[f32],
        allowed: Allowed<'_>,
        sampling: &SamplingParams,
    ) -> Result<SampledToken, SampleError> {
        Sampler::default().draw(logits, allowed, sampling, SamplePosition { sample: 0, token: 0 })
    }

    #[test]
    fn a_draw_follows_the_policy() {
        let logits = [0.0, 2.0_f32.ln(), f32::NEG_INFINITY, 5.0_f32.ln()];
        let met = draws(&logits, SamplingParams::plain(3), 8_000);
        assert_eq!(met[2], 0);
        for (met, expected) in met.iter().zip([1_000, 2_000, 0, 5_000]) {
            assert!(met.abs_diff(expected) < 150, "{met} for {expected}");
        }
        let hot =
            draws(&logits, SamplingParams { temperature: 2.0, ..SamplingParams::plain(3) }, 8_000);
        assert!(hot[0] > 1_400, "{hot:?}");
    }

    #[test]
    fn cuts_leave_the_likeliest() {
        let logits = [1.0_f32, 4.0, 3.0, 2.0].map(f32::ln);
        let plain = SamplingParams::plain(5);
        for (cut, left) in [
            (SamplingParams { top_k: 2, ..plain }, vec![1, 2]),
            (SamplingParams { top_k: 9, ..plain }, vec![0, 1, 2, 3]),
            (SamplingParams { top_p: 0.39, ..plain }, vec![1]),
            (SamplingParams { top_p: 0.41, ..plain }, vec![1, 2]),
            (SamplingParams { min_p: 0.49, ..plain }, vec![1, 2, 3]),
            (SamplingParams { top_k: 2, top_p: 0.5, ..plain }, vec![1]),
            (SamplingParams { top_p: 0.95, min_p: 0.6, ..plain }, vec![1, 2]),
        ] {
            let met = draws(&logits, cut, 500);
            let met: Vec<_> = (0..4).filter(|&token| met[token] > 0).collect();
            assert_eq!(met, left, "{cut:?}");
        }
    }

    #[test]
    fn top_p_finds_a_long_head() {
        let logits = vec![0.0; 5_000];
        let half = SamplingParams { top_p: 0.5, ..SamplingParams::plain(1) };
        let met = draws(&logits, half, 500);
        assert!(met[2_501..].iter().all(|&count| count == 0), "equals go by their number");
        assert!(met[2_000..2_501].iter().any(|&count| count > 0));
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        let drawn = draw(&[1.0, 3.0, 3.0], FREE, &SamplingParams::GREEDY).unwrap();
        assert_eq!(drawn.token, 1);
        let expected = -(2.0 + (-2.0_f32).exp()).ln();
        assert!((drawn.logprob - expected).abs() < 1e-6, "{drawn:?}");
    }

    #[test]
    fn the_log_probability_is_over_what_is_allowed() {
        let greedy = SamplingParams::GREEDY;
        let only = draw(&[0.0, 0.0], Allowed::Only(&[7, 9]), &greedy).unwrap();
        assert_eq!((only.token, only.logprob), (7, -std::f32::consts::LN_2));
        let but = draw(&[0.0, 9.0, 0.0], Allowed::AllBut(&[1]), &greedy).unwrap();
        assert_eq!((but.token, but.logprob), (0, -std::f32::consts::LN_2));
        // A cut does not change it, a temperature does.
        let cold = SamplingParams { temperature: 0.5, top_k: 1, ..SamplingParams::plain(1) };
        let drawn = draw(&[0.0, 1.0], FREE, &cold).unwrap();
        assert!((drawn.logprob + (1.0 + (-2.0_f32).exp()).ln()).abs() < 1e-6, "{drawn:?}");
    }

    #[test]
    fn a_draw_is_keyed_by_seed_sample_and_place() {
        let logits = vec![0.0; 1_000];
        let mut sampler = Sampler::default();
        let mut at = |seed, sample, token| {
            let place = SamplePosition { sample, token };
            sampler.draw(&logits, FREE, &SamplingParams::plain(seed), place).unwrap().token
        };
        let first = at(1, 2, 3);
        assert_eq!(first, at(1, 2, 3));
        for other in [at(2, 2, 3), at(1, 1, 3), at(1, 2, 4), at(1, 3, 2)] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn broken_logits_are_an_error() {
        let plain = SamplingParams::plain(1);
        assert_eq!(draw(&[0.0, f32::NAN], FREE, &plain), Err(SampleError::NotFinite(1)));
        let only = Allowed::Only(&[4, 6]);
        assert_eq!(draw(&[0.0, f32::INFINITY], only, &plain), Err(SampleError::NotFinite(6)));
        assert_eq!(draw(&[f32::NEG_INFINITY], FREE, &plain), Err(SampleError::Impossible));
        assert_eq!(draw(&[0.0], Allowed::AllBut(&[0]), &plain), Err(SampleError::Impossible));
    }

    #[test]
    fn bad_numbers_are_refused_by_name() {
        let refused = |sampling: SamplingParams| sampling.check().unwrap_err().to_string();
        let plain = SamplingParams::plain(1);
        assert!(plain.check().is_ok() && SamplingParams::GREEDY.check().is_ok());
        let hot = refused(SamplingParams { temperature: 11.0, ..plain });
        assert_eq!(hot, "`temperature` is 11, and must be 0, or 0.001 to 10");
        let nan = refused(SamplingParams { temperature: f32::NAN, ..plain });
        assert_eq!(nan, "`temperature` is NaN, and must be 0, or 0.001 to 10");
        refused(SamplingParams { temperature: 1e-39, ..plain });
        let none = refused(SamplingParams { top_p: 0.0, ..plain });
        assert_eq!(none, "`top_p` is 0, and must be above 0, at most 1");
        let all = refused(SamplingParams { min_p: 1.0, ..plain });
        assert_eq!(all, "`min_p` is 1, and must be at least 0, below 1");
    }
}
