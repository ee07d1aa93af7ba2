//! Two plain rules over the whole catalogue, and not just the slates. They show what the retriever misses,
//! and are no rivals of an order within a slate.

use crate::train::cases::{Case, PredictionTask};
use crate::train::dataset::DAY_S;
use crate::train::measure::{self, rounded};
use crate::train::rules::FAVOURITE_DAYS;
use crate::train::training_data::TrainingData;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Items of a list.
const CUT: usize = 10;

/// The figures of the items that each user bought most and most lately, and of those that everybody did.
pub(super) fn figures<'a>(
    data: &TrainingData,
    task: PredictionTask,
    cases: &(impl Iterator<Item = &'a Case> + Clone),
) -> Value {
    let mean = |orders: &[Vec<u32>], figure: fn(&[u32], &[u32], usize) -> f64| {
        let each = orders.iter().zip(cases.clone());
        let figures = each.map(|(order, case)| figure(order, &case.relevant, CUT));
        rounded(measure::mean_of(figures).unwrap_or(0.0))
    };
    let of = |orders: &[Vec<u32>]| {
        let [recall, ndcg] = [measure::recall, measure::ndcg].map(|figure| mean(orders, figure));
        json!({ "recall@10": recall, "ndcg@10": ndcg })
    };
    let favourites: Vec<_> = cases.clone().map(|case| favourites(data, case)).collect();
    let popular: Vec<_> = cases.clone().map(|case| popular(data, task, case)).collect();
    json!({ "recency_weighted_frequency": of(&favourites), "popularity": of(&popular) })
}

/// The items that this user bought before, by how often and how lately.
fn favourites(data: &TrainingData, case: &Case) -> Vec<u32> {
    let mut weights: BTreeMap<u32, f64> = BTreeMap::new();
    let bought = &data.dataset.bought[case.user as usize];
    for line in bought.iter().take_while(|line| line.time < case.now) {
        let days = (case.now - line.time) as f64 / DAY_S as f64;
        *weights.entry(line.item).or_default() += (-days / FAVOURITE_DAYS).exp();
    }
    let mut order: Vec<(u32, f64)> = weights.into_iter().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order.into_iter().map(|(item, _)| item).collect()
}

/// The items that were bought most in the weeks before, without those that the task excludes.
fn popular(data: &TrainingData, task: PredictionTask, case: &Case) -> Vec<u32> {
    let popular = data.snapshots[case.snapshot].upstream.popular();
    let bought = &data.dataset.bought[case.user as usize];
    let first = task == PredictionTask::FirstPurchase;
    let had = |item: &u32| bought.iter().any(|line| line.time < case.now && line.item == *item);
    popular.iter().copied().filter(|item| !(first && had(item))).take(CUT).collect()
}
