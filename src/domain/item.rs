//! What a shopper did, and what a product says about itself.

use super::ItemId;

/// Seconds since the Unix epoch.
pub type Timestamp = i64;

/// Something a shopper did to a product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The product.
    pub item: ItemId,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
}

/// How much an event says about a shopper's taste.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    /// Seen in a list.
    Impression,
    /// Opened.
    Click,
    /// Put in the cart.
    Cart,
    /// Bought.
    Purchase,
    /// Waved away.
    Dismissal,
}

impl EventKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Impression, Self::Click, Self::Cart, Self::Purchase, Self::Dismissal];

    /// Whether models read events of this kind as history. Impressions say what the shop chose,
    /// not what the shopper did; dismissals are too rare in any log that we have seen.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Click | Self::Cart | Self::Purchase)
    }

    /// The word used in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Impression => "impression",
            Self::Click => "click",
            Self::Cart => "cart",
            Self::Purchase => "purchase",
            Self::Dismissal => "dismissal",
        }
    }

    /// Reads the word used in files.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// What a product says about itself, when it comes inline with a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemText {
    /// Its name.
    pub title: String,
    /// Its category.
    pub category: String,
    /// Name and value pairs: colour, material, …
    pub attributes: Vec<(String, String)>,
}
