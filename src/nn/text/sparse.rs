//! A sparse matrix of texts by tokens.

use rayon::prelude::*;

/// Rows of a sparse matrix, each with its columns and their numbers.
#[derive(Clone, Debug)]
pub(super) struct SparseRows {
    /// (rows + 1): where each row begins.
    starts: Vec<usize>,
    columns: Vec<u32>,
    values: Vec<f32>,
    width: usize,
}

// === impl SparseRows ===

impl SparseRows {
    /// One row for each text: each of its tokens once, over the root of their number. Tokens from `vocabulary` on are
    /// skipped.
    pub fn of(texts: &[Vec<u32>], vocabulary: usize) -> Self {
        let mut rows =
            Self { starts: vec![0], columns: Vec::new(), values: Vec::new(), width: vocabulary };
        for text in texts {
            let known = text.iter().copied().filter(|&token| (token as usize) < vocabulary);
            let before = rows.columns.len();
            rows.columns.extend(known);
            let value = ((rows.columns.len() - before).max(1) as f32).sqrt().recip();
            rows.values.resize(rows.columns.len(), value);
            rows.starts.push(rows.columns.len());
        }
        rows
    }

    /// The same matrix by columns.
    pub fn transposed(&self) -> Self {
        let mut counts = vec![0_usize; self.width + 1];
        for &column in &self.columns {
            counts[column as usize + 1] += 1;
        }
        for at in 0..self.width {
            counts[at + 1] += counts[at];
        }
        let starts = counts.clone();
        let (mut columns, mut values) = (vec![0; self.columns.len()], vec![0.0; self.values.len()]);
        for row in 0..self.starts.len() - 1 {
            for at in self.starts[row]..self.starts[row + 1] {
                let place = &mut counts[self.columns[at] as usize];
                (columns[*place], values[*place]) = (row as u32, self.values[at]);
                *place += 1;
            }
        }
        Self { starts, columns, values, width: self.starts.len() - 1 }
    }

    /// The product with a dense matrix, (columns, width): (rows, width).
    pub fn times(&self, dense: &[f32], width: usize) -> Vec<f32> {
        let mut out = vec![0.0; (self.starts.len() - 1) * width];
        out.par_chunks_exact_mut(width.max(1)).zip(self.starts.par_windows(2)).for_each(
            |(out, ends)| {
                for at in ends[0]..ends[1] {
                    let row = &dense[self.columns[at] as usize * width..][..width];
                    for (out, value) in out.iter_mut().zip(row) {
                        *out += self.values[at] * value;
                    }
                }
            },
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_dense_matrix() {
        let rows = SparseRows::of(&[vec![0, 2, 2, 9], vec![], vec![1]], 3);
        let third = 3.0_f32.sqrt().recip();
        assert_eq!(rows.times(&[1.0, 2.0, 4.0], 1), [third + 4.0 * third + 4.0 * third, 0.0, 2.0]);
        let back = rows.transposed().times(&[1.0, 10.0, 2.0, 20.0, 3.0, 30.0], 2);
        assert_eq!(
            back,
            [third, 10.0 * third, 3.0, 30.0, third + third, 10.0 * third + 10.0 * third]
        );
    }
}
