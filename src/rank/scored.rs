//! The rung of the small models: every candidate gets a score from the reward model, and the
//! reasons that it attended to most.

use super::user_cards::UserCards;
use super::{Receipt, Rung, RungOutcome, Shortfall, ThoughtSender};
use crate::domain::{
    Effort, Explain, ItemId, Quality, Query, Ranked, Ranking, Reason, Scores, Version,
};
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
    profiles: Arc<UserCards>,
    fusion: Fusion,
    version: Version,
    /// Candidates that a rung above may still bring to the front: they need reasons as well.
    movable: usize,
}

impl Scored {
    /// The rung of this model. `fusion` says how much the order given still counts; `movable`, how
    /// many of the best candidates a rung above may still put into another order.
    pub fn new(
        model: Arc<ScorerModel>,
        scorer: Scorer,
        profiles: Arc<UserCards>,
        fusion: Fusion,
        version: Version,
        movable: usize,
    ) -> Self {
        Self { model, scorer, profiles, fusion, version, movable }
    }

    /// What the scorer says of the candidates that it can know, and their places in the slate.
    async fn score(
        &self,
        query: &Query,
    ) -> Result<(Vec<usize>, ScoreRequest, ScoreReply), Shortfall> {
        let (places, entries): (Vec<usize>, Vec<SlateItem>) = self.entries(query).unzip();
        if entries.is_empty() {
            return Err(Shortfall::Missing("items"));
        }
        let card = self.profiles.of(query).await;
        let request =
            ScoreRequest { user: query.user.clone(), now: query.now, card, items: entries.into() };
        let reply = self.scorer.score(request.clone()).await.map_err(|error| match error {
            ScorerError::Full => Shortfall::Busy,
            ScorerError::Gone => Shortfall::Broken,
        })?;
        Ok((places, request, reply))
    }

    /// The candidates that can be scored: those of the catalogue, and those that say inline what
    /// they are.
    fn entries<'q>(&'q self, query: &'q Query) -> impl Iterator<Item = (usize, SlateItem)> + 'q {
        query.candidates.iter().enumerate().filter_map(|(place, candidate)| {
            let known = self.model.catalog.number(&candidate.item).map(SlateItem::Known);
            let entry = known.or_else(|| candidate.inline.clone().map(SlateItem::Inline))?;
            Some((place, entry))
        })
    }

    fn rank(
        &self,
        query: &Query,
        places: &[usize],
        request: &ScoreRequest,
        reply: &ScoreReply,
    ) -> Ranking {
        let mut ranking = Ranking {
            order: Vec::with_capacity(query.candidates.len()),
            quality: Quality::Scored,
            version: self.version.clone(),
            rationale: None,
        };
        let prior = self.fusion.position_penalty(&request.card.history);
        for (row, &place) in places.iter().enumerate() {
            let logit = reply.scores.logits[row];
            ranking.order.push(Ranked {
                input: place,
                score: reply.scores.fused(row, prior, place),
                scores: Scores {
                    prior: query.candidates[place].prior_score,
                    scorer: Some(logit),
                    rechead: reply.scores.rechead.get(row).copied(),
                    ..Scores::default()
                },
                reasons: Vec::new(),
            });
        }
        ranking.sort();
        append_unknown(query, &mut ranking);
        if query.explain != Explain::None {
            let mut row_of = vec![None; query.candidates.len()];
            for (row, &place) in places.iter().enumerate() {
                row_of[place] = Some(row);
            }
            let shown = match query.effort {
                Effort::Scored => query.top_n,
                _ => query.top_n.max(self.movable),
            };
            for ranked in ranking.order.iter_mut().take(shown) {
                if let Some(row) = row_of[ranked.input] {
                    ranked.reasons = self.reasons(request, reply, row, query.reasons_per_item);
                }
            }
        }
        ranking
    }

    /// The reasons of one candidate that the scorer attended to most.
    fn reasons(
        &self,
        request: &ScoreRequest,
        reply: &ScoreReply,
        row: usize,
        most: usize,
    ) -> Vec<Reason> {
        let card = self.model.reasons(&request.items[row]);
        let attention = reply.scores.attention(row);
        let mut order: Vec<usize> = (0..card.len()).filter(|&m| attention[m] > 0.0).collect();
        order.sort_by(|&a, &b| attention[b].total_cmp(&attention[a]).then(a.cmp(&b)));
        let reasons = order.into_iter().take(most).map(|m| Reason {
            text: card[m].text.clone(),
            source: card[m].source,
            evidence: card[m].evidence.clone(),
            weight: attention[m],
            bundle: self.version.clone(),
            written_at: self.model.cards.as_of,
        });
        reasons.collect()
    }
}

impl Rung for Scored {
    fn quality(&self) -> Quality {
        Quality::Scored
    }

    fn refine<'a>(
        &'a self,
        query: &'a Query,
        _best: &'a Ranking,
        _thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
        async move {
            let (places, request, reply) = self.score(query).await?;
            let ranking = self.rank(query, &places, &request, &reply);
            let unknown = query.candidates.len() - places.len();
            let receipt = Receipt {
                queue: reply.queue,
                compute: reply.compute,
                card_hits: places.len() as u32,
                card_misses: unknown as u32,
                ..Receipt::default()
            };
            let shortfall = (unknown > 0).then_some(Shortfall::Missing("items"));
            Ok(RungOutcome { ranking, receipt, shortfall })
        }
        .boxed()
    }

    fn explain<'a>(&'a self, query: &'a Query) -> BoxFuture<'a, Vec<(ItemId, Vec<Reason>)>> {
        async move {
            let Ok((places, request, reply)) = self.score(query).await else { return Vec::new() };
            let explained = places.iter().enumerate().map(|(row, &place)| {
                let reasons = self.reasons(&request, &reply, row, query.reasons_per_item);
                (query.candidates[place].item.clone(), reasons)
            });
            explained.collect()
        }
        .boxed()
    }
}

/// Candidates that nothing is known of come last, in the order given.
fn append_unknown(query: &Query, ranking: &mut Ranking) {
    let mut scored = vec![false; query.candidates.len()];
    for ranked in &ranking.order {
        scored[ranked.input] = true;
    }
    let lowest = ranking.order.last().map_or(0.0, |ranked| ranked.score);
    for (input, candidate) in query.candidates.iter().enumerate().filter(|(i, _)| !scored[*i]) {
        ranking.order.push(Ranked {
            input,
            score: lowest,
            scores: Scores { prior: candidate.prior_score, ..Scores::default() },
            reasons: Vec::new(),
        });
    }
}
