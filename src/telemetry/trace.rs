//! The log: its destination, filter and format.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

/// The environment variable with the log filter, such as `info,raisonne::api=debug`.
const FILTER_VARIABLE: &str = "RAISONNE_LOG";

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// Lines for people.
    Human,
    /// One JSON object per line, for programs.
    Json,
}

/// Starts logging to stderr, at `info` unless `RAISONNE_LOG` sets another filter. Fails if this process has a logger
/// already.
pub fn start_tracing(format: TraceFormat) -> Result<(), TryInitError> {
    let filter =
        EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info"));
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        TraceFormat::Human => registry.with(lines).try_init(),
        TraceFormat::Json => registry.with(lines.json().flatten_event(true)).try_init(),
    }
}
