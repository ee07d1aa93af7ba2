//! From a bundle on disk to a ladder that can serve.

use super::compared::Compared;
use super::profile::{MemoryLimits, Profiles};
use super::scored::Scored;
use super::weighed::Weighed;
use super::{Ladder, Rung};
use crate::bundle::{Bundle, BundleError, Part};
use crate::domain::{Quality, Version};
use crate::reranker::{ComparedFile, Reranker, RerankerError, RerankerFile, RunLimits};
use crate::scorer::{self, Opened, Scorer};
use crate::store::Store;
use crate::telemetry::Metrics;
use std::path::Path;
use std::sync::Arc;

/// What a ladder is built with beside its bundle.
#[derive(Clone, Debug)]
pub struct Building {
    /// Fresh facts, if there is a store.
    pub store: Option<Arc<dyn Store>>,
    /// How much may be remembered.
    pub memory: MemoryLimits,
    /// How much the scorer may take on.
    pub scorer: scorer::Limits,
    /// How the language model runs, if the bundle has one.
    pub engine: RunLimits,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
}

/// Why there is no ladder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bundle can't be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its language model can't be used.
    #[error("the bundle's language model")]
    Reranker(#[from] RerankerError),
}

/// Opens a bundle, verifies it, sends its golden requests through each rung, which also warms it,
/// and builds its ladder.
pub async fn open(
    dir: &Path,
    building: &Building,
) -> Result<(Arc<Ladder>, Arc<Opened>), OpenError> {
    let bundle = Bundle::open(dir)?;
    let reranker = reranker(&bundle)?;
    let decoder = bundle.path(Part::Decoder);
    let opened = Arc::new(Opened::of(bundle)?);
    opened.check_golden()?;
    let (model, metrics) = (opened.model.clone(), building.metrics.clone());
    let version = Version::from(opened.version.as_str());
    let profiles = Arc::new(Profiles::new(
        model.clone(),
        opened.file.currency.clone(),
        building.store.clone(),
        building.memory,
        metrics.clone(),
    ));
    // Whatever a rung above may bring to the front needs its reasons.
    let movable = reranker.weighed.map_or(0, |file| file.candidates_max);
    let movable = compared(&reranker).map(|(_, file)| file.offered_max).fold(movable, usize::max);
    let scorer = Scorer::start(&model, building.scorer, &metrics);
    let fusion = opened.file.fusion;
    let scored =
        Scored::new(model.clone(), scorer, profiles.clone(), fusion, version.clone(), movable);
    let mut rungs: Vec<Box<dyn Rung>> = vec![Box::new(scored)];
    if movable > 0 {
        let speaker = Reranker::start(&decoder, &model.catalog, building.engine, &metrics)?;
        let speaker = Arc::new(speaker);
        if let Some(file) = reranker.weighed {
            let weighed = Weighed::new(speaker.clone(), model.clone(), profiles.clone(), file);
            weighed.check_golden(opened.golden()).await?;
            rungs.push(Box::new(weighed));
        }
        for (quality, file) in compared(&reranker) {
            let (speaker, profiles) = (speaker.clone(), profiles.clone());
            rungs.push(Box::new(Compared::new(quality, speaker, model.clone(), profiles, file)));
        }
    }
    Ok((Arc::new(Ladder::new(rungs, version, metrics)), opened))
}

/// The rungs on which candidates are compared.
fn compared(file: &RerankerFile) -> impl Iterator<Item = (Quality, ComparedFile)> {
    let rungs = [(Quality::Reranked, file.reranked), (Quality::Reasoned, file.reasoned)];
    rungs.into_iter().filter_map(|(quality, file)| Some((quality, file?)))
}

/// How the bundle's language model is used: not at all, if it has none.
fn reranker(bundle: &Bundle) -> Result<RerankerFile, BundleError> {
    let path = bundle.path(Part::Reranker);
    if !path.exists() {
        return Ok(RerankerFile::default());
    }
    let wrong = |error: String| BundleError::malformed(Part::Reranker.file(), &error);
    let text = std::fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
    toml::from_str(&text).map_err(|error| wrong(error.to_string()))
}
