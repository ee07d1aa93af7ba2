//! A request to stop a training after its current step.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A shared request to stop. All clones share one state.
#[derive(Clone, Debug, Default)]
pub struct StopSignal(Arc<StopState>);

#[derive(Debug, Default)]
struct StopState {
    is_requested: AtomicBool,
    /// Live guards of [`StopSignal::watch`].
    watchers: AtomicUsize,
}

/// A request to stop was followed.
#[derive(Debug, thiserror::Error)]
pub enum Stopped {
    /// A training stopped before its last step.
    #[error("{task} stopped after step {step} of {of}; its checkpoint is {}", file.display())]
    Training {
        /// The training.
        task: String,
        /// Steps done.
        step: usize,
        /// Steps in all.
        of: usize,
        /// The checkpoint, from which the same stage resumes.
        file: PathBuf,
    },
    /// A stage was not begun.
    #[error("stopped before it began")]
    Stage,
}

/// A guard: while it lives, its owner checks the signal and stops soon after a request.
#[derive(Debug)]
pub struct StopWatch(Arc<StopState>);

// === impl StopSignal ===

impl StopSignal {
    /// Requests a stop.
    pub fn request(&self) {
        self.0.is_requested.store(true, Ordering::Relaxed);
    }

    /// Whether a stop was requested.
    pub fn is_requested(&self) -> bool {
        self.0.is_requested.load(Ordering::Relaxed)
    }

    /// Declares that the caller checks the signal until the guard is dropped.
    pub fn watch(&self) -> StopWatch {
        self.0.watchers.fetch_add(1, Ordering::Relaxed);
        StopWatch(self.0.clone())
    }

    /// Whether anybody checks the signal now. Work that does not has to be ended with the process.
    pub fn is_watched(&self) -> bool {
        self.0.watchers.load(Ordering::Relaxed) > 0
    }
}

impl Drop for StopWatch {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_request_and_the_watchers() {
        let (signal, other) = (StopSignal::default(), StopSignal::default());
        let clone = signal.clone();
        assert!(!signal.is_requested() && !signal.is_watched());
        let watch = clone.watch();
        clone.request();
        assert!(signal.is_requested() && signal.is_watched());
        drop(watch);
        assert!(signal.is_requested() && !signal.is_watched());
        assert!(!other.is_requested());
    }
}
