//! Which items came to the shop after the bundle was made?
//!
//! A shop puts such items while the service runs. They are durable before a put is acknowledged, and requests read them
//! through one pointer. A bundle that holds an item wins: its text and its cards describe the item as long as it serves.

mod stored;
mod writer;

pub use writer::{ItemWriter, PutError, PutOutcome};

use crate::domain::{ItemId, ItemText, Timestamp};
use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Items that may be put, at most: each put copies a table with one pointer per item.
pub const NEW_ITEMS_MAX: usize = 100_000;
/// Items of one put, at most.
pub const PUT_ITEMS_MAX: usize = 1_000;
/// Days for which the store keeps an item that the bundle holds, so that an older bundle may come back.
pub const KEPT_DAYS: i64 = 30;

/// An item that was put.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// Its title, category and attributes.
    pub text: ItemText,
    /// Its price in the shop's currency, if it was given: finite, and not negative.
    pub price: Option<f32>,
    /// When it was first put. A later put with another text does not change that.
    pub put_at: Timestamp,
}

/// The items that were put, for readers. Clones see the same items.
#[derive(Clone, Debug, Default)]
pub struct NewItems(Arc<ArcSwap<ItemTable>>);

/// Items by id.
type ItemTable = FxHashMap<ItemId, Arc<NewItem>>;

// === impl NewItems ===

impl NewItems {
    /// The item of this id, if it was put.
    pub fn get(&self, id: &ItemId) -> Option<Arc<NewItem>> {
        self.0.load().get(id).cloned()
    }

    /// Every item that was put, sorted by id.
    pub fn all(&self) -> Vec<(ItemId, Arc<NewItem>)> {
        let table = self.0.load();
        let mut all: Vec<_> = table.iter().map(|(id, item)| (id.clone(), item.clone())).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// How many items were put.
    pub fn len(&self) -> usize {
        self.0.load().len()
    }

    /// Whether none was put.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
