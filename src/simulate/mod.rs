//! What would a plausible shop look like, if nobody's data could be shipped?
//!
//! A small shop that the project makes itself, from a seed: products with titles, attributes and
//! prices, and shoppers with tastes, budgets and lives. Days pass one by one; on each, the shop
//! shows lists, and shoppers examine, click, fill carts and buy. What they truly felt goes to the
//! oracle's files, which no model reads.
//!
//! Time is the outer loop, so that events come out sorted and none is kept longer than its day.
//! A shopper costs one `Memory` and the day of the next visit, 298 bytes, and
//! the share of a day's events: 330 bytes in all, measured between 20,000 and 200,000 shoppers.
//! The persona is drawn again from its seed at every visit. Memory is therefore proportional to
//! shoppers and products, and does not grow with days.

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
mod words;
mod write;

#[cfg(test)]
mod tests;

pub use days::simulate;

use crate::domain::Timestamp;
use serde::Serialize;

/// The most days that one run may cover: a day's number has to fit 16 bits.
pub const DAYS_MAX: u32 = 20_000;
/// The most products: an id has to fit its columns and the shop sorts its shelves every day.
pub const PRODUCTS_MAX: u32 = 200_000;
/// The most shoppers: 30 GB of memory.
pub const SHOPPERS_MAX: u32 = 100_000_000;

/// Which shop to make. The same configuration gives the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Where all chance comes from.
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

impl Default for Config {
    fn default() -> Self {
        // 1 704 067 200 is 2024-01-01T00:00:00Z.
        Self { seed: 7, shoppers: 6_000, products: 3_000, days: 730, start: 1_704_067_200 }
    }
}

/// What was written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Products in the catalogue.
    pub products: u64,
    /// Shoppers, with or without events.
    pub shoppers: u64,
    /// Rows of the events' file.
    pub events: u64,
    /// Of them clicks.
    pub clicks: u64,
    /// Of them additions to a cart.
    pub carts: u64,
    /// Of them purchases.
    pub purchases: u64,
    /// Checkouts; a purchase belongs to exactly one.
    pub baskets: u64,
}
