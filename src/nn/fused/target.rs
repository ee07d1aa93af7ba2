//! DIN's target attention (Zhou et al. 2018): the weight of each event for one candidate.
#![expect(
    clippy::inline_always,
    reason = "vector code is compiled inside the kernel that switched features on"
)]

use super::DinShape;
use super::kernels::{
    Epilogue, PanelLinear, ROWS, RowsView, add_scaled, padded, tile, vectors, vectors_mut,
};
use super::tables::ItemSlices;
use crate::nn::simd::{LANES, Lanes, VectorLevel};

/// The first layer is `(W1+W3) v + (W2-W3) S + W4 (v*S) + b`. The first term depends on the item alone, the second on the
/// event alone, and only the third on the pair. As `S (diag(v) W4)` it is one product per candidate, whose rows are
/// events.
#[derive(Debug)]
pub(super) struct TargetAttention {
    /// (W2 - W3), without bias
    pub event: PanelLinear,
    /// W4
    pub pair: PanelLinear,
    pub second: PanelLinear,
    /// Weights of the third layer, one per column of the second, and its bias.
    pub third: Vec<f32>,
    pub third_bias: f32,
}

#[derive(Debug)]
pub(super) struct TargetScratch {
    /// (H, columns of the first layer): the events' own terms.
    terms: Vec<f32>,
    /// `diag(v) W4` of one candidate, as panels.
    folded: Vec<f32>,
    /// (ROWS, columns of the first layer)
    hidden: Vec<f32>,
}

impl TargetScratch {
    /// Numbers held.
    pub fn numbers(&self) -> usize {
        [&self.terms, &self.folded, &self.hidden].iter().map(|buffer| buffer.capacity()).sum()
    }

    pub fn new(shape: &DinShape, level: VectorLevel) -> Self {
        let columns = padded(level, shape.attention[0]);
        Self {
            terms: vec![0.0; shape.history * columns],
            folded: vec![0.0; shape.width * columns],
            hidden: vec![0.0; ROWS * columns],
        }
    }
}

impl TargetAttention {
    /// Computes the terms of the slate's events.
    #[inline(always)]
    pub fn prepare<L: Lanes, const V: usize>(
        &self,
        events: RowsView<'_>,
        scratch: &mut TargetScratch,
    ) {
        self.event.apply::<L, V>(events, &mut scratch.terms, self.event.outer(), Epilogue::Set);
    }

    /// h (d): the events weighted by their attention, over the root of their number.
    #[inline(always)]
    pub fn interest<L: Lanes, const V: usize>(
        &self,
        item: ItemSlices<'_>,
        events: RowsView<'_>,
        scratch: &mut TargetScratch,
        out: &mut [f32],
    ) {
        out.fill(0.0);
        if events.count == 0 {
            return;
        }
        self.fold::<L, V>(item.vector, &mut scratch.folded);
        for first in (0..events.count).step_by(ROWS) {
            let rows = events.tile(first);
            self.first_layer::<L, V>(item, (first, events.count), rows, scratch);
            let weights = self.weights::<L, V>(&scratch.hidden);
            for (row, weight) in rows.into_iter().zip(weights).take(events.count - first) {
                add_scaled::<L>(weight, row, out);
            }
        }
        let scale = (events.count as f32).sqrt().recip();
        for value in out {
            *value *= scale;
        }
    }

    /// folded = diag(v) W4
    #[inline(always)]
    fn fold<L: Lanes, const V: usize>(&self, vector: &[f32], folded: &mut [f32]) {
        let panels = self.pair.inner * V * LANES;
        let packed = self.pair.panels.chunks_exact(panels);
        for (packed, folded) in packed.zip(folded.chunks_exact_mut(panels)) {
            let packed = vectors(packed).as_chunks::<V>().0;
            let folded = vectors_mut(folded).as_chunks_mut::<V>().0;
            for ((packed, folded), value) in packed.iter().zip(folded).zip(vector) {
                let value = L::splat(*value);
                for v in 0..V {
                    L::load(&packed[v]).mul(value).store(&mut folded[v]);
                }
            }
        }
    }

    /// hidden = relu(pairs + the events' terms + the item's term), for a tile of events
    #[inline(always)]
    fn first_layer<L: Lanes, const V: usize>(
        &self,
        item: ItemSlices<'_>,
        (first, count): (usize, usize),
        rows: [&[f32]; ROWS],
        scratch: &mut TargetScratch,
    ) {
        let (columns, width) = (self.pair.outer(), V * LANES);
        for (p, panel) in scratch.folded.chunks_exact(self.pair.inner * width).enumerate() {
            let sums = tile::<L, V>(rows, panel);
            let own = vectors(&item.target[p * width..(p + 1) * width]);
            for (r, sum) in sums.into_iter().enumerate() {
                let at = (first + r).min(count - 1) * columns + p * width;
                let term = vectors(&scratch.terms[at..at + width]);
                let at = r * columns + p * width;
                let out = vectors_mut(&mut scratch.hidden[at..at + width]);
                for v in 0..V {
                    let sum = sum[v].add(L::load(&term[v]).add(L::load(&own[v])));
                    sum.max(L::splat(0.0)).store(&mut out[v]);
                }
            }
        }
    }

    /// The second and third layers: one number per event of the tile.
    #[inline(always)]
    fn weights<L: Lanes, const V: usize>(&self, hidden: &[f32]) -> [f32; ROWS] {
        let (columns, width) = (self.pair.outer(), V * LANES);
        let hidden =
            RowsView { values: hidden, stride: columns, inner: self.second.inner, count: ROWS };
        let rows = hidden.tile(0);
        let mut totals = [L::splat(0.0); ROWS];
        for (p, panel) in self.second.panels.chunks_exact(self.second.inner * width).enumerate() {
            let sums = tile::<L, V>(rows, panel);
            let bias = vectors(&self.second.bias[p * width..(p + 1) * width]);
            let third = vectors(&self.third[p * width..(p + 1) * width]);
            for (total, sum) in totals.iter_mut().zip(sums) {
                for v in 0..V {
                    let value = sum[v].add(L::load(&bias[v])).max(L::splat(0.0));
                    *total = value.mul_add(L::load(&third[v]), *total);
                }
            }
        }
        // A loop, not `map`: a closure that is not inlined is compiled without vector features.
        let mut weights = [self.third_bias; ROWS];
        for (weight, total) in weights.iter_mut().zip(totals) {
            *weight += total.sum();
        }
        weights
    }
}
