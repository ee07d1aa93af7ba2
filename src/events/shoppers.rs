//! What each shopper did, as far as it is stored.

use super::error::EventsError;
use super::event::{StoredEvent, is_of, prefix};
use super::table::{TABLE, read};
use crate::domain::UserId;
use crate::store::BatchStore;
use moka::ops::compute::Op;
use moka::sync::Cache;
use std::ops::Bound;
use std::sync::Arc;

/// Events of one shopper that are read: the latest are kept.
pub const SHOPPER_EVENTS_MAX: usize = 2_000;
/// Events of one shopper that are looked at, in the order of their hashes. Beyond it, a shopper is a robot.
const SHOPPER_SCAN_MAX: usize = 100_000;
/// Entries of one page of a scan.
const PAGE: usize = 1_024;
/// Bytes of an event in the cache, beside its item's id.
const EVENT_BYTES: usize = 64;

/// The stored events of shoppers, with a cache. The owner of the store keeps what is cached up to date, so a reader never
/// waits for it and never sees less than what was acknowledged.
#[derive(Debug)]
pub(super) struct Shoppers {
    store: Arc<dyn BatchStore>,
    cache: Cache<UserId, Arc<[StoredEvent]>>,
}

// === impl Shoppers ===

impl Shoppers {
    /// With a cache of this size.
    pub(super) fn new(store: Arc<dyn BatchStore>, cache_bytes: u64) -> Self {
        let weigh = |_: &UserId, events: &Arc<[StoredEvent]>| {
            let items: usize = events.iter().map(|stored| stored.event.item.as_str().len()).sum();
            (items + (events.len() + 1) * EVENT_BYTES) as u32
        };
        Self { store, cache: Cache::builder().max_capacity(cache_bytes).weigher(weigh).build() }
    }

    /// A shopper's events, if they are in memory.
    pub(super) fn cached(&self, user: &UserId) -> Option<Arc<[StoredEvent]>> {
        self.cache.get(user)
    }

    /// A shopper's events by time: the latest [`SHOPPER_EVENTS_MAX`]. Blocks.
    pub(super) fn read(&self, user: &UserId) -> Result<Arc<[StoredEvent]>, Arc<EventsError>> {
        if let Some(events) = self.cached(user) {
            return Ok(events);
        }
        // The cache computes one value of a key at a time. So the store is not read before a write, and the result not
        // kept after it.
        let entry = self.cache.entry_by_ref(user).and_try_compute_with(|cached| match cached {
            Some(_) => Ok(Op::Nop),
            None => self.scan(user).map(Op::Put).map_err(Arc::new),
        })?;
        Ok(entry.into_entry().map_or_else(|| Arc::from([]), moka::Entry::into_value))
    }

    /// Adds events that are stored now to those in memory, in place of those with the sequences `replaced`.
    pub(super) fn append(&self, user: &UserId, new: &[StoredEvent], replaced: &[u64]) {
        self.replace(user, |events| {
            events.retain(|old| !replaced.contains(&old.sequence));
            // A reader may have found them in the store already.
            events.retain(|old| new.iter().all(|new| new.sequence != old.sequence));
            events.extend_from_slice(new);
        });
    }

    /// Removes events that are not stored any more from those in memory.
    pub(super) fn remove(&self, user: &UserId, sequences: &[u64]) {
        self.replace(user, |events| events.retain(|old| !sequences.contains(&old.sequence)));
    }

    fn replace(&self, user: &UserId, change: impl FnOnce(&mut Vec<StoredEvent>)) {
        self.cache.entry_by_ref(user).and_compute_with(|cached| match cached {
            None => Op::Nop,
            Some(entry) => {
                let mut events = entry.into_value().to_vec();
                change(&mut events);
                Op::Put(latest(events))
            }
        });
    }

    fn scan(&self, user: &UserId) -> Result<Arc<[StoredEvent]>, EventsError> {
        let prefix = prefix(user);
        let (mut events, mut looked_at) = (Vec::new(), 0);
        let mut last = None;
        while looked_at < SHOPPER_SCAN_MAX {
            let from = last.as_deref().map_or(Bound::Included(&*prefix), Bound::Excluded);
            let page = self.store.scan_from(TABLE, from, PAGE)?;
            for (key, value) in &page {
                if !key.starts_with(&prefix) {
                    return Ok(latest(events));
                }
                if is_of(user, key) {
                    events.push(read(value)?);
                }
            }
            looked_at += page.len();
            match page.last() {
                Some((key, _)) if page.len() == PAGE => last = Some(key.to_vec()),
                _ => break,
            }
        }
        Ok(latest(events))
    }
}

/// The latest events, by time.
fn latest(mut events: Vec<StoredEvent>) -> Arc<[StoredEvent]> {
    events.sort_by_key(StoredEvent::place);
    events.drain(..events.len().saturating_sub(SHOPPER_EVENTS_MAX));
    events.into()
}
