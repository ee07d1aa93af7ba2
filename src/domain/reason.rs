//! Why a shopper may want an item, and the evidence for it.

use super::{ItemId, Timestamp, Version};
use std::sync::Arc;

/// A sentence for the shopper, with its evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    /// The sentence.
    pub text: Arc<str>,
    /// Who wrote it.
    pub source: ReasonSource,
    /// The claims that it makes, which a program can check.
    pub evidence: Arc<[Evidence]>,
    /// The scorer's attention to it for this shopper, in `0..=1`. 0 for a reason from live counts, and for one that
    /// answers the query.
    pub weight: f32,
    /// The bundle that it belongs to.
    pub bundle: Version,
    /// When it was written, from events before that moment alone.
    pub written_at: Timestamp,
}

/// Who wrote a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReasonSource {
    /// The evidence writer, from counts alone.
    Evidence,
    /// A language model, ahead of time.
    Cached,
    /// A language model, for this request.
    Live,
}

/// One claim that can be checked against the shop's log.
///
/// Its figure is `count` of `of`; the [`EvidenceKind`] defines what they count.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// What kind of claim.
    pub kind: EvidenceKind,
    /// The other item, for co-purchases.
    pub item: Option<ItemId>,
    /// The name of the attribute, or of the quantity in `value`.
    pub attribute: Arc<str>,
    /// The attribute's value.
    pub value: Arc<str>,
    /// How many …
    pub count: u32,
    /// … of how many.
    pub of: u32,
}

/// What a piece of evidence claims about its item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EvidenceKind {
    /// `count` of the item's `of` buyers also bought `item`.
    CoPurchase,
    /// The item has `attribute` = `value`; `count` of its `of` buyers also bought another item
    /// with it.
    Attribute,
    /// The item's price, `value`, is above that of `count` of the `of` items of its category.
    Price,
    /// `count` of the item's `of` sales fell in the months named by `value`.
    Season,
    /// `count` shoppers bought it in the last `of` days.
    Recency,
    /// `count` of its `of` buyers came back for it.
    Repeat,
    /// The item has `attribute` = `value`; `of` shoppers bought an item with it, and `count` of them
    /// bought several.
    AttributeBuyers,
    /// From live counts: `count` purchases were counted on the `of` days (UTC) since `value`, that day included.
    SoldSince,
    /// The shop put it on the day `value` (UTC), `count` days ago. It is told within `of` days.
    NewSince,
    /// The item has `attribute` = `value`, and the request's query asks for it: `count` of the value's `of` words stand
    /// in the query.
    Asked,
}

impl EvidenceKind {
    /// Its word in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CoPurchase => "co_purchase",
            Self::Attribute => "attribute",
            Self::Price => "price",
            Self::Season => "season",
            Self::Recency => "recency",
            Self::Repeat => "repeat",
            Self::AttributeBuyers => "attribute_buyers",
            Self::SoldSince => "sold_since",
            Self::NewSince => "new_since",
            Self::Asked => "asked",
        }
    }

    /// Reads its word in files. What a bundle claims only while it serves stands in none.
    pub fn parse(word: &str) -> Option<Self> {
        let all = [
            Self::CoPurchase,
            Self::Attribute,
            Self::Price,
            Self::Season,
            Self::Recency,
            Self::Repeat,
            Self::AttributeBuyers,
        ];
        all.into_iter().find(|kind| kind.as_str() == word)
    }
}
