//! A store that forgets everything when it is dropped: for tests, and for serving without a disk.

use super::{SCAN_ENTRIES_MAX, Store, StoreEntry, StoreFuture, StoreTable, check_size};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Entries in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: [Mutex<Entries>; StoreTable::ALL.len()],
}

type Entries = BTreeMap<Bytes, Bytes>;

// === impl MemoryStore ===

impl MemoryStore {
    fn facts(&self, table: StoreTable) -> MutexGuard<'_, Entries> {
        // A map of bytes has no half-done state that a panic elsewhere could leave behind.
        self.tables[table as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, table: StoreTable, key: &'a [u8]) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.facts(table).get(key).cloned()) })
    }

    fn put<'a>(&'a self, table: StoreTable, key: &'a [u8], value: Bytes) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_size(key, &value)?;
            self.facts(table).insert(Bytes::copy_from_slice(key), value);
            Ok(())
        })
    }

    fn scan<'a>(
        &'a self,
        table: StoreTable,
        prefix: &'a [u8],
        limit: usize,
    ) -> StoreFuture<'a, Vec<StoreEntry>> {
        Box::pin(async move {
            let facts = self.facts(table);
            let from = facts.range(Bytes::copy_from_slice(prefix)..);
            let found = from.take_while(|(key, _)| key.starts_with(prefix));
            let copy = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
            Ok(found.take(limit.min(SCAN_ENTRIES_MAX)).map(copy).collect())
        })
    }
}
