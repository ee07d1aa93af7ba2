//! The ladder on a workspace: what each rung makes of slates, by the models and the engine that serve.

use super::cases::Case;
use super::measure;
use super::offline_reranker::OfflineReranker;
use super::offline_scorer::OfflineScorer;
use super::snapshot::Snapshot;
use super::synthetic_query::{self, SyntheticQuery};
use super::training_data::TrainingData;
use super::workspace::Workspace;
use crate::bundle::Part;
use crate::nn::Rechead;
use crate::reranker::{ComparedAnswer, ComparedFile, RerankerFile, ScoredOrder};
use crate::scorer::{RecheadScorer, ShopperTexts};
use anyhow::Context as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// The figure that rungs are fitted by: NDCG at this cut.
const CUT: usize = 10;

/// The models of a workspace.
pub struct OfflineLadder {
    scorer: OfflineScorer,
    /// The language model, if the workspace has one.
    model: Option<OfflineReranker>,
    file: RerankerFile,
    /// Whether the language model is asked which item it expects.
    answers: bool,
}

/// What the rungs of a ladder made of cases.
pub struct OfflineClimb {
    /// The orders of every rung, lowest first: the first is the scored one.
    pub rungs: Vec<RungOrders>,
    /// Orders that are no rung's: what parts are worth without the others.
    pub parts: Vec<RungOrders>,
}

/// What one rung made of each case: its slate's places, best first.
pub struct RungOrders {
    /// Its name.
    pub name: &'static str,
    /// An order for each case.
    pub orders: Vec<ScoredOrder>,
}

// === impl OfflineLadder ===

impl OfflineLadder {
    /// Reads what lies on the workspace.
    pub fn read(workspace: &Workspace<'_>, data: &TrainingData) -> anyhow::Result<Self> {
        let scorer = OfflineScorer::read(workspace)?;
        let answers = workspace.recipe.expects() && scorer.head().is_some();
        let (path, folder) = (workspace.path(Part::Reranker), workspace.path(Part::Decoder));
        if !path.exists() {
            return Ok(Self { scorer, model: None, file: RerankerFile::default(), answers });
        }
        let text = std::fs::read_to_string(&path).context("reading the reranker's file")?;
        let file = toml::from_str(&text).context("reading the reranker's file")?;
        Ok(Self {
            scorer,
            model: Some(OfflineReranker::start(&folder, &data.catalog)?),
            file,
            answers,
        })
    }

    /// The orders of every rung, and of their parts.
    pub fn climb(
        &self,
        data: &TrainingData,
        cases: &mut [Case],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<OfflineClimb> {
        if let Some(model) = self.model.as_ref().filter(|_| self.answers) {
            model.expect(cases, progress)?;
        }
        let orders = scored(&self.scorer, data, cases)?;
        let mut rungs = vec![RungOrders { name: "scored", orders }];
        let mut parts = Vec::new();
        if let Some(network) = self.scorer.head() {
            let orders = scored(&self.scorer.alone(), data, cases)?;
            parts.push(RungOrders { name: "without_rechead", orders });
            let reader = RecheadJudge::new(network, data);
            let orders = cases.iter().map(|case| order_by_score(&reader.scores(case))).collect();
            parts.push(RungOrders { name: "rechead_alone", orders });
        }
        let (Some(model), file) = (&self.model, self.file) else {
            return Ok(OfflineClimb { rungs, parts });
        };
        if let Some(file) = file.weighed {
            let logits = model.weigh(cases, &data.snapshots, progress)?;
            let below = last(&rungs);
            let fused = |logits: &[Vec<f32>]| {
                let mut orders = below.clone();
                for (order, logits) in orders.iter_mut().zip(logits) {
                    file.fuse(order, &logits_of_first(order, logits, file.candidates_max));
                }
                orders
            };
            let orders = fused(&logits);
            rungs.push(RungOrders { name: "weighed", orders });
            let orders = logits.iter().map(|logits| order_by_score(logits)).collect();
            parts.push(RungOrders { name: "weighed_alone", orders });
            let logits = model.weigh(&asking(data, cases), &data.snapshots, progress)?;
            parts.push(RungOrders { name: "weighed_asked", orders: fused(&logits) });
        }
        for (name, file) in [("reranked", file.reranked), ("reasoned", file.reasoned)] {
            let Some(file) = file else { continue };
            let mut orders = last(&rungs);
            let answers = compare(model, cases, &data.snapshots, &orders, file, progress)?;
            let judge = self.scorer.head().map(|network| RecheadJudge::new(network, data));
            for ((order, answer), case) in orders.iter_mut().zip(&answers).zip(&*cases) {
                let heard = judge.as_ref().map(|judge| judge.answered(case, &answer.1));
                file.fuse(order, &answer.0, &heard.unwrap_or_default());
            }
            rungs.push(RungOrders { name, orders });
        }
        Ok(OfflineClimb { rungs, parts })
    }
}

/// The same cases, if each shopper had asked for what they then took, in words as it is asked for in
/// training. What it says of a model is whether it listens, and not how good its orders are.
fn asking(data: &TrainingData, cases: &[Case]) -> Vec<Case> {
    let asking = |case: &Case| {
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(case.user));
        let taken = case.slate.iter().find(|item| case.relevant.contains(item));
        let asked = taken.map(|&item| synthetic_query::query_text(&data.catalog, item, &mut rng));
        let synthetic_query =
            SyntheticQuery { query_text: asked.unwrap_or_default(), ..SyntheticQuery::default() };
        Case { synthetic_query, ..case.clone() }
    };
    cases.iter().map(asking).collect()
}

/// The Rechead on a workspace: what it says once it has read what was written.
pub struct RecheadJudge<'a> {
    head: RecheadScorer,
    data: &'a TrainingData,
}

impl<'a> RecheadJudge<'a> {
    /// A Rechead that listens in this data.
    pub fn new(network: &Rechead, data: &'a TrainingData) -> Self {
        // No time changes the texts of items.
        let texts = &data.snapshots[0].cards.item_vectors;
        Self { head: RecheadScorer::new(network.clone(), 0.0, texts), data }
    }

    /// What it says of each candidate of a case's slate.
    pub fn scores(&self, case: &Case) -> Vec<f32> {
        let shopper = self.shopper(case, case.written());
        case.slate.iter().map(|&item| self.head.score(&shopper, item)).collect()
    }

    /// What it says of the candidates that a language model answered, in their order, once it has
    /// read the thought and the answer: nothing, if nothing was thought.
    pub fn answered(&self, case: &Case, answer: &ComparedAnswer) -> Vec<f32> {
        if answer.thought.is_empty() {
            return Vec::new();
        }
        let thought = self.data.reader.vector(&answer.thought);
        let answered = answer.order.first().copied();
        let written =
            ShopperTexts { history: &case.history, thought: Some(&thought), answer: answered };
        let shopper = self.shopper(case, written);
        answer.order.iter().map(|&item| self.head.score(&shopper, item)).collect()
    }

    fn shopper(&self, case: &Case, written: ShopperTexts<'_>) -> Vec<f32> {
        self.head.shopper_vector(written, &self.data.snapshots[case.snapshot].cards)
    }
}

/// The scored rung's orders.
pub fn scored(
    scorer: &OfflineScorer,
    data: &TrainingData,
    cases: &[Case],
) -> anyhow::Result<Vec<ScoredOrder>> {
    Ok(scorer.scores(data, cases)?.iter().map(|scores| order_by_score(scores)).collect())
}

/// Lets the language model compare the best of each order. An answer names candidates by their
/// places in the order below.
pub fn compare(
    model: &OfflineReranker,
    cases: &[Case],
    snapshots: &[Snapshot],
    orders: &[ScoredOrder],
    file: ComparedFile,
    progress: &mut dyn FnMut(usize),
) -> anyhow::Result<Vec<(Vec<usize>, ComparedAnswer)>> {
    let offers = cases.iter().zip(orders).map(|(case, order)| {
        let best = order.iter().take(file.offered_max);
        best.map(|&(place, _)| case.slate[place]).collect()
    });
    let offers: Vec<Vec<u32>> = offers.collect();
    let answers = model.compare(cases, snapshots, &offers, file, progress)?;
    let named = offers.iter().zip(answers).map(|(offer, answer)| {
        let place = |item: &u32| offer.iter().position(|other| other == item);
        (answer.order.iter().filter_map(place).collect(), answer)
    });
    Ok(named.collect())
}

/// The logits of the first candidates of an order, in that order.
pub fn logits_of_first(order: &ScoredOrder, logits: &[f32], most: usize) -> Vec<Option<f32>> {
    order.iter().take(most).map(|&(place, _)| Some(logits[place])).collect()
}

/// NDCG@10 of each case, with these orders.
pub fn ndcg_at_10<'o>(
    cases: &[Case],
    orders: impl IntoIterator<Item = &'o ScoredOrder>,
) -> Vec<f64> {
    let figure = |(case, order): (&Case, &ScoredOrder)| {
        let order: Vec<u32> = order.iter().map(|&(place, _)| case.slate[place]).collect();
        measure::ndcg(&order, &case.relevant, CUT)
    };
    cases.iter().zip(orders).map(figure).collect()
}

/// Places by score, best first.
pub fn order_by_score(scores: &[f32]) -> ScoredOrder {
    let mut order: ScoredOrder = scores.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order
}

fn last(rungs: &[RungOrders]) -> Vec<ScoredOrder> {
    rungs.last().map(|rung| rung.orders.clone()).unwrap_or_default()
}
