//! Removes events that are too old to be kept, a few in each turn.

use super::error::EventsError;
use super::event::user_of;
use super::table::{TABLE, read};
use crate::domain::{Timestamp, UserId};
use crate::store::BatchStore;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::ops::Bound;

/// Entries that one turn looks at.
const STEP_ENTRIES: usize = 256;
/// A pass through the table is begun when the oldest event that is kept has grown older by this.
const PASS_S: i64 = 86_400;
const DAY_S: i64 = 86_400;

/// Where the removal of old events stands.
#[derive(Debug)]
pub(super) struct Sweep {
    keep_s: i64,
    /// The last key that was looked at in this pass; `None` between passes.
    at: Option<Bytes>,
    /// Events before it are removed in this pass.
    cut: Timestamp,
}

/// The sequences that were removed, by shopper.
pub(super) type Removed = FxHashMap<UserId, Vec<u64>>;

// === impl Sweep ===

impl Sweep {
    pub(super) fn new(keep_days: u32) -> Self {
        Self { keep_s: i64::from(keep_days) * DAY_S, at: None, cut: Timestamp::MIN }
    }

    /// Looks at the next few entries. Events are as old as `now` says, but a clock that is ahead of the `latest` event
    /// removes nothing that this event would not.
    pub(super) fn step(
        &mut self,
        store: &dyn BatchStore,
        now: Timestamp,
        latest: Timestamp,
    ) -> Result<Removed, EventsError> {
        let cut = now.min(latest).saturating_sub(self.keep_s);
        if self.at.is_none() {
            if cut < self.cut.saturating_add(PASS_S) {
                return Ok(Removed::default());
            }
            self.cut = cut;
        }
        let from = self.at.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let page = store.scan_from(TABLE, from, STEP_ENTRIES)?;
        let (mut keys, mut removed) = (Vec::new(), Removed::default());
        for (key, value) in &page {
            let Some(user) = user_of(key) else { continue };
            let stored = read(value)?;
            if stored.event.time < self.cut {
                keys.push(key.clone());
                removed.entry(user).or_default().push(stored.sequence);
            }
        }
        if !keys.is_empty() {
            store.change(TABLE, &[], &keys)?;
        }
        let is_full = page.len() == STEP_ENTRIES;
        self.at = page.last().filter(|_| is_full).map(|(key, _)| key.clone());
        Ok(removed)
    }
}
