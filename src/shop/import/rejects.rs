//! Wrong rows, and the reasons.

use serde::Serialize;
use std::fmt;
use std::path::PathBuf;

/// Bytes of a wrong value that are quoted.
const VALUE_BYTES_MAX: usize = 80;
/// Wrong rows that are quoted for each reason.
const EXAMPLES_MAX: usize = 3;
/// Reasons that are told apart. Rows for further ones are only counted.
const REASONS_MAX: usize = 32;
/// Stands for numbers that differ between the rows of one reason.
const ANY_NUMBER: &str = "…";

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

/// Rows of one table that are wrong in the same way.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RejectReason {
    /// The file's name of the column; none if whole rows are wrong.
    pub column: Option<String>,
    /// A description of valid values. `…` stands for numbers that differ from row to row.
    pub expected: String,
    /// How many rows.
    pub rows: u64,
    /// The first of them.
    pub examples: Vec<Reject>,
}

/// The wrong rows of a table, by reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RejectReasons {
    /// The reasons, those of most rows first.
    pub reasons: Vec<RejectReason>,
    /// Rows that are wrong for further reasons.
    pub further_rows: u64,
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

// === impl RejectReasons ===

impl RejectReasons {
    /// Counts a wrong row for its reason.
    pub(super) fn add(&mut self, reject: &Reject) {
        let same = |reason: &&mut RejectReason| {
            reason.column == reject.column
                && parts(&reason.expected)
                    .map(|part| part.0)
                    .eq(parts(&reject.expected).map(|part| part.0))
        };
        if let Some(reason) = self.reasons.iter_mut().find(same) {
            reason.rows += 1;
            if reason.expected != reject.expected {
                reason.expected = common(&reason.expected, &reject.expected);
            }
            if reason.examples.len() < EXAMPLES_MAX {
                reason.examples.push(reject.clone());
            }
        } else if self.reasons.len() < REASONS_MAX {
            self.reasons.push(RejectReason {
                column: reject.column.clone(),
                expected: reject.expected.clone(),
                rows: 1,
                examples: vec![reject.clone()],
            });
        } else {
            self.further_rows += 1;
        }
    }

    /// Puts the reasons of most rows first.
    pub(super) fn sort(&mut self) {
        self.reasons.sort_by_key(|reason| std::cmp::Reverse(reason.rows));
    }
}

/// The words of a sentence, each with the number after it; the number may stand for many.
fn parts(sentence: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = sentence;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_number = |c: char| c.is_ascii_digit() || ANY_NUMBER.contains(c);
        let (words, after) = rest.split_at(rest.find(is_number).unwrap_or(rest.len()));
        let (number, after) = after.split_at(after.find(|c| !is_number(c)).unwrap_or(after.len()));
        rest = after;
        Some((words, number))
    })
}

/// What two sentences say that differ in numbers alone.
fn common(one: &str, other: &str) -> String {
    let part = |((words, number), (_, other)): ((&str, &str), (&str, &str))| {
        format!("{words}{}", if number == other { number } else { ANY_NUMBER })
    };
    parts(one).zip(parts(other)).map(part).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn reject(column: &str, expected: &str, line: u64) -> Reject {
        let (column, expected) = (Some(column.to_owned()), expected.to_owned());
        Reject { file: "a.csv".into(), line, column, value: "v".into(), expected }
    }

    #[test]
    fn rows_that_differ_in_numbers_have_one_reason() {
        let mut reasons = RejectReasons::default();
        for line in 2..7 {
            reasons.add(&reject(
                "id",
                &format!("an id of its own: line {line} of 9 has this"),
                line,
            ));
        }
        reasons.add(&reject("id", "an id", 9));
        reasons.add(&reject("user", "an id", 9));
        for line in 0..9 {
            reasons.add(&reject("price", "text of at most 512 bytes", line));
        }
        reasons.sort();
        let shown: Vec<_> =
            reasons.reasons.iter().map(|r| (&*r.expected, r.rows, r.examples.len())).collect();
        assert_eq!(
            shown,
            [
                ("text of at most 512 bytes", 9, 3),
                ("an id of its own: line … of 9 has this", 5, 3),
                ("an id", 1, 1),
                ("an id", 1, 1),
            ]
        );
    }

    #[test]
    fn reasons_are_bounded() {
        let mut reasons = RejectReasons::default();
        for column in 0..100 {
            reasons.add(&reject(&format!("c{column}"), "text", 1));
        }
        assert_eq!((reasons.reasons.len(), reasons.further_rows), (REASONS_MAX, 68));
    }
}
