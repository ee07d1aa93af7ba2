//! Compressed lines of JSON, with a bound on each line, on all text and on each list.

use super::{BundleError, Part};
use crate::regular_file::{self, Links};
use serde::de::{DeserializeOwned, Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::marker::PhantomData;
use std::path::Path;

/// Bytes of one line, at most.
pub const LINE_BYTES_MAX: usize = 8 << 20;
/// Bytes of all lines of a part together, at most.
pub const TEXT_BYTES_MAX: u64 = 32 << 30;
/// Bytes of text for which it does not matter how few compressed ones they came from.
const TEXT_BYTES_FREE: u64 = 64 << 20;
/// Bytes of text from one compressed byte, at most. Lines with ids of their own hardly reach a hundred.
const EXPANSION_MAX: u64 = 1_000;
/// Bytes of a line on average, at most, where the number of lines is known: then lines may be all alike.
const LINE_BYTES_MEAN_MAX: u64 = 64 << 10;
/// Lines of a part, at most: items and users have numbers of 32 bits, and one stands for “none”.
pub const LINES_MAX: usize = u32::MAX as usize - 1;
/// The base-2 logarithm of zstd's window, at most: 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;

/// Lines of text, of which each is bounded while it is read.
struct BoundedLines<R> {
    text: R,
    line: Vec<u8>,
    number: usize,
    /// Bytes of text that may still come.
    left: u64,
    text_max: u64,
}

/// Reads the lines of a compressed part in `dir`: at most as many as `lines_known`, if their number is known.
pub(super) fn read_lines<T: DeserializeOwned>(
    dir: &Path,
    part: Part,
    lines_known: Option<usize>,
) -> Result<Vec<T>, BundleError> {
    let path = dir.join(part.file());
    let open = || {
        let file = regular_file::open(&path, Links::Refused, part.bytes_max())?;
        Ok((file.metadata()?.len(), file))
    };
    let (compressed, file) =
        open().map_err(|source| BundleError::Io { path: path.clone(), source })?;
    let text = decompressed(file);
    let text = text.map_err(|error| BundleError::malformed(part.file(), &error.to_string()))?;
    let limits = (lines_known.unwrap_or(LINES_MAX), text_max(compressed, lines_known));
    parse_lines(text, limits)
        .map_err(|(line, why)| BundleError::malformed(part.file(), &format!("line {line}: {why}")))
}

/// Bytes of text that a part may have. A few compressed bytes must not fill the memory.
fn text_max(compressed: u64, lines_known: Option<usize>) -> u64 {
    let by_lines = lines_known.map_or(0, |lines| LINE_BYTES_MEAN_MAX.saturating_mul(lines as u64));
    let by_bytes = EXPANSION_MAX.saturating_mul(compressed);
    TEXT_BYTES_FREE.saturating_add(by_lines.max(by_bytes)).min(TEXT_BYTES_MAX)
}

fn decompressed(file: File) -> io::Result<impl io::BufRead> {
    let mut text = zstd::Decoder::new(file)?;
    text.window_log_max(WINDOW_LOG_MAX)?;
    Ok(BufReader::new(text))
}

/// The parsed lines, or the number of the line at fault and why.
fn parse_lines<T: DeserializeOwned>(
    text: impl io::BufRead,
    (lines_max, text_max): (usize, u64),
) -> Result<Vec<T>, (usize, String)> {
    let mut lines = BoundedLines { text, line: Vec::new(), number: 0, left: text_max, text_max };
    let mut rows = Vec::new();
    while lines.next().map_err(|error| (lines.number, error.to_string()))? {
        if rows.len() == lines_max {
            return Err((lines.number, format!("there are more than {lines_max} lines")));
        }
        let row = serde_json::from_slice(&lines.line);
        rows.push(row.map_err(|error| (lines.number, error.to_string()))?);
    }
    Ok(rows)
}

// === impl BoundedLines ===

impl<R: io::BufRead> BoundedLines<R> {
    /// Reads the next line, without its end. False after the last one.
    fn next(&mut self) -> io::Result<bool> {
        self.number += 1;
        self.line.clear();
        let most = self.left.min(LINE_BYTES_MAX as u64) + 1;
        let bytes = self.text.by_ref().take(most).read_until(b'\n', &mut self.line)? as u64;
        self.left = self.left.saturating_sub(bytes);
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        } else if bytes == most {
            let why = if most > LINE_BYTES_MAX as u64 {
                format!("it is longer than {LINE_BYTES_MAX} bytes")
            } else {
                format!("all lines together are longer than {} bytes", self.text_max)
            };
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        Ok(bytes > 0)
    }
}

/// Deserialises a list, and refuses it at the first entry after `MOST`.
pub(super) fn at_most<'de, const MOST: usize, T, D>(from: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    from.deserialize_seq(AtMost::<MOST, T>(PhantomData))
}

struct AtMost<const MOST: usize, T>(PhantomData<T>);

impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for AtMost<MOST, T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST} entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(entry) = entries.next_element()? {
            if list.len() == MOST {
                return Err(A::Error::custom(format!("a list has more than {MOST} entries")));
            }
            list.push(entry);
        }
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Endless text without an end of line.
    struct Endless;

    impl io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b'x');
            Ok(buffer.len())
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused_before_it_is_read_whole() {
        let text = io::Cursor::new("1\n2\n").chain(Endless);
        let error = parse_lines::<u32>(BufReader::new(text), (9, TEXT_BYTES_MAX)).unwrap_err();
        assert_eq!(error, (3, format!("it is longer than {LINE_BYTES_MAX} bytes")));
    }

    #[test]
    fn lines_are_counted_while_they_are_read() {
        let text = "1\n2\n3";
        assert_eq!(parse_lines::<u32>(text.as_bytes(), (3, 5)), Ok(vec![1, 2, 3]));
        let error = parse_lines::<u32>(text.as_bytes(), (2, 5)).unwrap_err();
        assert_eq!(error, (3, "there are more than 2 lines".to_owned()));
        let error = parse_lines::<u32>(text.as_bytes(), (3, 4)).unwrap_err();
        assert_eq!(error, (3, "all lines together are longer than 4 bytes".to_owned()));
    }

    #[test]
    fn a_few_compressed_bytes_are_no_huge_text() {
        assert_eq!(text_max(10, None), TEXT_BYTES_FREE + 10_000);
        assert_eq!(text_max(10, Some(5)), TEXT_BYTES_FREE + 5 * LINE_BYTES_MEAN_MAX);
        assert_eq!(text_max(u64::MAX, Some(usize::MAX)), TEXT_BYTES_MAX);
    }

    #[test]
    fn a_list_ends_at_its_bound() {
        #[derive(Debug, Deserialize)]
        struct Row {
            #[serde(deserialize_with = "at_most::<2, _, _>")]
            list: Vec<u32>,
        }
        let row: Row = serde_json::from_str("{\"list\":[1,2]}").unwrap();
        assert_eq!(row.list, [1, 2]);
        let error = serde_json::from_str::<Row>("{\"list\":[1,2,3,\"not read\"").unwrap_err();
        assert!(error.to_string().starts_with("a list has more than 2 entries"), "{error}");
    }
}
