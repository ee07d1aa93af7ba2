//! What training replays is what a server counts: the same live features, to the bit.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use raisonne::bundle::{Catalog, CatalogRow, HistoryEvent};
use raisonne::domain::{Event, EventKind, ItemId, ItemText, Timestamp, UserId};
use raisonne::events::{CountsBase, EventRecorder, EventsOptions, NewEvent, RecordCall};
use raisonne::language::WordWeights;
use raisonne::scorer::features::{LiveCounts, LiveItem, item_groups};
use raisonne::statistics::{ShopEvent, ShopperPast, Statistics};
use raisonne::store::EmbeddedStore;
use raisonne::telemetry::Metrics;
use raisonne::train::dataset::{Dataset, PurchaseLine, Split};
use raisonne::train::replay::{LiveCase, Replay};
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::num::NonZeroUsize;
use std::sync::Arc;

const EVENTS: usize = 100_000;
const CASES: usize = 1_000;
const USERS: usize = 3_000;
const ITEMS: u32 = 400;
const SLATE: usize = 20;
/// The first moment: after the year in which events may begin.
const BEGIN: Timestamp = 1_600_000_000;
/// Seconds between two events.
const STEP_S: i64 = 97;
/// Events of one call.
const CALL: usize = 500;

/// A bundle that knows items and nothing of what was done with them.
#[derive(Debug)]
struct Empty(Arc<Catalog>);

impl CountsBase for Empty {
    fn as_of(&self) -> Timestamp {
        BEGIN
    }

    fn number(&self, item: &ItemId) -> Option<u32> {
        self.0.number(item)
    }

    fn past(&self, _user: &UserId) -> ShopperPast {
        ShopperPast::default()
    }

    fn groups(&self, _item: &ItemText) -> (Option<u32>, Vec<u32>) {
        (None, Vec::new())
    }
}

/// Events in time order, with their users by number.
fn events() -> Vec<(usize, ShopEvent)> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut user = 0;
    let event = |at: usize| {
        // Shoppers stay for some events, and favour some items.
        if rng.random_bool(0.4) {
            user = rng.random_range(0..USERS);
        }
        let item = rng.random_range(0..ITEMS).min(rng.random_range(0..ITEMS));
        let kinds = [EventKind::Purchase, EventKind::Click, EventKind::Cart];
        let kind = *kinds.choose(&mut rng).unwrap();
        (user, ShopEvent { item, time: BEGIN + at as i64 / 2 * STEP_S, kind })
    };
    (0..EVENTS).map(event).collect()
}

fn catalog() -> Catalog {
    let words = ["red", "oak", "mug", "lamp", "tea", "jar", "bowl", "sofa", "rug", "vase", "pot"];
    Catalog::new((0..ITEMS as usize).map(|item| CatalogRow {
        id: format!("i{item}"),
        title: format!("{} {}", words[item % 11], words[item / 11 % 11]),
        category: format!("c{}", item % 7),
        attributes: vec![("colour".into(), words[item % 5].into())],
        price: None,
    }))
}

fn dataset(events: &[(usize, ShopEvent)]) -> Dataset {
    let mut dataset = Dataset {
        users: (0..USERS).map(|user| format!("u{user}").as_str().into()).collect(),
        bought: vec![Vec::new(); USERS],
        browsed: vec![Vec::new(); USERS],
        purchases: Vec::new(),
        split: Split { begin: BEGIN, train: BEGIN, validate: BEGIN, test: BEGIN, end: i64::MAX },
    };
    for &(user, ShopEvent { item, time, kind }) in events {
        match kind {
            EventKind::Purchase => {
                dataset.bought[user].push(PurchaseLine { item, time, basket: 0, first: false });
            }
            _ => dataset.browsed[user].push(HistoryEvent { item, time, kind }),
        }
    }
    dataset
}

#[tokio::test]
async fn a_server_and_a_training_read_the_same_features_to_the_bit() {
    let (catalog, dir) = (Arc::new(catalog()), tempfile::tempdir().unwrap());
    let events = events();
    // Training orders events of one moment by user, and browsing before purchases: a shop that sends them so agrees.
    let mut sent = events.clone();
    sent.sort_by_key(|&(user, event)| (event.time, user, event.kind == EventKind::Purchase));
    let dataset = dataset(&sent);
    let texts = (0..ITEMS).map(|item| catalog.text(item));
    let words = Arc::new(WordWeights::of(texts));

    let store = Arc::new(EmbeddedStore::open(&dir.path().join("events.redb")).unwrap());
    let options = EventsOptions {
        keep_days: 36_500,
        calls_waiting_max: NonZeroUsize::new(8).unwrap(),
        cache_bytes: 1 << 20,
    };
    let recorder = EventRecorder::open(store, options, Arc::new(Metrics::default())).unwrap();
    let empty = Statistics::new(item_groups(&catalog).unwrap());
    let base = Arc::new(Empty(catalog.clone()));
    let live = {
        let recorder = recorder.clone();
        tokio::task::spawn_blocking(move || recorder.follow(empty, base, &[])).await.unwrap()
    }
    .unwrap();

    let mut replay = Replay::new(&dataset, &catalog, words.clone(), 0).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let (mut compared, mut known, mut next) = (0, 0, 0);
    for case in 1..=CASES {
        let until = EVENTS * case / CASES;
        let now = BEGIN + until as i64 / 2 * STEP_S;
        let end = sent.partition_point(|(_, event)| event.time < now);
        for (call, calls) in sent[next..end].chunks(CALL).enumerate() {
            let event = |(index, &(user, ShopEvent { item, time, kind }))| NewEvent {
                index,
                id: format!("e{case}/{call}/{index}"),
                user: format!("u{user}").as_str().into(),
                event: Event { item: format!("i{item}").as_str().into(), time, kind },
            };
            let events = (0..).zip(calls).map(event).collect();
            let outcome = recorder.record(RecordCall { events, take_valid: false, now }).await;
            assert_eq!(outcome.unwrap().taken as usize, calls.len());
        }
        next = end;

        let user = rng.random_range(0..USERS);
        let slate: Vec<u32> = (0..SLATE).map(|_| rng.random_range(0..ITEMS)).collect();
        let mut past: Vec<HistoryEvent> = dataset.browsed[user].clone();
        past.extend(dataset.bought[user].iter().map(|line| HistoryEvent {
            item: line.item,
            time: line.time,
            kind: EventKind::Purchase,
        }));
        past.retain(|event| event.time < now);
        past.sort_by_key(|event| event.time);
        let trained = replay.read(LiveCase { now, past: &past, slate: &slate });

        let stored = recorder.of(&format!("u{user}").as_str().into()).await.unwrap();
        let served = ShopperPast::of(stored.iter().map(|stored| ShopEvent {
            item: catalog.number(&stored.event.item).unwrap(),
            time: stored.event.time,
            kind: stored.event.kind,
        }));
        let counts = LiveCounts::of(live.load(), words.clone(), Arc::new(served), now);
        for (&item, trained) in slate.iter().zip(&trained) {
            let served = counts.vector(&catalog, LiveItem::Known(item));
            for (at, (a, b)) in served.as_slice().iter().zip(trained.as_slice()).enumerate() {
                assert_eq!(a.to_bits(), b.to_bits(), "case {case}, item {item}, feature {at}");
            }
            compared += 1;
            known += usize::from(served["bought_before"] > 0.0);
        }
    }
    assert_eq!(compared, CASES * SLATE);
    assert!(known > 100, "some items must be known to the shopper: {known}");
}
