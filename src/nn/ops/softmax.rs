//! Attention's softmax under a mask, in one pass each way.

use super::{dot, exp, greatest, is_fast, numbers, read, sum, vectorised};
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

struct MaskedSoftmax {
    /// `(sequences, length, length)`
    mask: Tensor,
    scale: f64,
}

/// `softmax(scale · logits + mask)` over the last dimension of `(sequences, kv heads, group, length,
/// length)`, where `mask` is `(sequences, 1, 1, length, length)`. A row sees no later one, whatever
/// the mask says.
pub fn masked_softmax(logits: &Tensor, mask: &Tensor, scale: f64) -> Result<Tensor> {
    if is_fast(logits) && is_fast(mask) {
        let mask = mask.contiguous()?;
        return logits.contiguous()?.apply_op1(MaskedSoftmax { mask, scale });
    }
    composed(logits, mask, scale)
}

/// The largest logit is taken off first, and since that changes nothing it needs no gradient.
fn composed(logits: &Tensor, mask: &Tensor, scale: f64) -> Result<Tensor> {
    let logits = (logits * scale)?.broadcast_add(mask)?;
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    let shares = logits.broadcast_sub(&largest)?.exp()?;
    shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)
}

// === impl MaskedSoftmax ===

impl MaskedSoftmax {
    /// Calls `row` with each row of the output, its number, and that of its row in the mask.
    fn each_row(
        &self,
        out: &mut [f32],
        row: impl Fn(&mut [f32], usize, usize) + Sync,
    ) -> Result<()> {
        let length = self.mask.dim(D::Minus1)?;
        let sequences = self.mask.elem_count() / (length * length);
        let of_sequence = out.len() / length / sequences;
        // A task is the rows of one head of one sequence.
        out.par_chunks_mut(length * length).enumerate().for_each(|(task, out)| {
            vectorised(|| {
                for (at, out) in out.chunks_exact_mut(length).enumerate() {
                    let number = task * length + at;
                    row(out, number, number / of_sequence * length + at);
                }
            });
        });
        Ok(())
    }
}

impl CustomOp1 for MaskedSoftmax {
    fn name(&self) -> &'static str {
        "masked-softmax"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let logits = numbers(logits, layout)?;
        let length = self.mask.dim(D::Minus1)?;
        let scale = self.scale as f32;
        let mut out = vec![0.0; logits.len()];
        read([&self.mask], |[mask]| {
            self.each_row(&mut out, |out, row, masked| {
                let seen = masked % length + 1;
                let out = &mut out[..seen];
                let logits = &logits[row * length..][..seen];
                let mask = &mask[masked * length..][..seen];
                for ((out, logit), mask) in out.iter_mut().zip(logits).zip(mask) {
                    *out = logit * scale + mask;
                }
                let most = greatest(out);
                out.iter_mut().for_each(|out| *out = exp(*out - most));
                let share = 1.0 / sum(out);
                out.iter_mut().for_each(|out| *out *= share);
            })
        })??;
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, logits: &Tensor, shares: &Tensor, upstream: &Tensor) -> Result<Option<Tensor>> {
        let length = self.mask.dim(D::Minus1)?;
        let scale = self.scale as f32;
        let mut out = vec![0.0; logits.elem_count()];
        read([shares, upstream], |[shares, upstream]| {
            self.each_row(&mut out, |out, row, masked| {
                let seen = masked % length + 1;
                let shares = &shares[row * length..][..seen];
                let upstream = &upstream[row * length..][..seen];
                let mean = dot(shares, upstream);
                for ((out, share), upstream) in out.iter_mut().zip(shares).zip(upstream) {
                    *out = scale * share * (upstream - mean);
                }
            })
        })??;
        Ok(Some(Tensor::from_vec(out, logits.shape(), logits.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_twins, tensor};
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_softmax_is_the_composed_one() {
        let (sequences, length) = (2, 37);
        let unseen = |at: usize| {
            let (row, key) = (at / length % length, at % length);
            if key > row || key + 20 < row || (key * row) % 7 == 3 && key != row {
                -1e9
            } else {
                0.0
            }
        };
        let mask: Vec<f32> = (0..sequences * length * length).map(unseen).collect();
        let shape = (sequences, 1, 1, length, length);
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu).unwrap();
        let logits = (tensor(&[sequences, 3, 2, length, length], 1) * 20.0).unwrap();
        let fast = |[logits]: &[Tensor; 1]| masked_softmax(logits, &mask, 0.5);
        assert_twins([logits], fast, |[logits]| composed(logits, &mask, 0.5), 1e-5);
    }
}
