//! What is the best order that we can give in time?
//!
//! A ranking can always be improved, so every request climbs a [`Ladder`]: the order given, then
//! a scored order, and so on until its deadline. The last order reached is the answer.

mod background_drop;
mod compared;
mod context;
mod followed;
mod ladder;
mod language_model;
mod live;
mod open;
mod open_error;
mod pace;
mod scored;
mod swap;
mod user_cards;
mod weighed;

pub use background_drop::DropSignal;
pub use compared::Compared;
pub use context::{ClimbContext, ResolvedQuery, Resolver};
pub use ladder::{ClimbAnswer, Ladder, Update};
pub use live::LiveLadder;
pub use open::{LadderOptions, open};
pub use open_error::OpenError;
pub use pace::RungPace;
pub use scored::Scored;
pub use swap::{SwapError, SwapOutcome, SwapStrategy};
pub use user_cards::{CardCacheLimits, KnownShopper, StoredCard, UserCards};
pub use weighed::Weighed;

use crate::domain::{ItemId, Quality, Ranking, Reason};
use crate::engine::Usage;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::ops::AddAssign;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A ranking model with a price in time: it betters the ranking of the rung below.
pub trait Rung: Send + Sync {
    /// The quality of its rankings.
    fn quality(&self) -> Quality;

    /// A better ranking than `best`, or why there is none. Dropping the future cancels the work.
    fn refine<'a>(
        &'a self,
        climb: &'a ClimbContext,
        best: &'a Ranking,
        thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>>;

    /// Why it will never better a ranking again, in words for operators; `None` while it may.
    fn unhealthy(&self) -> Option<&'static str> {
        None
    }

    /// Cached reasons for the query's candidates, without ranking: the most telling for the shopper
    /// first. Empty where there are none.
    fn explain<'a>(
        &'a self,
        _climb: &'a ClimbContext,
    ) -> BoxFuture<'a, Vec<(ItemId, Arc<[Reason]>)>> {
        async { Vec::new() }.boxed()
    }
}

/// Sends a rung's thought, piece by piece, while the rung works on a better ranking.
#[derive(Clone, Debug)]
pub struct ThoughtSender(mpsc::Sender<Arc<str>>);

/// Pieces of a thought that may wait in the channel: more than a thought has tokens.
const PIECES_MAX: usize = 1_024;

/// A rung's result.
#[derive(Clone, Debug)]
pub struct RungOutcome {
    /// The better ranking.
    pub ranking: Ranking,
    /// Its cost.
    pub receipt: Receipt,
    /// What was missing although an order was reached: some of the items were unknown, say.
    pub shortfall: Option<Shortfall>,
}

/// The cost of an answer, and how many cards and tokens went into it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Time spent in the scorer's queue.
    pub queue: Duration,
    /// Time spent computing.
    pub compute: Duration,
    /// Candidates whose card was found.
    pub card_hits: u32,
    /// Candidates without one.
    pub card_misses: u32,
    /// Tokens of the language model's prompts.
    pub prompt_tokens: u32,
    /// Prompt tokens that were found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens after the prompts: those of the candidates' branches, and those that it generated.
    pub generated_tokens: u32,
}

/// Why a rung did not better the order: a fact in the answer, never an error for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortfall {
    /// The rung usually takes longer than the time left, so it was not started.
    #[error("too_slow")]
    TooSlow,
    /// The deadline came while it ran.
    #[error("late")]
    Late,
    /// Its model's queue was full.
    #[error("busy")]
    Busy,
    /// Something that it needs is not there: this names it.
    #[error("missing")]
    Missing(&'static str),
    /// Its model is unhealthy.
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
    /// The tokens of a request to the language model.
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
