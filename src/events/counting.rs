//! Counting for one bundle: its statistics, the pasts of recent shoppers, and what readers see of them.

use super::decide::Uncounted;
use super::event::StoredEvent;
use crate::domain::{ItemId, ItemText, Timestamp, UserId};
use crate::statistics::{ShopEvent, ShopperPast, Statistics, UNKNOWN_ITEM};
use arc_swap::ArcSwap;
use rustc_hash::FxHashMap;
use std::any::Any;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

/// Shoppers whose pasts are kept at least, and half of those that are kept at most.
const PASTS_KEPT: usize = 20_000;

/// What a bundle knows, from which counting goes on.
pub trait CountsBase: Send + Sync + Debug {
    /// The moment at which the bundle's events end: it knows those before it.
    fn as_of(&self) -> Timestamp;

    /// The number of an item of the bundle.
    fn number(&self, item: &ItemId) -> Option<u32>;

    /// What a shopper did before that moment.
    fn past(&self, user: &UserId) -> ShopperPast;

    /// The numbers of the category and the attributes of an item that the bundle does not hold.
    fn groups(&self, item: &ItemText) -> (Option<u32>, Vec<u32>);
}

/// An item that was put after a bundle was made.
#[derive(Clone, Debug, PartialEq)]
pub struct PutItem {
    /// Its id.
    pub id: ItemId,
    /// Its texts.
    pub text: ItemText,
}

/// The counts of one bundle's items, up to date with every acknowledged event. Readers never wait.
#[derive(Clone, Debug)]
pub struct LiveStatistics(Arc<Published>);

/// What readers see.
pub(super) struct Published {
    statistics: ArcSwap<Statistics>,
    new_items: ArcSwap<FxHashMap<ItemId, u32>>,
    base: Arc<dyn CountsBase>,
    /// Tells the owner of the events when nobody reads any more.
    reading: Option<Box<dyn Any + Send + Sync>>,
}

/// The working state of the owner of the events for one bundle.
pub(super) struct Counting {
    /// The bundle's facts live as long as somebody reads.
    published: Weak<Published>,
    statistics: Statistics,
    new_items: FxHashMap<ItemId, u32>,
    pasts: RecentPasts,
}

/// The pasts of shoppers who did something lately: at most two times [`PASTS_KEPT`].
#[derive(Default)]
pub(super) struct RecentPasts {
    young: FxHashMap<UserId, ShopperPast>,
    old: FxHashMap<UserId, ShopperPast>,
}

// === impl LiveStatistics ===

impl LiveStatistics {
    /// Counts that never change: those of a bundle on a server without a store.
    pub fn fixed(statistics: Statistics, base: Arc<dyn CountsBase>) -> Self {
        Self::new(statistics, base, None)
    }

    pub(super) fn new(
        statistics: Statistics,
        base: Arc<dyn CountsBase>,
        reading: Option<Box<dyn Any + Send + Sync>>,
    ) -> Self {
        let (statistics, new_items) =
            (ArcSwap::from_pointee(statistics), ArcSwap::from_pointee(FxHashMap::default()));
        Self(Arc::new(Published { statistics, new_items, base, reading }))
    }

    /// The counts as of now.
    pub fn load(&self) -> Arc<Statistics> {
        self.0.statistics.load_full()
    }

    /// The number of an item: the bundle's, or that of an item that was put since. `None` if it is neither.
    pub fn number(&self, item: &ItemId) -> Option<u32> {
        self.0.number(item)
    }

    /// Whether they go on counting what comes.
    pub fn is_followed(&self) -> bool {
        self.0.reading.is_some()
    }

    pub(super) fn published(&self) -> &Arc<Published> {
        &self.0
    }
}

// === impl Published ===

impl Published {
    fn number(&self, item: &ItemId) -> Option<u32> {
        self.base.number(item).or_else(|| self.new_items.load().get(item).copied())
    }
}

impl Debug for Published {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Published").field("base", &self.base).finish_non_exhaustive()
    }
}

// === impl Counting ===

impl Counting {
    /// Goes on from what readers see now.
    pub(super) fn new(live: &LiveStatistics) -> Self {
        Self {
            published: Arc::downgrade(live.published()),
            statistics: (*live.load()).clone(),
            new_items: FxHashMap::default(),
            pasts: RecentPasts::default(),
        }
    }

    /// Whether nobody reads any more.
    pub(super) fn is_over(&self) -> bool {
        self.published.strong_count() == 0
    }

    /// Gives an item a number, if it has none.
    pub(super) fn put(&mut self, item: &PutItem) {
        let Some(published) = self.published.upgrade() else { return };
        if published.base.number(&item.id).is_some() || self.new_items.contains_key(&item.id) {
            return;
        }
        let (category, attributes) = published.base.groups(&item.text);
        let number = self.statistics.push_item(category, &attributes);
        if number != UNKNOWN_ITEM {
            self.new_items.insert(item.id.clone(), number);
        }
    }

    /// Why an event does not count; `Ok` with its item's number if it does.
    pub(super) fn number(&self, stored: &StoredEvent) -> Result<u32, Uncounted> {
        let base = self.published.upgrade().ok_or(Uncounted::UnknownItem)?;
        if stored.event.time < base.base.as_of() {
            return Err(Uncounted::BeforeBundle);
        }
        let known = base.base.number(&stored.event.item);
        let number = known.or_else(|| self.new_items.get(&stored.event.item).copied());
        number.ok_or(Uncounted::UnknownItem)
    }

    /// Counts an event. `earlier` reads the shopper's stored events; those from this one's sequence on are not read.
    pub(super) fn count(
        &mut self,
        user: &UserId,
        stored: &StoredEvent,
        earlier: impl FnOnce() -> Arc<[StoredEvent]>,
    ) -> Result<(), Uncounted> {
        let item = self.number(stored)?;
        let mut past = self.pasts.take(user).unwrap_or_else(|| {
            let before = |other: &&StoredEvent| other.sequence < stored.sequence;
            self.past(user, earlier().iter().filter(before))
        });
        let (time, kind) = (stored.event.time, stored.event.kind);
        self.statistics.apply(&mut past, ShopEvent { item, time, kind });
        self.pasts.keep(user.clone(), past);
        Ok(())
    }

    /// Counts an event of a shopper whose past is at hand.
    pub(super) fn count_into(&mut self, past: &mut ShopperPast, event: ShopEvent) {
        self.statistics.apply(past, event);
    }

    /// A shopper's past: the bundle's, then their stored events that count.
    fn past<'e>(
        &self,
        user: &UserId,
        stored: impl Iterator<Item = &'e StoredEvent>,
    ) -> ShopperPast {
        let base = self.published.upgrade();
        let mut past = base.map_or_else(ShopperPast::default, |base| base.base.past(user));
        for stored in stored {
            if let Ok(item) = self.number(stored) {
                let (time, kind) = (stored.event.time, stored.event.kind);
                past.apply(ShopEvent { item, time, kind });
            }
        }
        past
    }

    /// Keeps the past of a shopper for their next event.
    pub(super) fn keep(&mut self, user: UserId, past: ShopperPast) {
        self.pasts.keep(user, past);
    }

    /// Shows readers what was counted.
    pub(super) fn publish(&self) {
        let Some(published) = self.published.upgrade() else { return };
        published.statistics.store(Arc::new(self.statistics.clone()));
        if published.new_items.load().len() != self.new_items.len() {
            published.new_items.store(Arc::new(self.new_items.clone()));
        }
    }
}

impl Debug for Counting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counting").field("as_of", &self.statistics.as_of()).finish_non_exhaustive()
    }
}

// === impl RecentPasts ===

impl RecentPasts {
    fn take(&mut self, user: &UserId) -> Option<ShopperPast> {
        self.young.remove(user).or_else(|| self.old.remove(user))
    }

    fn keep(&mut self, user: UserId, past: ShopperPast) {
        if self.young.len() >= PASTS_KEPT {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(user, past);
    }
}
