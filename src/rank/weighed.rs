//! The rung of the language model that weighs: one prefill, with the shopper as the trunk and a
//! branch for each of the best candidates.

use super::language_model::{Below, priority, reordered, shopper, shortfall, unhealthy};
use super::{ClimbContext, Receipt, Resolver, Rung, RungOutcome, Shortfall, ThoughtSender};
use crate::bundle::{BundleError, GoldenRequest, Part};
use crate::domain::{Quality, Ranking};
use crate::engine::Priority;
use crate::nn::packed::WeightDtype;
use crate::reranker::{self, RerankError, Reranker, ShopperContext, WeighedFile};
use crate::scorer::ScorerModel;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::time::Instant;

/// Weighs the best candidates of the order below.
///
/// A candidate's logit depends on the shopper and the item alone, not on the order of the candidates
/// or the rest of the slate.
#[derive(Debug)]
pub struct Weighed {
    reranker: Arc<Reranker>,
    model: Arc<ScorerModel>,
    resolver: Arc<Resolver>,
    file: WeighedFile,
}

impl Weighed {
    /// The rung of this language model.
    pub fn new(
        reranker: Arc<Reranker>,
        model: Arc<ScorerModel>,
        resolver: Arc<Resolver>,
        file: WeighedFile,
    ) -> Self {
        Self { reranker, model, resolver, file }
    }

    async fn weigh(&self, climb: &ClimbContext, best: &Ranking) -> Result<RungOutcome, Shortfall> {
        let query = climb.query();
        let resolved = climb.resolve(&self.resolver).await?;
        let mut below = Below::of(best);
        let offered = below.offered(resolved, self.file.candidates_max);
        if offered.items.is_empty() {
            return Err(Shortfall::Missing("items"));
        }
        let begun = Instant::now();
        let features = resolved.features(&self.model);
        let offers = reranker::offers_in(&features, &self.model.cards, &offered.items);
        let weighing = self.reranker.weigh(shopper(query, resolved), &offers, priority(query));
        let answer = weighing.map_err(|error| shortfall(&error))?.logits().await;
        let (logits, usage) = answer.map_err(|error| shortfall(&error))?;
        let receipt = Receipt { compute: begun.elapsed(), ..Receipt::of(usage) };

        let mut ranking = best.clone();
        for (&place, &logit) in offered.places.iter().zip(&logits) {
            ranking.order[place].scores.weighed = Some(logit);
        }
        self.file.fuse(&mut below.order, &offered, &logits);
        let ranking = reordered(ranking, below.order, Quality::Weighed);
        Ok(RungOutcome { ranking, receipt, shortfall: None })
    }

    /// Weighs the golden requests, and refuses a bundle whose logits differ on this machine. Blocks.
    pub fn check_golden(&self, golden: &[GoldenRequest]) -> Result<(), BundleError> {
        let wrong = |why: String| BundleError::malformed(Part::Golden.file(), &why);
        let tolerance = tolerance(self.reranker.weight_dtype());
        for golden in golden.iter().filter(|golden| !golden.weighed.is_empty()) {
            let card = self.model.cards.users.get(&golden.user.as_str().into());
            let number = |item: &String| self.model.catalog.number(&item.as_str().into());
            let items = golden.items.iter().map(number).collect::<Option<Vec<u32>>>();
            let (Some(card), Some(items)) = (card, items) else {
                return Err(wrong(format!(
                    "an item or the card of {} is not in the bundle",
                    golden.user
                )));
            };
            let shopper = ShopperContext::of(&card.history, golden.now);
            let priority = Priority::BACKGROUND;
            let failed = |error: RerankError| wrong(format!("a golden request fails: {error}"));
            let ScorerModel { catalog, cards, .. } = &*self.model;
            let offers = reranker::offers(catalog, cards, shopper, &items);
            let weighing = self.reranker.weigh(shopper, &offers, priority).map_err(failed)?;
            let (logits, _) = weighing.blocking_logits().map_err(failed)?;
            let far = logits.iter().zip(&golden.weighed).find(|(found, expected)| {
                let is_near = (**found - **expected).abs() <= tolerance;
                !is_near
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

/// How far a golden logit may differ: machines add numbers in different orders, and weights of fewer bits
/// than the bundle's are less exact.
fn tolerance(dtype: WeightDtype) -> f32 {
    match dtype {
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
        climb: &'a ClimbContext,
        best: &'a Ranking,
        _thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
        self.weigh(climb, best).boxed()
    }
}
