//! Cards: what is known about users and items, written ahead of time.

use crate::domain::{EventKind, Evidence, ReasonSource, Timestamp, UserId};
use half::f16;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Reasons of one item, at most (CURec's M).
pub const REASONS_MAX: usize = 10;
/// Partners of an item: the items whose buyers overlap most with its own.
pub const PARTNERS: usize = 40;
/// Companions of an item: the items that most often share a basket with it.
pub const COMPANIONS: usize = 20;
/// Events of a user's history that a model reads, at most.
pub const HISTORY_LEN: usize = 50;
/// Events of a user's past before those, at most: the latest are kept. They are counted, but no model reads them.
pub const EARLIER_EVENTS_MAX: usize = 10_000;

/// The cards of one bundle, and the vectors of their texts.
#[derive(Clone, Debug, Default)]
pub struct Cards {
    /// Only events before this moment were read.
    pub as_of: Timestamp,
    /// One for each item of the catalogue, by number.
    pub items: Vec<ItemCard>,
    /// By user.
    pub users: FxHashMap<UserId, Arc<UserCard>>,
    /// Each item's partners, with the cosine of their buyers.
    pub partners: NeighbourTable,
    /// Each item's companions, with the cosine of their baskets.
    pub companions: NeighbourTable,
    /// The vector of each item's text: (items, width).
    pub item_vectors: Vec<f32>,
    /// The vector of each reason, items in order and their reasons in order: (reasons, width).
    pub reason_vectors: Vec<f32>,
    /// Each item's vector by the Rechead: (items, its width). Empty without a Rechead, and if the cards
    /// were written without it.
    pub rechead_vectors: Arc<[f32]>,
}

/// Fills a row of a [`NeighbourTable`] that has too few neighbours.
pub const NO_NEIGHBOUR: u32 = u32::MAX;

/// The nearest items of each item: a table with a row for each item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NeighbourTable {
    /// Neighbours of one item, at most.
    pub columns: usize,
    /// (items, columns), closest first; the rest of a row is [`NO_NEIGHBOUR`].
    pub items: Vec<u32>,
    /// (items, columns): the cosine of each neighbour, in `0..=1`.
    pub closeness: Vec<f32>,
}

/// What we know about an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ItemCard {
    /// Figures from its sales.
    pub stats: ItemStats,
    /// Why shoppers take it: first the reason that a language model gives most often, then strongest
    /// first; at most [`REASONS_MAX`].
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
    /// Its price when it last sold, or else the catalogue's.
    pub price: Option<f32>,
    /// The share of its category's items that cost less, in `0..=1`.
    pub price_rank: f32,
}

/// One reason on an item's card.
#[derive(Clone, Debug, PartialEq)]
pub struct CardReason {
    /// The sentence.
    pub text: Arc<str>,
    /// The author: the evidence writer or a language model.
    pub source: ReasonSource,
    /// The counted facts that it rests on.
    pub evidence: Arc<[Evidence]>,
    /// Its strength, in `0..=1`: for co-purchases, the cosine.
    pub strength: f32,
    /// The part of a shopper's history that backs it.
    pub backing: Backing,
    /// The buyers that it rests on, if they are so few that the reason needs each of them. The reason is
    /// left out for those buyers (CURec's leave-own-reason-out).
    pub supporters: Vec<UserId>,
}

/// The part of a shopper's history that backs a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backing {
    /// A purchase of this item.
    Item(u32),
    /// Purchases of items with this attribute.
    Attribute(u32),
    /// None: the reason holds for everybody.
    Nothing,
}

/// What we know about a user.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserCard {
    /// Their interests, as a text.
    pub pattern: Arc<str>,
    /// The vector of that text.
    pub vector: Vec<f32>,
    /// Their last events, oldest first: at most [`HISTORY_LEN`].
    pub history: Vec<HistoryEvent>,
    /// Their events before those, oldest first: at most [`EARLIER_EVENTS_MAX`].
    pub earlier: Arc<[HistoryEvent]>,
    /// The number of the item that a language model predicts, if the recipe has it predict one.
    pub expected_item: Option<u32>,
    /// Their vector by the Rechead. Empty without a Rechead, and if the card was written without it: then
    /// it is computed when the card is looked up.
    pub rechead_vector: Vec<f32>,
}

/// An event of a history, with its item by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEvent {
    /// The number of the item.
    pub item: u32,
    /// When it happened.
    pub time: Timestamp,
    /// What the user did.
    pub kind: EventKind,
}

// === impl UserCard ===

impl UserCard {
    /// Splits a past, oldest first, into the events before the last [`HISTORY_LEN`], and those.
    pub fn split_past(mut past: Vec<HistoryEvent>) -> (Arc<[HistoryEvent]>, Vec<HistoryEvent>) {
        let history = past.split_off(past.len().saturating_sub(HISTORY_LEN));
        let earlier = &past[past.len().saturating_sub(EARLIER_EVENTS_MAX)..];
        (earlier.into(), history)
    }

    /// Every event that is known of the user, oldest first.
    pub fn past(&self) -> impl Iterator<Item = HistoryEvent> + '_ {
        self.earlier.iter().chain(&self.history).copied()
    }
}

// === impl Cards ===

impl Cards {
    /// Rounds every vector to the precision in which a bundle keeps it.
    pub fn round_as_kept(&mut self) {
        let round = |values: &mut [f32]| {
            for value in values {
                *value = f16::from_f32(*value).to_f32();
            }
        };
        round(&mut self.item_vectors);
        round(&mut self.reason_vectors);
        round(&mut self.partners.closeness);
        round(&mut self.companions.closeness);
        let mut rechead_vectors = self.rechead_vectors.to_vec();
        round(&mut rechead_vectors);
        self.rechead_vectors = rechead_vectors.into();
    }
}

// === impl NeighbourTable ===

impl NeighbourTable {
    /// An empty table with this many columns.
    pub fn new(columns: usize) -> Self {
        Self { columns, ..Self::default() }
    }

    /// Adds the row of the next item, closest first. Neighbours past the last column are dropped.
    pub fn push(&mut self, neighbours: impl Iterator<Item = (u32, f32)>) {
        let full = self.items.len() + self.columns;
        for (item, closeness) in neighbours.take(self.columns) {
            self.items.push(item);
            self.closeness.push(closeness);
        }
        self.items.resize(full, NO_NEIGHBOUR);
        self.closeness.resize(full, 0.0);
    }

    /// The neighbours of an item and their cosines, closest first.
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
    /// Its price when it last sold. The catalogue's price does not count, since it may be newer than the
    /// card's as-of time.
    pub fn price_paid(&self) -> Option<f32> {
        self.price.filter(|_| self.sales > 0)
    }
}

/// The month of a moment, `0..12`, in UTC: the index of its sales in [`ItemStats::months`].
pub fn month(time: Timestamp) -> usize {
    jiff::Timestamp::from_second(time)
        .map_or(0, |time| time.to_zoned(jiff::tz::TimeZone::UTC).month() as usize - 1)
}
