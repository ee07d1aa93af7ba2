//! CSV, TSV and their relatives: rows of cells between delimiters, under a heading that names them.

use super::byte_meter::ByteMeter;
use super::dialect::Dialect;
use super::encoding::text_expected;
use super::file_fault::FileFault;
use super::records::{Record, RecordReader};
use super::rejects::Reject;
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::{SourceFile, SourceText};
use encoding_rs::Encoding;
use std::io::{BufReader, Read};

/// Delimiters that a heading is tried with, when its own finds nothing, and how to state them.
const DELIMITERS: [(u8, &str); 4] = [(b',', "','"), (b';', "';'"), (b'\t', "tab"), (b'|', "'|'")];
/// The line by which a spreadsheet is told the delimiter.
const DELIMITER_LINE: &[u8] = b"sep=";

/// The rows of a delimited file.
pub(super) struct DelimitedReader {
    records: RecordReader<BufReader<Box<dyn Read>>>,
    encoding: &'static Encoding,
    read: ByteMeter,
    record: Record,
    /// The index in a record of each column that is looked for.
    indices: Vec<Option<usize>>,
    width: usize,
}

// === impl DelimitedReader ===

impl DelimitedReader {
    /// Reads the heading of a file. Returns none if the file is empty.
    pub(super) fn open(
        source: SourceFile,
        heading: &mut Heading,
    ) -> Result<Option<Self>, FileFault> {
        let dialect = Dialect::new(source.format, &source.spec)?;
        let is_stated = source.spec.delimiter.is_some();
        let SourceText { utf_8, encoding, read } = source.text()?;
        let records = RecordReader::new(utf_8, dialect);
        let (record, indices, width) = (Record::default(), Vec::new(), 0);
        let mut rows = Self { records, encoding, read, record, indices, width };
        if !rows.read_heading(is_stated)? {
            return Ok(None);
        }
        let names: Result<Vec<&str>, _> = rows.record.cells().map(str::from_utf8).collect();
        let Ok(names) = names else {
            let expected = text_expected(&rows.record.text, encoding);
            return FileFault::stated(format!(
                "line {}: the heading is not {expected}",
                rows.record.line
            ));
        };
        rows.check_heading(&names, heading)?;
        rows.indices = heading.locate(&names)?;
        rows.width = names.len();
        Ok(Some(rows))
    }

    /// Reads the record that names the columns.
    fn read_heading(&mut self, is_delimiter_stated: bool) -> Result<bool, FileFault> {
        let found = self.records.read(&mut self.record)?;
        let line = self.record.joined(self.records.dialect().delimiter);
        let Some(&[delimiter]) = line.as_bytes().strip_prefix(DELIMITER_LINE) else {
            return Ok(found);
        };
        if !is_delimiter_stated && (delimiter.is_ascii_punctuation() || delimiter == b'\t') {
            self.records.set_delimiter(delimiter);
        }
        self.records.read(&mut self.record)
    }

    /// Fails if the first line names no column, and says why it might be so.
    fn check_heading(&self, names: &[&str], heading: &Heading) -> Result<(), FileFault> {
        let line = self.record.line;
        if self.record.text.contains(&0) {
            return FileFault::stated(format!("line {line}: the heading holds a NUL byte"));
        }
        if names.iter().any(|name| heading.knows(name)) && names.len() > 1 {
            return Ok(());
        }
        let own = self.records.dialect().delimiter;
        let text = self.record.joined(own);
        let shown = Reject::shorten(&text);
        let others = DELIMITERS.iter().filter(|(other, _)| *other != own);
        let known = |other: u8| {
            text.split(char::from(other))
                .filter(|name| heading.knows(name.trim_matches('"')))
                .count()
        };
        let better = others
            .clone()
            .filter(|(other, _)| known(*other) > 0)
            .max_by_key(|(other, _)| known(*other));
        let better = better.filter(|(other, _)| text.contains(char::from(*other)));
        let occurs =
            others.clone().find(|(other, _)| names.len() == 1 && text.contains(char::from(*other)));
        if let Some((_, stated)) = better.or(occurs) {
            return FileFault::stated(format!(
                "line {line}: the heading {shown:?} is {} column{} between {:?}: state --delimiter {stated}",
                names.len(),
                if names.len() == 1 { "" } else { "s" },
                char::from(own)
            ));
        }
        if !names.iter().any(|name| heading.knows(name))
            && names.iter().any(|name| looks_like_data(name))
        {
            return FileFault::stated(format!(
                "line {line}: the first line must name the columns, but it is {shown:?}, which looks like data. Write \
                 a line above it, such as {}",
                heading.example(own)
            ));
        }
        Ok(())
    }

    pub(super) fn next(&mut self, row: &mut ImportRow) -> Result<NextRow<RowFault>, FileFault> {
        row.clear();
        if !self.records.read(&mut self.record)? {
            return Ok(NextRow::End);
        }
        row.line = self.record.line;
        if let Some(fault) = self.row_fault() {
            return Ok(NextRow::Wrong(fault));
        }
        for (column, index) in self.indices.iter().enumerate() {
            let Some(index) = *index else { continue };
            let cell = self.record.cell(index);
            let Ok(text) = str::from_utf8(cell) else {
                let value = String::from_utf8_lossy(cell).into_owned();
                let expected = text_expected(cell, self.encoding);
                return Ok(NextRow::Wrong(RowFault { column: Some(column), value, expected }));
            };
            row.cells[column].push_str(text);
        }
        Ok(NextRow::Row)
    }

    /// What is wrong with the whole row.
    fn row_fault(&self) -> Option<RowFault> {
        let Record { text, text_after_quote, is_last, .. } = &self.record;
        let expected = if text_after_quote.is_some() {
            "the end of the cell after its closing quote (a quote inside a quoted cell is doubled)"
                .to_owned()
        } else if text.contains(&0) {
            "text without NUL bytes".to_owned()
        } else if self.record.len() == self.width {
            return None;
        } else {
            let cut = if *is_last { "; the file ends here: is it cut?" } else { "" };
            format!("{} cells, as in the heading, not {}{cut}", self.width, self.record.len())
        };
        let column =
            text_after_quote.and_then(|cell| self.indices.iter().position(|i| *i == Some(cell)));
        let value = match text_after_quote {
            Some(cell) if *cell < self.record.len() => {
                String::from_utf8_lossy(self.record.cell(*cell)).into_owned()
            }
            _ => self.record.joined(self.records.dialect().delimiter),
        };
        Some(RowFault { column, value, expected })
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read.get()
    }
}

/// Whether a cell is rather a value than a name: a number, a date or nothing.
fn looks_like_data(cell: &str) -> bool {
    let cell = cell.trim();
    cell.parse::<f64>().is_ok()
        || (cell.starts_with(|c: char| c.is_ascii_digit())
            && cell.chars().all(|c| c.is_ascii_digit() || "-/.:,+TZ ".contains(c)))
}
