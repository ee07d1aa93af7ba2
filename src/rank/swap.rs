//! Another version goes live: open, verify, warm, swap, drop.

use super::open::{LowerRungs, blocking, resolved};
use super::{DropSignal, Ladder, LadderOptions, OpenError, Shortfall};
use crate::bundle::Manifest;
use crate::domain::Quality;
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What a ladder lacks while its language model is still to be loaded.
const LANGUAGE_MODEL: &str = "language model";
/// The label `slot` of the metric that names the version that serves. There is one slot.
const SLOT: &str = "stable";

/// How one version follows another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwapStrategy {
    /// The new version is loaded whole before the old one is dropped. Meanwhile memory holds two
    /// language models.
    #[default]
    SideBySide,
    /// Memory never holds more than one language model. The new version goes live without its own,
    /// and loads it when the old one has been dropped.
    OneAtATime,
}

/// The result of a swap that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapOutcome {
    /// The version serves now.
    Swapped,
    /// It served already: nothing was done.
    Unchanged,
}

/// Why a version does not serve, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// It can't serve: the version before goes on.
    #[error("the bundle was not swapped in")]
    Refused(#[source] OpenError),
    /// It serves, but its language model can't be loaded.
    #[error("the bundle serves without its language model")]
    Lacking(#[source] OpenError),
    /// It serves, but its language model was not loaded.
    #[error(
        "the bundle serves without its language model: the one before was still in use after {} s",
        SwapStrategy::DROP_WAIT_MAX.as_secs()
    )]
    Held,
    /// As many swaps wait as may.
    #[error("another swap is waiting already")]
    Busy,
    /// Swaps are over: the process is ending.
    #[error("nobody carries out swaps any more")]
    Gone,
}

/// A request for a swap.
#[derive(Debug)]
pub(super) struct SwapRequest {
    pub(super) dir: PathBuf,
    pub(super) reply: oneshot::Sender<Result<SwapOutcome, SwapError>>,
}

/// The task that swaps: nothing else changes which ladder serves.
pub(super) struct Swapper {
    ladder: Arc<ArcSwap<Ladder>>,
    options: LadderOptions,
    strategy: SwapStrategy,
    /// Fires when the latest language model has been dropped.
    engine_dropped: Option<DropSignal>,
}

// === impl SwapStrategy ===

impl SwapStrategy {
    /// How long a swap waits for the old language model to be dropped: longer than any deadline. Only
    /// a stream that nobody reads can hold it longer.
    pub const DROP_WAIT_MAX: Duration = Duration::from_mins(2);
}

// === impl SwapOutcome ===

impl SwapOutcome {
    /// The word for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Swapped => "swapped",
            Self::Unchanged => "already",
        }
    }
}

// === impl SwapError ===

impl SwapError {
    /// The word for metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::Lacking(_) | Self::Held => "lacking",
            Self::Busy => "busy",
            Self::Gone => "gone",
        }
    }
}

// === impl Swapper ===

impl Swapper {
    pub(super) fn new(
        ladder: Arc<ArcSwap<Ladder>>,
        options: LadderOptions,
        strategy: SwapStrategy,
    ) -> Self {
        let first = ladder.load();
        options.metrics.bundle(SLOT, first.version().as_str(), None);
        let engine_dropped = engine_drop_signal(&first);
        Self { ladder, options, strategy, engine_dropped }
    }

    /// Carries out one swap after the other, until no more can be requested.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<SwapRequest>) {
        while let Some(SwapRequest { dir, reply }) = inbox.recv().await {
            let outcome = self.swap(&dir).await;
            self.report(&dir, &outcome);
            // The caller may have hung up.
            let _ = reply.send(outcome);
        }
    }

    async fn swap(&mut self, dir: &Path) -> Result<SwapOutcome, SwapError> {
        let Some(lower) = self.open(dir).await.map_err(SwapError::Refused)? else {
            return Ok(SwapOutcome::Unchanged);
        };
        let lower = Arc::new(lower);
        if self.must_drop_first(&lower) {
            self.publish(lower.alone(&Shortfall::Missing(LANGUAGE_MODEL)));
            let completed = self.complete(&lower).await;
            return completed.inspect_err(|_| self.publish(lower.alone(&Shortfall::Broken)));
        }
        let whole = blocking(move || lower.whole()).await.map_err(SwapError::Refused)?;
        self.publish(whole);
        Ok(SwapOutcome::Swapped)
    }

    /// Opens all of the bundle but its language model; `None` if all of it serves already.
    async fn open(&self, dir: &Path) -> Result<Option<LowerRungs>, OpenError> {
        let current = self.ladder.load();
        let serves = current.is_whole().then(|| current.version().clone());
        drop(current);
        let (dir, options) = (dir.to_owned(), self.options.clone());
        blocking(move || {
            let dir = resolved(&dir);
            let version = Manifest::read(&dir)?.version;
            if serves.is_some_and(|serves| serves.as_str() == version) {
                return Ok(None);
            }
            LowerRungs::open(&dir, options).map(Some)
        })
        .await
    }

    /// Whether the old language model has to be dropped before the new one is loaded.
    fn must_drop_first(&self, lower: &LowerRungs) -> bool {
        let is_loaded = self.engine_dropped.as_ref().is_some_and(|signal| !signal.has_dropped());
        self.strategy == SwapStrategy::OneAtATime && is_loaded && !lower.upper().is_empty()
    }

    /// Waits until the old language model has been dropped, and publishes the whole ladder.
    async fn complete(&mut self, lower: &Arc<LowerRungs>) -> Result<SwapOutcome, SwapError> {
        if let Some(signal) = &mut self.engine_dropped {
            let dropped = timeout(SwapStrategy::DROP_WAIT_MAX, signal.dropped());
            dropped.await.map_err(|_| SwapError::Held)?;
        }
        let lower = lower.clone();
        self.publish(blocking(move || lower.whole()).await.map_err(SwapError::Lacking)?);
        Ok(SwapOutcome::Swapped)
    }

    /// From now on requests take this ladder.
    fn publish(&mut self, ladder: Arc<Ladder>) {
        // While a ladder without a language model serves, the old one may still be in use.
        self.engine_dropped = engine_drop_signal(&ladder).or(self.engine_dropped.take());
        let version = ladder.version().clone();
        let before = self.ladder.swap(ladder);
        let left = Some(before.version().as_str()).filter(|left| *left != version.as_str());
        self.options.metrics.bundle(SLOT, version.as_str(), left);
    }

    /// Logs and counts the outcome of a swap.
    fn report(&self, dir: &Path, outcome: &Result<SwapOutcome, SwapError>) {
        let word = match outcome {
            Ok(outcome) => outcome.as_str(),
            Err(error) => error.as_str(),
        };
        self.options.metrics.swap(word);
        let (dir, version) = (dir.display(), self.ladder.load().version().clone());
        match outcome {
            Ok(SwapOutcome::Swapped) => tracing::info!(%version, %dir, "swapped in"),
            Ok(SwapOutcome::Unchanged) => tracing::info!(%version, %dir, "serves already"),
            Err(error) => {
                let error = chain(error);
                tracing::error!(error, serving = %version, %dir, "a swap failed");
            }
        }
    }
}

/// Fires when the language model of this ladder has been dropped; `None` if it has none. The ladder
/// owns the model, so both are dropped together.
fn engine_drop_signal(ladder: &Ladder) -> Option<DropSignal> {
    (ladder.top() > Quality::Scored).then(|| ladder.drop_signal())
}

/// An error and its causes.
fn chain(error: &SwapError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
