//! What can honestly be said about an item or a shopper, from the shop's own data?
//!
//! The evidence writer makes cards without a language model. Each sentence comes from counts of events before the
//! card's as-of time, and carries those counts, so that a program can check every claim. Where the data shows nothing,
//! there is no sentence.

mod answer;
mod choice;
mod counts;
mod live;
mod pattern;
mod reasons;
mod wording;

pub use answer::{Answer, answer};
pub use choice::{ChoiceWeights, ReasonChoice, ReasonSignals, form};
pub use counts::{Purchase, PurchaseCounts};
pub use live::{LiveClaim, LiveFacts, NEW_DAYS, SOLD_SINCE_DAYS, SOLD_SINCE_MIN};
pub use pattern::{PATTERN_LIKES_MAX, Pattern, common_attributes, liked_attributes, pattern_text};
pub use reasons::{BUYERS_MIN, SimilarItem, item_cards};
pub use wording::{MONTHS, can_be_said, is_descriptive, phrasings};
