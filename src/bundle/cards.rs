//! What we know about users and items, written ahead of time.

use crate::domain::{EventKind, Evidence, ReasonSource, Timestamp, UserId};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Reasons that one item may have (CURec's M).
pub const REASONS_MAX: usize = 10;
/// Partners that an item's card names: those whose buyers are most alike.
pub const PARTNERS: usize = 40;
/// Companions that an item's card names: those that most often lie in one basket with it.
pub const COMPANIONS: usize = 20;
/// Events of a user's history that a model reads.
pub const HISTORY_LEN: usize = 50;

/// The cards of one bundle, and the vectors of their texts.
#[derive(Clone, Debug, Default)]
pub struct Cards {
    /// Only events before this moment were read.
    pub as_of: Timestamp,
    /// One per item of the catalogue, by number.
    pub items: Vec<ItemCard>,
    /// By user.
    pub users: FxHashMap<UserId, Arc<UserCard>>,
    /// Each item's partners: the cosine says how alike their buyers are.
    pub partners: NeighbourTable,
    /// Each item's companions: the cosine says how alike the baskets are that hold them.
    pub companions: NeighbourTable,
    /// The vector of each item's text: (items, width).
    pub item_vectors: Vec<f32>,
    /// The vector of each reason, items in order and their reasons in order: (reasons, width).
    pub reason_vectors: Vec<f32>,
    /// Each item's vector in the Rechead's space: (items, its width). Empty where there is no Rechead,
    /// and where cards were written without it.
    pub rechead_vectors: Arc<[f32]>,
}

/// Stands where an item has no more ties.
pub const NO_NEIGHBOUR: u32 = u32::MAX;

/// Which items each item is tied to, and how closely: a table of as many columns for each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NeighbourTable {
    /// Ties of one item, at most.
    pub columns: usize,
    /// Closest first: (items, columns), filled up with [`NO_NEIGHBOUR`].
    pub items: Vec<u32>,
    /// How close they are, in `0..=1`, in the same places.
    pub closeness: Vec<f32>,
}

/// What we know about an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemCard {
    /// Figures from its sales.
    pub stats: ItemStats,
    /// Why shoppers take it: first what a language model says most often, then strongest first; at most
    /// [`REASONS_MAX`].
    pub reasons: Vec<CardReason>,
    /// The row of its first reason in the table of reason vectors.
    pub first_reason: u32,
}

/// Figures from an item's sales before the card's as-of time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemStats {
    /// Purchase lines.
    pub sales: u32,
    /// Purchase lines in the last 28 days.
    pub sales_recent: u32,
    /// Distinct buyers.
    pub buyers: u32,
    /// When it first sold, if it did.
    pub first_sale: Option<Timestamp>,
    /// Purchase lines by month of the year.
    pub months: [u32; 12],
    /// What it cost when it last sold, or else what the catalogue says.
    pub price: Option<f32>,
    /// The share of its category's items that cost less, in `0..=1`.
    pub price_rank: f32,
}

/// One reason on an item's card.
#[derive(Clone, Debug, PartialEq)]
pub struct CardReason {
    /// The sentence.
    pub text: Arc<str>,
    /// Who wrote it.
    pub source: ReasonSource,
    /// What it rests on.
    pub evidence: Arc<[Evidence]>,
    /// How strong the tie is, in `0..=1`: the cosine, for co-purchases.
    pub strength: f32,
    /// What in a shopper's history would back it.
    pub backing: Backing,
    /// The buyers that it rests on, when they are so few that it would fall without one of them:
    /// it is left out for those (CURec's leave-own-reason-out).
    pub supporters: Vec<UserId>,
}

/// What in a shopper's history would back a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// Having bought this item.
    Item(u32),
    /// Having bought items with this attribute.
    Attribute(u32),
    /// Nothing: it holds for everybody alike.
    Nothing,
}

/// What we know about a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserCard {
    /// Their interests in words.
    pub pattern: Arc<str>,
    /// The vector of that text.
    pub vector: Vec<f32>,
    /// Their last events, oldest first: at most [`HISTORY_LEN`].
    pub history: Vec<HistoryEvent>,
    /// The number of the item that a language model expects them to want, if one was asked.
    pub expects: Option<u32>,
    /// Their vector in the Rechead's space. Empty where there is no Rechead, and where the card was
    /// written without it: then it is made when the card is looked up.
    pub head: Vec<f32>,
}

/// An event of a history, with its item by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The number of the item.
    pub item: u32,
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
}

// === impl NeighbourTable ===

impl NeighbourTable {
    /// A table with room for this many ties of each item.
    pub fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Adds the row of the next item, closest first; ties for which there is no room are dropped.
    pub fn push(&mut self, ties: impl Iterator<Item = (u32, f32)>) {
        let full = self.items.len() + self.columns;
        for (item, closeness) in ties.take(self.columns) {
            self.items.push(item);
            self.closeness.push(closeness);
        }
        self.items.resize(full, NO_NEIGHBOUR);
        self.closeness.resize(full, 0.0);
    }

    /// The ties of an item and how close they are, closest first.
    pub fn of(&self, item: u32) -> impl Iterator<Item = (u32, f32)> + '_ {
        let row = item as usize * self.columns..(item as usize + 1) * self.columns;
        self.items[row.clone()]
            .iter()
            .zip(&self.closeness[row])
            .take_while(|(item, _)| **item != NO_NEIGHBOUR)
            .map(|(&item, &closeness)| (item, closeness))
    }
}

// === impl ItemStats ===

impl ItemStats {
    /// What it cost when it last sold. The catalogue's price does not count: it may have been
    /// written down later than the card's as-of time.
    pub fn price_paid(&self) -> Option<f32> {
        self.price.filter(|_| self.sales > 0)
    }
}

/// The month of a moment, `0..12`, in UTC: the place of its sales in [`ItemStats::months`].
pub fn month(time: Timestamp) -> usize {
    jiff::Timestamp::from_second(time)
        .map_or(0, |time| time.to_zoned(jiff::tz::TimeZone::UTC).month() as usize - 1)
}
