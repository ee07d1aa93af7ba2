//! CSV and TSV: cells separated by a byte, quoted as in RFC 4180.

use super::ROW_BYTES_MAX;
use super::row::{Heading, ImportRow, NextRow, RowFault};
use super::source::{ByteMeter, SourceFile};
use csv::{ByteRecord, Terminator};
use std::io::{self, Read};

/// Bytes read ahead.
const BUFFER_BYTES: usize = 64 << 10;
const END_OF_LINE: &[u8] = b"\n";

/// The rows of a CSV or TSV file.
pub(super) struct DelimitedReader {
    reader: csv::Reader<Input>,
    read: ByteMeter,
    record: ByteRecord,
    /// The index in a record of each column that is looked for.
    indices: Vec<Option<usize>>,
    width: usize,
}

/// The file with a line end after it, so that every row ends in one. At most the bytes of one row are
/// read at a time.
type Input = io::Take<io::Chain<Box<dyn Read>, &'static [u8]>>;

// === impl DelimitedReader ===

impl DelimitedReader {
    pub(super) fn open(
        source: SourceFile,
        delimiter: u8,
        heading: &mut Heading,
    ) -> io::Result<Self> {
        let (text, read) = source.unpack()?;
        let reader = csv::ReaderBuilder::new()
            .delimiter(delimiter)
            .has_headers(false)
            .flexible(true)
            // With the reader's own CRLF rule, a row ends at the CR, and the LF counts to the next one.
            .terminator(Terminator::Any(b'\n'))
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(text.chain(END_OF_LINE).take(ROW_BYTES_MAX));
        let (indices, width) = (Vec::new(), 0);
        let mut rows = Self { reader, read, record: ByteRecord::new(), indices, width };
        if rows.record()?.is_none() {
            return Err(invalid("the file is empty: its first line must name its columns"));
        }
        let names = rows.record.iter().map(str::from_utf8).collect::<Result<Vec<_>, _>>();
        let names = names.map_err(|_| invalid("the names of its columns are not UTF-8"))?;
        rows.indices = heading.locate(&names);
        rows.width = names.len();
        Ok(rows)
    }

    pub(super) fn next(&mut self, row: &mut ImportRow) -> io::Result<NextRow<RowFault>> {
        row.clear();
        let Some(line) = self.record()? else { return Ok(NextRow::End) };
        row.line = line;
        if self.record.len() != self.width {
            return Ok(NextRow::Wrong(RowFault {
                column: None,
                value: String::from_utf8_lossy(self.record.as_slice()).into_owned(),
                expected: format!(
                    "{} cells, as in the heading, not {}",
                    self.width,
                    self.record.len()
                ),
            }));
        }
        for (column, index) in self.indices.iter().enumerate() {
            let Some(cell) = index.and_then(|index| self.record.get(index)) else { continue };
            let Ok(text) = str::from_utf8(cell) else {
                let value = String::from_utf8_lossy(cell).into_owned();
                let expected = "text in UTF-8".to_owned();
                return Ok(NextRow::Wrong(RowFault { column: Some(column), value, expected }));
            };
            row.cells[column].push_str(text);
        }
        Ok(NextRow::Row)
    }

    pub(super) fn bytes_read(&self) -> u64 {
        self.read.get()
    }

    /// Reads the next record that is not a blank line, and returns its first line number.
    fn record(&mut self) -> io::Result<Option<u64>> {
        loop {
            self.reader.get_mut().set_limit(ROW_BYTES_MAX);
            let found = self.reader.read_byte_record(&mut self.record).map_err(io::Error::from)?;
            if self.reader.get_ref().limit() == 0 {
                return Err(invalid(&format!(
                    "a row is longer than {ROW_BYTES_MAX} bytes: is a quotation mark open?"
                )));
            }
            if !found {
                return Ok(None);
            }
            let within = self.record.as_slice().split(|byte| *byte == b'\n').count() - 1;
            let line = self.reader.position().line() - 1 - within as u64;
            strip_carriage_return(&mut self.record);
            if self.record.len() > 1 || self.record.get(0).is_some_and(|cell| !cell.is_empty()) {
                return Ok(Some(line));
            }
        }
    }
}

/// Removes the CR of a CRLF from the last cell.
fn strip_carriage_return(record: &mut ByteRecord) {
    let last = record.len() - 1;
    if let Some(cell) = record[last].strip_suffix(b"\r").map(<[u8]>::to_vec) {
        record.truncate(last);
        record.push_field(&cell);
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
