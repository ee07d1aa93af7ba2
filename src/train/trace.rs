//! What came of a slate that a teacher thought about: a thought, and the order that follows from it.

use crate::bundle::HistoryEvent;
use crate::domain::{EventKind, Timestamp};
use crate::reranker::OfferedItem;
use serde::{Deserialize, Serialize};

/// A slate that can be learned from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// What the shopper had done, oldest first: (item, time, kind).
    pub history: Vec<(u32, Timestamp, String)>,
    /// When they were shown the slate.
    pub now: Timestamp,
    /// The candidates, best first: the one that was taken leads.
    pub order: Vec<OfferedItem>,
    /// How the teacher thought, if that led to the one that was taken.
    pub thought: Option<String>,
}

// === impl Trace ===

impl Trace {
    /// Its history, as prompts read it.
    pub fn history(&self) -> Vec<HistoryEvent> {
        let past = |(item, time, kind): &(u32, Timestamp, String)| {
            let kind = EventKind::parse(kind)?;
            Some(HistoryEvent { item: *item, time: *time, kind })
        };
        self.history.iter().filter_map(past).collect()
    }
}
