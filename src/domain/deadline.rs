//! Until when a request must be answered.

use std::time::Duration;
use tokio::time::Instant;

/// The moment by which the answer must be sent. The API sets it once, when a request arrives.
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

    /// Whether it has passed at `now`.
    pub fn passed(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// As an instant, for timers.
    pub fn instant(self) -> Instant {
        self.0
    }
}
