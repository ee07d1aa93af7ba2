//! A store that forgets everything when it is dropped: for tests, and for serving without a disk.

use super::{Answer, Fact, SCAN_FACTS_MAX, Store, Table, check_size};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Facts in memory.
#[derive(Debug, Default)]
pub struct Memory {
    tables: [Mutex<Facts>; Table::ALL.len()],
}

type Facts = BTreeMap<Bytes, Bytes>;

// === impl Memory ===

impl Memory {
    fn facts(&self, table: Table) -> MutexGuard<'_, Facts> {
        // A map of bytes has no half-done state that a panic elsewhere could leave behind.
        self.tables[table as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, table: Table, key: &'a [u8]) -> Answer<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.facts(table).get(key).cloned()) })
    }

    fn put<'a>(&'a self, table: Table, key: &'a [u8], value: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            check_size(key, &value)?;
            self.facts(table).insert(Bytes::copy_from_slice(key), value);
            Ok(())
        })
    }

    fn scan<'a>(&'a self, table: Table, prefix: &'a [u8], limit: usize) -> Answer<'a, Vec<Fact>> {
        Box::pin(async move {
            let facts = self.facts(table);
            let from = facts.range(Bytes::copy_from_slice(prefix)..);
            let found = from.take_while(|(key, _)| key.starts_with(prefix));
            let copy = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
            Ok(found.take(limit.min(SCAN_FACTS_MAX)).map(copy).collect())
        })
    }
}
