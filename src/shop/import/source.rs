//! What kind of file is it, and how is it packed? Its name says, and its first bytes must agree.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use std::rc::Rc;

/// How rows lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Csv,
    Tsv,
    JsonLines,
    Parquet,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Plain,
    Zstd,
    Gzip,
}

/// A file that was recognised.
pub(super) struct Source {
    pub format: Format,
    pub file: File,
    packing: Packing,
}

/// How many bytes of a file have been read.
pub(super) type Meter = Rc<Cell<u64>>;

/// Why a file was not recognised.
pub(super) enum SourceError {
    Io(io::Error),
    Kind(String),
}

/// A file that counts the bytes read from it.
struct Counted {
    file: File,
    read: Meter,
}

// === impl Source ===

impl Source {
    /// Recognises the file at `path` by its name, and checks that it begins as such files do.
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let (packing, stem) = Packing::of(&name);
        let format = Format::of(stem).ok_or_else(|| {
            let kinds = "its name must end in .csv, .tsv, .jsonl, .ndjson (then perhaps .zst or \
                         .gz) or .parquet";
            SourceError::Kind(format!("not a kind of file that can be imported: {kinds}"))
        })?;
        let mut file = File::open(path)?;
        let mut first = Vec::new();
        (&mut file).take(4).read_to_end(&mut first)?;
        file.rewind()?;
        let promised = what(format, packing);
        let found = what_begins_with(&first);
        match (promised, found) {
            (Some(promised), found) if found != Some(promised) => {
                Err(SourceError::Kind(format!("named like {promised}, but does not begin like it")))
            }
            (None, Some(found)) => {
                Err(SourceError::Kind(format!("begins like {found}, but is not named like it")))
            }
            _ => Ok(Self { format, file, packing }),
        }
    }

    /// Its text, and how many bytes of the file have been read for it so far.
    pub(super) fn unpack(self) -> io::Result<(Box<dyn Read>, Meter)> {
        let read = Meter::default();
        let file = Counted { file: self.file, read: read.clone() };
        let text: Box<dyn Read> = match self.packing {
            Packing::Plain => Box::new(file),
            Packing::Zstd => Box::new(zstd::Decoder::new(file)?),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))),
        };
        Ok((text, read))
    }
}

impl From<io::Error> for SourceError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Format {
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

impl Packing {
    /// The packing that a name tells, and the name without it.
    fn of(name: &str) -> (Self, &str) {
        match name.rsplit_once('.') {
            Some((stem, "zst" | "zstd")) => (Self::Zstd, stem),
            Some((stem, "gz" | "gzip")) => (Self::Gzip, stem),
            _ => (Self::Plain, name),
        }
    }
}

/// What a file of this format and packing is called, if its first bytes tell.
fn what(format: Format, packing: Packing) -> Option<&'static str> {
    match (packing, format) {
        (Packing::Zstd, _) => Some("a zstd file"),
        (Packing::Gzip, _) => Some("a gzip file"),
        (Packing::Plain, Format::Parquet) => Some("a Parquet file"),
        (Packing::Plain, _) => None,
    }
}

fn what_begins_with(first: &[u8]) -> Option<&'static str> {
    match first {
        [0x28, 0xb5, 0x2f, 0xfd] => Some("a zstd file"),
        [0x1f, 0x8b, ..] => Some("a gzip file"),
        b"PAR1" => Some("a Parquet file"),
        _ => None,
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read.set(self.read.get() + bytes as u64);
        Ok(bytes)
    }
}
