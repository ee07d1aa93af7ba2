//! What can honestly be said about an item or a shopper, from the shop's own data?
//!
//! The evidence writer makes cards without a language model: each sentence comes from counts of
//! events before the card's as-of time, and carries those counts, so that a program can check
//! every claim. It has nothing to say where the data says nothing.

mod ledger;
mod pattern;
mod reasons;
mod wording;

pub use ledger::{Ledger, Purchase};
pub use pattern::{LIKES_TOLD, Pattern, liked, pattern, shared};
pub use reasons::{BUYERS_MIN, Partner, item_cards};
pub use wording::{MONTHS, describes, sayings, speaks};
