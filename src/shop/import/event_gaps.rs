//! What the rows of a log lack, counted for the report.

use super::numbering::IdNumbers;

/// Ids of unknown items that are told apart. A whole other shop's log has more, and needs no exact count.
pub(super) const UNKNOWN_IDS_MAX: usize = 1 << 20;

/// What the rows of a log lack.
#[derive(Debug, Default)]
pub(super) struct EventGaps {
    /// Rows of items that the table of items does not have.
    pub unknown_rows: u64,
    /// Their ids, up to [`UNKNOWN_IDS_MAX`].
    pub unknown_ids: IdNumbers,
    pub without_quantity: u64,
    pub with_event_id: bool,
    /// What a reader should know about the times.
    pub time_warnings: Vec<String>,
}

// === impl EventGaps ===

impl EventGaps {
    /// Counts a row of an item that is not there.
    pub(super) fn count_unknown(&mut self, id: &str) {
        self.unknown_rows += 1;
        if self.unknown_ids.len() < UNKNOWN_IDS_MAX {
            self.unknown_ids.number(id.as_bytes());
        }
    }
}
