//! Every metric of the service, declared once.

use crate::domain::Quality;
use std::time::Duration;

/// The instruments of the service.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// A rung was attempted and took this long.
    pub fn rung(&self, _quality: Quality, _took: Duration) {}

    /// A rung fell short.
    pub fn shortfall(&self, _quality: Quality, _why: &'static str) {}
}
