//! From a bundle on disk to a ladder that can serve.

use super::followed::follow;
use super::open_error::OpenError;
use super::user_cards::{CardCacheLimits, UserCards};
use super::{Compared, Ladder, Resolver, Rung, Scored, Shortfall, Weighed};
use crate::bundle::{Bundle, BundleError, Part, check_language_model};
use crate::domain::{Quality, Version};
use crate::events::EventRecorder;
use crate::items::NewItems;
use crate::reranker::{Reranker, RerankerFile, RerankerOptions, RungSettings, RungSpec};
use crate::scorer::{self, OpenedScorer, Scorer};
use crate::store::Store;
use crate::telemetry::Metrics;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::task::spawn_blocking;

/// What a ladder is built with beside its bundle.
#[derive(Clone, Debug)]
pub struct LadderOptions {
    /// The store of users' cards, if there is one.
    pub store: Option<Arc<dyn Store>>,
    /// Items that were put while the service runs.
    pub new_items: NewItems,
    /// The events since the bundle was made, if there is a store.
    pub events: Option<EventRecorder>,
    /// Limits of the cache of users' cards.
    pub card_cache: CardCacheLimits,
    /// Limits of the scorer.
    pub scorer: scorer::ScorerLimits,
    /// How the language model runs, if the bundle has one.
    pub engine: RerankerOptions,
    /// The metrics that it records.
    pub metrics: Arc<Metrics>,
}

/// The lower rungs of a ladder: those of an open and verified bundle that need no language model. They
/// can serve while the language model is still to be loaded.
pub(super) struct LowerRungs {
    opened: Arc<OpenedScorer>,
    scored: Arc<dyn Rung>,
    resolver: Arc<Resolver>,
    reranker: RerankerFile,
    decoder: PathBuf,
    version: Version,
    options: LadderOptions,
}

/// Opens a bundle, verifies it, sends its golden requests through each rung, which also warms it,
/// and builds its ladder.
pub async fn open(
    dir: &Path,
    options: &LadderOptions,
) -> Result<(Arc<Ladder>, Arc<OpenedScorer>), OpenError> {
    let (dir, options) = (dir.to_owned(), options.clone());
    blocking(move || {
        let lower = LowerRungs::open(&resolved(&dir), options)?;
        Ok((lower.whole()?, lower.opened))
    })
    .await
}

/// Runs slow work on the pool for blocking threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OpenError> + Send + 'static,
) -> Result<T, OpenError> {
    spawn_blocking(work).await?
}

/// The folder behind a path. A link may be changed at any time, and a ladder must not be built from
/// two bundles.
pub(super) fn resolved(dir: &Path) -> PathBuf {
    // A folder that does not exist is reported under the given name when it is read.
    dir.canonicalize().unwrap_or_else(|_| dir.into())
}

// === impl LowerRungs ===

impl LowerRungs {
    /// Opens the bundle, verifies it and scores its golden requests. Blocks.
    pub(super) fn open(dir: &Path, options: LadderOptions) -> Result<Self, OpenError> {
        let bundle = Bundle::open(dir)?;
        let reranker = reranker_file(&bundle)?;
        let decoder = bundle.path(Part::Decoder);
        let opened = Arc::new(OpenedScorer::of(bundle)?);
        opened.check_golden()?;
        let version = Version::from(opened.version.as_str());
        let live = follow(&opened.model, options.events.as_ref(), &options.new_items)?;
        let user_cards = UserCards::new(
            opened.model.clone(),
            opened.file.currency.clone(),
            options.store.clone(),
            options.card_cache,
            options.metrics.clone(),
        );
        let user_cards = user_cards.with_events(options.events.clone(), live.clone());
        let (model, new_items) = (opened.model.clone(), options.new_items.clone());
        let resolver = Arc::new(Resolver::new(model, user_cards, new_items, live));
        let scored = scored(&opened, &resolver, &version, &reranker, &options)?;
        Ok(Self { scored: Arc::new(scored), opened, resolver, reranker, decoder, version, options })
    }

    /// The rungs of the bundle that need its language model.
    pub(super) fn upper(&self) -> Vec<Quality> {
        self.reranker.rungs().map(|(rung, _)| rung.quality).collect()
    }

    /// The ladder of these rungs alone, and why it does without the upper ones.
    pub(super) fn alone(&self, why: &Shortfall) -> Arc<Ladder> {
        let missing = self.upper().into_iter().map(|quality| (quality, why.clone())).collect();
        Arc::new(self.ladder(Vec::new()).with_missing(missing))
    }

    /// Loads the language model, if there is one, weighs the golden requests, and builds the whole
    /// ladder. Blocks.
    pub(super) fn whole(&self) -> Result<Arc<Ladder>, OpenError> {
        let upper = if self.upper().is_empty() { Vec::new() } else { self.open_upper()? };
        Ok(Arc::new(self.ladder(upper)))
    }

    fn ladder(&self, upper: Vec<Arc<dyn Rung>>) -> Ladder {
        let mut rungs = vec![self.scored.clone()];
        rungs.extend(upper);
        let golden = self.opened.golden().first().cloned();
        let (version, metrics) = (self.version.clone(), self.options.metrics.clone());
        let catalog = self.opened.model.catalog.clone();
        Ladder::new(rungs, version, metrics).with_golden(golden).with_catalog(catalog)
    }

    /// Loads the language model and opens its rungs.
    fn open_upper(&self) -> Result<Vec<Arc<dyn Rung>>, OpenError> {
        let LadderOptions { engine, metrics, .. } = &self.options;
        let reranker =
            Reranker::start(&self.decoder, &self.opened.model.catalog, *engine, metrics)?;
        let reranker = Arc::new(reranker);
        let open = |(rung, settings)| self.open_rung(&reranker, rung, settings);
        self.reranker.rungs().filter_map(|rung| open(rung).transpose()).collect()
    }

    /// Opens one rung of the language model.
    fn open_rung(
        &self,
        reranker: &Arc<Reranker>,
        rung: &RungSpec,
        settings: RungSettings,
    ) -> Result<Option<Arc<dyn Rung>>, OpenError> {
        let (reranker, model) = (reranker.clone(), self.opened.model.clone());
        let resolver = self.resolver.clone();
        Ok(Some(match settings {
            RungSettings::Scored => return Ok(None),
            RungSettings::Weighed(file) => {
                let weighed = Weighed::new(reranker, model, resolver, file);
                weighed.check_golden(self.opened.golden())?;
                Arc::new(weighed)
            }
            RungSettings::Compared(file) => {
                Arc::new(Compared::new(rung.quality, reranker, model, resolver, file))
            }
        }))
    }
}

/// Starts the scorer, on a GPU as well if the options name one, and opens its rung.
fn scored(
    opened: &OpenedScorer,
    resolver: &Arc<Resolver>,
    version: &Version,
    reranker: &RerankerFile,
    options: &LadderOptions,
) -> Result<Scored, OpenError> {
    let (model, limits) = (opened.model.clone(), options.scorer);
    let slates_max = limits.slates.batch_max.get();
    let gpu = limits.gpu.map(|gpu| model.on_gpu(gpu, slates_max));
    let mut gpu = gpu.transpose()?;
    gpu.iter_mut().try_for_each(|gpu| opened.check_golden_on(gpu))?;
    let scorer = Scorer::start(&model, gpu, limits, &options.metrics);
    let movable = reranker.rungs().map(|(_, settings)| settings.movable()).max().unwrap_or(0);
    let (fusion, version) = (opened.file.fusion, version.clone());
    Ok(Scored::new(model, scorer, resolver.clone(), fusion, version, movable))
}

/// The settings of the language model's rungs; none if the bundle has no such file.
fn reranker_file(bundle: &Bundle) -> Result<RerankerFile, BundleError> {
    if !bundle.has(Part::Reranker) {
        return Ok(RerankerFile::default());
    }
    let wrong = |error: String| BundleError::malformed(Part::Reranker.file(), &error);
    let file: RerankerFile = toml::from_str(&bundle.read_text(Part::Reranker)?)
        .map_err(|error| wrong(error.to_string()))?;
    if file != RerankerFile::default() {
        check_language_model(&bundle.golden)?;
    }
    Ok(file)
}
