//! Eigenvectors of a symmetric matrix, by Jacobi's rotations.

/// Sweeps over all pairs of rows, at most. Some eight suffice for hundreds of rows.
const SWEEPS_MAX: usize = 30;
/// The sum of squares off the diagonal, relative to that on it, at which the rotations end.
const OFF_DIAGONAL: f64 = 1e-18;

/// The eigenvectors of the `count` largest eigenvalues of a symmetric `(size, size)` matrix, the largest first: at most
/// `(count, size)`. A vector's sign is such that its largest number is positive.
pub(super) fn eigenvectors(mut matrix: Vec<f64>, size: usize, count: usize) -> Vec<f64> {
    let mut vectors = vec![0.0; size * size];
    vectors.iter_mut().step_by(size + 1).for_each(|value| *value = 1.0);
    for _ in 0..SWEEPS_MAX {
        if is_diagonal(&matrix, size) {
            break;
        }
        for low in 0..size {
            for high in low + 1..size {
                rotate(&mut matrix, &mut vectors, size, (low, high));
            }
        }
    }
    let mut order: Vec<usize> = (0..size).collect();
    order.sort_by(|&a, &b| matrix[b * size + b].total_cmp(&matrix[a * size + a]));
    order.truncate(count);
    order.into_iter().flat_map(|row| signed(&vectors[row * size..][..size])).collect()
}

fn is_diagonal(matrix: &[f64], size: usize) -> bool {
    let square = |value: &f64| value * value;
    let on: f64 = matrix.iter().step_by(size + 1).map(square).sum();
    let all: f64 = matrix.iter().map(square).sum();
    // A matrix with NaN ends the rotations, too.
    let off = all - on;
    off.is_nan() || off <= on * OFF_DIAGONAL
}

/// Rotates two rows and columns so that the numbers where they cross become zero (Golub and Van Loan, section 8.5).
fn rotate(matrix: &mut [f64], vectors: &mut [f64], size: usize, (low, high): (usize, usize)) {
    let cross = matrix[low * size + high];
    if cross == 0.0 {
        return;
    }
    let tau = (matrix[high * size + high] - matrix[low * size + low]) / (2.0 * cross);
    let tangent = tau.signum() / (tau.abs() + tau.hypot(1.0));
    let cosine = tangent.hypot(1.0).recip();
    let sine = tangent * cosine;
    rotate_rows(matrix, size, (low, high), (cosine, sine));
    for row in matrix.chunks_exact_mut(size) {
        (row[low], row[high]) =
            (cosine * row[low] - sine * row[high], sine * row[low] + cosine * row[high]);
    }
    rotate_rows(vectors, size, (low, high), (cosine, sine));
}

fn rotate_rows(
    matrix: &mut [f64],
    size: usize,
    (low, high): (usize, usize),
    (cosine, sine): (f64, f64),
) {
    let (before, after) = matrix.split_at_mut(high * size);
    let rows = before[low * size..][..size].iter_mut().zip(&mut after[..size]);
    for (low, high) in rows {
        (*low, *high) = (cosine * *low - sine * *high, sine * *low + cosine * *high);
    }
}

fn signed(vector: &[f64]) -> impl Iterator<Item = f64> {
    let largest = vector.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
    let sign = if largest.is_some_and(|value| value < 0.0) { -1.0 } else { 1.0 };
    vector.iter().map(move |value| sign * value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn a_matrix_stretches_its_eigenvectors_in_order() {
        let mut random = ChaCha8Rng::seed_from_u64(2);
        for size in [1, 2, 7, 24] {
            let mut matrix = vec![0.0; size * size];
            for row in 0..size {
                for column in row..size {
                    let value = random.random_range(-1.0..1.0);
                    (matrix[row * size + column], matrix[column * size + row]) = (value, value);
                }
            }
            let vectors = eigenvectors(matrix.clone(), size, size);
            let mut before = f64::INFINITY;
            for vector in vectors.chunks(size) {
                let product = |row: &[f64]| row.iter().zip(vector).map(|(a, b)| a * b).sum::<f64>();
                let stretched: Vec<f64> = matrix.chunks(size).map(product).collect();
                let value = product(&stretched);
                assert!(value <= before + 1e-9);
                before = value;
                let off = stretched.iter().zip(vector).map(|(a, b)| (a - value * b).abs());
                assert!(off.fold(0.0, f64::max) < 1e-7);
            }
        }
    }

    #[test]
    fn fewer_vectors_than_rows_are_the_largest_and_odd_matrices_end() {
        let matrix = vec![1.0, 0.0, 0.0, 5.0];
        assert_eq!(eigenvectors(matrix, 2, 1), [0.0, 1.0]);
        assert_eq!(eigenvectors(vec![f64::NAN; 9], 3, 2).len(), 6);
        assert!(eigenvectors(vec![0.0; 4], 2, 5).len() == 4);
    }
}
