//! What is the best order that we can give in time?
//!
//! A ranking can always be improved, so every request climbs a [`Ladder`]: the order given, then
//! a scored order, and so on until its deadline. The last order reached is the answer.

mod background_drop;
mod compared;
mod fuse;
mod ladder;
mod live;
mod open;
mod pace;
mod scored;
mod swap;
mod user_cards;
mod weighed;

pub use background_drop::DropSignal;
pub use compared::Compared;
pub use ladder::{Answer, Ladder, Update};
pub use live::{LiveLadder, SwapError, SwapOutcome, SwapStrategy};
pub use open::{LadderOptions, OpenError, open};
pub use pace::RungPace;
pub use scored::Scored;
pub use user_cards::{CardCacheLimits, StoredCard, UserCards};
pub use weighed::Weighed;

use crate::domain::{ItemId, Quality, Query, Ranking, Reason};
use crate::engine::Usage;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Something that can better a ranking, at a price.
pub trait Rung: Send + Sync {
    /// The quality of what it returns.
    fn quality(&self) -> Quality;

    /// A better ranking than `best`, or why there is none.
    fn refine<'a>(
        &'a self,
        query: &'a Query,
        best: &'a Ranking,
        thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>>;

    /// Why it will never better a ranking again, in words for operators; `None` while it may.
    fn unhealthy(&self) -> Option<&'static str> {
        None
    }

    /// Cached reasons for `items`, without ranking: the most telling for this query's user first.
    /// Empty where there are none.
    fn explain<'a>(&'a self, _query: &'a Query) -> BoxFuture<'a, Vec<(ItemId, Vec<Reason>)>> {
        async { Vec::new() }.boxed()
    }
}

/// Sends a rung's thought, piece by piece, while the rung works on a better ranking.
#[derive(Clone, Debug)]
pub struct ThoughtSender(mpsc::Sender<Arc<str>>);

/// Pieces of a thought that may wait in the channel: more than a thought has tokens.
const PIECES_MAX: usize = 1_024;

/// What a rung made.
#[derive(Clone, Debug)]
pub struct RungOutcome {
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
    /// Tokens of the language model's prompts.
    pub prompt_tokens: u32,
    /// Those of them that it had computed before.
    pub cached_tokens: u32,
    /// Tokens after the prompts: those of candidates, and those that it wrote.
    pub generated_tokens: u32,
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

impl ThoughtSender {
    /// A channel for one thought: the rung's end and the climb's.
    pub fn new() -> (Self, mpsc::Receiver<Arc<str>>) {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        (Self(sender), pieces)
    }

    /// Sends the next piece. A piece that finds the channel full is lost: nothing depends on it.
    pub fn send(&self, piece: &str) {
        if !piece.is_empty() {
            let _ = self.0.try_send(piece.into());
        }
    }
}

impl Receipt {
    /// What a language model took.
    fn of(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens as u32,
            cached_tokens: usage.cached_tokens as u32,
            generated_tokens: usage.generated_tokens as u32,
            ..Self::default()
        }
    }
}

impl AddAssign for Receipt {
    fn add_assign(&mut self, other: Self) {
        self.queue += other.queue;
        self.compute += other.compute;
        self.card_hits += other.card_hits;
        self.card_misses += other.card_misses;
        self.prompt_tokens += other.prompt_tokens;
        self.cached_tokens += other.cached_tokens;
        self.generated_tokens += other.generated_tokens;
    }
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
