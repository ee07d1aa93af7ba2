//! The table of one task: every order of its cases, by slice and figure.

use super::beyond::{Beyond, SHOWN};
use super::orders::{Ranker, TaskOrders};
use super::{BEST_RULE, GIVEN, whole_catalogue};
use crate::train::cases::{Case, PredictionTask};
use crate::train::measure::{self, Interval, Resampled, rounded};
use crate::train::reason_share;
use crate::train::rules::{BOUGHT_BEFORE_FIRST, FittedRule, FittedRules, SalesLog};
use crate::train::training_data::TrainingData;
use serde_json::{Map, Value, json};
use std::ops::Range;

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
pub(super) const SLICES: [(&str, Slice); 4] = [
    ("all", |_, _| true),
    ("conditional", |_, case| holds(case)),
    ("cold_shoppers", |_, case| case.is_cold()),
    ("cold_items", |data, case| is_new(data, case)),
];

/// The slices that a case belongs to, besides the whole.
pub(super) fn slices_of(data: &TrainingData, case: &Case) -> Vec<&'static str> {
    let others = SLICES[1..].iter().filter(|(_, holds)| holds(data, case));
    others.map(|&(name, _)| name).collect()
}

type Figure = fn(&[u32], &[u32]) -> f64;
/// Whether a case belongs to a slice of the table.
type Slice = fn(&TrainingData, &Case) -> bool;

/// The orders of a task, and what they are judged by.
pub(super) struct EvaluatedTask<'a> {
    pub(super) orders: &'a TaskOrders,
    pub(super) data: &'a TrainingData,
    pub(super) log: &'a SalesLog<'a>,
    pub(super) rules: &'a FittedRules,
}

/// The positions of some rankers.
struct Positions {
    rules: Range<usize>,
    best_rule: Option<usize>,
    rungs: Range<usize>,
    parts: Range<usize>,
    /// The rule that splits a gain, if the task's gains are split.
    repeats_first: Option<usize>,
}

// === impl EvaluatedTask ===

impl EvaluatedTask<'_> {
    /// The table: by slice, then by figure.
    pub(super) fn table(
        &self,
        resamples: usize,
        seed: u64,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Value {
        let at = self.positions();
        let cases = &self.orders.cases;
        let beyond = self.beyond(&at);
        let mut table = Map::new();
        for (done, (name, belongs)) in (0..).zip(SLICES) {
            progress(done, SLICES.len() as u64);
            let chosen: Vec<usize> =
                (0..cases.len()).filter(|&case| belongs(self.data, &cases[case])).collect();
            let mut slice = self.slice(&at, &chosen, resamples, seed);
            let items = self.data.catalog.len();
            let beyond = beyond.iter().map(|(name, ranker, beyond)| {
                (name.clone(), beyond.to_json(&chosen, &self.orders.rankers[*ranker].orders, items))
            });
            slice["beyond_accuracy@10"] = Value::Object(beyond.collect());
            table.insert(name.into(), slice);
        }
        Value::Object(table)
    }

    /// What the order given, the best rule and the rungs do beside hitting.
    fn beyond(&self, at: &Positions) -> Vec<(String, usize, Beyond)> {
        let TaskOrders { cases, rankers, .. } = self.orders;
        let named = |ranker: usize| (rankers[ranker].name.clone(), ranker);
        let best = at.best_rule.map(|best| (BEST_RULE.to_owned(), best));
        let all = std::iter::once(named(0)).chain(best).chain(at.rungs.clone().map(named));
        all.map(|(name, ranker)| {
            let orders = &rankers[ranker].orders;
            (name, ranker, Beyond::new(self.data, self.log, cases, orders))
        })
        .collect()
    }

    fn positions(&self) -> Positions {
        let orders = self.orders;
        let mut rules = orders.rules();
        // No item of a first purchase's slate was bought before.
        let splits = orders.task == PredictionTask::NextBasket;
        Positions {
            best_rule: self.rules.best.map(|best| rules.start + best),
            repeats_first: rules
                .find(|&rule| orders.rankers[rule].name == BOUGHT_BEFORE_FIRST)
                .filter(|_| splits),
            rules: orders.rules(),
            rungs: orders.rungs(),
            parts: orders.parts(),
        }
    }

    fn slice(&self, at: &Positions, chosen: &[usize], resamples: usize, seed: u64) -> Value {
        let TaskOrders { task, cases, rankers, .. } = self.orders;
        let relevant = |case: usize| &cases[case].relevant;
        let columns: Vec<Vec<f64>> = FIGURES
            .iter()
            .flat_map(|(_, figure)| rankers.iter().map(move |ranker| (figure, ranker)))
            .map(|(figure, ranker)| {
                chosen.iter().map(|&case| figure(&ranker.orders[case], relevant(case))).collect()
            })
            .collect();
        let mut figures = Map::new();
        if let Some(resampled) = Resampled::new(&columns, resamples, seed) {
            for (number, (name, _)) in FIGURES.iter().enumerate() {
                let row = FigureRow { first: number * rankers.len(), resampled: &resampled };
                figures.insert((*name).into(), row.to_json(at, rankers));
            }
        }
        let first = &rankers[at.rungs.start];
        let pairs = chosen.iter().map(|&at| (&*cases[at].slate, &*first.orders[at]));
        let coverage = |ranker: &Ranker| {
            let orders = chosen.iter().map(|&at| &*ranker.orders[at]);
            measure::coverage(orders, SHOWN, self.data.catalog.len())
        };
        let reasons = |ranker: &Ranker| {
            let shown = chosen.iter().map(|&at| (&cases[at], &*ranker.orders[at]));
            reason_share(self.data, shown, SHOWN)
        };
        json!({
            "cases": chosen.len(),
            "ceiling": self.ceiling(chosen),
            "order_kept": measure::identity_rate(pairs),
            "coverage@10": { GIVEN: coverage(&rankers[0]), &*first.name: coverage(first) },
            "with_reason@10": { GIVEN: reasons(&rankers[0]), &*first.name: reasons(first) },
            BEST_RULE: self.rules.best().map(FittedRule::name),
            "top_rung": rankers[at.rungs.end - 1].name,
            "figures": figures,
            "whole_catalogue": whole_catalogue::figures(
                self.data, *task, &chosen.iter().map(|&at| &cases[at])
            ),
        })
    }

    /// Recall@10 of the best order that these slates allow.
    fn ceiling(&self, chosen: &[usize]) -> f64 {
        let best = chosen.iter().map(|&at| {
            let case = &self.orders.cases[at];
            let held = case.slate.iter().filter(|item| case.relevant.contains(item)).count();
            held.min(10) as f64 / case.relevant.len().min(10) as f64
        });
        measure::mean_of(best).unwrap_or(0.0)
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
            row[BEST_RULE] = self.mean(best);
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

/// An interval, rounded.
pub(super) fn interval(interval: &Interval) -> Value {
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
