//! What the catalogue's counts are at a moment, up to date with every event.
//!
//! [`Statistics`] counts events by item, by category and attribute, and by pair of items. [`ShopperPast`] holds what one
//! shopper did with each item. Training replays a log through [`Statistics::apply`], and a server applies what
//! happens: both read the same numbers at the same moment, bit for bit. `docs/statistics.md` gives the rules.

mod basket;
mod chunks;
mod counts;
mod error;
mod file;
mod groups;
mod item;
mod pairs;
mod past;
#[cfg(test)]
mod tests;
mod windows;

pub use basket::{BASKET_ITEMS_MAX, VISIT_S};
pub use counts::Statistics;
pub use error::StatisticsError;
pub use groups::{GROUPS_MAX, ITEM_GROUPS_MAX, ITEMS_MAX, ItemGroups};
pub use item::{DaySales, GroupCounts, ItemCounts};
pub use pairs::{PAIR_DAYS, PARTNERS_MAX, PairCounts};
pub use past::{BASKET_FADE, ItemPast, LATEST_ITEMS_MAX, PAST_ITEMS_MAX, REBUY_DAYS, ShopperPast};
pub use windows::{REPEAT_DAYS, WINDOW_DAYS};

use crate::domain::{EventKind, Timestamp};

/// The number of no item: its events are not counted, and its counts are zeros.
pub const UNKNOWN_ITEM: u32 = u32::MAX;

/// An event with its item by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShopEvent {
    /// The number of the item.
    pub item: u32,
    /// Its time.
    pub time: Timestamp,
    /// Its kind.
    pub kind: EventKind,
}
