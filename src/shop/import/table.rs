//! A file as rows of text cells, one for each column that we look for.

use super::ImportError;
use super::cell::Wrong;
use super::columns::{Columns, Wanted};
use super::delimited::Delimited;
use super::json_lines::JsonLines;
use super::parquet::Parquet;
use super::rejects::Reject;
use super::source::{Format, Source, SourceError};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is being read, row by row.
pub(super) struct Table {
    path: PathBuf,
    heading: Heading,
    rows: Rows,
}

enum Rows {
    Delimited(Delimited),
    JsonLines(JsonLines),
    Parquet(Parquet),
}

/// A row: a cell for each column that we look for. What is not there is empty.
pub(super) struct Row {
    pub line: u64,
    pub cells: Vec<String>,
}

/// What reading on has led to.
pub(super) enum Turn {
    Row,
    Wrong(Reject),
    End,
}

/// What a format makes of its next row.
pub(super) enum Step {
    Row,
    Wrong(Fault),
    End,
}

/// What is wrong with a row or a cell before anybody asks what it means.
pub(super) struct Fault {
    /// Which of the columns that we look for; none if the whole row is wrong.
    pub column: Option<usize>,
    pub value: String,
    pub expected: String,
}

/// Which columns a file has, and what they are called there.
pub(super) struct Heading {
    pub wanted: Columns,
    /// Their name of each, once it was seen.
    pub theirs: Vec<Option<String>>,
    pub ignored: BTreeSet<String>,
}

// === impl Table ===

impl Table {
    /// Opens a file to look for `columns` in it.
    pub(super) fn open(path: &Path, columns: Columns) -> Result<Self, ImportError> {
        let read = |source| ImportError::Read { path: path.to_owned(), source };
        let source = Source::open(path).map_err(|error| match error {
            SourceError::Io(source) => read(source),
            SourceError::Kind(why) => ImportError::Kind { path: path.to_owned(), why },
        })?;
        let mut heading = Heading::new(columns);
        let rows = match source.format {
            Format::Csv => Delimited::open(source, b',', &mut heading).map(Rows::Delimited),
            Format::Tsv => Delimited::open(source, b'\t', &mut heading).map(Rows::Delimited),
            Format::Parquet => Parquet::open(source, &mut heading).map(Rows::Parquet),
            Format::JsonLines => JsonLines::open(source).map(Rows::JsonLines),
        };
        let table = Self { path: path.to_owned(), heading, rows: rows.map_err(read)? };
        // JSON Lines have no heading: what their columns are is known at their end.
        if !matches!(table.rows, Rows::JsonLines(_)) {
            table.check_columns()?;
        }
        Ok(table)
    }

    /// An empty row for [`next`](Self::next) to fill.
    pub(super) fn row(&self) -> Row {
        Row { line: 0, cells: vec![String::new(); self.heading.wanted.len()] }
    }

    /// Reads the next row.
    pub(super) fn next(&mut self, row: &mut Row) -> Result<Turn, ImportError> {
        let step = match &mut self.rows {
            Rows::Delimited(rows) => rows.next(row),
            Rows::JsonLines(rows) => rows.next(row, &mut self.heading),
            Rows::Parquet(rows) => rows.next(row, &self.heading),
        };
        let failed = |source: io::Error| ImportError::Read {
            path: self.path.clone(),
            source: io::Error::new(source.kind(), format!("after line {}: {source}", row.line)),
        };
        match step.map_err(failed)? {
            Step::Row => Ok(Turn::Row),
            Step::End => Ok(Turn::End),
            Step::Wrong(fault) => Ok(Turn::Wrong(self.name(row.line, fault))),
        }
    }

    /// Names a cell that does not mean what it should.
    pub(super) fn reject(&self, row: &Row, wrong: Wrong) -> Reject {
        let Wrong { column, expected } = wrong;
        let value = row.cells[column].clone();
        let fault = Fault { column: Some(column), value, expected: expected.into_owned() };
        self.name(row.line, fault)
    }

    fn name(&self, line: u64, fault: Fault) -> Reject {
        Reject {
            file: self.path.clone(),
            line,
            column: fault.column.map(|column| self.heading.name(column).to_owned()),
            value: Reject::shorten(&fault.value),
            expected: fault.expected,
        }
    }

    /// Fails if a column that is needed, or that somebody asked for, was nowhere to be seen.
    pub(super) fn check_columns(&self) -> Result<(), ImportError> {
        let mut pairs = self.heading.wanted.iter().zip(&self.heading.theirs);
        let lacking = pairs.find(|(wanted, theirs)| wanted.needed && theirs.is_none());
        let Some((wanted, _)) = lacking else { return Ok(()) };
        let seen = self.heading.theirs.iter().flatten();
        let found: BTreeSet<&str> = seen.chain(&self.heading.ignored).map(String::as_str).collect();
        Err(ImportError::Column {
            path: self.path.clone(),
            ours: wanted.ours.clone(),
            looked_for: wanted.spellings.join(", "),
            found: Vec::from_iter(found).join(", "),
        })
    }

    /// Bytes of the file that have been read.
    pub(super) fn bytes_read(&self) -> u64 {
        match &self.rows {
            Rows::Delimited(rows) => rows.bytes_read(),
            Rows::JsonLines(rows) => rows.bytes_read(),
            Rows::Parquet(rows) => rows.bytes_read(),
        }
    }

    /// Which columns the file has, as far as it was read.
    pub(super) fn heading(&self) -> &Heading {
        &self.heading
    }
}

// === impl Row ===

impl Row {
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
    fn new(wanted: Columns) -> Self {
        Self { theirs: vec![None; wanted.len()], wanted, ignored: BTreeSet::new() }
    }

    /// For each column that we look for, where it stands among `names`.
    pub(super) fn place(&mut self, names: &[&str]) -> Vec<Option<usize>> {
        let place = |wanted: &Wanted| {
            wanted.spellings.iter().find_map(|spelling| names.iter().position(|n| n == spelling))
        };
        let places: Vec<_> = self.wanted.iter().map(place).collect();
        for (theirs, place) in self.theirs.iter_mut().zip(&places) {
            *theirs = place.map(|place| names[place].to_owned());
        }
        let unread = (0..names.len()).filter(|at| !places.contains(&Some(*at)));
        self.ignored.extend(unread.map(|at| names[at].to_owned()));
        places
    }

    /// What a column is called: by them, or else by us.
    fn name(&self, column: usize) -> &str {
        self.theirs[column].as_deref().unwrap_or(&self.wanted[column].ours)
    }
}
