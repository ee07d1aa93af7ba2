//! Copies of the demo bundle that a test may change.

use std::fs;
use std::path::{Path, PathBuf};

/// A copy of the demo bundle in a new folder of this name.
pub fn copied_bundle(home: &Path, name: &str) -> PathBuf {
    let copy = home.join(name);
    copy_folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo"), &copy);
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// Flips a bit in the middle of a file.
pub fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(file, bytes).unwrap();
}
