//! A store in memory, for tests.

use super::{
    BatchStore, SCAN_ENTRIES_MAX, Store, StoreEntry, StoreError, StoreFuture, StoreTable,
    check_size,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A store whose entries are lost when it is dropped.
#[derive(Debug, Default)]
pub struct MemoryStore {
    tables: [Mutex<Entries>; StoreTable::ALL.len()],
}

type Entries = BTreeMap<Bytes, Bytes>;

// === impl MemoryStore ===

impl MemoryStore {
    fn entries(&self, table: StoreTable) -> MutexGuard<'_, Entries> {
        // A panic elsewhere cannot leave a map of bytes half changed.
        self.tables[table as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, table: StoreTable, key: &'a [u8]) -> StoreFuture<'a, Option<Bytes>> {
        Box::pin(async move { Ok(self.entries(table).get(key).cloned()) })
    }

    fn put<'a>(&'a self, table: StoreTable, key: &'a [u8], value: Bytes) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            check_size(key, &value)?;
            self.entries(table).insert(Bytes::copy_from_slice(key), value);
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
            let entries = self.entries(table);
            let from = entries.range(Bytes::copy_from_slice(prefix)..);
            let found = from.take_while(|(key, _)| key.starts_with(prefix));
            let copy = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
            Ok(found.take(limit.min(SCAN_ENTRIES_MAX)).map(copy).collect())
        })
    }
}

impl BatchStore for MemoryStore {
    fn get_many(
        &self,
        table: StoreTable,
        keys: &[Bytes],
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let entries = self.entries(table);
        Ok(keys.iter().map(|key| entries.get(key).cloned()).collect())
    }

    fn change(
        &self,
        table: StoreTable,
        put: &[StoreEntry],
        remove: &[Bytes],
    ) -> Result<(), StoreError> {
        put.iter().try_for_each(|(key, value)| check_size(key, value))?;
        let mut entries = self.entries(table);
        entries.extend(put.iter().cloned());
        for key in remove {
            entries.remove(key);
        }
        Ok(())
    }

    fn scan_from(
        &self,
        table: StoreTable,
        from: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<StoreEntry>, StoreError> {
        let entries = self.entries(table);
        let found = entries.range::<[u8], _>((from, Bound::Unbounded));
        let copy = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        Ok(found.take(limit.min(SCAN_ENTRIES_MAX)).map(copy).collect())
    }
}
