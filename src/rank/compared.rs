//! The rungs of the language model that compares: the best candidates at once, straight away or after a
//! thought.

use super::fuse::{fused, offered, shortfall, unhealthy, words};
use super::user_cards::UserCards;
use super::{Receipt, Rung, RungOutcome, Shortfall, ThoughtSender};
use crate::bundle::UserCard;
use crate::domain::{Explain, Quality, Query, Ranking, Reason, ReasonSource};
use crate::engine::Priority;
use crate::reranker::{self, ComparedFile, Grounds, Proof, Reranker, ShopperContext, Thought};
use crate::scorer::{ScorerModel, ShopperTexts};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::time::Instant;

/// Compares the best candidates of the order below.
#[derive(Debug)]
pub struct Compared {
    quality: Quality,
    reranker: Arc<Reranker>,
    model: Arc<ScorerModel>,
    profiles: Arc<UserCards>,
    file: ComparedFile,
}

impl Compared {
    /// The rung of this language model: [`Quality::Reasoned`], if it is given room for a thought.
    pub fn new(
        quality: Quality,
        reranker: Arc<Reranker>,
        model: Arc<ScorerModel>,
        profiles: Arc<UserCards>,
        file: ComparedFile,
    ) -> Self {
        Self { quality, reranker, model, profiles, file }
    }

    async fn compare(
        &self,
        query: &Query,
        best: &Ranking,
        thoughts: &ThoughtSender,
    ) -> Result<RungOutcome, Shortfall> {
        let (places, items) = offered(query, best, &self.model.catalog, self.file.offered_max);
        if items.len() < 2 {
            return Err(Shortfall::Missing("items"));
        }
        let card = self.profiles.of(query).await;
        let shopper =
            ShopperContext { words: words(query), ..ShopperContext::of(&card.history, query.now) };
        let urgency = Priority { criticality: query.criticality, deadline: Some(query.deadline) };
        let begun = Instant::now();
        let offers = reranker::offers(&self.model.catalog, &self.model.cards, shopper, &items);
        let (catalog, cards) = (&self.model.catalog, &self.model.cards.items);
        let thinks = self.file.thinks(|| Grounds::of(catalog, cards, &card.history, &items));
        let asked = self.reranker.compare(shopper, &offers, &thinks, urgency);
        let answer =
            asked.map_err(|error| shortfall(&error))?.answer(|piece| thoughts.send(piece)).await;
        let answer = answer.map_err(|error| shortfall(&error))?;

        let place = |item: &u32| items.iter().position(|other| other == item).map(|at| places[at]);
        let order: Vec<usize> = answer.order.iter().filter_map(place).collect();
        let heard = self.rechead(&answer, &card);
        let mut ranking = best.clone();
        for (answered, &place) in order.iter().enumerate() {
            let scores = &mut ranking.order[place].scores;
            scores.reranker = Some(-(answered as f32).ln_1p());
            scores.rechead = heard.get(answered).copied().or(scores.rechead);
        }
        let proven = self.proof(&answer, &shopper, &items);
        if let Some((thought, proof)) = &proven {
            ranking.rationale = Some(answer.thought.trim().into());
            if query.explain == Explain::Live
                && let Some(place) = place(&proof.item)
            {
                let reason = self.reason(thought, proof, &ranking);
                let reasons = &mut ranking.order[place].reasons;
                reasons.insert(0, reason);
                reasons.truncate(query.reasons_per_item);
            }
        }
        let receipt = Receipt { compute: begun.elapsed(), ..Receipt::of(answer.usage) };
        let ranking = fused(ranking, self.quality, |below| {
            self.file.fuse(below, &order, &heard);
        });
        Ok(RungOutcome { ranking, receipt, shortfall: None })
    }

    /// What the Rechead says of the candidates in their answered order, to a shopper of whom this was
    /// thought and answered: nothing, if nothing was thought or there is no Rechead.
    fn rechead(&self, answer: &reranker::ComparedAnswer, card: &UserCard) -> Vec<f32> {
        if answer.thought.is_empty() {
            return Vec::new();
        }
        let thought = self.model.reader.vector(&answer.thought);
        let written = ShopperTexts {
            history: &card.history,
            thought: Some(&thought),
            answer: answer.order.first().copied(),
        };
        let shopper = self.model.shopper_vector(written);
        answer.order.iter().filter_map(|&item| self.model.rechead_score(&shopper, item)).collect()
    }

    /// What was thought, if all of it holds.
    fn proof(
        &self,
        answer: &reranker::ComparedAnswer,
        shopper: &ShopperContext<'_>,
        items: &[u32],
    ) -> Option<(Thought, Proof)> {
        let thought = Thought::read(&answer.thought)?;
        let proof =
            thought.prove(&self.model.catalog, &self.model.cards.items, shopper.history, items)?;
        Some((thought, proof))
    }

    /// What the model wrote about an item, with the evidence of the card's reason that says the same.
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
        query: &'a Query,
        best: &'a Ranking,
        thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
        self.compare(query, best, thoughts).boxed()
    }
}
