//! JSON Lines: one object to a line.

use super::ROW_BYTES_MAX;
use super::cell::{NESTED_EXPECTED, from_json};
use super::source::{Meter, Source};
use super::table::{Fault, Heading, Row, Step};
use serde_json::{Map, Value};
use std::io::{self, BufRead, BufReader, Read};

/// The rows of a JSON Lines file.
pub(super) struct JsonLines {
    reader: BufReader<Box<dyn Read>>,
    read: Meter,
    line: Vec<u8>,
}

// === impl JsonLines ===

impl JsonLines {
    pub(super) fn open(source: Source) -> io::Result<Self> {
        let (text, read) = source.unpack()?;
        Ok(Self { reader: BufReader::new(text), read, line: Vec::new() })
    }

    pub(super) fn next(&mut self, row: &mut Row, heading: &mut Heading) -> io::Result<Step> {
        row.clear();
        loop {
            self.line.clear();
            let bytes =
                self.reader.by_ref().take(ROW_BYTES_MAX).read_until(b'\n', &mut self.line)?;
            if bytes == 0 {
                return Ok(Step::End);
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
            Err(error) => Step::Wrong(Fault {
                column: None,
                value: String::from_utf8_lossy(self.line.trim_ascii()).into_owned(),
                // The error counts lines within the line.
                expected: format!("a JSON object ({error})")
                    .replace(" at line 1 column", ", column"),
            }),
        })
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read.get()
    }
}

/// Spreads an object over the cells of a row.
fn fill(row: &mut Row, heading: &mut Heading, mut object: Map<String, Value>) -> Step {
    let mut fault = None;
    for (column, wanted) in heading.wanted.iter().enumerate() {
        let Some(name) = wanted.spellings.iter().find(|name| object.contains_key(*name)) else {
            continue;
        };
        let theirs = &mut heading.theirs[column];
        if theirs.as_ref() != Some(name) {
            *theirs = Some(name.clone());
        }
        let value = &object[name];
        if (value.is_array() || value.is_object()) && !wanted.nested {
            let (value, expected) = (value.to_string(), NESTED_EXPECTED.to_owned());
            fault.get_or_insert(Fault { column: Some(column), value, expected });
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
    fault.map_or(Step::Row, Step::Wrong)
}
