//! One call of either protocol: what its handler knows beside the message.

use crate::domain::{Deadline, Quality};
use crate::rank::{ClimbAnswer, Receipt};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// A call that was admitted. Dropping its last clone gives its permit back.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the climb must end.
    pub climb_deadline: Deadline,
    /// When the caller stops waiting: the climb's deadline, and the time that sending takes.
    pub response_deadline: Deadline,
    /// What is recorded of it, for the response's headers and the metrics.
    pub record: Arc<CallRecord>,
    /// Held as long as anything is computed for the call.
    _permit: Arc<OwnedSemaphorePermit>,
}

/// What is learnt about a call while it is handled.
#[derive(Debug, Default)]
pub struct CallRecord {
    id: OnceLock<Arc<str>>,
    outcome: OnceLock<CallOutcome>,
}

/// The quality and the cost of a climb's last answer.
#[derive(Clone, Copy, Debug)]
pub struct CallOutcome {
    /// The rung that was reached.
    pub quality: Quality,
    /// What the answer cost.
    pub receipt: Receipt,
}

// === impl Call ===

impl Call {
    /// A call that began at `start` and must be answered within `budget`, of which `reply_reserve` is for sending.
    pub fn new(
        start: Instant,
        budget: Duration,
        reply_reserve: Duration,
        record: Arc<CallRecord>,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        // A budget below the reserve is all for the climb: an answer that is a little late beats none.
        let climb = budget.checked_sub(reply_reserve).filter(|left| !left.is_zero());
        Self {
            climb_deadline: Deadline::after(start, climb.unwrap_or(budget)),
            response_deadline: Deadline::after(start, budget),
            record,
            _permit: Arc::new(permit),
        }
    }
}

// === impl CallRecord ===

impl CallRecord {
    /// Of a call that its caller may have named.
    pub fn new(id: Option<&str>) -> Self {
        let record = Self::default();
        if let Some(id) = id {
            let _ = record.id.set(id.into());
        }
        record
    }

    /// The call's id: the caller's, or a random one.
    pub fn id(&self) -> Arc<str> {
        self.id.get_or_init(|| format!("{:016x}", rand::random::<u64>()).into()).clone()
    }

    /// Records the last answer of the climb.
    pub fn record(&self, answer: &ClimbAnswer) {
        let outcome = CallOutcome { quality: answer.ranking.quality, receipt: answer.receipt };
        // A climb has one last answer, so no second outcome is lost here.
        let _ = self.outcome.set(outcome);
    }

    /// The outcome, once there is one.
    pub fn outcome(&self) -> Option<&CallOutcome> {
        self.outcome.get()
    }
}
