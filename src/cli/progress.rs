//! Progress on stderr: a bar on a terminal, plain lines elsewhere, or JSON Lines.

use crate::train::{ProgressObserver, ProgressUpdate};
use indicatif::{
    DecimalBytes, HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle,
};
use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// The time between two JSON lines of one task.
const JSON_INTERVAL: Duration = Duration::from_millis(250);

/// The time between two plain lines. Work that ends sooner has none.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A progress bar that changes its name as the work goes on. Without a terminal, lines every few seconds.
#[derive(Debug)]
pub struct TerminalProgress {
    bar: ProgressBar,
    /// The current task.
    task: String,
    lines: Option<ProgressLines>,
    unit: StepUnit,
}

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StepUnit {
    Step,
    Byte,
}

/// When a line of progress is due, and what it says.
#[derive(Debug)]
struct ProgressLines {
    written: Instant,
    task: String,
    /// The first update of the task: when it came, and how many steps were done.
    begun: (Instant, u64),
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
        Self::on_stderr("{elapsed_precise} {bar:32} {pos}/{len} {msg}", StepUnit::Step)
    }

    /// On stderr, of work whose steps are bytes.
    pub fn of_bytes() -> Self {
        let bar = "{elapsed_precise} {bar:32} {decimal_bytes}/{decimal_total_bytes} {msg}";
        Self::on_stderr(bar, StepUnit::Byte)
    }

    fn on_stderr(template: &str, unit: StepUnit) -> Self {
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
        bar.set_style(style);
        let is_terminal = std::io::stderr().is_terminal();
        let lines = (!is_terminal).then(|| ProgressLines::new(Instant::now()));
        Self { bar, task: String::new(), lines, unit }
    }

    /// Removes the bar.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl ProgressObserver for TerminalProgress {
    fn report(&mut self, update: &ProgressUpdate<'_>) {
        if let Some(lines) = &mut self.lines {
            if let Some(line) = lines.line(update, self.unit, Instant::now()) {
                let _ = writeln!(std::io::stderr(), "{line}");
            }
            return;
        }
        if update.task != self.task {
            update.task.clone_into(&mut self.task);
            self.bar.reset();
        }
        self.bar.set_length(update.of);
        self.bar.set_position(update.step);
        let eta = update.eta_seconds.map_or_else(|| self.bar.eta(), Duration::from_secs_f64);
        self.bar.set_message(message(update, eta));
    }
}

// === impl ProgressLines ===

impl ProgressLines {
    fn new(now: Instant) -> Self {
        Self { written: now, task: String::new(), begun: (now, 0) }
    }

    /// The line for an update at `now`, if one is due.
    fn line(
        &mut self,
        update: &ProgressUpdate<'_>,
        unit: StepUnit,
        now: Instant,
    ) -> Option<String> {
        if update.task != self.task {
            update.task.clone_into(&mut self.task);
            self.begun = (now, update.step);
        }
        if now.duration_since(self.written) < LINE_INTERVAL {
            return None;
        }
        self.written = now;
        let since = now.duration_since(self.begun.0).as_secs_f64();
        let rate = update.step.saturating_sub(self.begun.1) as f64 / since;
        let rate = (since > 0.0 && rate > 0.0).then_some(rate);
        let left = update.of.saturating_sub(update.step);
        let eta = update.eta_seconds.or_else(|| Some(left as f64 / rate?));
        Some(line(update, unit, rate, eta))
    }
}

/// A plain line: the task, the share that is done, the rate, losses, and the time left.
fn line(
    update: &ProgressUpdate<'_>,
    unit: StepUnit,
    rate: Option<f64>,
    eta: Option<f64>,
) -> String {
    let count = |count: f64| match unit {
        StepUnit::Byte => DecimalBytes(count as u64).to_string(),
        StepUnit::Step if count < 10.0 => format!("{count:.1}"),
        StepUnit::Step => HumanCount(count as u64).to_string(),
    };
    let whole = |steps: u64| match unit {
        StepUnit::Byte => DecimalBytes(steps).to_string(),
        StepUnit::Step => HumanCount(steps).to_string(),
    };
    let (step, of) = (update.step, update.of);
    // The end of a pipe is not known: so far, all of it was read.
    let mut text = if step < of {
        let percent = step * 100 / of;
        format!("{}: {percent} % ({} of {})", update.task, whole(step), whole(of))
    } else {
        format!("{}: {}", update.task, whole(step))
    };
    if let Some(rate) = rate {
        let _ = write!(text, ", {}/s", count(rate));
    }
    for (name, value) in update.losses {
        let _ = write!(text, ", {name} {value:.3}");
    }
    if let Some(eta) = eta.filter(|_| step < of) {
        let _ = write!(text, ", {:#} left", HumanDuration(Duration::from_secs_f64(eta)));
    }
    text
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

    #[test]
    fn lines_come_every_few_seconds_with_share_and_rate() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut lines = ProgressLines::new(begin);
        for (second, task, step, of, unit, expected) in [
            (0, "importing", 0, 400_000_000, StepUnit::Byte, None),
            (4, "importing", 90_000_000, 400_000_000, StepUnit::Byte, None),
            (
                6,
                "importing",
                120_000_000,
                400_000_000,
                StepUnit::Byte,
                Some("importing: 30 % (120.00 MB of 400.00 MB), 20.00 MB/s, 14s left"),
            ),
            (7, "importing", 140_000_000, 400_000_000, StepUnit::Byte, None),
            (
                12,
                "importing",
                300_000_000,
                300_000_000,
                StepUnit::Byte,
                Some("importing: 300.00 MB, 25.00 MB/s"),
            ),
            (16, "sft", 10, 4_000, StepUnit::Step, None),
            (20, "sft", 16, 4_000, StepUnit::Step, Some("sft: 0 % (16 of 4,000), 1.5/s, 44m left")),
            (25, "cards", 0, 9, StepUnit::Step, Some("cards: 0 % (0 of 9)")),
        ] {
            let update = ProgressUpdate::new(task, step, of);
            assert_eq!(lines.line(&update, unit, at(second)).as_deref(), expected, "{second} s");
        }
    }

    #[test]
    fn a_line_of_an_update_with_figures_has_them() {
        let update = ProgressUpdate {
            losses: &[("loss", 0.12345)],
            eta_seconds: Some(90.0),
            ..ProgressUpdate::new("sft", 3, 9)
        };
        let mut lines = ProgressLines::new(Instant::now());
        let later = Instant::now() + LINE_INTERVAL;
        let shown = lines.line(&update, StepUnit::Step, later);
        assert_eq!(shown.as_deref(), Some("sft: 33 % (3 of 9), loss 0.123, 2m left"));
    }
}
