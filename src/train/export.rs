//! The examples and cases of a recipe as plain numbers, for whoever wants to train or judge
//! another model on the very same slates.

use super::cases::Case;
use super::stages::examples;
use super::training_data::TrainingData;
use super::workspace::Workspace;
use crate::bundle::{Catalog, HISTORY_LEN};
use anyhow::Context as _;
use safetensors::tensor::{Dtype, TensorView};
use std::path::Path;

/// A table of 32-bit numbers.
struct Table {
    name: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Writes the training examples, the validation cases and the test cases of the workspace's recipe
/// into one safetensors file. Items count from 1, and 0 fills up what is short.
///
/// For `train`, `validate/TASK` and `test/TASK` each: `history` (cases, events), oldest first;
/// `slate` (cases, candidates), in the order given; `taken`, of the slate's shape: 1 where an item
/// was then bought; `relevant` (cases), how many were bought in all. And `categories` (items + 1).
pub fn export(workspace: &mut Workspace<'_>, out: &Path) -> anyhow::Result<()> {
    let catalog = workspace.catalog()?;
    let split = workspace.dataset(&catalog)?.split;
    let recipe = workspace.recipe.clone();
    let (size, currency) = (recipe.slates.size, &recipe.shop.currency);
    let mut tables = vec![categories(&catalog)];
    let data = TrainingData::open(workspace, split.train, split.test)?;
    tables.extend(columns("train", &examples(&data, &recipe), recipe.slates.train_size));
    for (task, cases) in data.last_cases(size, currency, split.validate, split.test) {
        tables.extend(columns(&format!("validate/{}", task.as_str()), &cases, size));
    }
    let data = TrainingData::open(workspace, split.test, split.end)?;
    for (task, cases) in data.last_cases(size, currency, split.test, split.end) {
        tables.extend(columns(&format!("test/{}", task.as_str()), &cases, size));
    }
    let views = tables.iter().map(|table| {
        let view = TensorView::new(Dtype::U32, table.shape.clone(), &table.bytes);
        (&table.name, view.expect("a table is as long as its shape says"))
    });
    safetensors::serialize_to_file(views, None, out)
        .with_context(|| format!("writing {}", out.display()))
}

fn categories(catalog: &Catalog) -> Table {
    let numbers = catalog.items().iter().map(|item| item.category + 1);
    let all: Vec<u32> = std::iter::once(0).chain(numbers).collect();
    Table::new("categories".into(), vec![all.len()], &all)
}

fn columns(of: &str, cases: &[Case], size: usize) -> [Table; 4] {
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
        Table::new(format!("{of}/history"), vec![rows, HISTORY_LEN], &history),
        Table::new(format!("{of}/slate"), vec![rows, size], &slate),
        Table::new(format!("{of}/taken"), vec![rows, size], &taken),
        Table::new(format!("{of}/relevant"), vec![rows], &relevant),
    ]
}

// === impl Table ===

impl Table {
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
    fn short_rows_are_filled_up() {
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
        let numbers = |table: &Table| -> Vec<u32> {
            let (words, _) = table.bytes.as_chunks::<4>();
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
