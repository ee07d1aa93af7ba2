//! One climb: a request is resolved once, and the orders that training judges are those that are served.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "nothing is flipped here")]
#[path = "support/bundle.rs"]
mod bundle;
#[path = "support/ladder_options.rs"]
mod ladder_options;

use bundle::copied_bundle;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, future, stream};
use ladder_options::ladder_options;
use raisonne::bundle::{Bundle, HistoryEvent, Manifest, Part, UserCard};
use raisonne::domain::{
    Candidate, Criticality, Deadline, Effort, Event, Explain, ItemId, Quality, Query, Ranking,
    UserId,
};
use raisonne::evidence;
use raisonne::rank::{self, Ladder, LadderOptions, Shortfall, Update};
use raisonne::reranker::{ComparedFile, RerankerFile, WeighedFile};
use raisonne::scorer::OpenedScorer;
use raisonne::store::{Store, StoreEntry, StoreFuture, StoreTable};
use raisonne::telemetry::Metrics;
use raisonne::train::cases::{Case, PredictionTask};
use raisonne::train::dataset::{Dataset, Split};
use raisonne::train::offline_ladder::{OfflineClimb, OfflineLadder};
use raisonne::train::snapshot::Snapshot;
use raisonne::train::synthetic_query::SyntheticQuery;
use raisonne::train::training_data::TrainingData;
use raisonne::train::{NoProgress, Recipe, Workspace};
use raisonne::upstream::{ItemKnn, ItemKnnConfig};
use rand::seq::{SliceRandom as _, index};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::block_in_place;
use tokio::time::Instant;

/// Longer than any climb here takes on a slow machine.
const PATIENCE: Duration = Duration::from_mins(10);
/// Cases that both climbs get.
const CASES: usize = 200;
/// Items of a slate: more than are weighed.
const SLATE: usize = 60;
/// Where the history of every third shopper comes from.
const KINDS: [&str; 3] = ["stored", "inline", "cold"];
/// Requests in flight.
const IN_FLIGHT: usize = 4;

/// The same request for both climbs.
struct Twin {
    query: Query,
    case: Case,
}

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

/// A copy of the demo in which every rung changes the order, and so does every weight.
fn all_rungs(home: &Path) -> PathBuf {
    let dir = copied_bundle(home, "all-rungs");
    let compared = |thought_tokens_max| ComparedFile {
        weight: 0.7,
        rechead_weight: 0.5,
        offered_max: 10,
        thought_tokens_max,
        grounded: true,
    };
    let file = RerankerFile {
        weighed: Some(WeighedFile { weight: 0.8, candidates_max: 20 }),
        reranked: Some(compared(0)),
        reasoned: Some(compared(48)),
    };
    fs::write(dir.join(Part::Reranker.file()), toml::to_string(&file).unwrap()).unwrap();
    set(&dir.join(Part::RecheadShape.file()), None, "weight", 0.3);
    set(&dir.join(Part::ScorerShape.file()), Some("fusion"), "cold_prior_weight", 0.6);
    Manifest::of(&dir, "all-rungs").unwrap().write(&dir).unwrap();
    dir
}

/// Sets a number in a TOML file, at its top or in a section.
fn set(path: &Path, section: Option<&str>, key: &str, value: f64) {
    let mut file: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let table = match section {
        Some(section) => file[section].as_table_mut().unwrap(),
        None => &mut file,
    };
    assert!(table.insert(key.to_owned(), value.into()).is_some(), "{key} is in the file");
    fs::write(path, file.to_string()).unwrap();
}

fn query(user: &UserId, items: &[ItemId], now: i64) -> Query {
    let candidate =
        |item: &ItemId| Candidate { item: item.clone(), prior_score: None, inline: None };
    Query {
        request_id: "twin".into(),
        user: user.clone(),
        history: None,
        profile: None,
        query_text: None,
        candidates: items.iter().map(candidate).collect(),
        top_n: 10,
        effort: Effort::Auto,
        explain: Explain::Cached,
        reasons_per_item: 3,
        criticality: Criticality::Default,
        bundle: None,
        now,
        is_replay: false,
        deadline: Deadline::after(Instant::now(), PATIENCE),
    }
}

/// Stored, inline and cold shoppers in turn. Every fifth says something in words.
fn twins(opened: &OpenedScorer) -> Vec<Twin> {
    let mut users: Vec<(&UserId, &Arc<UserCard>)> = opened.model.cards.users.iter().collect();
    users.sort_by_key(|(user, _)| *user);
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let some = (0..CASES).map(|number| users[number * users.len() / CASES]);
    some.enumerate()
        .map(|(number, (user, card))| twin(opened, number, user, card, &mut rng))
        .collect()
}

fn twin(
    opened: &OpenedScorer,
    number: usize,
    user: &UserId,
    card: &UserCard,
    rng: &mut ChaCha8Rng,
) -> Twin {
    let (catalog, cards) = (&opened.model.catalog, &opened.model.cards);
    let slate = slate(opened, card, rng);
    let items: Vec<ItemId> = slate.iter().map(|&item| catalog.item(item).id.clone()).collect();
    let now = cards.as_of + rng.random_range(0..90 * 86_400);
    let history = card.history.clone();
    let nobody = UserId::from(format!("nobody-{number}"));
    let (user, inline, case_of) = match KINDS[number % KINDS.len()] {
        "stored" => (user.clone(), None, (history, Some(card.vector.clone()), card.expected_item)),
        "inline" => {
            let vector = opened.model.reader.vector(&evidence::pattern_text(
                catalog,
                &cards.items,
                &history,
                &opened.file.currency,
            ));
            (nobody, Some(events(opened, &history)), (history, Some(vector), None))
        }
        _ => (nobody, None, (Vec::new(), None, None)),
    };
    let synthetic_query = if number.is_multiple_of(5) {
        SyntheticQuery {
            profile: "Buys for a family of four".into(),
            query_text: "something blue for the kitchen".into(),
        }
    } else {
        SyntheticQuery::default()
    };
    let words = |text: &str| (!text.is_empty()).then(|| text.into());
    let query = Query {
        history: inline,
        profile: words(&synthetic_query.profile),
        query_text: words(&synthetic_query.query_text),
        ..query(&user, &items, now)
    };
    let (history, pattern, expected_item) = case_of;
    let pattern_text =
        evidence::pattern_text(catalog, &cards.items, &history, &opened.file.currency);
    let case = Case {
        user: number as u32,
        task: PredictionTask::FirstPurchase,
        now,
        history,
        pattern,
        pattern_text,
        synthetic_query,
        expected_item,
        slate,
        relevant: Vec::new(),
        live: Vec::new(),
        rechead: Vec::new(),
        line: 0,
        snapshot: 0,
    };
    Twin { query, case }
}

/// Items drawn by chance, half of them from those that the shopper may want: that makes close calls.
fn slate(opened: &OpenedScorer, card: &UserCard, rng: &mut ChaCha8Rng) -> Vec<u32> {
    let last = card.history.last().unwrap().item;
    let near = opened.model.cards.partners.of(last).map(|(item, _)| item).take(SLATE / 2);
    let drawn = index::sample(rng, opened.model.catalog.len(), SLATE).into_iter();
    let mut slate: Vec<u32> = near.chain(drawn.map(|item| item as u32)).collect();
    let mut known = BTreeSet::new();
    slate.retain(|item| known.insert(*item));
    slate.truncate(SLATE);
    slate.shuffle(rng);
    slate
}

/// A history as it comes inline.
fn events(opened: &OpenedScorer, history: &[HistoryEvent]) -> Vec<Event> {
    let event = |past: &HistoryEvent| Event {
        item: opened.model.catalog.item(past.item).id.clone(),
        time: past.time,
        kind: past.kind,
    };
    history.iter().map(event).collect()
}

/// Every ranking on the way of a served climb, by its rung's name.
async fn served(ladder: &Arc<Ladder>, query: Query) -> BTreeMap<&'static str, Arc<Ranking>> {
    let updates: Vec<_> = ladder.clone().climb(query).collect().await;
    let mut rankings = BTreeMap::new();
    for update in updates {
        if let Update::Answer(answer) = update {
            assert!(answer.shortfalls.is_empty(), "{:?}", answer.shortfalls);
            rankings.insert(answer.ranking.quality.as_str(), answer.ranking);
        }
    }
    rankings
}

/// The climb of training, on the models and the cards of a bundle.
fn judged(dir: &Path, twins: &[Twin]) -> OfflineClimb {
    let bundle = Bundle::open(dir).unwrap();
    let recipe = Recipe::read(&dir.join(Part::Recipe.file()), &[]).unwrap();
    let mut progress = NoProgress;
    let workspace = Workspace::new(dir, recipe, &mut progress).unwrap();
    let as_of = bundle.cards.as_of;
    let knn = ItemKnnConfig::before(as_of);
    let upstream = ItemKnn::build([], bundle.catalog.len(), &knn);
    let dataset = Dataset {
        users: twins.iter().map(|twin| twin.query.user.clone()).collect(),
        bought: Vec::new(),
        browsed: Vec::new(),
        purchases: Vec::new(),
        split: Split { begin: 0, train: 0, validate: 0, test: 0, end: as_of },
    };
    let snapshots = vec![Snapshot { upstream, cards: bundle.cards }];
    let reader = workspace.reader().unwrap();
    let data = TrainingData::new(Arc::new(bundle.catalog), dataset, reader, snapshots);
    let mut cases: Vec<Case> = twins.iter().map(|twin| twin.case.clone()).collect();
    let ladder = OfflineLadder::read(&workspace, &data).unwrap();
    ladder.climb(&data, &mut cases, &mut |_| {}).unwrap()
}

/// Climbs both ways with every case, and compares the orders of each rung.
async fn climb_both_ways(dir: &Path, rungs: &[&str]) {
    let options = ladder_options(Arc::new(Metrics::new()));
    let (ladder, opened) = rank::open(dir, &options).await.unwrap();
    let twins = twins(&opened);
    let climbs = twins.iter().map(|twin| served(&ladder, twin.query.clone()));
    let served: Vec<_> = stream::iter(climbs).buffered(IN_FLIGHT).collect().await;
    let judged = block_in_place(|| judged(dir, &twins));
    let names: Vec<&str> = judged.rungs.iter().map(|rung| rung.name).collect();
    assert_eq!(names, rungs);
    for rung in &judged.rungs {
        for (number, (served, judged)) in served.iter().zip(&rung.orders).enumerate() {
            let of = format!("{}, {} shopper {number}", rung.name, KINDS[number % KINDS.len()]);
            let served = &served[rung.name].order;
            let inputs: Vec<usize> = served.iter().map(|ranked| ranked.input).collect();
            let positions: Vec<usize> = judged.iter().map(|(position, _)| *position).collect();
            assert_eq!(inputs, positions, "{of}");
            for (ranked, (_, score)) in served.iter().zip(judged) {
                assert_eq!(ranked.score.to_bits(), score.to_bits(), "{of}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_that_is_judged_is_the_one_that_is_served_on_the_demo() {
    climb_both_ways(&demo(), &["scored", "weighed", "reasoned"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_that_is_judged_is_the_one_that_is_served_on_every_rung() {
    let home = tempfile::tempdir().unwrap();
    let dir = all_rungs(home.path());
    climb_both_ways(&dir, &["scored", "weighed", "reranked", "reasoned"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_resolved_once_for_all_rungs() {
    let home = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new());
    let (ladder, opened) =
        rank::open(&all_rungs(home.path()), &ladder_options(metrics.clone())).await.unwrap();
    let twin = twins(&opened).swap_remove(1);
    assert!(twin.query.history.is_some());
    let rankings = served(&ladder, twin.query).await;
    assert_eq!(rankings.len(), 5, "the order given, and one of each rung");
    assert!(rankings.contains_key(Quality::Reasoned.as_str()));
    let text = metrics.render();
    assert!(text.contains("raisonne_cards_total{source=\"inline\"} 1\n"), "{text}");
    assert_eq!(text.matches("raisonne_cards_total{").count(), 1);
}

/// A store that never answers.
#[derive(Debug)]
struct SilentStore;

impl Store for SilentStore {
    fn get<'a>(&'a self, _: StoreTable, _: &'a [u8]) -> StoreFuture<'a, Option<Bytes>> {
        future::pending().boxed()
    }

    fn put<'a>(&'a self, _: StoreTable, _: &'a [u8], _: Bytes) -> StoreFuture<'a, ()> {
        future::pending().boxed()
    }

    fn scan<'a>(
        &'a self,
        _: StoreTable,
        _: &'a [u8],
        _: usize,
    ) -> StoreFuture<'a, Vec<StoreEntry>> {
        future::pending().boxed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_does_not_end_makes_rungs_fall_short_and_the_order_given_not_late() {
    let store: Option<Arc<dyn Store>> = Some(Arc::new(SilentStore));
    let options = LadderOptions { store, ..ladder_options(Arc::new(Metrics::new())) };
    let (ladder, opened) = rank::open(&demo(), &options).await.unwrap();
    let query = twins(&opened).swap_remove(0).query;
    let (begun, budget) = (Instant::now(), Duration::from_millis(300));
    let query = Query { deadline: Deadline::after(begun, budget), ..query };
    let mut climb = Box::pin(ladder.climb(query));
    let first = climb.next().await;
    assert!(matches!(first, Some(Update::Answer(_))), "{first:?}");
    assert!(begun.elapsed() < budget / 2, "{:?}", begun.elapsed());
    let last = climb.fold(None, |_, update| async { Some(update) }).await;
    let Some(Update::Answer(last)) = last else { panic!("{last:?}") };
    assert!(last.last && begun.elapsed() >= budget);
    assert_eq!(last.ranking.quality, Quality::Given);
    assert_eq!(last.shortfalls[0], (Quality::Scored, Shortfall::Late));
    assert_eq!(last.shortfalls.len(), 3, "{:?}", last.shortfalls);
}
