//! The manifest of a bundle: every file with its hash.

use super::BundleError;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::path::Path;

/// The manifest's own file.
pub const MANIFEST: &str = "manifest.toml";
/// Files that a manifest may name.
const FILES_MAX: usize = 256;
/// Components of a file's name: a folder, and a file in it.
const COMPONENTS_MAX: usize = 2;

/// A file or folder of a bundle that a stage writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// The catalogue's items.
    Catalog,
    /// The text encoder's tokenizer.
    Tokenizer,
    /// The text encoder's weights.
    Text,
    /// The residual quantiser: text vectors to codes.
    Quantizer,
    /// The items' semantic ids.
    SemanticIds,
    /// The scorer's weights.
    Scorer,
    /// The scorer's shape, and the weights that fuse its score with the order given.
    ScorerShape,
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

/// The files of a bundle, and the hashes that name its version and its vectors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The bundle's version: the recipe's name, and 12 hexadecimal digits of the hash of all files but
    /// the report.
    pub version: String,
    /// The space of the bundle's vectors: 12 hexadecimal digits of the hash of the models that make and
    /// compare them, `SPACE_PARTS`. Vectors of two bundles may be compared if this is equal.
    pub space: String,
    /// The files, in the order of [`Part::ALL`].
    pub file: Vec<FileEntry>,
}

/// A file of a bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Its name within the bundle.
    pub name: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its BLAKE3 hash, in hexadecimal.
    pub blake3: String,
}

// === impl Part ===

impl Part {
    /// All parts of a bundle.
    pub const ALL: [Self; 19] = [
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
            Self::Quantizer
                | Self::SemanticIds
                | Self::Rechead
                | Self::RecheadShape
                | Self::Test
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
    /// Hashes the parts in `dir`. The version begins with `name`.
    pub fn of(dir: &Path, name: &str) -> Result<Self, BundleError> {
        let mut whole = blake3::Hasher::new();
        let mut file = Vec::new();
        for part in Part::ALL {
            if part.is_optional() && !dir.join(part.file()).exists() {
                continue;
            }
            for name in part.files(dir)? {
                let (hash, bytes) = hash(dir, &name)?;
                // The report holds times, which differ from run to run. Its hash is in the manifest,
                // but not in the version.
                if part != Part::Report {
                    whole.update(hash.as_bytes());
                }
                file.push(FileEntry { name, bytes, blake3: hash.to_hex().to_string() });
            }
        }
        Ok(Self { version: format!("{name}-{}", short(&whole)), space: space_of(&file), file })
    }

    /// Reads the manifest of the bundle in `dir`.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let text = fs::read(dir.join(MANIFEST)).map_err(|source| no_file(dir, MANIFEST, source))?;
        let text = String::from_utf8(text)
            .map_err(|_| BundleError::malformed(MANIFEST, "it is not UTF-8"))?;
        let manifest: Self = toml::from_str(&text)
            .map_err(|error| BundleError::malformed(MANIFEST, error.message()))?;
        if manifest.file.len() > FILES_MAX {
            let (found, most) = (manifest.file.len(), FILES_MAX);
            return Err(BundleError::field(
                MANIFEST,
                "file",
                format!("a list of {found}"),
                format!("at most {most} files"),
            ));
        }
        Ok(manifest)
    }

    /// Writes the manifest into `dir`. It is the last file of a bundle to be written.
    pub fn write(&self, dir: &Path) -> Result<(), BundleError> {
        let text = toml::to_string(self).expect("a manifest holds strings and numbers");
        let path = dir.join(MANIFEST);
        fs::write(&path, text).map_err(|source| BundleError::Io { path, source })
    }

    /// Checks the bundle in `dir` against the manifest: it names every part, optional parts included if
    /// they exist; every file has its hash; and `space` is that of the models in the bundle.
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
        self.check_space()
    }

    /// Checks that `space` is the hash of the models whose hashes the manifest lists.
    fn check_space(&self) -> Result<(), BundleError> {
        let expected = space_of(&self.file);
        if self.space == expected {
            return Ok(());
        }
        let named = |part: &Part| self.file.iter().any(|entry| entry.name == part.file());
        let models: Vec<&str> =
            SPACE_PARTS.iter().filter(|part| named(part)).map(|part| part.file()).collect();
        let expected = format!("{expected:?}, the hash of {}", models.join(", "));
        Err(BundleError::field(MANIFEST, "space", format!("{:?}", self.space), expected))
    }
}

/// The parts whose models make vectors and compare them.
pub const SPACE_PARTS: [Part; 4] = [Part::Tokenizer, Part::Text, Part::Scorer, Part::Rechead];

/// The hash over the hashes of the `SPACE_PARTS` among these files.
fn space_of(files: &[FileEntry]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in SPACE_PARTS {
        let entry = files.iter().find(|entry| entry.name == part.file());
        // A hash that is no hexadecimal number differs from that of any file.
        if let Some(hash) = entry.and_then(|entry| blake3::Hash::from_hex(&entry.blake3).ok()) {
            hasher.update(hash.as_bytes());
        }
    }
    short(&hasher)
}

fn short(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex()[..12].to_owned()
}

/// The hash of a file of the bundle, and its length. The name may lead into a folder of the bundle,
/// but not out of it.
fn hash(dir: &Path, name: &str) -> Result<(blake3::Hash, u64), BundleError> {
    let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('\\');
    if !name.split('/').all(is_plain) || name.split('/').count() > COMPONENTS_MAX {
        let expected = "the name of a file in the bundle or in a folder of it";
        return Err(BundleError::field(MANIFEST, "file.name", format!("{name:?}"), expected));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with every part that a bundle needs, and these optional ones. Only hashes are read.
    fn folder(optional: &[Part]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for part in Part::ALL.iter().filter(|part| !part.is_optional()).chain(optional) {
            fs::write(folder.path().join(part.file()), part.file()).unwrap();
        }
        folder
    }

    /// The space of a bundle as the first version of this program wrote it.
    fn space_by_hand(parts: &[Part]) -> String {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(blake3::hash(part.file().as_bytes()).as_bytes());
        }
        hasher.finalize().to_hex().as_str()[..12].to_owned()
    }

    #[test]
    fn the_space_is_the_hash_of_the_models_that_make_and_compare_vectors() {
        use Part::{Quantizer, Rechead, RecheadShape, Scorer, SemanticIds, Text, Tokenizer};
        let models = [Tokenizer, Text, Scorer, Rechead];
        for (optional, models) in [
            (&[][..], &models[..3]),
            (&[Quantizer, SemanticIds], &models[..3]),
            (&[Rechead, RecheadShape], &models),
        ] {
            let folder = folder(optional);
            let manifest = Manifest::of(folder.path(), "small").unwrap();
            assert_eq!(manifest.space, space_by_hand(models), "{optional:?}");
            manifest.write(folder.path()).unwrap();
            Manifest::read(folder.path()).unwrap().verify(folder.path()).unwrap();
        }
    }

    #[test]
    fn a_space_of_other_models_is_refused_with_both_values() {
        let folder = folder(&[Part::Rechead, Part::RecheadShape]);
        let dir = folder.path();
        let sound = Manifest::of(dir, "small").unwrap();
        let models = "tokenizer.json, text.safetensors, scorer.safetensors, rechead.safetensors";
        let right = sound.space.clone();
        for wrong in ["", "000000000000", &right[..11], &right.to_uppercase(), "76ec76f575c0"] {
            let manifest = Manifest { space: wrong.into(), ..sound.clone() };
            let error = manifest.verify(dir).unwrap_err().to_string();
            let message = format!(
                "manifest.toml: `space` is {wrong:?}, expected {right:?}, the hash of {models}"
            );
            assert_eq!(error, message);
        }
        // Another model, whose hash is in the manifest, has vectors of another space.
        for part in SPACE_PARTS {
            let path = dir.join(part.file());
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, "another model").unwrap();
            let manifest = Manifest { space: right.clone(), ..Manifest::of(dir, "small").unwrap() };
            match manifest.verify(dir) {
                Err(BundleError::Field { file, field, found, expected }) => {
                    assert_eq!((&*file, &*field), (MANIFEST, "space"));
                    assert_eq!(found, format!("{right:?}"));
                    assert!(!expected.contains(&right), "{expected}");
                }
                other => panic!("{}: {other:?}", part.file()),
            }
            fs::write(&path, bytes).unwrap();
        }
        // A file that is no model of the space changes its own hash, and not the space.
        fs::write(dir.join(Part::ScorerShape.file()), "another shape").unwrap();
        assert_eq!(Manifest::of(dir, "small").unwrap().space, right);
        assert!(matches!(sound.verify(dir), Err(BundleError::Changed { .. })));
    }

    #[test]
    fn the_demo_is_what_its_manifest_says() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
        Manifest::read(&dir).unwrap().verify(&dir).unwrap();
    }

    #[test]
    fn names_out_of_the_bundle_are_refused() {
        let folder = folder(&[]);
        for name in ["../x", "/etc/passwd", "a/b/c", ".hidden", "a\\b", ""] {
            let mut manifest = Manifest::of(folder.path(), "small").unwrap();
            manifest.file.push(FileEntry { name: name.into(), bytes: 0, blake3: String::new() });
            let error = manifest.verify(folder.path()).unwrap_err().to_string();
            let message =
                format!("manifest.toml: `file.name` is {name:?}, expected the name of a file");
            assert!(error.starts_with(&message), "{error}");
        }
    }
}
