//! Which request is scheduled first?

use crate::domain::{Criticality, Deadline};
use std::cmp::Reverse;
use std::time::Duration;
use tokio::time::Instant;

/// A request without a deadline is ordered as if it had one this long after its arrival. So
/// requests with deadlines overtake it only for a bounded time.
pub const IMPLICIT_DEADLINE: Duration = Duration::from_secs(10);

/// A request's precedence in the scheduler: criticality first, then deadline.
#[derive(Clone, Copy, Debug)]
pub struct Priority {
    /// More critical requests are scheduled first.
    pub criticality: Criticality,
    /// When the answer becomes useless; `None` for background work.
    pub deadline: Option<Deadline>,
}

/// The number of an admitted request, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The total order of sequences: the smaller key is scheduled first.
///
/// Keys are unique and never change, so the first sequence always makes progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SchedulingKey {
    pub criticality: Reverse<Criticality>,
    due: Instant,
    pub id: RequestId,
    pub sample: usize,
}

// === impl Priority ===

impl Priority {
    /// Default criticality and no deadline.
    pub const BACKGROUND: Self = Self { criticality: Criticality::Default, deadline: None };
}

// === impl SchedulingKey ===

impl SchedulingKey {
    /// The key of one sample of a request that arrived at `now`.
    pub fn new(priority: Priority, now: Instant, id: RequestId, sample: usize) -> Self {
        let due = priority.deadline.map_or(now + IMPLICIT_DEADLINE, Deadline::instant);
        Self { criticality: Reverse(priority.criticality), due, id, sample }
    }
}
