//! The Transformer over a shopper's events, once per slate.
#![expect(clippy::inline_always, reason = "vector code is compiled inside its dispatch")]

use super::DinShape;
use super::simd::{Dense, Finish, Lanes, Norm, Rows, product, softmax};
use pulp::Simd;

#[derive(Debug)]
pub(super) struct Encoder {
    pub layers: Vec<Layer>,
    pub norm: Option<Norm>,
    pub heads: usize,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub norms: [Norm; 2],
    /// d → queries, keys, values; queries already divided by the root of a head's width
    pub project: Dense,
    pub out: Dense,
    pub up: Dense,
    pub down: Dense,
}

/// Room for one history. Rows are events.
#[derive(Debug)]
pub(super) struct Room {
    /// (H, padded d): the events, before and after.
    pub events: Vec<f32>,
    /// Columns of `events`.
    pub stride: usize,
    normed: Vec<f32>,
    projected: Vec<f32>,
    /// One head's keys as panels of (head width, H), and its values as panels of (H, head width).
    keys: Vec<f32>,
    values: Vec<f32>,
    /// (H, padded H)
    weights: Vec<f32>,
    /// (H, padded d and one panel)
    seen: Vec<f32>,
    hidden: Vec<f32>,
    panel: usize,
}

impl Room {
    /// How many numbers it holds.
    pub fn numbers(&self) -> usize {
        [
            &self.events,
            &self.normed,
            &self.projected,
            &self.keys,
            &self.values,
            &self.weights,
            &self.seen,
            &self.hidden,
        ]
        .iter()
        .map(|buffer| buffer.capacity())
        .sum()
    }

    pub fn new(shape: &DinShape, lanes: Lanes) -> Self {
        let (h, stride) = (shape.history, lanes.padded(shape.width));
        let (events, width) = (lanes.padded(h), shape.head_width());
        let zeros = |count| vec![0.0; count];
        Self {
            events: zeros(h * stride),
            stride,
            normed: zeros(h * stride),
            projected: zeros(h * lanes.padded(3 * shape.width)),
            keys: zeros(width * events),
            values: zeros(h * lanes.padded(width)),
            weights: zeros(h * events),
            seen: zeros(h * (stride + lanes.panel())),
            hidden: zeros(h * lanes.padded(shape.ffn)),
            panel: lanes.panel(),
        }
    }
}

impl Encoder {
    /// Encodes the first `count` rows of `room.events` in place, each of `d` numbers.
    #[inline(always)]
    pub fn encode<S: Simd>(&self, simd: S, room: &mut Room, count: usize, d: usize) {
        for layer in &self.layers {
            self.attend(simd, layer, room, count, d);
            layer.feed_forward(simd, room, count, d);
        }
        if let Some(norm) = &self.norm {
            norm_rows(simd, norm, room, count, d);
            room.events.copy_from_slice(&room.normed);
        }
    }

    /// events += attention(norm(events))
    #[inline(always)]
    fn attend<S: Simd>(&self, simd: S, layer: &Layer, room: &mut Room, count: usize, d: usize) {
        norm_rows(simd, &layer.norms[0], room, count, d);
        let (width, columns) = (d / self.heads, layer.project.outer());
        let normed = Rows { values: &room.normed, stride: room.stride, inner: d, count };
        layer.project.apply(simd, normed, &mut room.projected, columns, Finish::Set);

        let (seen_stride, across) = (room.stride + room.panel, count.next_multiple_of(room.panel));
        for head in 0..self.heads {
            let part = |part: usize| part * d + head * width;
            let rows = room.projected.chunks_exact(columns).take(count);
            let (keys, values) = (&mut room.keys[..width * across], &mut room.values);
            for (event, row) in rows.enumerate() {
                pack_column(&row[part(1)..][..width], event, room.panel, keys);
                pack_row(&row[part(2)..][..width], event, (room.panel, count), values);
            }
            let queries =
                Rows { values: &room.projected[part(0)..], stride: columns, inner: width, count };
            let weights = &mut room.weights[..count * across];
            product(simd, queries, keys, None, (weights, across), Finish::Set);
            for row in weights.chunks_exact_mut(across) {
                softmax(simd, row, count);
            }
            // A head writes whole panels, past its own columns into the next head's, which are
            // written after it, and past the last head's into the spare panel.
            let weights = Rows { values: weights, stride: across, inner: count, count };
            let values = &values[..count * width.next_multiple_of(room.panel)];
            let out = (&mut room.seen[head * width..], seen_stride);
            product(simd, weights, values, None, out, Finish::Set);
        }
        let seen = Rows { values: &room.seen, stride: seen_stride, inner: d, count };
        layer.out.apply(simd, seen, &mut room.events, room.stride, Finish::Add);
    }
}

impl Layer {
    /// events += down(relu(up(norm(events))))
    #[inline(always)]
    fn feed_forward<S: Simd>(&self, simd: S, room: &mut Room, count: usize, d: usize) {
        norm_rows(simd, &self.norms[1], room, count, d);
        let columns = self.up.outer();
        let normed = Rows { values: &room.normed, stride: room.stride, inner: d, count };
        self.up.apply(simd, normed, &mut room.hidden, columns, Finish::SetRelu);
        let inner = self.down.inner;
        let hidden = Rows { values: &room.hidden, stride: columns, inner, count };
        self.down.apply(simd, hidden, &mut room.events, room.stride, Finish::Add);
    }
}

#[inline(always)]
fn norm_rows<S: Simd>(simd: S, norm: &Norm, room: &mut Room, count: usize, d: usize) {
    let rows = room.events.chunks_exact(room.stride).take(count);
    for (row, out) in rows.zip(room.normed.chunks_exact_mut(room.stride)) {
        norm.apply(simd, &row[..d], out);
    }
}

/// Puts `values` into column `column` of panels with a row per value.
#[inline(always)]
fn pack_column(values: &[f32], column: usize, panel: usize, panels: &mut [f32]) {
    let from = column / panel * panel * values.len() + column % panel;
    for (slot, value) in panels[from..].iter_mut().step_by(panel).zip(values) {
        *slot = *value;
    }
}

/// Puts `values` into row `row` of panels with `count` rows.
#[inline(always)]
fn pack_row(values: &[f32], row: usize, (panel, count): (usize, usize), panels: &mut [f32]) {
    for (values, panels) in values.chunks(panel).zip(panels.chunks_mut(count * panel)) {
        panels[row * panel..][..values.len()].copy_from_slice(values);
    }
}
