//! What does one version of the models consist of?
//!
//! A bundle is an immutable folder of parts with a manifest. Training writes it, serving reads it,
//! and nothing else passes between them.

mod cards;
mod catalog;
mod draft;
mod files;
mod golden;
mod hashes;
mod lineage;
mod lines;
mod manifest;
mod part;
mod prices;
mod semantic_ids;

pub use cards::{
    Backing, COMPANIONS, CardReason, Cards, EARLIER_EVENTS_MAX, HISTORY_LEN, HistoryEvent,
    ItemCard, ItemStats, NO_NEIGHBOUR, NeighbourTable, PARTNERS, REASONS_MAX, UserCard, month,
};
pub use catalog::{Catalog, CatalogItem, CatalogRow, inline_text};
pub use draft::{Draft, FileOperation, LEFTOVER_PREFIX, Observer};
pub use files::{Bundle, golden_text, read_catalog, write_cards, write_catalog};
pub use golden::{GoldenRequest, check_language_model};
pub use lineage::{PartLineage, hash_of_part};
pub use lines::{LINE_BYTES_MAX, LINES_MAX, TEXT_BYTES_MAX};
pub use manifest::{FileEntry, Manifest, SPACE_PARTS};
pub use part::Part;
pub use prices::CategoryPrices;
pub use semantic_ids::{PrefixFull, SemanticIds};

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// The manifest's own file.
pub const MANIFEST: &str = "manifest.toml";

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is missing.
    #[error("{}", lacking(dir, file))]
    Missing {
        /// The file.
        file: String,
        /// The bundle's folder.
        dir: PathBuf,
    },
    /// A file is not the one that was published: its hash differs.
    #[error("{file} was changed: its BLAKE3 hash is {found}, the manifest says {expected}")]
    Changed {
        /// The file.
        file: String,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the file.
        found: String,
    },
    /// A file can't be parsed.
    #[error("{file} can't be read: {why}")]
    Malformed {
        /// The file.
        file: String,
        /// The parser's message.
        why: String,
    },
    /// A field of a file has a value that it must not have.
    #[error("{file}: `{field}` is {found}, expected {expected}")]
    Field {
        /// The file, with the line where it has lines: `item_cards.jsonl.zst:3`.
        file: String,
        /// The field, tensor or metadata key.
        field: String,
        /// Its value.
        found: String,
        /// The value that it must have.
        expected: String,
    },
    /// The folder to publish to is there, and holds something else.
    #[error("{} exists and is not a bundle: it is not replaced; name another folder", .0.display())]
    NotABundle(PathBuf),
    /// The system can't read or write a file.
    #[error("can't read or write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

/// A bundle that lacks a file, or what there is instead of a bundle.
fn lacking(dir: &Path, file: &str) -> String {
    let path = dir.display();
    if file != MANIFEST {
        return format!("the bundle in {path} lacks {file}");
    }
    let why = match dir.metadata() {
        Err(_) => "there is no such folder".to_owned(),
        Ok(found) if !found.is_dir() => format!("it is a file, not a folder with a {MANIFEST}"),
        Ok(_) if dir.join("shop.json").exists() => {
            format!(
                "it has no {MANIFEST}; it is a shop, of which `raisonne bundle make` makes a bundle"
            )
        }
        Ok(_) => format!("it has no {MANIFEST}"),
    };
    format!("{path} is not a bundle: {why}")
}

impl BundleError {
    /// `file` can't be parsed.
    pub fn malformed(file: &str, why: &str) -> Self {
        Self::Malformed { file: file.into(), why: why.into() }
    }

    /// `field` of the manifest is `found`, and must be `expected`.
    fn of_manifest(field: &str, found: impl Display, expected: impl Display) -> Self {
        Self::field(MANIFEST, field, found, expected)
    }

    /// `field` of `file` is `found`, and must be `expected`.
    pub fn field(file: &str, field: &str, found: impl Display, expected: impl Display) -> Self {
        let (found, expected) = (found.to_string(), expected.to_string());
        Self::Field { file: file.into(), field: field.into(), found, expected }
    }
}
