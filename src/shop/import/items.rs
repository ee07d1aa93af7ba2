//! From rows to items.

use super::attributes::Pairs;
use super::cell::{self, Wrong};
use super::columns::{Columns, Known, Wanted};
use super::table::Row;
use super::{ImportSpec, ShopItem};
use crate::domain::limits::TITLE_BYTES_MAX;
use crate::shop::DESCRIPTION_BYTES_MAX;
use rustc_hash::FxHashMap;

/// The columns of an item; those taken as attributes follow them in a row.
pub(super) const COLUMNS: [Known; 6] = [
    Known::new("item_id", &["id"]).needed(),
    Known::new("title", &["name"]).needed(),
    Known::new("category", &["categories"]).nested(),
    Known::new("description", &["plot"]),
    Known::new("price", &[]),
    Known::new("attributes", &[]).nested(),
];
const ID: usize = 0;
const TITLE: usize = 1;
const CATEGORY: usize = 2;
const DESCRIPTION: usize = 3;
const PRICE: usize = 4;
const ATTRIBUTES: usize = 5;

/// What to look for in a table of items.
pub(super) fn columns(plan: &ImportSpec) -> Columns {
    let known = COLUMNS.iter().map(|column| column.wanted(plan));
    known.chain(plan.attributes.iter().map(|name| Wanted::attribute(name))).collect()
}

/// The items read so far.
#[derive(Default)]
pub(super) struct Items {
    items: Vec<ShopItem>,
    /// The line of each id.
    lines: FxHashMap<String, u64>,
}

// === impl Items ===

impl Items {
    /// Takes the item of a row; the columns `named` hold attributes.
    pub(super) fn take(&mut self, row: &Row, named: &[String]) -> Result<(), Wrong> {
        let id = row.read(ID, cell::id)?;
        if let Some(line) = self.lines.get(id) {
            let expected = format!("an id of its own: line {line} has this one").into();
            return Err(Wrong { column: ID, expected });
        }
        let item = ShopItem {
            id: id.into(),
            title: row.read(TITLE, cell::text(TITLE_BYTES_MAX))?,
            category: row.read(CATEGORY, cell::text(TITLE_BYTES_MAX))?,
            attributes: attributes(row, named)?,
            description: row.read(DESCRIPTION, cell::text(DESCRIPTION_BYTES_MAX))?,
            price: row.read_if_any(PRICE, cell::price)?,
        };
        self.lines.insert(id.to_owned(), row.line);
        self.items.push(item);
        Ok(())
    }

    pub(super) fn finish(self) -> Vec<ShopItem> {
        self.items
    }
}

/// The attributes of a row, sorted by name.
fn attributes(row: &Row, named: &[String]) -> Result<Vec<(String, String)>, Wrong> {
    let mut pairs = Pairs::default();
    row.read_if_any(ATTRIBUTES, |text| pairs.add_object(text))?;
    for (name, column) in named.iter().zip(COLUMNS.len()..) {
        row.read(column, |text| pairs.add_values(name, text))?;
    }
    Ok(pairs.sorted())
}
