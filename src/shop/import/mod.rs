//! From the tables that a shop exports to a [`Shop`]: all of it, or nothing.
//!
//! Every format is read as rows of text cells, so that one set of rules judges them all and a
//! wrong cell is named the same way wherever it stands.

mod attributes;
mod cell;
mod columns;
mod delimited;
mod events;
mod items;
mod json_lines;
mod parquet;
mod rejects;
mod source;
mod table;

pub use rejects::{Reject, Rejects};

use super::folder::{ShopError, refuse_existing};
use super::{Shop, ShopItem};
use crate::domain::Timestamp;
use cell::Wrong;
use columns::Columns;
use serde::Serialize;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use table::{Heading, Row, Table, Turn};

/// Bytes of one row of a file.
const ROW_BYTES_MAX: u64 = 1 << 20;
/// Rows of one file: users, items and baskets are numbered in 32 bits.
const ROWS_MAX: u64 = u32::MAX as u64;
/// Wrong rows that are listed, unless the plan says otherwise.
const REJECTS_LISTED: usize = 20;
/// Rows between two reports of progress.
const PROGRESS_ROWS: u64 = 4_096;

/// What to import, and how.
#[derive(Clone, Debug)]
pub struct ImportSpec {
    /// The table of items.
    pub items: PathBuf,
    /// The table of events.
    pub events: PathBuf,
    /// Columns of the items to take as attributes; `|` parts several values of one.
    pub attributes: Vec<String>,
    /// (our name, their name) of columns that we would not recognise.
    pub columns: Vec<(String, String)>,
    /// Whether to leave wrong rows out, rather than to import nothing.
    pub skip_rejects: bool,
    /// Wrong rows to list; the others are counted.
    pub rejects_max: usize,
    /// The time of the import: no event may lie more than a day after it.
    pub now: Timestamp,
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
    pub ignored: Vec<Ignored>,
    /// Rows that were left out.
    pub rejects: Rejects,
}

/// The columns of a file that were not read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ignored {
    /// The file.
    pub file: PathBuf,
    /// Their names.
    pub columns: Vec<String>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file can't be read to its end.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the decoder says.
        source: io::Error,
    },
    /// A file is not of a kind that we read.
    #[error("{path}: {why}", path = path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A column that must be there is not.
    #[error("{path} has no column for {ours}: looked for {looked_for}; it has {found}", path = path.display())]
    Column {
        /// The file.
        path: PathBuf,
        /// Our name of the column.
        ours: String,
        /// The spellings that we know.
        looked_for: String,
        /// The columns that there are.
        found: String,
    },
    /// A column was mapped to a name that we don't have.
    #[error("{0:?} is no column of ours to map another to: they are {1}")]
    UnknownName(String, String),
    /// A column that was mapped is in neither file.
    #[error("no file has a column {theirs:?} to read as {ours}")]
    Unmapped {
        /// Our name.
        ours: String,
        /// Their name.
        theirs: String,
    },
    /// A file has not one good row.
    #[error("{path} has no rows to import", path = .0.display())]
    Empty(PathBuf),
    /// Rows are wrong.
    #[error("nothing was imported\n{0}")]
    Rejected(Rejects),
    /// The shop can't be written.
    #[error(transparent)]
    Write(#[from] ShopError),
}

/// What has been seen of the files so far.
struct Tally<'a> {
    rejects: Rejects,
    ignored: Vec<Ignored>,
    /// Columns that were read, by their names.
    read: BTreeSet<String>,
    progress: &'a mut dyn FnMut(u64, u64),
    bytes_done: u64,
    bytes_total: u64,
}

/// Imports a shop into the new folder `out`. `progress` is told the bytes read, and of how many.
pub fn import(
    plan: &ImportSpec,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<ImportReport, ImportError> {
    refuse_existing(out)?;
    columns::check_names(plan)?;
    let mut tally = Tally::new(plan, progress)?;
    let mut items = items::Items::default();
    let named = &plan.attributes;
    tally.walk(&plan.items, items::columns(plan), |row| items.take(row, named))?;
    let items = items.finish();
    let mut events = events::Events::new(&items, plan.now);
    tally.walk(&plan.events, events::columns(plan), |row| events.take(row))?;
    let (users, events) = events.finish();

    let Tally { rejects, ignored, read, .. } = tally;
    columns::check_mapped(plan, &read)?;
    if !rejects.is_empty() && !plan.skip_rejects {
        return Err(ImportError::Rejected(rejects));
    }
    for (path, rows) in [(&plan.items, items.len()), (&plan.events, events.len())] {
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
    /// A plan to import these files at the time `now`, whole or not at all.
    pub fn new(items: PathBuf, events: PathBuf, now: Timestamp) -> Self {
        let (attributes, columns) = (Vec::new(), Vec::new());
        let rejects_max = REJECTS_LISTED;
        Self { items, events, attributes, columns, skip_rejects: false, rejects_max, now }
    }
}

// === impl ImportReport ===

impl ImportReport {
    fn of(shop: &Shop, ignored: Vec<Ignored>, rejects: Rejects) -> Self {
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

// === impl Tally ===

impl<'a> Tally<'a> {
    fn new(plan: &ImportSpec, progress: &'a mut dyn FnMut(u64, u64)) -> Result<Self, ImportError> {
        Ok(Self {
            rejects: Rejects::new(plan.rejects_max),
            ignored: Vec::new(),
            read: BTreeSet::new(),
            progress,
            bytes_done: 0,
            bytes_total: size(&plan.items)? + size(&plan.events)?,
        })
    }

    /// Hands each row of a file to `take`, and gathers the wrong ones.
    fn walk(
        &mut self,
        path: &Path,
        columns: Columns,
        mut take: impl FnMut(&Row) -> Result<(), Wrong>,
    ) -> Result<(), ImportError> {
        let mut table = Table::open(path, columns)?;
        let mut row = table.row();
        for rows in 0.. {
            match table.next(&mut row)? {
                Turn::Row => {
                    if let Err(wrong) = take(&row) {
                        self.rejects.add(table.reject(&row, wrong));
                    }
                }
                Turn::Wrong(reject) => self.rejects.add(reject),
                Turn::End => break,
            }
            if rows == ROWS_MAX {
                let why = format!("it has more than {ROWS_MAX} rows");
                return Err(ImportError::Kind { path: path.to_owned(), why });
            }
            if rows % PROGRESS_ROWS == 0 {
                (self.progress)(self.bytes_done + table.bytes_read(), self.bytes_total);
            }
        }
        table.check_columns()?;
        let Heading { theirs, ignored, .. } = table.heading();
        self.read.extend(theirs.iter().flatten().cloned());
        let columns = ignored.iter().cloned().collect();
        self.ignored.push(Ignored { file: path.to_owned(), columns });
        self.bytes_done += size(path)?;
        (self.progress)(self.bytes_done, self.bytes_total);
        Ok(())
    }
}

fn size(path: &Path) -> Result<u64, ImportError> {
    let read = |source| ImportError::Read { path: path.to_owned(), source };
    Ok(std::fs::metadata(path).map_err(read)?.len())
}
