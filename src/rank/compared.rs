//! The rungs on which the language model compares: it orders the best candidates together, directly
//! (*reranked*) or after a thought (*reasoned*).

use super::language_model::{Below, priority, reordered, shopper, shortfall, unhealthy};
use super::{
    ClimbContext, Receipt, ResolvedQuery, Resolver, Rung, RungOutcome, Shortfall, ThoughtSender,
};
use crate::domain::{Explain, Quality, Query, Ranking, Reason, ReasonSource};
use crate::reranker::{
    self, ComparedFile, Grounds, Offered, Proof, Reranker, Thought, rechead_scores,
};
use crate::scorer::ScorerModel;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::iter;
use std::sync::Arc;
use tokio::time::Instant;

/// Compares the best candidates of the order below.
#[derive(Debug)]
pub struct Compared {
    quality: Quality,
    reranker: Arc<Reranker>,
    model: Arc<ScorerModel>,
    resolver: Arc<Resolver>,
    file: ComparedFile,
}

impl Compared {
    /// The rung of this language model. It writes a thought first if `file` leaves tokens for one.
    pub fn new(
        quality: Quality,
        reranker: Arc<Reranker>,
        model: Arc<ScorerModel>,
        resolver: Arc<Resolver>,
        file: ComparedFile,
    ) -> Self {
        Self { quality, reranker, model, resolver, file }
    }

    async fn compare(
        &self,
        climb: &ClimbContext,
        best: &Ranking,
        thoughts: &ThoughtSender,
    ) -> Result<RungOutcome, Shortfall> {
        let query = climb.query();
        let resolved = climb.resolve(&self.resolver).await?;
        let mut below = Below::of(best);
        let offered = below.offered(resolved, self.file.offered_max);
        if offered.items.len() < ComparedFile::OFFERED_MIN {
            return Err(Shortfall::Missing("items"));
        }
        let begun = Instant::now();
        let answer = self.answer(query, resolved, &offered.items, thoughts).await?;

        let places = offered.places_of(&answer.order);
        let rechead = self.rechead(resolved, &answer);
        let mut ranking = best.clone();
        for (rank, &place) in places.iter().enumerate() {
            let scores = &mut ranking.order[place].scores;
            scores.reranker = Some(-(rank as f32).ln_1p());
            scores.rechead = rechead.get(rank).copied().or(scores.rechead);
        }
        if let Some((thought, proof)) = self.proof(resolved, &answer, &offered.items) {
            ranking.rationale = Some(answer.thought.trim().into());
            self.explain_best(query, &offered, &thought, &proof, &mut ranking);
        }
        let receipt = Receipt { compute: begun.elapsed(), ..Receipt::of(answer.usage) };
        self.file.fuse(&mut below.order, &places, &rechead);
        let ranking = reordered(ranking, below.order, self.quality);
        Ok(RungOutcome { ranking, receipt, shortfall: None })
    }

    async fn answer(
        &self,
        query: &Query,
        resolved: &ResolvedQuery,
        items: &[u32],
        thoughts: &ThoughtSender,
    ) -> Result<reranker::ComparedAnswer, Shortfall> {
        let ScorerModel { catalog, cards, .. } = &*self.model;
        let offers = reranker::offers_in(&resolved.features(&self.model), cards, items);
        let history = &resolved.card.history;
        let thinks = self.file.thinks(|| Grounds::of(catalog, &cards.items, history, items));
        let shopper = shopper(query, resolved);
        let comparing = self.reranker.compare(shopper, &offers, &thinks, priority(query));
        let comparing = comparing.map_err(|error| shortfall(&error))?;
        let answer = comparing.answer(|piece| thoughts.send(piece)).await;
        answer.map_err(|error| shortfall(&error))
    }

    /// The Rechead's score of each candidate of an answer; empty if the bundle has no Rechead.
    fn rechead(&self, resolved: &ResolvedQuery, answer: &reranker::ComparedAnswer) -> Vec<f32> {
        let (from, history) = (self.model.text_sources(), &resolved.card.history);
        let head = self.model.rechead();
        head.map(|head| rechead_scores(head, from, history, answer)).unwrap_or_default()
    }

    /// The thought, if every claim in it can be proved.
    fn proof(
        &self,
        resolved: &ResolvedQuery,
        answer: &reranker::ComparedAnswer,
        items: &[u32],
    ) -> Option<(Thought, Proof)> {
        let ScorerModel { catalog, cards, .. } = &*self.model;
        let thought = Thought::parse(&answer.thought)?;
        let proof = thought.prove(catalog, &cards.items, &resolved.card.history, items)?;
        Some((thought, proof))
    }

    /// Puts a proved thought before the other reasons of its item, if the query wants live reasons.
    fn explain_best(
        &self,
        query: &Query,
        offered: &Offered,
        thought: &Thought,
        proof: &Proof,
        ranking: &mut Ranking,
    ) {
        let Some(place) = offered.place_of(proof.item) else { return };
        if query.explain != Explain::Live {
            return;
        }
        let reason = self.reason(thought, proof, ranking);
        let reasons = &mut ranking.order[place].reasons;
        let all = iter::once(reason).chain(reasons.iter().cloned());
        *reasons = all.take(query.reasons_per_item).collect();
    }

    /// The model's sentence about an item, with the evidence of the card's reason that makes the same claim.
    fn reason(&self, thought: &Thought, proof: &Proof, ranking: &Ranking) -> Reason {
        let card = &self.model.cards.items[proof.item as usize].reasons[proof.reason];
        Reason {
            text: thought.sentence().into(),
            source: ReasonSource::Live,
            evidence: card.evidence.clone(),
            weight: 1.0,
            bundle: ranking.version.clone(),
            written_at: self.model.cards.as_of,
        }
    }
}

impl Rung for Compared {
    fn quality(&self) -> Quality {
        self.quality
    }

    fn unhealthy(&self) -> Option<&'static str> {
        unhealthy(&self.reranker)
    }

    fn refine<'a>(
        &'a self,
        climb: &'a ClimbContext,
        best: &'a Ranking,
        thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
        self.compare(climb, best, thoughts).boxed()
    }
}
