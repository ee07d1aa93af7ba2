//! Bars for whoever is waiting at a terminal, lines for everybody else.

use crate::train::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};

/// A bar that changes its name as the work goes on.
#[derive(Debug)]
pub struct Bar {
    line: ProgressBar,
    what: String,
    terminal: bool,
}

impl Bar {
    /// A bar on stderr.
    pub fn new() -> Self {
        let style = ProgressStyle::with_template(
            "{elapsed_precise} {bar:32} {pos}/{len} {msg} (eta {eta})",
        )
        .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(4));
        bar.set_style(style);
        Self { line: bar, what: String::new(), terminal: std::io::stderr().is_terminal() }
    }

    /// Says a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        self.line.suspend(|| {
            let _ = writeln!(std::io::stderr(), "{line}");
        });
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.line.finish_and_clear();
    }
}

impl Progress for Bar {
    fn show(&mut self, what: &str, done: u64, of: u64) {
        let stem = what.split(',').next().unwrap_or(what);
        if stem != self.what {
            stem.clone_into(&mut self.what);
            self.line.reset();
            if !self.terminal {
                self.say(stem);
            }
        }
        self.line.set_length(of);
        self.line.set_position(done);
        self.line.set_message(what.to_owned());
    }
}
