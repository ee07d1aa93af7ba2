//! What does the shop sell, and who bought what?
//!
//! A [`Shop`] is stored in a folder of three files that [`import()`] writes and [`Shop::open`] reads:
//! `items.jsonl.zst`, `events.csv.zst` and `shop.json`, which holds the counts and a hash of each
//! file.

mod folder;
mod import;

pub use folder::{FILES, ShopError};
pub use import::{
    CatalogCounts, DecimalMark, Delimiter, EventRow, EventRows, EventSpan, FileSpec, FoundColumn,
    IgnoredColumns, ImportError, ImportReport, ImportSpec, LogCounts, Quote, Reject, RejectReason,
    RejectReasons, Rejects, SpanWarning, TableFormat, TableReport, TextEncoding, TimeForm,
    TimeOptions, TimeOptionsError, TimeUnit, UnknownItems, import, read_events,
};

use crate::domain::{EventKind, ItemId, Timestamp, UserId};
use rustc_hash::FxHashMap;

/// Bytes of an item's description, at most.
pub const DESCRIPTION_BYTES_MAX: usize = 16 << 10;
/// Bytes of an attribute's name or value, at most. A catalogue may have longer ones than a request.
pub const ATTRIBUTE_BYTES_MAX: usize = 512;

/// A shop's items, and what its users did to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shop {
    /// The products. Ids are distinct.
    pub items: Vec<ShopItem>,
    /// The users, in the order of their first events. Ids are distinct.
    pub users: Vec<UserId>,
    /// The events, sorted by (time, user, basket); equal keys keep the order of the source.
    pub events: Vec<ShopEvent>,
}

/// A product.
#[derive(Clone, Debug, PartialEq)]
pub struct ShopItem {
    /// Its id.
    pub id: ItemId,
    /// Its name.
    pub title: String,
    /// Its category; empty if it has none.
    pub category: String,
    /// Name and value pairs, sorted by name; a name may have several values.
    pub attributes: Vec<(String, String)>,
    /// A longer text; empty if it has none.
    pub description: String,
    /// The price of one, in the shop's currency.
    pub price: Option<f32>,
}

/// One event: a click, a put into the cart, or a line of an invoice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShopEvent {
    /// When it happened.
    pub time: Timestamp,
    /// The user: an index into [`Shop::users`].
    pub user: u32,
    /// The item: an index into [`Shop::items`].
    pub item: u32,
    /// What the user did.
    pub kind: EventKind,
    /// The number of pieces. Positive.
    pub quantity: f32,
    /// The price of one at that time, in the shop's currency.
    pub price: Option<f32>,
    /// The number of the basket: lines of one user that were bought together share it.
    pub basket: u32,
}

// === impl Shop ===

impl Shop {
    /// The index of each item by its id.
    pub fn item_index(&self) -> FxHashMap<ItemId, u32> {
        self.items.iter().zip(0..).map(|(item, index)| (item.id.clone(), index)).collect()
    }

    /// The times of the first and the last event.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        Some((self.events.first()?.time, self.events.last()?.time))
    }

    /// How many baskets there are.
    pub fn baskets(&self) -> u32 {
        self.events.iter().map(|line| line.basket + 1).max().unwrap_or(0)
    }
}
