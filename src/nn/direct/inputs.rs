//! The inputs of the direct path: features standardised by training slates, and z-scored within their slate.
#![expect(
    clippy::inline_always,
    reason = "a loop is compiled for the features of the function that it is inlined into"
)]

use crate::domain::limits::CANDIDATES_MAX;
use crate::nn::{Weights, WeightsError};

/// Standard deviations beyond which a feature counts as that far.
pub const CLAMP: f32 = 5.0;
/// A feature that differs less within a slate, in standard deviations of the training slates, is constant there.
pub const SPREAD_MIN: f64 = 1e-3;
/// Candidates of a slate up to which its sums are exact, four times as many as a request may have. A longer slate is
/// scored as well, but the last bits of its logits may depend on its order.
pub const DIRECT_SLATE_MAX: usize = 8_192;
const _: () = assert!(CANDIDATES_MAX <= DIRECT_SLATE_MAX, "a request's slate is summed exactly");
/// Adding 1.5 · 2^19 to an f64 below 2^18 rounds it to a multiple of 2^-33. The sum of 8,192 such numbers, each at
/// most 100 = (2 · CLAMP)², is below 2^20, so every partial sum is exact.
const GRID: f64 = 786_432.0;
/// A deviation that is smaller is that of a constant feature, which is read as 0.
const DEVIATION_MIN: f32 = 1e-9;

/// Standardises features by the mean and the deviation of the training slates.
#[derive(Clone, Debug, PartialEq)]
pub struct Standardiser {
    mean: Vec<f32>,
    /// One over the deviation; 0 for a constant feature.
    scale: Vec<f32>,
}

/// The mean and one over the deviation of each standardised feature within a slate.
#[derive(Clone, Debug, Default)]
pub struct SlateMoments {
    mean: Vec<f64>,
    /// 0 for a feature that is constant within the slate.
    scale: Vec<f64>,
}

/// The nearest number on the grid on which sums are exact.
#[inline(always)]
fn on_grid(value: f64) -> f64 {
    (value + GRID) - GRID
}

// === impl Standardiser ===

impl Standardiser {
    /// Takes `mean` and `deviation` from checked weights. Refuses a negative deviation.
    pub(super) fn of(weights: &Weights) -> Result<Self, WeightsError> {
        let values =
            |name: &str| weights.get(name).ok_or_else(|| WeightsError::Missing(name.to_owned()));
        let (mean, deviation) = (values("mean")?, values("deviation")?);
        if let Some(at) = deviation.iter().position(|&deviation| deviation < 0.0) {
            let why = format!("`deviation[{at}]` is {}, not at least 0", deviation[at]);
            return Err(WeightsError::Shape(why));
        }
        Ok(Self::new(mean, deviation))
    }

    /// A standardiser with these means and deviations, one of each per feature.
    pub fn new(mean: &[f32], deviation: &[f32]) -> Self {
        let scale = |&deviation: &f32| {
            if deviation > DEVIATION_MIN { deviation.recip() } else { 0.0 }
        };
        Self { mean: mean.to_vec(), scale: deviation.iter().map(scale).collect() }
    }

    /// Mean and deviation of each of `inputs` features over rows of many slates. A number that is not finite is
    /// left out.
    pub fn fit<'a>(inputs: usize, rows: impl Iterator<Item = &'a [f32]>) -> (Vec<f32>, Vec<f32>) {
        let mut moments = vec![(0.0_f64, 0.0_f64, 0.0_f64); inputs];
        for row in rows.flat_map(|rows| rows.chunks_exact(inputs)) {
            for ((count, mean, squares), &value) in moments.iter_mut().zip(row) {
                if value.is_finite() {
                    // Welford's update, which keeps the digits of a small deviation beside a large mean.
                    let gap = f64::from(value) - *mean;
                    *count += 1.0;
                    *mean += gap / *count;
                    *squares += gap * (f64::from(value) - *mean);
                }
            }
        }
        let deviation = |&(count, _, squares): &(f64, f64, f64)| {
            if count > 0.0 { (squares / count).sqrt() as f32 } else { 0.0 }
        };
        let mean = moments.iter().map(|&(_, mean, _)| mean as f32).collect();
        (mean, moments.iter().map(deviation).collect())
    }

    /// Features of a candidate (F).
    pub fn inputs(&self) -> usize {
        self.mean.len()
    }

    /// x of rows (N, F), in place. A feature that is not finite is read as the mean.
    #[inline(always)]
    pub fn standardise(&self, rows: &mut [f32]) {
        for row in rows.chunks_exact_mut(self.mean.len()) {
            for ((value, mean), scale) in row.iter_mut().zip(&self.mean).zip(&self.scale) {
                let x = (*value - mean) * scale;
                let x = if x.is_nan() { 0.0 } else { x };
                *value = x.clamp(-CLAMP, CLAMP);
            }
        }
    }

    /// u of a whole slate: rows (N, F) to (N, 2F), the standardised features of each row and then its z-scores.
    pub fn slate(&self, rows: &[f32]) -> Vec<f32> {
        let (inputs, mut moments) = (self.inputs(), SlateMoments::default());
        let mut standardised = rows.to_vec();
        self.standardise(&mut standardised);
        moments.measure(&standardised, inputs);
        let mut out = vec![0.0; 2 * standardised.len()];
        for (row, out) in standardised.chunks_exact(inputs).zip(out.chunks_exact_mut(2 * inputs)) {
            moments.write(row, out);
        }
        out
    }
}

// === impl SlateMoments ===

impl SlateMoments {
    /// Measures standardised rows (N, F) of one slate; the order of the rows does not matter, to the bit.
    #[inline(always)]
    pub fn measure(&mut self, rows: &[f32], inputs: usize) {
        let count = (rows.len() / inputs).max(1) as f64;
        let Self { mean, scale } = self;
        for sums in [&mut *mean, &mut *scale] {
            sums.clear();
            sums.resize(inputs, 0.0);
        }
        for row in rows.chunks_exact(inputs) {
            for (sum, &x) in mean.iter_mut().zip(row) {
                *sum += on_grid(f64::from(x));
            }
        }
        for mean in mean.iter_mut() {
            *mean /= count;
        }
        for row in rows.chunks_exact(inputs) {
            for ((sum, mean), &x) in scale.iter_mut().zip(mean.iter()).zip(row) {
                let gap = f64::from(x) - mean;
                *sum += on_grid(gap * gap);
            }
        }
        for scale in scale.iter_mut() {
            let spread = (*scale / count).sqrt();
            *scale = if spread > SPREAD_MIN { spread.recip() } else { 0.0 };
        }
    }

    /// Writes a candidate's u (2F): its standardised features, and their z-scores.
    #[inline(always)]
    pub fn write(&self, row: &[f32], out: &mut [f32]) {
        let (x, z) = out.split_at_mut(row.len());
        x.copy_from_slice(row);
        for (((z, &x), mean), scale) in z.iter_mut().zip(row).zip(&self.mean).zip(&self.scale) {
            *z = ((f64::from(x) - mean) * scale) as f32;
        }
    }

    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        (self.mean.capacity() + self.scale.capacity()) * size_of::<f64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::seq::SliceRandom as _;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    const F: usize = 3;

    fn identity() -> Standardiser {
        Standardiser::new(&[0.0; F], &[1.0; F])
    }

    #[test]
    fn numbers_are_those_of_the_definition() {
        let of = Standardiser::new(&[1.0, 0.0, 2.0], &[2.0, 1.0, 0.5]);
        let u = of.slate(&[3.0, 0.0, 2.0, 1.0, 1.0, 9.0]);
        let expected = [1.0, 0.0, 0.0, 1.0, -1.0, -1.0, 0.0, 1.0, 5.0, -1.0, 1.0, 1.0];
        for (got, expected) in u.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{u:?}");
        }
    }

    #[test]
    fn what_does_not_vary_is_zero_and_never_nan() {
        // (rows, what u must be zero in)
        let alone = identity().slate(&[3.0, -2.0, 0.5]);
        assert_eq!(alone, [3.0, -2.0, 0.5, 0.0, 0.0, 0.0], "a slate of one");
        for constant in [0.0, 0.1, 1e30, -1e30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let rows: Vec<f32> = (0..7).flat_map(|at| [constant, at as f32, 0.1]).collect();
            let u = identity().slate(&rows);
            for row in u.chunks_exact(2 * F) {
                assert!(row[3].to_bits() == 0 && row[5].to_bits() == 0, "{constant}: {row:?}");
                assert!(row.iter().all(|value| value.is_finite()), "{constant}: {row:?}");
            }
        }
        let constant_in_training = Standardiser::new(&[7.0; F], &[0.0; F]);
        assert_eq!(constant_in_training.slate(&[1.0, f32::NAN, 9.0]), [0.0; 2 * F]);
        assert!(identity().slate(&[]).is_empty());
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter_to_the_bit() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for count in [2, 3, 100, DIRECT_SLATE_MAX] {
            let mut rows: Vec<[f32; F]> = (0..count)
                .map(|_| std::array::from_fn(|_| rng.random_range(-1e3_f32..1e3).powi(3) / 1e8))
                .collect();
            let by_row = |rows: &[[f32; F]]| -> Vec<(Vec<u32>, Vec<u32>)> {
                let u = identity().slate(rows.as_flattened());
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
                let pairs = rows.iter().zip(u.chunks_exact(2 * F));
                let mut pairs: Vec<_> = pairs.map(|(row, u)| (bits(row), bits(u))).collect();
                pairs.sort();
                pairs
            };
            let before = by_row(&rows);
            for _ in 0..3 {
                rows.shuffle(&mut rng);
                assert_eq!(by_row(&rows), before, "{count} candidates");
            }
        }
    }

    #[test]
    fn the_largest_slate_of_the_largest_gaps_is_exact() {
        // Half at one end of the clamp and half at the other: the mean is 0 and the deviation is 5.
        let rows: Vec<f32> = (0..DIRECT_SLATE_MAX)
            .flat_map(|at| [if at % 2 == 0 { 9.0 } else { -9.0 }, 9.0, 0.0])
            .collect();
        let u = identity().slate(&rows);
        for (at, row) in u.chunks_exact(2 * F).enumerate() {
            let sign = if at % 2 == 0 { 1.0 } else { -1.0 };
            assert_eq!(row, [sign * 5.0, 5.0, 0.0, sign, 0.0, 0.0]);
        }
    }

    #[test]
    fn fitting_finds_mean_and_deviation_and_skips_what_is_not_finite() {
        let rows = [[1e6_f32, 1.0, f32::NAN], [1e6 + 2.0, 1.0, f32::INFINITY]];
        let (mean, deviation) = Standardiser::fit(F, rows.iter().map(<[f32; F]>::as_slice));
        assert_eq!((mean, deviation), (vec![1e6 + 1.0, 1.0, 0.0], vec![1.0, 0.0, 0.0]));
        let (mean, deviation) = Standardiser::fit(F, std::iter::empty());
        assert_eq!((mean, deviation), (vec![0.0; F], vec![0.0; F]));
    }
}
