//! The lines of a file that may be compressed: each bounded, whatever the file holds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes at the start of a file that show its compression.
const MAGIC_BYTES: u64 = 4;
/// The byte order mark of UTF-8, which some programs write first.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedLine {
    /// Its number, from 1.
    pub number: u64,
    /// Its text; `None` if it is too long.
    pub text: Option<Vec<u8>>,
}

/// A file, line by line.
pub struct PackedLines {
    reader: BufReader<Box<dyn Read + Send>>,
    bytes_max: u64,
    /// The number of the last line.
    pub number: u64,
    /// Bytes of the file that were read.
    pub read: Arc<AtomicU64>,
}

/// Counts the bytes that are read.
struct MeteredReader<R> {
    reader: R,
    read: Arc<AtomicU64>,
}

// === impl PackedLines ===

impl PackedLines {
    /// Opens the file at `path`, with lines of at most `bytes_max` bytes.
    pub fn open(path: &Path, bytes_max: u64) -> io::Result<Self> {
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a folder"));
        }
        Self::of(file, bytes_max)
    }

    /// The lines of what a reader reads. Its first bytes show whether it is compressed with zstd or gzip.
    ///
    /// # Errors
    ///
    /// The reader's, and that it is Parquet or UTF-16.
    pub fn of(reader: impl Read + Send + 'static, bytes_max: u64) -> io::Result<Self> {
        let read = Arc::new(AtomicU64::new(0));
        let reader = BufReader::new(unpacked(MeteredReader { reader, read: read.clone() })?);
        Ok(Self { reader, bytes_max, number: 0, read })
    }

    /// The next line that is not blank. The rest of a line that is too long is skipped.
    pub fn next_line(&mut self) -> io::Result<Option<PackedLine>> {
        loop {
            let mut text = Vec::new();
            let bytes = (&mut self.reader).take(self.bytes_max).read_until(b'\n', &mut text)?;
            if bytes == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if bytes as u64 == self.bytes_max && !text.ends_with(b"\n") {
                self.skip_line()?;
                return Ok(Some(PackedLine { number, text: None }));
            }
            if number == 1 && text.starts_with(BOM) {
                text.drain(..BOM.len());
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some(PackedLine { number, text: Some(text) }));
            }
        }
    }

    /// Why a line that is too long is refused.
    pub fn too_long(&self) -> String {
        format!("the line is longer than {} bytes", self.bytes_max)
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let held = self.reader.fill_buf()?;
            let end = held.iter().position(|&byte| byte == b'\n');
            let is_done = held.is_empty() || end.is_some();
            let bytes = end.map_or(held.len(), |at| at + 1);
            self.reader.consume(bytes);
            if is_done {
                return Ok(());
            }
        }
    }
}

impl std::fmt::Debug for PackedLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackedLines").field("number", &self.number).finish_non_exhaustive()
    }
}

/// The decompressed bytes.
fn unpacked(mut reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut first = Vec::new();
    (&mut reader).take(MAGIC_BYTES).read_to_end(&mut first)?;
    let all = io::Cursor::new(first.clone()).chain(reader);
    let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    match &first[..] {
        // A frame, or a skippable one, with which some programs begin.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Ok(Box::new(zstd::Decoder::new(all)?))
        }
        [0x1f, 0x8b, ..] => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(all)))),
        b"PAR1" => wrong("it is a Parquet file, and must be lines of text"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => wrong("it is UTF-16, and must be UTF-8"),
        _ => Ok(Box::new(all)),
    }
}

impl<R: Read> Read for MeteredReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.reader.read(buffer)?;
        self.read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const BYTES_MAX: u64 = 1_000;

    fn lines(bytes: &[u8]) -> io::Result<Vec<(u64, Option<String>)>> {
        let mut lines = PackedLines::of(io::Cursor::new(bytes.to_vec()), BYTES_MAX)?;
        let mut found = Vec::new();
        while let Some(PackedLine { number, text }) = lines.next_line()? {
            let text = text.map(|text| String::from_utf8(text).unwrap().trim_end().to_owned());
            found.push((number, text));
        }
        assert_eq!(lines.read.load(Ordering::Relaxed), bytes.len() as u64);
        Ok(found)
    }

    #[test]
    fn lines_are_the_same_whatever_packs_them() {
        let text = b"a\n\n  \r\nb\r\nc";
        let packed = |text: &[u8]| {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(text).unwrap();
            gzip.finish().unwrap()
        };
        let zstd = zstd::encode_all(&text[..], 1).unwrap();
        let skippable = [&b"\x50\x2a\x4d\x18\x04\0\0\0skip"[..], &zstd].concat();
        let members = [packed(&text[..4]), packed(&text[4..])].concat();
        let marked = [BOM, text].concat();
        for bytes in [text.to_vec(), zstd.clone(), skippable, packed(text), members, marked] {
            let expected = [(1, "a"), (4, "b"), (5, "c")];
            let expected = expected.map(|(number, text)| (number, Some(text.to_owned())));
            assert_eq!(lines(&bytes).unwrap(), expected);
        }
        assert_eq!(lines(b"").unwrap(), []);
        for cut in [&zstd[..zstd.len() - 3], &packed(text)[..20]] {
            assert!(lines(cut).is_err(), "a cut file is an error");
        }
        for (wrong, why) in [(&b"PAR1"[..], "Parquet"), (b"\xff\xfea\0", "UTF-16")] {
            assert!(lines(wrong).unwrap_err().to_string().contains(why));
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_and_not_held() {
        let long = vec![b'x'; 30 * BYTES_MAX as usize + 5];
        let text = [b"a\n", &long[..], b"\nb\n", &long[..]].concat();
        let expected = [(1, Some("a")), (2, None), (3, Some("b")), (4, None)];
        let expected = expected.map(|(number, text)| (number, text.map(ToOwned::to_owned)));
        assert_eq!(lines(&text).unwrap(), expected);
    }
}
