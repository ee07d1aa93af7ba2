//! The thread that owns the items: it writes puts to the store, then shows them to readers.
//!
//! It takes all puts that wait, writes them in one durable transaction, replaces the table that readers see, and then
//! acknowledges each. So puts of one item take effect in the order in which they came.

use super::{ItemTable, NEW_ITEMS_MAX, NewItem, NewItems, stored};
use crate::domain::{ItemId, Timestamp};
use crate::store::{BatchStore, StoreError, StoreTable};
use crate::worker::{self, Inbox, InboxLimits, PostError, Worker};
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Puts that may wait, and that are written in one transaction.
const LIMITS: InboxLimits = InboxLimits {
    waiting_max: NonZeroUsize::new(256).expect("256 is not zero"),
    batch_max: NonZeroUsize::new(64).expect("64 is not zero"),
};

/// Puts items by a thread of its own. Dropping it writes what waits, and ends the thread.
#[derive(Debug)]
pub struct ItemWriter {
    inbox: Inbox<Put>,
    _thread: Worker,
}

/// What a put did to an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// No item of this id had been put before.
    New,
    /// It took the place of what was put before under this id.
    Replaced,
}

/// Why a put was refused. None of its items has changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PutError {
    /// Too many puts wait already.
    #[error("too many puts are waiting")]
    Busy,
    /// There would be too many items.
    #[error("the put would make {count} items that no bundle holds; the limit is {max}")]
    TooMany {
        /// The number of items after the put.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// The store failed.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The thread has ended.
    #[error("the thread that puts items has ended")]
    Gone,
}

/// A put that waits.
#[derive(Debug)]
struct Put {
    items: Vec<(ItemId, NewItem)>,
    reply: oneshot::Sender<Result<Vec<PutOutcome>, PutError>>,
}

/// A put that was taken up, and that the next transaction writes.
struct AcceptedPut {
    outcomes: Vec<PutOutcome>,
    reply: oneshot::Sender<Result<Vec<PutOutcome>, PutError>>,
}

/// The state of the thread.
struct Owner {
    store: Arc<dyn BatchStore>,
    shown: NewItems,
    table: ItemTable,
}

// === impl ItemWriter ===

impl ItemWriter {
    /// Reads the items in the store, shows them to `readers`, and starts the thread. Blocks.
    ///
    /// An item that was put more than [`super::KEPT_DAYS`] before `now` and that the bundle holds by now is removed.
    pub fn open(
        store: Arc<dyn BatchStore>,
        readers: NewItems,
        is_in_bundle: impl Fn(&ItemId) -> bool,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let table = stored::load(&*store, is_in_bundle, now)?;
        readers.0.store(Arc::new(table.clone()));
        let owner = move || Owner { store, shown: readers, table };
        let (inbox, thread) = worker::start("items", LIMITS, |_| {}, owner, Owner::carry_out);
        Ok(Self { inbox, _thread: thread })
    }

    /// Puts items with distinct ids, all of them or none. Completes once they are durable and readers see them.
    ///
    /// An item that was put before gets the new text, and keeps the moment of its first put. Dropping the future
    /// does not take back a put that has begun.
    pub async fn put(&self, items: Vec<(ItemId, NewItem)>) -> Result<Vec<PutOutcome>, PutError> {
        let (reply, outcome) = oneshot::channel();
        self.inbox.try_post(Put { items, reply }).map_err(|error| match error {
            PostError::Full(_) => PutError::Busy,
            PostError::Closed(_) => PutError::Gone,
        })?;
        outcome.await.unwrap_or(Err(PutError::Gone))
    }
}

// === impl Owner ===

impl Owner {
    /// Writes puts in one transaction, shows their items, and acknowledges them.
    fn carry_out(&mut self, puts: &mut Vec<Put>) {
        let mut table = self.table.clone();
        let (mut entries, mut accepted) = (Vec::new(), Vec::new());
        for Put { items, reply } in puts.drain(..) {
            match check_room(&table, &items) {
                Ok(()) => {
                    let each = items.into_iter().map(|(id, item)| {
                        let (outcome, item) = insert(&mut table, id.clone(), item);
                        entries.push(stored::entry(&id, &item));
                        outcome
                    });
                    accepted.push(AcceptedPut { outcomes: each.collect(), reply });
                }
                // A caller that has left needs no answer, here and below.
                Err(error) => drop(reply.send(Err(error))),
            }
        }
        if accepted.is_empty() {
            return;
        }
        let written = self.store.change(StoreTable::Items, &entries, &[]).map_err(Arc::new);
        if written.is_ok() {
            self.shown.0.store(Arc::new(table.clone()));
            self.table = table;
        }
        for AcceptedPut { outcomes, reply } in accepted {
            let answer = written.clone().map(|()| outcomes).map_err(PutError::Store);
            drop(reply.send(answer));
        }
    }
}

/// Refuses items that would make the table larger than its limit.
fn check_room(table: &ItemTable, items: &[(ItemId, NewItem)]) -> Result<(), PutError> {
    let new = items.iter().filter(|(id, _)| !table.contains_key(id)).count();
    let count = table.len() + new;
    let max = NEW_ITEMS_MAX;
    if new > 0 && count > max { Err(PutError::TooMany { count, max }) } else { Ok(()) }
}

/// Sets an item, which keeps the moment of its first put.
fn insert(table: &mut ItemTable, id: ItemId, item: NewItem) -> (PutOutcome, Arc<NewItem>) {
    let before = table.get(&id).map(|before| before.put_at);
    let item = Arc::new(NewItem { put_at: before.unwrap_or(item.put_at), ..item });
    table.insert(id, item.clone());
    (before.map_or(PutOutcome::New, |_| PutOutcome::Replaced), item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ItemText;
    use crate::items::KEPT_DAYS;
    use crate::store::{EmbeddedStore, FaultyStore, MemoryStore, WriteFault};
    use bytes::Bytes;
    use std::ops::Bound;
    use std::path::Path;

    const NOW: Timestamp = 1_793_880_000;

    fn item(id: &str, title: &str, put_at: Timestamp) -> (ItemId, NewItem) {
        let attributes = vec![("colour".to_owned(), "red".to_owned())];
        let text = ItemText { title: title.into(), category: "kitchen".into(), attributes };
        (id.into(), NewItem { text, price: Some(2.5), put_at })
    }

    fn open(store: Arc<dyn BatchStore>, readers: &NewItems) -> ItemWriter {
        ItemWriter::open(store, readers.clone(), |_| false, NOW).unwrap()
    }

    fn stored(path: &Path) -> Arc<dyn BatchStore> {
        Arc::new(EmbeddedStore::open(path).unwrap())
    }

    fn title(readers: &NewItems, id: &str) -> Option<String> {
        Some(readers.get(&id.into())?.text.title.clone())
    }

    #[tokio::test]
    async fn an_acknowledged_item_outlives_the_process_and_the_later_title_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.redb");
        let readers = NewItems::default();
        let writer = open(stored(&path), &readers);
        let first = writer.put(vec![item("m", "Mug", NOW), item("b", "Bowl", NOW)]).await;
        assert_eq!(first.unwrap(), [PutOutcome::New, PutOutcome::New]);
        let again = writer.put(vec![item("m", "Red Mug", NOW + 60)]).await.unwrap();
        assert_eq!(again, [PutOutcome::Replaced]);
        let same = writer.put(vec![item("m", "Red Mug", NOW + 60)]).await.unwrap();
        assert_eq!(same, [PutOutcome::Replaced], "a put may be repeated");
        drop(writer);
        let later = NewItems::default();
        let writer = open(stored(&path), &later);
        for seen in [&readers, &later] {
            assert_eq!((seen.len(), title(seen, "m").as_deref()), (2, Some("Red Mug")));
            assert_eq!(*seen.get(&"m".into()).unwrap(), item("m", "Red Mug", NOW).1);
        }
        drop(writer);
    }

    #[tokio::test]
    async fn what_readers_see_last_is_what_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("facts.redb");
        let readers = NewItems::default();
        let writer = Arc::new(open(stored(&path), &readers));
        let puts = (0..100).map(|n| {
            let writer = writer.clone();
            tokio::spawn(async move { writer.put(vec![item("m", &n.to_string(), NOW)]).await })
        });
        let outcomes = futures_util::future::join_all(puts).await;
        let new = outcomes.into_iter().map(|outcome| outcome.unwrap().unwrap()[0]);
        assert_eq!(new.filter(|outcome| *outcome == PutOutcome::New).count(), 1);
        let seen = title(&readers, "m");
        drop(writer);
        let later = NewItems::default();
        drop(open(stored(&path), &later));
        assert_eq!(title(&later, "m"), seen);
    }

    #[tokio::test]
    async fn a_put_that_cannot_be_written_changes_nothing() {
        let (disk, readers) = (Arc::new(FaultyStore::default()), NewItems::default());
        let writer = open(disk.clone(), &readers);
        writer.put(vec![item("m", "Mug", NOW)]).await.unwrap();
        disk.set(WriteFault::Full);
        let refused = writer.put(vec![item("m", "Red Mug", NOW), item("b", "Bowl", NOW)]).await;
        let error = refused.unwrap_err();
        assert!(matches!(error, PutError::Store(_)) && error.to_string().contains("facts.redb"));
        assert_eq!((readers.len(), title(&readers, "m").as_deref()), (1, Some("Mug")));
        disk.set(WriteFault::None);
        let outcomes = writer.put(vec![item("b", "Bowl", NOW)]).await.unwrap();
        assert_eq!(outcomes, [PutOutcome::New]);
    }

    #[tokio::test]
    async fn items_beyond_the_limit_are_refused_and_known_ones_may_change() {
        let readers = NewItems::default();
        let writer = open(Arc::new(MemoryStore::default()), &readers);
        let all = (0..NEW_ITEMS_MAX - 1).map(|n| item(&n.to_string(), "Mug", NOW));
        writer.put(all.collect()).await.unwrap();
        let two = writer.put(vec![item("a", "Bowl", NOW), item("b", "Bowl", NOW)]).await;
        let count = NEW_ITEMS_MAX + 1;
        let is_refused = |error: &PutError| matches!(error, PutError::TooMany { count: c, max: NEW_ITEMS_MAX } if *c == count);
        assert!(two.is_err_and(|error| is_refused(&error)));
        writer.put(vec![item("a", "Bowl", NOW), item("0", "Cup", NOW)]).await.unwrap();
        assert_eq!((readers.len(), title(&readers, "b")), (NEW_ITEMS_MAX, None));
        assert!(writer.put(vec![item("b", "Bowl", NOW)]).await.is_err());
        writer.put(vec![item("1", "Cup", NOW)]).await.unwrap();
    }

    #[tokio::test]
    async fn an_item_that_a_bundle_holds_is_kept_for_some_days() {
        let store: Arc<dyn BatchStore> = Arc::new(MemoryStore::default());
        let writer = open(store.clone(), &NewItems::default());
        let old = NOW - KEPT_DAYS * 86_400 - 1;
        let puts = [("held old", old), ("held new", old + 2), ("other", old)];
        let puts = puts.map(|(id, put_at)| item(id, "Mug", put_at));
        writer.put(puts.into()).await.unwrap();
        for _ in 0..2 {
            let readers = NewItems::default();
            let is_held = |id: &ItemId| id.as_str().starts_with("held");
            drop(ItemWriter::open(store.clone(), readers.clone(), is_held, NOW).unwrap());
            assert_eq!(
                ["held old", "held new", "other"].map(|id| readers.get(&id.into()).is_some()),
                [false, true, true]
            );
        }
    }

    #[tokio::test]
    async fn a_damaged_entry_is_left_out_and_kept() {
        let store: Arc<dyn BatchStore> = Arc::new(MemoryStore::default());
        let entry = |key: &'static [u8], value: &'static str| {
            (Bytes::from_static(key), Bytes::from_static(value.as_bytes()))
        };
        let whole = r#"{"title":"Mug","category":"","attributes":[],"price":null,"put_at":7}"#;
        let entries = [
            entry(b"a", "not JSON"),
            entry(b"b", r#"{"title":"Mug"}"#),
            entry(b"c", ""),
            entry(b"\xff", whole),
            entry(b"whole", whole),
        ];
        store.change(StoreTable::Items, &entries, &[]).unwrap();
        let readers = NewItems::default();
        drop(open(store.clone(), &readers));
        assert_eq!((readers.len(), title(&readers, "whole").as_deref()), (1, Some("Mug")));
        let kept = store.scan_from(StoreTable::Items, Bound::Unbounded, 9).unwrap();
        assert_eq!(kept.len(), entries.len());
    }
}
