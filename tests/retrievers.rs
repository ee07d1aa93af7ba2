//! The retrievers that stand for the shop's ranker, and what is exported of their slates.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/small.rs"]
mod small;

use raisonne::bundle::month;
use raisonne::scorer::features::{
    CandidateItem, DIRECT_INPUTS, FeatureContext, LiveVector, direct_names,
};
use raisonne::train::cases::{Case, PredictionTask};
use raisonne::train::training_data::TrainingData;
use raisonne::train::{NoProgress, STAGES, Workspace, export, run};
use raisonne::upstream::{BlendWeights, Blended, ItemKnn, ItemKnnConfig};
use rustc_hash::FxHashSet;
use safetensors::SafeTensors;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Items of an evaluated slate in the small recipe.
const SIZE: usize = 20;

/// A workspace with a shop and a text encoder.
fn workspace<'a>(home: &Path, retriever: &str, progress: &'a mut NoProgress) -> Workspace<'a> {
    let recipe = small::recipe(home, &[format!("slates.retriever={retriever}")]);
    let mut workspace = Workspace::new(&home.join("work"), recipe, progress).unwrap();
    for name in ["prepare", "text_encoder"] {
        let stage = STAGES.iter().find(|stage| stage.name() == name).unwrap();
        run(*stage, &mut workspace).unwrap();
    }
    workspace
}

fn test_cases(workspace: &mut Workspace<'_>) -> (TrainingData, Vec<(PredictionTask, Vec<Case>)>) {
    let split = workspace.dataset(&workspace.catalog().unwrap()).unwrap().split;
    let data = TrainingData::open(workspace, split.test, split.end).unwrap();
    let cases = data.last_cases(SIZE, "", split.test, split.end).unwrap().into_iter().collect();
    (data, cases)
}

#[test]
fn each_retriever_gives_whole_slates_without_what_the_task_excludes() {
    let home = tempfile::tempdir().unwrap();
    let mut slates: BTreeMap<&str, Vec<Vec<u32>>> = BTreeMap::new();
    for retriever in ["item_knn", "blended"] {
        let mut progress = NoProgress;
        let (data, tasks) = test_cases(&mut workspace(home.path(), retriever, &mut progress));
        for (task, cases) in tasks {
            assert!(!cases.is_empty());
            for case in cases {
                assert_eq!((case.task, case.slate.len()), (task, SIZE));
                let items: BTreeSet<u32> = case.slate.iter().copied().collect();
                assert_eq!(items.len(), SIZE, "an item is in a slate once");
                let bought = &data.dataset.bought[case.user as usize];
                let had: BTreeSet<u32> =
                    bought.iter().filter(|b| b.time < case.now).map(|b| b.item).collect();
                if task == PredictionTask::FirstPurchase {
                    assert!(items.is_disjoint(&had), "{retriever}: bought before");
                }
                slates.entry(retriever).or_default().push(case.slate);
            }
        }
    }
    assert_eq!(slates["item_knn"].len(), slates["blended"].len());
    assert_ne!(slates["item_knn"], slates["blended"], "the recipe chooses the retriever");
}

#[test]
fn exported_features_are_those_that_the_scorer_reads() {
    let home = tempfile::tempdir().unwrap();
    let mut progress = NoProgress;
    let mut workspace = workspace(home.path(), "blended", &mut progress);
    let (data, tasks) = test_cases(&mut workspace);
    let data = data.with_cards_as_kept(None);
    for with_features in [true, false] {
        let out = home.path().join("examples.safetensors");
        export::export(&mut workspace, with_features, &out).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for (task, cases) in &tasks {
            let name = format!("test/{}/features", task.as_str());
            let Ok(tensor) = tensors.tensor(&name) else {
                assert!(!with_features, "{name} is missing");
                continue;
            };
            assert!(with_features, "{name} was not asked for");
            assert_eq!(tensor.shape(), [cases.len(), SIZE, DIRECT_INPUTS]);
            let numbers: Vec<f32> = tensor
                .data()
                .as_chunks::<4>()
                .0
                .iter()
                .map(|&number| f32::from_le_bytes(number))
                .collect();
            let read: Vec<f32> = cases.iter().flat_map(|case| features(&data, case)).collect();
            assert_eq!(numbers, read, "{name}");
            assert!(numbers.iter().any(|&number| number != 0.0));
        }
        let (_, head) = SafeTensors::read_metadata(&bytes).unwrap();
        let names = head.metadata().as_ref().unwrap();
        let list = |name: &str| serde_json::from_str::<Vec<String>>(&names[name]).unwrap();
        assert_eq!(list("features"), direct_names().collect::<Vec<_>>());
        assert_eq!(list("items").len(), data.catalog.len());
        assert_eq!(list("users")[0], data.dataset.users[0].as_str());
    }
}

/// The features of each candidate of a case's slate, by the scorer's own types.
fn features(data: &TrainingData, case: &Case) -> Vec<f32> {
    let cards = &data.snapshots[case.snapshot].cards;
    let context =
        FeatureContext::new(&data.catalog, cards, &case.history, case.now, month(case.now));
    let of_item = |(&item, live): (&u32, &LiveVector)| {
        let card = &cards.items[item as usize];
        let overlaps: Vec<f32> = card.reasons.iter().map(|r| context.overlap(r)).collect();
        let features = context.features(CandidateItem::Known(item, card), &overlaps);
        [features.as_slice(), live.as_slice()].concat()
    };
    case.slate.iter().zip(&case.live).flat_map(of_item).collect()
}

/// A user's `(item, time)` purchases by number, oldest first.
type Histories = Vec<Vec<(u32, i64)>>;

/// The purchases and the titles of a real shop, if its data is beside the project.
fn beauty() -> Option<(Histories, Vec<String>)> {
    let folder = format!("{}/../shared/data/amazon-beauty-2014", env!("CARGO_MANIFEST_DIR"));
    let rows = |name: &str| {
        let file = std::fs::File::open(format!("{folder}/{name}.csv.zst")).ok()?;
        Some(csv::Reader::from_reader(zstd::Decoder::new(file).unwrap()))
    };
    let number = |cell: &str| cell.parse::<i64>().ok();
    let mut titles = vec![String::new()];
    for row in rows("items")?.records() {
        let row = row.unwrap();
        assert_eq!(number(&row[0]), Some(titles.len() as i64));
        titles.push(row[2].to_owned());
    }
    let mut histories: BTreeMap<i64, Vec<(u32, i64)>> = BTreeMap::new();
    for row in rows("interactions")?.records() {
        let row = row.unwrap();
        let Some(time) = number(&row[2]) else { continue };
        let item = number(&row[1]).unwrap() as u32;
        histories.entry(number(&row[0]).unwrap()).or_default().push((item, time));
    }
    let mut histories: Histories = histories.into_values().collect();
    for history in &mut histories {
        history.sort_by_key(|&(item, time)| (time, item));
    }
    Some((histories, titles))
}

#[test]
fn the_blended_retriever_finds_more_of_what_real_shoppers_buy_than_the_item_knn() {
    let Some((histories, titles)) = beauty() else {
        println!("skipped: the real shop's data is not here");
        return;
    };
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    let end = histories.iter().flatten().map(|&(_, time)| time).max().unwrap();
    let test = end - 67 * 86_400;
    let users = || histories.iter().map(Vec::as_slice);
    let item_knn = ItemKnn::build(users(), titles.len(), &ItemKnnConfig::before(test));
    let blended = Blended::build(users(), &titles, BlendWeights::default());
    // Days before the cases, so that no case reads another day than the one that was made for it.
    let mut days = BTreeMap::new();
    let (mut cases, mut by_item_knn, mut by_blended) = (0, 0, 0);
    for history in histories.iter().filter(|history| history.last().unwrap().1 >= test).step_by(5) {
        let ((target, now), known) = history.split_last().unwrap();
        let had: FxHashSet<u32> = known.iter().map(|&(item, _)| item).collect();
        let exclude = |item| had.contains(&item);
        let day = days.entry(Blended::day_of(*now)).or_insert_with(|| blended.day(*now));
        let holds = |slate: Vec<(u32, f32)>| usize::from(slate.iter().any(|e| e.0 == *target));
        cases += 1;
        by_item_knn += holds(item_knn.slate(known, 50, &exclude));
        by_blended += holds(day.slate(known, *now, 50, &exclude));
    }
    println!(
        "{cases} cases: the fifty of the item-kNN hold {by_item_knn}, of the blend {by_blended}"
    );
    assert!(cases > 1_000 && by_item_knn * 12 > cases, "{by_item_knn} of {cases}");
    assert!(by_blended > by_item_knn, "{by_blended} and {by_item_knn} of {cases}");
}
