//! The examples and cases of a recipe as plain numbers, to train or evaluate another model on the same
//! slates.

use super::cases::Case;
use super::stages::examples;
use super::training_data::TrainingData;
use super::workspace::Workspace;
use crate::bundle::{Catalog, HISTORY_LEN};
use anyhow::Context as _;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// A tensor of 32-bit numbers.
struct ExportTensor {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes the training examples, the validation cases and the test cases of the workspace's recipe
/// into one safetensors file. Items count from 1, and 0 is padding.
///
/// `train`, `validate/TASK` and `test/TASK` each have four tensors: `history` (cases, events), oldest
/// first; `slate` (cases, candidates), in the order given; `taken` (cases, candidates), 1 for an item
/// that was then bought; and `relevant` (cases), the number of items bought. `categories` (items + 1)
/// holds each item's category.
pub fn export(workspace: &mut Workspace<'_>, out: &Path) -> anyhow::Result<()> {
    let catalog = workspace.catalog()?;
    let split = workspace.dataset(&catalog)?.split;
    let recipe = workspace.recipe.clone();
    let (size, currency) = (recipe.slates.size, &recipe.shop.currency);
    let mut tensors = vec![categories(&catalog)];
    let data = TrainingData::open(workspace, split.train, split.test)?;
    tensors.extend(columns("train", &examples(&data, &recipe), recipe.slates.train_size));
    for (task, cases) in data.last_cases(size, currency, split.validate, split.test) {
        tensors.extend(columns(&format!("validate/{}", task.as_str()), &cases, size));
    }
    let data = TrainingData::open(workspace, split.test, split.end)?;
    for (task, cases) in data.last_cases(size, currency, split.test, split.end) {
        tensors.extend(columns(&format!("test/{}", task.as_str()), &cases, size));
    }
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(Dtype::U32, tensor.shape.clone(), &tensor.bytes);
        (&tensor.name, view.expect("its shape is that of its bytes"))
    });
    safetensors::serialize_to_file(views, None, out)
        .with_context(|| format!("writing {}", out.display()))
}

fn categories(catalog: &Catalog) -> ExportTensor {
    let numbers = catalog.items().iter().map(|item| item.category + 1);
    let all: Vec<u32> = std::iter::once(0).chain(numbers).collect();
    ExportTensor::new("categories".into(), vec![all.len()], &all)
}

fn columns(of: &str, cases: &[Case], size: usize) -> [ExportTensor; 4] {
    let (mut history, mut slate, mut taken) = (Vec::new(), Vec::new(), Vec::new());
    for (row, case) in (1..).zip(cases) {
        let events = &case.history[case.history.len().saturating_sub(HISTORY_LEN)..];
        history.extend(events.iter().map(|past| past.item + 1));
        history.resize(row * HISTORY_LEN, 0);
        let shown = &case.slate[..case.slate.len().min(size)];
        slate.extend(shown.iter().map(|item| item + 1));
        taken.extend(shown.iter().map(|item| u32::from(case.relevant.contains(item))));
        slate.resize(row * size, 0);
        taken.resize(row * size, 0);
    }
    let relevant: Vec<u32> = cases.iter().map(|case| case.relevant.len() as u32).collect();
    let rows = cases.len();
    [
        ExportTensor::new(format!("{of}/history"), vec![rows, HISTORY_LEN], &history),
        ExportTensor::new(format!("{of}/slate"), vec![rows, size], &slate),
        ExportTensor::new(format!("{of}/taken"), vec![rows, size], &taken),
        ExportTensor::new(format!("{of}/relevant"), vec![rows], &relevant),
    ]
}

// === impl ExportTensor ===

impl ExportTensor {
    fn new(name: String, shape: Vec<usize>, numbers: &[u32]) -> Self {
        let bytes = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        Self { name, shape, bytes }
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
            user: 0,
            now: 1,
            history: vec![past],
            pattern: None,
            synthetic_query: SyntheticQuery::default(),
            expected_item: None,
            slate: vec![2, 0],
            relevant: vec![0, 9],
            snapshot: 0,
        };
        let [history, slate, taken, relevant] = columns("test", &[case], 3);
        let numbers = |tensor: &ExportTensor| -> Vec<u32> {
            let (words, _) = tensor.bytes.as_chunks::<4>();
            words.iter().map(|&word| u32::from_le_bytes(word)).collect()
        };
        assert_eq!(
            (history.shape.as_slice(), numbers(&history)[..2].to_vec()),
            ([1, 50].as_slice(), vec![5, 0])
        );
        assert_eq!(numbers(&slate), [3, 1, 0]);
        assert_eq!(numbers(&taken), [0, 1, 0]);
        assert_eq!(numbers(&relevant), [2]);
    }
}
