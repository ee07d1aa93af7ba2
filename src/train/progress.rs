//! Reports of a stage's progress to an observer, such as a progress bar.

use serde::{Serialize, Serializer};

/// A named figure of a step.
pub type Metric = (&'static str, f64);

/// The progress of one task of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ProgressUpdate<'a> {
    /// The task, such as `sft` or `snapshots`.
    pub task: &'a str,
    /// Steps done.
    pub step: u64,
    /// Steps in all.
    pub of: u64,
    /// Losses of the last step, by name.
    #[serde(serialize_with = "as_map", skip_serializing_if = "<[_]>::is_empty")]
    pub losses: &'a [Metric],
    /// Other figures of the last step, by name, such as the learning rate.
    #[serde(serialize_with = "as_map", skip_serializing_if = "<[_]>::is_empty")]
    pub metrics: &'a [Metric],
    /// The estimated time left, s, where the task estimates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<f64>,
}

/// Receives the progress of a stage.
pub trait ProgressObserver {
    /// Receives one update.
    fn report(&mut self, update: &ProgressUpdate<'_>);

    /// Receives a warning: a sentence or two.
    fn warn(&mut self, _text: &str) {}

    /// Receives an update without figures: `step` of `of` steps of `task` are done.
    fn show(&mut self, task: &str, step: u64, of: u64) {
        self.report(&ProgressUpdate::new(task, step, of));
    }

    /// Receives an update with the losses of the last step.
    fn show_losses(&mut self, task: &str, step: u64, of: u64, losses: &[Metric]) {
        self.report(&ProgressUpdate { losses, ..ProgressUpdate::new(task, step, of) });
    }
}

/// Ignores all progress.
#[derive(Debug, Default)]
pub struct NoProgress;

impl ProgressObserver for NoProgress {
    fn report(&mut self, _update: &ProgressUpdate<'_>) {}
}

// === impl ProgressUpdate ===

impl<'a> ProgressUpdate<'a> {
    /// An update without figures.
    pub fn new(task: &'a str, step: u64, of: u64) -> Self {
        Self { task, step, of, losses: &[], metrics: &[], eta_seconds: None }
    }
}

fn as_map<S: Serializer>(metrics: &&[Metric], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(metrics.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_holds_figures_by_name_and_only_those_that_are_known() {
        let plain = ProgressUpdate::new("snapshots", 1, 3);
        let json = serde_json::to_string(&plain).unwrap();
        assert_eq!(json, r#"{"task":"snapshots","step":1,"of":3}"#);
        let (losses, metrics) = ([("loss", 0.5)], [("learning_rate", 0.25)]);
        let trained = ProgressUpdate {
            task: "sft",
            losses: &losses,
            metrics: &metrics,
            eta_seconds: Some(2.0),
            ..plain
        };
        let json = serde_json::to_string(&trained).unwrap();
        assert_eq!(
            json,
            r#"{"task":"sft","step":1,"of":3,"losses":{"loss":0.5},"metrics":{"learning_rate":0.25},"eta_seconds":2.0}"#
        );
    }
}
