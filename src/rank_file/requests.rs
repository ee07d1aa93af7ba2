//! The lines of a file of requests: bounded, whatever the file holds.

use crate::domain::limits::BODY_BYTES_MAX;
use anyhow::{Context as _, bail};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use tokio::sync::mpsc;

/// The name of stdin.
pub(super) const STDIN: &str = "-";
/// Bytes of the longest line: of the longest body that a call may have.
const LINE_BYTES_MAX: u64 = BODY_BYTES_MAX as u64;
/// Bytes at the start of a file that show its compression.
const MAGIC_BYTES: u64 = 4;
/// The byte order mark of UTF-8, which some programs write first.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// One line.
#[derive(Debug)]
pub(super) struct RequestLine {
    /// Its number, from 1.
    pub number: u64,
    /// Its text; `None` if it is too long.
    pub text: Option<Vec<u8>>,
}

/// A file of requests, line by line.
pub(super) struct RequestLines {
    reader: BufReader<Box<dyn Read + Send>>,
    number: u64,
    /// The file's name, for errors.
    pub name: String,
    /// Bytes of the file; 0 where they are not known.
    pub bytes: u64,
    /// Bytes of the file that were read.
    pub read: Arc<AtomicU64>,
}

/// Counts the bytes that are read.
struct MeteredReader<R> {
    reader: R,
    read: Arc<AtomicU64>,
}

// === impl RequestLines ===

impl RequestLines {
    /// Opens a file, or stdin if its name is `-`. Its first bytes show whether it is compressed.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let is_stdin = path == Path::new(STDIN);
        let name = if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
        let opening = || format!("opening the requests {name}");
        let (reader, bytes): (Box<dyn Read + Send>, u64) = if is_stdin {
            (Box::new(io::stdin()), 0)
        } else {
            let file = File::open(path).with_context(opening)?;
            let about = file.metadata().with_context(opening)?;
            if about.is_dir() {
                bail!("{name} is a folder: name a file of requests in it");
            }
            (Box::new(file), about.len())
        };
        let read = Arc::new(AtomicU64::new(0));
        let reader = MeteredReader { reader, read: read.clone() };
        let reader = BufReader::new(unpacked(reader, &name)?);
        Ok(Self { reader, number: 0, name, bytes, read })
    }

    /// The next line that is not blank. The rest of a line that is too long is skipped.
    fn next(&mut self) -> io::Result<Option<RequestLine>> {
        loop {
            let mut text = Vec::new();
            let bytes = (&mut self.reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
            if bytes == 0 {
                return Ok(None);
            }
            self.number += 1;
            let number = self.number;
            if bytes as u64 == LINE_BYTES_MAX && !text.ends_with(b"\n") {
                self.skip_line()?;
                return Ok(Some(RequestLine { number, text: None }));
            }
            if number == 1 && text.starts_with(BOM) {
                text.drain(..BOM.len());
            }
            if !text.trim_ascii().is_empty() {
                return Ok(Some(RequestLine { number, text: Some(text) }));
            }
        }
    }

    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let held = self.reader.fill_buf()?;
            let end = held.iter().position(|&byte| byte == b'\n');
            let (bytes, ends) = (end.map_or(held.len(), |at| at + 1), end.is_some());
            let at_end = held.is_empty();
            self.reader.consume(bytes);
            if ends || at_end {
                return Ok(());
            }
        }
    }

    /// Reads on a thread of its own, at most `ahead` lines before they are taken. The thread ends with the file, or when
    /// nobody takes lines any more.
    pub(super) fn read_ahead(
        mut self,
        ahead: usize,
    ) -> anyhow::Result<mpsc::Receiver<anyhow::Result<RequestLine>>> {
        let (sender, lines) = mpsc::channel(ahead);
        let read = move || {
            loop {
                let line = match self.next() {
                    Ok(Some(line)) => Ok(line),
                    Ok(None) => return,
                    Err(error) => {
                        let at = format!("reading {} after line {}", self.name, self.number);
                        Err(anyhow::Error::new(error).context(at))
                    }
                };
                let failed = line.is_err();
                if sender.blocking_send(line).is_err() || failed {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("requests".into());
        thread.spawn(read).context("starting the thread that reads the requests")?;
        Ok(lines)
    }
}

/// Why a line that is too long is refused.
pub(super) fn too_long() -> String {
    format!("the line is longer than {LINE_BYTES_MAX} bytes")
}

/// The decompressed bytes.
fn unpacked(
    mut reader: impl Read + Send + 'static,
    name: &str,
) -> anyhow::Result<Box<dyn Read + Send>> {
    let opening = || format!("opening the requests {name}");
    let mut first = Vec::new();
    (&mut reader).take(MAGIC_BYTES).read_to_end(&mut first).with_context(opening)?;
    let all = io::Cursor::new(first.clone()).chain(reader);
    Ok(match &first[..] {
        // A frame, or a skippable one, with which some programs begin.
        [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => {
            Box::new(zstd::Decoder::new(all).with_context(opening)?)
        }
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(all))),
        b"PAR1" => bail!("{name} is a Parquet file; requests are JSON Lines"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            bail!("{name} is UTF-16; requests are JSON Lines in UTF-8")
        }
        _ => Box::new(all),
    })
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

    fn lines(bytes: &[u8]) -> anyhow::Result<Vec<(u64, Option<String>)>> {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(bytes)?;
        let mut lines = RequestLines::open(file.path())?;
        let mut found = Vec::new();
        while let Some(RequestLine { number, text }) = lines.next()? {
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
        let some = |text: &str| Some(text.to_owned());
        for bytes in [text.to_vec(), zstd.clone(), skippable, packed(text), members, marked] {
            let expected = [(1, some("a")), (4, some("b")), (5, some("c"))];
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
        let long = vec![b'x'; 3 * LINE_BYTES_MAX as usize + 5];
        let text = [b"a\n", &long[..], b"\nb\n", &long[..]].concat();
        let some = |text: &str| Some(text.to_owned());
        let expected = [(1, some("a")), (2, None), (3, some("b")), (4, None)];
        assert_eq!(lines(&text).unwrap(), expected);
    }
}
