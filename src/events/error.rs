//! Why events can't be read or taken.

use super::decide::Refusal;
use crate::store::StoreError;
use std::sync::Arc;

/// Why the events of the store can't be used.
#[derive(Debug, thiserror::Error)]
pub enum EventsError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An entry can't be read.
    #[error(
        "the table of events in the store is damaged: {0}; restore the store, or move it away to start with an empty one"
    )]
    Damaged(String),
    /// Events came faster than a new bundle could count them.
    #[error(
        "more than {0} events came while the bundle was opened; open it again when there are fewer"
    )]
    Overtaken(usize),
    /// The owner of the events has ended.
    #[error("the thread that stores events has ended")]
    Gone,
}

/// Why a call's events were not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecordError {
    /// Some are invalid, by their places in the call.
    #[error("{} events are invalid", .0.len())]
    Refused(Vec<(u32, Refusal)>),
    /// As many calls wait as may.
    #[error("as many calls with events wait as may")]
    Full,
    /// They could not be stored.
    #[error("the events could not be stored: {0}")]
    Failed(Arc<EventsError>),
    /// The owner of the events has ended.
    #[error("the thread that stores events has ended")]
    Gone,
}
