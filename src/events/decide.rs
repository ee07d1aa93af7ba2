//! Which events of a call are taken: a pure function of the call, what is known, and the time.

use super::event::{NewEvent, StoredEvent};
use crate::domain::limits::CLOCK_SKEW_S_MAX;
use crate::domain::{Event, Timestamp, UserId};
use bytes::Bytes;
use rustc_hash::FxHashMap;

/// The earliest time of an event, 1995-01-01: online shops are not older. An earlier time is a unit that was mistaken, or a
/// time that was never set.
pub const EVENT_TIME_MIN: Timestamp = 788_918_400;
const DAY_S: i64 = 86_400;

/// Events of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordCall {
    /// The events.
    pub events: Vec<NewEvent>,
    /// Whether valid ones are taken although others are invalid.
    pub take_valid: bool,
    /// When the call came.
    pub now: Timestamp,
}

/// Why an event is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is ahead of the clock.
    Future {
        /// Seconds by which it is ahead.
        ahead_s: i64,
    },
    /// It is before [`EVENT_TIME_MIN`].
    Ancient {
        /// Its time.
        time: Timestamp,
    },
    /// It is older than what the server keeps.
    Old {
        /// Its age.
        days: i64,
        /// The age up to which events are kept.
        keep_days: u32,
    },
    /// Another event of the shopper was taken with its id.
    Conflict {
        /// That event.
        taken: Event,
    },
}

/// What became of a call's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordOutcome {
    /// How many are new, and durable now.
    pub taken: u32,
    /// How many were taken before, with the same content.
    pub known: u32,
    /// Those that were left out.
    pub refused: Vec<(u32, Refusal)>,
    /// Those that were taken but don't count in the bundle that serves.
    pub uncounted: Vec<(u32, Uncounted)>,
}

/// Why an event that was taken does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uncounted {
    /// The bundle does not hold its item.
    UnknownItem,
    /// It happened before the bundle's events end.
    BeforeBundle,
}

/// An event that is to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TakenEvent {
    /// The index of its call.
    pub call: usize,
    /// Its place in the call.
    pub index: u32,
    pub key: Bytes,
    pub user: UserId,
    pub stored: StoredEvent,
    /// What a failed write left under its key.
    pub before: Option<StoredEvent>,
}

/// Decides about the calls of one turn, in their order.
pub(super) struct Decisions<'a> {
    /// What is stored, or will be by this turn.
    known: FxHashMap<Bytes, StoredEvent>,
    /// Events that a failed write may have left in the store, uncounted.
    doubtful: &'a dyn Fn(u64) -> bool,
    next_sequence: u64,
    keep_days: u32,
    /// The events to store.
    pub taken: Vec<TakenEvent>,
    /// The outcome of each call. A call that is refused as a whole has taken nothing.
    pub outcomes: Vec<Result<RecordOutcome, Vec<(u32, Refusal)>>>,
}

// === impl Decisions ===

impl<'a> Decisions<'a> {
    /// Decides with what is `known` by key. New events are numbered from `next_sequence`.
    pub(super) fn new(
        known: FxHashMap<Bytes, StoredEvent>,
        doubtful: &'a dyn Fn(u64) -> bool,
        next_sequence: u64,
        keep_days: u32,
    ) -> Self {
        let (taken, outcomes) = (Vec::new(), Vec::new());
        Self { known, doubtful, next_sequence, keep_days, taken, outcomes }
    }

    /// The sequence after those of the events to store.
    pub(super) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Decides about the next call. `keys` are those of its events.
    pub(super) fn add(&mut self, call: RecordCall, keys: &[Bytes]) {
        let RecordCall { events, take_valid, now } = call;
        let (number, begun) = (self.outcomes.len(), self.taken.len());
        let mut outcome = RecordOutcome::default();
        for (event, key) in events.into_iter().zip(keys) {
            let index = event.index;
            match self.decide(event, key, now) {
                Ok(Some((user, stored))) => {
                    outcome.taken += 1;
                    let before = self.known.insert(key.clone(), stored.clone());
                    let key = key.clone();
                    self.taken.push(TakenEvent { call: number, index, key, user, stored, before });
                }
                Ok(None) => outcome.known += 1,
                Err(refusal) => outcome.refused.push((index, refusal)),
            }
        }
        if !take_valid && !outcome.refused.is_empty() {
            for event in self.taken.drain(begun..).rev() {
                match event.before {
                    Some(before) => self.known.insert(event.key, before),
                    None => self.known.remove(&event.key),
                };
            }
            self.outcomes.push(Err(outcome.refused));
            return;
        }
        self.outcomes.push(Ok(outcome));
    }

    /// The event to store; `None` if it is stored. What is stored is known, whatever the clock says now.
    fn decide(
        &mut self,
        event: NewEvent,
        key: &Bytes,
        now: Timestamp,
    ) -> Result<Option<(UserId, StoredEvent)>, Refusal> {
        let NewEvent { index: _, id: _, user, event } = event;
        if let Some(stored) = self.known.get(key) {
            if stored.event != event {
                return Err(Refusal::Conflict { taken: stored.event.clone() });
            }
            if !(self.doubtful)(stored.sequence) {
                return Ok(None);
            }
        } else {
            check_time(event.time, now, self.keep_days)?;
        }
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        Ok(Some((user, StoredEvent { sequence, event })))
    }
}

fn check_time(time: Timestamp, now: Timestamp, keep_days: u32) -> Result<(), Refusal> {
    let ahead_s = time.saturating_sub(now);
    if ahead_s > CLOCK_SKEW_S_MAX {
        return Err(Refusal::Future { ahead_s });
    }
    if time < EVENT_TIME_MIN {
        return Err(Refusal::Ancient { time });
    }
    if ahead_s < -(i64::from(keep_days) * DAY_S) {
        return Err(Refusal::Old { days: -ahead_s / DAY_S, keep_days });
    }
    Ok(())
}

// === impl Refusal ===

impl Refusal {
    /// The field that is wrong.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Future { .. } | Self::Ancient { .. } | Self::Old { .. } => "time",
            Self::Conflict { .. } => "event_id",
        }
    }
}

/// The problem, to stand after the field.
impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let date = |time: Timestamp| match jiff::Timestamp::from_second(time) {
            Ok(time) => time.to_string(),
            Err(_) => format!("{time} s since 1970"),
        };
        match self {
            Self::Future { ahead_s } => {
                write!(f, "is {ahead_s} s in the future; the limit is {CLOCK_SKEW_S_MAX}")
            }
            Self::Ancient { time } => {
                write!(f, "is {}; the earliest is {}", date(*time), date(EVENT_TIME_MIN))
            }
            Self::Old { days, keep_days } => {
                write!(f, "is {days} days ago; the limit is {keep_days}, `events.keep_days`")
            }
            Self::Conflict { taken: Event { item, time, kind } } => {
                let (kind, date) = (kind.as_str(), date(*time));
                write!(f, "was taken before with another content: {kind} of `{item}` at {date}")
            }
        }
    }
}
