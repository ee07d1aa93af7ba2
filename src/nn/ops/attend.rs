//! Masked attention as one operation: candle's products, and a softmax in one pass over memory each way.
//!
//! Only the attention weights are stored for the backward pass, and candle accumulates no gradients in between.

use super::widened::apply3;
use super::{is_fast, numbers, numbers_mut, read};
use crate::nn::simd::{dot, exp, max, sum, vectorised};
use candle_core::{
    CpuStorage, CustomOp3, D, DType, Error, InplaceOp1, InplaceOp2, Layout, Result, Shape, Tensor,
};
use rayon::prelude::*;

/// The heads and the mask of an attention.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// `(sequences, 1, 1, length, length)`: the additive mask. Attention is causal as well: entries for later keys are
    /// ignored.
    pub mask: Tensor,
}

/// `softmax(q k^T / √head_dim + mask) v` of `(sequences, length, heads · head_dim)` queries. Keys and values are
/// `(sequences, length, kv_heads · head_dim)`.
pub fn attend(rows: &[Tensor; 3], sight: AttentionSpec) -> Result<Tensor> {
    let [queries, keys, values] = rows;
    if is_fast(queries) && is_fast(&sight.mask) {
        let wide = |rows: &Tensor| rows.detach().to_dtype(DType::F32);
        let known = AttentionOp::calculate([wide(queries)?, wide(keys)?, wide(values)?], sight)?;
        let whole = |rows: &Tensor| rows.contiguous();
        return apply3(&whole(queries)?, &whole(keys)?, &whole(values)?, known);
    }
    composed(rows, &sight)
}

fn composed([queries, keys, values]: &[Tensor; 3], sight: &AttentionSpec) -> Result<Tensor> {
    let dtype = queries.dtype();
    let [keys, values] = [keys, values].map(|rows| sight.split(rows));
    let queries = (sight.split(queries)? * sight.scale())?;
    let logits = queries.matmul(&keys?.transpose(2, 3)?)?.to_dtype(DType::F32)?;
    let (sequences, kv_heads, rows, length) = logits.dims4()?;
    let logits = logits.reshape((sequences, kv_heads, rows / length, length, length))?;
    let logits = logits.broadcast_add(&sight.mask)?;
    // The largest logit is taken off first, and since that changes nothing it needs no gradient.
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    let weights = logits.broadcast_sub(&largest)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(dtype)?;
    sight.join(&weights.reshape((sequences, kv_heads, rows, length))?.matmul(&values?)?)
}

// === impl AttentionSpec ===

impl AttentionSpec {
    fn scale(&self) -> f64 {
        (self.head_dim as f64).powf(-0.5)
    }

    /// `(sequences, length, heads · head_dim)` to `(sequences, kv_heads, heads / kv_heads · length, head_dim)`: query
    /// heads that share keys are rows of one product.
    fn split(&self, rows: &Tensor) -> Result<Tensor> {
        let (sequences, length, _) = rows.dims3()?;
        let heads = rows.reshape((sequences, length, (), self.head_dim))?.transpose(1, 2)?;
        heads.contiguous()?.reshape((sequences, self.kv_heads, (), self.head_dim))
    }

    /// The inverse of [`AttentionSpec::split`].
    fn join(&self, heads: &Tensor) -> Result<Tensor> {
        let (sequences, length) = (heads.dim(0)?, self.mask.dim(D::Minus1)?);
        let heads = heads.reshape((sequences, (), length, self.head_dim))?.transpose(1, 2)?;
        heads.contiguous()?.reshape((sequences, length, ()))
    }

    /// Calls `each` with the causal part of each row of logits or weights, the row's offset, and the offset of its row
    /// of the mask. Zeroes the rest of the row.
    fn each_row(
        &self,
        out: &mut [f32],
        each: impl Fn(&mut [f32], usize, usize) + Sync,
    ) -> Result<()> {
        let length = self.mask.dim(D::Minus1)?;
        let of_sequence = out.len() / length / self.mask.dim(0)?;
        // A task is the rows of one head of one sequence.
        out.par_chunks_mut(length * length).enumerate().for_each(|(task, out)| {
            vectorised(|| {
                for (at, row) in out.chunks_exact_mut(length).enumerate() {
                    let number = task * length + at;
                    let masked = number / of_sequence * length + at;
                    let (seen, unseen) = row.split_at_mut(at + 1);
                    unseen.fill(0.0);
                    each(seen, number * length, masked * length);
                }
            });
        });
        Ok(())
    }
}

/// The output of attention, with the tensors that its gradient needs.
struct AttentionOp {
    sight: AttentionSpec,
    out: Tensor,
    /// The attention weights: `(sequences, kv_heads, heads / kv_heads · length, length)`.
    weights: Tensor,
}

// === impl AttentionOp ===

impl AttentionOp {
    fn calculate([queries, keys, values]: [Tensor; 3], sight: AttentionSpec) -> Result<Self> {
        let [queries, keys, values] = [queries, keys, values].map(|rows| sight.split(&rows));
        let weights = queries?.matmul(&keys?.transpose(2, 3)?)?;
        weights.inplace_op1(&MaskedSoftmax(&sight))?;
        let out = sight.join(&weights.matmul(&values?)?)?;
        Ok(Self { sight, out, weights })
    }
}

impl CustomOp3 for AttentionOp {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        _queries: &CpuStorage,
        _queries_layout: &Layout,
        _keys: &CpuStorage,
        _keys_layout: &Layout,
        _values: &CpuStorage,
        _values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let out = read([&self.out], |[out]| CpuStorage::F32(out.to_vec()))?;
        Ok((out, self.out.shape().clone()))
    }

    fn bwd(
        &self,
        queries: &Tensor,
        keys: &Tensor,
        values: &Tensor,
        _out: &Tensor,
        upstream: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Self { sight, weights, .. } = self;
        let split = [queries, keys, values].map(|rows| sight.split(&rows.detach()));
        let [queries, keys, values] = split;
        let upstream = sight.split(upstream)?;
        let to_values = weights.transpose(2, 3)?.matmul(&upstream)?;
        let to_logits = upstream.matmul(&values?.transpose(2, 3)?)?;
        to_logits.inplace_op2(weights, &MaskedSoftmaxBackward(sight))?;
        let to_queries = to_logits.matmul(&keys?)?;
        let to_keys = to_logits.transpose(2, 3)?.matmul(&queries?)?;
        let [queries, keys, values] =
            [to_queries, to_keys, to_values].map(|gradient| sight.join(&gradient));
        Ok((Some(queries?), Some(keys?), Some(values?)))
    }
}

/// Replaces products of queries and keys by attention weights.
struct MaskedSoftmax<'a>(&'a AttentionSpec);

/// Replaces the gradient of the attention weights by that of the products.
struct MaskedSoftmaxBackward<'a>(&'a AttentionSpec);

impl InplaceOp1 for MaskedSoftmax<'_> {
    fn name(&self) -> &'static str {
        "masked-softmax"
    }

    fn cpu_fwd(&self, products: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let scale = self.0.scale() as f32;
        let products = numbers_mut(products, layout)?;
        read([&self.0.mask], |[mask]| {
            self.0.each_row(products, |row, _, masked| {
                for (value, mask) in row.iter_mut().zip(&mask[masked..]) {
                    *value = *value * scale + mask;
                }
                let most = max(row);
                for value in &mut *row {
                    *value = exp(*value - most);
                }
                let inverse_sum = 1.0 / sum(row);
                for value in row {
                    *value *= inverse_sum;
                }
            })
        })?
    }
}

impl InplaceOp2 for MaskedSoftmaxBackward<'_> {
    fn name(&self) -> &'static str {
        "masked-softmax-back"
    }

    fn cpu_fwd(
        &self,
        gradient: &mut CpuStorage,
        layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let scale = self.0.scale() as f32;
        let (gradient, weights) =
            (numbers_mut(gradient, layout)?, numbers(weights, weights_layout)?);
        if gradient.len() != weights.len() {
            return Err(Error::Msg(
                "the attention weights and their gradient differ in size".into(),
            ));
        }
        self.0.each_row(gradient, |row, at, _| {
            let weights = &weights[at..][..row.len()];
            let mean = dot(weights, row);
            for (value, weight) in row.iter_mut().zip(weights) {
                *value = scale * weight * (*value - mean);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_twins, tensor};
    use super::*;
    use candle_core::Device;

    #[test]
    fn attention_is_the_composed_one() {
        let (sequences, length) = (2, 37);
        let unseen = |at: usize| {
            let (row, key) = (at / length % length, at % length);
            let hidden = key > row || key + 20 < row || (key * row) % 7 == 3 && key != row;
            if hidden { -1e9 } else { 0.0 }
        };
        let mask: Vec<f32> = (0..sequences * length * length).map(unseen).collect();
        let shape = (sequences, 1, 1, length, length);
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu).unwrap();
        let sight = AttentionSpec { kv_heads: 3, head_dim: 8, mask };
        let rows =
            |heads: usize, salt| (tensor(&[sequences, length, heads * 8], salt) * 3.0).unwrap();
        let fast = |rows: &[Tensor; 3]| attend(rows, sight.clone());
        let slow = |rows: &[Tensor; 3]| composed(rows, &sight);
        assert_twins([rows(6, 1), rows(3, 2), rows(3, 3)], fast, slow, 2e-5);
    }
}
