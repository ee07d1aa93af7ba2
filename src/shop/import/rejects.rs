//! Wrong rows, and the reasons.

use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Bytes of a wrong value that are quoted.
const VALUE_BYTES_MAX: usize = 80;

/// A wrong row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reject {
    /// The file.
    pub file: PathBuf,
    /// The line from 1; for Parquet, the row from 1.
    pub line: u64,
    /// The file's name of the column; none if the whole row is wrong.
    pub column: Option<String>,
    /// The value, shortened.
    pub value: String,
    /// A description of valid values.
    pub expected: String,
}

/// The first wrong rows, and the number of all.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rejects {
    /// The first ones.
    pub first: Vec<Reject>,
    /// Wrong rows of each file.
    pub counts: Vec<(PathBuf, u64)>,
    #[serde(skip)]
    first_max: usize,
}

// === impl Reject ===

impl Reject {
    pub(super) fn shorten(value: &str) -> String {
        if value.len() <= VALUE_BYTES_MAX {
            return value.to_owned();
        }
        format!("{}…", &value[..value.floor_char_boundary(VALUE_BYTES_MAX)])
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if let Some(column) = &self.column {
            write!(f, "{column}: ")?;
        }
        write!(f, "found {:?}, expected {}", self.value, self.expected)
    }
}

// === impl Rejects ===

impl Rejects {
    /// Lists the first `first_max` wrong rows, and counts the others.
    pub(super) fn new(first_max: usize) -> Self {
        Self { first: Vec::new(), counts: Vec::new(), first_max }
    }

    pub(super) fn add(&mut self, reject: Reject) {
        match self.counts.last_mut() {
            Some((file, count)) if *file == reject.file => *count += 1,
            _ => self.counts.push((reject.file.clone(), 1)),
        }
        if self.first.len() < self.first_max {
            self.first.push(reject);
        }
    }

    /// Whether no row is wrong.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// How many rows are wrong.
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Rejects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for reject in &self.first {
            writeln!(f, "{reject}")?;
        }
        if self.total() > self.first.len() as u64 {
            writeln!(f, "… and {} more", self.total() - self.first.len() as u64)?;
        }
        let count = |(file, count): &(PathBuf, u64)| format!("{count} wrong in {}", file.display());
        f.write_str(&self.counts.iter().map(count).collect::<Vec<_>>().join(", "))
    }
}
