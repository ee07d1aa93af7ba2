//! The examples and cases of a recipe as plain numbers, to train or evaluate another model on the same
//! slates.

use super::batch::read_candidate;
use super::cases::{Case, PredictionTask};
use super::stages::examples;
use super::training_data::TrainingData;
use super::workspace::Workspace;
use crate::bundle::{Catalog, HISTORY_LEN, month};
use crate::domain::UserId;
use crate::scorer::features::{DIRECT_INPUTS, FeatureContext, direct_names};
use anyhow::Context as _;
use rayon::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::path::Path;

/// A tensor of 32-bit or 64-bit numbers.
struct ExportTensor {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Some cases to export.
struct ExportedCases<'a> {
    /// `train`, `given`, `validate/TASK` or `test/TASK`.
    name: &'a str,
    cases: &'a [Case],
    /// Candidates of a slate.
    size: usize,
}

/// Writes the training examples, the validation cases and the test cases of the workspace's recipe
/// into one safetensors file. Items count from 1, and 0 is padding.
///
/// `train`, `validate/TASK` and `test/TASK`, and `given` for the slates of the training time by another ranker if the
/// recipe names one, each have these tensors: `history` (cases, events), oldest
/// first; `slate` (cases, candidates), in the order given; `place` (cases, candidates), the candidate's
/// place in that order from 1; `taken` (cases, candidates), 1 for an item that was then bought; `relevant`
/// (cases), the number of items bought; `task` (cases), 0 for a first purchase and 1 for a next basket;
/// `user` (cases), from 1; and `time` (cases), in Unix seconds. `categories` (items + 1) holds each item's
/// category. With `features`, there is also `features` (cases, candidates, features): the numbers that the
/// scorer's direct path reads of each candidate.
///
/// The metadata has JSON lists: `items` and `users` with the ids of number 1, 2, …, and `features` with the
/// names of the features.
pub fn export(workspace: &mut Workspace<'_>, features: bool, out: &Path) -> anyhow::Result<()> {
    let catalog = workspace.catalog()?;
    let split = workspace.dataset(&catalog)?.split;
    let recipe = workspace.recipe.clone();
    let (size, currency) = (recipe.slates.size, &recipe.shop.currency);
    let mut tensors = vec![categories(&catalog)];
    let mut add = |data: &TrainingData, name: &str, cases: &[Case], size: usize| {
        let exported = ExportedCases { name, cases, size };
        tensors.extend(exported.columns());
        if features {
            tensors.push(exported.features(data));
        }
    };
    let data = TrainingData::open(workspace, split.train, split.test)?;
    add(&data, "train", &examples(&data, &recipe)?, recipe.slates.train_size);
    let given = data.given_cases(currency)?;
    if !given.is_empty() {
        add(&data, "given", &given, size);
    }
    for (task, cases) in data.last_cases(size, currency, split.validate, split.test)? {
        add(&data, &format!("validate/{}", task.as_str()), &cases, size);
    }
    // As in the evaluation, test cases read the numbers that serving reads.
    let data = TrainingData::open(workspace, split.test, split.end)?.with_cards_as_kept(None);
    for (task, cases) in data.last_cases(size, currency, split.test, split.end)? {
        add(&data, &format!("test/{}", task.as_str()), &cases, size);
    }
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (&tensor.name, view.expect("its shape is that of its bytes"))
    });
    safetensors::serialize_to_file(views, Some(names(&data)?), out)
        .with_context(|| format!("writing {}", out.display()))
}

/// The ids and names that the numbers of the tensors stand for.
fn names(data: &TrainingData) -> anyhow::Result<HashMap<String, String>> {
    let items: Vec<&str> = data.catalog.items().iter().map(|item| item.id.as_str()).collect();
    let users: Vec<&str> = data.dataset.users.iter().map(UserId::as_str).collect();
    let features: Vec<&str> = direct_names().collect();
    [("items", items), ("users", users), ("features", features)]
        .into_iter()
        .map(|(name, list)| Ok((name.to_owned(), serde_json::to_string(&list)?)))
        .collect()
}

fn categories(catalog: &Catalog) -> ExportTensor {
    let numbers = catalog.items().iter().map(|item| item.category + 1);
    let all: Vec<u32> = std::iter::once(0).chain(numbers).collect();
    ExportTensor::of_integers("categories".into(), vec![all.len()], &all)
}

// === impl ExportedCases ===

impl ExportedCases<'_> {
    fn columns(&self) -> Vec<ExportTensor> {
        let (rows, size) = (self.cases.len(), self.size);
        let (mut history, mut slate, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        let mut place = Vec::new();
        for (row, case) in (1..).zip(self.cases) {
            let events = &case.history[case.history.len().saturating_sub(HISTORY_LEN)..];
            history.extend(events.iter().map(|past| past.item + 1));
            history.resize(row * HISTORY_LEN, 0);
            let shown = self.shown(case);
            slate.extend(shown.iter().map(|item| item + 1));
            place.extend(1..=shown.len() as u32);
            taken.extend(shown.iter().map(|item| u32::from(case.relevant.contains(item))));
            for column in [&mut slate, &mut place, &mut taken] {
                column.resize(row * size, 0);
            }
        }
        let each =
            |number: fn(&Case) -> u32| -> Vec<u32> { self.cases.iter().map(number).collect() };
        let of_cases = |name: &str, numbers: &[u32]| {
            ExportTensor::of_integers(self.tensor(name), vec![rows], numbers)
        };
        let of_slates = |name: &str, columns: usize, numbers: &[u32]| {
            ExportTensor::of_integers(self.tensor(name), vec![rows, columns], numbers)
        };
        let is_basket = |case: &Case| u32::from(case.task == PredictionTask::NextBasket);
        let times: Vec<u8> = self.cases.iter().flat_map(|case| case.now.to_le_bytes()).collect();
        vec![
            of_slates("history", HISTORY_LEN, &history),
            of_slates("slate", size, &slate),
            of_slates("place", size, &place),
            of_slates("taken", size, &taken),
            of_cases("relevant", &each(|case| case.relevant.len() as u32)),
            of_cases("task", &each(is_basket)),
            of_cases("user", &each(|case| case.user + 1)),
            ExportTensor {
                name: self.tensor("time"),
                dtype: Dtype::I64,
                shape: vec![rows],
                bytes: times,
            },
        ]
    }

    /// The features of each candidate, as the scorer reads them.
    fn features(&self, data: &TrainingData) -> ExportTensor {
        let row = |case: &Case| {
            let cards = &data.snapshots[case.snapshot].cards;
            let month = month(case.now);
            let context = FeatureContext::new(&data.catalog, cards, &case.history, case.now, month);
            let mut row: Vec<u8> = Vec::with_capacity(self.size * DIRECT_INPUTS * size_of::<f32>());
            for (&item, live) in self.shown(case).iter().zip(&case.live) {
                let (_, features) = read_candidate(&context, item, &cards.items[item as usize]);
                let numbers = features.as_slice().iter().chain(live.as_slice());
                row.extend(numbers.flat_map(|number| number.to_le_bytes()));
            }
            row.resize(self.size * DIRECT_INPUTS * size_of::<f32>(), 0);
            row
        };
        let bytes = self.cases.par_iter().flat_map_iter(row).collect();
        let shape = vec![self.cases.len(), self.size, DIRECT_INPUTS];
        ExportTensor { name: self.tensor("features"), dtype: Dtype::F32, shape, bytes }
    }

    fn shown<'c>(&self, case: &'c Case) -> &'c [u32] {
        &case.slate[..case.slate.len().min(self.size)]
    }

    fn tensor(&self, column: &str) -> String {
        format!("{}/{column}", self.name)
    }
}

// === impl ExportTensor ===

impl ExportTensor {
    fn of_integers(name: String, shape: Vec<usize>, numbers: &[u32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name, dtype: Dtype::U32, shape, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::HistoryEvent;
    use crate::domain::EventKind;
    use crate::train::synthetic_query::SyntheticQuery;

    #[test]
    fn short_rows_are_padded() {
        let past = HistoryEvent { item: 4, time: 0, kind: EventKind::Purchase };
        let case = Case {
            user: 2,
            task: PredictionTask::NextBasket,
            now: 1,
            history: vec![past],
            pattern: None,
            pattern_text: String::new(),
            synthetic_query: SyntheticQuery::default(),
            expected_item: None,
            slate: vec![2, 0],
            relevant: vec![0, 9],
            live: Vec::new(),
            rechead: Vec::new(),
            line: 0,
            snapshot: 0,
        };
        let columns = ExportedCases { name: "test", cases: &[case], size: 3 }.columns();
        let numbers = |name: &str| -> Vec<u32> {
            let tensor = columns.iter().find(|column| column.name == format!("test/{name}"));
            let (words, _) = tensor.unwrap().bytes.as_chunks::<4>();
            words.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        assert_eq!(numbers("history").len(), HISTORY_LEN);
        let table: [(&str, &[u32]); 8] = [
            ("history", &[5, 0]),
            ("slate", &[3, 1, 0]),
            ("place", &[1, 2, 0]),
            ("taken", &[0, 1, 0]),
            ("relevant", &[2]),
            ("task", &[1]),
            ("user", &[3]),
            ("time", &[1, 0]),
        ];
        for (name, expected) in table {
            assert_eq!(numbers(name)[..expected.len()], *expected, "{name}");
        }
    }
}
