//! The rung of the small models: the reward model scores every candidate, and the reasons on its card that say most
//! to this shopper are told.

use super::{
    ClimbContext, Receipt, ResolvedQuery, Resolver, Rung, RungOutcome, Shortfall, ThoughtSender,
};
use crate::domain::{
    Effort, Explain, ItemId, Quality, Query, Ranked, Ranking, Reason, ReasonSource, Scores, Version,
};
use crate::evidence::{Answer, ChoiceWeights, LiveClaim};
use crate::reranker::{Teller, Told, ToldItem, scored_order};
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
            query: resolved.spoken.clone(),
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
        let mut teller = (shown > 0).then(|| self.teller(query, slate));
        let ranked = order.into_iter().enumerate().map(|(place, (input, score))| {
            let row = row_of[input];
            let told = row.filter(|_| place < shown).zip(teller.as_mut());
            Ranked {
                input,
                score,
                scores: Scores {
                    prior: query.candidates[input].prior_score,
                    scorer: row.map(|row| reply.scores.logits[row]),
                    rechead: row.and_then(|row| reply.scores.rechead.get(row).copied()),
                    ..Scores::default()
                },
                reasons: told
                    .map(|(row, teller)| self.reasons(slate, teller, row, query.reasons_per_item))
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

    /// Chooses what is told of a slate's candidates.
    fn teller<'a>(&'a self, query: &Query, slate: &'a ScoredSlate<'_>) -> Teller<'a> {
        let (model, context) = (&*self.model, slate.resolved.features(&self.model));
        let query_text = query.query_text.as_deref();
        Teller::new(&model.catalog, &model.fact_sales, context, query_text, ChoiceWeights::CHOSEN)
    }

    /// The reasons of one candidate that say most to this shopper, then those that follow from live counts. These take
    /// the last place where there are too many, and never the only one.
    fn reasons(
        &self,
        slate: &ScoredSlate<'_>,
        teller: &mut Teller<'_>,
        row: usize,
        most: usize,
    ) -> Arc<[Reason]> {
        let item = &slate.request.items[row];
        let number = match item {
            SlateItem::Known(number) => Some(*number),
            SlateItem::Inline { .. } => None,
        };
        let (card, attention) = (self.model.reasons(item), slate.reply.scores.attention(row));
        let (resolved, now) = (slate.resolved, slate.request.now);
        let mut live = resolved.facts(slate.positions[row], now).claims(now);
        let kept = if live.is_empty() { most } else { most.saturating_sub(1).max(most.min(1)) };
        let Told { answer, reasons } =
            teller.tell(ToldItem { number, reasons: card, attention }, kept);
        let told = usize::from(answer.is_some()) + reasons.len();
        live.truncate(most - told.min(most));
        let answer = answer.into_iter().map(|answer| self.answer(answer, slate));
        let reasons = reasons.into_iter().map(|m| Reason {
            text: card[m].text.clone(),
            source: card[m].source,
            evidence: card[m].evidence.clone(),
            weight: attention[m],
            bundle: self.version.clone(),
            written_at: self.model.cards.as_of,
        });
        let live = live.into_iter().map(|claim| self.live_reason(claim, slate));
        answer.chain(reasons).chain(live).collect()
    }

    /// An answer to the query as a reason. The scorer attends to none of them.
    fn answer(&self, answer: Answer, slate: &ScoredSlate<'_>) -> Reason {
        Reason {
            text: answer.text,
            source: ReasonSource::Evidence,
            evidence: answer.evidence,
            weight: 0.0,
            bundle: self.version.clone(),
            written_at: slate.request.now,
        }
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
        let (number, price) = (resolved.counted[position], put.and_then(|put| put.price));
        Some((position, SlateItem::Inline { text, number, price }))
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
            let mut teller = self.teller(query, &slate);
            let explained = slate.positions.iter().enumerate().map(|(row, &position)| {
                let reasons = self.reasons(&slate, &mut teller, row, query.reasons_per_item);
                (query.candidates[position].item.clone(), reasons)
            });
            explained.collect()
        }
        .boxed()
    }
}
