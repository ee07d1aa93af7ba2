//! What have shoppers done since the bundle was made?
//!
//! Shops report events, which are stored, counted and shown to requests by one owner thread. [`EventRecorder`] is the way to
//! it; [`LiveStatistics`] holds the counts. `docs/events.md` gives the rules.

mod counting;
mod decide;
mod doubts;
mod error;
mod event;
mod owner;
mod recorder;
mod replay;
mod shoppers;
mod sweep;
mod table;
#[cfg(test)]
mod tests;

pub use counting::{CountsBase, LiveStatistics, PutItem};
pub use decide::{EVENT_TIME_MIN, RecordCall, RecordOutcome, Refusal, Uncounted};
pub use error::{EventsError, RecordError};
pub use event::{NewEvent, StoredEvent};
pub use owner::OPENING_EVENTS_MAX;
pub use recorder::{EventRecorder, EventsOptions};
pub use shoppers::SHOPPER_EVENTS_MAX;
