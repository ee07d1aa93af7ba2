//! What is the best order that we can give in time?
//!
//! A ranking can always be improved, so every request climbs a [`Ladder`]: the order given, then
//! a scored order, and so on until its deadline. The last order reached is the answer.

mod ladder;
mod live;
mod pace;
mod profile;
mod scored;

pub use ladder::{Answer, Ladder};
pub use live::{Building, open};
pub use pace::Pace;
pub use profile::{MemoryLimits, StoredCard};
pub use scored::Scored;

use crate::domain::{ItemId, Quality, Query, Ranking, Reason};
use futures_util::future::BoxFuture;
use std::time::Duration;

/// Something that can better a ranking, at a price.
pub trait Rung: Send + Sync {
    /// The quality of what it returns.
    fn quality(&self) -> Quality;

    /// A better ranking than `best`, or why there is none.
    fn refine<'a>(
        &'a self,
        query: &'a Query,
        best: &'a Ranking,
    ) -> BoxFuture<'a, Result<Refined, Shortfall>>;

    /// Cached reasons for `items`, without ranking: the most telling for this query's user first.
    /// Empty where there are none.
    fn explain<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Vec<(ItemId, Vec<Reason>)>>;
}

/// What a rung made.
#[derive(Clone, Debug)]
pub struct Refined {
    /// The better ranking.
    pub ranking: Ranking,
    /// What it cost.
    pub receipt: Receipt,
    /// What was missing although an order was reached: unknown items, say.
    pub shortfall: Option<Shortfall>,
}

/// What an answer cost, and what it was made from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Time spent waiting for an owner.
    pub queue: Duration,
    /// Time spent computing.
    pub compute: Duration,
    /// Candidates whose card was found.
    pub card_hits: u32,
    /// Candidates without one.
    pub card_misses: u32,
}

/// Why a rung did not better the order: a fact for the ladder, never an error for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// The rung usually takes longer than the time left, so it was not begun.
    #[error("too_slow")]
    TooSlow,
    /// The deadline came while it ran.
    #[error("late")]
    Late,
    /// Its owner's inbox was full.
    #[error("busy")]
    Busy,
    /// Something that it needs is not there.
    #[error("missing")]
    Missing(&'static str),
    /// Its model or its owner is out of order.
    #[error("broken")]
    Broken,
}

impl Shortfall {
    /// The word for logs and metric labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::TooSlow => "too_slow",
            Self::Late => "late",
            Self::Busy => "busy",
            Self::Missing(_) => "missing",
            Self::Broken => "broken",
        }
    }
}
