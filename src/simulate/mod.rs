//! What would a plausible shop look like, if no real data can be published?
//!
//! A small shop from a seed: products with titles, attributes and prices, and shoppers with tastes,
//! budgets and lives. On each day the shop shows lists, and shoppers examine, click, fill carts and buy.
//! Their true utilities go to the oracle's files, which no model reads.
//!
//! The outer loop is over days, so events are generated in time order, and none is stored longer than
//! its day. A shopper takes 330 bytes, measured between 20,000 and 200,000 shoppers: a `PurchaseMemory` and
//! the day of the next visit are 298, and the rest is the share of a day's events. The persona is drawn
//! again from its seed at every visit. So memory is proportional to shoppers and products, and does not
//! grow with days.

mod catalogue;
mod days;
mod dice;
mod goods;
mod memory;
mod mood;
mod persona;
mod season;
mod shelf;
mod title;
mod visit;
mod wordings;
mod words;
mod write;

#[cfg(test)]
mod tests;

pub use days::simulate;
pub use wordings::{SYNONYMS, Synonyms, Wordings};

use crate::domain::Timestamp;
use serde::Serialize;

/// Days, at most: a day's number has 16 bits.
pub const DAYS_MAX: u32 = 20_000;
/// Products, at most: an id has five digits or six, and every day sorts the shelves.
pub const PRODUCTS_MAX: u32 = 200_000;
/// Shoppers, at most: they take 30 GB of memory.
pub const SHOPPERS_MAX: u32 = 100_000_000;

/// The configuration of a simulated shop. Equal configurations give equal bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SimulationConfig {
    /// The seed of everything random.
    pub seed: u64,
    /// How many shoppers: `1..=SHOPPERS_MAX`.
    pub shoppers: u32,
    /// How many products: `1..=PRODUCTS_MAX`.
    pub products: u32,
    /// How many days: `1..=DAYS_MAX`.
    pub days: u32,
    /// The first midnight, in Unix seconds.
    pub start: Timestamp,
}

impl Default for SimulationConfig {
    fn default() -> Self {
        // 1 704 067 200 is 2024-01-01T00:00:00Z.
        Self { seed: 7, shoppers: 6_000, products: 3_000, days: 730, start: 1_704_067_200 }
    }
}

/// The counts of a simulated shop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SimulationSummary {
    /// Products in the catalogue.
    pub products: u64,
    /// Shoppers, with or without events.
    pub shoppers: u64,
    /// Events.
    pub events: u64,
    /// Clicks among them.
    pub clicks: u64,
    /// Additions to a cart among them.
    pub carts: u64,
    /// Purchases among them.
    pub purchases: u64,
    /// Baskets; a purchase belongs to exactly one.
    pub baskets: u64,
}
