//! The table of one task: every order of its cases, by slice and figure.

use super::beyond::Beyond;
use super::whole_catalogue;
use crate::domain::Quality;
use crate::reranker::ScoredOrder;
use crate::train::cases::{Case, PredictionTask};
use crate::train::measure::{self, Interval, Resampled, rounded};
use crate::train::offline_ladder::{OfflineClimb, RungOrders};
use crate::train::rules::{BOUGHT_BEFORE_FIRST, FittedRules, SalesLog};
use crate::train::training_data::TrainingData;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

/// The name of the order given.
pub(super) const GIVEN: &str = Quality::Given.as_str();
/// The figures of a table, by name.
pub(super) const FIGURES: [(&str, Figure); 6] = [
    ("recall@1", |order, relevant| measure::recall(order, relevant, 1)),
    ("recall@5", |order, relevant| measure::recall(order, relevant, 5)),
    ("recall@10", |order, relevant| measure::recall(order, relevant, 10)),
    ("ndcg@5", |order, relevant| measure::ndcg(order, relevant, 5)),
    ("ndcg@10", |order, relevant| measure::ndcg(order, relevant, 10)),
    ("mrr", |order, relevant| measure::reciprocal_rank(order, relevant)),
];
/// The slices of a table, by name.
const SLICES: [(&str, Slice); 4] = [
    ("all", |_, _| true),
    ("conditional", |_, case| holds(case)),
    ("cold_shoppers", |_, case| case.is_cold()),
    ("cold_items", |data, case| is_new(data, case)),
];

type Figure = fn(&[u32], &[u32]) -> f64;
/// Whether a case belongs to a slice of the table.
type Slice = fn(&TrainingData, &Case) -> bool;

/// One way to order the slates of all cases.
pub(super) struct Ranker {
    /// Its name.
    pub(super) name: String,
    /// An order for each case: items, best first.
    pub(super) orders: Vec<Vec<u32>>,
}

/// The cases of a task with the orders of each rung and rule.
pub(super) struct JudgedTask<'a> {
    task: PredictionTask,
    data: &'a TrainingData,
    log: &'a SalesLog<'a>,
    cases: &'a [Case],
    rules: &'a FittedRules,
    /// The order given, the rules, the rungs from the lowest, then orders that are no rung's.
    rankers: Vec<Ranker>,
    /// How many of the rankers are rungs.
    rungs: usize,
}

/// The positions of some rankers.
struct Positions {
    rules: std::ops::Range<usize>,
    best_rule: Option<usize>,
    rungs: std::ops::Range<usize>,
    parts: std::ops::Range<usize>,
    repeats_first: Option<usize>,
}

// === impl JudgedTask ===

impl<'a> JudgedTask<'a> {
    /// Orders every case by every rule, beside the orders of the rungs.
    pub(super) fn new(
        task: PredictionTask,
        data: &'a TrainingData,
        log: &'a SalesLog<'a>,
        cases: &'a [Case],
        climb: &OfflineClimb,
        rules: &'a FittedRules,
    ) -> Self {
        let given = cases.iter().map(|case| case.slate.clone()).collect();
        let mut rankers = vec![Ranker { name: GIVEN.into(), orders: given }];
        rankers.extend(by_rules(task, log, cases, rules));
        let climbed = climb.rungs.iter().chain(&climb.parts);
        rankers.extend(climbed.map(|rung| Ranker::of_rung(rung, cases)));
        Self { task, data, log, cases, rules, rankers, rungs: climb.rungs.len() }
    }

    /// The table: by slice, then by figure.
    pub(super) fn table(
        &self,
        resamples: usize,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Value {
        let at = self.positions();
        let shown = std::iter::once(0).chain(at.best_rule).chain(at.rungs.clone());
        let beyond: Vec<(usize, Beyond)> = shown
            .map(|ranker| {
                let orders = &self.rankers[ranker].orders;
                (ranker, Beyond::new(self.data, self.log, self.task, self.cases, orders))
            })
            .collect();
        let mut table = Map::new();
        for (done, (name, belongs)) in (0..).zip(SLICES) {
            progress(done, SLICES.len() as u64);
            let chosen: Vec<usize> =
                (0..self.cases.len()).filter(|&at| belongs(self.data, &self.cases[at])).collect();
            let mut slice = self.slice(&at, &chosen, resamples, seed);
            let beyond = beyond.iter().map(|(ranker, beyond)| {
                let is_best = at.best_rule == Some(*ranker);
                let name = if is_best { "best_rule" } else { &self.rankers[*ranker].name };
                let orders = &self.rankers[*ranker].orders;
                (name.to_owned(), beyond.to_json(&chosen, orders, self.data.catalog.len()))
            });
            slice["beyond_accuracy@10"] = Value::Object(beyond.collect());
            table.insert(name.into(), slice);
        }
        Value::Object(table)
    }

    fn positions(&self) -> Positions {
        let rules = 1..1 + self.rules.rules.len();
        let rungs = rules.end..rules.end + self.rungs;
        let named = |name: &str| self.rankers.iter().position(|ranker| ranker.name == name);
        // No item of a first purchase's slate was bought before.
        let splits = self.task == PredictionTask::NextBasket;
        Positions {
            best_rule: self.rules.best.map(|best| rules.start + best),
            parts: rungs.end..self.rankers.len(),
            repeats_first: named(BOUGHT_BEFORE_FIRST).filter(|_| splits),
            rules,
            rungs,
        }
    }

    fn slice(&self, at: &Positions, chosen: &[usize], resamples: usize, seed: u64) -> Value {
        let relevant = |case: usize| &self.cases[case].relevant;
        let columns: Vec<Vec<f64>> = FIGURES
            .iter()
            .flat_map(|(_, figure)| self.rankers.iter().map(move |ranker| (figure, ranker)))
            .map(|(figure, ranker)| {
                chosen.iter().map(|&case| figure(&ranker.orders[case], relevant(case))).collect()
            })
            .collect();
        let mut figures = Map::new();
        if let Some(resampled) = Resampled::new(&columns, resamples, seed) {
            for (number, (name, _)) in FIGURES.iter().enumerate() {
                let row = FigureRow { first: number * self.rankers.len(), resampled: &resampled };
                figures.insert((*name).into(), row.to_json(at, &self.rankers));
            }
        }
        let first = &self.rankers[at.rungs.start];
        let pairs = chosen.iter().map(|&at| (&*self.cases[at].slate, &*first.orders[at]));
        let coverage = |ranker: &Ranker| {
            let orders = chosen.iter().map(|&at| &*ranker.orders[at]);
            measure::coverage(orders, 10, self.data.catalog.len())
        };
        json!({
            "cases": chosen.len(),
            "ceiling": self.ceiling(chosen),
            "order_kept": measure::identity_rate(pairs),
            "coverage@10": { GIVEN: coverage(&self.rankers[0]), &*first.name: coverage(first) },
            "best_rule": self.rules.best().map(|rule| rule.name()),
            "top_rung": self.rankers[at.rungs.end - 1].name,
            "figures": figures,
            "whole_catalogue": whole_catalogue::figures(
                self.data, self.task, chosen.iter().map(|&at| &self.cases[at])
            ),
        })
    }

    /// Recall@10 of the best order that these slates allow.
    fn ceiling(&self, chosen: &[usize]) -> f64 {
        let best = chosen.iter().map(|&at| {
            let case = &self.cases[at];
            let held = case.slate.iter().filter(|item| case.relevant.contains(item)).count();
            held.min(10) as f64 / case.relevant.len().min(10) as f64
        });
        measure::mean_of(best).unwrap_or(0.0)
    }
}

/// Every rule's order of every case.
fn by_rules(
    task: PredictionTask,
    log: &SalesLog<'_>,
    cases: &[Case],
    rules: &FittedRules,
) -> Vec<Ranker> {
    let of_case = |case: &Case| -> Vec<Vec<u32>> {
        let moment = log.moment(task, case);
        rules.rules.iter().map(|rule| items(&rule.order(&moment, case), case)).collect()
    };
    let by_case: Vec<Vec<Vec<u32>>> = cases.par_iter().map(of_case).collect();
    let mut rankers: Vec<Ranker> = rules
        .rules
        .iter()
        .map(|rule| Ranker { name: rule.name(), orders: Vec::with_capacity(cases.len()) })
        .collect();
    for orders in by_case {
        rankers.iter_mut().zip(orders).for_each(|(ranker, order)| ranker.orders.push(order));
    }
    rankers
}

/// The items of a case in this order.
fn items(order: &ScoredOrder, case: &Case) -> Vec<u32> {
    order.iter().map(|&(place, _)| case.slate[place]).collect()
}

// === impl Ranker ===

impl Ranker {
    fn of_rung(rung: &RungOrders, cases: &[Case]) -> Self {
        let orders = rung.orders.iter().zip(cases).map(|(order, case)| items(order, case));
        Self { name: rung.name.into(), orders: orders.collect() }
    }
}

/// One figure of every ranker.
struct FigureRow<'a> {
    /// The column of the order given. Those of other rankers follow it.
    first: usize,
    resampled: &'a Resampled,
}

// === impl FigureRow ===

impl FigureRow<'_> {
    fn to_json(&self, at: &Positions, rankers: &[Ranker]) -> Value {
        let scored = at.rungs.start;
        let relative = self.resampled.relative(self.first, self.first + scored);
        let mut row = json!({
            GIVEN: self.mean(0),
            "gain": self.gain(0, scored),
            "relative": relative.as_ref().map(interval),
        });
        for ranker in at.rungs.clone().chain(at.parts.clone()) {
            row[&rankers[ranker].name] = self.mean(ranker);
        }
        for rung in at.rungs.clone().skip(1) {
            row[gain_of(&rankers[rung].name)] = self.gain(rung - 1, rung);
        }
        let named = |ranker: usize| rankers[ranker].name.clone();
        let rules = at.rules.clone().map(|rule| (named(rule), self.mean(rule)));
        row["rules"] = Value::Object(rules.collect());
        let over = |below: usize| -> Value {
            Value::Object(
                at.rungs.clone().map(|rung| (named(rung), self.gain(below, rung))).collect(),
            )
        };
        row["over_given"] = over(0);
        if let Some(best) = at.best_rule {
            row["best_rule"] = self.mean(best);
            row["best_rule_gain"] = self.gain(0, best);
            row["over_best_rule"] = over(best);
        }
        if let Some(repeats) = at.repeats_first {
            row["split"] = json!({
                "repeats_first": self.gain(0, repeats),
                "rest": over(repeats),
            });
        }
        row
    }

    fn mean(&self, ranker: usize) -> Value {
        interval(&self.resampled.mean(self.first + ranker))
    }

    fn gain(&self, below: usize, above: usize) -> Value {
        interval(&self.resampled.gain(self.first + below, self.first + above))
    }
}

/// The name of a rung's gain over the rung below.
pub(super) fn gain_of(rung: &str) -> String {
    format!("{rung}_gain")
}

fn interval(interval: &Interval) -> Value {
    json!({
        "mean": rounded(interval.mean), "low": rounded(interval.low), "high": rounded(interval.high),
    })
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
