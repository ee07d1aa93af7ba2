//! What was read, kept, rejected and ignored, as a person wants to know it before a training.

mod page;
mod warnings;

use super::counts::LogCounts;
use super::event_gaps::EventGaps;
use super::event_records::EventRecords;
use super::rejects::{RejectReasons, Rejects};
use super::row::Heading;
use super::{EventSpan, ImportSpec, ShopItem};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// What was imported, or would have been without its wrong rows. Its `Display` is a page.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImportReport {
    /// Whether the shop was written. Not if rows are wrong, unless they are to be skipped.
    pub imported: bool,
    /// When the events happened.
    pub span: Option<EventSpan>,
    /// How many items.
    pub items: usize,
    /// How many users.
    pub users: usize,
    /// How many events.
    pub events: usize,
    /// How many baskets the events make.
    pub baskets: u32,
    /// The table of items, and the table of events.
    pub tables: Vec<TableReport>,
    /// Events of items that the table of items does not have. They are rejected.
    pub unknown_items: UnknownItems,
    /// What the items have.
    pub catalog: CatalogCounts,
    /// What the events are.
    pub log: LogCounts,
    /// What to look at before a training, in plain words.
    pub warnings: Vec<String>,
    /// Columns that were not read.
    pub ignored: Vec<IgnoredColumns>,
    /// Rows that were left out.
    pub rejects: Rejects,
}

/// One table: its rows and its columns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TableReport {
    /// `items` or `events`.
    pub table: &'static str,
    /// Its file.
    pub file: PathBuf,
    /// Rows that were read.
    pub rows: u64,
    /// Rows that were kept.
    pub kept: u64,
    /// Rows that are wrong.
    pub rejected: u64,
    /// Why they are wrong.
    #[serde(flatten)]
    pub reasons: RejectReasons,
    /// The columns that were read.
    pub columns: Vec<FoundColumn>,
    /// Our columns that the file does not have.
    pub missing: Vec<String>,
    /// The file's columns that were not read.
    pub ignored: Vec<String>,
}

/// A column that was read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FoundColumn {
    /// Our name.
    pub ours: String,
    /// The file's name.
    pub theirs: String,
}

/// The columns of a file that were not read.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IgnoredColumns {
    /// The file.
    pub file: PathBuf,
    /// Their names.
    pub columns: Vec<String>,
}

/// Events of items that the table of items does not have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct UnknownItems {
    /// Their rows.
    pub events: u64,
    /// Their distinct ids; at most about a million are told apart.
    pub ids: usize,
    /// Whether there may be more.
    pub more: bool,
}

/// What the items of a shop have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CatalogCounts {
    /// Items without a title.
    pub without_title: usize,
    /// Items without a category.
    pub without_category: usize,
    /// Items without an attribute.
    pub without_attributes: usize,
    /// Items with neither category nor attribute.
    pub title_only: usize,
    /// Items without a description.
    pub without_description: usize,
    /// Items without a price.
    pub without_price: usize,
}

/// Everything that a report is made from.
pub(super) struct ImportedTables<'a> {
    pub spec: &'a ImportSpec,
    pub items: &'a [ShopItem],
    pub log: &'a EventRecords,
    pub gaps: &'a EventGaps,
    pub tables: Vec<TableReport>,
    pub rejects: Rejects,
}

// === impl ImportReport ===

impl ImportReport {
    pub(super) fn of(found: ImportedTables<'_>) -> Self {
        let ImportedTables { spec, items, log, gaps, tables, rejects } = found;
        let records = &log.records;
        let ignored = |table: &TableReport| IgnoredColumns {
            file: table.file.clone(),
            columns: table.ignored.clone(),
        };
        let mut report = Self {
            imported: false,
            span: EventSpan::of(records.iter().map(|record| record.time), spec.now),
            items: items.len(),
            users: log.user_ids.len(),
            events: records.len(),
            baskets: log.baskets,
            ignored: tables.iter().map(ignored).collect(),
            tables,
            unknown_items: UnknownItems {
                events: gaps.unknown_rows,
                ids: gaps.unknown_ids.len(),
                more: gaps.unknown_ids.len() == super::event_gaps::UNKNOWN_IDS_MAX,
            },
            catalog: CatalogCounts::of(items),
            log: LogCounts::of(log, gaps, items.len()),
            warnings: Vec::new(),
            rejects,
        };
        report.warnings = warnings::warnings(&report, spec, items, log);
        report.warnings.extend(gaps.time_warnings.iter().cloned());
        report
    }
}

// === impl TableReport ===

impl TableReport {
    /// The report of a table that was read: its rows, wrong rows, and why they are wrong.
    pub(super) fn of(
        table: &'static str,
        file: &Path,
        heading: &Heading,
        (rows, rejected, reasons): (u64, u64, RejectReasons),
    ) -> Self {
        let (mut columns, mut missing) = (Vec::new(), Vec::new());
        for (column, theirs) in heading.columns.iter().zip(&heading.theirs) {
            let ours = column.ours.clone();
            match theirs.clone() {
                Some(theirs) => columns.push(FoundColumn { ours, theirs }),
                None => missing.push(ours),
            }
        }
        let ignored = heading.ignored.iter().cloned().collect();
        let kept = rows - rejected;
        Self {
            table,
            file: file.to_owned(),
            rows,
            kept,
            rejected,
            reasons,
            columns,
            missing,
            ignored,
        }
    }
}

// === impl CatalogCounts ===

impl CatalogCounts {
    fn of(items: &[ShopItem]) -> Self {
        let count = |lacks: fn(&ShopItem) -> bool| items.iter().filter(|i| lacks(i)).count();
        Self {
            without_title: count(|item| item.title.is_empty()),
            without_category: count(|item| item.category.is_empty()),
            without_attributes: count(|item| item.attributes.is_empty()),
            title_only: count(|item| item.category.is_empty() && item.attributes.is_empty()),
            without_description: count(|item| item.description.is_empty()),
            without_price: count(|item| item.price.is_none()),
        }
    }
}
