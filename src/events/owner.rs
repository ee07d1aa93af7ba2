//! The owner of the events: the only thread that writes them and counts them.
//!
//! A turn takes the calls that wait, stores what is new of all of them in one durable step, counts it for each bundle that is
//! read, shows it to readers, and only then answers. So an acknowledged event is in the next request's answer.

use super::counting::{Counting, PutItem};
use super::decide::{Decisions, RecordCall, RecordOutcome, Refusal, TakenEvent};
use super::doubts::Doubts;
use super::error::{EventsError, RecordError};
use super::event::{NewEvent, StoredEvent};
use super::shoppers::Shoppers;
use super::sweep::Sweep;
use super::table::{TABLE, TableEnd, read};
use crate::domain::{Timestamp, UserId};
use crate::store::BatchStore;
use crate::telemetry::Metrics;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;
use tokio::sync::oneshot;

/// Events that may come while a bundle is opened. They are counted when it is open.
pub const OPENING_EVENTS_MAX: usize = 1 << 20;

/// A message to the owner.
#[derive(Debug)]
pub(super) enum Message {
    /// Take these events.
    Record(RecordCall, oneshot::Sender<Result<RecordOutcome, RecordError>>),
    /// A bundle is being opened by whoever holds the token: note what comes from now on. The answer is the sequence up to
    /// which everything is stored.
    Open(Weak<()>, oneshot::Sender<u64>),
    /// The bundle of that token is open and has counted up to there: go on.
    Join(Arc<()>, Box<Counting>, oneshot::Sender<Result<(), EventsError>>),
    /// Number the items that the bundles do not hold.
    Put(Vec<PutItem>, oneshot::Sender<()>),
    /// Nobody reads the counts of some bundle any more.
    Left,
}

/// A bundle that is being opened.
struct Opening {
    token: Weak<()>,
    events: Vec<(UserId, StoredEvent)>,
    items: Vec<PutItem>,
    is_overtaken: bool,
}

/// The state of the owner.
pub(super) struct Owner {
    store: Arc<dyn BatchStore>,
    shoppers: Arc<Shoppers>,
    metrics: Arc<Metrics>,
    end: TableEnd,
    doubts: Doubts,
    sweep: Sweep,
    keep_days: u32,
    /// The bundles that are read, the newest last.
    counted: Vec<Counting>,
    opening: Vec<Opening>,
}

// === impl Owner ===

impl Owner {
    /// The owner of a store whose table ends there.
    pub(super) fn new(
        store: Arc<dyn BatchStore>,
        shoppers: Arc<Shoppers>,
        metrics: Arc<Metrics>,
        end: TableEnd,
        keep_days: u32,
    ) -> Self {
        Self {
            store,
            shoppers,
            metrics,
            end,
            doubts: Doubts::default(),
            sweep: Sweep::new(keep_days),
            keep_days,
            counted: Vec::new(),
            opening: Vec::new(),
        }
    }

    /// Handles the messages of one turn.
    pub(super) fn turn(&mut self, messages: &mut Vec<Message>) {
        let (mut calls, mut replies) = (Vec::new(), Vec::new());
        for message in messages.drain(..) {
            match message {
                Message::Record(call, reply) => {
                    calls.push(call);
                    replies.push(reply);
                }
                Message::Open(token, reply) => {
                    let (events, items) = (Vec::new(), Vec::new());
                    self.opening.push(Opening { token, events, items, is_overtaken: false });
                    let _ = reply.send(self.end.next_sequence);
                }
                Message::Join(token, counting, reply) => {
                    let _ = reply.send(self.join(&token, *counting));
                }
                Message::Put(items, reply) => {
                    self.put(&items);
                    let _ = reply.send(());
                }
                Message::Left => {}
            }
        }
        self.counted.retain(|counting| !counting.is_over());
        self.opening.retain(|opening| opening.token.strong_count() > 0);
        if !calls.is_empty() {
            let answers = self.record(calls);
            for (reply, answer) in replies.into_iter().zip(answers) {
                // The caller may have hung up. What is stored stays stored.
                let _ = reply.send(answer);
            }
        }
    }

    /// Stores what is new of these calls in one step, and counts it.
    fn record(&mut self, calls: Vec<RecordCall>) -> Vec<Result<RecordOutcome, RecordError>> {
        let count = calls.len();
        let events: usize = calls.iter().map(|call| call.events.len()).sum();
        let now = calls.iter().map(|call| call.now).max().unwrap_or_default();
        let begun = Instant::now();
        match self.store(calls) {
            Ok((taken, mut outcomes)) => {
                self.metrics.events_stored(begun.elapsed());
                self.count(&taken, &mut outcomes);
                self.sweep(now);
                outcomes.into_iter().map(|outcome| self.answer(outcome)).collect()
            }
            Err(error) => {
                tracing::error!(%error, "events could not be stored");
                self.metrics.events("failed", events as u64);
                vec![Err(RecordError::Failed(Arc::new(error))); count]
            }
        }
    }

    fn answer(
        &self,
        outcome: Result<RecordOutcome, Vec<(u32, Refusal)>>,
    ) -> Result<RecordOutcome, RecordError> {
        match &outcome {
            Ok(outcome) => {
                let RecordOutcome { taken, known, refused, uncounted } = outcome;
                self.metrics.events("taken", u64::from(*taken));
                self.metrics.events("known", u64::from(*known));
                self.metrics.events("refused", refused.len() as u64);
                self.metrics.events("uncounted", uncounted.len() as u64);
            }
            Err(refused) => self.metrics.events("refused", refused.len() as u64),
        }
        outcome.map_err(RecordError::Refused)
    }

    fn store(
        &mut self,
        calls: Vec<RecordCall>,
    ) -> Result<(Vec<TakenEvent>, Outcomes), EventsError> {
        let keys: Vec<Vec<Bytes>> =
            calls.iter().map(|call| call.events.iter().map(NewEvent::key).collect()).collect();
        let known = self.known(&keys)?;
        let (first, doubts) = (self.end.next_sequence, &self.doubts);
        let doubtful = |sequence| doubts.has(sequence);
        let mut decisions = Decisions::new(known, &doubtful, first, self.keep_days);
        for (call, keys) in calls.into_iter().zip(&keys) {
            decisions.add(call, keys);
        }
        let next = decisions.next_sequence();
        let Decisions { taken, outcomes, .. } = decisions;
        if taken.is_empty() {
            return Ok((taken, outcomes));
        }
        let latest = taken.iter().map(|event| event.stored.event.time).max();
        let latest = latest.unwrap_or(Timestamp::MIN).max(self.end.latest);
        let mut put: Vec<_> =
            taken.iter().map(|event| (event.key.clone(), event.stored.encode())).collect();
        put.push(TableEnd { next_sequence: next, latest }.entry());
        // After an error, the entries may be on the disk all the same, so their sequences are not used again.
        self.end.next_sequence = next;
        self.store.change(TABLE, &put, &[]).inspect_err(|_| self.doubts.add(first..next))?;
        self.end.latest = latest;
        Ok((taken, outcomes))
    }

    fn known(&self, keys: &[Vec<Bytes>]) -> Result<FxHashMap<Bytes, StoredEvent>, EventsError> {
        let keys: Vec<Bytes> = keys.iter().flatten().cloned().collect();
        let found = self.store.get_many(TABLE, &keys)?;
        let mut known = FxHashMap::default();
        for (key, value) in keys.into_iter().zip(found) {
            if let Some(value) = value {
                known.insert(key, read(&value)?);
            }
        }
        Ok(known)
    }

    /// Counts what was stored for each bundle, and shows it. The newest bundle says what does not count.
    fn count(&mut self, taken: &[TakenEvent], outcomes: &mut Outcomes) {
        if taken.is_empty() {
            return;
        }
        let mut of_user: FxHashMap<&UserId, (Vec<StoredEvent>, Vec<u64>)> = FxHashMap::default();
        for event in taken {
            let (new, replaced) = of_user.entry(&event.user).or_default();
            new.push(event.stored.clone());
            replaced.extend(event.before.as_ref().map(|before| before.sequence));
        }
        for (user, (new, replaced)) in of_user {
            self.shoppers.append(user, &new, &replaced);
        }
        let newest = self.counted.len().saturating_sub(1);
        for (place, counting) in self.counted.iter_mut().enumerate() {
            for event in taken {
                let shoppers = &self.shoppers;
                let earlier = || earlier(shoppers, &event.user);
                if let Err(why) = counting.count(&event.user, &event.stored, earlier)
                    && place == newest
                    && let Some(Ok(outcome)) = outcomes.get_mut(event.call)
                {
                    outcome.uncounted.push((event.index, why));
                }
            }
            counting.publish();
        }
        for opening in &mut self.opening {
            opening.note(taken);
        }
    }

    fn put(&mut self, items: &[PutItem]) {
        for counting in &mut self.counted {
            for item in items {
                counting.put(item);
            }
            counting.publish();
        }
        for opening in &mut self.opening {
            opening.items.extend_from_slice(items);
        }
    }

    /// Goes on counting for a bundle that has just been opened.
    fn join(&mut self, token: &Arc<()>, mut counting: Counting) -> Result<(), EventsError> {
        let is_own = |opening: &Opening| opening.token.as_ptr() == Arc::as_ptr(token);
        let place = self.opening.iter().position(is_own).ok_or(EventsError::Gone)?;
        let Opening { events, items, is_overtaken, .. } = self.opening.swap_remove(place);
        if is_overtaken {
            return Err(EventsError::Overtaken(OPENING_EVENTS_MAX));
        }
        for item in &items {
            counting.put(item);
        }
        for (user, stored) in &events {
            let _ = counting.count(user, stored, || earlier(&self.shoppers, user));
        }
        counting.publish();
        self.counted.push(counting);
        Ok(())
    }

    /// Removes a few events that are too old to be kept.
    fn sweep(&mut self, now: Timestamp) {
        match self.sweep.step(&*self.store, now, self.end.latest) {
            Ok(removed) => {
                for (user, sequences) in &removed {
                    self.shoppers.remove(user, sequences);
                }
            }
            Err(error) => tracing::warn!(%error, "old events could not be removed"),
        }
    }
}

/// The outcome of each call of a turn.
type Outcomes = Vec<Result<RecordOutcome, Vec<(u32, Refusal)>>>;

/// A shopper's stored events; none if they can't be read, which costs some counts their exactness.
fn earlier(shoppers: &Shoppers, user: &UserId) -> Arc<[StoredEvent]> {
    shoppers.read(user).unwrap_or_else(|error| {
        tracing::warn!(%error, "a shopper's stored events can't be read: only the bundle's count");
        Arc::from([])
    })
}

// === impl Opening ===

impl Opening {
    fn note(&mut self, taken: &[TakenEvent]) {
        if self.events.len() + taken.len() > OPENING_EVENTS_MAX {
            self.is_overtaken = true;
            self.events = Vec::new();
        }
        if !self.is_overtaken {
            let new = taken.iter().map(|event| (event.user.clone(), event.stored.clone()));
            self.events.extend(new);
        }
    }
}
