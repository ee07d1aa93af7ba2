//! Tracing: where the log goes and what it looks like.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::TryInitError;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

/// The environment variable that says what to log, such as `info,raisonne::api=debug`.
const FILTER_VARIABLE: &str = "RAISONNE_LOG";

/// Who reads the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// People.
    Human,
    /// Programs: one JSON object a line.
    Json,
}

/// Starts logging to stderr, at `info` unless `RAISONNE_LOG` says otherwise. Fails where somebody
/// already logs in this process.
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
