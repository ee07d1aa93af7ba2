//! The table of events in the store: entries of events, and one that says how far it goes.

use super::error::EventsError;
use super::event::StoredEvent;
use crate::domain::Timestamp;
use crate::store::{BatchStore, StoreEntry, StoreTable};
use bytes::Bytes;

/// Where events are stored.
pub(super) const TABLE: StoreTable = StoreTable::ShopperEvents;
/// The key of the [`TableEnd`]. No shopper's id is empty, so no event has this key.
const END_KEY: &[u8] = b"\0";
const END_FORMAT: u8 = 1;

/// How far the table goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TableEnd {
    /// The sequence of the next event.
    pub next_sequence: u64,
    /// The time of the latest event.
    pub latest: Timestamp,
}

// === impl TableEnd ===

impl TableEnd {
    /// As it is stored; the beginning if nothing is.
    pub(super) fn read(store: &dyn BatchStore) -> Result<Self, EventsError> {
        let found = store.get_many(TABLE, &[Bytes::from_static(END_KEY)])?;
        let Some(value) = found.into_iter().next().flatten() else {
            return Ok(Self { next_sequence: 0, latest: Timestamp::MIN });
        };
        let numbers = (value.len() == 17 && value[0] == END_FORMAT).then(|| {
            let number =
                |at: usize| value[at..at + 8].try_into().expect("the value has its length");
            (u64::from_le_bytes(number(1)), i64::from_le_bytes(number(9)))
        });
        let (next_sequence, latest) = numbers.ok_or_else(|| {
            EventsError::Damaged("the entry that says how far it goes is malformed".to_owned())
        })?;
        Ok(Self { next_sequence, latest })
    }

    /// The entry to store.
    pub(super) fn entry(self) -> StoreEntry {
        let mut value = vec![END_FORMAT];
        value.extend_from_slice(&self.next_sequence.to_le_bytes());
        value.extend_from_slice(&self.latest.to_le_bytes());
        (Bytes::from_static(END_KEY), value.into())
    }
}

/// Reads the value of an event.
pub(super) fn read(value: &[u8]) -> Result<StoredEvent, EventsError> {
    StoredEvent::decode(value).map_err(|why| EventsError::Damaged(format!("an event {why}")))
}
