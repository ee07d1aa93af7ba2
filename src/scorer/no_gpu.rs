//! The GPU of a program that was built without the feature `cuda`: it has no values.

use super::{GpuLimits, ScorerModel, ScorerSlate, SlateScores};
use std::convert::Infallible;

/// A GPU, which can't exist.
#[derive(Debug)]
pub struct Gpu(Infallible);

/// The program was built without GPU support.
#[derive(Debug, thiserror::Error)]
#[error("this program was built without the feature `cuda`, and can't use a GPU")]
pub struct GpuError;

impl ScorerModel {
    /// Returns an error.
    pub fn on_gpu(&self, _limits: GpuLimits, _slates_max: usize) -> Result<Gpu, GpuError> {
        Err(GpuError)
    }

    /// Can't be called, because there is no `Gpu`.
    pub fn score_on(
        &self,
        _slates: &[ScorerSlate<'_>],
        gpu: &mut Gpu,
    ) -> Result<Vec<SlateScores>, GpuError> {
        match gpu.0 {}
    }
}
