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
