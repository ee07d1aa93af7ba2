//! What an order does beside hitting: how varied, how surprising and how like the shopper's past its first
//! ten items are.

use crate::domain::Timestamp;
use crate::train::cases::Case;
use crate::train::dataset::Dataset;
use crate::train::measure::{self, rounded};
use crate::train::rules::SalesLog;
use crate::train::training_data::TrainingData;
use rayon::prelude::*;
use rustc_hash::FxHashSet;
use serde_json::{Value, json};

/// Items that count as shown.
pub(super) const SHOWN: usize = 10;
/// Categories below which calibration says nothing.
const CATEGORIES_MIN: usize = 2;

/// Figures of one order of each case.
pub(super) struct Beyond {
    cases: Vec<BeyondCase>,
}

/// Figures of one case; `None` where they are not defined, such as the calibration of a first visit.
struct BeyondCase {
    novelty: Option<f64>,
    similarity: Option<f64>,
    repeats: Option<f64>,
    calibration: Option<f64>,
}

// === impl Beyond ===

impl Beyond {
    /// Measures an order of each case.
    pub(super) fn new(
        data: &TrainingData,
        log: &SalesLog<'_>,
        cases: &[Case],
        orders: &[Vec<u32>],
    ) -> Self {
        let shoppers: Vec<usize> =
            data.snapshots.iter().map(|s| shoppers(&data.dataset, s.cards.as_of)).collect();
        let catalog = &data.catalog;
        let of_case = |(case, order): (&Case, &Vec<u32>)| {
            let cards = &data.snapshots[case.snapshot].cards;
            let width = cards.item_vectors.len() / catalog.len().max(1);
            let past = log.past(case);
            let bought: FxHashSet<u32> = past.bought.iter().map(|line| line.item).collect();
            let category = |item: u32| catalog.item(item).category;
            let history = past.bought.iter().map(|line| category(line.item));
            let shown = order.iter().take(SHOWN).map(|&item| category(item));
            let calibration = measure::calibration(history, shown);
            BeyondCase {
                novelty: measure::novelty(
                    order,
                    SHOWN,
                    |&item| cards.items[item as usize].stats.buyers,
                    shoppers[case.snapshot],
                ),
                similarity: measure::intra_list_similarity(order, SHOWN, |&item| {
                    &cards.item_vectors[item as usize * width..][..width]
                }),
                repeats: measure::repeats(order, SHOWN, |item| bought.contains(item)),
                calibration: calibration.filter(|_| catalog.categories_len() >= CATEGORIES_MIN),
            }
        };
        Self { cases: cases.par_iter().zip(orders).map(of_case).collect() }
    }

    /// The figures of some of the cases.
    pub(super) fn to_json(&self, chosen: &[usize], orders: &[Vec<u32>], items: usize) -> Value {
        let shown = || chosen.iter().map(|&at| &*orders[at]);
        let mean = |figure: fn(&BeyondCase) -> Option<f64>| {
            let figures = chosen.iter().filter_map(|&at| figure(&self.cases[at]));
            measure::mean_of(figures).map(rounded)
        };
        json!({
            "coverage": rounded(measure::coverage(shown(), SHOWN, items)),
            "gini": rounded(measure::exposure_gini(shown(), SHOWN, items)),
            "novelty": mean(|case| case.novelty),
            "similarity": mean(|case| case.similarity),
            "repeats": mean(|case| case.repeats),
            "calibration": mean(|case| case.calibration),
        })
    }
}

/// Users with a purchase before a moment.
fn shoppers(dataset: &Dataset, as_of: Timestamp) -> usize {
    let first = dataset.bought.iter().filter_map(|bought| bought.first());
    first.filter(|line| line.time < as_of).count()
}
