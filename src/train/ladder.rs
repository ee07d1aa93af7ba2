//! The ladder on a bench: what each rung makes of slates, by the models and the engine that serve.

use super::bench::Bench;
use super::cases::Case;
use super::measure;
use super::remarks::{self, Remarks};
use super::scored::Scorer;
use super::snapshot::Snapshot;
use super::speaker::Speaker;
use super::world::World;
use crate::bundle::Part;
use crate::nn::Rechead;
use crate::reranker::{Compared, ComparedFile, Order, RerankerFile};
use crate::scorer::{Head, Written};
use anyhow::Context as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// The figure that rungs are fitted by: NDCG at this cut.
const CUT: usize = 10;

/// The models of a bench.
pub struct Ladder {
    scorer: Scorer,
    /// The language model, if the bench has one.
    model: Option<Speaker>,
    file: RerankerFile,
    /// Whether the language model is asked which item it expects.
    answers: bool,
}

/// What the rungs of a ladder made of cases.
pub struct Climb {
    /// The orders of every rung, lowest first: the first is the scored one.
    pub rungs: Vec<Rung>,
    /// Orders that are no rung's: what parts are worth without the others.
    pub parts: Vec<Rung>,
}

/// What one rung made of each case: its slate's places, best first.
pub struct Rung {
    /// Its name.
    pub name: &'static str,
    /// An order for each case.
    pub orders: Vec<Order>,
}

// === impl Ladder ===

impl Ladder {
    /// Reads what lies on the bench.
    pub fn read(bench: &Bench<'_>, world: &World) -> anyhow::Result<Self> {
        let scorer = Scorer::read(bench)?;
        let answers = bench.recipe.expects() && scorer.head().is_some();
        let (path, folder) = (bench.path(Part::Reranker), bench.path(Part::Decoder));
        if !path.exists() {
            return Ok(Self { scorer, model: None, file: RerankerFile::default(), answers });
        }
        let text = std::fs::read_to_string(&path).context("reading the reranker's file")?;
        let file = toml::from_str(&text).context("reading the reranker's file")?;
        Ok(Self { scorer, model: Some(Speaker::start(&folder, &world.catalog)?), file, answers })
    }

    /// The orders of every rung, and of their parts.
    pub fn climb(
        &self,
        world: &World,
        cases: &mut [Case],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Climb> {
        if let Some(model) = self.model.as_ref().filter(|_| self.answers) {
            model.expect(cases, progress)?;
        }
        let orders = scored(&self.scorer, world, cases)?;
        let mut rungs = vec![Rung { name: "scored", orders }];
        let mut parts = Vec::new();
        if let Some(network) = self.scorer.head() {
            let orders = scored(&self.scorer.alone(), world, cases)?;
            parts.push(Rung { name: "without_rechead", orders });
            let reader = Listener::new(network, world);
            let orders = cases.iter().map(|case| sorted(&reader.scores(case))).collect();
            parts.push(Rung { name: "rechead_alone", orders });
        }
        let (Some(model), file) = (&self.model, self.file) else {
            return Ok(Climb { rungs, parts });
        };
        if let Some(file) = file.weighed {
            let logits = model.weigh(cases, &world.snapshots, progress)?;
            let below = last(&rungs);
            let fused = |logits: &[Vec<f32>]| {
                let mut orders = below.clone();
                for (order, logits) in orders.iter_mut().zip(logits) {
                    file.fuse(order, &of_the_first(order, logits, file.candidates_max));
                }
                orders
            };
            let orders = fused(&logits);
            rungs.push(Rung { name: "weighed", orders });
            let orders = logits.iter().map(|logits| sorted(logits)).collect();
            parts.push(Rung { name: "weighed_alone", orders });
            let logits = model.weigh(&asking(world, cases), &world.snapshots, progress)?;
            parts.push(Rung { name: "weighed_asked", orders: fused(&logits) });
        }
        for (name, file) in [("reranked", file.reranked), ("reasoned", file.reasoned)] {
            let Some(file) = file else { continue };
            let mut orders = last(&rungs);
            let answers = compare(model, cases, &world.snapshots, &orders, file, progress)?;
            let listener = self.scorer.head().map(|network| Listener::new(network, world));
            for ((order, answer), case) in orders.iter_mut().zip(&answers).zip(&*cases) {
                let heard = listener.as_ref().map(|listener| listener.answered(case, &answer.1));
                file.fuse(order, &answer.0, &heard.unwrap_or_default());
            }
            rungs.push(Rung { name, orders });
        }
        Ok(Climb { rungs, parts })
    }
}

/// The same cases, if each shopper had asked for what they then took, in words as it is asked for in
/// training. What it says of a model is whether it listens, and not how good its orders are.
fn asking(world: &World, cases: &[Case]) -> Vec<Case> {
    let asking = |case: &Case| {
        let mut rng = ChaCha8Rng::seed_from_u64(u64::from(case.user));
        let taken = case.slate.iter().find(|item| case.relevant.contains(item));
        let asked = taken.map(|&item| remarks::request(&world.catalog, item, &mut rng));
        let remarks = Remarks { request: asked.unwrap_or_default(), ..Remarks::default() };
        Case { remarks, ..case.clone() }
    };
    cases.iter().map(asking).collect()
}

/// The Rechead on a bench: what it says once it has read what was written.
pub struct Listener<'a> {
    head: Head,
    world: &'a World,
}

impl<'a> Listener<'a> {
    /// A Rechead that listens in this world.
    pub fn new(network: &Rechead, world: &'a World) -> Self {
        // No time changes the texts of items.
        let texts = &world.snapshots[0].cards.item_vectors;
        Self { head: Head::new(network.clone(), 0.0, texts), world }
    }

    /// What it says of each candidate of a case's slate.
    pub fn scores(&self, case: &Case) -> Vec<f32> {
        let shopper = self.shopper(case, case.written());
        case.slate.iter().map(|&item| self.head.score(&shopper, item)).collect()
    }

    /// What it says of the candidates that a language model answered, in their order, once it has
    /// read the thought and the answer: nothing, if nothing was thought.
    pub fn answered(&self, case: &Case, answer: &Compared) -> Vec<f32> {
        if answer.thought.is_empty() {
            return Vec::new();
        }
        let thought = self.world.reader.vector(&answer.thought);
        let answered = answer.order.first().copied();
        let written = Written { history: &case.history, thought: Some(&thought), answer: answered };
        let shopper = self.shopper(case, written);
        answer.order.iter().map(|&item| self.head.score(&shopper, item)).collect()
    }

    fn shopper(&self, case: &Case, written: Written<'_>) -> Vec<f32> {
        self.head.shopper(written, &self.world.snapshots[case.snapshot].cards)
    }
}

/// The scored rung's orders.
pub fn scored(scorer: &Scorer, world: &World, cases: &[Case]) -> anyhow::Result<Vec<Order>> {
    Ok(scorer.scores(world, cases)?.iter().map(|scores| sorted(scores)).collect())
}

/// Lets the language model compare the best of each order. An answer names candidates by their
/// places in the order below.
pub fn compare(
    model: &Speaker,
    cases: &[Case],
    snapshots: &[Snapshot],
    orders: &[Order],
    file: ComparedFile,
    progress: &mut dyn FnMut(usize),
) -> anyhow::Result<Vec<(Vec<usize>, Compared)>> {
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
pub fn of_the_first(order: &Order, logits: &[f32], most: usize) -> Vec<Option<f32>> {
    order.iter().take(most).map(|&(place, _)| Some(logits[place])).collect()
}

/// NDCG@10 of each case, with these orders.
pub fn figures<'o>(cases: &[Case], orders: impl IntoIterator<Item = &'o Order>) -> Vec<f64> {
    let figure = |(case, order): (&Case, &Order)| {
        let order: Vec<u32> = order.iter().map(|&(place, _)| case.slate[place]).collect();
        measure::ndcg(&order, &case.relevant, CUT)
    };
    cases.iter().zip(orders).map(figure).collect()
}

/// Places by score, best first.
pub fn sorted(scores: &[f32]) -> Order {
    let mut order: Order = scores.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order
}

fn last(rungs: &[Rung]) -> Vec<Order> {
    rungs.last().map(|rung| rung.orders.clone()).unwrap_or_default()
}
