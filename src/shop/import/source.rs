//! The format and the compression of a file, by its name. Its first bytes must agree.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use std::rc::Rc;

/// The format of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileFormat {
    Csv,
    Tsv,
    JsonLines,
    Parquet,
}

/// The compression of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    Plain,
    Zstd,
    Gzip,
}

/// A file of a known format.
pub(super) struct SourceFile {
    pub format: FileFormat,
    pub file: File,
    compression: Compression,
}

/// The number of bytes that were read of a file.
pub(super) type ByteMeter = Rc<Cell<u64>>;

/// Why a file can't be opened.
pub(super) enum SourceFileError {
    Io(io::Error),
    Kind(String),
}

/// A file that counts the bytes read from it.
struct CountingReader {
    file: File,
    read: ByteMeter,
}

// === impl SourceFile ===

impl SourceFile {
    /// Opens the file at `path`. Its name gives the format, and its first bytes must agree.
    pub(super) fn open(path: &Path) -> Result<Self, SourceFileError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let (compression, stem) = Compression::of(&name);
        let format = FileFormat::of(stem).ok_or_else(|| {
            let endings = "its name must end in .csv, .tsv, .jsonl, .ndjson (then perhaps .zst or \
                         .gz) or .parquet";
            SourceFileError::Kind(format!("not a kind of file that can be imported: {endings}"))
        })?;
        let mut file = File::open(path)?;
        let mut first = Vec::new();
        (&mut file).take(4).read_to_end(&mut first)?;
        file.rewind()?;
        let promised = kind_by_name(format, compression);
        let found = kind_by_content(&first);
        match (promised, found) {
            (Some(promised), found) if found != Some(promised) => Err(SourceFileError::Kind(
                format!("named like {promised}, but does not begin like it"),
            )),
            (None, Some(found)) => {
                Err(SourceFileError::Kind(format!("begins like {found}, but is not named like it")))
            }
            _ => Ok(Self { format, file, compression }),
        }
    }

    /// Its decompressed bytes, and a meter of the file's bytes that were read for them.
    pub(super) fn unpack(self) -> io::Result<(Box<dyn Read>, ByteMeter)> {
        let read = ByteMeter::default();
        let file = CountingReader { file: self.file, read: read.clone() };
        let text: Box<dyn Read> = match self.compression {
            Compression::Plain => Box::new(file),
            Compression::Zstd => Box::new(zstd::Decoder::new(file)?),
            Compression::Gzip => {
                Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file)))
            }
        };
        Ok((text, read))
    }
}

impl From<io::Error> for SourceFileError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl FileFormat {
    fn of(name: &str) -> Option<Self> {
        match name.rsplit_once('.')?.1 {
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }
}

impl Compression {
    /// The compression by a file's name, and the name without its ending.
    fn of(name: &str) -> (Self, &str) {
        match name.rsplit_once('.') {
            Some((stem, "zst" | "zstd")) => (Self::Zstd, stem),
            Some((stem, "gz" | "gzip")) => (Self::Gzip, stem),
            _ => (Self::Plain, name),
        }
    }
}

/// The kind of file that a name promises, if its first bytes can show it.
fn kind_by_name(format: FileFormat, compression: Compression) -> Option<&'static str> {
    match (compression, format) {
        (Compression::Zstd, _) => Some("a zstd file"),
        (Compression::Gzip, _) => Some("a gzip file"),
        (Compression::Plain, FileFormat::Parquet) => Some("a Parquet file"),
        (Compression::Plain, _) => None,
    }
}

fn kind_by_content(first: &[u8]) -> Option<&'static str> {
    match first {
        [0x28, 0xb5, 0x2f, 0xfd] => Some("a zstd file"),
        [0x1f, 0x8b, ..] => Some("a gzip file"),
        b"PAR1" => Some("a Parquet file"),
        _ => None,
    }
}

impl Read for CountingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.set(self.read.get() + bytes as u64);
        Ok(bytes)
    }
}
