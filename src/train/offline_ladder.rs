//! The ladder of a workspace: the order of each rung for many cases, by the models and the engine that
//! serve and by the same pure steps (`reranker/fusion.rs`).

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
use crate::reranker::{
    ComparedAnswer, ComparedFile, Offered, RUNGS, RerankerFile, RungSettings, ScoredOrder,
    WeighedFile, order_by_score, rechead_scores,
};
use crate::scorer::{RecheadScorer, ShopperTexts};
use anyhow::Context as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// The figure that rungs are fitted by: NDCG at this cut.
const CUT: usize = 10;

/// What the order of the scored rung would be without the Rechead.
pub const WITHOUT_RECHEAD: &str = "without_rechead";
/// The order by the Rechead's scores alone.
pub const RECHEAD_ALONE: &str = "rechead_alone";
/// The order by the logits of the weighed rung alone.
pub const WEIGHED_ALONE: &str = "weighed_alone";
/// The order of the weighed rung if each query had a text for the item that was then taken.
pub const WEIGHED_ASKED: &str = "weighed_asked";

/// The models of a workspace, as a ladder for many cases at once.
#[derive(Debug)]
pub struct OfflineLadder {
    scorer: OfflineScorer,
    /// The language model, if the workspace has one.
    model: Option<OfflineReranker>,
    file: RerankerFile,
    /// Whether the language model predicts which item each shopper wants, before the climb.
    expects: bool,
}

/// The orders that the rungs of a ladder give many cases.
#[derive(Debug, Default)]
pub struct OfflineClimb {
    /// The orders of every rung, lowest first: the first is the scored one.
    pub rungs: Vec<RungOrders>,
    /// Orders that are no rung's, but show what a part is worth without the others.
    pub parts: Vec<RungOrders>,
}

/// One rung's order of each case's slate.
#[derive(Debug)]
pub struct RungOrders {
    /// Its name.
    pub name: &'static str,
    /// An order for each case.
    pub orders: Vec<ScoredOrder>,
}

// === impl OfflineLadder ===

impl OfflineLadder {
    /// Reads the models of a workspace.
    pub fn read(workspace: &Workspace<'_>, data: &TrainingData) -> anyhow::Result<Self> {
        let scorer = OfflineScorer::read(workspace)?;
        let expects = workspace.recipe.expects_items() && scorer.head().is_some();
        let (path, folder) = (workspace.path(Part::Reranker), workspace.path(Part::Decoder));
        if !workspace.has(Part::Reranker) {
            return Ok(Self { scorer, model: None, file: RerankerFile::default(), expects });
        }
        let text = std::fs::read_to_string(&path).context("reading the reranker's file")?;
        let file = toml::from_str(&text).context("reading the reranker's file")?;
        Ok(Self {
            scorer,
            model: Some(OfflineReranker::start(&folder, &data.catalog)?),
            file,
            expects,
        })
    }

    /// The small models.
    pub fn scorer(&self) -> &OfflineScorer {
        &self.scorer
    }

    /// Climbs with every case, as the served ladder does with every request: the orders of each rung,
    /// and of its parts.
    pub fn climb(
        &self,
        data: &TrainingData,
        cases: &mut [Case],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<OfflineClimb> {
        if let Some(model) = self.model.as_ref().filter(|_| self.expects) {
            model.expect(cases, progress)?;
        }
        let mut climb = OfflineClimb::default();
        for rung in RUNGS {
            let Some(settings) = rung.settings(self.file) else { continue };
            let orders = match (settings, &self.model) {
                (RungSettings::Scored, _) => self.scored(data, cases, &mut climb.parts)?,
                (RungSettings::Weighed(file), Some(model)) => {
                    weighed(model, file, data, cases, &mut climb, progress)?
                }
                (RungSettings::Compared(file), Some(model)) => {
                    self.compared(model, file, data, cases, climb.top(), progress)?
                }
                (RungSettings::Weighed(_) | RungSettings::Compared(_), None) => continue,
            };
            climb.rungs.push(RungOrders { name: rung.name(), orders });
        }
        Ok(climb)
    }

    fn scored(
        &self,
        data: &TrainingData,
        cases: &[Case],
        parts: &mut Vec<RungOrders>,
    ) -> anyhow::Result<Vec<ScoredOrder>> {
        if let Some(network) = self.scorer.head() {
            let orders = self.scorer.without_late_sum().orders(data, cases)?;
            parts.push(RungOrders { name: WITHOUT_RECHEAD, orders });
            let judge = RecheadJudge::new(network, data);
            let orders = cases.iter().map(|case| order_by_score(&judge.scores(case))).collect();
            parts.push(RungOrders { name: RECHEAD_ALONE, orders });
        }
        self.scorer.orders(data, cases)
    }

    fn compared(
        &self,
        model: &OfflineReranker,
        file: ComparedFile,
        data: &TrainingData,
        cases: &[Case],
        below: &[ScoredOrder],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<ScoredOrder>> {
        let answers = compare(model, cases, &data.snapshots, below, file, progress)?;
        let judge = self.scorer.head().map(|network| RecheadJudge::new(network, data));
        let mut orders = below.to_vec();
        for ((order, answer), case) in orders.iter_mut().zip(&answers).zip(cases) {
            let rechead = judge.as_ref().map(|judge| judge.answered(case, &answer.answer));
            file.fuse(order, &answer.places, &rechead.unwrap_or_default());
        }
        Ok(orders)
    }
}

// === impl OfflineClimb ===

impl OfflineClimb {
    /// The orders of the highest rung so far.
    fn top(&self) -> &[ScoredOrder] {
        self.rungs.last().map_or(&[], |rung| &rung.orders)
    }
}

fn weighed(
    model: &OfflineReranker,
    file: WeighedFile,
    data: &TrainingData,
    cases: &[Case],
    climb: &mut OfflineClimb,
    progress: &mut dyn FnMut(usize),
) -> anyhow::Result<Vec<ScoredOrder>> {
    let below = climb.top();
    let fused = |logits: &[Vec<f32>]| -> Vec<ScoredOrder> {
        let mut orders = below.to_vec();
        for ((order, logits), case) in orders.iter_mut().zip(logits).zip(cases) {
            fuse_logits(file, order, case, logits);
        }
        orders
    };
    let logits = model.weigh(cases, &data.snapshots, progress)?;
    let orders = fused(&logits);
    let with_query = model.weigh(&with_query_texts(data, cases), &data.snapshots, progress)?;
    let with_query = fused(&with_query);
    let alone = logits.iter().map(|logits| order_by_score(logits)).collect();
    climb.parts.push(RungOrders { name: WEIGHED_ALONE, orders: alone });
    climb.parts.push(RungOrders { name: WEIGHED_ASKED, orders: with_query });
    Ok(orders)
}

/// Fuses the order below with the logits of a case's whole slate, of which the rung reads those of the
/// candidates that it would be offered.
pub fn fuse_logits(file: WeighedFile, order: &mut ScoredOrder, case: &Case, logits: &[f32]) {
    let offered = offered(order, case, file.candidates_max);
    let of_offered: Vec<f32> = offered.places.iter().map(|&place| logits[order[place].0]).collect();
    file.fuse(order, &offered, &of_offered);
}

/// The best candidates of a case's order. The catalogue holds every item of a case.
fn offered(order: &ScoredOrder, case: &Case, most: usize) -> Offered {
    Offered::best_of(order, most, |position| Some(case.slate[position]))
}

/// The same cases, each with a query text for the item that was then taken, written as in training. The
/// figures tell whether a model reads query texts, not how good its orders are.
fn with_query_texts(data: &TrainingData, cases: &[Case]) -> Vec<Case> {
    let with_text = |case: &Case| {
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(case.user));
        let taken = case.slate.iter().find(|item| case.relevant.contains(item));
        let text = taken.map(|&item| synthetic_query::query_text(&data.catalog, item, &mut rng));
        let synthetic_query =
            SyntheticQuery { query_text: text.unwrap_or_default(), ..SyntheticQuery::default() };
        Case { synthetic_query, ..case.clone() }
    };
    cases.iter().map(with_text).collect()
}

/// The Rechead of a workspace, which scores the items of cases.
#[derive(Debug)]
pub struct RecheadJudge<'a> {
    head: RecheadScorer,
    data: &'a TrainingData,
}

impl<'a> RecheadJudge<'a> {
    /// A Rechead that reads this data.
    pub fn new(network: &Rechead, data: &'a TrainingData) -> Self {
        // The texts of items are the same in every snapshot.
        let cards = &data.snapshots[0].cards;
        let vectors = Some(&data.item_vectors);
        Self { head: RecheadScorer::new(network.clone(), 0.0, cards, vectors), data }
    }

    /// The same Rechead, which reads each text of a shopper as if it were the next one.
    pub fn with_texts_swapped(self) -> Self {
        Self { head: self.head.with_texts_swapped(), ..self }
    }

    /// The score of each candidate of a case's slate.
    pub fn scores(&self, case: &Case) -> Vec<f32> {
        self.scores_of(case, case.written())
    }

    /// The same, if these were the shopper's texts.
    pub fn scores_of(&self, case: &Case, written: ShopperTexts<'_>) -> Vec<f32> {
        let shopper = self.head.shopper_vector(written, self.data.text_sources(case));
        case.slate.iter().map(|&item| self.head.score(&shopper, item)).collect()
    }

    /// The Rechead's score of each candidate of an answer, in the answer's order, after it has read the
    /// thought and the answer. Empty if the model did not think.
    pub fn answered(&self, case: &Case, answer: &ComparedAnswer) -> Vec<f32> {
        rechead_scores(&self.head, self.data.text_sources(case), &case.history, answer)
    }
}

/// A language model's answer to the offer of one case.
#[derive(Debug)]
pub struct CaseAnswer {
    /// The places in the order below of the candidates that it ranked, best first.
    pub places: Vec<usize>,
    /// The answer. It is empty where the rung would fall short for want of candidates.
    pub answer: ComparedAnswer,
}

/// Lets the language model compare the best of each order.
pub fn compare(
    model: &OfflineReranker,
    cases: &[Case],
    snapshots: &[Snapshot],
    orders: &[ScoredOrder],
    file: ComparedFile,
    progress: &mut dyn FnMut(usize),
) -> anyhow::Result<Vec<CaseAnswer>> {
    let all = cases.iter().zip(orders);
    let offers: Vec<Offered> =
        all.map(|(case, order)| offered(order, case, file.offered_max)).collect();
    let compared = offers.iter().map(|offered| match offered.items.len() {
        ..ComparedFile::OFFERED_MIN => Vec::new(),
        _ => offered.items.clone(),
    });
    let answers = model.compare(cases, snapshots, &compared.collect::<Vec<_>>(), file, progress)?;
    let answers = offers.iter().zip(answers);
    Ok(answers
        .map(|(offered, answer)| CaseAnswer { places: offered.places_of(&answer.order), answer })
        .collect())
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
