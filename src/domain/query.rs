//! A valid request.

use super::{Deadline, Event, ItemId, ItemText, Timestamp, UserId, Version};
use std::sync::Arc;

/// What a back end wants re-ranked, for whom, and by when. Valid by construction: only
/// `api/wire.rs` makes one, and it refuses what the [limits](super::limits) do not allow.
#[derive(Clone, Debug)]
pub struct Query {
    /// The caller's name for this request, or one of ours.
    pub request_id: Arc<str>,
    /// The shopper.
    pub user: UserId,
    /// History given inline; it wins over the stored one. Oldest first.
    pub history: Option<Vec<Event>>,
    /// What the shop knows about the shopper in words.
    pub profile: Option<Arc<str>>,
    /// A request in the shopper's own words.
    pub query_text: Option<Arc<str>>,
    /// The slate in the order given: `1..=CANDIDATES_MAX` distinct items.
    pub candidates: Vec<Candidate>,
    /// How many results to return.
    pub top_n: usize,
    /// How high to climb.
    pub effort: Effort,
    /// Which reasons to attach.
    pub explain: Explain,
    /// How many reasons an item may carry.
    pub reasons_per_item: usize,
    /// Who goes first when there is not enough for all.
    pub criticality: Criticality,
    /// A version to pin, if any.
    pub bundle: Option<Version>,
    /// Wall-clock time of the request, from the door.
    pub now: Timestamp,
    /// When the answer must be on its way.
    pub deadline: Deadline,
}

/// One item of a slate.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its id.
    pub item: ItemId,
    /// The upstream ranker's score, if it gave one. Finite.
    pub prior_score: Option<f32>,
    /// What it says about itself, for items that the catalogue does not hold.
    pub inline: Option<ItemText>,
}

/// How high the caller wants to climb.
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
    /// As high as the deadline allows.
    Auto,
}

/// Which reasons to attach to results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Explain {
    /// None.
    None,
    /// Reasons written ahead of time.
    Cached,
    /// Also what the language model says now.
    Live,
}

/// Who goes first when there is not enough for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Criticality {
    /// May be refused first.
    Sheddable,
    /// Ordinary traffic.
    Default,
    /// Refused last.
    Critical,
}
