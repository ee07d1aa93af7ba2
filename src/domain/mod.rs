//! The domain: queries, rankings, reasons and events.
//!
//! Nothing here knows a tensor, a socket or a file. A [`Query`] is valid once the API has built it, and
//! nothing below checks it again.

mod deadline;
mod ids;
mod item;
mod query;
mod ranking;
mod reason;

pub use deadline::Deadline;
pub use ids::{ItemId, UserId, Version};
pub use item::{Event, EventKind, ItemText, Timestamp};
pub use query::{Candidate, Criticality, Effort, Explain, Query};
pub use ranking::{Quality, Ranked, Ranking, Scores};
pub use reason::{Evidence, EvidenceKind, Reason, ReasonSource};

/// Limits on a request: each has a name, a unit and a default, and the API quotes them in errors.
pub mod limits {
    /// Candidates in one slate.
    pub const CANDIDATES_MAX: usize = 2_000;
    /// Events of inline history.
    pub const HISTORY_MAX: usize = 500;
    /// Bytes of a query text, and of a profile.
    pub const QUERY_BYTES_MAX: usize = 4 << 10;
    /// Bytes of a whole request body.
    pub const BODY_BYTES_MAX: usize = 4 << 20;
    /// Bytes of an item's title or category.
    pub const TITLE_BYTES_MAX: usize = 512;
    /// Bytes of an id (user, item, request, bundle).
    pub const ID_BYTES_MAX: usize = 128;
    /// Attributes of an inline item.
    pub const ATTRIBUTES_MAX: usize = 32;
    /// Bytes of an attribute's name or value.
    pub const ATTRIBUTE_BYTES_MAX: usize = 128;
    /// Reasons for one item.
    pub const REASONS_PER_ITEM_MAX: usize = 10;
    /// Experiment labels on a request.
    pub const LABELS_MAX: usize = 16;
    /// Events of one call that records them: so few that the longest ids fit into a body of JSON.
    pub const EVENTS_MAX: usize = 5_000;
    /// Seconds by which an event may be ahead of our clock before it is refused.
    pub const CLOCK_SKEW_S_MAX: i64 = 300;
}
