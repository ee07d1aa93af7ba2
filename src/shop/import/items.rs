//! Rows to items.

use super::attributes::ItemAttributes;
use super::cell::{self, CellFault, DecimalMark};
use super::columns::{ColumnSpec, ColumnSpecs, KnownColumn};
use super::numbering::IdNumbers;
use super::row::ImportRow;
use super::{ImportSpec, ShopItem};
use crate::domain::limits::TITLE_BYTES_MAX;
use crate::shop::DESCRIPTION_BYTES_MAX;
use std::path::Path;
use std::rc::Rc;

/// The columns of an item. In a row, those taken as attributes follow them.
pub(super) const COLUMNS: [KnownColumn; 6] = [
    KnownColumn::new("item_id", &["id"]).required().id(),
    KnownColumn::new("title", &["name"]).required(),
    KnownColumn::new("category", &["categories"]).nested(),
    KnownColumn::new("description", &["plot"]),
    KnownColumn::new("price", &[]),
    KnownColumn::new("attributes", &[]).nested(),
];
const ID: usize = 0;
const TITLE: usize = 1;
const CATEGORY: usize = 2;
const DESCRIPTION: usize = 3;
const PRICE: usize = 4;
const ATTRIBUTES: usize = 5;

/// The columns to look for in a table of items.
pub(super) fn columns(spec: &ImportSpec) -> ColumnSpecs {
    let known = COLUMNS.iter().map(|column| column.spec(spec));
    known.chain(spec.attributes.iter().map(|name| ColumnSpec::attribute(name))).collect()
}

/// Collects the items of a table.
pub(super) struct ItemsBuilder {
    decimal: DecimalMark,
    items: Vec<ShopItem>,
    ids: IdNumbers,
    /// The file and line of each item's id.
    lines: Vec<(Rc<Path>, u64)>,
}

// === impl ItemsBuilder ===

impl ItemsBuilder {
    /// Collects items whose prices have this decimal mark.
    pub(super) fn new(decimal: DecimalMark) -> Self {
        Self { decimal, items: Vec::new(), ids: IdNumbers::default(), lines: Vec::new() }
    }

    /// Adds the item of a row. The last columns hold the attributes `named`.
    pub(super) fn take(&mut self, row: &ImportRow, named: &[String]) -> Result<(), CellFault> {
        let id = row.read(ID, cell::id)?;
        if let Some(item) = self.ids.find(id.as_bytes()) {
            let (file, line) = &self.lines[item as usize];
            let of =
                if *file == row.file { String::new() } else { format!(" of {}", file.display()) };
            let expected = format!("an id of its own: line {line}{of} has this one").into();
            return Err(CellFault { column: ID, expected });
        }
        let item = ShopItem {
            id: id.into(),
            title: row.read(TITLE, cell::text(TITLE_BYTES_MAX))?,
            category: row.read(CATEGORY, cell::text(TITLE_BYTES_MAX))?,
            attributes: attributes(row, named)?,
            description: row.read(DESCRIPTION, cell::text(DESCRIPTION_BYTES_MAX))?,
            price: row.read_if_any(PRICE, cell::price(self.decimal))?,
        };
        self.ids.number(id.as_bytes());
        self.lines.push((row.file.clone(), row.line));
        self.items.push(item);
        Ok(())
    }

    /// The items, and their ids with their indices.
    pub(super) fn finish(self) -> (Vec<ShopItem>, IdNumbers) {
        (self.items, self.ids)
    }
}

/// The attributes of a row, sorted by name.
fn attributes(row: &ImportRow, named: &[String]) -> Result<Vec<(String, String)>, CellFault> {
    let mut pairs = ItemAttributes::default();
    row.read_if_any(ATTRIBUTES, |text| pairs.add_object(text))?;
    for (name, column) in named.iter().zip(COLUMNS.len()..) {
        row.read(column, |text| pairs.add_values(name, text))?;
    }
    Ok(pairs.sorted())
}
