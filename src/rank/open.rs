//! From a bundle on disk to a ladder that can serve.

use super::compared::Compared;
use super::scored::Scored;
use super::user_cards::{CardCacheLimits, UserCards};
use super::weighed::Weighed;
use super::{Ladder, Rung, Shortfall};
use crate::bundle::{Bundle, BundleError, Part};
use crate::domain::{Quality, Version};
use crate::reranker::{ComparedFile, Reranker, RerankerError, RerankerFile, RerankerOptions};
use crate::scorer::{self, GpuError, OpenedScorer, Scorer};
use crate::store::Store;
use crate::telemetry::Metrics;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::{JoinError, spawn_blocking};

/// What a ladder is built with beside its bundle.
#[derive(Clone, Debug)]
pub struct LadderOptions {
    /// Fresh facts, if there is a store.
    pub store: Option<Arc<dyn Store>>,
    /// How much may be remembered.
    pub memory: CardCacheLimits,
    /// How much the scorer may take on.
    pub scorer: scorer::ScorerLimits,
    /// How the language model runs, if the bundle has one.
    pub engine: RerankerOptions,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
}

/// Why there is no ladder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bundle can't be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its scorer can't be brought to a GPU.
    #[error("the bundle's scorer on a GPU")]
    Gpu(#[from] GpuError),
    /// Its language model can't be used.
    #[error("the bundle's language model")]
    Reranker(#[from] RerankerError),
    /// Whoever opened it has panicked, or the process is ending.
    #[error("opening the bundle was broken off")]
    BrokenOff(#[from] JoinError),
}

/// The foot of a ladder: a bundle that is open and verified, and the rungs that need no language
/// model. They can serve, while the language model is still to be loaded.
pub(super) struct LowerRungs {
    pub(super) opened: Arc<OpenedScorer>,
    scored: Arc<dyn Rung>,
    profiles: Arc<UserCards>,
    reranker: RerankerFile,
    decoder: PathBuf,
    version: Version,
    building: LadderOptions,
}

/// Opens a bundle, verifies it, sends its golden requests through each rung, which also warms it,
/// and builds its ladder.
pub async fn open(
    dir: &Path,
    building: &LadderOptions,
) -> Result<(Arc<Ladder>, Arc<OpenedScorer>), OpenError> {
    let (dir, building) = (dir.to_owned(), building.clone());
    apart(move || {
        let foot = LowerRungs::open(&settled(&dir), building)?;
        Ok((foot.whole()?, foot.opened))
    })
    .await
}

/// Does what takes its time, and computes, on a thread that nobody else waits for.
pub(super) async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    spawn_blocking(work).await?
}

/// Where the bundle lies: a link may be pointed elsewhere at any time, and nothing must be put
/// together from two bundles.
pub(super) fn settled(dir: &Path) -> PathBuf {
    // What does not exist is told by whoever reads it, with the name that it was given.
    dir.canonicalize().unwrap_or_else(|_| dir.into())
}

// === impl LowerRungs ===

impl LowerRungs {
    /// Opens the bundle, verifies it and scores its golden requests. Not for threads that serve.
    pub(super) fn open(dir: &Path, building: LadderOptions) -> Result<Self, OpenError> {
        let bundle = Bundle::open(dir)?;
        let reranker = reranker(&bundle)?;
        let decoder = bundle.path(Part::Decoder);
        let opened = Arc::new(OpenedScorer::of(bundle)?);
        opened.check_golden()?;
        let (model, metrics) = (opened.model.clone(), &building.metrics);
        let version = Version::from(opened.version.as_str());
        let profiles = Arc::new(UserCards::new(
            model.clone(),
            opened.file.currency.clone(),
            building.store.clone(),
            building.memory,
            metrics.clone(),
        ));
        let limits = building.scorer;
        let slates_max = limits.slates.batch_max.get();
        let gpu = limits.gpu.map(|gpu| model.on_gpu(gpu, slates_max));
        let mut gpu = gpu.transpose()?;
        gpu.iter_mut().try_for_each(|gpu| opened.check_golden_on(gpu))?;
        let scorer = Scorer::start(&model, gpu, limits, metrics);
        let (fusion, movable) = (opened.file.fusion, movable(&reranker));
        let scored = Scored::new(model, scorer, profiles.clone(), fusion, version.clone(), movable);
        Ok(Self {
            scored: Arc::new(scored),
            opened,
            profiles,
            reranker,
            decoder,
            version,
            building,
        })
    }

    /// The rungs that its language model will be asked on.
    pub(super) fn above(&self) -> Vec<Quality> {
        let weighed = self.reranker.weighed.map(|_| Quality::Weighed);
        weighed.into_iter().chain(compared(&self.reranker).map(|(quality, _)| quality)).collect()
    }

    /// The ladder without its language model, and why it does without.
    pub(super) fn lacking(&self, why: &Shortfall) -> Arc<Ladder> {
        let lacks = self.above().into_iter().map(|quality| (quality, why.clone())).collect();
        Arc::new(self.ladder(Vec::new()).lacking(lacks))
    }

    /// Loads the language model, if there is one, weighs the golden requests, and builds the whole
    /// ladder. Not for threads that serve.
    pub(super) fn whole(&self) -> Result<Arc<Ladder>, OpenError> {
        let above = if self.above().is_empty() { Vec::new() } else { self.speaking()? };
        Ok(Arc::new(self.ladder(above)))
    }

    fn ladder(&self, above: Vec<Arc<dyn Rung>>) -> Ladder {
        let mut rungs = vec![self.scored.clone()];
        rungs.extend(above);
        let golden = self.opened.golden().first().cloned();
        let (version, metrics) = (self.version.clone(), self.building.metrics.clone());
        Ladder::new(rungs, version, metrics).with_golden(golden)
    }

    /// The rungs of the language model.
    fn speaking(&self) -> Result<Vec<Arc<dyn Rung>>, OpenError> {
        let (model, profiles, building) = (&self.opened.model, &self.profiles, &self.building);
        let speaker =
            Reranker::start(&self.decoder, &model.catalog, building.engine, &building.metrics)?;
        let speaker = Arc::new(speaker);
        let mut rungs: Vec<Arc<dyn Rung>> = Vec::new();
        if let Some(file) = self.reranker.weighed {
            let weighed = Weighed::new(speaker.clone(), model.clone(), profiles.clone(), file);
            weighed.check_golden(self.opened.golden())?;
            rungs.push(Arc::new(weighed));
        }
        for (quality, file) in compared(&self.reranker) {
            let (speaker, profiles) = (speaker.clone(), profiles.clone());
            rungs.push(Arc::new(Compared::new(quality, speaker, model.clone(), profiles, file)));
        }
        Ok(rungs)
    }
}

/// How many candidates the rungs above may bring to the front: they need their reasons.
fn movable(file: &RerankerFile) -> usize {
    let weighed = file.weighed.map_or(0, |file| file.candidates_max);
    compared(file).map(|(_, file)| file.offered_max).fold(weighed, usize::max)
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
