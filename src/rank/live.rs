//! The ladder that serves now.

use super::swap::{SwapError, SwapOutcome, SwapRequest, SwapStrategy, Swapper};
use super::{Ladder, LadderOptions};
use arc_swap::ArcSwap;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Swaps that may wait while one is carried out.
const WAITING_MAX: usize = 1;

/// The ladder that serves now, until another is swapped in.
///
/// A request takes the ladder once and climbs it to the end, even if another is swapped in meanwhile:
/// so an answer is of one version. Nothing is invalidated. Everything of an old version belongs to its
/// ladder, and is dropped when the last request that climbs it has ended.
#[derive(Debug)]
pub struct LiveLadder {
    ladder: Arc<ArcSwap<Ladder>>,
    swaps: mpsc::Sender<SwapRequest>,
}

// === impl LiveLadder ===

impl LiveLadder {
    /// Serves this ladder first, and swaps others in by this strategy, each built from a bundle with
    /// these options. Needs a runtime: a task carries out swaps, one at a time.
    pub fn start(ladder: Arc<Ladder>, options: LadderOptions, strategy: SwapStrategy) -> Self {
        let (swaps, inbox) = mpsc::channel(WAITING_MAX);
        let ladder = Arc::new(ArcSwap::new(ladder));
        tokio::spawn(Swapper::new(ladder.clone(), options, strategy).run(inbox));
        Self { ladder, swaps }
    }

    /// The ladder that serves now. A caller that keeps it keeps its memory too.
    pub fn ladder(&self) -> Arc<Ladder> {
        self.ladder.load_full()
    }

    /// Swaps in the bundle of this folder, once all of it has been verified. If it can't be verified,
    /// the current ladder goes on. Dropping the future does not stop a swap that has begun.
    pub async fn swap(&self, dir: &Path) -> Result<SwapOutcome, SwapError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.swaps.try_send(SwapRequest { dir: dir.into(), reply });
        sent.map_err(|error| match error {
            TrySendError::Full(_) => SwapError::Busy,
            TrySendError::Closed(_) => SwapError::Gone,
        })?;
        outcome.await.unwrap_or(Err(SwapError::Gone))
    }
}
