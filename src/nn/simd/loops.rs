//! Plain loops over f32 that the compiler vectorises. They multiply and add in two roundings and sum in a fixed
//! order, so their results are the same bits on every processor.
#![allow(unsafe_code, reason = "processor features are switched on after the processor was asked")]
#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the features of the function that it is inlined into"
)]

use super::VectorLevel;

/// Partial sums of a reduction: enough for two registers of 512 bits.
const SUMS: usize = 32;
/// Adding 1.5 · 2^23 to a number below 2^22 rounds it to an integer, which the lowest bits then hold.
const ROUND: f32 = 12_582_912.0;
/// ln 2 as a number of few bits, whose products are exact, and the remainder.
const LN_2: [f32; 2] = [0.693_145_75, 1.428_606_8e-6];
/// The bias of an f32's exponent.
const BIAS: u32 = 127;

/// Compiles `work` for the widest registers of this processor, and runs it. Loops in `work` must be inlined into
/// it.
pub(in crate::nn) fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    VectorLevel::best().run_loops(work)
}

/// `Σ a·b`, always in the same order.
#[inline(always)]
pub(in crate::nn) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<SUMS>(), b.as_chunks::<SUMS>());
    let mut sums = [0.0; SUMS];
    for (a, b) in a.iter().zip(b) {
        for i in 0..SUMS {
            sums[i] += a[i] * b[i];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The maximum; minus infinity of no numbers.
#[inline(always)]
pub(in crate::nn) fn max(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<SUMS>();
    let mut most = [f32::NEG_INFINITY; SUMS];
    for values in chunks {
        for i in 0..SUMS {
            most[i] = if values[i] > most[i] { values[i] } else { most[i] };
        }
    }
    most.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &value| most.max(value))
}

/// The sum, always in the same order.
#[inline(always)]
pub(in crate::nn) fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<SUMS>();
    let mut sums = [0.0; SUMS];
    for values in chunks {
        for i in 0..SUMS {
            sums[i] += values[i];
        }
    }
    sums.iter().chain(rest).sum()
}

/// `e^x` to about two units in the last place, for any `x`; zero below `e^-87`.
///
/// [`Lanes::exp`](super::Lanes::exp) is its twin with fused multiply-adds for `x` at most 0. It is faster, and its
/// bits depend on the processor.
#[inline(always)]
pub(in crate::nn) fn exp(x: f32) -> f32 {
    let near = x.clamp(-87.0, 88.0);
    let rounded = near * std::f32::consts::LOG2_E + ROUND;
    let power = rounded - ROUND;
    let rest = near - power * LN_2[0] - power * LN_2[1];
    let series = 1.0 / 5040.0;
    let series = series * rest + 1.0 / 720.0;
    let series = series * rest + 1.0 / 120.0;
    let series = series * rest + 1.0 / 24.0;
    let series = series * rest + 1.0 / 6.0;
    let series = series * rest + 0.5;
    let series = series * rest * rest + rest + 1.0;
    let two = rounded.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(BIAS) << 23;
    if x < -87.0 { 0.0 } else { series * f32::from_bits(two) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_everywhere() {
        for step in 0..=20_000_i16 {
            let x = f32::from(step) * 0.01 - 110.0;
            let exact = f64::from(x).exp();
            let got = f64::from(vectorised(|| exp(x)));
            if x < -87.0 {
                assert!(got == 0.0, "exp({x}) is {got}");
            } else if x < 88.0 {
                assert!((got / exact - 1.0).abs() < 4e-7, "exp({x}) is {got}, not {exact}");
            }
        }
    }

    #[test]
    fn sums_and_the_maximum_are_of_all_numbers() {
        for count in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..count).map(|at| f32::from(at as i16) - 50.0).collect();
            let expected: f32 = values.iter().sum();
            assert!((sum(&values) - expected).abs() < 1e-3);
            let squares: f32 = values.iter().map(|value| value * value).sum();
            assert!((dot(&values, &values) - squares).abs() < 1e-1);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&values).to_bits(), most.to_bits());
        }
    }
}
