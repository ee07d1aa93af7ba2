//! Items and reasons, projected ahead of requests.

use super::kernels::{ApplyLinear, Epilogue, RowsView, run};
use super::shape_error::FusedShapeError;
use super::{FusedDin, ItemRef};

/// The items of a catalogue: their vectors and their parts of the first layers.
#[derive(Debug, Clone)]
pub struct ItemTable {
    values: Vec<f32>,
    pub(super) stride: usize,
}

/// An item given in a request, as a row of an [`ItemTable`].
#[derive(Debug, Clone)]
pub struct InlineItem(Vec<f32>);

/// The keys and values of reasons.
#[derive(Debug, Clone)]
pub struct ReasonTable {
    values: Vec<f32>,
    pub(super) stride: usize,
}

/// The parts of an item's row.
#[derive(Debug, Clone, Copy)]
pub(super) struct ItemSlices<'a> {
    /// v (d)
    pub vector: &'a [f32],
    /// Its part of the target attention's first layer.
    pub target: &'a [f32],
    /// Its part of the head's first layer.
    pub head: &'a [f32],
}

impl ItemTable {
    /// Number of items.
    pub fn len(&self) -> usize {
        self.values.len() / self.stride
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

impl ReasonTable {
    /// Number of reasons.
    pub fn len(&self) -> usize {
        self.values.len() / self.stride
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Key (d) and value (d) of a reason.
    pub(super) fn row(&self, index: usize, width: usize) -> (&[f32], &[f32]) {
        self.values[index * self.stride..][..2 * width].split_at(width)
    }
}

impl FusedDin {
    /// Rows of the catalogue's items, whose ids are 1, 2, …; `texts` is (n, e).
    ///
    /// Items past `DinShape::items` are newer than the network, and get the unknown item's id.
    pub fn items(&self, texts: &[f32]) -> Result<ItemTable, FusedShapeError> {
        let texts = self.texts(texts)?;
        let known = |index| if index < self.shape.items { index + 1 } else { 0 };
        let values = self.item_rows(texts, (0..texts.count).map(known));
        Ok(ItemTable { values, stride: self.item_stride() })
    }

    /// The row of an item outside the catalogue; `text` is (e).
    pub fn item_inline(&self, text: &[f32]) -> Result<InlineItem, FusedShapeError> {
        let text = self.texts(text)?;
        if text.count != 1 {
            return Err(FusedShapeError::Text);
        }
        Ok(InlineItem(self.item_rows(text, std::iter::once(0))))
    }

    /// Keys and values of reasons; `texts` is (n, e).
    pub fn reasons(&self, texts: &[f32]) -> Result<ReasonTable, FusedShapeError> {
        let stride = self.reasons.project.outer();
        let rows = self.texts(texts)?;
        let mut values = vec![0.0; rows.count * stride];
        let (dense, finish) = (&self.reasons.project, Epilogue::Set);
        run(self.level, ApplyLinear { dense, rows, out: &mut values, stride, finish });
        Ok(ReasonTable { values, stride })
    }

    pub(super) fn item_stride(&self) -> usize {
        self.item_text.outer() + self.item_target.outer() + self.item_head.outer()
    }

    /// Whether a table has an item.
    pub(super) fn has(&self, table: &ItemTable, item: ItemRef<'_>) -> bool {
        match item {
            ItemRef::Row(index) => (index as usize) < table.len(),
            ItemRef::Inline(row) => row.0.len() == self.item_stride(),
        }
    }

    /// The row of an item that the table has.
    pub(super) fn item<'a>(&self, table: &'a ItemTable, item: ItemRef<'a>) -> ItemSlices<'a> {
        let row = match item {
            ItemRef::Row(index) => &table.values[index as usize * table.stride..][..table.stride],
            ItemRef::Inline(row) => &row.0,
        };
        let (vector, rest) = row.split_at(self.item_text.outer());
        let (target, head) = rest.split_at(self.item_target.outer());
        ItemSlices { vector: &vector[..self.shape.width], target, head }
    }

    fn texts<'a>(&self, values: &'a [f32]) -> Result<RowsView<'a>, FusedShapeError> {
        let inner = self.shape.text;
        if !values.len().is_multiple_of(inner) {
            return Err(FusedShapeError::Text);
        }
        Ok(RowsView { values, stride: inner, inner, count: values.len() / inner })
    }

    fn item_rows(&self, rows: RowsView<'_>, ids: impl Iterator<Item = usize>) -> Vec<f32> {
        let (d, stride, padded) = (self.shape.width, self.item_stride(), self.item_text.outer());
        let mut vectors = vec![0.0; rows.count * padded];
        for (vector, id) in vectors.chunks_exact_mut(padded).zip(ids) {
            vector[..d].copy_from_slice(&self.item_ids[id * d..(id + 1) * d]);
        }
        let (dense, finish) = (&self.item_text, Epilogue::Add);
        run(self.level, ApplyLinear { dense, rows, out: &mut vectors, stride: padded, finish });

        let mut table = vec![0.0; rows.count * stride];
        for (row, vector) in table.chunks_exact_mut(stride).zip(vectors.chunks_exact(padded)) {
            row[..padded].copy_from_slice(vector);
        }
        let mut from = padded;
        for dense in [&self.item_target, &self.item_head] {
            let rows = RowsView { values: &vectors, stride: padded, inner: d, count: rows.count };
            let out = table.get_mut(from..).unwrap_or_default();
            run(self.level, ApplyLinear { dense, rows, out, stride, finish: Epilogue::Set });
            from += dense.outer();
        }
        table
    }
}
