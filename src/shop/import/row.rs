//! Rows of text cells, which every format is read into, and the heading that names their columns.

use super::ImportError;
use super::columns::{ColumnSpec, ColumnSpecs};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// A row: a cell for each column that is looked for. A missing cell is empty.
pub(super) struct ImportRow {
    /// The file that it is in: a table may have many.
    pub file: Rc<Path>,
    /// The line from 1; for Parquet, the row from 1.
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

    /// The index in `names` of each column that is looked for. Fails if one is there twice.
    pub(super) fn locate(&mut self, names: &[&str]) -> io::Result<Vec<Option<usize>>> {
        let index = |spec: &ColumnSpec| {
            spec.spellings.iter().find_map(|spelling| names.iter().position(|n| n == spelling))
        };
        let indices: Vec<_> = self.columns.iter().map(index).collect();
        for at in indices.iter().flatten() {
            if let Some(other) = (at + 1..names.len()).find(|other| names[*other] == names[*at]) {
                let (name, first, second) = (names[*at], at + 1, other + 1);
                let why =
                    format!("has two columns {name:?}, number {first} and {second}: rename one");
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        for (theirs, index) in self.theirs.iter_mut().zip(&indices) {
            *theirs = index.map(|index| names[index].to_owned());
        }
        let unread = (0..names.len()).filter(|at| !indices.contains(&Some(*at)));
        self.ignored.extend(unread.map(|at| names[at].to_owned()));
        Ok(indices)
    }

    /// Whether a column that is looked for may have this name.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.columns.iter().any(|spec| spec.spellings.iter().any(|spelling| spelling == name))
    }

    /// A heading that has the required columns.
    pub(super) fn example(&self, delimiter: u8) -> String {
        let required = self.columns.iter().filter(|spec| spec.required);
        let names: Vec<&str> = required.map(|spec| spec.ours.as_str()).collect();
        names.join(char::from(delimiter).encode_utf8(&mut [0; 4]))
    }

    /// Whether no name of a column was seen yet.
    pub(super) fn is_unseen(&self) -> bool {
        self.ignored.is_empty() && self.theirs.iter().all(Option::is_none)
    }

    /// Fails if a required column was not found in the file or folder at `path`.
    pub(super) fn check(&self, path: &Path) -> Result<(), ImportError> {
        let mut pairs = self.columns.iter().zip(&self.theirs);
        let lacking = pairs.find(|(spec, theirs)| spec.required && theirs.is_none());
        let Some((spec, _)) = lacking else { return Ok(()) };
        let seen = self.theirs.iter().flatten();
        let found: BTreeSet<&str> = seen.chain(&self.ignored).map(String::as_str).collect();
        Err(ImportError::Column {
            path: path.to_owned(),
            ours: spec.ours.clone(),
            looked_for: spec.spellings.clone(),
            found: found.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The name of a column: the file's, or else ours.
    pub(super) fn name(&self, column: usize) -> &str {
        self.theirs[column].as_deref().unwrap_or(&self.columns[column].ours)
    }
}
