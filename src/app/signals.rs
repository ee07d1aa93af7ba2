//! What an operator tells a running process.

use crate::rank::{LiveLadder, SwapError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hang-ups (SIGHUP). From the moment that this exists, they no longer end the process.
#[derive(Debug)]
pub struct HangupSignals {
    #[cfg(unix)]
    signal: Signal,
}

impl HangupSignals {
    /// Begins to listen.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signal: signal(SignalKind::hangup())?,
        })
    }

    /// At each hang-up, opens the bundle in `dir` again and swaps it in. Those that come while a
    /// swap is carried out count as one.
    pub async fn swap(mut self, live: Arc<LiveLadder>, dir: PathBuf) {
        while self.next().await {
            tracing::info!(dir = %dir.display(), "told to open the bundle again");
            // What came of a swap that was carried out has been logged.
            if let Err(error @ (SwapError::Busy | SwapError::Gone)) = live.swap(&dir).await {
                tracing::error!(%error, "nothing is swapped");
            }
        }
    }

    #[cfg(unix)]
    async fn next(&mut self) -> bool {
        self.signal.recv().await.is_some()
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> bool {
        std::future::pending().await
    }
}

/// Completes when the operator wants the process to end: Ctrl-C, or SIGTERM.
pub async fn shutdown_signal() -> io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
