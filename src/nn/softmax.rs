//! The softmax of one long row of logits, such as those of a whole vocabulary.
//!
//! Sums have a fixed order and no fused operations, so every processor samples the same token.

use super::simd::{exp, max, sum, vectorised};
use std::ops::Range;

/// Weights per partial sum: sampling searches the sums first, and then one block.
pub const BLOCK: usize = 1_024;

/// A token to sample from the whole vocabulary on the device that computes the logits.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleSpec {
    /// The temperature; zero is greedy.
    pub temperature: f32,
    /// A uniform number in `[0, 1)`: the token's position in the cumulative distribution.
    pub chance: f64,
    /// The banned tokens, as a range of a list for the whole batch.
    pub banned: Range<usize>,
}

/// The index and value of the maximum, the first of equals; `(0, -∞)` if all are minus infinity. The error is the index of
/// a logit that is NaN or plus infinity.
pub fn highest(logits: &[f32]) -> Result<(usize, f32), usize> {
    let is_sound = |logit: &f32| *logit < f32::INFINITY;
    let sound = vectorised(|| logits.iter().fold(true, |sound, logit| sound & is_sound(logit)));
    if !sound {
        return Err(logits.iter().position(|logit| !is_sound(logit)).unwrap_or(0));
    }
    let highest = vectorised(|| max(logits));
    Ok((logits.iter().position(|logit| *logit >= highest).unwrap_or(0), highest))
}

/// Replaces logits by `exp((logit - highest) / temperature)`, and `sums` by the sums of each [`BLOCK`] of them. Weights
/// below e^-87 become zero.
pub fn exponentiate(logits: &mut [f32], highest: f32, temperature: f32, sums: &mut Vec<f64>) {
    let scale = temperature.recip();
    sums.clear();
    sums.extend(logits.chunks_mut(BLOCK).map(|block| {
        vectorised(|| {
            for logit in &mut *block {
                *logit = exp((*logit - highest) * scale);
            }
            f64::from(sum(block))
        })
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_those_of_the_library() {
        let logits: Vec<f32> = (0..100_000).map(|i| -(i as f32) * 0.000_86).collect();
        let (mut weights, mut sums) = (logits.clone(), Vec::new());
        exponentiate(&mut weights, 0.0, 1.0, &mut sums);
        for (weight, logit) in weights.iter().zip(&logits) {
            let right = f64::from(*logit).exp();
            let error = (f64::from(*weight) - right).abs() / right;
            assert!(error < 4e-7, "{logit}: {weight}, off by {error}");
        }
        for (sum, block) in sums.iter().zip(weights.chunks(BLOCK)) {
            let right: f64 = block.iter().map(|weight| f64::from(*weight)).sum();
            assert!((sum - right).abs() < 1e-6 * right);
        }
        assert_eq!(sums.len(), logits.len().div_ceil(BLOCK));
    }

    #[test]
    fn minus_infinity_gets_no_weight() {
        let mut weights = [3.0, f32::NEG_INFINITY, 2.0, -100.0];
        exponentiate(&mut weights, 3.0, 1.0, &mut Vec::new());
        assert_eq!((weights[0], weights[1], weights[3]), (1.0, 0.0, 0.0));
    }

    #[test]
    fn the_first_of_the_highest_is_found_and_broken_logits_are() {
        let mut logits = vec![0.0; 1_000];
        (logits[77], logits[500]) = (2.0, 2.0);
        assert_eq!(highest(&logits), Ok((77, 2.0)));
        assert_eq!(highest(&[f32::NEG_INFINITY; 20]), Ok((0, f32::NEG_INFINITY)));
        for broken in [f32::NAN, f32::INFINITY] {
            for at in [3, 998] {
                let mut logits = logits.clone();
                logits[at] = broken;
                assert_eq!(highest(&logits), Err(at));
            }
        }
    }
}
