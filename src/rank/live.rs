//! From a bundle on disk to a ladder that can serve.

use super::profile::{MemoryLimits, Profiles};
use super::scored::Scored;
use super::{Ladder, Rung};
use crate::bundle::{Bundle, BundleError};
use crate::domain::Version;
use crate::scorer::{Limits, Opened, Scorer};
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
    pub scorer: Limits,
    /// Where things are counted.
    pub metrics: Arc<Metrics>,
}

/// Opens a bundle, verifies it, scores its golden requests, which also warms it, and builds its
/// ladder.
pub fn open(dir: &Path, building: &Building) -> Result<(Arc<Ladder>, Arc<Opened>), BundleError> {
    let opened = Arc::new(Opened::of(Bundle::open(dir)?)?);
    opened.check_golden()?;
    let version = Version::from(opened.version.as_str());
    let metrics = building.metrics.clone();
    let scorer = Scorer::start(&opened.model, building.scorer, &metrics);
    let profiles = Profiles::new(
        opened.model.clone(),
        opened.file.currency.clone(),
        building.store.clone(),
        building.memory,
        metrics.clone(),
    );
    let model = opened.model.clone();
    let scored = Scored::new(model, scorer, profiles, opened.file.fusion, version.clone());
    let rungs: Vec<Box<dyn Rung>> = vec![Box::new(scored)];
    Ok((Arc::new(Ladder::new(rungs, version, metrics)), opened))
}
