//! The way to the owner of the events.

use super::counting::{Counting, CountsBase, LiveStatistics, PutItem};
use super::decide::{RecordCall, RecordOutcome};
use super::error::{EventsError, RecordError};
use super::event::StoredEvent;
use super::owner::{Message, Owner};
use super::replay::replay;
use super::shoppers::Shoppers;
use super::table::TableEnd;
use crate::domain::UserId;
use crate::statistics::Statistics;
use crate::store::BatchStore;
use crate::telemetry::Metrics;
use crate::worker::{self, Inbox, InboxLimits, PostError, Worker};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Calls that one turn stores in one step.
const TURN_CALLS_MAX: NonZeroUsize = NonZeroUsize::new(32).expect("32 is not zero");
/// How long whoever opens a bundle waits for a place in a full inbox.
const POST_WAIT_MAX: Duration = Duration::from_secs(30);
/// The pause between two tries.
const POST_PAUSE: Duration = Duration::from_millis(5);

/// How events are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsOptions {
    /// Days for which events are kept. Older ones are refused and removed.
    pub keep_days: u32,
    /// Calls that may wait for the owner. Further ones are refused.
    pub calls_waiting_max: NonZeroUsize,
    /// Bytes of the cache of shoppers' events.
    pub cache_bytes: u64,
}

/// Takes events and tells what is known of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EventRecorder {
    store: Arc<dyn BatchStore>,
    shoppers: Arc<Shoppers>,
    owner: Arc<OwnerThread>,
}

/// The owner's thread. It ends when the last handle is dropped: first the inbox, then the worker that joins it.
#[derive(Debug)]
struct OwnerThread {
    inbox: Inbox<Message>,
    _worker: Worker,
}

/// Tells the owner that the counts of a bundle are read no longer, when it is dropped.
#[derive(Debug)]
struct Reading(Arc<OwnerThread>);

// === impl EventRecorder ===

impl EventRecorder {
    /// Starts the owner of a store's events.
    pub fn open(
        store: Arc<dyn BatchStore>,
        options: EventsOptions,
        metrics: Arc<Metrics>,
    ) -> Result<Self, EventsError> {
        let end = TableEnd::read(&*store)?;
        let shoppers = Arc::new(Shoppers::new(store.clone(), options.cache_bytes));
        let limits =
            InboxLimits { waiting_max: options.calls_waiting_max, batch_max: TURN_CALLS_MAX };
        let (state, observed) = ((store.clone(), shoppers.clone()), metrics.clone());
        let build = move || Owner::new(state.0, state.1, metrics, end, options.keep_days);
        let observe = move |load: worker::InboxLoad| observed.events_waiting(load.waiting);
        let (inbox, worker) = worker::start("events", limits, observe, build, Owner::turn);
        let owner = Arc::new(OwnerThread { inbox, _worker: worker });
        Ok(Self { store, shoppers, owner })
    }

    /// Takes the events of a call. Completes once they are durable and counted. A caller that leaves before does not stop
    /// it, and may send them again.
    pub async fn record(&self, call: RecordCall) -> Result<RecordOutcome, RecordError> {
        let (reply, answer) = oneshot::channel();
        self.owner.inbox.try_post(Message::Record(call, reply)).map_err(|error| match error {
            PostError::Full(_) => RecordError::Full,
            PostError::Closed(_) => RecordError::Gone,
        })?;
        answer.await.unwrap_or(Err(RecordError::Gone))
    }

    /// Gives items a number in the counts of each bundle that does not hold them, so that their events count.
    pub async fn put_items(&self, items: Vec<PutItem>) -> Result<(), RecordError> {
        let (reply, answer) = oneshot::channel();
        self.owner.inbox.try_post(Message::Put(items, reply)).map_err(|error| match error {
            PostError::Full(_) => RecordError::Full,
            PostError::Closed(_) => RecordError::Gone,
        })?;
        answer.await.map_err(|_| RecordError::Gone)
    }

    /// A shopper's stored events by time: the latest [`super::SHOPPER_EVENTS_MAX`]. Includes every event whose call was
    /// answered. Needs a runtime.
    pub async fn of(&self, user: &UserId) -> Result<Arc<[StoredEvent]>, Arc<EventsError>> {
        if let Some(events) = self.shoppers.cached(user) {
            return Ok(events);
        }
        let (shoppers, user) = (self.shoppers.clone(), user.clone());
        let read = tokio::task::spawn_blocking(move || shoppers.read(&user)).await;
        read.unwrap_or_else(|_| Err(Arc::new(EventsError::Gone)))
    }

    /// Counts for a bundle, from its own counts on: first what is stored since it was made, then what comes. `items` are
    /// those that were put since. Blocks, and may take seconds.
    pub fn follow(
        &self,
        statistics: Statistics,
        base: Arc<dyn CountsBase>,
        items: &[PutItem],
    ) -> Result<LiveStatistics, EventsError> {
        let token = Arc::new(());
        let opened = Arc::downgrade(&token);
        let until = self.ask(|reply| Message::Open(opened, reply))?;
        let reading = Box::new(Reading(self.owner.clone()));
        let known = base.clone();
        let live = LiveStatistics::new(statistics, base, Some(reading));
        let mut counting = Counting::new(&live);
        for item in items {
            counting.put(item);
        }
        let begun = Instant::now();
        let found = replay(&*self.store, &mut counting, &*known, until)?;
        tracing::info!(?found, seconds = begun.elapsed().as_secs_f64(), "stored events");
        if found.is_of_another_shop() {
            tracing::warn!(
                unknown_items = found.unknown_items,
                "no stored event is of an item that the bundle holds: the store may be of another shop"
            );
        }
        let counting = Box::new(counting);
        self.ask(|reply| Message::Join(token, counting, reply))??;
        Ok(live)
    }

    /// Posts a message and waits for its answer. Blocks.
    fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> Message,
    ) -> Result<T, EventsError> {
        let (reply, answer) = oneshot::channel();
        let (mut message, begun) = (message(reply), Instant::now());
        loop {
            message = match self.owner.inbox.try_post(message) {
                Ok(()) => return answer.blocking_recv().map_err(|_| EventsError::Gone),
                Err(PostError::Full(message)) if begun.elapsed() < POST_WAIT_MAX => message,
                Err(_) => return Err(EventsError::Gone),
            };
            thread::sleep(POST_PAUSE);
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        // If the inbox is full, the owner sees it in its next turn.
        let _ = self.0.inbox.try_post(Message::Left);
    }
}
