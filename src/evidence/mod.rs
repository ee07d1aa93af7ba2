//! What can honestly be said about an item or a shopper, from the shop's own data?
//!
//! The evidence writer makes cards without a language model: each sentence comes from counts of
//! events before the card's as-of time, and carries those counts, so that a program can check
//! every claim. It has nothing to say where the data says nothing.

mod ledger;
mod pattern;
mod reasons;
mod wording;

pub use ledger::{Purchase, PurchaseCounts};
pub use pattern::{PATTERN_LIKES_MAX, Pattern, common_attributes, liked_attributes, pattern_text};
pub use reasons::{BUYERS_MIN, SimilarItem, item_cards};
pub use wording::{MONTHS, can_be_said, is_descriptive, phrasings};
