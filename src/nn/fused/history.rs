//! The Transformer over a shopper's events, once per slate.
#![expect(
    clippy::inline_always,
    reason = "vector code is compiled inside the kernel that switched features on"
)]

use super::DinShape;
use super::kernels::{
    Epilogue, FusedLayerNorm, PanelLinear, RowsView, padded, panel_width, product, softmax,
};
use crate::nn::simd::{Lanes, VectorLevel};

#[derive(Debug)]
pub(super) struct HistoryEncoder {
    pub layers: Vec<EncoderLayer>,
    pub norm: Option<FusedLayerNorm>,
    pub heads: usize,
}

#[derive(Debug)]
pub(super) struct EncoderLayer {
    pub norms: [FusedLayerNorm; 2],
    /// d → queries, keys, values; queries already divided by the root of a head's width
    pub project: PanelLinear,
    pub out: PanelLinear,
    pub up: PanelLinear,
    pub down: PanelLinear,
}

/// Buffers for one history. Rows are events.
#[derive(Debug)]
pub(super) struct HistoryScratch {
    /// (H, padded d): the events, before and after they are encoded.
    pub events: Vec<f32>,
    /// Columns of `events`.
    pub stride: usize,
    normed: Vec<f32>,
    projected: Vec<f32>,
    /// One head's keys as panels of (head width, H), and its values as panels of (H, head width).
    keys: Vec<f32>,
    values: Vec<f32>,
    /// (H, padded H): one head's attention weights, not the network's.
    weights: Vec<f32>,
    /// (H, padded d and one panel): what each event attended to, all heads side by side.
    seen: Vec<f32>,
    hidden: Vec<f32>,
    panel: usize,
}

impl HistoryScratch {
    /// How many numbers the buffers hold.
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

    pub fn new(shape: &DinShape, level: VectorLevel) -> Self {
        let (h, stride) = (shape.history, padded(level, shape.width));
        let (events, width) = (padded(level, h), shape.head_width());
        let zeros = |count| vec![0.0; count];
        Self {
            events: zeros(h * stride),
            stride,
            normed: zeros(h * stride),
            projected: zeros(h * padded(level, 3 * shape.width)),
            keys: zeros(width * events),
            values: zeros(h * padded(level, width)),
            weights: zeros(h * events),
            seen: zeros(h * (stride + panel_width(level))),
            hidden: zeros(h * padded(level, shape.ffn)),
            panel: panel_width(level),
        }
    }
}

impl HistoryEncoder {
    /// Encodes the first `count` rows of `scratch.events` in place, each of `d` numbers.
    #[inline(always)]
    pub fn encode<L: Lanes, const V: usize>(
        &self,
        scratch: &mut HistoryScratch,
        count: usize,
        d: usize,
    ) {
        for layer in &self.layers {
            self.attend::<L, V>(layer, scratch, count, d);
            layer.feed_forward::<L, V>(scratch, count, d);
        }
        if let Some(norm) = &self.norm {
            norm_rows::<L>(norm, scratch, count, d);
            scratch.events.copy_from_slice(&scratch.normed);
        }
    }

    /// events += attention(norm(events))
    #[inline(always)]
    fn attend<L: Lanes, const V: usize>(
        &self,
        layer: &EncoderLayer,
        scratch: &mut HistoryScratch,
        count: usize,
        d: usize,
    ) {
        norm_rows::<L>(&layer.norms[0], scratch, count, d);
        let (width, columns) = (d / self.heads, layer.project.outer());
        let normed = RowsView { values: &scratch.normed, stride: scratch.stride, inner: d, count };
        layer.project.apply::<L, V>(normed, &mut scratch.projected, columns, Epilogue::Set);

        let (seen_stride, across) =
            (scratch.stride + scratch.panel, count.next_multiple_of(scratch.panel));
        for head in 0..self.heads {
            let part = |part: usize| part * d + head * width;
            let rows = scratch.projected.chunks_exact(columns).take(count);
            let (keys, values) = (&mut scratch.keys[..width * across], &mut scratch.values);
            for (event, row) in rows.enumerate() {
                pack_column(&row[part(1)..][..width], event, scratch.panel, keys);
                pack_row(&row[part(2)..][..width], event, (scratch.panel, count), values);
            }
            let queries = RowsView {
                values: &scratch.projected[part(0)..],
                stride: columns,
                inner: width,
                count,
            };
            let weights = &mut scratch.weights[..count * across];
            product::<L, V>(queries, keys, None, (weights, across), Epilogue::Set);
            for row in weights.chunks_exact_mut(across) {
                softmax::<L>(row, count);
            }
            // A head writes whole panels: past its own columns into the next head's, which are written later, and past
            // the last head's into the spare panel.
            let weights = RowsView { values: weights, stride: across, inner: count, count };
            let values = &values[..count * width.next_multiple_of(scratch.panel)];
            let out = (&mut scratch.seen[head * width..], seen_stride);
            product::<L, V>(weights, values, None, out, Epilogue::Set);
        }
        let seen = RowsView { values: &scratch.seen, stride: seen_stride, inner: d, count };
        layer.out.apply::<L, V>(seen, &mut scratch.events, scratch.stride, Epilogue::Add);
    }
}

impl EncoderLayer {
    /// events += down(relu(up(norm(events))))
    #[inline(always)]
    fn feed_forward<L: Lanes, const V: usize>(
        &self,
        scratch: &mut HistoryScratch,
        count: usize,
        d: usize,
    ) {
        norm_rows::<L>(&self.norms[1], scratch, count, d);
        let columns = self.up.outer();
        let normed = RowsView { values: &scratch.normed, stride: scratch.stride, inner: d, count };
        self.up.apply::<L, V>(normed, &mut scratch.hidden, columns, Epilogue::SetRelu);
        let inner = self.down.inner;
        let hidden = RowsView { values: &scratch.hidden, stride: columns, inner, count };
        self.down.apply::<L, V>(hidden, &mut scratch.events, scratch.stride, Epilogue::Add);
    }
}

#[inline(always)]
fn norm_rows<L: Lanes>(
    norm: &FusedLayerNorm,
    scratch: &mut HistoryScratch,
    count: usize,
    d: usize,
) {
    let rows = scratch.events.chunks_exact(scratch.stride).take(count);
    for (row, out) in rows.zip(scratch.normed.chunks_exact_mut(scratch.stride)) {
        norm.apply::<L>(&row[..d], out);
    }
}

/// Writes `values` to column `column` of panels with a row per value.
#[inline(always)]
fn pack_column(values: &[f32], column: usize, panel: usize, panels: &mut [f32]) {
    let from = column / panel * panel * values.len() + column % panel;
    for (slot, value) in panels[from..].iter_mut().step_by(panel).zip(values) {
        *slot = *value;
    }
}

/// Writes `values` to row `row` of panels with `count` rows.
#[inline(always)]
fn pack_row(values: &[f32], row: usize, (panel, count): (usize, usize), panels: &mut [f32]) {
    for (values, panels) in values.chunks(panel).zip(panels.chunks_mut(count * panel)) {
        panels[row * panel..][..values.len()].copy_from_slice(values);
    }
}
