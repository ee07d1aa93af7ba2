//! Opens one file of a table: its format and compression by its name, with its first bytes in agreement.

use super::byte_meter::ByteMeter;
use super::compression::Compression;
use super::dialect::{FileSpec, TableFormat};
use super::encoding::EncodedText;
use super::fifo::FifoReader;
use super::file_fault::FileFault;
use rustix::fs::OFlags;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufReader, IsTerminal as _, Read};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The path that stands for the standard input.
pub(super) const STANDARD_INPUT: &str = "-";
/// Bytes read ahead.
const BUFFER_BYTES: usize = 64 << 10;
/// Bytes that show what a file holds.
const FIRST_BYTES: u64 = 8;

/// A file of a known format.
pub(super) struct SourceFile {
    pub format: TableFormat,
    pub file: File,
    pub spec: FileSpec,
    compression: Compression,
    /// The bytes that were read to know the file.
    first: Vec<u8>,
    is_fifo: bool,
    /// The file as it was when it was opened; none for a pipe.
    pub stamp: Option<FileStamp>,
}

/// The text of a file, and a meter of the file's bytes that were read for it.
pub(super) struct SourceText {
    pub utf_8: BufReader<Box<dyn Read>>,
    pub encoding: &'static encoding_rs::Encoding,
    pub read: ByteMeter,
}

/// What changes when a file is replaced or written to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FileStamp {
    path: PathBuf,
    device: u64,
    inode: u64,
    pub bytes: u64,
    modified: (i64, i64),
}

/// The format and the compression of a file, by its name and what was stated.
struct FileKind {
    format: TableFormat,
    /// None if the first bytes decide.
    compression: Option<Compression>,
}

// === impl SourceFile ===

impl SourceFile {
    /// Opens the file at `path`, or the standard input for `-`.
    pub(super) fn open(path: &Path, spec: FileSpec) -> Result<Self, FileFault> {
        let FileKind { format, compression } = FileKind::of(path, &spec)?;
        let (mut file, metadata) = open(path)?;
        let kind = metadata.file_type();
        let is_stream = !kind.is_file() || path == Path::new(STANDARD_INPUT);
        if is_stream && format == TableFormat::Parquet {
            return FileFault::stated(
                "Parquet can't be read from a pipe, because its end is read first: write it to a file",
            );
        }
        let is_fifo = kind.is_fifo() && path != Path::new(STANDARD_INPUT);
        let first =
            if is_fifo { first_bytes(FifoReader::new(&file))? } else { first_bytes(&file)? };
        let promised = compression.filter(|_| !is_stream);
        let compression = agreed(format, promised, &first)?;
        if !is_stream {
            io::Seek::rewind(&mut file)?;
        }
        let first = if is_stream { first } else { Vec::new() };
        let stamp = (!is_stream).then(|| FileStamp::new(path, &metadata));
        Ok(Self { format, file, spec, compression, first, is_fifo, stamp })
    }

    /// Its text: decompressed and in UTF-8.
    pub(super) fn text(self) -> Result<SourceText, FileFault> {
        let read = ByteMeter::default();
        let first = io::Cursor::new(self.first);
        let file = if self.is_fifo {
            read.counting(first.chain(FifoReader::begun(self.file)))
        } else {
            read.counting(first.chain(self.file))
        };
        let mut bytes = self.compression.unpack(file, read.clone())?;
        let first = first_bytes(&mut bytes)?;
        if let Some(kind) = binary_kind(&first) {
            return FileFault::stated(format!("holds {kind} inside, not text"));
        }
        let bytes = Box::new(io::Cursor::new(first).chain(bytes));
        let EncodedText { utf_8, encoding } = EncodedText::new(bytes, self.spec.encoding)?;
        Ok(SourceText { utf_8: BufReader::with_capacity(BUFFER_BYTES, utf_8), encoding, read })
    }
}

/// The format of the file at `path`, by its name and what was stated.
pub(super) fn format_of(path: &Path, spec: &FileSpec) -> Result<TableFormat, FileFault> {
    Ok(FileKind::of(path, spec)?.format)
}

/// Opens a regular file or a pipe. Others, such as `/dev/zero`, have no end.
fn open(path: &Path) -> Result<(File, Metadata), FileFault> {
    if path == Path::new(STANDARD_INPUT) {
        let input = io::stdin();
        if input.is_terminal() {
            return FileFault::stated("the standard input is a terminal: pipe a file into it");
        }
        let file = File::from(input.as_fd().try_clone_to_owned()?);
        let metadata = file.metadata()?;
        return Ok((file, metadata));
    }
    // The kind is known before the file is opened, because opening a device can have effects.
    readable(&std::fs::metadata(path)?)?;
    // A pipe that nobody writes to would not open until somebody does.
    let flags = OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    readable(&metadata)?;
    Ok((file, metadata))
}

/// Fails for what is neither a file nor a pipe.
fn readable(metadata: &Metadata) -> Result<(), FileFault> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_fifo() {
        return Ok(());
    }
    let kind = if kind.is_dir() {
        "a folder"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    FileFault::stated(format!("is {kind}: only files and pipes are read"))
}

fn first_bytes(file: impl Read) -> io::Result<Vec<u8>> {
    let mut first = Vec::new();
    file.take(FIRST_BYTES).read_to_end(&mut first)?;
    Ok(first)
}

/// The compression, if the first bytes of a file agree with it and with the format.
fn agreed(
    format: TableFormat,
    promised: Option<Compression>,
    first: &[u8],
) -> Result<Compression, FileFault> {
    let found = Compression::by_content(&first[..first.len().min(4)]);
    let compression = promised.unwrap_or(found);
    if first.is_empty() && (format == TableFormat::Parquet || compression != Compression::Plain) {
        return FileFault::stated("the file is empty");
    }
    if format == TableFormat::Parquet {
        return match first.get(..4) {
            Some(b"PAR1") => Ok(Compression::Plain),
            Some(b"PARE") => {
                FileFault::stated("is encrypted Parquet, which is not read: decrypt it first")
            }
            _ => FileFault::stated("named like a Parquet file, but does not begin like it"),
        };
    }
    if compression != Compression::Plain && found != compression {
        let kind = compression.as_str();
        return FileFault::stated(format!("named like {kind}, but does not begin like it"));
    }
    if found != compression {
        let kind = found.as_str();
        return FileFault::stated(format!("begins like {kind}, but is not named like it"));
    }
    match binary_kind(first).filter(|_| found == Compression::Plain) {
        Some(kind) => FileFault::stated(format!("begins like {kind}, but is not named like it")),
        None => Ok(compression),
    }
}

/// The kind of a file that is no text, by its first bytes.
fn binary_kind(first: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 11] = [
        (b"\x28\xb5\x2f\xfd", "a zstd file"),
        (b"\x1f\x8b", "a gzip file"),
        (b"PAR1", "a Parquet file"),
        (b"PK\x03\x04", "a zip archive or a workbook"),
        (b"\xd0\xcf\x11\xe0", "an old workbook"),
        (b"BZh", "a bzip2 file"),
        (b"\xfd7zXZ", "an xz file"),
        (b"\x04\x22\x4d\x18", "an lz4 file"),
        (b"Obj\x01", "an Avro file"),
        (b"ORC", "an ORC file"),
        (b"SQLite f", "an SQLite database"),
    ];
    kinds.iter().find(|(begin, _)| first.starts_with(begin)).map(|(_, kind)| *kind)
}

impl FileKind {
    fn of(path: &Path, spec: &FileSpec) -> Result<Self, FileFault> {
        let name = path.file_name().unwrap_or(OsStr::new(STANDARD_INPUT));
        let name = name.to_string_lossy().to_ascii_lowercase();
        let (compression, stem) = Compression::of(&name);
        let named = format_by_ending(stem);
        if named == Some(TableFormat::Parquet) && compression != Compression::Plain {
            return FileFault::stated(
                "Parquet is read as it is, not compressed again: decompress the file first",
            );
        }
        if let Some(format) = spec.format {
            let compression = (compression != Compression::Plain).then_some(compression);
            return Ok(Self { format, compression });
        }
        match named {
            Some(format) => Ok(Self { format, compression: Some(compression) }),
            None if path == Path::new(STANDARD_INPUT) => FileFault::stated(
                "the standard input has no name that tells its format: state --format csv, tsv or jsonl",
            ),
            None => FileFault::stated(
                "not a kind of file that can be imported: its name must end in .csv, .tsv, .jsonl, .ndjson, .json \
                 (then perhaps .zst or .gz) or .parquet; for another name, state --format csv, tsv, jsonl or parquet",
            ),
        }
    }
}

fn format_by_ending(name: &str) -> Option<TableFormat> {
    match name.rsplit_once('.')?.1 {
        "csv" => Some(TableFormat::Csv),
        "tsv" => Some(TableFormat::Tsv),
        "jsonl" | "ndjson" | "json" => Some(TableFormat::JsonLines),
        "parquet" => Some(TableFormat::Parquet),
        _ => None,
    }
}

// === impl FileStamp ===

impl FileStamp {
    fn new(path: &Path, metadata: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Fails if the file was replaced or written to since.
    pub(super) fn check(&self) -> Result<(), FileFault> {
        let how = match std::fs::metadata(&self.path) {
            Err(error) => format!("now it can't be found ({error})"),
            Ok(metadata) => {
                let now = Self::new(&self.path, &metadata);
                if now == *self {
                    return Ok(());
                }
                if (now.device, now.inode) != (self.device, self.inode) {
                    "another file took its place".to_owned()
                } else if now.bytes == self.bytes {
                    "it was written to".to_owned()
                } else {
                    format!("it had {} bytes and now has {}", self.bytes, now.bytes)
                }
            }
        };
        FileFault::stated(format!(
            "changed while it was read: {how}. Import it again when nothing writes to it"
        ))
    }
}
