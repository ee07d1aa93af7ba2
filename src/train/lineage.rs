//! Records from what each part of a workspace was made, and checks that the parts belong together.
//!
//! A workspace may hold parts of several runs: of another shop, of another recipe, or of a stage that ran
//! again while the later ones did not. The records, `lineage.toml`, tell them apart.

use super::Stage;
use super::recipe::{BaseModel, Recipe, TeacherRecipe};
use super::stages::STAGES;
use super::workspace::Workspace;
use crate::bundle::{Part, PartLineage, hash_of_part};
use crate::regular_file::{self, Links, SETTINGS_BYTES_MAX};
use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The file of the records in a workspace.
const RECORDS: &str = "lineage.toml";
/// The file of a shop's folder that holds the hashes of all others.
const SHOP: &str = "shop.json";
/// Files of an encoder's folder, at most.
const ENCODER_FILES_MAX: usize = 200;
/// Bytes of `shop.json`, at most.
const SHOP_BYTES_MAX: u64 = 1 << 20;

/// The records of a workspace.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Records {
    #[serde(default)]
    lineage: Vec<PartLineage>,
}

/// What a stage reads, by its hashes before the stage runs.
#[derive(Debug)]
pub struct StageInputs {
    data: Option<String>,
    recipe: String,
    inputs: BTreeMap<String, String>,
}

/// A part can't be published, and the stage that makes it anew.
#[derive(Debug, thiserror::Error)]
#[error(
    "{part} {why}: run the stages from {stage} on again, with `raisonne bundle make --from {stage}`"
)]
pub struct StalePart {
    /// Its file or folder.
    pub part: &'static str,
    /// Why.
    pub why: String,
    /// The first stage to run again.
    pub stage: &'static str,
}

/// Hashes what a stage is about to read. Refuses an input that was made from another shop.
pub fn inputs_of(stage: &dyn Stage, workspace: &Workspace<'_>) -> anyhow::Result<StageInputs> {
    let records = Records::read(&workspace.dir)?;
    // The first stage may make the shop.
    let makes_shop = stage.inputs().is_empty();
    let data = if makes_shop { None } else { Some(data_snapshot(workspace)?) };
    let mut inputs = BTreeMap::new();
    for part in parts_read(stage, workspace) {
        if let (Some(record), Some(data)) = (records.of(part), &data) {
            check_data(record, part, data)?;
        }
        if let Some(hash) = hash_of_part(&workspace.dir, part)? {
            inputs.insert(part.file().to_owned(), hash);
        }
    }
    Ok(StageInputs { data, recipe: recipe_hash(stage, &workspace.recipe)?, inputs })
}

/// Records the parts that a stage wrote, from what it had read.
pub fn record(
    stage: &dyn Stage,
    read: &StageInputs,
    workspace: &Workspace<'_>,
) -> anyhow::Result<()> {
    let mut records = Records::read(&workspace.dir)?;
    let data = data_snapshot(workspace)?;
    ensure!(
        read.data.as_ref().is_none_or(|before| *before == data),
        "the shop {} was changed while {} ran: run the stages from the first one again",
        workspace.shop_dir().display(),
        stage.name()
    );
    for &part in stage.outputs() {
        records.lineage.retain(|record| record.part != part.file());
        let Some(blake3) = hash_of_part(&workspace.dir, part)? else { continue };
        records.lineage.push(PartLineage {
            part: part.file().to_owned(),
            blake3,
            stage: stage.name().to_owned(),
            data: data.clone(),
            recipe: read.recipe.clone(),
            inputs: read.inputs.clone(),
        });
    }
    records.write(&workspace.dir)
}

/// The parts that a recipe asks for and stages make, in the order of [`Part::ALL`].
pub fn parts_of(recipe: &Recipe) -> Vec<Part> {
    let is_made = |part: &Part| recipe.asks_for(*part) && maker(*part).is_some();
    Part::ALL.into_iter().filter(is_made).collect()
}

/// Checks that these parts were made by the workspace's recipe, from the shop as it is now and from one
/// another. Returns their lineage, and that of the parts that they were made from.
pub fn check(workspace: &Workspace<'_>, parts: &[Part]) -> anyhow::Result<Vec<PartLineage>> {
    let records = Records::read(&workspace.dir)?;
    let data = data_snapshot(workspace)?;
    let needed = with_inputs(workspace, parts);
    let mut checked: BTreeMap<&str, PartLineage> = BTreeMap::new();
    // In the order of the stages, so that the first one to run again is named.
    for stage in STAGES.iter().filter(|stage| stage.is_enabled(&workspace.recipe)) {
        let recipe = recipe_hash(*stage, &workspace.recipe)?;
        for &part in stage.outputs().iter().filter(|part| needed.contains(part)) {
            let record = check_part(workspace, &records, part, (&data, &recipe))
                .map_err(|error| made_by(*stage, error))?;
            for (input, read) in &record.inputs {
                if checked.get(input.as_str()).map(|input| &input.blake3) != Some(read) {
                    let why =
                        format!("was made from another {input} than the one that is here now");
                    return Err(made_by(*stage, stale(part, &why).into()));
                }
            }
            checked.insert(part.file(), record);
        }
    }
    Ok(checked.into_values().collect())
}

/// Checks the parts that the stages before `stage` have made, as [`check`] does: the stages from there on
/// would be in vain.
pub fn check_before(workspace: &Workspace<'_>, stage: &dyn Stage) -> anyhow::Result<()> {
    let before = STAGES.iter().take_while(|earlier| earlier.name() != stage.name());
    let before = before.filter(|earlier| earlier.is_enabled(&workspace.recipe));
    let made: Vec<Part> = before.flat_map(|stage| stage.outputs()).copied().collect();
    if made.is_empty() {
        return Ok(());
    }
    let asked = made.into_iter().filter(|part| workspace.recipe.asks_for(*part));
    check(workspace, &asked.collect::<Vec<_>>())?;
    Ok(())
}

/// These parts, and those that they are made from.
fn with_inputs(workspace: &Workspace<'_>, parts: &[Part]) -> Vec<Part> {
    let mut needed = parts.to_vec();
    // What a stage reads was made by stages before it.
    for stage in STAGES.iter().rev().filter(|stage| stage.is_enabled(&workspace.recipe)) {
        if stage.outputs().iter().any(|part| needed.contains(part)) {
            needed.extend(parts_read(*stage, workspace));
        }
    }
    needed
}

/// Checks the record of one part against its file, the shop and the recipe.
fn check_part(
    workspace: &Workspace<'_>,
    records: &Records,
    part: Part,
    (data, recipe): (&str, &str),
) -> anyhow::Result<PartLineage> {
    let found = hash_of_part(&workspace.dir, part)?;
    let found = found.ok_or_else(|| stale(part, "is missing"))?;
    let without = || stale(part, &format!("has no lineage in {RECORDS}"));
    let record = records.of(part).ok_or_else(without)?;
    check_data(record, part, data)?;
    if record.blake3 != found {
        let why = format!("was changed after the stage {} had written it", record.stage);
        return Err(stale(part, &why).into());
    }
    if record.recipe != recipe {
        let why = format!("was made by another recipe: the settings of {} differ", record.stage);
        return Err(stale(part, &why).into());
    }
    Ok(record.clone())
}

/// The parts that a stage reads here: those that it must, and those that it may and that the recipe makes.
fn parts_read(stage: &dyn Stage, workspace: &Workspace<'_>) -> Vec<Part> {
    let is_there = |part: &Part| workspace.has(*part);
    // Whoever encodes texts also reads the parts that only some encoders have.
    let encodes = stage.inputs().contains(&Part::Text);
    let of_encoder = if encodes { &[Part::TextBert, Part::ItemVectors][..] } else { &[] };
    let by_recipe = stage.reads_by(&workspace.recipe);
    let also = stage.may_read().iter().chain(of_encoder).chain(by_recipe);
    let also = also.copied().filter(is_there);
    stage.inputs().iter().copied().chain(also).collect()
}

/// The stage that makes a part.
pub fn maker(part: Part) -> Option<&'static dyn Stage> {
    STAGES.iter().rev().copied().find(|stage| stage.outputs().contains(&part))
}

/// Refuses a part that was made from another shop.
fn check_data(record: &PartLineage, part: Part, data: &str) -> Result<(), StalePart> {
    if record.data == data {
        return Ok(());
    }
    Err(stale(part, "was made from another shop than the one that the recipe names now"))
}

fn stale(part: Part, why: &str) -> StalePart {
    let stage = maker(part).map_or("prepare", Stage::name);
    StalePart { part: part.file(), why: why.to_owned(), stage }
}

/// The same error, which names this stage: recipes differ in which one makes a part.
fn made_by(stage: &dyn Stage, error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<StalePart>() {
        Ok(stale) => StalePart { stage: stage.name(), ..stale }.into(),
        Err(error) => error,
    }
}

/// The hash of the shop that the workspace's recipe names.
fn data_snapshot(workspace: &Workspace<'_>) -> anyhow::Result<String> {
    shop_hash(&workspace.shop_dir())
}

/// The hash of the shop in a folder, by which lineages name their data snapshot.
pub fn shop_hash(shop: &Path) -> anyhow::Result<String> {
    let path = shop.join(SHOP);
    let bytes = regular_file::read(&path, Links::Followed, SHOP_BYTES_MAX)
        .with_context(|| format!("reading {}", path.display()))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// The hash of the recipe's sections that a stage depends on, wherever the files lie that it names.
fn recipe_hash(stage: &dyn Stage, recipe: &Recipe) -> anyhow::Result<String> {
    let mut recipe = recipe.clone();
    let given = recipe.slates.given.as_deref().map(file_hash).transpose()?;
    // The data snapshot stands for the shop, and the hash for the slates.
    recipe.shop.imported = None;
    recipe.slates.given = given.map(PathBuf::from);
    if stage.recipe_sections().contains(&"text_encoder") {
        for folder in recipe.text_encoder.folders_mut() {
            *folder = folder_hash(folder)?.into();
        }
    }
    if let Some(model) = &mut recipe.language_model {
        if let BaseModel::Folder(folder) = &mut model.begin {
            *folder = last_step(folder);
        }
        if let Some(TeacherRecipe::Bundle(folder)) =
            model.compare.as_mut().map(|compare| &mut compare.teacher)
        {
            *folder = last_step(folder);
        }
    }
    let table = toml::Table::try_from(&recipe).context("the recipe as TOML")?;
    let mut hasher = blake3::Hasher::new();
    for section in stage.recipe_sections() {
        let mut steps = section.split('.');
        let first = steps.next().and_then(|step| table.get(step));
        let value = steps.fold(first, |value, step| value?.get(step));
        let text = value.map(ToString::to_string).unwrap_or_default();
        hasher.update(section.as_bytes()).update(b"\n").update(text.as_bytes()).update(b"\n");
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn last_step(path: &Path) -> PathBuf {
    path.file_name().map(PathBuf::from).unwrap_or_default()
}

/// The hash of the files of an encoder's folder, and of the folders in it, wherever it lies.
fn folder_hash(folder: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut files = Vec::new();
    files_below(folder, 1, &mut files).with_context(|| format!("reading {}", folder.display()))?;
    files.sort();
    for file in files {
        let name = file.strip_prefix(folder).unwrap_or(&file);
        hasher.update(name.as_os_str().as_encoded_bytes()).update(b"\n");
        hasher.update(file_hash(&file)?.as_bytes()).update(b"\n");
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// Adds the files of a folder, and of the folders in it, so many deep. Hidden ones are left out.
fn files_below(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_hidden =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        match (is_hidden, path.is_dir(), depth) {
            (true, ..) | (_, true, 0) => {}
            (_, true, _) => files_below(&path, depth - 1, files)?,
            _ if files.len() >= ENCODER_FILES_MAX => {
                let why = format!("it holds more than {ENCODER_FILES_MAX} files");
                return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, why));
            }
            _ => files.push(path),
        }
    }
    Ok(())
}

fn file_hash(path: &Path) -> anyhow::Result<String> {
    let hash = || {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(regular_file::open(path, Links::Followed, u64::MAX)?)?;
        std::io::Result::Ok(hasher.finalize().to_hex().to_string())
    };
    hash().with_context(|| format!("reading {}", path.display()))
}

// === impl Records ===

impl Records {
    /// The records of a workspace; none if it has no such file.
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(RECORDS);
        let reading = || format!("reading {}", path.display());
        match regular_file::read_to_string(&path, Links::Refused, SETTINGS_BYTES_MAX) {
            Ok(text) => toml::from_str(&text).with_context(reading),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(reading),
        }
    }

    /// Writes the records in one step: through a file beside it.
    fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let (path, beside) = (dir.join(RECORDS), dir.join(format!("{RECORDS}.part")));
        let text = toml::to_string(self).context("records as TOML")?;
        fs::write(&beside, text)
            .and_then(|()| fs::rename(&beside, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    fn of(&self, part: Part) -> Option<&PartLineage> {
        self.lineage.iter().find(|record| record.part == part.file())
    }
}
