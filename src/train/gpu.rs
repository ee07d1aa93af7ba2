//! A GPU goes over a step's batches: it has the frozen model and what an adapter's gradients need, and the learner
//! keeps all that is learned.

use super::learner::{LearnerConfig, Part};
use super::lesson::{Lesson, LossTotals};
use crate::nn::decoder::TrainableDecoder;

#[cfg(feature = "cuda")]
pub(super) use with_cuda::Gpu;
#[cfg(not(feature = "cuda"))]
pub(super) use without::Gpu;

#[cfg(feature = "cuda")]
mod with_cuda {
    use super::{LearnerConfig, Lesson, LossTotals, Part, TrainableDecoder};
    use crate::engine::ComputeDevice;
    use crate::nn::cuda::{Backprop, BackpropOptions};
    use crate::train::lesson::LessonBatch;
    use anyhow::Context as _;

    /// Logits that are there at a time: 1 GB of them.
    const LOGITS_MAX: usize = 1 << 28;

    /// A GPU that holds the model.
    #[derive(Debug)]
    pub struct Gpu(Box<Backprop>);

    impl Gpu {
        /// Brings the model to the plan's device, if that is a GPU.
        pub fn open(
            model: &TrainableDecoder,
            plan: &LearnerConfig,
            lessons: &[Lesson],
        ) -> anyhow::Result<Option<Self>> {
            let ComputeDevice::Gpu(ordinal) = plan.device else { return Ok(None) };
            let length_max = lessons.iter().map(Lesson::rows).max().unwrap_or(0);
            let (rows_max, logits_max) = (plan.max_batched_tokens, LOGITS_MAX);
            let options = BackpropOptions { ordinal, rows_max, length_max, logits_max };
            let backprop = Backprop::load(model, options).with_context(|| {
                format!(
                    "a model on {} for batches of {} rows",
                    plan.device, plan.max_batched_tokens
                )
            })?;
            Ok(Some(Self(Box::new(backprop))))
        }

        /// Bytes of its memory that are taken.
        pub fn bytes(&self) -> usize {
            self.0.bytes()
        }

        /// Goes over the batches of a step. `origin` is where that comes from which a batch leaves out.
        pub fn step(
            &mut self,
            model: &TrainableDecoder,
            batches: &[(usize, Vec<&Lesson>)],
            totals: LossTotals,
            origin: impl Fn(usize) -> u64,
        ) -> anyhow::Result<Part> {
            let adapters = model.adapters.as_ref().context("a GPU trains adapters")?;
            self.0.take(adapters)?;
            let (mut loss, mut tokens, mut padding) = (0.0, 0, 0);
            for (part, lessons) in batches {
                let taught = LessonBatch::new(lessons);
                loss += self.0.pass(&taught.batch, taught.row_targets(totals), origin(*part))?;
                padding += taught.padding();
                tokens += taught.batch.tokens.len() - taught.padding();
            }
            Ok(Part { loss, gradients: self.0.gradients(adapters)?, tokens, padding })
        }
    }
}

#[cfg(not(feature = "cuda"))]
mod without {
    use super::{LearnerConfig, Lesson, LossTotals, Part, TrainableDecoder};
    use crate::engine::{ComputeDevice, ComputeDeviceError};

    /// There is none in a program that was built without.
    #[derive(Debug)]
    pub enum Gpu {}

    impl Gpu {
        pub fn open(
            _model: &TrainableDecoder,
            plan: &LearnerConfig,
            _lessons: &[Lesson],
        ) -> anyhow::Result<Option<Self>> {
            match plan.device {
                ComputeDevice::Cpu => Ok(None),
                ComputeDevice::Gpu(_) => Err(ComputeDeviceError::NotBuilt.into()),
            }
        }

        pub fn bytes(&self) -> usize {
            match *self {}
        }

        pub fn step(
            &mut self,
            _model: &TrainableDecoder,
            _batches: &[(usize, Vec<&Lesson>)],
            _totals: LossTotals,
            _origin: impl Fn(usize) -> u64,
        ) -> anyhow::Result<Part> {
            match *self {}
        }
    }
}
