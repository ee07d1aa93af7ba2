//! DIN's target attention: how much each event says about one candidate.
#![expect(clippy::inline_always, reason = "vector code is compiled inside its dispatch")]

use super::DinShape;
use super::simd::{
    Dense, Finish, Lanes, ROWS, Rows, VECTORS, add_scaled, panel_width, tile, vectors, vectors_mut,
};
use super::tables::Item;
use pulp::Simd;

/// The first layer is `(W1+W3) v + (W2-W3) S + W4 (v*S) + b`: the first term is the item's own,
/// the second the event's own, and only the third belongs to the pair. As `S (diag(v) W4)` it is
/// one product per candidate, whose rows are events.
#[derive(Debug)]
pub(super) struct Target {
    /// (W2 - W3), without bias
    pub event: Dense,
    /// W4
    pub pair: Dense,
    pub second: Dense,
    /// Weights of the third layer, one per column of the second, and its bias.
    pub third: Vec<f32>,
    pub third_bias: f32,
}

#[derive(Debug)]
pub(super) struct Room {
    /// (H, columns of the first layer): the events' own terms.
    terms: Vec<f32>,
    /// `diag(v) W4` of one candidate, as panels.
    folded: Vec<f32>,
    /// (ROWS, columns of the first layer)
    hidden: Vec<f32>,
}

impl Room {
    /// How many numbers it holds.
    pub fn numbers(&self) -> usize {
        [&self.terms, &self.folded, &self.hidden].iter().map(|buffer| buffer.capacity()).sum()
    }

    pub fn new(shape: &DinShape, lanes: Lanes) -> Self {
        let columns = lanes.padded(shape.attention[0]);
        Self {
            terms: vec![0.0; shape.history * columns],
            folded: vec![0.0; shape.width * columns],
            hidden: vec![0.0; ROWS * columns],
        }
    }
}

impl Target {
    /// Computes the terms of the slate's events.
    #[inline(always)]
    pub fn prepare<S: Simd>(&self, simd: S, events: Rows<'_>, room: &mut Room) {
        self.event.apply(simd, events, &mut room.terms, self.event.outer(), Finish::Set);
    }

    /// h (d): the events weighted by their attention, over the root of their number.
    #[inline(always)]
    pub fn interest<S: Simd>(
        &self,
        simd: S,
        item: Item<'_>,
        events: Rows<'_>,
        room: &mut Room,
        out: &mut [f32],
    ) {
        out.fill(0.0);
        self.fold(simd, item.vector, &mut room.folded);
        for first in (0..events.count).step_by(ROWS) {
            let rows = events.tile(first);
            self.first_layer(simd, item, (first, events.count), rows, room);
            let weights = self.weights(simd, &room.hidden);
            for (row, weight) in rows.into_iter().zip(weights).take(events.count - first) {
                add_scaled(simd, weight, row, out);
            }
        }
        let scale = (events.count.max(1) as f32).sqrt().recip();
        for value in out {
            *value *= scale;
        }
    }

    /// folded = diag(v) W4
    #[inline(always)]
    fn fold<S: Simd>(&self, simd: S, vector: &[f32], folded: &mut [f32]) {
        let panels = self.pair.inner * panel_width::<S>();
        let packed = self.pair.panels.chunks_exact(panels);
        for (packed, folded) in packed.zip(folded.chunks_exact_mut(panels)) {
            let packed = vectors::<S>(packed).as_chunks::<VECTORS>().0;
            let folded = vectors_mut::<S>(folded).as_chunks_mut::<VECTORS>().0;
            for ((packed, folded), value) in packed.iter().zip(folded).zip(vector) {
                let value = simd.splat_f32s(*value);
                for v in 0..VECTORS {
                    folded[v] = simd.mul_f32s(packed[v], value);
                }
            }
        }
    }

    /// hidden = relu(pairs + the events' terms + the item's term), for a tile of events
    #[inline(always)]
    fn first_layer<S: Simd>(
        &self,
        simd: S,
        item: Item<'_>,
        (first, count): (usize, usize),
        rows: [&[f32]; ROWS],
        room: &mut Room,
    ) {
        let (columns, width) = (self.pair.outer(), panel_width::<S>());
        for (p, panel) in room.folded.chunks_exact(self.pair.inner * width).enumerate() {
            let sums = tile(simd, rows, panel);
            let own = vectors::<S>(&item.target[p * width..(p + 1) * width]);
            for (r, sum) in sums.into_iter().enumerate() {
                let at = (first + r).min(count - 1) * columns + p * width;
                let term = vectors::<S>(&room.terms[at..at + width]);
                let at = r * columns + p * width;
                let out = vectors_mut::<S>(&mut room.hidden[at..at + width]);
                for v in 0..VECTORS {
                    let sum = simd.add_f32s(sum[v], simd.add_f32s(term[v], own[v]));
                    out[v] = simd.max_f32s(sum, simd.splat_f32s(0.0));
                }
            }
        }
    }

    /// The second and third layers: one number per event of the tile.
    #[inline(always)]
    fn weights<S: Simd>(&self, simd: S, hidden: &[f32]) -> [f32; ROWS] {
        let (columns, width) = (self.pair.outer(), panel_width::<S>());
        let hidden =
            Rows { values: hidden, stride: columns, inner: self.second.inner, count: ROWS };
        let rows = hidden.tile(0);
        let mut totals = [simd.splat_f32s(0.0); ROWS];
        for (p, panel) in self.second.panels.chunks_exact(self.second.inner * width).enumerate() {
            let sums = tile(simd, rows, panel);
            let bias = vectors::<S>(&self.second.bias[p * width..(p + 1) * width]);
            let third = vectors::<S>(&self.third[p * width..(p + 1) * width]);
            for (total, sum) in totals.iter_mut().zip(sums) {
                for v in 0..VECTORS {
                    let value = simd.add_f32s(sum[v], bias[v]);
                    let value = simd.max_f32s(value, simd.splat_f32s(0.0));
                    *total = simd.mul_add_e_f32s(value, third[v], *total);
                }
            }
        }
        // A loop, not `map`: a closure that is not inlined loses the processor's features.
        let mut weights = [self.third_bias; ROWS];
        for (weight, total) in weights.iter_mut().zip(totals) {
            *weight += simd.reduce_sum_f32s(total);
        }
        weights
    }
}
