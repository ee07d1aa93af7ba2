//! What stands for a GPU in a program that was built without the feature `cuda`: there is none.

use super::{GpuLimits, ScorerModel, ScorerSlate, SlateScores};
use std::convert::Infallible;

/// A GPU that nobody has.
#[derive(Debug)]
pub struct Gpu(Infallible);

/// This program is for processors.
#[derive(Debug, thiserror::Error)]
#[error("this program was built without the feature `cuda`, and can't use a GPU")]
pub struct GpuError;

impl ScorerModel {
    /// Says that there is none.
    pub fn on_gpu(&self, _limits: GpuLimits, _slates_max: usize) -> Result<Gpu, GpuError> {
        Err(GpuError)
    }

    /// Scores slates on a GPU that nobody has.
    pub fn score_on(
        &self,
        _slates: &[ScorerSlate<'_>],
        gpu: &mut Gpu,
    ) -> Result<Vec<SlateScores>, GpuError> {
        match gpu.0 {}
    }
}
