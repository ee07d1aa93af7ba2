//! A bundle is whole, or it is refused: its manifest, its files, its golden requests, and the step that
//! publishes it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/bundle.rs"]
#[expect(dead_code, reason = "no test here flips a bit")]
mod copies;
#[path = "bundle/fields.rs"]
mod fields;
#[path = "bundle/places.rs"]
mod places;
#[path = "bundle/special.rs"]
mod special;

use raisonne::bundle::{FileEntry, Manifest, Part, PartLineage};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

/// A folder with every part that a bundle needs, each with its own name as its content. Only manifests are
/// checked against it.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in Part::ALL.iter().filter(|part| !part.is_optional()) {
        fs::write(folder.path().join(part.file()), part.file()).unwrap();
    }
    folder
}

/// The manifest of a folder, with a lineage in which each part was made from the catalogue.
fn manifest(dir: &Path) -> Manifest {
    let manifest = Manifest::of(dir, "small").unwrap();
    let catalog = manifest.hash_of(Part::Catalog).unwrap();
    let record = |entry: &FileEntry| PartLineage {
        part: entry.name.clone(),
        blake3: entry.blake3.clone(),
        stage: "write".into(),
        data: "d".repeat(64),
        recipe: "e".repeat(64),
        inputs: if entry.blake3 == catalog {
            BTreeMap::new()
        } else {
            BTreeMap::from([(Part::Catalog.file().to_owned(), catalog.clone())])
        },
    };
    let made = manifest
        .file
        .iter()
        .filter(|entry| ![Part::Golden, Part::Recipe].iter().any(|part| part.file() == entry.name));
    let lineage = made.map(record).collect();
    manifest.with_lineage(lineage)
}

/// An error with its causes.
fn whole(error: &dyn Error) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
