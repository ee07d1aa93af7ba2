//! What a bundle says that it holds: every file with its hash.

use super::BundleError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::Path;

/// The manifest's own file.
pub const MANIFEST: &str = "manifest.toml";
/// Files that a bundle may name.
const FILES_MAX: usize = 256;
/// Steps of a file's name: a folder, and a file in it.
const NESTED_MAX: usize = 2;

/// The kinds of thing that a bundle holds, and their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The items.
    Catalog,
    /// Words to tokens.
    Tokenizer,
    /// Tokens to vectors.
    Text,
    /// Vectors to codes.
    Quantizer,
    /// Items to codes.
    SemanticIds,
    /// The scorer's weights.
    Scorer,
    /// The scorer's shape, and how its score is fused with the order given.
    ScorerShape,
    /// The Rechead's weights.
    Rechead,
    /// The Rechead's shape, and what its score counts.
    RecheadShape,
    /// What we know about items, in words.
    ItemCards,
    /// What we know about users, in words.
    UserCards,
    /// The vectors of the cards' texts.
    CardVectors,
    /// Requests with the scores that they must get.
    Golden,
    /// Ready-made requests, to try it with.
    Samples,
    /// The recipe that made it.
    Recipe,
    /// What was measured while it was made.
    Report,
    /// The language model that has learned the shop's items: on the bench alone, no bundle ships it.
    Midtrained,
    /// What a teacher said of slates: on the bench alone.
    Traces,
    /// The language model that has learned to compare candidates: on the bench alone.
    Compared,
    /// The language model: a Hugging Face folder with its tokenizer.
    Decoder,
    /// How what the language model says is fused with what the scorer says.
    Reranker,
}

/// What a bundle says that it holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The bundle's version: a name, and the beginning of the hash of everything in it.
    pub version: String,
    /// The vectors that can be compared with this bundle's: a hash of the encoder and the scorer.
    pub space: String,
    /// Its files, by name.
    pub file: Vec<FileEntry>,
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name within the folder.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3 hash, in hexadecimal.
    pub blake3: String,
}

// === impl Part ===

impl Part {
    /// All parts of a bundle.
    pub const ALL: [Self; 18] = [
        Self::Catalog,
        Self::Tokenizer,
        Self::Text,
        Self::Quantizer,
        Self::SemanticIds,
        Self::Scorer,
        Self::ScorerShape,
        Self::Rechead,
        Self::RecheadShape,
        Self::ItemCards,
        Self::UserCards,
        Self::CardVectors,
        Self::Golden,
        Self::Samples,
        Self::Recipe,
        Self::Report,
        Self::Decoder,
        Self::Reranker,
    ];

    /// Its file, or its folder.
    pub fn file(self) -> &'static str {
        match self {
            Self::Catalog => "catalog.jsonl.zst",
            Self::Tokenizer => "tokenizer.json",
            Self::Text => "text.safetensors",
            Self::Quantizer => "quantizer.safetensors",
            Self::SemanticIds => "semantic_ids.safetensors",
            Self::Scorer => "scorer.safetensors",
            Self::ScorerShape => "scorer.toml",
            Self::Rechead => "rechead.safetensors",
            Self::RecheadShape => "rechead.toml",
            Self::ItemCards => "item_cards.jsonl.zst",
            Self::UserCards => "user_cards.jsonl.zst",
            Self::CardVectors => "cards.safetensors",
            Self::Golden => "golden.json",
            Self::Samples => "samples.json",
            Self::Recipe => "recipe.toml",
            Self::Report => "report.json",
            Self::Midtrained => "midtrained",
            Self::Traces => "traces.jsonl",
            Self::Compared => "compared",
            Self::Decoder => "decoder",
            Self::Reranker => "reranker.toml",
        }
    }

    /// Whether a bundle may do without it: one without a language model is scored and no more.
    pub fn is_optional(self) -> bool {
        matches!(
            self,
            Self::Quantizer
                | Self::SemanticIds
                | Self::Rechead
                | Self::RecheadShape
                | Self::Decoder
                | Self::Reranker
        )
    }

    /// The names of its files within the bundle in `dir`: its own, or those of its folder.
    pub fn files(self, dir: &Path) -> Result<Vec<String>, BundleError> {
        let (name, path) = (self.file(), dir.join(self.file()));
        if !path.is_dir() {
            return Ok(vec![name.to_owned()]);
        }
        let list = || -> std::io::Result<Vec<String>> {
            let entries = fs::read_dir(&path)?;
            let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
            names.map(|file| file.map(|file| format!("{name}/{file}"))).collect()
        };
        let mut files = list().map_err(|source| BundleError::Io { path: path.clone(), source })?;
        files.sort();
        Ok(files)
    }
}

// === impl Manifest ===

impl Manifest {
    /// Hashes the parts that lie in `dir`, whose version will begin with `name`.
    pub fn of(dir: &Path, name: &str) -> Result<Self, BundleError> {
        let mut whole = blake3::Hasher::new();
        let mut space = blake3::Hasher::new();
        let mut file = Vec::new();
        for part in Part::ALL {
            if part.is_optional() && !dir.join(part.file()).exists() {
                continue;
            }
            for name in part.files(dir)? {
                let (hash, bytes) = hash(dir, &name)?;
                // The report holds times, which differ from run to run: it has a hash like any
                // file, but it is no part of what the models are.
                if part != Part::Report {
                    whole.update(hash.as_bytes());
                }
                if matches!(part, Part::Tokenizer | Part::Text | Part::Scorer | Part::Rechead) {
                    space.update(hash.as_bytes());
                }
                file.push(FileEntry { name, bytes, blake3: hash.to_hex().to_string() });
            }
        }
        let short = |hasher: blake3::Hasher| hasher.finalize().to_hex()[..12].to_owned();
        Ok(Self { version: format!("{name}-{}", short(whole)), space: short(space), file })
    }

    /// Reads the manifest of the bundle in `dir`.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let text = fs::read(dir.join(MANIFEST)).map_err(|source| no_file(dir, MANIFEST, source))?;
        let text = String::from_utf8(text)
            .map_err(|_| BundleError::malformed(MANIFEST, "it is not UTF-8"))?;
        let manifest: Self = toml::from_str(&text)
            .map_err(|error| BundleError::malformed(MANIFEST, error.message()))?;
        if manifest.file.len() > FILES_MAX {
            return Err(BundleError::malformed(
                MANIFEST,
                &format!("it names more than {FILES_MAX} files"),
            ));
        }
        Ok(manifest)
    }

    /// Writes it into `dir`: the last file of a bundle to be written.
    pub fn write(&self, dir: &Path) -> Result<(), BundleError> {
        let text = toml::to_string(self).expect("a manifest is made of strings and numbers");
        let path = dir.join(MANIFEST);
        fs::write(&path, text).map_err(|source| BundleError::Io { path, source })
    }

    /// Checks that every part is named and that every file is what the manifest says. A part that
    /// may be absent is named if it is there, so that nothing is read that was not checked.
    pub fn verify(&self, dir: &Path) -> Result<(), BundleError> {
        for part in Part::ALL {
            if part.is_optional() && !dir.join(part.file()).exists() {
                continue;
            }
            for file in part.files(dir)? {
                if !self.file.iter().any(|entry| entry.name == file) {
                    return Err(BundleError::malformed(MANIFEST, &format!("it lacks {file}")));
                }
            }
        }
        for entry in &self.file {
            let found = hash(dir, &entry.name)?.0.to_hex().to_string();
            if found != entry.blake3 {
                let (file, expected) = (entry.name.clone(), entry.blake3.clone());
                return Err(BundleError::Changed { file, expected, found });
            }
        }
        Ok(())
    }
}

/// The hash of a file of the bundle, and its length. Its name may lead into a folder of the
/// bundle's, and not out of the bundle.
fn hash(dir: &Path, name: &str) -> Result<(blake3::Hash, u64), BundleError> {
    let sound = |step: &str| !step.is_empty() && !step.starts_with('.') && !step.contains('\\');
    if !name.split('/').all(sound) || name.split('/').count() > NESTED_MAX {
        return Err(BundleError::malformed(MANIFEST, &format!("{name:?} is no file name")));
    }
    let path = dir.join(name);
    let mut hasher = blake3::Hasher::new();
    let read = File::open(&path).and_then(|file| hasher.update_reader(file).map(|_| ()));
    read.map_err(|source| no_file(dir, name, source))?;
    Ok((hasher.finalize(), hasher.count()))
}

fn no_file(dir: &Path, name: &str, source: std::io::Error) -> BundleError {
    match source.kind() {
        std::io::ErrorKind::NotFound => BundleError::Missing { file: name.into(), dir: dir.into() },
        _ => BundleError::Io { path: dir.join(name), source },
    }
}
