//! Where do mutable facts live?
//!
//! Bundles are immutable; what changes while the service runs lies in a [`Store`], by table and
//! key. Reads are quick enough for a request's path; a put returns once the fact is durable.

mod embedded;
mod memory;

pub use embedded::EmbeddedStore;
pub use memory::MemoryStore;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

/// Bytes of a key.
pub const KEY_BYTES_MAX: usize = 512;
/// Bytes of a value.
pub const VALUE_BYTES_MAX: usize = 1 << 20;
/// Entries that one scan returns at most, whatever its caller asks for.
pub const SCAN_ENTRIES_MAX: usize = 10_000;

/// Mutable facts by table and key.
pub trait Store: Send + Sync + Debug {
    /// The value of a key, if it has one.
    fn get<'a>(&'a self, table: StoreTable, key: &'a [u8]) -> StoreFuture<'a, Option<Bytes>>;

    /// Sets the value of a key, durably.
    fn put<'a>(&'a self, table: StoreTable, key: &'a [u8], value: Bytes) -> StoreFuture<'a, ()>;

    /// The facts whose keys begin with `prefix`, in the order of their keys: the first `limit` of
    /// them, and no more than [`SCAN_ENTRIES_MAX`].
    fn scan<'a>(
        &'a self,
        table: StoreTable,
        prefix: &'a [u8],
        limit: usize,
    ) -> StoreFuture<'a, Vec<StoreEntry>>;
}

/// What a store answers, in a while.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

/// A key and its value.
pub type StoreEntry = (Bytes, Bytes);

/// The tables of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StoreTable {
    /// What we know about users since the bundle was made.
    UserCards,
    /// What we know about items since the bundle was made.
    ItemCards,
}

/// Why a store does not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The path can't be created or written.
    #[error("the store {path} can't be written: {source}", path = path.display())]
    NotWritable {
        /// The store.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Somebody else has it open.
    #[error("the store {path} is in use: another server has it open; give each server a store of its own", path = path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// Its contents make no sense.
    #[error("the store {path} is damaged: {why}; restore it, or move it away to begin anew", path = path.display())]
    Corrupt {
        /// The store.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A key or value beyond the limit.
    #[error("a {what} of {bytes} bytes is too large for the store: at most {max}")]
    TooLarge {
        /// Key or value.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// It failed while it was read or written.
    #[error("the store {path} failed: {why}", path = path.display())]
    Failed {
        /// The store.
        path: PathBuf,
        /// What the store says.
        why: String,
    },
}

// === impl StoreTable ===

impl StoreTable {
    /// Every table, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::UserCards, Self::ItemCards];

    /// The name of the table in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UserCards => "user_cards",
            Self::ItemCards => "item_cards",
        }
    }
}

/// Refuses a fact beyond the limits.
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
    async fn what_was_put_is_got() {
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
    async fn a_scan_gives_the_facts_of_a_prefix_in_order() {
        each(|store| async move {
            for key in ["b", "ab", "a", "ac", "\u{10ffff}"] {
                store.put(StoreTable::ItemCards, key.as_bytes(), bytes("x")).await.unwrap();
            }
            let scan = async |prefix: &'static [u8], limit| {
                let facts = store.scan(StoreTable::ItemCards, prefix, limit).await.unwrap();
                facts.into_iter().map(|(key, _)| String::from_utf8(key.into()).unwrap()).collect()
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
    async fn facts_beyond_the_limits_are_refused() {
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
    fn tables_have_names_of_their_own() {
        assert_ne!(StoreTable::ALL[0].as_str(), StoreTable::ALL[1].as_str());
    }
}
