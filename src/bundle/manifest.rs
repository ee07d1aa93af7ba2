//! The manifest of a bundle: every file with its hash.

use super::hashes::{HASH_FORM, hash, hash_opened, is_hash, no_file, open};
use super::lineage::{self, PartLineage};
use super::{BundleError, MANIFEST, Part};
use crate::regular_file::{self, Links};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Bytes of a manifest, at most.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// Files that a manifest may name.
const FILES_MAX: usize = 256;
/// Components of a file's name: a folder, and a file in it.
const COMPONENTS_MAX: usize = 2;
/// Bytes of a bundle's name, at most.
const NAME_BYTES_MAX: usize = 128;
/// Digits of the hash in a version and in a space.
const SHORT_DIGITS: usize = 12;
/// The file of a shop's folder that holds the hashes of all others.
const SHOP: &str = "shop.json";
/// Optional parts of which a bundle has both or neither.
const PAIRS: [[Part; 2]; 4] = [
    [Part::Query, Part::QueryShape],
    [Part::Rechead, Part::RecheadShape],
    [Part::Quantizer, Part::SemanticIds],
    [Part::Decoder, Part::Reranker],
];

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
    /// Where the parts come from. A bundle that was made before lineages has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<PartLineage>,
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

// === impl Manifest ===

impl Manifest {
    /// Hashes the parts in `dir`. The version begins with `name`.
    pub fn of(dir: &Path, name: &str) -> Result<Self, BundleError> {
        let mut file = Vec::new();
        for part in Part::ALL.into_iter().filter(|part| !part.is_optional() || part.is_in(dir)) {
            for name in part.files(dir)? {
                part_of(&name)?;
                let (hash, bytes) = hash(dir, &name, part)?;
                file.push(FileEntry { name, bytes, blake3: hash.to_hex().to_string() });
            }
        }
        let version = format!("{name}-{}", whole_of(&file));
        Ok(Self { version, space: space_of(&file), file, lineage: Vec::new() })
    }

    /// The same manifest, with where its parts come from.
    pub fn with_lineage(self, lineage: Vec<PartLineage>) -> Self {
        Self { lineage, ..self }
    }

    /// Reads the manifest of the bundle in `dir`.
    pub fn read(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        let text = regular_file::read(&path, Links::Refused, MANIFEST_BYTES_MAX)
            .map_err(|source| no_file(dir, MANIFEST, source))?;
        let text = String::from_utf8(text)
            .map_err(|_| BundleError::malformed(MANIFEST, "it is not UTF-8"))?;
        let manifest: Self = toml::from_str(&text)
            .map_err(|error| BundleError::malformed(MANIFEST, error.message()))?;
        if manifest.file.len() > FILES_MAX {
            let found = format!("a list of {}", manifest.file.len());
            return Err(BundleError::of_manifest(
                "file",
                found,
                format!("at most {FILES_MAX} files"),
            ));
        }
        Ok(manifest)
    }

    /// The manifest as it is written.
    pub fn to_text(&self) -> String {
        toml::to_string(self).expect("a manifest holds strings and numbers")
    }

    /// Writes the manifest into `dir`. It is the last file of a bundle to be written.
    pub fn write(&self, dir: &Path) -> Result<(), BundleError> {
        let path = dir.join(MANIFEST);
        fs::write(&path, self.to_text()).map_err(|source| BundleError::Io { path, source })
    }

    /// The hash of a part, as a lineage names it, if the manifest names the part.
    pub fn hash_of(&self, part: Part) -> Option<String> {
        let files = self.file.iter().filter(|file| Part::of(&file.name) == Some(part));
        lineage::hash_of_files(files.map(|file| (file.name.as_str(), file.blake3.as_str())))
    }

    /// Checks the bundle in `dir` against the manifest: it names every part, optional parts included if
    /// they exist; every file has its length and its hash; and every other field is what the files say.
    pub fn verify(&self, dir: &Path) -> Result<(), BundleError> {
        self.check_files()?;
        for part in Part::ALL.into_iter().filter(|part| !part.is_optional() || part.is_in(dir)) {
            for file in part.files(dir)? {
                if !self.file.iter().any(|entry| entry.name == file) {
                    return Err(BundleError::malformed(MANIFEST, &format!("it lacks {file}")));
                }
            }
        }
        self.file.iter().try_for_each(|entry| entry.verify(dir))?;
        self.check_space()?;
        self.check_version()?;
        let shop = format!("{}/{SHOP}", Part::Test.file());
        let shop = self.file.iter().find(|entry| entry.name == shop);
        let shop = shop.map(|entry| entry.blake3.as_str());
        lineage::check(&self.lineage, |part| self.hash_of(part), shop)
    }

    /// Checks the entries against each other, before any file is opened.
    fn check_files(&self) -> Result<(), BundleError> {
        let mut seen = BTreeSet::new();
        for entry in &self.file {
            entry.check()?;
            if !seen.insert(&*entry.name) {
                return Err(BundleError::of_manifest(
                    "file.name",
                    format!("{:?} twice", entry.name),
                    "each name once",
                ));
            }
        }
        for [one, other] in PAIRS {
            let [has_one, has_other] = [one, other].map(|part| self.hash_of(part).is_some());
            if has_one != has_other {
                let (has, lacks) = if has_one { (one, other) } else { (other, one) };
                let why = format!("it names {}, and lacks {}", has.file(), lacks.file());
                return Err(BundleError::malformed(MANIFEST, &why));
            }
        }
        Ok(())
    }

    /// Checks that `version` is a name, and the hash of the files whose hashes the manifest lists.
    fn check_version(&self) -> Result<(), BundleError> {
        let found = format!("{:?}", self.version);
        let whole = whole_of(&self.file);
        match self.version.rsplit_once('-') {
            Some((name, hash)) if hash == whole => {
                let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
                if !fits || name.contains(char::is_control) {
                    let expected = format!("a name of 1 to {NAME_BYTES_MAX} bytes before the hash");
                    return Err(BundleError::of_manifest("version", found, expected));
                }
                Ok(())
            }
            _ => Err(BundleError::of_manifest(
                "version",
                found,
                format!("a name and \"-{whole}\", the hash of the files"),
            )),
        }
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
        Err(BundleError::of_manifest("space", format!("{:?}", self.space), expected))
    }
}

// === impl FileEntry ===

impl FileEntry {
    /// Checks the entry alone.
    fn check(&self) -> Result<(), BundleError> {
        let part = part_of(&self.name)?;
        if self.bytes > part.bytes_max() {
            let (found, most) = (format!("{} of {}", self.bytes, self.name), part.bytes_max());
            return Err(BundleError::of_manifest("file.bytes", found, format!("{most} at most")));
        }
        if !is_hash(&self.blake3) {
            let found = format!("{:?} of {}", self.blake3, self.name);
            return Err(BundleError::of_manifest("file.blake3", found, HASH_FORM));
        }
        Ok(())
    }

    /// Checks the file in `dir`: its length, and then its hash.
    fn verify(&self, dir: &Path) -> Result<(), BundleError> {
        let file = open(dir, &self.name, part_of(&self.name)?.bytes_max())?;
        let bytes = file.metadata().map_err(|source| no_file(dir, &self.name, source))?.len();
        if bytes != self.bytes {
            return Err(BundleError::field(&self.name, "bytes", bytes, self.bytes));
        }
        let (found, _) = hash_opened(dir, &self.name, file, self.bytes)?;
        let found = found.to_hex().to_string();
        if found != self.blake3 {
            let (file, expected) = (self.name.clone(), self.blake3.clone());
            return Err(BundleError::Changed { file, expected, found });
        }
        Ok(())
    }
}

/// The parts whose models make vectors and compare them.
pub const SPACE_PARTS: [Part; 4] = [Part::Tokenizer, Part::Text, Part::Scorer, Part::Rechead];

/// The hash over the hashes of all files but the report. The report holds times, which differ from run to
/// run. Its hash is in the manifest, but not in the version.
fn whole_of(files: &[FileEntry]) -> String {
    short(files.iter().filter(|entry| entry.name != Part::Report.file()))
}

/// The hash over the hashes of the `SPACE_PARTS` among these files.
fn space_of(files: &[FileEntry]) -> String {
    let entry = |part: Part| files.iter().find(|entry| entry.name == part.file());
    short(SPACE_PARTS.into_iter().filter_map(entry))
}

/// The first digits of the hash over the hashes of these files.
fn short<'a>(files: impl Iterator<Item = &'a FileEntry>) -> String {
    let mut hasher = blake3::Hasher::new();
    // A hash that is no hexadecimal number differs from that of any file.
    for hash in files.filter_map(|entry| blake3::Hash::from_hex(&entry.blake3).ok()) {
        hasher.update(hash.as_bytes());
    }
    hasher.finalize().to_hex()[..SHORT_DIGITS].to_owned()
}

/// The part that a file belongs to. The name may lead into a folder of the bundle, but not out of it.
fn part_of(name: &str) -> Result<Part, BundleError> {
    let is_plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains('\\');
    let refused =
        |expected: &str| Err(BundleError::of_manifest("file.name", format!("{name:?}"), expected));
    if !name.split('/').all(is_plain) || name.split('/').count() > COMPONENTS_MAX {
        return refused("the name of a file in the bundle or in a folder of it");
    }
    Part::of(name).map_or_else(|| refused("the name of a file of one of a bundle's parts"), Ok)
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
        fs::write(dir.join(Part::ScorerShape.file()), "scorer.TOML").unwrap();
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
