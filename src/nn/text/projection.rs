//! Projects wide vectors to the width that the scorer reads, by principal components.

use super::eigen::eigenvectors;
use super::error::TextEncoderError;
use super::{TEXT_WIDTH, to_unit_length};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

/// A linear map of wide vectors to [`TEXT_WIDTH`] numbers, and then to length one.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// ([`TEXT_WIDTH`], wide)
    rows: Vec<f32>,
    wide: usize,
}

// === impl Projection ===

impl Projection {
    /// The projection that keeps most of the products of these vectors, (texts, wide).
    ///
    /// Its rows are the first eigenvectors of the mean of `v·vᵀ`. The mean vector is not taken off: then the map is linear
    /// in a text's tokens, and no map of this width keeps the products between texts better (Eckart and Young 1936).
    pub fn fit(vectors: &[f32], wide: usize) -> Self {
        Self { rows: principal_components(vectors, wide, TEXT_WIDTH), wide }
    }

    /// Numbers of a wide vector.
    pub fn wide(&self) -> usize {
        self.wide
    }

    /// Writes the projection of a wide vector into `out`, [`TEXT_WIDTH`] long.
    pub fn project(&self, wide: &[f32], out: &mut [f32]) {
        for (out, row) in out.iter_mut().zip(self.rows.chunks_exact(self.wide)) {
            *out = row.iter().zip(wide).map(|(weight, value)| weight * value).sum();
        }
        to_unit_length(out);
    }

    /// The projections of many wide vectors: (texts, [`TEXT_WIDTH`]).
    pub fn project_all(&self, wide: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; wide.len() / self.wide * TEXT_WIDTH];
        let rows = out.par_chunks_exact_mut(TEXT_WIDTH).zip(wide.par_chunks_exact(self.wide));
        rows.for_each(|(out, wide)| self.project(wide, out));
        out
    }

    pub(super) fn of_tensor(tensor: &Tensor) -> Result<Self, TextEncoderError> {
        let (found, wide) = tensor.dims2()?;
        if found != TEXT_WIDTH {
            return Err(TextEncoderError::ProjectionWidth { found, expected: TEXT_WIDTH });
        }
        let rows: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        if rows.iter().any(|value| !value.is_finite()) {
            return Err(TextEncoderError::NotFinite("the projection".to_owned()));
        }
        Ok(Self { rows, wide })
    }

    pub(super) fn to_tensor(&self) -> candle_core::Result<Tensor> {
        Tensor::from_slice(&self.rows, (TEXT_WIDTH, self.wide), &Device::Cpu)
    }
}

/// The first `count` eigenvectors of the mean of `v·vᵀ` over these vectors, (vectors, wide): (count, wide). Rows beyond
/// `wide` are zeros.
pub(super) fn principal_components(vectors: &[f32], wide: usize, count: usize) -> Vec<f32> {
    let products = |mut sum: Vec<f64>, vector: &[f32]| {
        for (row, &left) in sum.chunks_exact_mut(wide).zip(vector) {
            for (sum, &right) in row.iter_mut().zip(vector) {
                *sum += f64::from(left) * f64::from(right);
            }
        }
        sum
    };
    // Chunks of a fixed size, added in order: the result does not depend on the number of threads.
    let sums: Vec<Vec<f64>> = vectors
        .par_chunks(wide * VECTORS_AT_ONCE)
        .map(|some| some.chunks_exact(wide).fold(vec![0.0; wide * wide], products))
        .collect();
    let mut all = vec![0.0; wide * wide];
    for sum in sums {
        for (all, sum) in all.iter_mut().zip(sum) {
            *all += sum / (vectors.len() / wide) as f64;
        }
    }
    let mut rows: Vec<f32> = eigenvectors(all, wide, count).iter().map(|&v| v as f32).collect();
    rows.resize(count * wide, 0.0);
    rows
}

/// Vectors whose products one task adds up.
const VECTORS_AT_ONCE: usize = 1 << 12;

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Unit vectors that lie in a space of `rank` dimensions.
    fn vectors(count: usize, wide: usize, rank: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(11);
        let mut numbers = |count: usize| {
            (0..count).map(|_| random.random_range(-1.0..1.0_f32)).collect::<Vec<_>>()
        };
        let base = numbers(rank * wide);
        let mut all = Vec::new();
        for _ in 0..count {
            let mix = numbers(rank);
            let mut row: Vec<f32> = (0..wide)
                .map(|at| mix.iter().zip(base[at..].iter().step_by(wide)).map(|(m, b)| m * b).sum())
                .collect();
            to_unit_length(&mut row);
            all.extend(row);
        }
        all
    }

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn products_of_vectors_in_few_dimensions_are_kept() {
        for (wide, rank) in [(96, 40), (20, 20), (96, 3)] {
            let wide_vectors = vectors(150, wide, rank);
            let projection = Projection::fit(&wide_vectors, wide);
            let kept = projection.project_all(&wide_vectors);
            for (one, other) in [(0, 1), (3, 77), (149, 12), (5, 5)] {
                let before = cosine(
                    &wide_vectors[one * wide..][..wide],
                    &wide_vectors[other * wide..][..wide],
                );
                let after = cosine(&kept[one * 64..][..64], &kept[other * 64..][..64]);
                assert!((before - after).abs() < 1e-4, "{before} became {after}");
            }
        }
    }

    #[test]
    fn nothing_to_fit_on_leaves_a_projection_all_the_same() {
        let projection = Projection::fit(&[], 80);
        let mut out = [f32::NAN; TEXT_WIDTH];
        projection.project(&[0.5; 80], &mut out);
        assert!(out.iter().all(|value| value.is_finite()));
        projection.project(&[0.0; 80], &mut out);
        assert!(out.iter().all(|value| value.abs() < 1e-9));
    }
}
