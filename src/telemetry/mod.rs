//! Metrics and logs.

mod metrics;
mod trace;

pub use metrics::{EngineLoad, EngineStep, Metrics};
pub use trace::{TraceFormat, start_tracing};
