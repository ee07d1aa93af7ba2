//! The softmax of one long row of logits, such as those of a whole vocabulary, on the widest vectors
//! that the processor has.
//!
//! The loops are plain, and every number is added up in one order without fused operations, so all
//! processors get the same sums, and draw the same token. That is why this exponential is not the one
//! of `packed`, which serves a model whose numbers depend on the processor anyhow.
#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for wide vectors only inside the function that switched them on"
)]

use pulp::{Arch, Simd, WithSimd};

/// Weights whose sum is kept, so that whoever looks for a place among all need not add all up.
pub const BLOCK: usize = 1_024;
/// Numbers that are worked on side by side.
const LANES: usize = 16;

/// The highest of some logits and its place, the first of equals; minus infinity if all are. Or, as
/// an error, the place of one that is not a number or is infinite.
pub fn highest(logits: &[f32]) -> Result<(usize, f32), usize> {
    let highest = Arch::new().dispatch(Highest(logits));
    if highest.is_nan() {
        let broken = |logit: &f32| logit.is_nan() || *logit == f32::INFINITY;
        return Err(logits.iter().position(broken).unwrap_or(0));
    }
    Ok((logits.iter().position(|logit| *logit >= highest).unwrap_or(0), highest))
}

/// Turns logits into `exp((logit - highest) / temperature)`, and `sums` into the sums of each
/// [`BLOCK`] of them. Weights below e^-87 become nothing.
pub fn exponentiate(logits: &mut [f32], highest: f32, temperature: f32, sums: &mut Vec<f64>) {
    sums.clear();
    Arch::new().dispatch(Exponentiate { logits, highest, scale: temperature.recip(), sums });
}

struct Highest<'a>(&'a [f32]);

impl WithSimd for Highest<'_> {
    /// Not a number if one of the logits is broken.
    type Output = f32;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let mut most = [f32::NEG_INFINITY; LANES];
        let mut fine = [true; LANES];
        let (chunks, rest) = self.0.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                fine[lane] &= chunk[lane] < f32::INFINITY;
                most[lane] = if chunk[lane] > most[lane] { chunk[lane] } else { most[lane] };
            }
        }
        for logit in rest {
            fine[0] &= *logit < f32::INFINITY;
            most[0] = if *logit > most[0] { *logit } else { most[0] };
        }
        if fine == [true; LANES] {
            most.into_iter().fold(f32::NEG_INFINITY, f32::max)
        } else {
            f32::NAN
        }
    }
}

struct Exponentiate<'a> {
    logits: &'a mut [f32],
    highest: f32,
    scale: f32,
    sums: &'a mut Vec<f64>,
}

impl WithSimd for Exponentiate<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self { logits, highest, scale, sums } = self;
        for block in logits.chunks_mut(BLOCK) {
            let mut lanes = [0.0; LANES];
            let (chunks, rest) = block.as_chunks_mut::<LANES>();
            for chunk in chunks {
                for lane in 0..LANES {
                    chunk[lane] = exp((chunk[lane] - highest) * scale);
                    lanes[lane] += chunk[lane];
                }
            }
            for logit in rest {
                *logit = exp((*logit - highest) * scale);
                lanes[0] += *logit;
            }
            sums.push(lanes.into_iter().map(f64::from).sum());
        }
    }
}

/// e to the power of a number at most 0, to 3 units in the last place.
///
/// x = n ln 2 + r: a polynomial for r, and n added to the exponent's bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding this rounds to a whole number, and leaves it in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.0;
    /// ln 2 in two parts, the first short enough for exact products.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const TAYLOR: [f32; 7] = [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

    let held = if x > LOWEST { x } else { LOWEST };
    let shifted = held * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = held - whole * LN2[0] - whole * LN2[1];
    let power = TAYLOR.into_iter().fold(1.0 / 5040.0, |power, factor| power * rest + factor);
    let power = f32::from_bits(power.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x > LOWEST { power } else { 0.0 }
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
    fn what_is_ruled_out_weighs_nothing() {
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
