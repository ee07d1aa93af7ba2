//! The ladder that serves now.

use super::swap::{SwapRequest, Swapper};
use super::{Ladder, LadderOptions, OpenError};
use arc_swap::ArcSwap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

/// Swaps that may wait while one is carried out.
const WAITING_MAX: usize = 1;

/// The ladder that serves now, until another is swapped in.
///
/// A request takes the ladder once and climbs it to the end, whatever is swapped meanwhile: so an
/// answer is of one version. Nothing is invalidated: what belongs to an old version belongs to its
/// ladder, and goes with it when the last request that climbs it has ended.
#[derive(Debug)]
pub struct LiveLadder {
    ladder: Arc<ArcSwap<Ladder>>,
    errands: mpsc::Sender<SwapRequest>,
}

/// How one version follows another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SwapStrategy {
    /// The new one is whole before the old one leaves: for as long, there are two language models.
    #[default]
    SideBySide,
    /// There is never more than one language model: the new version goes live without its own, and
    /// loads it when that of the old one is gone.
    OneAtATime,
}

/// What came of a swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapOutcome {
    /// The version serves now.
    Swapped,
    /// It did already: nothing was done.
    Unchanged,
}

/// Why a version does not serve, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// It can't: the version before goes on.
    #[error("the bundle was not swapped in")]
    Refused(#[source] OpenError),
    /// It serves, but its language model can't.
    #[error("the bundle serves without its language model")]
    Lacking(#[source] OpenError),
    /// It serves, but its language model was not loaded.
    #[error(
        "the bundle serves without its language model: the one before was still in use after {} s",
        SwapStrategy::LEAVING_MAX.as_secs()
    )]
    Held,
    /// As many swaps wait as may.
    #[error("another swap is waiting already")]
    Busy,
    /// Swaps are over: the process is ending.
    #[error("nobody carries out swaps any more")]
    Gone,
}

// === impl LiveLadder ===

impl LiveLadder {
    /// Serves this ladder first, and swaps others in in this manner, each built from a bundle as
    /// `building` says. Needs a runtime: a task of its own carries swaps out, one at a time.
    pub fn start(ladder: Arc<Ladder>, building: LadderOptions, manner: SwapStrategy) -> Self {
        let (errands, inbox) = mpsc::channel(WAITING_MAX);
        let ladder = Arc::new(ArcSwap::new(ladder));
        tokio::spawn(Swapper::new(ladder.clone(), building, manner).run(inbox));
        Self { ladder, errands }
    }

    /// The ladder that serves now. Whoever takes it keeps it, and so should not do so for long.
    pub fn ladder(&self) -> Arc<Ladder> {
        self.ladder.load_full()
    }

    /// Swaps in the bundle of this folder, once all of it has been verified. If it does not hold,
    /// the one before goes on. A swap that was begun is carried out, whoever stops waiting for it.
    pub async fn swap(&self, dir: &Path) -> Result<SwapOutcome, SwapError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.errands.try_send(SwapRequest { dir: dir.into(), reply });
        sent.map_err(|error| match error {
            TrySendError::Full(_) => SwapError::Busy,
            TrySendError::Closed(_) => SwapError::Gone,
        })?;
        outcome.await.unwrap_or(Err(SwapError::Gone))
    }
}

// === impl SwapStrategy ===

impl SwapStrategy {
    /// How long the language model before may stay in use once its ladder serves no more: longer
    /// than any deadline. What holds it longer is a stream that nobody reads.
    pub const LEAVING_MAX: Duration = Duration::from_mins(2);
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
