//! Why a bundle cannot be opened.

use crate::bundle::BundleError;
use crate::events::EventsError;
use crate::reranker::RerankerError;
use crate::scorer::GpuError;
use crate::statistics::StatisticsError;
use tokio::task::JoinError;

/// Why there is no ladder.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The bundle can't be used.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its scorer can't be loaded onto a GPU.
    #[error("the bundle's scorer on a GPU")]
    Gpu(#[from] GpuError),
    /// Its language model can't be used.
    #[error("the bundle's language model")]
    Reranker(#[from] RerankerError),
    /// Its counts can't be brought up to date.
    #[error("the events since the bundle was made")]
    Events(#[from] EventsError),
    /// Its catalogue is too large to be counted.
    #[error("counting for the bundle's catalogue")]
    Statistics(#[from] StatisticsError),
    /// The thread that opened it has panicked, or the process is ending.
    #[error("opening the bundle was broken off")]
    BrokenOff(#[from] JoinError),
}
