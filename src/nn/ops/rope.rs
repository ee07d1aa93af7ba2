//! Rotary position embedding (half-split, as in transformers), in one pass over memory each way.

use super::widened::apply1;
use super::{is_fast, numbers, read, task_rows};
use crate::nn::simd::vectorised;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

struct RopeOp {
    /// `(rows, pairs)`
    cos: Tensor,
    sin: Tensor,
    /// 1, or -1 for the backward pass.
    sense: f32,
}

/// Rotates each head of `(sequences, length, heads · head_dim)` by its row's angles, whose f32 cosines and sines are
/// `(sequences, length, 1, head_dim / 2)`.
pub fn rope(rows: &Tensor, [cos, sin]: &[Tensor; 2]) -> Result<Tensor> {
    if is_fast(rows) && is_fast(cos) {
        let (cos, sin) = (cos.contiguous()?, sin.contiguous()?);
        return apply1(&rows.contiguous()?, RopeOp { cos, sin, sense: 1.0 });
    }
    composed(rows, [cos, sin])
}

fn composed(rows: &Tensor, [cos, sin]: [&Tensor; 2]) -> Result<Tensor> {
    let (sequences, length, _) = rows.dims3()?;
    let half = cos.dim(3)?;
    let (cos, sin) = (&cos.to_dtype(rows.dtype())?, &sin.to_dtype(rows.dtype())?);
    let heads = rows.reshape((sequences, length, (), 2 * half))?;
    let (first, second) = (heads.narrow(3, 0, half)?, heads.narrow(3, half, half)?);
    let rotated = [
        (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
        (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
    ];
    Tensor::cat(&rotated, 3)?.reshape((sequences, length, ()))
}

// === impl RopeOp ===

impl RopeOp {
    fn run(&self, rows: &[f32]) -> Result<Vec<f32>> {
        let pairs = self.cos.dim(self.cos.rank() - 1)?;
        read([&self.cos, &self.sin], |[cos, sin]| {
            let width = rows.len() / (cos.len() / pairs);
            let task = task_rows(width);
            let mut out = vec![0.0; rows.len()];
            let turns = cos.par_chunks(task * pairs).zip(sin.par_chunks(task * pairs));
            let tasks = out.par_chunks_mut(task * width).zip(rows.par_chunks(task * width));
            tasks.zip(turns).for_each(|((out, rows), (cos, sin))| {
                vectorised(|| {
                    let turns = cos.chunks_exact(pairs).zip(sin.chunks_exact(pairs));
                    let rows = out.chunks_exact_mut(width).zip(rows.chunks_exact(width));
                    for ((out, row), (cos, sin)) in rows.zip(turns) {
                        let heads = row.chunks_exact(2 * pairs);
                        for (out, head) in out.chunks_exact_mut(2 * pairs).zip(heads) {
                            let (first, second) = head.split_at(pairs);
                            let (out_first, out_second) = out.split_at_mut(pairs);
                            for i in 0..pairs {
                                let sin = self.sense * sin[i];
                                out_first[i] = first[i] * cos[i] - second[i] * sin;
                                out_second[i] = second[i] * cos[i] + first[i] * sin;
                            }
                        }
                    }
                });
            });
            out
        })
    }
}

impl CustomOp1 for RopeOp {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let out = self.run(numbers(rows, layout)?)?;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, rows: &Tensor, _out: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let (cos, sin) = (self.cos.clone(), self.sin.clone());
        let back = Self { cos, sin, sense: -self.sense };
        let out = read([upstream], |[upstream]| back.run(upstream))??;
        Ok(Some(Tensor::from_vec(out, rows.shape(), rows.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_twins, tensor};
    use super::*;

    #[test]
    fn rotations_are_the_composed_ones() {
        let turns = [tensor(&[3, 40, 1, 9], 1), tensor(&[3, 40, 1, 9], 2)];
        let [cos, sin] = &turns;
        let fast = |[rows]: &[Tensor; 1]| rope(rows, &turns);
        let slow = |[rows]: &[Tensor; 1]| composed(rows, [cos, sin]);
        assert_twins([tensor(&[3, 40, 5 * 18], 3)], fast, slow, 1e-5);
    }
}
