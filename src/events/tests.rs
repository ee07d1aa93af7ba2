//! Tests of the owner on stores in memory: full, slow, failing, and dropped without a sync.

use super::*;
use crate::domain::{Event, EventKind, ItemId, ItemText, Timestamp, UserId};
use crate::statistics::{ItemGroups, ShopperPast, Statistics};
use crate::store::{BatchStore as _, FaultyStore, StoreTable, WriteFault};
use crate::telemetry::Metrics;
use bytes::Bytes;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::mpsc;
use tokio::task::spawn_blocking;

/// A moment in 2023.
const NOW: Timestamp = 1_700_000_000;
const DAY_S: i64 = 86_400;
const KEEP_DAYS: u32 = 400;

/// A bundle of the items `a` to `d`, made ten days ago, that knows that `old` bought `a`.
#[derive(Debug)]
struct SmallBundle;

impl CountsBase for SmallBundle {
    fn as_of(&self) -> Timestamp {
        NOW - 10 * DAY_S
    }

    fn number(&self, item: &ItemId) -> Option<u32> {
        ["a", "b", "c", "d"].iter().position(|id| *id == item.as_str()).map(|at| at as u32)
    }

    fn past(&self, user: &UserId) -> ShopperPast {
        let bought = (user.as_str() == "old").then_some(crate::statistics::ShopEvent {
            item: 0,
            time: self.as_of() - DAY_S,
            kind: EventKind::Purchase,
        });
        ShopperPast::of(bought)
    }

    fn groups(&self, item: &ItemText) -> (Option<u32>, Vec<u32>) {
        ((item.category == "tea").then_some(0), Vec::new())
    }
}

fn event(index: u32, id: &str, user: &str, item: &str, time: Timestamp) -> NewEvent {
    let event = Event { item: item.into(), time, kind: EventKind::Purchase };
    NewEvent { index, id: id.into(), user: user.into(), event }
}

fn call(events: Vec<NewEvent>) -> RecordCall {
    RecordCall { events, take_valid: false, now: NOW }
}

fn open(store: &Arc<FaultyStore>) -> EventRecorder {
    let options = EventsOptions {
        keep_days: KEEP_DAYS,
        calls_waiting_max: NonZeroUsize::new(2).unwrap(),
        cache_bytes: 1 << 20,
    };
    EventRecorder::open(store.clone(), options, Arc::new(Metrics::new())).unwrap()
}

fn empty() -> Statistics {
    let mut groups = ItemGroups::new(1, 0).unwrap();
    (0..4).for_each(|_| groups.push(Some(0), &[]).unwrap());
    Statistics::new(groups)
}

async fn follow(recorder: &EventRecorder) -> LiveStatistics {
    follow_with(recorder, Vec::new()).await
}

async fn follow_with(recorder: &EventRecorder, items: Vec<PutItem>) -> LiveStatistics {
    let recorder = recorder.clone();
    let follow = move || recorder.follow(empty(), Arc::new(SmallBundle), &items).unwrap();
    spawn_blocking(follow).await.unwrap()
}

/// Sales of the item with this number, ever.
fn sales(live: &LiveStatistics, item: u32) -> u32 {
    live.load().item(item, NOW).sales_ever
}

async fn items_of(recorder: &EventRecorder, user: &str) -> Vec<String> {
    let events = recorder.of(&user.into()).await.unwrap();
    events.iter().map(|stored| stored.event.item.to_string()).collect()
}

#[tokio::test]
async fn an_acknowledged_event_is_counted_and_in_the_shoppers_past() {
    let recorder = open(&Arc::default());
    let live = follow(&recorder).await;
    assert_eq!(items_of(&recorder, "ann").await, [""; 0], "also if it was looked up before");
    let events = vec![event(0, "1", "ann", "a", NOW), event(1, "2", "ann", "b", NOW - 60)];
    let outcome = recorder.record(call(events)).await.unwrap();
    assert_eq!(outcome, RecordOutcome { taken: 2, ..RecordOutcome::default() });
    assert_eq!((sales(&live, 0), sales(&live, 1)), (1, 1));
    assert_eq!(items_of(&recorder, "ann").await, ["b", "a"], "by time");
    assert_eq!(items_of(&recorder, "ben").await, [""; 0]);
}

#[tokio::test]
async fn an_event_is_taken_once() {
    let store = Arc::default();
    let one = || event(0, "1", "ann", "a", NOW);
    let known = |taken, known| RecordOutcome { taken, known, ..RecordOutcome::default() };
    let recorder = open(&store);
    let live = follow(&recorder).await;
    // Twice in one call, again in the next, and by another shopper, whose event it is not.
    let twice = vec![one(), NewEvent { index: 1, ..one() }];
    assert_eq!(recorder.record(call(twice)).await.unwrap(), known(1, 1));
    assert_eq!(recorder.record(call(vec![one()])).await.unwrap(), known(0, 1));
    let other = vec![event(0, "1", "ben", "a", NOW)];
    assert_eq!(recorder.record(call(other)).await.unwrap(), known(1, 0));
    assert_eq!(sales(&live, 0), 2);
    drop((live, recorder));
    // And after a restart.
    let recorder = open(&store);
    let live = follow(&recorder).await;
    assert_eq!(sales(&live, 0), 2);
    assert_eq!(recorder.record(call(vec![one()])).await.unwrap(), known(0, 1));
    assert_eq!(sales(&live, 0), 2);
    assert_eq!(items_of(&recorder, "ann").await, ["a"]);
}

#[tokio::test]
async fn what_is_refused_is_named_and_nothing_else_is_taken() {
    let recorder = open(&Arc::default());
    let live = follow(&recorder).await;
    let taken = || event(0, "1", "ann", "a", NOW);
    recorder.record(call(vec![taken()])).await.unwrap();
    let with = |change: fn(&mut Event)| {
        let mut other = event(1, "1", "ann", "a", NOW);
        change(&mut other.event);
        other
    };
    let at = |time| event(1, "2", "ann", "b", time);
    let conflict = "was taken before with another content: purchase of `a` at 2023-11-14T22:13:20Z";
    for (wrong, field, problem) in [
        (at(NOW + 301), "time", "is 301 s in the future; the limit is 300"),
        (at(i64::MAX), "time", "s in the future; the limit is 300"),
        (at(0), "time", "is 1970-01-01T00:00:00Z; the earliest is 1995-01-01T00:00:00Z"),
        (at(-1), "time", "is 1969-12-31T23:59:59Z; the earliest"),
        (at(i64::MIN), "time", "s since 1970; the earliest"),
        (at(NOW - 401 * DAY_S), "time", "is 401 days ago; the limit is 400, `events.keep_days`"),
        (with(|event| event.item = "b".into()), "event_id", conflict),
        (with(|event| event.time -= 1), "event_id", conflict),
        (with(|event| event.kind = EventKind::Click), "event_id", conflict),
    ] {
        let good = event(0, "3", "ann", "c", NOW);
        let mut mixed = call(vec![good.clone(), wrong]);
        let error = recorder.record(mixed.clone()).await.unwrap_err();
        let RecordError::Refused(refused) = error else { panic!("{error}") };
        let [(1, refusal)] = &refused[..] else { panic!("{refused:?}") };
        assert_eq!(refusal.field(), field);
        assert!(refusal.to_string().contains(problem), "{refusal}");
        assert_eq!(sales(&live, 2), 0, "the good one was not taken");
        // By option, the good one is taken.
        mixed.events[0].id = format!("{:?}", mixed.events[1]);
        mixed.events[0].event.item = "d".into();
        mixed.take_valid = true;
        let outcome = recorder.record(mixed).await.unwrap();
        assert_eq!((outcome.taken, outcome.refused), (1, refused));
    }
    assert_eq!((sales(&live, 0), sales(&live, 1), sales(&live, 3)), (1, 0, 9));
}

#[tokio::test]
async fn the_edges_of_the_allowed_times_are_taken() {
    let recorder = open(&Arc::default());
    for (n, time) in [NOW + 300, NOW, NOW - 400 * DAY_S].into_iter().enumerate() {
        let events = vec![event(0, &n.to_string(), "ann", "a", time)];
        assert_eq!(recorder.record(call(events)).await.unwrap().taken, 1, "{time}");
    }
}

#[tokio::test]
async fn a_clock_that_jumps_back_forgets_nothing() {
    let recorder = open(&Arc::default());
    let live = follow(&recorder).await;
    let one = || event(0, "1", "ann", "a", NOW);
    recorder.record(call(vec![one()])).await.unwrap();
    let back = |events| RecordCall { now: NOW - 30 * DAY_S, ..call(events) };
    let again = recorder.record(back(vec![one()])).await.unwrap();
    assert_eq!((again.taken, again.known), (0, 1), "what is stored is known, whatever the clock");
    let new = recorder.record(back(vec![event(0, "2", "ann", "b", NOW)])).await.unwrap_err();
    assert!(matches!(new, RecordError::Refused(_)), "{new}");
    let early = vec![event(0, "3", "ann", "c", NOW - 30 * DAY_S)];
    assert_eq!(recorder.record(back(early)).await.unwrap().taken, 1);
    assert_eq!(items_of(&recorder, "ann").await, ["c", "a"]);
    assert_eq!(sales(&live, 0), 1);
}

#[tokio::test]
async fn what_does_not_count_is_said_and_kept() {
    let store = Arc::default();
    let recorder = open(&store);
    let live = follow(&recorder).await;
    let events = vec![
        event(0, "1", "ann", "a", NOW),
        event(1, "2", "nobody knows me", "b", NOW),
        event(2, "3", "ann", "unheard of", NOW),
        event(3, "4", "ann", "a", NOW - 11 * DAY_S),
    ];
    let outcome = recorder.record(call(events)).await.unwrap();
    assert_eq!(outcome.taken, 4);
    let expected = [(2, Uncounted::UnknownItem), (3, Uncounted::BeforeBundle)];
    assert_eq!(outcome.uncounted, expected);
    assert_eq!((sales(&live, 0), sales(&live, 1)), (1, 1));
    assert_eq!(items_of(&recorder, "ann").await, ["a", "a", "unheard of"]);
    // It counts once somebody puts the item: from then on, and from the start after a restart.
    let text = ItemText { category: "tea".into(), ..ItemText::default() };
    let put = || vec![PutItem { id: "unheard of".into(), text: text.clone() }];
    recorder.put_items(put()).await.unwrap();
    recorder.put_items(put()).await.unwrap();
    let number = live.number(&"unheard of".into()).unwrap();
    assert_eq!(number, 4);
    let more = vec![event(0, "5", "ben", "unheard of", NOW)];
    assert_eq!(recorder.record(call(more)).await.unwrap().uncounted, []);
    assert_eq!(sales(&live, number), 1);
    let counted = live.load().category(0, NOW).events[EventKind::Purchase as usize][0];
    assert!((counted - 3.0).abs() < 1e-6, "{counted}");
    drop((live, recorder));
    let recorder = open(&store);
    let live = follow_with(&recorder, put()).await;
    assert_eq!(sales(&live, live.number(&"unheard of".into()).unwrap()), 2);
}

#[tokio::test]
async fn a_shoppers_past_is_the_bundles_and_what_is_stored() {
    let store = Arc::default();
    for restart in [false, true] {
        let recorder = open(&store);
        let live = follow(&recorder).await;
        let now = NOW + i64::from(restart);
        let events = ["old", "new"].map(|user| {
            let index = u32::from(user == "new");
            event(index, &format!("{restart}"), user, "a", now)
        });
        recorder.record(call(events.into())).await.unwrap();
        let counts = live.load().item(0, now);
        assert_eq!(counts.buyers_ever, 1, "`old` is in the bundle, so only `new` is a new buyer");
        assert_eq!(counts.sales_ever, if restart { 4 } else { 2 });
    }
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing() {
    let store: Arc<FaultyStore> = Arc::default();
    let recorder = open(&store);
    let live = follow(&recorder).await;
    recorder.record(call(vec![event(0, "1", "ann", "a", NOW)])).await.unwrap();
    for (state, id) in [(WriteFault::Full, "2"), (WriteFault::WrittenAndReported, "3")] {
        store.set(state);
        let one = || vec![event(0, id, "ann", "b", NOW)];
        let before = sales(&live, 1);
        let error = recorder.record(call(one())).await.unwrap_err();
        assert!(matches!(error, RecordError::Failed(_)), "{error}");
        assert!(error.to_string().contains("facts.redb"), "{error}");
        assert_eq!(sales(&live, 1), before, "what was not acknowledged is not counted");
        // The caller tries again, and then for good measure once more.
        store.set(WriteFault::None);
        let again = recorder.record(call(one())).await.unwrap();
        assert_eq!((again.taken, again.known), (1, 0), "{id}");
        let again = recorder.record(call(one())).await.unwrap();
        assert_eq!((again.taken, again.known), (0, 1), "{id}");
        assert_eq!(sales(&live, 1), before + 1);
    }
    let expected = ["a", "b", "b"];
    assert_eq!(items_of(&recorder, "ann").await, expected);
    drop((live, recorder));
    let recorder = open(&store);
    assert_eq!((sales(&follow(&recorder).await, 1)), 2);
    assert_eq!(items_of(&recorder, "ann").await, expected);
}

#[tokio::test]
async fn a_call_beyond_those_that_wait_is_refused_at_once() {
    let (open_gate, gate) = mpsc::channel();
    let store = FaultyStore::behind(gate);
    let recorder = open(&Arc::new(store));
    let send = |n: u32| {
        let (recorder, id) = (recorder.clone(), n.to_string());
        tokio::spawn(
            async move { recorder.record(call(vec![event(0, &id, "ann", "a", NOW)])).await },
        )
    };
    // One is being stored, two wait. The order in which they arrive does not matter.
    let mut calls: Vec<_> = (0..20).map(send).collect();
    let mut full = 0;
    let mut waiting = Vec::new();
    for call in calls.drain(..17) {
        waiting.push(call);
    }
    waiting.append(&mut calls);
    let mut unfinished = Vec::new();
    for call in waiting {
        // With the gate shut, only refusals can end.
        match tokio::time::timeout(std::time::Duration::from_millis(50), call).await {
            Ok(ended) => {
                assert!(matches!(ended.unwrap(), Err(RecordError::Full)));
                full += 1;
            }
            Err(_) => unfinished.push(()),
        }
    }
    assert!(full >= 17 && unfinished.len() <= 3, "{full} were refused");
    (0..20).for_each(|_| open_gate.send(()).unwrap());
    let outcome = recorder.record(call(vec![event(0, "last", "ann", "a", NOW)])).await;
    // The inbox drains, so sooner or later there is room.
    assert!(matches!(outcome, Ok(_) | Err(RecordError::Full)));
}

#[tokio::test]
async fn old_events_are_removed_and_a_clock_ahead_removes_nothing() {
    let store: Arc<FaultyStore> = Arc::default();
    let recorder = open(&store);
    let live = follow(&recorder).await;
    let old = vec![event(0, "1", "ann", "a", NOW - 399 * DAY_S)];
    recorder.record(call(old)).await.unwrap();
    assert_eq!(items_of(&recorder, "ann").await, ["a"]);
    // The clock says that years have passed, and the events say that they have not.
    let ahead = RecordCall {
        now: NOW + 3_000 * DAY_S,
        ..call(vec![event(0, "1", "ann", "a", NOW - 399 * DAY_S)])
    };
    assert_eq!(recorder.record(ahead).await.unwrap().known, 1);
    assert_eq!(items_of(&recorder, "ann").await, ["a"]);
    let later = NOW + 3 * DAY_S;
    let new = RecordCall { now: later, ..call(vec![event(0, "2", "ann", "b", later)]) };
    recorder.record(new).await.unwrap();
    // The answer may come before the removal: the next call comes after it.
    recorder.record(call(vec![event(0, "3", "ann", "c", NOW)])).await.unwrap();
    assert_eq!(items_of(&recorder, "ann").await, ["c", "b"]);
    assert_eq!(sales(&live, 0), 0, "before the bundle");
    drop((recorder, live));
    assert_eq!(items_of(&open(&store), "ann").await, ["c", "b"]);
}

#[tokio::test]
async fn a_bundle_that_is_opened_meanwhile_counts_every_event_once() {
    let store: Arc<FaultyStore> = Arc::default();
    let recorder = open(&store);
    let first = follow(&recorder).await;
    let writer = recorder.clone();
    let writing = tokio::spawn(async move {
        for n in 0..400 {
            let events = vec![event(0, &n.to_string(), &format!("u{}", n % 7), "a", NOW - n)];
            while writer.record(call(events.clone())).await.is_err() {}
        }
    });
    let mut opened = Vec::new();
    for _ in 0..20 {
        opened.push(follow(&recorder).await);
    }
    writing.await.unwrap();
    for live in opened.iter().chain([&first]) {
        assert_eq!((sales(live, 0), live.load().item(0, NOW).buyers_ever), (400, 7));
    }
    drop(opened);
    // Those who left may fill the small inbox for a moment.
    let last = call(vec![event(0, "last", "u1", "a", NOW)]);
    while recorder.record(last.clone()).await.is_err() {}
    assert_eq!(sales(&first, 0), 401);
}

#[tokio::test]
async fn a_store_that_cannot_be_read_is_named() {
    let store: Arc<FaultyStore> = Arc::default();
    let recorder = open(&store);
    recorder.record(call(vec![event(0, "1", "ann", "a", NOW)])).await.unwrap();
    drop(recorder);
    let key = event(0, "1", "ann", "a", NOW).key();
    for value in [&b""[..], b"\x02whatever it is that is written here", b"\x01"] {
        store
            .change(StoreTable::ShopperEvents, &[(key.clone(), Bytes::copy_from_slice(value))], &[])
            .unwrap();
        let recorder = open(&store);
        let follow = recorder.clone();
        let follow = move || follow.follow(empty(), Arc::new(SmallBundle), &[]);
        let error = spawn_blocking(follow).await.unwrap().unwrap_err();
        assert!(
            error.to_string().contains("the table of events in the store is damaged"),
            "{error}"
        );
        let again = recorder.record(call(vec![event(0, "1", "ann", "a", NOW)])).await;
        assert!(matches!(again, Err(RecordError::Failed(_))), "{again:?}");
        let other = recorder.record(call(vec![event(0, "2", "ben", "a", NOW)])).await;
        assert!(other.is_ok(), "{other:?}");
        let id = format!("{value:?}");
        recorder.record(call(vec![event(0, &id, "ben", "a", NOW)])).await.unwrap();
    }
}
