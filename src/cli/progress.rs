//! Progress on stderr: a bar on a terminal, plain lines elsewhere, or JSON Lines.

use crate::train::{ProgressObserver, ProgressUpdate};
use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The time between two JSON lines of one task.
const JSON_INTERVAL: Duration = Duration::from_millis(250);

/// A progress bar that changes its name as the work goes on.
#[derive(Debug)]
pub struct TerminalProgress {
    bar: ProgressBar,
    /// The current task.
    task: String,
    is_terminal: bool,
}

/// Writes updates to stderr as JSON Lines: a task's first and last ones, and a few per second between them.
#[derive(Debug, Default)]
pub struct JsonProgress {
    task: String,
    written: Option<Instant>,
}

// === impl TerminalProgress ===

impl TerminalProgress {
    /// On stderr.
    pub fn new() -> Self {
        let style = ProgressStyle::with_template("{elapsed_precise} {bar:32} {pos}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
        bar.set_style(style);
        Self { bar, task: String::new(), is_terminal: std::io::stderr().is_terminal() }
    }

    /// Prints a line above the bar.
    fn print(&self, line: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }

    /// Removes the bar.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl ProgressObserver for TerminalProgress {
    fn warn(&mut self, text: &str) {
        self.print(&format!("warning: {text}"));
    }

    fn report(&mut self, update: &ProgressUpdate<'_>) {
        if update.task != self.task {
            update.task.clone_into(&mut self.task);
            self.bar.reset();
            if !self.is_terminal {
                self.print(update.task);
            }
        }
        self.bar.set_length(update.of);
        self.bar.set_position(update.step);
        let eta = update.eta_seconds.map_or_else(|| self.bar.eta(), Duration::from_secs_f64);
        self.bar.set_message(message(update, eta));
    }
}

/// The task, its losses and the time left.
fn message(update: &ProgressUpdate<'_>, eta: Duration) -> String {
    let mut text = update.task.to_owned();
    for (name, value) in update.losses {
        let _ = write!(text, ", {name} {value:.3}");
    }
    let _ = write!(text, " (eta {:#})", HumanDuration(eta));
    text
}

impl ProgressObserver for JsonProgress {
    fn warn(&mut self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{}", serde_json::json!({ "warning": text }));
    }

    fn report(&mut self, update: &ProgressUpdate<'_>) {
        let is_due = self.written.is_none_or(|written| written.elapsed() >= JSON_INTERVAL);
        if update.task == self.task && update.step < update.of && !is_due {
            return;
        }
        update.task.clone_into(&mut self.task);
        self.written = Some(Instant::now());
        if let Ok(line) = serde_json::to_string(update) {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_task_losses_and_time_left() {
        let update =
            ProgressUpdate { losses: &[("loss", 0.12345)], ..ProgressUpdate::new("sft", 3, 9) };
        assert_eq!(message(&update, Duration::from_secs(90)), "sft, loss 0.123 (eta 2m)");
    }
}
