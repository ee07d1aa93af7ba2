//! The rows of a table of events one by one, for whoever sends them on instead of keeping them.

use super::events;
use super::files::TableFiles;
use super::time::TimeReader;
use super::{ImportError, ImportSpec, ImportState, Rejects, columns};
use crate::domain::{EventKind, Timestamp};
use std::path::Path;

/// A valid row of a table of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRow<'a> {
    /// The file that it is in.
    pub file: &'a Path,
    /// Its line from 1; for Parquet, its row from 1.
    pub line: u64,
    /// The user's id.
    pub user: &'a str,
    /// The item's id.
    pub item: &'a str,
    /// Its time.
    pub time: Timestamp,
    /// What the user did; a purchase if the table does not say.
    pub kind: EventKind,
    /// The event's id, if the table has one.
    pub event: Option<&'a str>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRows {
    /// Rows that were read.
    pub rows: u64,
    /// Those that are wrong.
    pub wrong: Rejects,
}

/// Passes each valid row of the events of `spec` to `take`, in the order of the files, by the rules of [`super::import()`].
/// The items of `spec` are not read, and an item may be any. `progress` receives the bytes read and their total.
pub fn read_events(
    spec: &ImportSpec,
    take: &mut dyn FnMut(EventRow<'_>),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<EventRows, ImportError> {
    let known = events::COLUMNS.iter().map(|column| column.ours);
    columns::check_names(spec, &known.collect())?;
    let files = TableFiles::find(&spec.events, spec.events_spec)?;
    let mut times = TimeReader::new(spec.time.clone(), spec.now);
    let mut state = ImportState::new(spec, files.bytes, progress);
    state.read_table("events", &files, events::columns(spec), |row| {
        take(events::read_row(row, &mut times)?);
        Ok(())
    })?;
    let ignored = state.tables.iter().flat_map(|table| &table.ignored);
    columns::check_mapped(spec, &state.read, ignored)?;
    let rows = state.tables.iter().map(|table| table.rows).sum();
    Ok(EventRows { rows, wrong: state.rejects })
}
