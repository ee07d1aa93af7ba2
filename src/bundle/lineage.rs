//! Lineage: from which data, by which stage and from which other parts was a part made?
//!
//! A stage that has run records it for each part that it wrote. The records of all parts are in a bundle's
//! manifest, so that a bundle of parts that were not made from one another is refused.

use super::hashes::{HASH_FORM, hash, is_hash};
use super::{BundleError, Part};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Parts whose lineage a manifest may hold.
const PARTS_MAX: usize = 64;
/// Bytes of a stage's name, at most.
const STAGE_BYTES_MAX: usize = 64;
/// Parts that `publish` writes itself, out of the recipe, the shop and the other parts.
const PUBLISHED: [Part; 3] = [Part::Golden, Part::Recipe, Part::Test];

/// Where one part comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartLineage {
    /// Its file, or its folder.
    pub part: String,
    /// The hash of its file, or over the names and hashes of its folder's files.
    pub blake3: String,
    /// The stage that wrote it.
    pub stage: String,
    /// The data snapshot: the hash of the shop's `shop.json`, which holds the hashes of its other files.
    pub data: String,
    /// The hash of the recipe's sections that the stage depends on.
    pub recipe: String,
    /// The hash of each part that the stage read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, String>,
}

/// The hash of a part in `dir`: of its file, or over the names and hashes of its folder's files. None if
/// it has no file.
pub fn hash_of_part(dir: &Path, part: Part) -> Result<Option<String>, BundleError> {
    if !part.is_in(dir) {
        return Ok(None);
    }
    let files = part.files(dir)?.into_iter().map(|name| {
        let hash = hash(dir, &name, part)?.0.to_hex().to_string();
        Ok((name, hash))
    });
    let files = files.collect::<Result<Vec<_>, BundleError>>()?;
    Ok(hash_of_files(files.iter().map(|(name, hash)| (name.as_str(), hash.as_str()))))
}

/// The hash of a part by the names and hashes of its files, in the order of their names.
pub(super) fn hash_of_files<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Option<String> {
    let files: Vec<_> = files.collect();
    match files.as_slice() {
        [] => None,
        [(name, hash)] if !name.contains('/') => Some((*hash).to_owned()),
        _ => {
            let mut hasher = blake3::Hasher::new();
            for (name, hash) in files {
                let file = name.split_once('/').map_or(name, |(_, file)| file);
                hasher.update(file.as_bytes()).update(b"\n").update(hash.as_bytes());
            }
            Some(hasher.finalize().to_hex().to_string())
        }
    }
}

/// Checks that the parts which a manifest names were made from one another, and from one data snapshot. A
/// manifest without lineage was written before there was any, and is not refused. `hash_of` is the hash of
/// a part by the manifest's files, and `shop` that of the `shop.json` which the bundle keeps, if it does.
pub(super) fn check(
    records: &[PartLineage],
    hash_of: impl Fn(Part) -> Option<String>,
    shop: Option<&str>,
) -> Result<(), BundleError> {
    let Some(first) = records.first() else { return Ok(()) };
    if records.len() > PARTS_MAX {
        let found = format!("a list of {}", records.len());
        return Err(BundleError::of_manifest(
            "lineage",
            found,
            format!("at most {PARTS_MAX} parts"),
        ));
    }
    let mut by_part: BTreeMap<&str, &PartLineage> = BTreeMap::new();
    for record in records {
        record.check()?;
        if by_part.insert(&record.part, record).is_some() {
            return Err(BundleError::of_manifest(
                "lineage.part",
                format!("{:?} twice", record.part),
                "each part once",
            ));
        }
        if record.data != first.data {
            let expected =
                format!("{:?} as of {}: one data snapshot for all", first.data, first.part);
            return Err(record.wrong("data", &record.data, expected));
        }
    }
    if let Some(shop) = shop.filter(|shop| *shop != first.data) {
        let expected = format!("{shop:?}, the hash of the shop that the bundle keeps");
        return Err(first.wrong("data", &first.data, expected));
    }
    for part in Part::ALL.into_iter().filter(|part| !PUBLISHED.contains(part)) {
        let Some(hash) = hash_of(part) else { continue };
        let record = by_part.get(part.file());
        let lacks = || {
            BundleError::of_manifest(
                "lineage",
                format!("without {}", part.file()),
                "each part of the bundle",
            )
        };
        let record = record.ok_or_else(lacks)?;
        if record.blake3 != hash {
            return Err(record.wrong("blake3", &record.blake3, format!("{hash:?}, its hash")));
        }
    }
    for record in records {
        for (input, read) in &record.inputs {
            let hash = by_part.get(input.as_str()).map(|input| &input.blake3);
            if hash != Some(read) {
                let expected = match hash {
                    Some(hash) => format!("{hash:?}, the hash of {input}"),
                    None => "the hash of a part with a lineage".to_owned(),
                };
                return Err(record.wrong(&format!("inputs.{input:?}"), read, expected));
            }
        }
    }
    Ok(())
}

// === impl PartLineage ===

impl PartLineage {
    /// Checks the form of the record alone.
    fn check(&self) -> Result<(), BundleError> {
        let stage = &self.stage;
        if stage.is_empty() || stage.len() > STAGE_BYTES_MAX || stage.contains(char::is_control) {
            let expected = format!("the name of a stage, of at most {STAGE_BYTES_MAX} bytes");
            return Err(self.wrong("stage", stage, expected));
        }
        let hashes = [("blake3", &self.blake3), ("data", &self.data), ("recipe", &self.recipe)];
        if let Some((field, found)) = hashes.into_iter().find(|(_, hash)| !is_hash(hash)) {
            return Err(self.wrong(field, found, HASH_FORM));
        }
        if self.inputs.len() > PARTS_MAX {
            let expected = format!("at most {PARTS_MAX}");
            return Err(self.wrong("inputs", &self.inputs.len().to_string(), expected));
        }
        Ok(())
    }

    fn wrong(&self, field: &str, found: &str, expected: impl std::fmt::Display) -> BundleError {
        let found = format!("{found:?} of {}", self.part);
        BundleError::of_manifest(&format!("lineage.{field}"), found, expected)
    }
}
