//! A trace: a slate with the order to learn, and a teacher's accepted thought.

use crate::bundle::HistoryEvent;
use crate::domain::{EventKind, Timestamp};
use crate::reranker::OfferedItem;
use serde::{Deserialize, Serialize};

/// A training example of the `sft` stage.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// The shopper's events before the slate, oldest first: (item, time, kind).
    pub history: Vec<(u32, Timestamp, String)>,
    /// When the slate was shown.
    pub now: Timestamp,
    /// The candidates, best first. The taken one leads.
    pub order: Vec<OfferedItem>,
    /// The teacher's thought, if it holds and leads to the taken candidate.
    pub thought: Option<String>,
}

// === impl Trace ===

impl Trace {
    /// The history, without events of unknown kinds.
    pub fn history(&self) -> Vec<HistoryEvent> {
        let event = |(item, time, kind): &(u32, Timestamp, String)| {
            let kind = EventKind::parse(kind)?;
            Some(HistoryEvent { item: *item, time: *time, kind })
        };
        self.history.iter().filter_map(event).collect()
    }
}
