//! The catalogue's counts.

use super::ShopEvent;
use super::chunks::Chunked;
use super::groups::ItemGroups;
use super::item::{GroupCounts, GroupState, ItemCounts, ItemState};
use super::pairs::{Link, PairCounts, PairRow};
use super::past::ShopperPast;
use super::windows::{Moment, bounded};
use crate::domain::Timestamp;
use std::sync::Arc;

/// Items whose counts lie in one chunk.
const ITEM_CHUNK: usize = 16;
/// Items whose rows of pairs are listed in one chunk. A row itself is copied alone.
const ROW_CHUNK: usize = 16;
/// Categories or attributes whose counts lie in one chunk.
const GROUP_CHUNK: usize = 8;

/// The catalogue's counts at a moment. `Clone` is cheap: clones share chunks of items until one of them writes.
#[derive(Clone, Debug)]
pub struct Statistics {
    pub(super) groups: ItemGroups,
    pub(super) items: Chunked<ItemState, ITEM_CHUNK>,
    pub(super) rows: Chunked<Option<Arc<PairRow>>, ROW_CHUNK>,
    pub(super) categories: Chunked<GroupState, GROUP_CHUNK>,
    pub(super) attributes: Chunked<GroupState, GROUP_CHUNK>,
    pub(super) as_of: Option<Timestamp>,
}

// === impl Statistics ===

impl Statistics {
    /// Counts of nothing yet, for the items of a catalogue.
    pub fn new(groups: ItemGroups) -> Self {
        Self {
            items: Chunked::new(groups.len()),
            rows: Chunked::new(groups.len()),
            categories: Chunked::new(groups.categories()),
            attributes: Chunked::new(groups.attributes()),
            groups,
            as_of: None,
        }
    }

    /// Appends an item that the bundle does not know, and returns its number. Categories and attributes that the
    /// bundle does not know are left out. Above [`super::ITEMS_MAX`] items it is [`super::UNKNOWN_ITEM`].
    pub fn push_item(&mut self, category: Option<u32>, attributes: &[u32]) -> u32 {
        let Some(number) = self.groups.push_known(category, attributes) else {
            return super::UNKNOWN_ITEM;
        };
        self.items.push(ItemState::default());
        self.rows.push(None);
        number as u32
    }

    /// How many items there are, those pushed included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The groups of the items.
    pub fn groups(&self) -> &ItemGroups {
        &self.groups
    }

    /// The time of the latest event counted.
    pub fn as_of(&self) -> Option<Timestamp> {
        self.as_of
    }

    /// Counts an event, and records it in its shopper's past. An event of an unknown item is recorded only.
    pub fn apply(&mut self, past: &mut ShopperPast, event: ShopEvent) {
        let event = ShopEvent { time: bounded(event.time), ..event };
        let recorded = past.record(event);
        let moment = Moment::of(event.time);
        let Some(item) = self.items.get_mut(event.item as usize) else { return };
        item.count(&moment, event.kind, recorded.novelty);
        self.as_of = self.as_of.max(Some(event.time));
        let (category, attributes) = self.groups.of(event.item);
        let category = category.and_then(|number| self.categories.get_mut(number as usize));
        if let Some(category) = category {
            category.count(&moment, event.kind, recorded.novelty);
        }
        for &number in attributes {
            if let Some(attribute) = self.attributes.get_mut(number as usize) {
                attribute.count(&moment, event.kind, recorded.novelty);
            }
        }
        if recorded.makes_pairs {
            self.count_pairs(past, event);
        }
    }

    /// Counts the pairs that an item makes, which was just taken into its shopper's open basket.
    fn count_pairs(&mut self, past: &ShopperPast, event: ShopEvent) {
        let (open, previous) = past.last_baskets();
        for &other in open.iter().filter(|&&other| other != event.item) {
            self.count_pair(other, event.item, Link::Same, event.time);
            self.count_pair(event.item, other, Link::Same, event.time);
        }
        for &earlier in previous.iter().filter(|&&earlier| earlier != event.item) {
            self.count_pair(earlier, event.item, Link::Next, event.time);
        }
    }

    fn count_pair(&mut self, item: u32, partner: u32, link: Link, time: Timestamp) {
        if (partner as usize) < self.len()
            && let Some(row) = self.rows.get_mut(item as usize)
        {
            Arc::make_mut(row.get_or_insert_default()).add(partner, link, time);
        }
    }

    /// An item's counts at a moment; zeros for an unknown number.
    pub fn item(&self, item: u32, now: Timestamp) -> ItemCounts {
        self.items.get(item as usize).map_or_else(ItemCounts::default, |state| state.read(now))
    }

    /// A category's counts at a moment; zeros for an unknown number.
    pub fn category(&self, number: u32, now: Timestamp) -> GroupCounts {
        let state = self.categories.get(number as usize);
        state.map_or_else(GroupCounts::default, |state| state.read(now))
    }

    /// An attribute's counts at a moment; zeros for an unknown number.
    pub fn attribute(&self, number: u32, now: Timestamp) -> GroupCounts {
        let state = self.attributes.get(number as usize);
        state.map_or_else(GroupCounts::default, |state| state.read(now))
    }

    /// The partners of an item that are kept, in no order; none for an unknown number.
    pub fn pairs(&self, item: u32, now: Timestamp) -> impl Iterator<Item = PairCounts> + '_ {
        let row = self.rows.get(item as usize).and_then(Option::as_deref);
        row.into_iter().flat_map(move |row| row.read(now))
    }
}
