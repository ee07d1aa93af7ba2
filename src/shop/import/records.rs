//! Splits delimited text into records: cells between delimiters, quoted as in RFC 4180.
//!
//! The `csv` crate does not say where a quote was opened, whether it was closed, or what follows it. So a quote that
//! nobody closed swallows rows in silence there; here it is an error that names its line.

use super::ROW_BYTES_MAX;
use super::dialect::Dialect;
use super::file_fault::FileFault;
use std::io::{self, BufRead};
use std::ops::ControlFlow;

/// The cells of one row.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// The cells, one after another.
    pub text: Vec<u8>,
    /// The end of each cell in `text`.
    ends: Vec<usize>,
    /// The line where the record begins, from 1.
    pub line: u64,
    /// The first cell with text after its closing quote.
    pub text_after_quote: Option<usize>,
    /// Whether the file ends with this record, without a line end.
    pub is_last: bool,
}

/// Reads records. A line ends with LF, CRLF or CR.
pub(super) struct RecordReader<R> {
    input: R,
    scanner: RecordScanner,
}

/// Where the reader stands.
struct RecordScanner {
    dialect: Dialect,
    /// The bytes that end a part of an unquoted cell.
    stops: [bool; 256],
    state: ScanState,
    /// The number of the line, from 1.
    line: u64,
    /// Whether the last byte was a CR: an LF after it belongs to the same line end.
    is_after_cr: bool,
    /// The line where the last quote was opened.
    quote_line: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ScanState {
    CellStart,
    Unquoted,
    Quoted,
    /// After a quote in a quoted cell: it closes the cell, unless another follows.
    AfterQuote,
}

// === impl Record ===

impl Record {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn cells(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.cell(index))
    }

    /// The cell at an index below [`len`](Self::len).
    pub(super) fn cell(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[start..self.ends[index]]
    }

    /// The cells with the delimiter between them.
    pub(super) fn joined(&self, delimiter: u8) -> String {
        let cells: Vec<&[u8]> = self.cells().collect();
        String::from_utf8_lossy(&cells.join(&delimiter)).into_owned()
    }

    fn is_blank(&self) -> bool {
        self.text.is_empty() && self.ends.len() < 2
    }

    fn clear(&mut self, line: u64) {
        self.text.clear();
        self.ends.clear();
        self.line = line;
        self.text_after_quote = None;
        self.is_last = false;
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), FileFault> {
        if self.text.len() + bytes.len() > ROW_BYTES_MAX as usize {
            return FileFault::stated(format!(
                "line {}: the row that begins here is longer than {ROW_BYTES_MAX} bytes",
                self.line
            ));
        }
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    fn end_cell(&mut self) {
        self.ends.push(self.text.len());
    }
}

// === impl RecordReader ===

impl<R: BufRead> RecordReader<R> {
    pub(super) fn new(input: R, dialect: Dialect) -> Self {
        Self { input, scanner: RecordScanner::new(dialect) }
    }

    pub(super) fn dialect(&self) -> Dialect {
        self.scanner.dialect
    }

    /// Cells end at another delimiter from the next record on.
    pub(super) fn set_delimiter(&mut self, delimiter: u8) {
        self.scanner.set_dialect(Dialect { delimiter, ..self.scanner.dialect });
    }

    /// Reads the next record that is no blank line. Returns whether there was one.
    pub(super) fn read(&mut self, record: &mut Record) -> Result<bool, FileFault> {
        while self.read_any(record)? {
            if !record.is_blank() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_any(&mut self, record: &mut Record) -> Result<bool, FileFault> {
        record.clear(self.scanner.line);
        loop {
            let bytes = match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                bytes => bytes?,
            };
            if bytes.is_empty() {
                return self.scanner.end_file(record);
            }
            let mut at = 0;
            let mut step = ControlFlow::Continue(());
            while at < bytes.len() && step.is_continue() {
                step = self.scanner.step(bytes, &mut at, record)?;
            }
            self.input.consume(at);
            if step.is_break() {
                return Ok(true);
            }
        }
    }
}

// === impl RecordScanner ===

impl RecordScanner {
    fn new(dialect: Dialect) -> Self {
        let mut scanner = Self {
            dialect,
            stops: [false; 256],
            state: ScanState::CellStart,
            line: 1,
            is_after_cr: false,
            quote_line: 0,
        };
        scanner.set_dialect(dialect);
        scanner
    }

    fn set_dialect(&mut self, dialect: Dialect) {
        self.dialect = dialect;
        self.stops = [false; 256];
        for stop in [dialect.delimiter, b'\n', b'\r'] {
            self.stops[usize::from(stop)] = true;
        }
    }

    /// Takes some of `bytes[*at..]`, which is not empty. Breaks at the end of the record.
    fn step(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        record: &mut Record,
    ) -> Result<ControlFlow<()>, FileFault> {
        let byte = bytes[*at];
        match self.state {
            ScanState::Quoted => {
                self.quoted(bytes, at, record)?;
                return Ok(ControlFlow::Continue(()));
            }
            // The rest of a CRLF.
            ScanState::CellStart if self.is_after_cr && byte == b'\n' => {
                self.is_after_cr = false;
                *at += 1;
                return Ok(ControlFlow::Continue(()));
            }
            ScanState::CellStart if Some(byte) == self.dialect.quote => {
                self.state = ScanState::Quoted;
                self.quote_line = self.line;
                self.is_after_cr = false;
                *at += 1;
                return Ok(ControlFlow::Continue(()));
            }
            ScanState::AfterQuote if Some(byte) == self.dialect.quote => {
                record.text.push(byte);
                self.state = ScanState::Quoted;
                *at += 1;
                return Ok(ControlFlow::Continue(()));
            }
            ScanState::AfterQuote if !self.stops[usize::from(byte)] => {
                record.text_after_quote.get_or_insert(record.ends.len());
            }
            _ => {}
        }
        self.unquoted(bytes, at, record)
    }

    fn unquoted(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        record: &mut Record,
    ) -> Result<ControlFlow<()>, FileFault> {
        self.state = ScanState::Unquoted;
        self.is_after_cr = false;
        let rest = &bytes[*at..];
        let stop = rest.iter().position(|byte| self.stops[usize::from(*byte)]);
        let taken = stop.unwrap_or(rest.len());
        record.take(&rest[..taken])?;
        *at += taken;
        let Some(stop) = stop else { return Ok(ControlFlow::Continue(())) };
        record.end_cell();
        self.state = ScanState::CellStart;
        *at += 1;
        if rest[stop] == self.dialect.delimiter {
            return Ok(ControlFlow::Continue(()));
        }
        self.end_line(rest[stop]);
        Ok(ControlFlow::Break(()))
    }

    fn quoted(
        &mut self,
        bytes: &[u8],
        at: &mut usize,
        record: &mut Record,
    ) -> Result<(), FileFault> {
        let rest = &bytes[*at..];
        let quote = self.dialect.quote;
        let stop = rest.iter().position(|b| Some(*b) == quote || matches!(b, b'\n' | b'\r'));
        let taken = stop.unwrap_or(rest.len());
        if taken > 0 {
            self.is_after_cr = false;
            record.take(&rest[..taken])?;
            *at += taken;
        }
        let Some(stop) = stop else { return Ok(()) };
        *at += 1;
        if Some(rest[stop]) == quote {
            self.state = ScanState::AfterQuote;
            self.is_after_cr = false;
            return Ok(());
        }
        record.take(&rest[stop..=stop])?;
        self.end_line(rest[stop]);
        if self.line - self.quote_line >= self.dialect.quoted_lines_max {
            return self.open_quote(&match self.dialect.quoted_lines_max {
                1 => "is not closed on that line".to_owned(),
                lines => format!("is not closed within {lines} lines"),
            });
        }
        Ok(())
    }

    fn end_line(&mut self, byte: u8) {
        if byte == b'\r' || !self.is_after_cr {
            self.line += 1;
        }
        self.is_after_cr = byte == b'\r';
    }

    /// Ends the record at the end of the file. Returns whether there is one.
    fn end_file(&mut self, record: &mut Record) -> Result<bool, FileFault> {
        match self.state {
            ScanState::Quoted => {
                self.open_quote("is still open at the end of the file")?;
            }
            ScanState::CellStart if record.ends.is_empty() => return Ok(false),
            _ => {}
        }
        record.end_cell();
        record.is_last = true;
        self.state = ScanState::CellStart;
        Ok(true)
    }

    /// Nothing after an open quote can be trusted, so it is a fault of the file.
    fn open_quote(&self, how: &str) -> Result<(), FileFault> {
        let quote = char::from(self.dialect.quote.unwrap_or_default());
        let many = match self.dialect.quoted_lines_max {
            1 => format!(", or --quote '{quote}' if cells may span lines"),
            _ => String::new(),
        };
        FileFault::stated(format!(
            "line {}: the quote {quote} that begins a cell here {how}. Close it, or state --quote none if quotes are \
             text in this file{many}",
            self.quote_line
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop::import::dialect::{FileSpec, TableFormat};

    /// The records of a text as `line:cell/cell`, with `!` before one that has text after a quote. `step` bytes are
    /// read at a time.
    fn records(
        text: &str,
        format: TableFormat,
        spec: FileSpec,
        step: usize,
    ) -> Result<Vec<String>, String> {
        let dialect = Dialect::new(format, &spec).ok().unwrap();
        let input = io::BufReader::with_capacity(step, text.as_bytes());
        let mut reader = RecordReader::new(input, dialect);
        let (mut record, mut found) = (Record::default(), Vec::new());
        loop {
            match reader.read(&mut record) {
                Ok(true) => {}
                Ok(false) => return Ok(found),
                Err(FileFault::Stated(why)) => return Err(why),
                Err(FileFault::Io(error)) => return Err(error.to_string()),
            }
            let mark = if record.text_after_quote.is_some() { "!" } else { "" };
            found.push(format!("{mark}{}:{}", record.line, record.joined(b'/')));
        }
    }

    #[test]
    fn records_are_split_by_their_dialect() {
        use TableFormat::{Csv, Tsv};
        let csv = FileSpec::default();
        let unquoted = FileSpec { quote: Some("none".parse().unwrap()), ..csv };
        let single = FileSpec { quote: Some("'".parse().unwrap()), ..csv };
        let semicolon = FileSpec { delimiter: Some(";".parse().unwrap()), ..csv };
        let quoted = FileSpec { quote: Some("\"".parse().unwrap()), ..csv };
        let cases: [(&str, TableFormat, FileSpec, &[&str]); 30] = [
            ("", Csv, csv, &[]),
            ("\n\r\n\r\r", Csv, csv, &[]),
            ("a,b\nc,d\n", Csv, csv, &["1:a/b", "2:c/d"]),
            ("a,b\nc,d", Csv, csv, &["1:a/b", "2:c/d"]),
            ("a,b\r\nc,d\r\n", Csv, csv, &["1:a/b", "2:c/d"]),
            ("a,b\rc,d\r", Csv, csv, &["1:a/b", "2:c/d"]),
            ("a,b\r\rc,d\n\ne", Csv, csv, &["1:a/b", "3:c/d", "5:e"]),
            ("a,\n,\n", Csv, csv, &["1:a/", "2:/"]),
            ("a,", Csv, csv, &["1:a/"]),
            ("a b, c ", Csv, csv, &["1:a b/ c "]),
            ("\"a,b\",\"\"\n\"\"\"\"", Csv, csv, &["1:a,b/", "2:\""]),
            ("\"a\nb\",c\nd", Csv, csv, &["1:a\nb/c", "3:d"]),
            ("\"a\r\nb\rc\"\r\nd", Csv, csv, &["1:a\r\nb\rc", "4:d"]),
            ("\"a\r\"\nd", Csv, csv, &["1:a\r", "3:d"]),
            ("\"a\"\r\nd", Csv, csv, &["1:a", "2:d"]),
            ("5\" screen,a\"b\"\n", Csv, csv, &["1:5\" screen/a\"b\""]),
            ("\"a\"b,c\nd", Csv, csv, &["!1:ab/c", "2:d"]),
            ("c,\"a\" \nd", Csv, csv, &["!1:c/a ", "2:d"]),
            ("\"5\" screen\",c\nd", Csv, csv, &["!1:5 screen\"/c", "2:d"]),
            ("a;b,c\n\"d;e\";f", Csv, semicolon, &["1:a/b,c", "2:d;e/f"]),
            ("a\t\"b\tc\"\n", Tsv, csv, &["1:a/b\tc"]),
            ("a\tb \"c\"\n", Tsv, csv, &["1:a/b \"c\""]),
            ("a\t\"b\nc\"\n", Tsv, quoted, &["1:a/b\nc"]),
            ("a\t\"b\n\"c\td\"\n", Tsv, unquoted, &["1:a/\"b", "2:\"c/d\""]),
            ("'a,b',\"c\n", Csv, single, &["1:a,b/\"c"]),
            ("\"\",a\n\"\"\n", Csv, csv, &["1:/a"]),
            ("a\n\"b\"", Csv, csv, &["1:a", "2:b"]),
            ("\0,a\n", Csv, csv, &["1:\0/a"]),
            ("a,b\r\n\"\r\n\"\r\nc", Csv, csv, &["1:a/b", "2:\r\n", "4:c"]),
            (",\r\n,\r\n", Csv, csv, &["1:/", "2:/"]),
        ];
        for (text, format, spec, expected) in cases {
            for step in [1, 2, 3, 64] {
                let found = records(text, format, spec, step);
                assert_eq!(
                    found.as_deref(),
                    Ok(&expected.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>()[..]),
                    "{text:?} by {step}"
                );
            }
        }
    }

    #[test]
    fn a_quote_that_is_not_closed_is_named_by_its_line() {
        use TableFormat::{Csv, Tsv};
        let csv = FileSpec::default();
        let quoted = FileSpec { quote: Some("\"".parse().unwrap()), ..csv };
        let many = format!("h\n\"{}\"\n", "x\n".repeat(100));
        let fewer = format!("h\n\"{}\"\n", "x\n".repeat(99));
        for (text, format, spec, expected) in [
            (
                "a\n\"b\nc\n",
                Csv,
                csv,
                "line 2: the quote \" that begins a cell here is still open at the end of the file",
            ),
            ("a\r\"b\rc\r", Csv, csv, "line 2: the quote \" that begins a cell here is still open"),
            ("a,\"", Csv, csv, "line 1: the quote \" that begins a cell here is still open"),
            (
                &many,
                Csv,
                csv,
                "line 2: the quote \" that begins a cell here is not closed within 100 lines",
            ),
            (
                &many,
                Tsv,
                quoted,
                "line 2: the quote \" that begins a cell here is not closed within 100 lines",
            ),
            (
                "a\n\"b\nc\"\n",
                Tsv,
                csv,
                "line 2: the quote \" that begins a cell here is not closed on that line",
            ),
            ("a\n\"b", Tsv, csv, "line 2: the quote \" that begins a cell here is still open"),
        ] {
            for step in [1, 64] {
                let found = records(text, format, spec, step).unwrap_err();
                assert!(found.starts_with(expected), "{found}");
                assert!(found.contains("--quote none"), "{found}");
            }
        }
        assert_eq!(records(&fewer, Csv, csv, 64).unwrap().len(), 2);
    }

    #[test]
    fn a_row_is_bounded() {
        let long = format!("h\n{}\n", "x".repeat(ROW_BYTES_MAX as usize + 1));
        let found = records(&long, TableFormat::Csv, FileSpec::default(), 4_096).unwrap_err();
        assert_eq!(found, "line 2: the row that begins here is longer than 1048576 bytes");
    }
}
