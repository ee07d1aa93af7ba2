//! What the direct path of the scorer learns from: whole slates as rows of features.

use super::batch::read_candidate;
use super::cases::{Case, PredictionTask};
use super::direct_recipe::DirectRecipe;
use super::fusion_fit::{TaskLogits, ValidationCases};
use super::training_data::TrainingData;
use crate::bundle::month;
use crate::nn::direct::{DirectScratch, FusedDirect};
use crate::scorer::features::{FeatureContext, HistoryVectors, LiveVector};
use crate::scorer::{DirectColumns, NamedInputs};
use rayon::prelude::*;

/// A slate as the direct path reads it.
#[derive(Clone, Debug)]
pub struct DirectSlate {
    /// Features row by row, (N, F).
    pub rows: Vec<f32>,
    /// Whether each candidate was taken.
    pub taken: Vec<bool>,
    /// Scores of each candidate that the network's logits are added to; empty for none.
    pub offsets: Vec<f32>,
}

/// The inputs of a training.
#[derive(Debug)]
pub struct DirectTraining<'a> {
    /// The settings.
    pub recipe: &'a DirectRecipe,
    /// The seed of everything random.
    pub seed: u64,
    /// The slates to learn from. Each has a candidate that was taken.
    pub examples: &'a [DirectSlate],
    /// Slates of the training time by the ranker of the validation slates, where that is another one.
    pub adapted_to: &'a [DirectSlate],
    /// The cases of the validation time.
    pub validation: ValidationCases<'a>,
    /// Their slates, by task.
    pub validation_slates: &'a [Vec<DirectSlate>],
}

// === impl DirectSlate ===

impl DirectSlate {
    /// Whether an item was taken and another was not. Otherwise it teaches no order.
    pub fn tells_an_order(&self) -> bool {
        self.taken.contains(&true) && self.taken.contains(&false)
    }
}

/// Reads the slates of cases.
pub fn slates(data: &TrainingData, columns: &DirectColumns, cases: &[Case]) -> Vec<DirectSlate> {
    cases.par_iter().map(|case| slate(data, columns, case)).collect()
}

fn slate(data: &TrainingData, columns: &DirectColumns, case: &Case) -> DirectSlate {
    let cards = &data.snapshots[case.snapshot].cards;
    let month = month(case.now);
    let context = FeatureContext::new(&data.catalog, cards, &case.history, case.now, month);
    let mut rows = Vec::with_capacity(case.slate.len() * columns.len());
    let unknown = LiveVector::default();
    let near =
        columns.reads_vectors().then(|| HistoryVectors::of(&data.item_vectors, &case.history));
    for (at, &item) in case.slate.iter().enumerate() {
        let (_, features) = read_candidate(&context, item, &cards.items[item as usize]);
        let rechead = case.rechead.get(at).copied().unwrap_or(0.0);
        let vectors = near.as_ref().map(|near| near.known(item)).unwrap_or_default();
        let named = NamedInputs { rechead, vectors };
        columns.push_row(&features, case.live.get(at).unwrap_or(&unknown), named, &mut rows);
    }
    let taken = case.slate.iter().map(|item| case.relevant.contains(item)).collect();
    DirectSlate { rows, taken, offsets: Vec::new() }
}

/// The slates of the cases of each task.
pub fn slates_by_task(
    data: &TrainingData,
    columns: &DirectColumns,
    cases: &[(PredictionTask, Vec<Case>)],
) -> Vec<Vec<DirectSlate>> {
    cases.iter().map(|(_, cases)| slates(data, columns, cases)).collect()
}

/// The logits of each slate, by the serving path.
pub fn logits(network: &FusedDirect, slates: &[DirectSlate]) -> anyhow::Result<Vec<Vec<f32>>> {
    let score = |scratch: &mut DirectScratch, slate: &DirectSlate| {
        let (mut logits, rows) = (Vec::new(), scratch.rows_mut());
        rows.clear();
        rows.extend_from_slice(&slate.rows);
        network.score(scratch, &mut logits)?;
        anyhow::Ok(logits)
    };
    slates.par_iter().map_init(DirectScratch::default, score).collect()
}

/// The logits of the slates of each task.
pub fn logits_by_task(
    network: &FusedDirect,
    slates: &[Vec<DirectSlate>],
) -> anyhow::Result<TaskLogits> {
    slates.iter().map(|slates| logits(network, slates)).collect()
}
