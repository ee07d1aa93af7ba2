//! Facts that change while the service runs.
//!
//! Bundles are immutable. What changes is in a [`Store`], by table and key. Reads are fast enough for a request's path.
//! A put returns once it is durable.

mod embedded;
#[cfg(test)]
mod faulty;
mod memory;

pub use embedded::EmbeddedStore;
#[cfg(test)]
pub use faulty::{FaultyStore, WriteFault};
pub use memory::MemoryStore;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;

/// Bytes of a key, at most.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes of a value, at most.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Entries that one scan returns at most, also if its caller's limit is higher.
pub const SCAN_ENTRIES_MAX: usize = 10_000;

/// Values by table and key.
pub trait Store: Send + Sync + Debug {
    /// The value of a key, if it has one.
    fn get<'a>(&'a self, table: StoreTable, key: &'a [u8]) -> StoreFuture<'a, Option<Bytes>>;

    /// Sets the value of a key. Completes once that is durable.
    fn put<'a>(&'a self, table: StoreTable, key: &'a [u8], value: Bytes) -> StoreFuture<'a, ()>;

    /// The first `limit` entries whose keys begin with `prefix`, sorted by key. At most [`SCAN_ENTRIES_MAX`].
    fn scan<'a>(
        &'a self,
        table: StoreTable,
        prefix: &'a [u8],
        limit: usize,
    ) -> StoreFuture<'a, Vec<StoreEntry>>;
}

/// Many values at a time, for an owner thread. Every operation blocks.
pub trait BatchStore: Send + Sync + Debug {
    /// The value of each key, if it has one.
    fn get_many(&self, table: StoreTable, keys: &[Bytes])
    -> Result<Vec<Option<Bytes>>, StoreError>;

    /// Sets the entries of `put` and removes the keys of `remove`. All of it is durable on return; after an error, all of it
    /// or nothing is.
    fn change(
        &self,
        table: StoreTable,
        put: &[StoreEntry],
        remove: &[Bytes],
    ) -> Result<(), StoreError>;

    /// The first `limit` entries from a key on, sorted by key. At most [`SCAN_ENTRIES_MAX`].
    fn scan_from(
        &self,
        table: StoreTable,
        from: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<StoreEntry>, StoreError>;
}

/// The future result of an operation.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A key and its value.
pub type StoreEntry = (Bytes, Bytes);

/// The tables of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreTable {
    /// Cards of users that changed after the bundle was made.
    UserCards,
    /// Cards of items that changed after the bundle was made.
    ItemCards,
    /// Events of shoppers, by user and event.
    ShopperEvents,
    /// Items that were put while the service ran, by id.
    Items,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The path cannot be created or written.
    #[error("the store {path} cannot be written: {source}", path = path.display())]
    NotWritable {
        /// The store's file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Another process has it open.
    #[error("the store {path} is in use: another server has it open; give each server a store of its own", path = path.display())]
    InUse {
        /// The store's file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("the store {path} is damaged: {why}; restore it, or move it away to start with an empty one", path = path.display())]
    Corrupt {
        /// The store's file.
        path: PathBuf,
        /// The damage that was found.
        why: String,
    },
    /// A key or a value is larger than the limit.
    #[error("a {what} of {bytes} bytes is too large for the store: the limit is {max}")]
    TooLarge {
        /// "key" or "value".
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Reading or writing failed.
    #[error("the store {path} failed: {why}", path = path.display())]
    Failed {
        /// The store's file.
        path: PathBuf,
        /// The database's error.
        why: String,
    },
}

// === impl StoreTable ===

impl StoreTable {
    /// Every table, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::UserCards, Self::ItemCards, Self::ShopperEvents, Self::Items];

    /// The table's name in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserCards => "user_cards",
            Self::ItemCards => "item_cards",
            Self::ShopperEvents => "shopper_events",
            Self::Items => "items",
        }
    }
}

/// Refuses a key or a value that is larger than its limit.
fn check_size(key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    for (what, bytes, max) in
        [("key", key.len(), KEY_BYTES_MAX), ("value", value.len(), VALUE_BYTES_MAX)]
    {
        if bytes > max {
            return Err(StoreError::TooLarge { what, bytes, max });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// Runs a check against every implementation.
    async fn each<F: Future>(check: impl Fn(Arc<dyn Store>) -> F) {
        check(Arc::new(MemoryStore::default())).await;
        let dir = tempfile::tempdir().unwrap();
        check(Arc::new(EmbeddedStore::open(&dir.path().join("facts.redb")).unwrap())).await;
    }

    fn bytes(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[tokio::test]
    async fn a_value_that_was_put_is_read_back() {
        each(|store| async move {
            assert_eq!(store.get(StoreTable::UserCards, b"ann").await.unwrap(), None);
            store.put(StoreTable::UserCards, b"ann", bytes("tea")).await.unwrap();
            assert_eq!(store.get(StoreTable::UserCards, b"ann").await.unwrap(), Some(bytes("tea")));
            store.put(StoreTable::UserCards, b"ann", bytes("coffee")).await.unwrap();
            assert_eq!(
                store.get(StoreTable::UserCards, b"ann").await.unwrap(),
                Some(bytes("coffee"))
            );
            assert_eq!(
                store.get(StoreTable::ItemCards, b"ann").await.unwrap(),
                None,
                "another table"
            );
            store.put(StoreTable::ItemCards, b"", Bytes::new()).await.unwrap();
            assert_eq!(store.get(StoreTable::ItemCards, b"").await.unwrap(), Some(Bytes::new()));
        })
        .await;
    }

    #[tokio::test]
    async fn a_scan_returns_the_entries_of_a_prefix_in_order() {
        each(|store| async move {
            for key in ["b", "ab", "a", "ac", "\u{10ffff}"] {
                store.put(StoreTable::ItemCards, key.as_bytes(), bytes("x")).await.unwrap();
            }
            let scan = async |prefix: &'static [u8], limit| {
                let entries = store.scan(StoreTable::ItemCards, prefix, limit).await.unwrap();
                entries.into_iter().map(|(key, _)| String::from_utf8(key.into()).unwrap()).collect()
            };
            let keys: [(&[u8], usize, Vec<&str>); 6] = [
                (b"a", 9, vec!["a", "ab", "ac"]),
                (b"a", 2, vec!["a", "ab"]),
                (b"a", 0, vec![]),
                (b"ad", 9, vec![]),
                (b"", usize::MAX, vec!["a", "ab", "ac", "b", "\u{10ffff}"]),
                (b"\xf4", 9, vec!["\u{10ffff}"]),
            ];
            for (prefix, limit, expected) in keys {
                let found: Vec<String> = scan(prefix, limit).await;
                assert_eq!(found, expected, "{prefix:?} {limit}");
            }
            assert_eq!(store.scan(StoreTable::UserCards, b"", 9).await.unwrap(), []);
        })
        .await;
    }

    #[tokio::test]
    async fn entries_beyond_the_limits_are_refused() {
        each(|store| async move {
            let value = Bytes::from(vec![0; VALUE_BYTES_MAX]);
            store.put(StoreTable::UserCards, &[7; KEY_BYTES_MAX], value).await.unwrap();
            let key = store.put(StoreTable::UserCards, &[7; KEY_BYTES_MAX + 1], Bytes::new()).await;
            assert!(matches!(key, Err(StoreError::TooLarge { what: "key", .. })), "{key:?}");
            let value = Bytes::from(vec![0; VALUE_BYTES_MAX + 1]);
            let value = store.put(StoreTable::UserCards, b"k", value).await;
            assert!(matches!(value, Err(StoreError::TooLarge { what: "value", .. })), "{value:?}");
            assert_eq!(store.get(StoreTable::UserCards, b"k").await.unwrap(), None);
        })
        .await;
    }

    #[test]
    fn tables_have_names_and_places_of_their_own() {
        for (index, table) in StoreTable::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, index);
            let same = StoreTable::ALL.into_iter().filter(|other| other.as_str() == table.as_str());
            assert_eq!(same.count(), 1);
        }
    }

    /// Runs a check against every implementation that changes many entries at a time.
    fn each_batch(check: impl Fn(&dyn BatchStore)) {
        check(&MemoryStore::default());
        let dir = tempfile::tempdir().unwrap();
        check(&EmbeddedStore::open(&dir.path().join("facts.redb")).unwrap());
    }

    #[test]
    fn many_entries_change_at_once() {
        each_batch(|store| {
            let (table, other) = (StoreTable::ShopperEvents, StoreTable::UserCards);
            let entry = |text: &'static str| (bytes(text), bytes(text));
            store.change(table, &["a", "b", "c"].map(entry), &[]).unwrap();
            store.change(table, &[(bytes("b"), bytes("new")), entry("d")], &[bytes("a")]).unwrap();
            let keys = ["a", "b", "c", "d", "e"].map(bytes);
            let found = store.get_many(table, &keys).unwrap();
            let expected = [None, Some("new"), Some("c"), Some("d"), None];
            assert_eq!(found, expected.map(|value| value.map(bytes)));
            assert_eq!(store.get_many(other, &keys).unwrap(), vec![None; 5]);
        });
    }

    #[test]
    fn entries_are_scanned_page_by_page() {
        each_batch(|store| {
            let table = StoreTable::ShopperEvents;
            let entry = |text: &'static str| (bytes(text), bytes("x"));
            store.change(table, &["a", "b", "ba", "c"].map(entry), &[]).unwrap();
            for (from, limit, expected) in [
                (Bound::Unbounded, 9, vec!["a", "b", "ba", "c"]),
                (Bound::Included(&b"b"[..]), 2, vec!["b", "ba"]),
                (Bound::Excluded(&b"b"[..]), 2, vec!["ba", "c"]),
                (Bound::Excluded(&b"c"[..]), 2, vec![]),
                (Bound::Unbounded, 0, vec![]),
            ] {
                let found = store.scan_from(table, from, limit).unwrap();
                let keys: Vec<_> = found.into_iter().map(|(key, _)| key).collect();
                let expected: Vec<_> = expected.into_iter().map(bytes).collect();
                assert_eq!(keys, expected, "{from:?} {limit}");
            }
        });
    }

    #[test]
    fn a_change_with_an_entry_beyond_the_limits_changes_nothing() {
        each_batch(|store| {
            let table = StoreTable::ShopperEvents;
            let put =
                [(bytes("a"), bytes("x")), (Bytes::from(vec![7; KEY_BYTES_MAX + 1]), bytes("x"))];
            let error = store.change(table, &put, &[]).unwrap_err();
            assert!(matches!(error, StoreError::TooLarge { what: "key", .. }), "{error}");
            assert_eq!(store.get_many(table, &[bytes("a")]).unwrap(), [None]);
        });
    }
}
