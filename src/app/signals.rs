//! The signals that a running server acts on.

use crate::rank::{LiveLadder, SwapError};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
#[cfg(unix)]
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A stream of SIGHUP. While this exists, SIGHUP does not end the process.
#[derive(Debug)]
pub struct HangupSignals {
    #[cfg(unix)]
    signal: Signal,
}

impl HangupSignals {
    /// Installs the signal handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            signal: signal(SignalKind::hangup())?,
        })
    }

    /// At each SIGHUP, opens the bundle in `dir` again and swaps it in. Signals that arrive during a swap count as one.
    pub async fn swap_bundles(mut self, live: Arc<LiveLadder>, dir: PathBuf) {
        while self.next().await {
            tracing::info!(dir = %dir.display(), "SIGHUP: opening the bundle again");
            // The swap logs its own outcome. These errors mean that it was not begun.
            if let Err(error @ (SwapError::Busy | SwapError::Gone)) = live.swap(&dir).await {
                tracing::error!(%error, "the swap was not begun");
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

/// Completes at Ctrl-C or SIGTERM.
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
