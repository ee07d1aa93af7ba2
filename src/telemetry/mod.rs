//! What operators see: metrics and traces.

mod metrics;

pub use metrics::Metrics;
