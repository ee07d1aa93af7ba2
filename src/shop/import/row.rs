//! Rows of text cells, which every format is read into, and the heading that names their columns.

use super::columns::{ColumnSpec, ColumnSpecs};
use std::collections::BTreeSet;

/// A row: a cell for each column that is looked for. A missing cell is empty.
pub(super) struct ImportRow {
    pub line: u64,
    pub cells: Vec<String>,
}

/// The result of reading the next row of a file.
pub(super) enum NextRow<E> {
    Row,
    Wrong(E),
    End,
}

/// Why a row or a cell can't be read as text.
pub(super) struct RowFault {
    /// The index of the column; none if the whole row is wrong.
    pub column: Option<usize>,
    pub value: String,
    pub expected: String,
}

/// The columns that are looked for in a file, and their names there.
pub(super) struct Heading {
    pub columns: ColumnSpecs,
    /// The file's name of each column, as soon as it is found.
    pub theirs: Vec<Option<String>>,
    /// Columns of the file that are not read.
    pub ignored: BTreeSet<String>,
}

// === impl ImportRow ===

impl ImportRow {
    /// The cell of a column.
    pub(super) fn text(&self, column: usize) -> &str {
        &self.cells[column]
    }

    /// Empties every cell.
    pub(super) fn clear(&mut self) {
        self.cells.iter_mut().for_each(String::clear);
    }
}

// === impl Heading ===

impl Heading {
    pub(super) fn new(columns: ColumnSpecs) -> Self {
        Self { theirs: vec![None; columns.len()], columns, ignored: BTreeSet::new() }
    }

    /// The index in `names` of each column that is looked for.
    pub(super) fn locate(&mut self, names: &[&str]) -> Vec<Option<usize>> {
        let index = |spec: &ColumnSpec| {
            spec.spellings.iter().find_map(|spelling| names.iter().position(|n| n == spelling))
        };
        let indices: Vec<_> = self.columns.iter().map(index).collect();
        for (theirs, index) in self.theirs.iter_mut().zip(&indices) {
            *theirs = index.map(|index| names[index].to_owned());
        }
        let unread = (0..names.len()).filter(|at| !indices.contains(&Some(*at)));
        self.ignored.extend(unread.map(|at| names[at].to_owned()));
        indices
    }

    /// The name of a column: the file's, or else ours.
    pub(super) fn name(&self, column: usize) -> &str {
        self.theirs[column].as_deref().unwrap_or(&self.columns[column].ours)
    }
}
