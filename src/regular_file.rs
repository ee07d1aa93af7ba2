//! How is a file read, when a path may lead to anything?
//!
//! A path may lead to a pipe that nobody writes to, to a device without an end, or to more bytes than
//! memory holds. Opening such a thing must be an error at once, and never a wait.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

/// Bytes of a file of settings in TOML, at most.
pub const SETTINGS_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a JSON document that is read as a whole, such as a tokenizer, at most.
pub const JSON_BYTES_MAX: u64 = 256 << 20;
/// Bytes of a file of weights or compressed lines, at most.
pub const DATA_BYTES_MAX: u64 = 64 << 30;

/// What happens if the last step of a path is a symbolic link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// The file that it leads to is opened.
    Followed,
    /// It is an error: a link may lead out of the folder.
    Refused,
}

/// Opens a regular file of at most `bytes_max` bytes. It never waits, as for the writer of a pipe.
///
/// # Errors
///
/// What the system says, or what the path leads to if that is no regular file, or its length if that is
/// above the limit.
pub fn open(path: &Path, links: Links, bytes_max: u64) -> io::Result<File> {
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if links == Links::Refused {
        flags |= OFlags::NOFOLLOW;
    }
    let opened = rustix::fs::open(path, flags, Mode::empty());
    let file = File::from(opened.map_err(|error| because(path, links, error.into()))?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(not_regular(kind(metadata.file_type())));
    }
    if metadata.len() > bytes_max {
        return Err(too_long(metadata.len(), bytes_max));
    }
    Ok(file)
}

/// Reads a regular file of at most `bytes_max` bytes.
pub fn read(path: &Path, links: Links, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open(path, links, bytes_max)?;
    let mut bytes = Vec::with_capacity(file.metadata()?.len() as usize);
    // It may grow while it is read.
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        return Err(too_long(bytes.len() as u64, bytes_max));
    }
    Ok(bytes)
}

/// Reads a regular file of UTF-8 text, of at most `bytes_max` bytes.
pub fn read_to_string(path: &Path, links: Links, bytes_max: u64) -> io::Result<String> {
    let not_text = |_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text");
    String::from_utf8(read(path, links, bytes_max)?).map_err(not_text)
}

/// Says why a path can't be opened, where the system's own words don't.
fn because(path: &Path, links: Links, error: io::Error) -> io::Error {
    let file_type = path.symlink_metadata().map(|metadata| metadata.file_type());
    match file_type {
        Ok(found) if found.is_symlink() && links == Links::Refused => {
            not_regular("a symbolic link, which may lead out of its folder")
        }
        // Opening a socket fails with “no such device”.
        Ok(found) if found.is_socket() => not_regular(kind(found)),
        _ => error,
    }
}

fn kind(of: std::fs::FileType) -> &'static str {
    match of {
        of if of.is_dir() => "a folder",
        of if of.is_fifo() => "a pipe",
        of if of.is_socket() => "a socket",
        of if of.is_char_device() || of.is_block_device() => "a device",
        _ => "something else",
    }
}

fn not_regular(found: &str) -> io::Error {
    let why = format!("it is {found}, and must be a regular file");
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn too_long(bytes: u64, bytes_max: u64) -> io::Error {
    let why = format!("it has {bytes} bytes, and may have {bytes_max} at most");
    io::Error::new(io::ErrorKind::FileTooLarge, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_within_the_limit_are_read_and_nothing_waits() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        fs::write(at("file"), "12345").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink("/dev/zero", at("zeros")).unwrap();
        symlink(at("nowhere"), at("dangling")).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RUSR).unwrap();

        let link =
            "it is a symbolic link, which may lead out of its folder, and must be a regular file";
        for (name, links, expected) in [
            ("file", Links::Refused, Ok("12345")),
            ("link", Links::Followed, Ok("12345")),
            ("link", Links::Refused, Err(link)),
            ("dangling", Links::Refused, Err(link)),
            ("zeros", Links::Refused, Err(link)),
            ("zeros", Links::Followed, Err("it is a device, and must be a regular file")),
            ("folder", Links::Refused, Err("it is a folder, and must be a regular file")),
            ("pipe", Links::Refused, Err("it is a pipe, and must be a regular file")),
            ("socket", Links::Refused, Err("it is a socket, and must be a regular file")),
        ] {
            let found = read_to_string(&at(name), links, 5).map_err(|error| error.to_string());
            assert_eq!(found.as_deref().map_err(|why| &**why), expected, "{name} {links:?}");
        }
        let long = read(&at("file"), Links::Refused, 4).unwrap_err();
        assert_eq!(long.to_string(), "it has 5 bytes, and may have 4 at most");
        let missing = read(&at("dangling"), Links::Followed, 4).unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
    }
}
