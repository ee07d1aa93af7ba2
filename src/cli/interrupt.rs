//! Ctrl-C and SIGTERM while stages run.

use crate::app::shutdown_signal;
use crate::train::{StopSignal, Stopped};
use anyhow::{Context as _, anyhow};
use std::io::Write as _;

/// The exit code of a process that Ctrl-C ends at once, as shells report it: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Listens for Ctrl-C and SIGTERM on a thread of its own. The first one requests a stop of the training that runs. A second
/// one, or one while no training runs, ends the process at once.
pub fn stop_on_interrupt() -> anyhow::Result<StopSignal> {
    let stop = StopSignal::default();
    let requested = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the listener for interrupts")?;
    let listen = async move {
        while shutdown_signal().await.is_ok() {
            if requested.is_requested() || !requested.is_watched() {
                std::process::exit(INTERRUPTED);
            }
            requested.request();
            let hint = "stopping after the current step; interrupt again to end at once";
            let _ = writeln!(std::io::stderr(), "{hint}");
        }
    };
    std::thread::Builder::new()
        .name("interrupts".into())
        .spawn(move || runtime.block_on(listen))
        .context("starting the listener for interrupts")?;
    Ok(stop)
}

/// Adds to the error of a requested stop how the work is continued.
pub fn with_hint(error: anyhow::Error, hint: &str) -> anyhow::Error {
    match error.downcast_ref::<Stopped>() {
        Some(_) => anyhow!("{error:#}. To continue, {hint}"),
        None => error,
    }
}
