//! Reads lines, of which each ends with LF, CRLF or CR.

use super::ROW_BYTES_MAX;
use super::file_fault::FileFault;
use std::io::{self, BufRead};

/// Reads one line after another, without their ends. Blank lines are passed over.
pub(super) struct LineReader<R> {
    input: R,
    text: Vec<u8>,
    /// The number of the line in `text`, from 1.
    line: u64,
    /// Whether the last line end was a CR: an LF after it belongs to the same line end.
    is_after_cr: bool,
    is_last: bool,
}

// === impl LineReader ===

impl<R: BufRead> LineReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, text: Vec::new(), line: 0, is_after_cr: false, is_last: false }
    }

    /// The line that was read last.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Its number, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Whether the file ends with it, without a line end.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// The first byte that is no blank, before a line is read.
    pub(super) fn first_byte(&mut self) -> Result<Option<u8>, FileFault> {
        loop {
            let bytes = self.filled()?;
            if bytes == 0 {
                return Ok(None);
            }
            let bytes = self.input.fill_buf()?;
            match bytes[0] {
                b' ' | b'\t' => self.input.consume(1),
                b'\n' | b'\r' => {
                    self.next_line()?;
                }
                other => return Ok(Some(other)),
            }
        }
    }

    /// Reads the next line that is not blank. Returns whether there was one.
    pub(super) fn read(&mut self) -> Result<bool, FileFault> {
        while self.next_line()? {
            if !self.text.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn next_line(&mut self) -> Result<bool, FileFault> {
        self.text.clear();
        self.line += 1;
        loop {
            if self.filled()? == 0 {
                self.is_last = !self.text.is_empty();
                return Ok(self.is_last);
            }
            let bytes = self.input.fill_buf()?;
            if std::mem::take(&mut self.is_after_cr) && bytes[0] == b'\n' {
                self.input.consume(1);
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let taken = end.unwrap_or(bytes.len());
            if self.text.len() + taken > ROW_BYTES_MAX as usize {
                return FileFault::stated(format!(
                    "line {} is longer than {ROW_BYTES_MAX} bytes",
                    self.line
                ));
            }
            self.text.extend_from_slice(&bytes[..taken]);
            self.is_after_cr = end.is_some_and(|end| bytes[end] == b'\r');
            self.input.consume(taken + usize::from(end.is_some()));
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    /// The number of bytes at hand: zero at the end of the file.
    fn filled(&mut self) -> io::Result<usize> {
        loop {
            match self.input.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                bytes => return Ok(bytes?.len()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_in_any_way() {
        for (text, expected) in [
            ("", vec![]),
            ("\n\r\n\r \n", vec![]),
            ("a\nb\n", vec!["1:a", "2:b"]),
            ("a\r\nb", vec!["1:a", "2:b!"]),
            ("a\rb\r", vec!["1:a", "2:b"]),
            ("\n\na\r\r\rb\n\nc", vec!["3:a", "6:b", "8:c!"]),
            ("  a\t\r\n\r\nb", vec!["1:a", "3:b!"]),
        ] {
            for step in [1, 2, 64] {
                let input = io::BufReader::with_capacity(step, text.as_bytes());
                let mut lines = LineReader::new(input);
                let first = lines.first_byte().unwrap();
                assert_eq!(first, text.trim().bytes().next(), "{text:?}");
                let mut found = Vec::new();
                while lines.read().unwrap() {
                    let mark = if lines.is_last() { "!" } else { "" };
                    let line = String::from_utf8_lossy(lines.text().trim_ascii()).into_owned();
                    found.push(format!("{}:{line}{mark}", lines.line()));
                }
                assert_eq!(found, expected, "{text:?} by {step}");
            }
        }
    }

    #[test]
    fn a_line_is_bounded() {
        let long = format!("a\n{}\n", "x".repeat(ROW_BYTES_MAX as usize + 1));
        let mut lines = LineReader::new(long.as_bytes());
        assert!(lines.read().unwrap());
        let FileFault::Stated(why) = lines.read().unwrap_err() else { panic!("no sentence") };
        assert_eq!(why, "line 2 is longer than 1048576 bytes");
    }
}
