//! JSON Lines: one object on each line.

use super::ROW_BYTES_MAX;
use super::cell::{NESTED_EXPECTED, from_json};
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::{ByteMeter, SourceFile};
use serde_json::{Map, Value};
use std::io::{self, BufRead, BufReader, Read};

/// The rows of a JSON Lines file.
pub(super) struct JsonLinesReader {
    reader: BufReader<Box<dyn Read>>,
    read: ByteMeter,
    line: Vec<u8>,
}

// === impl JsonLinesReader ===

impl JsonLinesReader {
    pub(super) fn open(source: SourceFile) -> io::Result<Self> {
        let (text, read) = source.unpack()?;
        Ok(Self { reader: BufReader::new(text), read, line: Vec::new() })
    }

    pub(super) fn next(
        &mut self,
        row: &mut ImportRow,
        heading: &mut Heading,
    ) -> io::Result<NextRow<RowFault>> {
        row.clear();
        loop {
            self.line.clear();
            let bytes =
                self.reader.by_ref().take(ROW_BYTES_MAX).read_until(b'\n', &mut self.line)?;
            if bytes == 0 {
                return Ok(NextRow::End);
            }
            row.line += 1;
            if bytes as u64 == ROW_BYTES_MAX && !self.line.ends_with(b"\n") {
                let why = format!("line {} is longer than {ROW_BYTES_MAX} bytes", row.line);
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        Ok(match serde_json::from_slice(&self.line) {
            Ok(object) => fill(row, heading, object),
            Err(error) => NextRow::Wrong(RowFault {
                column: None,
                value: String::from_utf8_lossy(self.line.trim_ascii()).into_owned(),
                // The error's line number is always 1.
                expected: format!("a JSON object ({error})")
                    .replace(" at line 1 column", ", column"),
            }),
        })
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read.get()
    }
}

/// Fills the cells of a row from an object.
fn fill(
    row: &mut ImportRow,
    heading: &mut Heading,
    mut object: Map<String, Value>,
) -> NextRow<RowFault> {
    let mut fault = None;
    for (column, spec) in heading.columns.iter().enumerate() {
        let Some(name) = spec.spellings.iter().find(|name| object.contains_key(*name)) else {
            continue;
        };
        let theirs = &mut heading.theirs[column];
        if theirs.as_ref() != Some(name) {
            *theirs = Some(name.clone());
        }
        let value = &object[name];
        if (value.is_array() || value.is_object()) && !spec.nested {
            let (value, expected) = (value.to_string(), NESTED_EXPECTED.to_owned());
            fault.get_or_insert(RowFault { column: Some(column), value, expected });
        } else {
            from_json(value, &mut row.cells[column]);
        }
    }
    for theirs in heading.theirs.iter().flatten() {
        object.remove(theirs);
    }
    for name in object.into_iter().map(|(name, _)| name) {
        if !heading.ignored.contains(&name) {
            heading.ignored.insert(name);
        }
    }
    fault.map_or(NextRow::Row, NextRow::Wrong)
}
