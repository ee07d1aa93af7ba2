//! Attention of the shopper's pattern over a candidate's reasons.
#![expect(
    clippy::inline_always,
    reason = "vector code is compiled inside the kernel that switched features on"
)]

use super::kernels::{Epilogue, PanelLinear, RowsView, add_scaled, dot, padded, softmax};
use super::{CandidateRow, DinShape, MASKED_OVERLAP, ReasonTable};
use crate::nn::simd::{Lanes, VectorLevel};

#[derive(Debug)]
pub(super) struct ReasonAttention {
    /// e → key (d), value (d)
    pub project: PanelLinear,
    /// x_p → query (d), already divided by the root of a head's width
    pub query: PanelLinear,
    /// (heads): weight of the overlap in a head's logits
    pub own: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct ReasonScratch {
    query: Vec<f32>,
    /// (heads, padded M)
    weights: Vec<f32>,
    stride: usize,
}

impl ReasonScratch {
    /// Numbers held.
    pub fn numbers(&self) -> usize {
        [&self.query, &self.weights].iter().map(|buffer| buffer.capacity()).sum()
    }

    pub fn new(shape: &DinShape, level: VectorLevel) -> Self {
        let stride = padded(level, shape.reasons);
        let query = vec![0.0; padded(level, shape.width)];
        Self { query, weights: vec![0.0; shape.heads * stride], stride }
    }
}

impl ReasonAttention {
    /// Computes the slate's query of x_p (d).
    #[inline(always)]
    pub fn prepare<L: Lanes, const V: usize>(&self, pattern: &[f32], scratch: &mut ReasonScratch) {
        let inner = self.query.inner;
        let pattern = RowsView { values: pattern, stride: inner, inner, count: 1 };
        self.query.apply::<L, V>(pattern, &mut scratch.query, self.query.outer(), Epilogue::Set);
    }

    /// The attended values (d) of a candidate with at least one reason, before the output projection, which is folded into
    /// the head; and the attention (M), mean of the heads.
    #[inline(always)]
    pub fn mix<L: Lanes>(
        &self,
        table: &ReasonTable,
        candidate: &CandidateRow<'_>,
        scratch: &mut ReasonScratch,
        (out, attention): (&mut [f32], &mut [f32]),
    ) {
        let (d, heads) = (out.len(), self.own.len());
        let (width, count) = (d / heads, candidate.reasons.len());
        let reason = |m| table.row(candidate.reasons.start as usize + m, d);
        for (m, overlap) in candidate.overlap.iter().enumerate() {
            let keys = reason(m).0.chunks_exact(width);
            for (head, (key, query)) in keys.zip(scratch.query.chunks_exact(width)).enumerate() {
                let logit = dot::<L>(key, query) + self.own[head] * overlap;
                let stands = *overlap != MASKED_OVERLAP;
                scratch.weights[head * scratch.stride + m] =
                    if stands { logit } else { MASKED_OVERLAP };
            }
        }
        out.fill(0.0);
        attention.fill(0.0);
        for (head, weights) in scratch.weights.chunks_exact_mut(scratch.stride).enumerate() {
            softmax::<L>(weights, count);
            let out = &mut out[head * width..][..width];
            for (m, weight) in weights[..count].iter().enumerate() {
                add_scaled::<L>(*weight, &reason(m).1[head * width..][..width], out);
                attention[m] += weight / heads as f32;
            }
        }
    }
}
