//! The rows of a table of events one by one, for whoever sends them on instead of keeping them.

use super::events::{self, EventRow};
use super::files::TableFiles;
use super::time::TimeReader;
use super::{ImportError, ImportSpec, ImportState, Rejects, columns};

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
