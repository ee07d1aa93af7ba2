//! What the rungs of the language model share: whom they ask about, how its word is fused with the order
//! below, and what it means when it says nothing.

use super::Shortfall;
use crate::bundle::Catalog;
use crate::domain::{Quality, Query, Ranked, Ranking};
use crate::engine::{EngineError, Rejection, RequestFailure};
use crate::reranker::{RerankError, Reranker, ScoredOrder, ShopperWords};

/// Why a rung is out of order whose language model can't be asked any more.
const GONE: &str =
    "the language model is gone: its engine has ended, and this process must be started anew";

/// Why a rung of this language model will never better a ranking again, if so.
pub(super) fn unhealthy(reranker: &Reranker) -> Option<&'static str> {
    (!reranker.is_alive()).then_some(GONE)
}

/// The candidates of a ranking that something is known of. The others come last in it, and no rung
/// has anything to say of them.
pub(super) fn known(ranking: &Ranking) -> impl Iterator<Item = &Ranked> {
    let is_scored = ranking.quality >= Quality::Scored;
    ranking.order.iter().take_while(move |ranked| !is_scored || ranked.scores.scorer.is_some())
}

/// What a query says in words.
pub(super) fn words(query: &Query) -> ShopperWords<'_> {
    ShopperWords {
        profile: query.profile.as_deref().unwrap_or_default(),
        request: query.query_text.as_deref().unwrap_or_default(),
    }
}

/// The best `most` candidates that the catalogue holds: their places in a ranking, and their numbers.
pub(super) fn offered(
    query: &Query,
    best: &Ranking,
    catalog: &Catalog,
    most: usize,
) -> (Vec<usize>, Vec<u32>) {
    let best = known(best).take(most).enumerate();
    let numbered = best.filter_map(|(place, ranked)| {
        Some((place, catalog.number(&query.candidates[ranked.input].item)?))
    });
    numbered.unzip()
}

/// A ranking whose order was fused with what a language model said.
pub(super) fn fused(
    mut ranking: Ranking,
    quality: Quality,
    fuse: impl FnOnce(&mut ScoredOrder),
) -> Ranking {
    // An order that was never scored says no more than who came first.
    let is_scored = ranking.quality >= Quality::Scored;
    let each = ranking.order.iter().enumerate();
    let mut order: ScoredOrder = each
        .map(|(place, ranked)| {
            (ranked.input, if is_scored { ranked.score } else { -(place as f32) })
        })
        .collect();
    fuse(&mut order);
    let mut old: Vec<Option<Ranked>> = vec![None; ranking.order.len()];
    for ranked in ranking.order.drain(..) {
        let input = ranked.input;
        old[input] = Some(ranked);
    }
    let new =
        order.into_iter().filter_map(|(input, score)| Some(Ranked { score, ..old[input].take()? }));
    ranking.order = new.collect();
    ranking.quality = quality;
    ranking
}

/// Why an ask came to nothing.
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
        // Whoever ended has said why, once for all.
        RerankError::Engine(EngineError::Gone) | RerankError::Failed(RequestFailure::Gone) => {
            Shortfall::Broken
        }
        error => {
            tracing::error!(%error, "the language model said nothing");
            Shortfall::Broken
        }
    }
}
