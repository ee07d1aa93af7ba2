//! Counts what was stored since a bundle was made.

use super::counting::{Counting, CountsBase};
use super::decide::Uncounted;
use super::error::EventsError;
use super::event::{StoredEvent, user_of};
use super::table::{TABLE, read};
use crate::domain::{Timestamp, UserId};
use crate::statistics::{ShopEvent, ShopperPast};
use crate::store::{BatchStore, SCAN_ENTRIES_MAX};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::ops::Bound;

/// What a replay found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Replayed {
    /// Events that count.
    pub counted: u64,
    /// Events of items that the bundle does not hold.
    pub unknown_items: u64,
    /// Events before the bundle's end.
    pub before_bundle: u64,
}

// === impl Replayed ===

impl Replayed {
    /// Whether events are stored, and the bundle holds the items of none.
    pub(super) fn is_of_another_shop(self) -> bool {
        self.unknown_items > 0 && self.counted == 0 && self.before_bundle == 0
    }
}

/// An event that counts: 32 bytes, because all of them are sorted in memory.
struct ReplayedEvent {
    time: Timestamp,
    sequence: u64,
    /// An index into the users.
    user: u32,
    event: (u32, u8),
}

/// Counts the stored events below a sequence, by (time, sequence), whatever the order of the table.
pub(super) fn replay(
    store: &dyn BatchStore,
    counting: &mut Counting,
    base: &dyn CountsBase,
    until: u64,
) -> Result<Replayed, EventsError> {
    let mut found = Replayed::default();
    let (mut users, mut events): (Vec<UserId>, Vec<ReplayedEvent>) = (Vec::new(), Vec::new());
    let mut numbers: FxHashMap<UserId, u32> = FxHashMap::default();
    each_event(store, |user, stored| {
        if stored.sequence >= until {
            return;
        }
        match counting.number(&stored) {
            Err(Uncounted::UnknownItem) => found.unknown_items += 1,
            Err(Uncounted::BeforeBundle) => found.before_bundle += 1,
            Ok(item) => {
                let number = *numbers.entry(user).or_insert_with_key(|user| {
                    users.push(user.clone());
                    users.len() as u32 - 1
                });
                let (time, sequence) = stored.place();
                let event = (item, stored.event.kind as u8);
                events.push(ReplayedEvent { time, sequence, user: number, event });
            }
        }
    })?;
    drop(numbers);
    events.sort_unstable_by_key(|event| (event.time, event.sequence));
    found.counted = events.len() as u64;
    let mut pasts: Vec<Option<ShopperPast>> = vec![None; users.len()];
    for ReplayedEvent { time, user, event: (item, kind), .. } in events {
        let past = &mut pasts[user as usize];
        let past = past.get_or_insert_with(|| base.past(&users[user as usize]));
        let kind = crate::domain::EventKind::ALL[usize::from(kind)];
        counting.count_into(past, ShopEvent { item, time, kind });
    }
    for (user, past) in users.into_iter().zip(pasts) {
        if let Some(past) = past {
            counting.keep(user, past);
        }
    }
    Ok(found)
}

/// Reads every event of the table, page by page, in the order of its keys.
pub(super) fn each_event(
    store: &dyn BatchStore,
    mut take: impl FnMut(UserId, StoredEvent),
) -> Result<(), EventsError> {
    let mut last: Option<Bytes> = None;
    loop {
        let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = store.scan_from(TABLE, from, SCAN_ENTRIES_MAX)?;
        for (key, value) in &page {
            if let Some(user) = user_of(key) {
                take(user, read(value)?);
            }
        }
        match page.last() {
            Some((key, _)) if page.len() == SCAN_ENTRIES_MAX => last = Some(key.clone()),
            _ => return Ok(()),
        }
    }
}
