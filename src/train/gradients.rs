//! The loss and the gradients of one micro-batch, on the CPU.

use super::learner_config::LearnerConfig;
use super::lesson::{Lesson, LessonBatch, LossNormalisers};
use crate::nn::decoder::{TrainableDecoder, backprop, forward};
use candle_core::backprop::GradStore;

/// The loss and the gradients of one or more micro-batches of a step.
pub(super) struct BatchGradients {
    /// Their share of the step's loss.
    pub loss: f64,
    /// Gradients of the trained variables.
    pub gradients: GradStore,
    /// Tokens without padding.
    pub tokens: usize,
    /// Padding tokens.
    pub padding: usize,
}

/// Runs the forward and backward pass of a micro-batch. `normalisers` are those of the whole step.
pub(super) fn compute(
    model: &TrainableDecoder,
    config: &LearnerConfig,
    lessons: &[&Lesson],
    normalisers: LossNormalisers,
    dropout_seed: u64,
) -> anyhow::Result<BatchGradients> {
    let batch = LessonBatch::new(lessons);
    let mut model = model.clone();
    if let Some(adapters) = &mut model.adapters {
        adapters.drop_out(Some(dropout_seed));
    }
    let mut exact = model.exact(&batch.batch, config.dtype.into())?;
    let (loss, gradients) = if config.gradient_checkpointing {
        backprop(&mut exact, |exact, rows| batch.loss(exact, rows, normalisers))?
    } else {
        let rows = forward(&model.config, &mut exact)?;
        let loss = batch.loss(&exact, &rows, normalisers)?;
        let gradients = loss.backward()?;
        (loss, gradients)
    };
    Ok(BatchGradients {
        loss: f64::from(loss.to_scalar::<f32>()?),
        gradients,
        tokens: batch.batch.tokens.len() - batch.padding(),
        padding: batch.padding(),
    })
}
