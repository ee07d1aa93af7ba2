//! When an answer must be on its way.

use std::time::Duration;
use tokio::time::Instant;

/// A moment after which an answer is worth nothing. Made once, at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline `budget` after `now`.
    pub fn after(now: Instant, budget: Duration) -> Self {
        Self(now + budget)
    }

    /// The time left at `now`: zero when it has passed.
    pub fn remaining(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether `now` is past it.
    pub fn passed(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// The moment itself.
    pub fn instant(self) -> Instant {
        self.0
    }
}
