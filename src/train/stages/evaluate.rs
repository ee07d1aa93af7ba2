//! Is each rung of the ladder better than the one below it?

use crate::bundle::Part;
use crate::domain::Quality;
use crate::reranker::{RUNGS, RungSpec};
use crate::train::cases::{Case, PredictionTask};
use crate::train::dataset::DAY_S;
use crate::train::measure::{self, Comparison, Interval};
use crate::train::offline_ladder::{
    OfflineClimb, OfflineLadder, RECHEAD_ALONE, RungOrders, WEIGHED_ALONE, WITHOUT_RECHEAD,
};
use crate::train::offline_scorer::rechead;
use crate::train::training_data::TrainingData;
use crate::train::{Stage, Workspace, reason_share};
use anyhow::Context as _;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Measures each rung of the ladder against the rung below it.
#[derive(Debug)]
pub struct Evaluate;

/// The name of the order given.
const GIVEN: &str = Quality::Given.as_str();

/// The figures of a table, by name.
const FIGURES: [(&str, Figure); 6] = [
    ("recall@1", |order, relevant| measure::recall(order, relevant, 1)),
    ("recall@5", |order, relevant| measure::recall(order, relevant, 5)),
    ("recall@10", |order, relevant| measure::recall(order, relevant, 10)),
    ("ndcg@5", |order, relevant| measure::ndcg(order, relevant, 5)),
    ("ndcg@10", |order, relevant| measure::ndcg(order, relevant, 10)),
    ("mrr", |order, relevant| measure::reciprocal_rank(order, relevant)),
];

/// Days in which a purchase loses most of its weight, in the baseline of a user's favourites.
const FAVOURITE_DAYS: f64 = 90.0;
/// How many of the first items count as shown, for coverage.
const COVERED: usize = 10;

/// Whether a case belongs to a slice of the table.
type Slice = fn(&TrainingData, &Case) -> bool;
type Figure = fn(&[u32], &[u32]) -> f64;

impl Stage for Evaluate {
    fn name(&self) -> &'static str {
        "evaluate"
    }

    fn about(&self) -> &'static str {
        "Compares each rung's order with that of the rung below on slates of the test time, with bootstrap intervals"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape]
    }

    fn may_read(&self) -> &'static [Part] {
        &[Part::SemanticIds, Part::Decoder, Part::Rechead, Part::RecheadShape, Part::Reranker]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Report]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let evaluation = evaluate(workspace)?;
        std::fs::write(workspace.path(Part::Report), serde_json::to_vec_pretty(&evaluation)?)
            .context("writing the report")?;
        Ok(evaluation)
    }
}

/// Measures the workspace's models on the test time of the workspace's shop: by task, then by slice, then
/// by figure.
pub fn evaluate(workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
    let split = workspace.dataset(&*workspace.catalog()?)?.split;
    let rechead = rechead(workspace)?.map(|(network, _)| network);
    let data = TrainingData::open(workspace, split.test, split.end)?;
    let data = data.with_cards_as_kept(rechead.as_ref());
    let ladder = OfflineLadder::read(workspace, &data)?;
    let recipe = workspace.recipe.clone();
    let mut report = Map::new();
    let tasks = data.last_cases(recipe.slates.size, &recipe.shop.currency, split.test, split.end);
    for (task, mut cases) in tasks {
        let (what, of) = (format!("evaluating {}", task.as_str()), cases.len() as u64);
        workspace.progress.show(&what, 0, of);
        let show = &mut |done| workspace.progress.show(&what, done as u64, of);
        let climb = ladder.climb(&data, &mut cases, show)?;
        let judged = JudgedCases { task, data: &data, cases: &cases, climb: &climb };
        let table = judged.table(recipe.evaluate.resamples, recipe.seed);
        report.insert(task.as_str().into(), table);
    }
    Ok(Value::Object(report))
}

/// The cases of a task with the orders of each rung.
struct JudgedCases<'a> {
    task: PredictionTask,
    data: &'a TrainingData,
    cases: &'a [Case],
    climb: &'a OfflineClimb,
}

impl JudgedCases<'_> {
    fn table(&self, resamples: usize, seed: u64) -> Value {
        let slices: [(&str, Slice); 4] = [
            ("all", |_, _| true),
            ("conditional", |_, case| holds(case)),
            ("cold_shoppers", |_, case| case.is_cold()),
            ("cold_items", |data, case| is_new(data, case)),
        ];
        let mut table = Map::new();
        for (name, belongs) in slices {
            let chosen: Vec<usize> =
                (0..self.cases.len()).filter(|&at| belongs(self.data, &self.cases[at])).collect();
            table.insert(name.into(), self.slice(&chosen, resamples, seed));
        }
        Value::Object(table)
    }

    fn slice(&self, chosen: &[usize], resamples: usize, seed: u64) -> Value {
        let given: Vec<Vec<u32>> = chosen.iter().map(|&at| self.cases[at].slate.clone()).collect();
        let rungs = self.named(&self.climb.rungs, chosen);
        let parts = self.named(&self.climb.parts, chosen);
        let Some(((first, scored), upper)) = rungs.split_first() else { return Value::Null };
        let mut figures = Map::new();
        for (name, figure) in FIGURES {
            let measured = |orders: &[Vec<u32>]| -> Vec<f64> {
                let each = chosen.iter().zip(orders);
                each.map(|(&at, order)| figure(order, &self.cases[at].relevant)).collect()
            };
            let compare =
                |below: &[f64], above: &[f64]| measure::compare(below, above, resamples, seed);
            let of_given = measured(&given);
            let mut below = measured(scored);
            let Some(comparison) = compare(&of_given, &below) else { continue };
            let mut row = figures_of(first, &comparison);
            for (part, orders) in &parts {
                if let Some(alone) = compare(&of_given, &measured(orders)) {
                    row[part] = interval(&alone.after);
                }
            }
            for (rung, orders) in upper {
                let above = measured(orders);
                if let Some(comparison) = compare(&below, &above) {
                    row[rung] = interval(&comparison.after);
                    row[gain_of(rung)] = interval(&comparison.gain);
                }
                below = above;
            }
            figures.insert(name.into(), row);
        }
        let pairs = given.iter().map(Vec::as_slice).zip(scored.iter().map(Vec::as_slice));
        let coverage = |orders: &[Vec<u32>]| {
            let orders = orders.iter().map(Vec::as_slice);
            measure::coverage(orders, COVERED, self.data.catalog.len())
        };
        let reasons = |orders: &[Vec<u32>]| {
            let cases = chosen.iter().map(|&at| &self.cases[at]);
            reason_share(self.data, cases.zip(orders.iter().map(Vec::as_slice)), COVERED)
        };
        json!({
            "cases": chosen.len(),
            "ceiling": self.ceiling(chosen),
            "order_kept": measure::identity_rate(pairs),
            "coverage@10": { GIVEN: coverage(&given), *first: coverage(scored) },
            "with_reason@10": { GIVEN: reasons(&given), *first: reasons(scored) },
            "figures": figures,
            "baselines": self.baselines(chosen),
        })
    }

    /// The items of the chosen cases in the orders of each of these rungs.
    fn named(&self, rungs: &[RungOrders], chosen: &[usize]) -> Vec<(&'static str, Vec<Vec<u32>>)> {
        let items = |rung: &RungOrders, at: usize| {
            let slate = &self.cases[at].slate;
            rung.orders[at].iter().map(|&(position, _)| slate[position]).collect()
        };
        let orders = |rung: &RungOrders| chosen.iter().map(|&at| items(rung, at)).collect();
        rungs.iter().map(|rung| (rung.name, orders(rung))).collect()
    }

    /// The figures of two plain rules for the same cases, over the whole catalogue and not just the
    /// slates: the items that this user bought most and most lately, and those that everybody did.
    fn baselines(&self, chosen: &[usize]) -> Value {
        let mut sums = [[0.0; 2]; 2];
        for &at in chosen {
            let case = &self.cases[at];
            for (sums, order) in
                sums.iter_mut().zip([self.own_favourites(case), self.popular(case)])
            {
                sums[0] += measure::recall(&order, &case.relevant, 10);
                sums[1] += measure::ndcg(&order, &case.relevant, 10);
            }
        }
        let mean = |sum: f64| (sum / chosen.len().max(1) as f64 * 1e5).round() / 1e5;
        let figures =
            |sums: [f64; 2]| json!({ "recall@10": mean(sums[0]), "ndcg@10": mean(sums[1]) });
        json!({ "recency_weighted_frequency": figures(sums[0]), "popularity": figures(sums[1]) })
    }

    /// The items that this user bought before, by how often and how lately.
    fn own_favourites(&self, case: &Case) -> Vec<u32> {
        let mut weights: BTreeMap<u32, f64> = BTreeMap::new();
        let bought = &self.data.dataset.bought[case.user as usize];
        for line in bought.iter().take_while(|line| line.time < case.now) {
            let days = (case.now - line.time) as f64 / DAY_S as f64;
            *weights.entry(line.item).or_default() += (-days / FAVOURITE_DAYS).exp();
        }
        let mut order: Vec<(u32, f64)> = weights.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order.into_iter().map(|(item, _)| item).collect()
    }

    /// The items that were bought most in the weeks before, without those that the task excludes.
    fn popular(&self, case: &Case) -> Vec<u32> {
        let popular = self.data.snapshots[case.snapshot].upstream.popular();
        let bought = &self.data.dataset.bought[case.user as usize];
        let first = self.task == PredictionTask::FirstPurchase;
        let had = |item: &u32| bought.iter().any(|line| line.time < case.now && line.item == *item);
        popular.iter().copied().filter(|item| !(first && had(item))).take(COVERED).collect()
    }

    /// Recall@10 of the best order that these slates allow.
    fn ceiling(&self, chosen: &[usize]) -> f64 {
        let best = chosen.iter().map(|&at| {
            let case = &self.cases[at];
            let held = case.slate.iter().filter(|item| case.relevant.contains(item)).count();
            held.min(10) as f64 / case.relevant.len().min(10) as f64
        });
        best.sum::<f64>() / chosen.len().max(1) as f64
    }
}

/// Whether the slate holds an item that was then bought, so that its order matters.
fn holds(case: &Case) -> bool {
    case.relevant.iter().any(|item| case.slate.contains(item))
}

/// Whether an item that was bought was new to the shop: without a sale in most of the log.
fn is_new(data: &TrainingData, case: &Case) -> bool {
    let first =
        |item: &u32| data.snapshots[case.snapshot].cards.items[*item as usize].stats.first_sale;
    case.relevant
        .iter()
        .any(|item| first(item).is_none_or(|first| first >= data.dataset.split.validate))
}

/// The name of a rung's gain over the rung below.
fn gain_of(rung: &str) -> String {
    format!("{rung}_gain")
}

/// The figures of the first rung beside those of the order given.
fn figures_of(first: &str, comparison: &Comparison) -> Value {
    json!({
        GIVEN: interval(&comparison.before),
        first: interval(&comparison.after),
        "gain": interval(&comparison.gain),
        "relative": comparison.relative.as_ref().map(interval),
    })
}

fn interval(interval: &Interval) -> Value {
    let round = |value: f64| (value * 1e5).round() / 1e5;
    json!({ "mean": round(interval.mean), "low": round(interval.low), "high": round(interval.high) })
}

/// The report as lines of a table, for people.
pub fn table(report: &Value) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for (task, slices) in report.as_object().into_iter().flatten() {
        for (slice, table) in slices.as_object().into_iter().flatten() {
            let _ = writeln!(
                text,
                "\n{task}, {slice}: {} cases, ceiling of Recall@10 {:.3}, order kept {:.1} %",
                table["cases"],
                table["ceiling"].as_f64().unwrap_or_default(),
                100.0 * table["order_kept"].as_f64().unwrap_or_default(),
            );
            for (rule, of) in table["baselines"].as_object().into_iter().flatten() {
                let _ = writeln!(
                    text,
                    "  {rule}: recall@10 {:.4}, ndcg@10 {:.4}",
                    of["recall@10"].as_f64().unwrap_or_default(),
                    of["ndcg@10"].as_f64().unwrap_or_default(),
                );
            }
            for (figure, of) in table["figures"].as_object().into_iter().flatten() {
                let _ = writeln!(text, "  {figure:<10} {}", row(of));
            }
        }
    }
    text
}

fn row(of: &Value) -> String {
    use std::fmt::Write as _;
    let number = |name: &str, of_it: &str| of[name][of_it].as_f64().unwrap_or(f64::NAN);
    let with_gain = |rung: &str, gain: &str| {
        format!(
            "  {rung} {:.4}  gain {:+.4} [{:+.4}, {:+.4}]",
            number(rung, "mean"),
            number(gain, "mean"),
            number(gain, "low"),
            number(gain, "high"),
        )
    };
    let is_there = |name: &&str| of[*name]["mean"].is_number();
    let mut row = format!("{GIVEN} {:.4}", number(GIVEN, "mean"));
    let mut rungs = RUNGS.iter().map(RungSpec::name);
    if let Some(first) = rungs.next() {
        row.push_str(&with_gain(first, "gain"));
    }
    let relative = of["relative"]["mean"].as_f64();
    let relative = relative.map_or("–".into(), |share| format!("{:+.1} %", 100.0 * share));
    let _ = write!(row, "  relative {relative}");
    for rung in rungs.filter(is_there) {
        row.push_str(&with_gain(rung, &gain_of(rung)));
    }
    for part in [WITHOUT_RECHEAD, RECHEAD_ALONE, WEIGHED_ALONE].iter().filter(|part| is_there(part))
    {
        let _ = write!(row, "  {} {:.4}", part.replace('_', " "), number(part, "mean"));
    }
    row
}
