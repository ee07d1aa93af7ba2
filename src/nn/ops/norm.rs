//! RMS norm in one pass over memory each way.

use super::widened::apply2;
use super::{is_fast, numbers, read, task_rows};
use crate::nn::simd::{dot, vectorised};
use candle_core::{CpuStorage, CustomOp2, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

struct RmsNormOp {
    epsilon: f64,
}

/// `rows / rms(rows) · scale`, over each part of a row of the length of `scale`. Computed in f32; the output has the rows'
/// dtype.
pub fn rms_norm(rows: &Tensor, scale: &Tensor, epsilon: f64) -> Result<Tensor> {
    if is_fast(rows) && is_fast(scale) {
        return apply2(&rows.contiguous()?, &scale.contiguous()?, RmsNormOp { epsilon });
    }
    composed(rows, scale, epsilon)
}

fn composed(rows: &Tensor, scale: &Tensor, epsilon: f64) -> Result<Tensor> {
    let stretches = rows.to_dtype(DType::F32)?.reshape(((), scale.dim(0)?))?;
    let square = stretches.sqr()?.mean_keepdim(D::Minus1)?;
    let stretches = stretches.broadcast_div(&(square + epsilon)?.sqrt()?)?;
    stretches.broadcast_mul(scale)?.reshape(rows.shape())?.to_dtype(rows.dtype())
}

// === impl RmsNormOp ===

impl RmsNormOp {
    /// `1 / rms(row)`.
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn shrink(&self, row: &[f32]) -> f32 {
        1.0 / (dot(row, row) / row.len() as f32 + self.epsilon as f32).sqrt()
    }
}

impl CustomOp2 for RmsNormOp {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        scale: &CpuStorage,
        scale_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, scale) = (numbers(rows, rows_layout)?, numbers(scale, scale_layout)?);
        let mut out = vec![0.0; rows.len()];
        let task = task_rows(scale.len()) * scale.len();
        out.par_chunks_mut(task).zip(rows.par_chunks(task)).for_each(|(out, rows)| {
            vectorised(|| {
                let rows = rows.chunks_exact(scale.len());
                for (out, row) in out.chunks_exact_mut(scale.len()).zip(rows) {
                    let shrink = self.shrink(row);
                    for ((out, value), scale) in out.iter_mut().zip(row).zip(scale) {
                        *out = value * shrink * scale;
                    }
                }
            });
        });
        Ok((CpuStorage::F32(out), rows_layout.shape().clone()))
    }

    fn bwd(
        &self,
        rows: &Tensor,
        scale: &Tensor,
        _out: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (to_rows, to_scale) = read([rows, scale, upstream], |[rows, scale, upstream]| {
            let mut to_rows = vec![0.0; rows.len()];
            let width = scale.len();
            let task = task_rows(width) * width;
            let inputs = rows.par_chunks(task).zip(upstream.par_chunks(task));
            let tasks = to_rows.par_chunks_mut(task).zip(inputs);
            let parts: Vec<Vec<f32>> = tasks
                .map(|(to_rows, (rows, upstream))| {
                    vectorised(|| self.back(rows, scale, upstream, to_rows))
                })
                .collect();
            let mut to_scale = vec![0.0; width];
            for part in parts {
                to_scale.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
            (to_rows, to_scale)
        })?;
        let to_rows = Tensor::from_vec(to_rows, rows.shape(), rows.device())?;
        let to_scale = Tensor::from_vec(to_scale, scale.shape(), scale.device())?;
        Ok((Some(to_rows), Some(to_scale)))
    }
}

impl RmsNormOp {
    /// Writes the gradient of the rows, and gives their part of the scale's gradient.
    #[expect(clippy::inline_always, reason = "it has to be compiled inside of `vectorised`")]
    #[inline(always)]
    fn back(&self, rows: &[f32], scale: &[f32], upstream: &[f32], to_rows: &mut [f32]) -> Vec<f32> {
        let width = scale.len();
        let mut to_scale = vec![0.0; width];
        let inputs = rows.chunks_exact(width).zip(upstream.chunks_exact(width));
        for (to_row, (row, upstream)) in to_rows.chunks_exact_mut(width).zip(inputs) {
            let shrink = self.shrink(row);
            for i in 0..width {
                to_row[i] = upstream[i] * scale[i];
                to_scale[i] += upstream[i] * row[i] * shrink;
            }
            let along = dot(to_row, row) * shrink * shrink / width as f32;
            for (to_row, value) in to_row.iter_mut().zip(row) {
                *to_row = shrink * (*to_row - value * along);
            }
        }
        to_scale
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_twins, tensor};
    use super::*;

    #[test]
    fn the_norm_is_the_composed_one() {
        for width in [4, 16, 33, 256] {
            let (rows, scale) = (tensor(&[3, 25, 2 * width], 1), tensor(&[width], 2));
            let fast = |[r, s]: &[Tensor; 2]| rms_norm(r, s, 1e-6);
            assert_twins([rows, scale], fast, |[r, s]| composed(r, s, 1e-6), 2e-4);
        }
    }
}
