//! The parts of a bundle: files and folders that a stage writes.

use super::BundleError;
use crate::regular_file::{DATA_BYTES_MAX, JSON_BYTES_MAX, SETTINGS_BYTES_MAX};
use std::fs;
use std::io;
use std::path::Path;

/// Files of a part that is a folder, at most.
pub(super) const FOLDER_FILES_MAX: usize = 200;
/// Bytes of a file of a language model, at most. It is mapped, and not read as a whole.
const DECODER_BYTES_MAX: u64 = 1 << 40;

/// A file or folder of a bundle that a stage writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The catalogue's items.
    Catalog,
    /// The text encoder's tokenizer.
    Tokenizer,
    /// The text encoder's weights.
    Text,
    /// The files of a BERT that encodes texts: a folder.
    TextBert,
    /// The items' wide vectors, of an encoder that was not trained by the shop.
    ItemVectors,
    /// The residual quantiser: text vectors to codes.
    Quantizer,
    /// The items' semantic ids.
    SemanticIds,
    /// The scorer's weights.
    Scorer,
    /// The scorer's shape, and the weights that fuse its score with the order given.
    ScorerShape,
    /// The weights of the scorer's direct path.
    Direct,
    /// The weights of the scorer's query path.
    Query,
    /// The query path's shape, and the weight of its logit.
    QueryShape,
    /// The Rechead's weights.
    Rechead,
    /// The Rechead's shape, and the weight of its score.
    RecheadShape,
    /// The items' cards: figures and reasons.
    ItemCards,
    /// The users' cards: patterns and histories.
    UserCards,
    /// The vectors of the cards' texts, and the items' neighbours.
    CardVectors,
    /// The counts of the shop's events as of the cards' moment, which a server goes on counting.
    Statistics,
    /// Golden requests: requests with the scores that they must get.
    Golden,
    /// Ready-made requests, to try the bundle with.
    Samples,
    /// The recipe that the bundle was made from.
    Recipe,
    /// The evaluation's figures.
    Report,
    /// The shop that the bundle was made from, with its test time: a folder, kept only if the recipe says so.
    Test,
    /// The language model after `midtrain`. It stays in the workspace: no bundle holds it.
    Midtrained,
    /// A teacher's thoughts about slates. They stay in the workspace.
    Traces,
    /// The language model after `sft`. It stays in the workspace.
    Compared,
    /// The language model: a Hugging Face folder with its tokenizer.
    Decoder,
    /// The weights that fuse the language model's scores with the scorer's.
    Reranker,
}

// === impl Part ===

impl Part {
    /// All parts of a bundle.
    pub const ALL: [Self; 25] = [
        Self::Catalog,
        Self::Tokenizer,
        Self::Text,
        Self::TextBert,
        Self::ItemVectors,
        Self::Quantizer,
        Self::SemanticIds,
        Self::Scorer,
        Self::ScorerShape,
        Self::Direct,
        Self::Query,
        Self::QueryShape,
        Self::Rechead,
        Self::RecheadShape,
        Self::ItemCards,
        Self::UserCards,
        Self::CardVectors,
        Self::Statistics,
        Self::Golden,
        Self::Samples,
        Self::Recipe,
        Self::Report,
        Self::Test,
        Self::Decoder,
        Self::Reranker,
    ];

    /// Its file, or its folder.
    pub fn file(self) -> &'static str {
        match self {
            Self::Catalog => "catalog.jsonl.zst",
            Self::Tokenizer => "tokenizer.json",
            Self::Text => "text.safetensors",
            Self::TextBert => "bert",
            Self::ItemVectors => "item_vectors.safetensors",
            Self::Quantizer => "quantizer.safetensors",
            Self::SemanticIds => "semantic_ids.safetensors",
            Self::Scorer => "scorer.safetensors",
            Self::ScorerShape => "scorer.toml",
            Self::Direct => "direct.safetensors",
            Self::Query => "query.safetensors",
            Self::QueryShape => "query.toml",
            Self::Rechead => "rechead.safetensors",
            Self::RecheadShape => "rechead.toml",
            Self::ItemCards => "item_cards.jsonl.zst",
            Self::UserCards => "user_cards.jsonl.zst",
            Self::CardVectors => "cards.safetensors",
            Self::Statistics => "statistics.bin",
            Self::Golden => "golden.json",
            Self::Samples => "samples.json",
            Self::Recipe => "recipe.toml",
            Self::Report => "report.json",
            Self::Test => "shop",
            Self::Midtrained => "midtrained",
            Self::Traces => "traces.jsonl",
            Self::Compared => "compared",
            Self::Decoder => "decoder",
            Self::Reranker => "reranker.toml",
        }
    }

    /// Whether a bundle may lack it. A bundle without a language model has the scored rung only.
    pub fn is_optional(self) -> bool {
        matches!(
            self,
            Self::TextBert
                | Self::ItemVectors
                | Self::Quantizer
                | Self::SemanticIds
                | Self::Direct
                | Self::Query
                | Self::QueryShape
                | Self::Rechead
                | Self::RecheadShape
                | Self::Statistics
                | Self::Test
                | Self::Decoder
                | Self::Reranker
        )
    }

    /// Bytes of its file, or of a file of its folder, at most.
    pub fn bytes_max(self) -> u64 {
        match self {
            Self::ScorerShape
            | Self::QueryShape
            | Self::RecheadShape
            | Self::Recipe
            | Self::Reranker => SETTINGS_BYTES_MAX,
            Self::Tokenizer | Self::Golden | Self::Samples | Self::Report => JSON_BYTES_MAX,
            Self::Decoder | Self::Midtrained | Self::Compared => DECODER_BYTES_MAX,
            _ => DATA_BYTES_MAX,
        }
    }

    /// The part that a file belongs to, by its name within the bundle.
    pub fn of(file: &str) -> Option<Self> {
        let named = |part: &Self| match part {
            Self::Decoder | Self::Test | Self::TextBert => {
                file.split_once('/').is_some_and(|(folder, _)| folder == part.file())
            }
            _ => part.file() == file,
        };
        Self::ALL.into_iter().find(named)
    }

    /// Whether something of its name is in `dir`, even if it can't be read.
    pub fn is_in(self, dir: &Path) -> bool {
        dir.join(self.file()).symlink_metadata().is_ok()
    }

    /// The names of its files within the bundle in `dir`: its own, or those of its folder, sorted.
    pub fn files(self, dir: &Path) -> Result<Vec<String>, BundleError> {
        let (name, path) = (self.file(), dir.join(self.file()));
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => list(name, &path),
            Ok(found) if found.is_symlink() => {
                let why = "it is a symbolic link, which may lead out of the bundle";
                let source = io::Error::new(io::ErrorKind::InvalidInput, why);
                Err(BundleError::Io { path, source })
            }
            // Whoever opens it says what else it is.
            _ => Ok(vec![name.to_owned()]),
        }
    }
}

/// The files of a folder, sorted.
fn list(name: &str, path: &Path) -> Result<Vec<String>, BundleError> {
    let names = || -> io::Result<Vec<String>> {
        let entries = fs::read_dir(path)?.take(FOLDER_FILES_MAX + 1);
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.map(|file| file.map(|file| format!("{name}/{file}"))).collect()
    };
    let mut files = names().map_err(|source| BundleError::Io { path: path.into(), source })?;
    if files.len() > FOLDER_FILES_MAX {
        let expected = format!("{FOLDER_FILES_MAX} at most");
        return Err(BundleError::field(name, "files", "a folder of more", expected));
    }
    files.sort_unstable();
    Ok(files)
}
