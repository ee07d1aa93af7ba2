//! Another version goes live: open, verify, warm, swap, drop.

use super::open::{LowerRungs, apart, settled};
use super::{
    DropSignal, Ladder, LadderOptions, OpenError, Shortfall, SwapError, SwapOutcome, SwapStrategy,
};
use crate::bundle::Manifest;
use crate::domain::Quality;
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

/// What a ladder lacks while its language model is still to be loaded.
const LANGUAGE_MODEL: &str = "language model";
/// The slot that a ladder serves in, as metrics call it.
const SLOT: &str = "stable";

/// A swap that somebody wants.
#[derive(Debug)]
pub(super) struct SwapRequest {
    pub(super) dir: PathBuf,
    pub(super) reply: oneshot::Sender<Result<SwapOutcome, SwapError>>,
}

/// Who swaps: the only one that puts up ladders.
pub(super) struct Swapper {
    ladder: Arc<ArcSwap<Ladder>>,
    building: LadderOptions,
    manner: SwapStrategy,
    /// The end of the latest language model.
    engine: Option<DropSignal>,
}

// === impl Swapper ===

impl Swapper {
    pub(super) fn new(
        ladder: Arc<ArcSwap<Ladder>>,
        building: LadderOptions,
        manner: SwapStrategy,
    ) -> Self {
        let first = ladder.load();
        building.metrics.bundle(SLOT, first.version().as_str(), None);
        let engine = engine(&first);
        Self { ladder, building, manner, engine }
    }

    /// Carries out one swap after the other, until nobody can want one any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<SwapRequest>) {
        while let Some(SwapRequest { dir, reply }) = inbox.recv().await {
            let outcome = self.swap(&dir).await;
            self.tell(&dir, &outcome);
            // Whoever asked may have left.
            let _ = reply.send(outcome);
        }
    }

    async fn swap(&mut self, dir: &Path) -> Result<SwapOutcome, SwapError> {
        let Some(foot) = self.open(dir).await.map_err(SwapError::Refused)? else {
            return Ok(SwapOutcome::Unchanged);
        };
        let foot = Arc::new(foot);
        if self.is_in_the_way(&foot) {
            self.put(foot.lacking(&Shortfall::Missing(LANGUAGE_MODEL)));
            let complete = self.complete(&foot).await;
            return complete.inspect_err(|_| self.put(foot.lacking(&Shortfall::Broken)));
        }
        let whole = apart(move || foot.whole()).await.map_err(SwapError::Refused)?;
        self.put(whole);
        Ok(SwapOutcome::Swapped)
    }

    /// Opens all of the bundle but its language model: none, if all of it serves already.
    async fn open(&self, dir: &Path) -> Result<Option<LowerRungs>, OpenError> {
        let current = self.ladder.load();
        let serves = current.is_whole().then(|| current.version().clone());
        drop(current);
        let (dir, building) = (dir.to_owned(), self.building.clone());
        apart(move || {
            let dir = settled(&dir);
            let version = Manifest::read(&dir)?.version;
            if serves.is_some_and(|serves| serves.as_str() == version) {
                return Ok(None);
            }
            LowerRungs::open(&dir, building).map(Some)
        })
        .await
    }

    /// Whether the language model before has to leave before another may come.
    fn is_in_the_way(&self, foot: &LowerRungs) -> bool {
        let is_there = self.engine.as_ref().is_some_and(|engine| !engine.has_dropped());
        self.manner == SwapStrategy::OneAtATime && is_there && !foot.above().is_empty()
    }

    /// Waits until the language model before is gone, and puts up the ladder with its own.
    async fn complete(&mut self, foot: &Arc<LowerRungs>) -> Result<SwapOutcome, SwapError> {
        if let Some(engine) = &mut self.engine {
            timeout(SwapStrategy::LEAVING_MAX, engine.dropped())
                .await
                .map_err(|_| SwapError::Held)?;
        }
        let foot = foot.clone();
        self.put(apart(move || foot.whole()).await.map_err(SwapError::Lacking)?);
        Ok(SwapOutcome::Swapped)
    }

    /// From now on this ladder is the one that requests take.
    fn put(&mut self, ladder: Arc<Ladder>) {
        // While a ladder without a language model serves, the one before may still be in use.
        self.engine = engine(&ladder).or(self.engine.take());
        let version = ladder.version().clone();
        let before = self.ladder.swap(ladder);
        let left = Some(before.version().as_str()).filter(|left| *left != version.as_str());
        self.building.metrics.bundle(SLOT, version.as_str(), left);
    }

    /// Logs and counts what came of a swap.
    fn tell(&self, dir: &Path, outcome: &Result<SwapOutcome, SwapError>) {
        let word = match outcome {
            Ok(swapped) => swapped.as_str(),
            Err(error) => error.as_str(),
        };
        self.building.metrics.swap(word);
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

/// The end of a ladder with a language model, which is also that of the language model.
fn engine(ladder: &Ladder) -> Option<DropSignal> {
    (ladder.top() > Quality::Scored).then(|| ladder.end())
}

/// What went wrong, and why, and why that.
fn chain(error: &SwapError) -> String {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |e| e.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
