//! The ladder on a bench: what each rung makes of slates, by the models and the engine that serve.

use super::bench::Bench;
use super::cases::Case;
use super::scored::Scorer;
use super::snapshot::Snapshot;
use super::speaker::Speaker;
use super::world::World;
use crate::bundle::Part;
use crate::reranker::{Compared, ComparedFile, Order, RerankerFile};
use anyhow::Context as _;

/// The models of a bench.
pub struct Ladder {
    scorer: Scorer,
    /// The language model, if the bench has one.
    model: Option<Speaker>,
    file: RerankerFile,
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
        let (path, folder) = (bench.path(Part::Reranker), bench.path(Part::Decoder));
        if !path.exists() {
            return Ok(Self { scorer, model: None, file: RerankerFile::default() });
        }
        let text = std::fs::read_to_string(&path).context("reading the reranker's file")?;
        let file = toml::from_str(&text).context("reading the reranker's file")?;
        Ok(Self { scorer, model: Some(Speaker::start(&folder, &world.catalog)?), file })
    }

    /// The orders of every rung, lowest first, and of the language model's word alone.
    pub fn climb(
        &self,
        world: &World,
        cases: &[Case],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<(Vec<Rung>, Option<Rung>)> {
        let orders = scored(&self.scorer, world, cases)?;
        let mut rungs = vec![Rung { name: "scored", orders }];
        let (Some(model), file) = (&self.model, self.file) else { return Ok((rungs, None)) };
        let mut alone = None;
        if let Some(file) = file.weighed {
            let logits = model.weigh(cases, &world.snapshots, progress)?;
            let mut orders = last(&rungs);
            for (order, logits) in orders.iter_mut().zip(&logits) {
                file.fuse(order, &of_the_first(order, logits, file.candidates_max));
            }
            rungs.push(Rung { name: "weighed", orders });
            let orders = logits.iter().map(|logits| sorted(logits)).collect();
            alone = Some(Rung { name: "weighed_alone", orders });
        }
        for (name, file) in [("reranked", file.reranked), ("reasoned", file.reasoned)] {
            let Some(file) = file else { continue };
            let mut orders = last(&rungs);
            let answers = compare(model, cases, &world.snapshots, &orders, file, progress)?;
            for (order, answer) in orders.iter_mut().zip(&answers) {
                file.fuse(order, &answer.0);
            }
            rungs.push(Rung { name, orders });
        }
        Ok((rungs, alone))
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
    let answers = model.compare(cases, snapshots, &offers, file.thought_tokens_max, progress)?;
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

/// Places by score, best first.
pub fn sorted(scores: &[f32]) -> Order {
    let mut order: Order = scores.iter().copied().enumerate().collect();
    order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    order
}

fn last(rungs: &[Rung]) -> Vec<Order> {
    rungs.last().map(|rung| rung.orders.clone()).unwrap_or_default()
}
