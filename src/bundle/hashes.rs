//! Hashes of a bundle's files.

use super::{BundleError, Part};
use crate::regular_file::{self, Links};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

/// What a hash looks like, for errors.
pub(super) const HASH_FORM: &str = "64 hexadecimal digits in lower case";

/// Whether this is a BLAKE3 hash in the form in which this program writes it.
pub(super) fn is_hash(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_digit)
}

/// The hash of a file of a part in `dir`, and its length.
pub(super) fn hash(dir: &Path, name: &str, part: Part) -> Result<(blake3::Hash, u64), BundleError> {
    let file = open(dir, name, part.bytes_max())?;
    hash_opened(dir, name, file, part.bytes_max())
}

/// Opens a file of a bundle.
pub(super) fn open(dir: &Path, name: &str, bytes_max: u64) -> Result<File, BundleError> {
    regular_file::open(&dir.join(name), Links::Refused, bytes_max)
        .map_err(|source| no_file(dir, name, source))
}

/// Hashes an open file, which may grow meanwhile: one byte more than it may have is read at most.
pub(super) fn hash_opened(
    dir: &Path,
    name: &str,
    file: File,
    bytes_max: u64,
) -> Result<(blake3::Hash, u64), BundleError> {
    let mut hasher = blake3::Hasher::new();
    let read = hasher.update_reader(file.take(bytes_max.saturating_add(1)));
    read.map_err(|source| no_file(dir, name, source))?;
    Ok((hasher.finalize(), hasher.count()))
}

/// `name` in `dir` can't be read, or is not there.
pub(super) fn no_file(dir: &Path, name: &str, source: std::io::Error) -> BundleError {
    match source.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
            BundleError::Missing { file: name.into(), dir: dir.into() }
        }
        _ => BundleError::Io { path: dir.join(name), source },
    }
}
