//! Training on a fixed dataset: a shuffled order of lessons, checkpoints, progress and a stop signal around
//! a [`Learner`].

use super::checkpoint::DataFingerprint;
use super::learner::{Learner, StepReport};
use super::learner_config::LearnerConfig;
use super::lesson::{Lesson, LessonOrder};
use super::stop::StopSignal;
use crate::nn::decoder::TrainableDecoder;
use anyhow::ensure;
use serde::Serialize;
use std::path::Path;
use tokio::time::Instant;

/// Where checkpoints are written, and how often.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointPolicy<'a> {
    /// The file. Each checkpoint replaces the one before.
    pub file: &'a Path,
    /// Steps between two checkpoints. One more is written when a run ends.
    pub every: usize,
}

/// A step's figures, and the speed of the run so far.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TrainProgress {
    /// The step.
    #[serde(flatten)]
    pub step: StepReport,
    /// Tokens per second of this run, without padding.
    pub tokens_per_second: f64,
    /// The estimated time to the last step, s.
    pub eta_seconds: f64,
}

/// The figures of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrainReport {
    /// The loss of each step since the training began, in earlier runs as well.
    pub losses: Vec<f64>,
    /// Whether a stop signal ended the run before the last step.
    pub stopped: bool,
    /// Tokens per second of this run, without padding.
    pub tokens_per_second: f64,
    /// The share of padding in all tokens of this run.
    pub padding: f64,
    /// The duration of this run, s.
    pub seconds: f64,
}

/// A training on a fixed dataset.
#[derive(Debug)]
pub struct Trainer<'a> {
    learner: Learner,
    lessons: &'a [Lesson],
    order: LessonOrder,
    fingerprint: DataFingerprint,
}

// === impl Trainer ===

impl<'a> Trainer<'a> {
    /// Prepares a training of `model` on `lessons`. Every lesson is checked here.
    pub fn new(
        model: TrainableDecoder,
        config: LearnerConfig,
        lessons: &'a [Lesson],
    ) -> anyhow::Result<Self> {
        config.check()?;
        ensure!(!lessons.is_empty(), "`lessons` is empty");
        let longest = lessons.iter().map(Lesson::total_tokens).max();
        for (index, lesson) in lessons.iter().enumerate() {
            lesson.check(index, &model.config, config.max_batched_tokens)?;
        }
        let config = LearnerConfig { max_lesson_tokens: longest, ..config };
        let order = LessonOrder::new(lessons.len(), config.seed);
        let fingerprint = DataFingerprint::of(lessons);
        Ok(Self { learner: Learner::new(model, config)?, lessons, order, fingerprint })
    }

    /// The learner.
    pub fn learner(&self) -> &Learner {
        &self.learner
    }

    /// The trained model.
    pub fn into_model(self) -> TrainableDecoder {
        self.learner.into_model()
    }

    /// Makes one step on the next lessons of the order.
    pub fn step(&mut self) -> anyhow::Result<StepReport> {
        let config = self.learner.config();
        let indices = self.order.of_step(self.learner.steps(), config.lessons_per_step);
        let lessons: Vec<_> = indices.map(|index| &self.lessons[index]).collect();
        self.learner.step(&lessons)
    }

    /// Makes the steps that are left, until `stop` is requested, and reports each to `observer`. The last
    /// state is saved too.
    pub fn run(
        &mut self,
        checkpoints: Option<CheckpointPolicy<'_>>,
        stop: &StopSignal,
        mut observer: impl FnMut(&TrainProgress),
    ) -> anyhow::Result<TrainReport> {
        let _watch = stop.watch();
        let steps = self.learner.config().steps;
        let (begun, first) = (Instant::now(), self.learner.steps());
        let (mut tokens, mut padding) = (0, 0);
        while self.learner.steps() < steps && !stop.is_requested() {
            let step = self.step()?;
            (tokens, padding) = (tokens + step.tokens, padding + step.padding);
            let seconds = begun.elapsed().as_secs_f64();
            observer(&TrainProgress {
                step,
                tokens_per_second: tokens as f64 / seconds,
                eta_seconds: seconds / (step.step - first) as f64 * (steps - step.step) as f64,
            });
            if let Some(policy) = checkpoints.filter(|policy| step.step % policy.every.max(1) == 0)
            {
                self.save_checkpoint(policy.file)?;
            }
        }
        if let Some(policy) = checkpoints {
            self.save_checkpoint(policy.file)?;
        }
        let seconds = begun.elapsed().as_secs_f64();
        Ok(TrainReport {
            losses: self.learner.losses().to_vec(),
            stopped: self.learner.steps() < steps,
            tokens_per_second: tokens as f64 / seconds,
            padding: padding as f64 / (tokens + padding).max(1) as f64,
            seconds,
        })
    }

    /// Writes a checkpoint.
    pub fn save_checkpoint(&self, file: &Path) -> anyhow::Result<()> {
        self.learner.save_checkpoint(file, &self.fingerprint)
    }

    /// Resumes from a checkpoint of the same model, configuration and lessons. Others are refused.
    pub fn load_checkpoint(&mut self, file: &Path) -> anyhow::Result<()> {
        self.learner.load_checkpoint(file, &self.fingerprint)
    }
}
