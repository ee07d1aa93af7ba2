//! The workspace of a stage: the folder of its inputs and outputs, the recipe, and its progress.

use super::dataset::Dataset;
use super::progress::ProgressObserver;
use super::recipe::Recipe;
use super::stop::StopSignal;
use crate::bundle::{Catalog, Part, read_catalog};
use crate::language::TextTokenizer;
use crate::nn::text::TextEncoder;
use crate::regular_file::{self, Links};
use crate::scorer::{ItemVectors, TextReader};
use crate::shop::Shop;
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder and the recipe that a stage works on.
pub struct Workspace<'a> {
    /// The folder of all parts.
    pub dir: PathBuf,
    /// The recipe of the bundle.
    pub recipe: Recipe,
    /// Receives the progress.
    pub progress: &'a mut dyn ProgressObserver,
    /// Requests a stop after the current step of a training.
    pub stop: StopSignal,
}

// === impl Workspace ===

impl<'a> Workspace<'a> {
    /// A workspace in `dir`, which is created if it does not exist.
    pub fn new(
        dir: &Path,
        recipe: Recipe,
        progress: &'a mut dyn ProgressObserver,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making the folder {}", dir.display()))?;
        let dir = dir.to_owned();
        Ok(Self { dir, recipe, progress, stop: StopSignal::default() })
    }

    /// The same workspace, whose trainings heed `stop`.
    pub fn with_stop(self, stop: StopSignal) -> Self {
        Self { stop, ..self }
    }

    /// The file of a part.
    pub fn path(&self, part: Part) -> PathBuf {
        self.dir.join(part.file())
    }

    /// Whether the recipe asks for a part and the folder holds it. What another recipe's run left there is
    /// not read.
    pub fn has(&self, part: Part) -> bool {
        self.recipe.asks_for(part) && part.is_in(&self.dir)
    }

    /// The folder of the shop: the one that was imported, or the one that `prepare` simulated.
    pub fn shop_dir(&self) -> PathBuf {
        self.recipe.shop.imported.clone().unwrap_or_else(|| self.dir.join("shop"))
    }

    /// The shop's log, split in time.
    pub fn dataset(&self, catalog: &Catalog) -> anyhow::Result<Dataset> {
        let dir = self.shop_dir();
        let shop = Shop::open(&dir)?;
        Dataset::read(&shop, catalog, self.recipe.split, self.recipe.seed)
    }

    /// The catalogue that `prepare` wrote, with semantic ids if `semantic_ids` has run.
    pub fn catalog(&self) -> anyhow::Result<Arc<Catalog>> {
        Ok(Arc::new(read_catalog(&self.dir)?))
    }

    /// The text encoder that `text_encoder` trained.
    pub fn reader(&self) -> anyhow::Result<Arc<TextReader>> {
        let tokens = TextTokenizer::load(&self.path(Part::Tokenizer))?;
        let encoder = TextEncoder::load(&self.path(Part::Text), &self.path(Part::TextBert))?;
        Ok(Arc::new(TextReader::new(tokens, encoder)?))
    }

    /// The items' wide vectors: those that `text_encoder` wrote, or else as `reader` makes them of the catalogue's texts.
    pub fn item_vectors(
        &self,
        catalog: &Catalog,
        reader: &TextReader,
    ) -> anyhow::Result<Arc<ItemVectors>> {
        let part = Part::ItemVectors;
        if !self.has(part) {
            let texts: Vec<String> =
                (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
            return Ok(Arc::new(ItemVectors::of(&reader.wides(&texts), reader.width())));
        }
        let reading = || format!("reading {}", part.file());
        let bytes = regular_file::read(&self.path(part), Links::Followed, part.bytes_max())
            .with_context(reading)?;
        let vectors = ItemVectors::from_bytes(&bytes).with_context(reading)?;
        let (found, expected) = ((vectors.len(), vectors.width()), (catalog.len(), reader.width()));
        ensure!(
            found == expected,
            "{} has {found:?} items and numbers, not {expected:?}: run the stages from text_encoder again",
            part.file()
        );
        Ok(Arc::new(vectors))
    }
}

impl std::fmt::Debug for Workspace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workspace").field("dir", &self.dir).finish_non_exhaustive()
    }
}
