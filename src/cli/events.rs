//! `raisonne events`: what shoppers do, sent to a running server.

mod push;
mod sender;

use clap::Subcommand;

/// What to do with events.
#[derive(Debug, Subcommand)]
pub enum EventsCommand {
    /// Send the events of a file: CSV, TSV, JSON Lines or Parquet, as `raisonne import` reads them.
    ///
    /// Wrong rows are listed, and the others are sent. Correct them and push the file again: what was taken is not taken
    /// twice. An event without an `event_id` is known by its user, item, time and kind.
    ///
    /// Example: raisonne events push events.csv --url http://127.0.0.1:8080
    Push(push::PushArgs),
}

impl EventsCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Push(push) => push.run(),
        }
    }
}
