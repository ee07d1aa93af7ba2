//! What the rungs of the language model share: their requests, the step from an answer to an order, and
//! the reasons for a shortfall.

use super::{ResolvedQuery, Shortfall};
use crate::domain::{Quality, Query, Ranked, Ranking};
use crate::engine::{EngineError, Priority, Rejection, RequestFailure};
use crate::reranker::{Offered, RerankError, Reranker, ScoredOrder, ShopperContext, ShopperWords};

/// Why a rung whose engine has ended is unhealthy.
const GONE: &str =
    "the language model is gone: its engine has ended, and this process must be started anew";

/// An order that a rung of the language model works on.
pub(super) struct Below {
    /// The order, with the scores that it is sorted by.
    pub(super) order: ScoredOrder,
    /// How many of its first candidates something is known of.
    known: usize,
}

/// Why a rung of this language model will never better a ranking again, if so.
pub(super) fn unhealthy(reranker: &Reranker) -> Option<&'static str> {
    (!reranker.is_alive()).then_some(GONE)
}

/// The shopper, as a prompt reads them.
pub(super) fn shopper<'a>(query: &'a Query, resolved: &'a ResolvedQuery) -> ShopperContext<'a> {
    let words = ShopperWords {
        profile: query.profile.as_deref().unwrap_or_default(),
        query_text: query.query_text.as_deref().unwrap_or_default(),
    };
    ShopperContext { words, ..ShopperContext::of(&resolved.card.history, query.now) }
}

/// The priority of a query's requests to the engine.
pub(super) fn priority(query: &Query) -> Priority {
    Priority { criticality: query.criticality, deadline: Some(query.deadline) }
}

/// Why a request to the language model came to nothing.
pub(super) fn shortfall(error: &RerankError) -> Shortfall {
    match error {
        RerankError::Engine(EngineError::Rejected(Rejection::Full(_)))
        | RerankError::Failed(RequestFailure::Rejected(Rejection::Full(_))) => Shortfall::Busy,
        RerankError::Failed(RequestFailure::DeadlineExceeded) => Shortfall::Late,
        // A slate and a history within their limits always fit, unless the engine was given less
        // room than they need.
        RerankError::Engine(EngineError::Rejected(refused))
        | RerankError::Failed(RequestFailure::Rejected(refused)) => {
            tracing::warn!(%refused, "the language model has no room for a slate");
            Shortfall::Missing("room")
        }
        // Its owner has logged why it ended, once for all requests.
        RerankError::Engine(EngineError::Gone) | RerankError::Failed(RequestFailure::Gone) => {
            Shortfall::Broken
        }
        error => {
            tracing::error!(%error, "the language model did not answer");
            Shortfall::Broken
        }
    }
}

// === impl Below ===

impl Below {
    /// The order of a ranking.
    pub(super) fn of(ranking: &Ranking) -> Self {
        // An order that was never scored has no scores to compare, only positions.
        let is_scored = ranking.quality >= Quality::Scored;
        let score = |(place, ranked): (usize, &Ranked)| {
            (ranked.input, if is_scored { ranked.score } else { -(place as f32) })
        };
        let is_known = |ranked: &&Ranked| !is_scored || ranked.scores.scorer.is_some();
        Self {
            order: ranking.order.iter().enumerate().map(score).collect(),
            known: ranking.order.iter().take_while(is_known).count(),
        }
    }

    /// The best `most` candidates that the catalogue holds. Candidates of which nothing is known come
    /// last in an order, and are never offered.
    pub(super) fn offered(&self, resolved: &ResolvedQuery, most: usize) -> Offered {
        Offered::best_of(&self.order[..self.known], most, |input| resolved.numbers[input])
    }
}

/// The same candidates in another order, with its scores.
pub(super) fn reordered(ranking: Ranking, order: ScoredOrder, quality: Quality) -> Ranking {
    let mut old: Vec<Option<Ranked>> = vec![None; ranking.order.len()];
    for ranked in ranking.order {
        let input = ranked.input;
        old[input] = Some(ranked);
    }
    let order =
        order.into_iter().filter_map(|(input, score)| Some(Ranked { score, ..old[input].take()? }));
    Ranking { order: order.collect(), quality, ..ranking }
}
