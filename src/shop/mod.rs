//! What does the shop sell, and who bought what?
//!
//! A [`Shop`] lies in a folder of three files that [`import()`] writes and [`Shop::open`] reads:
//! `items.jsonl.zst`, `events.csv.zst` and `shop.json`, which holds the counts and a hash of each
//! file.

mod folder;
mod import;

pub use folder::ShopError;
pub use import::{Ignored, ImportError, ImportReport, ImportSpec, Reject, Rejects, import};

use crate::domain::{EventKind, ItemId, Timestamp, UserId};
use rustc_hash::FxHashMap;

/// Bytes of an item's description.
pub const DESCRIPTION_BYTES_MAX: usize = 16 << 10;
/// Bytes of an attribute's name or value: a catalogue may say more than a request does.
pub const ATTRIBUTE_BYTES_MAX: usize = 512;

/// A shop's items, and what its users did to them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shop {
    /// What it sells. Ids are distinct.
    pub items: Vec<ShopItem>,
    /// Who did something, by first appearance in the events. Ids are distinct.
    pub users: Vec<UserId>,
    /// What they did, sorted by (time, user, basket); ties lie in the order of the source.
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
    /// A longer text; empty if there is none.
    pub description: String,
    /// What one costs, in the shop's currency.
    pub price: Option<f32>,
}

/// One event: a line of an invoice, or a click.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShopEvent {
    /// When.
    pub time: Timestamp,
    /// Who: an index into [`Shop::users`].
    pub user: u32,
    /// What: an index into [`Shop::items`].
    pub item: u32,
    /// What was done to it.
    pub kind: EventKind,
    /// How many. Positive.
    pub quantity: f32,
    /// What one cost then, in the shop's currency.
    pub price: Option<f32>,
    /// Lines of one user that belong together share this number.
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

    /// How many baskets the events make.
    pub fn baskets(&self) -> u32 {
        self.events.iter().map(|line| line.basket + 1).max().unwrap_or(0)
    }
}
