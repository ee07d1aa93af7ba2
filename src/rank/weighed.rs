//! The rung of the language model that weighs: one prefill, with the shopper as the trunk and a
//! branch for each of the best candidates.

use super::fuse::{fused, known, offered, shortfall, unhealthy, words};
use super::user_cards::UserCards;
use super::{Receipt, Rung, RungOutcome, Shortfall, ThoughtSender};
use crate::bundle::{BundleError, GoldenRequest, Part};
use crate::domain::{Quality, Query, Ranking};
use crate::engine::Priority;
use crate::nn::packed::WeightDtype;
use crate::reranker::{self, OfferedItem, RerankError, Reranker, ShopperContext, WeighedFile};
use crate::scorer::ScorerModel;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::time::Instant;

/// Weighs the best candidates of the order below.
///
/// What a candidate is given depends on the shopper and the item alone, not on the order or the
/// company that it comes in.
#[derive(Debug)]
pub struct Weighed {
    reranker: Arc<Reranker>,
    model: Arc<ScorerModel>,
    profiles: Arc<UserCards>,
    file: WeighedFile,
}

impl Weighed {
    /// The rung of this language model.
    pub fn new(
        reranker: Arc<Reranker>,
        model: Arc<ScorerModel>,
        profiles: Arc<UserCards>,
        file: WeighedFile,
    ) -> Self {
        Self { reranker, model, profiles, file }
    }

    async fn weigh(&self, query: &Query, best: &Ranking) -> Result<RungOutcome, Shortfall> {
        let most = self.file.candidates_max;
        let (places, items) = offered(query, best, &self.model.catalog, most);
        if items.is_empty() {
            return Err(Shortfall::Missing("items"));
        }
        let card = self.profiles.of(query).await;
        let shopper =
            ShopperContext { words: words(query), ..ShopperContext::of(&card.history, query.now) };
        let urgency = Priority { criticality: query.criticality, deadline: Some(query.deadline) };
        let begun = Instant::now();
        let weighing = self.reranker.weigh(shopper, &self.offers(shopper, &items), urgency);
        let heard = weighing.map_err(|error| shortfall(&error))?.logits().await;
        let (logits, usage) = heard.map_err(|error| shortfall(&error))?;
        let receipt = Receipt { compute: begun.elapsed(), ..Receipt::of(usage) };

        let mut ranking = best.clone();
        let mut weighed = vec![None; known(best).take(most).count()];
        for (place, logit) in places.into_iter().zip(logits) {
            weighed[place] = Some(logit);
            ranking.order[place].scores.weighed = Some(logit);
        }
        let ranking = fused(ranking, Quality::Weighed, |order| self.file.fuse(order, &weighed));
        Ok(RungOutcome { ranking, receipt, shortfall: None })
    }

    fn offers(&self, shopper: ShopperContext<'_>, items: &[u32]) -> Vec<OfferedItem> {
        reranker::offers(&self.model.catalog, &self.model.cards, shopper, items)
    }

    /// Weighs the golden requests: a bundle whose logits don't come out on this machine must not
    /// serve. Waits for the engine, so it is not for threads that serve.
    pub fn check_golden(&self, golden: &[GoldenRequest]) -> Result<(), BundleError> {
        let wrong = |why: String| BundleError::malformed(Part::Golden.file(), &why);
        let tolerance = tolerance(self.reranker.weight_dtype());
        for golden in golden.iter().filter(|golden| !golden.weighed.is_empty()) {
            let card = self.model.cards.users.get(&golden.user.as_str().into());
            let number = |item: &String| self.model.catalog.number(&item.as_str().into());
            let items = golden.items.iter().map(number).collect::<Option<Vec<u32>>>();
            let (Some(card), Some(items)) = (card, items) else {
                return Err(wrong(format!("what {} is shown is not in the bundle", golden.user)));
            };
            let shopper = ShopperContext::of(&card.history, golden.now);
            let urgency = Priority::BACKGROUND;
            let failed = |error: RerankError| wrong(format!("a golden request fails: {error}"));
            let weighing = self
                .reranker
                .weigh(shopper, &self.offers(shopper, &items), urgency)
                .map_err(failed)?;
            let (logits, _) = weighing.blocking_logits().map_err(failed)?;
            let far = logits.iter().zip(&golden.weighed).find(|(a, b)| {
                let near = (**a - **b).abs() <= tolerance;
                !near
            });
            if let Some((found, expected)) = far {
                return Err(wrong(format!(
                    "a golden request of {} weighs {found} on this machine, not {expected}",
                    golden.user
                )));
            }
        }
        Ok(())
    }
}

/// How far a golden logit may stray: machines add numbers in different orders, and weights of fewer
/// bits than the bundle was made with say a little less.
fn tolerance(precision: WeightDtype) -> f32 {
    match precision {
        WeightDtype::F32 => 0.01,
        WeightDtype::Bf16 => 0.2,
        WeightDtype::Int8 => 0.5,
        WeightDtype::Int4 | WeightDtype::Float8 => 2.0,
    }
}

impl Rung for Weighed {
    fn quality(&self) -> Quality {
        Quality::Weighed
    }

    fn unhealthy(&self) -> Option<&'static str> {
        unhealthy(&self.reranker)
    }

    fn refine<'a>(
        &'a self,
        query: &'a Query,
        best: &'a Ranking,
        _thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
        self.weigh(query, best).boxed()
    }
}
