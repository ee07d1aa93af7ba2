//! The rung of the small models: the reward model scores every candidate, and gives the reasons on its
//! card that it attended to most.

use super::{
    ClimbContext, Receipt, ResolvedQuery, Resolver, Rung, RungOutcome, Shortfall, ThoughtSender,
};
use crate::domain::{
    Effort, Explain, ItemId, Quality, Query, Ranked, Ranking, Reason, ReasonSource, Scores, Version,
};
use crate::evidence::LiveClaim;
use crate::reranker::scored_order;
use crate::scorer::{
    Fusion, ScoreReply, ScoreRequest, Scorer, ScorerError, ScorerModel, SlateItem,
};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;

/// Scores a slate with the reward model.
#[derive(Debug)]
pub struct Scored {
    model: Arc<ScorerModel>,
    scorer: Scorer,
    resolver: Arc<Resolver>,
    fusion: Fusion,
    version: Version,
    /// How many of the best candidates a rung above may still reorder: they need reasons as well.
    movable: usize,
}

/// The scorer's answer for the candidates of a slate that it can score.
struct ScoredSlate<'c> {
    /// The position of each in the slate, in the rows of the reply.
    positions: Vec<usize>,
    resolved: &'c ResolvedQuery,
    request: ScoreRequest,
    reply: ScoreReply,
}

impl Scored {
    /// The rung of this model. `fusion` weighs the order given; `movable` is the number of the best
    /// candidates that a rung above may still reorder.
    pub fn new(
        model: Arc<ScorerModel>,
        scorer: Scorer,
        resolver: Arc<Resolver>,
        fusion: Fusion,
        version: Version,
        movable: usize,
    ) -> Self {
        Self { model, scorer, resolver, fusion, version, movable }
    }

    async fn score<'c>(&self, climb: &'c ClimbContext) -> Result<ScoredSlate<'c>, Shortfall> {
        let query = climb.query();
        let resolved = climb.resolve(&self.resolver).await?;
        let (positions, entries): (Vec<usize>, Vec<SlateItem>) = entries(query, resolved).unzip();
        let request = ScoreRequest {
            user: query.user.clone(),
            now: query.now,
            card: resolved.card.clone(),
            counts: Some(resolved.counts.clone()),
            live: resolved.live.clone(),
            items: entries.into(),
        };
        let reply = self.scorer.score(request.clone()).await.map_err(|error| match error {
            ScorerError::Full => Shortfall::Busy,
            ScorerError::Gone => Shortfall::Broken,
        })?;
        Ok(ScoredSlate { positions, resolved, request, reply })
    }

    fn rank(&self, query: &Query, slate: &ScoredSlate<'_>) -> Ranking {
        let ScoredSlate { positions, request, reply, .. } = slate;
        let prior = self.fusion.position_penalty(&request.card.history);
        let order = scored_order(&reply.scores, prior, positions, query.candidates.len());
        let mut row_of = vec![None; query.candidates.len()];
        for (row, &position) in positions.iter().enumerate() {
            row_of[position] = Some(row);
        }
        let shown = match (query.explain, query.effort) {
            (Explain::None, _) => 0,
            (_, Effort::Scored) => query.top_n,
            _ => query.top_n.max(self.movable),
        };
        let ranked = order.into_iter().enumerate().map(|(place, (input, score))| {
            let row = row_of[input];
            let reasons = row.filter(|_| place < shown);
            Ranked {
                input,
                score,
                scores: Scores {
                    prior: query.candidates[input].prior_score,
                    scorer: row.map(|row| reply.scores.logits[row]),
                    rechead: row.and_then(|row| reply.scores.rechead.get(row).copied()),
                    ..Scores::default()
                },
                reasons: reasons
                    .map(|row| self.reasons(slate, row, query.reasons_per_item))
                    .unwrap_or_default(),
            }
        });
        Ranking {
            order: ranked.collect(),
            quality: Quality::Scored,
            version: self.version.clone(),
            rationale: None,
        }
    }

    /// The reasons of one candidate that the scorer attended to most, then those that follow from live counts. These
    /// take the last place where there are too many, and never the only one.
    fn reasons(&self, slate: &ScoredSlate<'_>, row: usize, most: usize) -> Arc<[Reason]> {
        let card = self.model.reasons(&slate.request.items[row]);
        let attention = slate.reply.scores.attention(row);
        let mut order: Vec<usize> = (0..card.len()).filter(|&m| attention[m] > 0.0).collect();
        order.sort_by(|&a, &b| attention[b].total_cmp(&attention[a]).then(a.cmp(&b)));
        let free = most.saturating_sub(order.len().min(most.saturating_sub(1).max(1)));
        let (resolved, now) = (slate.resolved, slate.request.now);
        let mut live = resolved.facts(slate.positions[row], now).claims(now);
        live.truncate(free);
        let reasons = order.into_iter().take(most - live.len()).map(|m| Reason {
            text: card[m].text.clone(),
            source: card[m].source,
            evidence: card[m].evidence.clone(),
            weight: attention[m],
            bundle: self.version.clone(),
            written_at: self.model.cards.as_of,
        });
        reasons.chain(live.into_iter().map(|claim| self.live_reason(claim, slate))).collect()
    }

    /// A claim from live counts as a reason. The scorer attends to none of them.
    fn live_reason(&self, claim: LiveClaim, slate: &ScoredSlate<'_>) -> Reason {
        Reason {
            text: claim.text,
            source: ReasonSource::Evidence,
            evidence: [claim.evidence].into(),
            weight: 0.0,
            bundle: self.version.clone(),
            written_at: slate.request.now,
        }
    }
}

/// The candidates that can be scored, with their positions: those of the catalogue, those that come
/// with a text, and those that were put.
fn entries<'q>(
    query: &'q Query,
    resolved: &'q ResolvedQuery,
) -> impl Iterator<Item = (usize, SlateItem)> + 'q {
    query.candidates.iter().enumerate().filter_map(|(position, candidate)| {
        if let Some(number) = resolved.numbers[position] {
            return Some((position, SlateItem::Known(number)));
        }
        let put = resolved.new_items[position].as_ref();
        let text = candidate.inline.clone().or_else(|| put.map(|put| put.text.clone()))?;
        Some((position, SlateItem::Inline { text, number: resolved.counted[position] }))
    })
}

impl Rung for Scored {
    fn quality(&self) -> Quality {
        Quality::Scored
    }

    fn refine<'a>(
        &'a self,
        climb: &'a ClimbContext,
        _best: &'a Ranking,
        _thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
        async move {
            let slate = self.score(climb).await?;
            let ranking = self.rank(climb.query(), &slate);
            let known = slate.positions.len();
            let unknown = climb.query().candidates.len() - known;
            let receipt = Receipt {
                queue: slate.reply.queue,
                compute: slate.reply.compute,
                card_hits: known as u32,
                card_misses: unknown as u32,
                ..Receipt::default()
            };
            let shortfall = (unknown > 0).then_some(Shortfall::Missing("items"));
            Ok(RungOutcome { ranking, receipt, shortfall })
        }
        .boxed()
    }

    fn explain<'a>(
        &'a self,
        climb: &'a ClimbContext,
    ) -> BoxFuture<'a, Vec<(ItemId, Arc<[Reason]>)>> {
        async move {
            let query = climb.query();
            let Ok(slate) = self.score(climb).await else { return Vec::new() };
            let explained = slate.positions.iter().enumerate().map(|(row, &position)| {
                let reasons = self.reasons(&slate, row, query.reasons_per_item);
                (query.candidates[position].item.clone(), reasons)
            });
            explained.collect()
        }
        .boxed()
    }
}
