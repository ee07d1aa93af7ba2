//! The rotary frequencies, scaled for long contexts.
//!
//! They are computed in transformers' order and precision: an angle is a frequency times a position, so an error in the
//! last digit grows with the context.

use super::{DecoderConfig, DecoderConfigError, RopeScaling};
use std::f64::consts::TAU;

/// The width of a ramp that would have none, as in transformers.
const RAMP_MIN: f32 = 0.001;

// === impl DecoderConfig ===

impl DecoderConfig {
    /// The angle per position of each pair of a head's dimensions, and the factor of cosines and sines.
    pub fn inverse_frequencies(&self) -> (Vec<f32>, f32) {
        let plain = self.wavelengths().map(|length| 1.0 / length);
        match &self.rope_scaling {
            RopeScaling::None => (plain.collect(), 1.0),
            RopeScaling::Linear(factor) => (plain.map(|f| f / *factor as f32).collect(), 1.0),
            RopeScaling::Llama3 { factor, low, high, original } => {
                let ramp = [*factor, *low, *high, *original as f64];
                (plain.map(|frequency| llama3(frequency, ramp)).collect(), 1.0)
            }
            RopeScaling::Yarn { factor, original, fast, slow, attention } => {
                (self.yarn(*factor as f32, *original as f64, *fast, *slow), *attention as f32)
            }
            RopeScaling::Listed(factors) => {
                (plain.zip(factors).map(|(frequency, factor)| frequency / factor).collect(), 1.0)
            }
        }
    }

    /// `theta^(2i / head_dim)` of each pair `i`: the wavelength in positions over 2π.
    fn wavelengths(&self) -> impl Iterator<Item = f32> {
        let (base, dim) = (self.rope_theta as f32, self.head_dim as f32);
        (0..self.head_dim / 2).map(move |pair| base.powf(2.0 * pair as f32 / dim))
    }

    /// YaRN (Peng et al. 2023): high frequencies stay, low ones are scaled in full, with a ramp between.
    fn yarn(&self, factor: f32, original: f64, fast: f64, slow: f64) -> Vec<f32> {
        let dim = self.head_dim as f64;
        let pair_of =
            |turns: f64| dim * (original / (turns * TAU)).ln() / (2.0 * self.rope_theta.ln());
        let low = pair_of(fast).floor().max(0.0) as f32;
        let high = pair_of(slow).ceil().min(dim - 1.0) as f32;
        let high = if low.to_bits() == high.to_bits() { high + RAMP_MIN } else { high };
        let mixed = self.wavelengths().enumerate().map(|(pair, length)| {
            let kept = 1.0 - ((pair as f32 - low) / (high - low)).clamp(0.0, 1.0);
            1.0 / (factor * length) * (1.0 - kept) + 1.0 / length * kept
        });
        mixed.collect()
    }

    /// Checks that the frequencies are finite.
    pub(super) fn check_rope(&self) -> Result<(), DecoderConfigError> {
        let malformed = |what: String| Err(DecoderConfigError::Malformed(what));
        if !(self.rope_theta.is_finite() && self.rope_theta > 1.0) {
            return malformed(format!("`rope_theta` is {}", self.rope_theta));
        }
        let positive = |value: f64| value.is_finite() && value > 0.0;
        let sound = match &self.rope_scaling {
            RopeScaling::None => true,
            RopeScaling::Linear(factor) => positive(*factor),
            RopeScaling::Llama3 { factor, low, high, original } => {
                positive(*factor)
                    && positive(*low)
                    && high > low
                    && high.is_finite()
                    && *original > 0
            }
            RopeScaling::Yarn { factor, original, fast, slow, attention } => {
                [*factor, *fast, *slow, *attention].into_iter().all(positive) && *original > 0
            }
            RopeScaling::Listed(factors) => {
                factors.len() == self.head_dim / 2 && factors.iter().all(|&f| positive(f.into()))
            }
        };
        if sound { Ok(()) } else { malformed(format!("no rotation has {:?}", self.rope_scaling)) }
    }
}

/// YaRN's default factor of cosines and sines: `0.1 m ln(factor) + 1`.
pub(super) fn yarn_attention(factor: f64, m: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * m * factor.ln() + 1.0 }
}

fn llama3(frequency: f32, [factor, low, high, original]: [f64; 4]) -> f32 {
    let wavelength = TAU as f32 / frequency;
    if wavelength < (original / high) as f32 {
        return frequency;
    }
    let slow = frequency / factor as f32;
    if wavelength > (original / low) as f32 {
        return slow;
    }
    let smooth = (original as f32 / wavelength - low as f32) / (high - low) as f32;
    (1.0 - smooth) * slow + smooth * frequency
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::tiny;
    use super::*;

    fn frequencies(scaling: RopeScaling) -> (Vec<f32>, f32) {
        let config = DecoderConfig { head_dim: 64, rope_scaling: scaling, ..tiny() };
        config.check().unwrap();
        config.inverse_frequencies()
    }

    #[test]
    fn frequencies_fall_from_one_to_the_base() {
        let (plain, attention) = frequencies(RopeScaling::None);
        assert_eq!((plain.len(), plain[0], attention), (32, 1.0, 1.0));
        let slowest = 10_000_f32.powf(-62.0 / 64.0);
        assert!((plain[31] - slowest).abs() < 1e-9);
        let (half, _) = frequencies(RopeScaling::Linear(2.0));
        assert!(plain.iter().zip(&half).all(|(plain, half)| (plain / 2.0 - half).abs() < 1e-9));
    }

    #[test]
    fn stretching_spares_the_fast_and_reaches_the_slow() {
        let (plain, _) = frequencies(RopeScaling::None);
        let llama = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 1024 };
        let attention = yarn_attention(8.0, 1.0);
        let yarn =
            RopeScaling::Yarn { factor: 8.0, original: 1024, fast: 32.0, slow: 1.0, attention };
        for scaling in [llama, yarn] {
            let (scaled, _) = frequencies(scaling);
            assert!((scaled[0] - plain[0]).abs() < 1e-9);
            assert!((scaled[31] - plain[31] / 8.0).abs() < 1e-9);
            let ramp = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled);
            assert!(ramp.collect::<Vec<_>>().is_sorted_by(|a, b| *b > *a - 1e-4));
        }
        assert!((attention - (0.1 * 8_f64.ln() + 1.0)).abs() < 1e-12);
    }

    #[test]
    fn factors_that_do_not_fill_the_head_are_refused() {
        let config = DecoderConfig { rope_scaling: RopeScaling::Listed(vec![1.0]), ..tiny() };
        assert!(config.check().is_err());
        let (listed, _) = frequencies(RopeScaling::Listed(vec![2.0; 32]));
        assert!((listed[0] - 0.5).abs() < 1e-9);
    }
}
