//! A valid request.

use super::{Deadline, Event, ItemId, ItemText, Timestamp, UserId, Version};
use std::sync::Arc;

/// A slate to be re-ranked for a shopper within a deadline.
///
/// It is valid by construction: only `api/wire.rs` builds one from a request, and it refuses a request
/// that exceeds the [limits](super::limits).
#[derive(Clone, Debug)]
pub struct Query {
    /// The caller's id of the request, or a generated one.
    pub request_id: Arc<str>,
    /// The shopper.
    pub user: UserId,
    /// The shopper's history, oldest first, if it comes inline: it replaces the stored one.
    pub history: Option<Vec<Event>>,
    /// A description of the shopper, in the shop's words.
    pub profile: Option<Arc<str>>,
    /// What the shopper asks for, in their own words.
    pub query_text: Option<Arc<str>>,
    /// The slate in the order given: from 1 to `CANDIDATES_MAX` distinct items.
    pub candidates: Vec<Candidate>,
    /// How many results are returned.
    pub top_n: usize,
    /// The highest rung to climb to.
    pub effort: Effort,
    /// Which reasons are attached.
    pub explain: Explain,
    /// How many reasons an item may have.
    pub reasons_per_item: usize,
    /// Its criticality under load.
    pub criticality: Criticality,
    /// The only version that may answer, if the caller pins one.
    pub bundle: Option<Version>,
    /// When the request arrived; of a replay, its moment in the past.
    pub now: Timestamp,
    /// Whether it is a replay: of every history, only the events before `now` are read.
    pub is_replay: bool,
    /// When the answer must be sent.
    pub deadline: Deadline,
}

/// One item of a slate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its id.
    pub item: ItemId,
    /// The upstream ranker's score, if the caller sends it. Finite.
    pub prior_score: Option<f32>,
    /// Its text, for items that the catalogue does not hold.
    pub inline: Option<ItemText>,
}

/// The highest rung that the caller wants to climb to, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effort {
    /// The small models only.
    Scored,
    /// The language model weighs each candidate alone.
    Weighed,
    /// The language model compares the best.
    Reranked,
    /// The language model thinks aloud, then compares.
    Reasoned,
    /// The highest that the deadline allows.
    Auto,
}

/// Which reasons are attached to results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Explain {
    /// None.
    None,
    /// Reasons written ahead of time.
    Cached,
    /// The same, and one that the language model writes for this request.
    Live,
}

/// Which requests are refused first under load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Criticality {
    /// Refused first.
    Sheddable,
    /// Ordinary traffic.
    Default,
    /// Refused last.
    Critical,
}
