//! Events of shoppers, and the text of items.

use super::ItemId;

/// Seconds since the Unix epoch.
pub type Timestamp = i64;

/// Something that a shopper did with an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The item.
    pub item: ItemId,
    /// Its time.
    pub time: Timestamp,
    /// Its kind.
    pub kind: EventKind,
}

/// What a shopper did. The numbers are written into files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    /// The item was shown in a list.
    Impression,
    /// The shopper opened it.
    Click,
    /// The shopper put it in the cart.
    Cart,
    /// The shopper bought it.
    Purchase,
    /// The shopper dismissed it.
    Dismissal,
}

impl EventKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::Impression, Self::Click, Self::Cart, Self::Purchase, Self::Dismissal];

    /// Whether models read events of this kind as history. An impression is the shop's choice, not the
    /// shopper's, and dismissals are too rare in the logs that we know.
    pub fn is_read(self) -> bool {
        matches!(self, Self::Click | Self::Cart | Self::Purchase)
    }

    /// Its word in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Impression => "impression",
            Self::Click => "click",
            Self::Cart => "cart",
            Self::Purchase => "purchase",
            Self::Dismissal => "dismissal",
        }
    }

    /// Reads its word in files.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// The text of an item, as it comes inline with a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemText {
    /// Its title.
    pub title: String,
    /// Its category.
    pub category: String,
    /// Names and values: colour, material, …
    pub attributes: Vec<(String, String)>,
}
