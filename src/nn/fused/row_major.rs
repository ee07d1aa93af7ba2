//! The network's weights in row-major order, as `kernels/scorer.cu` reads them.

use super::kernels::{FusedLayerNorm, PanelLinear, panel_width};
use super::{FusedDin, ItemRef, ItemTable, ReasonTable};

/// The padded hidden widths of the target attention.
#[derive(Debug, Clone, Copy)]
pub(in crate::nn) struct PaddedWidths {
    pub first: usize,
    pub second: usize,
}

/// Collects weights, layer by layer.
struct RowMajorWriter<'a> {
    fused: &'a FusedDin,
    values: Vec<f32>,
}

impl FusedDin {
    /// The weights that are applied to a slate's events and its pattern.
    pub(in crate::nn) fn plain_history(&self, columns: PaddedWidths) -> Vec<f32> {
        let (shape, mut rows) = (&self.shape, RowMajorWriter::of(self));
        let d = shape.width;
        rows.put(&self.ages);
        rows.put(&self.kinds);
        for layer in &self.history.layers {
            rows.norm(&layer.norms[0]);
            rows.layer(&layer.project, 3 * d);
            rows.layer(&layer.out, d);
            rows.norm(&layer.norms[1]);
            rows.layer(&layer.up, shape.ffn);
            rows.layer(&layer.down, d);
        }
        if let Some(norm) = &self.history.norm {
            rows.norm(norm);
        }
        rows.matrix(&self.target.event, 0..shape.attention[0], columns.first);
        rows.layer(&self.pattern, d);
        rows.put(&self.no_pattern);
        rows.layer(&self.reasons.query, d);
        rows.layer(&self.head.slate, shape.head[0]);
        rows.values
    }

    /// The weights that are applied to candidates. The target attention's first layer comes in parts of `part` columns.
    pub(in crate::nn) fn plain_candidates(&self, columns: PaddedWidths, part: usize) -> Vec<f32> {
        let (shape, mut rows) = (&self.shape, RowMajorWriter::of(self));
        let ([first, second], [head, last]) = (shape.attention, shape.head);
        for from in (0..columns.first).step_by(part) {
            rows.matrix(&self.target.pair, from.min(first)..first.min(from + part), part);
        }
        rows.matrix(&self.target.second, 0..second, columns.second);
        rows.values.resize(rows.values.len() + (columns.first - first) * columns.second, 0.0);
        rows.padded(&self.target.second.bias[..second], columns.second);
        rows.padded(&self.target.third[..second], columns.second);
        rows.put(&[self.target.third_bias]);
        rows.put(&self.reasons.own);
        rows.put(&self.head.some_reasons[..head]);
        rows.put(&self.head.no_reasons[..head]);
        rows.matrix(&self.head.candidate, 0..head, head);
        rows.layer(&self.head.second, last);
        rows.put(&self.head.third[..last]);
        rows.put(&[self.head.third_bias]);
        rows.values
    }

    /// Writes an item's vector, its part of the target attention's first layer, and of the head's.
    pub(in crate::nn) fn write_item(
        &self,
        table: &ItemTable,
        item: ItemRef<'_>,
        columns: PaddedWidths,
        out: &mut Vec<u32>,
    ) {
        let row = self.item(table, item);
        let [first, _] = self.shape.attention;
        let target =
            row.target[..first].iter().chain(std::iter::repeat_n(&0.0, columns.first - first));
        let values = row.vector.iter().chain(target).chain(&row.head[..self.shape.head[0]]);
        out.extend(values.map(|value| value.to_bits()));
    }

    /// Writes keys and values of `DinShape::reasons` reasons from `first` on, with zeros past the last.
    pub(in crate::nn) fn write_reasons(&self, table: &ReasonTable, first: u32, out: &mut Vec<u32>) {
        let (d, first) = (self.shape.width, first as usize);
        let end = out.len() + self.shape.reasons * 2 * d;
        for reason in first..table.len().min(first + self.shape.reasons) {
            let (key, value) = table.row(reason, d);
            out.extend(key.iter().chain(value).map(|value| value.to_bits()));
        }
        out.resize(end, 0);
    }
}

// === impl RowMajorWriter ===

impl<'a> RowMajorWriter<'a> {
    fn of(fused: &'a FusedDin) -> Self {
        Self { fused, values: Vec::new() }
    }

    fn put(&mut self, values: &[f32]) {
        self.values.extend_from_slice(values);
    }

    fn padded(&mut self, values: &[f32], count: usize) {
        self.put(values);
        self.values.resize(self.values.len() + count - values.len(), 0.0);
    }

    fn norm(&mut self, norm: &FusedLayerNorm) {
        self.put(&norm.scale);
        self.put(&norm.shift);
    }

    /// (inputs, columns), and the bias.
    fn layer(&mut self, dense: &PanelLinear, columns: usize) {
        self.matrix(dense, 0..columns, columns);
        self.put(&dense.bias[..columns]);
    }

    /// (inputs, `padded`): a range of columns, and zeros.
    fn matrix(&mut self, dense: &PanelLinear, columns: std::ops::Range<usize>, padded: usize) {
        let panel = panel_width(self.fused.level);
        for input in 0..dense.inner {
            let end = self.values.len() + padded;
            self.values.extend(columns.clone().map(|column| dense.at(panel, input, column)));
            self.values.resize(end, 0.0);
        }
    }
}
