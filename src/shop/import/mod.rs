//! Imports the tables of a shop as a [`Shop`](super::Shop): all of it, or nothing.
//!
//! Every format is read as rows of text cells. One set of rules checks them all, and errors name a cell
//! in the same way.

mod attributes;
mod byte_meter;
mod cell;
mod columns;
mod compression;
mod counts;
mod delimited;
mod dialect;
mod encoding;
mod event_gaps;
mod event_ids;
mod event_records;
mod event_rows;
mod events;
mod fifo;
mod file_fault;
mod files;
mod id;
mod items;
mod json_cell;
mod json_lines;
mod lines;
mod names;
mod number;
mod numbering;
mod parquet;
mod records;
mod rejects;
mod report;
mod row;
mod source;
mod table;
mod time;

pub use cell::DecimalMark;
pub use counts::LogCounts;
pub use dialect::{Delimiter, FileSpec, Quote, TableFormat, TextEncoding};
pub use event_rows::{EventRows, read_events};
pub use events::EventRow;
pub use rejects::{Reject, RejectReason, RejectReasons, Rejects};
pub use report::{
    CatalogCounts, FoundColumn, IgnoredColumns, ImportReport, TableReport, UnknownItems,
};
pub use time::{EventSpan, SpanWarning, TimeForm, TimeOptions, TimeOptionsError, TimeUnit};

use super::ShopItem;
use super::folder::{ShopError, ShopLog, refuse_existing};
use crate::domain::Timestamp;
use cell::CellFault;
use columns::ColumnSpecs;
use event_records::EventRecords;
use files::TableFiles;
use report::ImportedTables;
use row::{ImportRow, NextRow};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use table::ImportTable;

/// Bytes of one row of a file.
const ROW_BYTES_MAX: u64 = 1 << 20;
/// Rows of one file: users, items and baskets are numbered in 32 bits.
const ROWS_MAX: u64 = u32::MAX as u64;
/// Wrong rows that are listed by default.
const REJECTS_LISTED: usize = 20;
/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 4_096;

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct ImportSpec {
    /// The table of items: a file, a folder of files, a pattern such as `items-*.csv`, or `-` for the standard input.
    pub items: PathBuf,
    /// The table of events: as for the items.
    pub events: PathBuf,
    /// How the files of the items are written.
    pub items_spec: FileSpec,
    /// How the files of the events are written.
    pub events_spec: FileSpec,
    /// Columns of the items to take as attributes; `|` separates the values of one.
    pub attributes: Vec<String>,
    /// (our name, the file's name) of columns whose names are unknown here.
    pub columns: Vec<(String, String)>,
    /// Whether to leave out wrong rows, instead of importing nothing.
    pub skip_rejects: bool,
    /// Wrong rows to list; the others are counted.
    pub rejects_max: usize,
    /// The time of the import. No event may be more than a day later.
    pub now: Timestamp,
    /// How times are written.
    pub time: TimeOptions,
    /// What parts the fraction from the whole of prices and quantities.
    pub decimal: DecimalMark,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file can't be read, or not to its end.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the system or the decoder.
        source: io::Error,
    },
    /// A file is of no known format.
    #[error("{path}: {why}", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A file lacks a column that it must have.
    #[error("{path} has no column for {ours}: looked for {looked_for}; it has {found}{hint}",
        path = path.display(), looked_for = looked_for.join(", "), found = found.join(", "),
        hint = names::hint(ours, looked_for, found))]
    Column {
        /// The file.
        path: PathBuf,
        /// Our name of the column.
        ours: String,
        /// The names that the column may have.
        looked_for: Vec<String>,
        /// The columns of the file.
        found: Vec<String>,
    },
    /// A column of the file is mapped to no column of ours: the name, and the known ones.
    #[error("{0:?} is not one of our columns{nearest}: {known}",
        nearest = names::did_you_mean(.0, .1.iter()), known = .1.join(", "))]
    UnknownName(String, Vec<String>),
    /// A column that was mapped is in neither file.
    #[error("no file has a column {theirs:?} to read as {ours}{nearest}; they have {found}",
        nearest = names::did_you_mean(theirs, found.iter()), found = found.join(", "))]
    Unmapped {
        /// Our name.
        ours: String,
        /// The file's name.
        theirs: String,
        /// The columns of both files.
        found: Vec<String>,
    },
    /// A file has no valid row.
    #[error("{path} has no rows to import", path = .0.display())]
    Empty(PathBuf, Box<ImportReport>),
    /// Some rows are wrong.
    #[error("{first}\n{rejects}", first = refusal(.0), rejects = .0.rejects)]
    Rejected(Box<ImportReport>),
    /// The shop can't be written.
    #[error(transparent)]
    Write(#[from] ShopError),
}

/// The import's results so far.
struct ImportState<'a> {
    rejects: Rejects,
    tables: Vec<TableReport>,
    /// The files' names of the columns that were read.
    read: BTreeSet<String>,
    progress: &'a mut dyn FnMut(u64, u64),
    bytes_done: u64,
    bytes_total: u64,
}

/// Imports a shop into the new folder `out`. `progress` receives the bytes read and their total.
///
/// Memory does not depend on the size of the files but on what is in them. An event takes 32 bytes while it is read, and up to
/// 52 once, while events out of order are sorted. A distinct id of a user, an item or a user's named basket takes its own
/// bytes, and 20 to 40 more; the id of an event takes 21 to 43.
pub fn import(
    spec: &ImportSpec,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImportReport, ImportError> {
    refuse_existing(out)?;
    let known = items::COLUMNS.iter().chain(&events::COLUMNS).map(|column| column.ours);
    columns::check_names(spec, &known.collect())?;
    let items_files = TableFiles::find(&spec.items, spec.items_spec)?;
    let events_files = TableFiles::find(&spec.events, spec.events_spec)?;
    files::refuse_one_input_twice(spec)?;
    let bytes = items_files.bytes + events_files.bytes;
    let mut state = ImportState::new(spec, bytes, progress);
    let mut items = items::ItemsBuilder::new(spec.decimal);
    let named = &spec.attributes;
    let columns = items::columns(spec);
    state.read_table("items", &items_files, columns, |row| items.take(row, named))?;
    let (items, item_ids) = items.finish();
    let mut events = events::EventsBuilder::new(&item_ids, spec);
    state.read_table("events", &events_files, events::columns(spec), |row| events.take(row))?;
    let (log, gaps) = events.finish();
    let ignored = state.tables.iter().flat_map(|table| &table.ignored);
    columns::check_mapped(spec, &state.read, ignored)?;

    let ImportState { rejects, tables, .. } = state;
    let found = ImportedTables { spec, items: &items, log: &log, gaps: &gaps, tables, rejects };
    let mut report = ImportReport::of(found);
    if !report.rejects.is_empty() && !spec.skip_rejects {
        return Err(ImportError::Rejected(Box::new(report)));
    }
    for (path, rows) in [(&spec.items, report.items), (&spec.events, report.events)] {
        if rows == 0 {
            return Err(ImportError::Empty(path.clone(), Box::new(report)));
        }
    }
    write(&items, &log, out)?;
    report.imported = true;
    Ok(report)
}

fn write(items: &[ShopItem], log: &EventRecords, out: &Path) -> Result<(), ShopError> {
    let records = &log.records;
    let shop = ShopLog {
        items,
        users: log.user_ids.len(),
        user: Box::new(|user| log.user(user)),
        events: records.len(),
        baskets: log.baskets,
        span: records.first().zip(records.last()).map(|(first, last)| (first.time, last.time)),
    };
    shop.write(out, log.events())
}

/// What a person does about wrong rows.
fn refusal(report: &ImportReport) -> String {
    let (wrong, rows): (u64, u64) = (
        report.tables.iter().map(|table| table.rejected).sum(),
        report.tables.iter().map(|table| table.rows).sum(),
    );
    format!(
        "nothing was imported: {wrong} of {rows} rows are wrong; correct them, or add `--skip-rejects` to import the \
         others"
    )
}

// === impl ImportError ===

impl ImportError {
    /// What was found in the files, if they could be read to their ends.
    pub fn report(&self) -> Option<&ImportReport> {
        match self {
            Self::Rejected(report) | Self::Empty(_, report) => Some(report),
            _ => None,
        }
    }
}

// === impl ImportSpec ===

impl ImportSpec {
    /// Imports these files at the time `now`, with no wrong row allowed.
    pub fn new(items: PathBuf, events: PathBuf, now: Timestamp) -> Self {
        let (attributes, columns) = (Vec::new(), Vec::new());
        let rejects_max = REJECTS_LISTED;
        let (time, decimal) = (TimeOptions::default(), DecimalMark::Point);
        let (items_spec, events_spec) = (FileSpec::default(), FileSpec::default());
        Self {
            items,
            events,
            items_spec,
            events_spec,
            attributes,
            columns,
            skip_rejects: false,
            rejects_max,
            now,
            time,
            decimal,
        }
    }
}

// === impl ImportState ===

impl<'a> ImportState<'a> {
    /// Reads files of `bytes` in total, without pipes.
    fn new(spec: &ImportSpec, bytes: u64, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        Self {
            rejects: Rejects::new(spec.rejects_max),
            tables: Vec::new(),
            read: BTreeSet::new(),
            progress,
            bytes_done: 0,
            bytes_total: bytes,
        }
    }

    /// Passes each row of a file to `take`, and collects the wrong ones.
    fn read_table(
        &mut self,
        name: &'static str,
        files: &TableFiles,
        columns: ColumnSpecs,
        mut take: impl FnMut(&ImportRow) -> Result<(), CellFault>,
    ) -> Result<(), ImportError> {
        let mut table = ImportTable::open(files, columns)?;
        let (mut row, mut rows) = (table.row(), 0);
        let (mut reasons, mut rejected) = (RejectReasons::default(), 0);
        loop {
            let reject = match table.next(&mut row)? {
                NextRow::Row => take(&row).err().map(|wrong| table.reject(&row, wrong)),
                NextRow::Wrong(reject) => Some(reject),
                NextRow::End => break,
            };
            if let Some(reject) = reject {
                rejected += 1;
                reasons.add(&reject);
                self.rejects.add(reject);
            }
            if rows == ROWS_MAX {
                let why = format!("it has more than {ROWS_MAX} rows");
                return Err(ImportError::Kind { path: files.named.clone(), why });
            }
            if rows % PROGRESS_ROWS == 0 {
                self.report(self.bytes_done + table.bytes_read());
            }
            rows += 1;
        }
        table.check_columns()?;
        reasons.sort();
        let heading = table.heading();
        self.read.extend(heading.theirs.iter().flatten().cloned());
        self.tables.push(TableReport::of(name, &files.named, heading, (rows, rejected, reasons)));
        self.bytes_done += table.bytes_read();
        self.report(self.bytes_done);
        Ok(())
    }

    /// Reports the bytes that were read. Those of pipes are not known before.
    fn report(&mut self, bytes: u64) {
        self.bytes_total = self.bytes_total.max(bytes);
        (self.progress)(bytes, self.bytes_total);
    }
}
