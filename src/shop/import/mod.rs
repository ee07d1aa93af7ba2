//! Imports the tables of a shop as a [`Shop`]: all of it, or nothing.
//!
//! Every format is read as rows of text cells. One set of rules checks them all, and errors name a cell
//! in the same way.

mod attributes;
mod byte_meter;
mod cell;
mod columns;
mod compression;
mod delimited;
mod dialect;
mod encoding;
mod events;
mod fifo;
mod file_fault;
mod files;
mod id;
mod items;
mod json_cell;
mod json_lines;
mod lines;
mod number;
mod parquet;
mod records;
mod rejects;
mod row;
mod source;
mod table;
mod time;
mod time_cursor;
mod time_digits;
mod time_format;
mod time_hint;
mod time_options;
mod time_span;
mod time_text;
mod time_zone;

pub use cell::DecimalMark;
pub use dialect::{Delimiter, FileSpec, Quote, TableFormat, TextEncoding};
pub use rejects::{Reject, Rejects};
pub use time_options::{TimeForm, TimeOptions, TimeOptionsError, TimeUnit};
pub use time_span::{EventSpan, SpanWarning};

use super::folder::{ShopError, refuse_existing};
use super::{Shop, ShopItem};
use crate::domain::Timestamp;
use cell::CellFault;
use columns::ColumnSpecs;
use files::TableFiles;
use row::{Heading, ImportRow, NextRow};
use serde::Serialize;
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

/// What was imported.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportReport {
    /// How many items.
    pub items: usize,
    /// How many users.
    pub users: usize,
    /// How many events.
    pub events: usize,
    /// How many baskets the events make.
    pub baskets: u32,
    /// The times of the first and the last event, Unix seconds.
    pub span: Option<(Timestamp, Timestamp)>,
    /// Columns that were not read.
    pub ignored: Vec<IgnoredColumns>,
    /// Rows that were left out.
    pub rejects: Rejects,
}

/// The columns of a file that were not read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IgnoredColumns {
    /// The file.
    pub file: PathBuf,
    /// Their names.
    pub columns: Vec<String>,
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
    #[error("{path} has no column for {ours}: looked for {looked_for}; it has {found}", path = path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// Our name of the column.
        ours: String,
        /// The names that the column may have.
        looked_for: String,
        /// The columns of the file.
        found: String,
    },
    /// A column of the file is mapped to no column of ours: the name, and the known ones.
    #[error("{0:?} is not one of our columns: {1}")]
    UnknownName(String, String),
    /// A column that was mapped is in neither file.
    #[error("no file has a column {theirs:?} to read as {ours}")]
    Unmapped {
        /// Our name.
        ours: String,
        /// The file's name.
        theirs: String,
    },
    /// A file has no valid row.
    #[error("{path} has no rows to import", path = .0.display())]
    Empty(PathBuf),
    /// Some rows are wrong.
    #[error("nothing was imported\n{0}")]
    Rejected(Rejects),
    /// The shop can't be written.
    #[error(transparent)]
    Write(#[from] ShopError),
}

/// The import's results so far.
struct ImportState<'a> {
    rejects: Rejects,
    ignored: Vec<IgnoredColumns>,
    /// The files' names of the columns that were read.
    read: BTreeSet<String>,
    progress: &'a mut dyn FnMut(u64, u64),
    bytes_done: u64,
    bytes_total: u64,
}

/// Imports a shop into the new folder `out`. `progress` receives the bytes read and their total.
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
    state.read_table(&items_files, items::columns(spec), |row| items.take(row, named))?;
    let items = items.finish();
    let mut events = events::EventsBuilder::new(&items, spec);
    state.read_table(&events_files, events::columns(spec), |row| events.take(row))?;
    let (users, events) = events.finish();

    let ImportState { rejects, ignored, read, .. } = state;
    columns::check_mapped(spec, &read)?;
    if !rejects.is_empty() && !spec.skip_rejects {
        return Err(ImportError::Rejected(rejects));
    }
    for (path, rows) in [(&spec.items, items.len()), (&spec.events, events.len())] {
        if rows == 0 {
            return Err(ImportError::Empty(path.clone()));
        }
    }
    let shop = Shop { items, users, events };
    shop.write(out)?;
    Ok(ImportReport::of(&shop, ignored, rejects))
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

// === impl ImportReport ===

impl ImportReport {
    fn of(shop: &Shop, ignored: Vec<IgnoredColumns>, rejects: Rejects) -> Self {
        Self {
            items: shop.items.len(),
            users: shop.users.len(),
            events: shop.events.len(),
            baskets: shop.baskets(),
            span: shop.span(),
            ignored,
            rejects,
        }
    }
}

// === impl ImportState ===

impl<'a> ImportState<'a> {
    /// Reads files of `bytes` in total, without pipes.
    fn new(spec: &ImportSpec, bytes: u64, progress: &'a mut dyn FnMut(u64, u64)) -> Self {
        Self {
            rejects: Rejects::new(spec.rejects_max),
            ignored: Vec::new(),
            read: BTreeSet::new(),
            progress,
            bytes_done: 0,
            bytes_total: bytes,
        }
    }

    /// Passes each row of a file to `take`, and collects the wrong ones.
    fn read_table(
        &mut self,
        files: &TableFiles,
        columns: ColumnSpecs,
        mut take: impl FnMut(&ImportRow) -> Result<(), CellFault>,
    ) -> Result<(), ImportError> {
        let mut table = ImportTable::open(files, columns)?;
        let mut row = table.row();
        for rows in 0.. {
            match table.next(&mut row)? {
                NextRow::Row => {
                    if let Err(wrong) = take(&row) {
                        self.rejects.add(table.reject(&row, wrong));
                    }
                }
                NextRow::Wrong(reject) => self.rejects.add(reject),
                NextRow::End => break,
            }
            if rows == ROWS_MAX {
                let why = format!("it has more than {ROWS_MAX} rows");
                return Err(ImportError::Kind { path: files.named.clone(), why });
            }
            if rows % PROGRESS_ROWS == 0 {
                self.report(self.bytes_done + table.bytes_read());
            }
        }
        table.check_columns()?;
        let Heading { theirs, ignored, .. } = table.heading();
        self.read.extend(theirs.iter().flatten().cloned());
        let columns = ignored.iter().cloned().collect();
        self.ignored.push(IgnoredColumns { file: files.named.clone(), columns });
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
