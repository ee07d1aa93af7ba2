//! What does one version of the models consist of?
//!
//! A bundle is an immutable folder of parts with a manifest: training writes it, serving reads
//! it, and nothing else passes between them.

mod cards;
mod catalog;
mod files;
mod manifest;
mod semantic_ids;

pub use cards::{
    Backing, COMPANIONS, CardReason, Cards, HISTORY_LEN, HistoryEvent, ItemCard, ItemStats,
    NO_NEIGHBOUR, NeighbourTable, PARTNERS, REASONS_MAX, UserCard, month,
};
pub use catalog::{Catalog, CatalogItem, CatalogRow, inline_text};
pub use files::{Bundle, GoldenRequest, read_catalog, write_cards, write_catalog, write_golden};
pub use manifest::{FileEntry, MANIFEST, Manifest, Part};
pub use semantic_ids::{PrefixFull, SemanticIds};

use std::path::PathBuf;

/// Why a bundle can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file is not there.
    #[error("the bundle in {} lacks {file}", dir.display())]
    Missing {
        /// The file.
        file: String,
        /// The bundle's folder.
        dir: PathBuf,
    },
    /// A file is not the one that was published.
    #[error("{file} was changed: its BLAKE3 hash is {found}, the manifest says {expected}")]
    Changed {
        /// The file.
        file: String,
        /// The hash in the manifest.
        expected: String,
        /// The hash of the file.
        found: String,
    },
    /// A file does not say what it should.
    #[error("{file} can't be read: {why}")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// The disk said no.
    #[error("can't use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
}

impl BundleError {
    /// `file` does not say what it should.
    pub fn malformed(file: &str, why: &str) -> Self {
        Self::Malformed { file: file.into(), why: why.into() }
    }
}
