//! Attention of the shopper's pattern over a candidate's reasons.
#![expect(clippy::inline_always, reason = "vector code is compiled inside its dispatch")]

use super::simd::{Dense, Finish, Lanes, Rows, add_scaled, dot, softmax};
use super::{CandidateRow, DinShape, MASKED_OVERLAP, ReasonTable};
use pulp::Simd;

#[derive(Debug)]
pub(super) struct Reasons {
    /// e → key (d), value (d)
    pub project: Dense,
    /// x_p → query (d), already divided by the root of a head's width
    pub query: Dense,
    /// (heads): what the overlap adds to a head's logits
    pub own: Vec<f32>,
}

#[derive(Debug)]
pub(super) struct Room {
    query: Vec<f32>,
    /// (heads, padded M)
    weights: Vec<f32>,
    stride: usize,
}

impl Room {
    /// How many numbers it holds.
    pub fn numbers(&self) -> usize {
        [&self.query, &self.weights].iter().map(|buffer| buffer.capacity()).sum()
    }

    pub fn new(shape: &DinShape, lanes: Lanes) -> Self {
        let stride = lanes.padded(shape.reasons);
        let query = vec![0.0; lanes.padded(shape.width)];
        Self { query, weights: vec![0.0; shape.heads * stride], stride }
    }
}

impl Reasons {
    /// Computes the slate's query of x_p (d).
    #[inline(always)]
    pub fn prepare<S: Simd>(&self, simd: S, pattern: &[f32], room: &mut Room) {
        let inner = self.query.inner;
        let pattern = Rows { values: pattern, stride: inner, inner, count: 1 };
        self.query.apply(simd, pattern, &mut room.query, self.query.outer(), Finish::Set);
    }

    /// The mixed values (d) of a candidate with at least one reason, before the output
    /// projection, which is part of the head; and the attention (M), mean of the heads.
    #[inline(always)]
    pub fn mix<S: Simd>(
        &self,
        simd: S,
        table: &ReasonTable,
        candidate: &CandidateRow<'_>,
        room: &mut Room,
        (out, attention): (&mut [f32], &mut [f32]),
    ) {
        let (d, heads) = (out.len(), self.own.len());
        let (width, count) = (d / heads, candidate.reasons.len());
        let reason = |m| table.row(candidate.reasons.start as usize + m, d);
        for (m, overlap) in candidate.overlap.iter().enumerate() {
            let keys = reason(m).0.chunks_exact(width);
            for (head, (key, query)) in keys.zip(room.query.chunks_exact(width)).enumerate() {
                let logit = dot(simd, key, query) + self.own[head] * overlap;
                let stands = *overlap != MASKED_OVERLAP;
                room.weights[head * room.stride + m] = if stands { logit } else { MASKED_OVERLAP };
            }
        }
        out.fill(0.0);
        attention.fill(0.0);
        for (head, weights) in room.weights.chunks_exact_mut(room.stride).enumerate() {
            softmax(simd, weights, count);
            let out = &mut out[head * width..][..width];
            for (m, weight) in weights[..count].iter().enumerate() {
                add_scaled(simd, *weight, &reason(m).1[head * width..][..width], out);
                attention[m] += weight / heads as f32;
            }
        }
    }
}
