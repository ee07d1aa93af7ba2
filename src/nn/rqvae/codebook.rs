//! The codes of one level, and their initialisation by k-means on the residuals of the level before.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

/// Most iterations of k-means; it mostly converges earlier.
const ROUNDS_MAX: usize = 20;
/// Partial sums of a distance.
const LANES: usize = 8;

/// The vectors of one level's codes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Codebook {
    /// (codes, width)
    values: Vec<f32>,
    width: usize,
}

// === impl Codebook ===

impl Codebook {
    pub fn new(values: Vec<f32>, width: usize) -> Self {
        Self { values, width }
    }

    /// Uniform within one over the number of codes, as in VQ-VAE.
    pub fn random(codes: usize, width: usize, rng: &mut ChaCha8Rng) -> Self {
        let bound = (codes as f32).recip();
        let values = (0..codes * width).map(|_| rng.random_range(-bound..=bound)).collect();
        Self { values, width }
    }

    /// The centres of `rows` (rows, width) by k-means++ and Lloyd's iterations.
    ///
    /// A centre without rows does not move. With fewer distinct rows than codes some codes are equal, and the first of
    /// them is used.
    pub fn of(rows: &[f32], codes: usize, width: usize, rng: &mut ChaCha8Rng) -> Self {
        let mut codebook = Self::spread(rows, codes, width, rng);
        let mut assigned = Vec::new();
        for _ in 0..ROUNDS_MAX {
            let nearest: Vec<usize> =
                codebook.assign(rows).into_iter().map(|(code, _)| code).collect();
            if nearest == assigned {
                break;
            }
            codebook.move_to_means(rows, &nearest, 0.0);
            assigned = nearest;
        }
        codebook
    }

    /// k-means++: draws rows as centres, with probability proportional to the squared distance from earlier ones.
    fn spread(rows: &[f32], codes: usize, width: usize, rng: &mut ChaCha8Rng) -> Self {
        let row = |at: usize| &rows[at * width..][..width];
        let count = rows.len() / width;
        let mut codebook = Self { values: Vec::with_capacity(codes * width), width };
        let mut far = vec![f32::INFINITY; count];
        let mut next = rng.random_range(0..count);
        for _ in 0..codes {
            codebook.values.extend_from_slice(row(next));
            for (far, other) in far.iter_mut().zip(rows.chunks_exact(width)) {
                *far = far.min(square_distance(row(next), other));
            }
            let all: f64 = far.iter().map(|&far| f64::from(far)).sum();
            let mut left = rng.random::<f64>() * all;
            let reached = far.iter().position(|&far| {
                left -= f64::from(far);
                far > 0.0 && left <= 0.0
            });
            next = reached.unwrap_or_else(|| rng.random_range(0..count));
        }
        codebook
    }

    pub fn len(&self) -> usize {
        self.values.len() / self.width
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The vector of a code.
    pub fn row(&self, code: usize) -> &[f32] {
        &self.values[code * self.width..][..self.width]
    }

    /// Sets a code's vector.
    pub fn put(&mut self, code: usize, row: &[f32]) {
        self.values[code * self.width..][..self.width].copy_from_slice(row);
    }

    /// The code nearest to a row, the lower of equals, and its squared distance.
    pub fn nearest(&self, row: &[f32]) -> (usize, f32) {
        let codes = self.values.chunks_exact(self.width).enumerate();
        codes.fold((0, f32::INFINITY), |best, (code, vector)| {
            let distance = square_distance(row, vector);
            if distance < best.1 { (code, distance) } else { best }
        })
    }

    /// The code nearest to each of `rows` (rows, width), and its squared distance.
    pub fn assign(&self, rows: &[f32]) -> Vec<(usize, f32)> {
        rows.par_chunks_exact(self.width).map(|row| self.nearest(row)).collect()
    }

    /// Subtracts a code's vector from a row, which leaves the next level's residual.
    pub fn subtract(&self, code: usize, row: &mut [f32]) {
        for (value, taken) in row.iter_mut().zip(self.row(code)) {
            *value -= taken;
        }
    }

    /// Moves each code with rows towards their mean: `keep · e + (1 − keep) · mean`.
    pub fn move_to_means(&mut self, rows: &[f32], assigned: &[usize], keep: f32) {
        let mut sums = vec![0.0_f32; self.values.len()];
        let mut counts = vec![0_u32; self.len()];
        for (row, &code) in rows.chunks_exact(self.width).zip(assigned) {
            counts[code] += 1;
            for (sum, value) in sums[code * self.width..].iter_mut().zip(row) {
                *sum += value;
            }
        }
        let codes = self.values.chunks_exact_mut(self.width).zip(sums.chunks_exact(self.width));
        for ((vector, sum), &count) in codes.zip(&counts).filter(|(_, count)| **count > 0) {
            for (value, sum) in vector.iter_mut().zip(sum) {
                *value = keep * *value + (1.0 - keep) * sum / count as f32;
            }
        }
    }
}

/// |a − b|², summed in a fixed order.
fn square_distance(a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            let apart = a[lane] - b[lane];
            lanes[lane] += apart * apart;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b));
    lanes.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    fn rng() -> ChaCha8Rng {
        ChaCha8Rng::seed_from_u64(5)
    }

    #[test]
    fn k_means_finds_heaps_that_lie_apart() {
        let mut random = rng();
        let rows: Vec<f32> = (0..400)
            .flat_map(|row| {
                let heap = (row % 4) as f32 * 10.0;
                [heap + random.random_range(-0.5..0.5), random.random_range(-0.5..0.5)]
            })
            .collect();
        let codebook = Codebook::of(&rows, 4, 2, &mut rng());
        let mut centres: Vec<f32> = codebook.values.chunks(2).map(|row| row[0]).collect();
        centres.sort_by(f32::total_cmp);
        for (centre, heap) in centres.iter().zip([0.0, 10.0, 20.0, 30.0]) {
            assert!((centre - heap).abs() < 0.2, "{centres:?}");
        }
        assert!(codebook.assign(&rows).iter().all(|&(_, distance)| distance < 1.0));
    }

    #[test]
    fn fewer_rows_than_codes_are_all_found() {
        let rows = [1.0, 1.0, 2.0, 2.0, 1.0, 1.0];
        let codebook = Codebook::of(&rows, 5, 2, &mut rng());
        assert_eq!(codebook.len(), 5);
        let distances = codebook.assign(&rows).into_iter().map(|(_, distance)| distance);
        assert!(distances.sum::<f32>() < 1e-12);
    }

    #[test]
    fn codes_move_to_the_mean_of_what_they_hold_and_others_stay() {
        let mut codebook = Codebook::new(vec![0.0, 0.0, 9.0, 9.0], 2);
        codebook.move_to_means(&[1.0, 2.0, 3.0, 4.0], &[0, 0], 0.75);
        assert_eq!(codebook.values, [0.5, 0.75, 9.0, 9.0]);
    }

    #[test]
    fn distances_of_every_width_are_right() {
        for width in [1, 7, 8, 19] {
            let a: Vec<f32> = (0..width).map(|at| at as f32).collect();
            let b = vec![1.0; width];
            let plain: f32 = a.iter().map(|a| (a - 1.0) * (a - 1.0)).sum();
            assert_eq!(square_distance(&a, &b).to_bits(), plain.to_bits(), "whole numbers");
        }
    }
}
