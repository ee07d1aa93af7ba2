//! The loss and the gradients of a step's micro-batches, on a GPU. It holds the frozen model; the optimiser
//! stays on the CPU.

use super::gradients::BatchGradients;
use super::learner_config::LearnerConfig;
use super::lesson::{Lesson, LossNormalisers};
use crate::nn::decoder::TrainableDecoder;

#[cfg(feature = "cuda")]
pub(super) use with_cuda::GpuGradients;
#[cfg(not(feature = "cuda"))]
pub(super) use without_cuda::NoGpuGradients as GpuGradients;

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::{BatchGradients, LearnerConfig, Lesson, LossNormalisers, TrainableDecoder};
    use crate::engine::ComputeDevice;
    use crate::nn::cuda::{Backprop, BackpropOptions};
    use crate::train::lesson::LessonBatch;
    use anyhow::Context as _;

    /// Logits that are in memory at a time: 1 GB of them.
    const LOGITS_MAX: usize = 1 << 28;

    /// A GPU that holds the frozen model.
    #[derive(Debug)]
    pub struct GpuGradients(Box<Backprop>);

    impl GpuGradients {
        /// Copies the model to the configured device, if that is a GPU.
        pub fn open(
            model: &TrainableDecoder,
            config: &LearnerConfig,
        ) -> anyhow::Result<Option<Self>> {
            let ComputeDevice::Gpu(ordinal) = config.device else { return Ok(None) };
            let rows_max = config.max_batched_tokens;
            let length_max = config.max_lesson_tokens.unwrap_or(rows_max);
            let options = BackpropOptions {
                ordinal,
                max_batched_tokens: rows_max,
                length_max,
                logits_max: LOGITS_MAX,
            };
            let backprop = Backprop::load(model, options).with_context(|| {
                format!("loading a model on {} for batches of {rows_max} tokens", config.device)
            })?;
            Ok(Some(Self(Box::new(backprop))))
        }

        /// Bytes of GPU memory that it holds.
        pub fn bytes(&self) -> usize {
            self.0.bytes()
        }

        /// Runs the forward and backward passes of a step's micro-batches. `dropout_seed` maps a
        /// micro-batch's index to its seed.
        pub fn compute(
            &mut self,
            model: &TrainableDecoder,
            batches: &[(usize, Vec<&Lesson>)],
            normalisers: LossNormalisers,
            dropout_seed: impl Fn(usize) -> u64,
        ) -> anyhow::Result<BatchGradients> {
            let adapters = model.adapters.as_ref().context("a GPU trains adapters")?;
            self.0.upload_adapters(adapters)?;
            let (mut loss, mut tokens, mut padding) = (0.0, 0, 0);
            for (index, lessons) in batches {
                let batch = LessonBatch::new(lessons);
                let targets = batch.row_targets(normalisers);
                loss += self.0.pass(&batch.batch, targets, dropout_seed(*index))?;
                padding += batch.padding();
                tokens += batch.batch.tokens.len() - batch.padding();
            }
            Ok(BatchGradients { loss, gradients: self.0.gradients(adapters)?, tokens, padding })
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod without_cuda {
    use super::{BatchGradients, LearnerConfig, Lesson, LossNormalisers, TrainableDecoder};
    use crate::engine::{ComputeDevice, ComputeDeviceError};

    /// A build without the feature `cuda` has none.
    #[derive(Debug)]
    pub enum NoGpuGradients {}

    impl NoGpuGradients {
        pub fn open(
            _model: &TrainableDecoder,
            config: &LearnerConfig,
        ) -> anyhow::Result<Option<Self>> {
            match config.device {
                ComputeDevice::Cpu => Ok(None),
                ComputeDevice::Gpu(_) => Err(ComputeDeviceError::NotBuilt.into()),
            }
        }

        pub fn bytes(&self) -> usize {
            match *self {}
        }

        pub fn compute(
            &mut self,
            _model: &TrainableDecoder,
            _batches: &[(usize, Vec<&Lesson>)],
            _totals: LossNormalisers,
            _dropout_seed: impl Fn(usize) -> u64,
        ) -> anyhow::Result<BatchGradients> {
            match *self {}
        }
    }
}
