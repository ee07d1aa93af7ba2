//! Kernels that treat each row alone: RMS norm, RoPE, gated activation and residual sum.
#![allow(unsafe_code, reason = "rows of one table are written by several threads at a time")]
#![expect(clippy::inline_always, reason = "see `nn::simd`")]

use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::simd::{LANES, Lanes, ProductKernel, ProductLanes, SimdLevel};

/// Rows of a task: fewer are not worth another thread.
const ROWS_PER_TASK: usize = 8;

/// `row / rms(row) * scale`, over each part of `scale.len()` numbers.
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// The learned scale.
    pub scale: &'a [f32],
    /// Added to the mean of the squares.
    pub epsilon: f32,
}

/// The rotary embedding's cosines and sines of each row's position, for half a head.
#[derive(Debug, Default)]
pub struct RopeTable {
    values: Vec<[f32; 2]>,
    half: usize,
}

/// A computation that updates a row of the first table, given the row of the second.
pub trait RowKernel: Sync {
    /// Updates row `index`.
    fn row<L: Lanes>(&self, index: usize, row: &mut [f32], other: &[f32]);
}

/// Runs a kernel on all rows. `rows` and `others` are tables of the given widths.
pub fn each_row<R: RowKernel>(
    (level, pool): (SimdLevel, &ThreadPool),
    work: &R,
    (rows, width): (&mut [f32], usize),
    (others, other_width): (&[f32], usize),
) {
    struct RowsKernel<'a, R> {
        work: &'a R,
        first: usize,
        rows: &'a mut [f32],
        width: usize,
        others: &'a [f32],
        other_width: usize,
    }
    impl<R: RowKernel> ProductKernel for RowsKernel<'_, R> {
        #[inline(always)]
        fn run<L: ProductLanes>(self) {
            for (r, row) in self.rows.chunks_exact_mut(self.width).enumerate() {
                let at = (self.first + r) * self.other_width;
                let other = &self.others[at..at + self.other_width];
                self.work.row::<L>(self.first + r, row, other);
            }
        }
    }
    let count = rows.len() / width;
    let shared = DisjointMut::new(rows);
    pool.each(count.div_ceil(ROWS_PER_TASK), |task| {
        let first = task * ROWS_PER_TASK;
        let taken = ROWS_PER_TASK.min(count - first);
        // SAFETY: each row is written by one task.
        let rows = unsafe { shared.slice(first * width, taken * width) };
        level.run(RowsKernel { work, first, rows, width, others, other_width });
    });
}

impl RowKernel for RmsNorm<'_> {
    /// Writes the normed other row to this one.
    #[inline(always)]
    fn row<L: Lanes>(&self, _: usize, row: &mut [f32], other: &[f32]) {
        for (row, other) in
            row.chunks_exact_mut(self.scale.len()).zip(other.chunks_exact(self.scale.len()))
        {
            row.copy_from_slice(other);
            self.apply::<L>(row);
        }
    }
}

/// The same in place.
#[derive(Debug)]
pub struct RmsNormInPlace<'a>(pub RmsNorm<'a>);

impl RowKernel for RmsNormInPlace<'_> {
    #[inline(always)]
    fn row<L: Lanes>(&self, _: usize, row: &mut [f32], _: &[f32]) {
        for part in row.chunks_exact_mut(self.0.scale.len()) {
            self.0.apply::<L>(part);
        }
    }
}

impl RmsNorm<'_> {
    #[inline(always)]
    fn apply<L: Lanes>(&self, row: &mut [f32]) {
        let (parts, rest) = row.as_chunks::<LANES>();
        let mut squares = L::splat(0.0);
        for part in parts {
            let part = L::load(part);
            squares = part.mul_add(part, squares);
        }
        let total = squares.sum() + rest.iter().map(|value| value * value).sum::<f32>();
        let share = (total / row.len() as f32 + self.epsilon).sqrt().recip();
        for (value, scale) in row.iter_mut().zip(self.scale) {
            *value = *value * share * scale;
        }
    }
}

impl RopeTable {
    /// Computes the angles `position * frequency`, in f32 as Hugging Face does.
    pub fn fill(&mut self, positions: &[u32], frequencies: &[f32], attention: f32) {
        self.half = frequencies.len();
        self.values.clear();
        for position in positions {
            for frequency in frequencies {
                let (sin, cos) = (*position as f32 * frequency).sin_cos();
                self.values.push([cos * attention, sin * attention]);
            }
        }
    }
}

impl RowKernel for RopeTable {
    /// Rotates every head of a row.
    #[inline(always)]
    fn row<L: Lanes>(&self, index: usize, row: &mut [f32], _: &[f32]) {
        let turns = &self.values[index * self.half..(index + 1) * self.half];
        for head in row.chunks_exact_mut(2 * self.half) {
            let (left, right) = head.split_at_mut(self.half);
            for ((left, right), [cos, sin]) in left.iter_mut().zip(right).zip(turns) {
                (*left, *right) = (*left * cos - *right * sin, *right * cos + *left * sin);
            }
        }
    }
}

/// `silu(row) * other`
#[derive(Debug)]
pub struct SiluGate;

impl RowKernel for SiluGate {
    #[inline(always)]
    fn row<L: Lanes>(&self, _: usize, row: &mut [f32], other: &[f32]) {
        let (parts, rest) = row.as_chunks_mut::<LANES>();
        let (others, other_rest) = other.as_chunks::<LANES>();
        for (part, other) in parts.iter_mut().zip(others) {
            let gate = L::load(part);
            // Only exponents that are at most 0, so that nothing overflows. With a = |x|, the sigmoid of -a is
            // e^-a / (1 + e^-a), and that of a is 1 / (1 + e^-a).
            let (zero, one) = (L::splat(0.0), L::splat(1.0));
            let positive = gate.max(zero);
            let size = positive.max(zero.sub(gate));
            let power = zero.sub(size).exp();
            let (mut shares, powers, sizes) = (one.array(), power.array(), gate.array());
            for i in 0..LANES {
                let top = if sizes[i] >= 0.0 { 1.0 } else { powers[i] };
                shares[i] = top / (1.0 + powers[i]);
            }
            gate.mul(L::load(&shares)).mul(L::load(other)).store(part);
        }
        for (value, other) in rest.iter_mut().zip(other_rest) {
            *value = *value / (1.0 + (-*value).exp()) * other;
        }
    }
}

/// `row + other`
#[derive(Debug)]
pub struct AddRows;

impl RowKernel for AddRows {
    #[inline(always)]
    fn row<L: Lanes>(&self, _: usize, row: &mut [f32], other: &[f32]) {
        for (value, other) in row.iter_mut().zip(other) {
            *value += other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroUsize;

    #[test]
    fn every_row_is_updated_once_at_every_level() {
        let pool = ThreadPool::new(NonZeroUsize::new(2).unwrap());
        // More rows than a task takes, and a last task that has fewer.
        let (count, width) = (2 * ROWS_PER_TASK + 3, LANES + 5);
        let others: Vec<f32> = (0..count * width).map(|at| at as f32).collect();
        let right: Vec<f32> = others.iter().map(|other| other + 1.0).collect();
        for level in SimdLevel::all_here() {
            let mut rows = vec![1.0; count * width];
            let tables = ((&mut *rows, width), (&*others, width));
            each_row((level, &pool), &AddRows, tables.0, tables.1);
            assert_eq!(rows, right, "{}", level.as_str());
        }
    }
}
