//! A file as rows of text cells, one for each column that is looked for.

use super::ImportError;
use super::cell::CellFault;
use super::columns::ColumnSpecs;
use super::delimited::DelimitedReader;
use super::json_lines::JsonLinesReader;
use super::parquet::ParquetReader;
use super::rejects::Reject;
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::{FileFormat, SourceFile, SourceFileError};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

/// A file that is being read, row by row.
pub(super) struct ImportTable {
    path: PathBuf,
    heading: Heading,
    rows: TableReader,
}

/// The rows of a file, in one of the formats.
enum TableReader {
    Delimited(DelimitedReader),
    JsonLines(JsonLinesReader),
    Parquet(ParquetReader),
}

// === impl ImportTable ===

impl ImportTable {
    /// Opens a file, and looks for `columns` in it.
    pub(super) fn open(path: &Path, columns: ColumnSpecs) -> Result<Self, ImportError> {
        let read = |source| ImportError::Read { path: path.to_owned(), source };
        let source = SourceFile::open(path).map_err(|error| match error {
            SourceFileError::Io(source) => read(source),
            SourceFileError::Kind(why) => ImportError::Kind { path: path.to_owned(), why },
        })?;
        let mut heading = Heading::new(columns);
        let rows = match source.format {
            FileFormat::Csv => {
                DelimitedReader::open(source, b',', &mut heading).map(TableReader::Delimited)
            }
            FileFormat::Tsv => {
                DelimitedReader::open(source, b'\t', &mut heading).map(TableReader::Delimited)
            }
            FileFormat::Parquet => {
                ParquetReader::open(source, &mut heading).map(TableReader::Parquet)
            }
            FileFormat::JsonLines => JsonLinesReader::open(source).map(TableReader::JsonLines),
        };
        let table = Self { path: path.to_owned(), heading, rows: rows.map_err(read)? };
        // JSON Lines have no heading: their columns are known at the end of the file.
        if !matches!(table.rows, TableReader::JsonLines(_)) {
            table.check_columns()?;
        }
        Ok(table)
    }

    /// An empty row for [`next`](Self::next) to fill.
    pub(super) fn row(&self) -> ImportRow {
        ImportRow { line: 0, cells: vec![String::new(); self.heading.columns.len()] }
    }

    /// Reads the next row.
    pub(super) fn next(&mut self, row: &mut ImportRow) -> Result<NextRow<Reject>, ImportError> {
        let next = match &mut self.rows {
            TableReader::Delimited(rows) => rows.next(row),
            TableReader::JsonLines(rows) => rows.next(row, &mut self.heading),
            TableReader::Parquet(rows) => rows.next(row, &self.heading),
        };
        let failed = |source: io::Error| ImportError::Read {
            path: self.path.clone(),
            source: io::Error::new(source.kind(), format!("after line {}: {source}", row.line)),
        };
        match next.map_err(failed)? {
            NextRow::Row => Ok(NextRow::Row),
            NextRow::End => Ok(NextRow::End),
            NextRow::Wrong(fault) => Ok(NextRow::Wrong(self.reject_row(row.line, fault))),
        }
    }

    /// The reject of a row for one of its cells.
    pub(super) fn reject(&self, row: &ImportRow, fault: CellFault) -> Reject {
        let CellFault { column, expected } = fault;
        let value = row.cells[column].clone();
        let fault = RowFault { column: Some(column), value, expected: expected.into_owned() };
        self.reject_row(row.line, fault)
    }

    fn reject_row(&self, line: u64, fault: RowFault) -> Reject {
        Reject {
            file: self.path.clone(),
            line,
            column: fault.column.map(|column| self.heading.name(column).to_owned()),
            value: Reject::shorten(&fault.value),
            expected: fault.expected,
        }
    }

    /// Fails if a required column was not found.
    pub(super) fn check_columns(&self) -> Result<(), ImportError> {
        let mut pairs = self.heading.columns.iter().zip(&self.heading.theirs);
        let lacking = pairs.find(|(spec, theirs)| spec.required && theirs.is_none());
        let Some((spec, _)) = lacking else { return Ok(()) };
        let seen = self.heading.theirs.iter().flatten();
        let found: BTreeSet<&str> = seen.chain(&self.heading.ignored).map(String::as_str).collect();
        Err(ImportError::Column {
            path: self.path.clone(),
            ours: spec.ours.clone(),
            looked_for: spec.spellings.join(", "),
            found: Vec::from_iter(found).join(", "),
        })
    }

    /// Bytes of the file that were read so far.
    pub(super) fn bytes_read(&self) -> u64 {
        match &self.rows {
            TableReader::Delimited(rows) => rows.bytes_read(),
            TableReader::JsonLines(rows) => rows.bytes_read(),
            TableReader::Parquet(rows) => rows.bytes_read(),
        }
    }

    /// The columns of the file, as far as it was read.
    pub(super) fn heading(&self) -> &Heading {
        &self.heading
    }
}
