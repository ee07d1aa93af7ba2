//! Every order of the cases of one task.

use super::GIVEN;
use crate::bundle::Catalog;
use crate::domain::UserId;
use crate::reranker::ScoredOrder;
use crate::train::case_results::CaseResult;
use crate::train::cases::{Case, PredictionTask};
use crate::train::offline_ladder::{OfflineClimb, RungOrders};
use crate::train::rules::{FittedRules, SalesLog};
use rayon::prelude::*;
use std::ops::Range;

/// What the name of a rule begins with in case results.
const RULE_PREFIX: &str = "rule:";

/// The cases of one task, and the orders of each rung and rule.
#[derive(Debug)]
pub(super) struct TaskOrders {
    pub(super) task: PredictionTask,
    pub(super) cases: Vec<Case>,
    /// The slices of the table that each case belongs to.
    slices: Vec<Vec<&'static str>>,
    /// The order given, the rules, the rungs from the lowest, then orders that are no rung's.
    pub(super) rankers: Vec<Ranker>,
    rules: usize,
    rungs: usize,
}

/// One way to order the slates of all cases.
#[derive(Debug)]
pub(super) struct Ranker {
    /// Its name.
    pub(super) name: String,
    /// An order for each case: items, best first.
    pub(super) orders: Vec<Vec<u32>>,
    /// The scores of each order's items; empty if nobody reads them.
    scores: Vec<Vec<f32>>,
}

// === impl TaskOrders ===

impl TaskOrders {
    /// Orders every case by every rule, beside the orders of the rungs.
    pub(super) fn new(
        task: PredictionTask,
        cases: Vec<Case>,
        slices: Vec<Vec<&'static str>>,
        climb: &OfflineClimb,
        log: &SalesLog<'_>,
        rules: &FittedRules,
    ) -> Self {
        let given = cases.iter().map(|case| case.slate.clone()).collect();
        let mut rankers = vec![Ranker { name: GIVEN.into(), orders: given, scores: Vec::new() }];
        rankers.extend(by_rules(log, &cases, rules));
        let rungs = climb.rungs.len();
        let climbed = climb.rungs.iter().chain(&climb.parts);
        rankers.extend(climbed.map(|rung| Ranker::of_rung(rung, &cases)));
        Self { task, cases, slices, rankers, rules: rules.rules.len(), rungs }
    }

    /// The positions of the rules among the rankers.
    pub(super) fn rules(&self) -> Range<usize> {
        1..1 + self.rules
    }

    /// The positions of the rungs, lowest first.
    pub(super) fn rungs(&self) -> Range<usize> {
        let start = self.rules().end;
        start..start + self.rungs
    }

    /// The positions of orders that are no rung's.
    pub(super) fn parts(&self) -> Range<usize> {
        self.rungs().end..self.rankers.len()
    }

    /// The case with all its orders, by ids.
    pub(super) fn result(&self, at: usize, catalog: &Catalog, users: &[UserId]) -> CaseResult {
        let case = &self.cases[at];
        let ids = |items: &[u32]| -> Vec<String> {
            items.iter().map(|&item| catalog.item(item).id.as_str().to_owned()).collect()
        };
        let (task, user) = (self.task.as_str(), users[case.user as usize].as_str());
        let mut result = CaseResult {
            case: format!("{task}/{user}"),
            task: task.into(),
            user: user.into(),
            time: case.now,
            relevant: ids(&case.relevant),
            given: ids(&case.slate),
            slices: self.slices[at].iter().map(|&name| name.to_owned()).collect(),
            ..CaseResult::default()
        };
        for (number, ranker) in self.rankers.iter().enumerate().skip(1) {
            let prefix = if self.rules().contains(&number) { RULE_PREFIX } else { "" };
            let name = format!("{prefix}{}", ranker.name);
            if let Some(scores) = ranker.scores.get(at) {
                result.scores.insert(name.clone(), scores.clone());
            }
            result.orders.insert(name, ids(&ranker.orders[at]));
        }
        result
    }
}

/// Every rule's order of every case.
fn by_rules(log: &SalesLog<'_>, cases: &[Case], rules: &FittedRules) -> Vec<Ranker> {
    let of_case = |case: &Case| -> Vec<Vec<u32>> {
        let moment = log.moment(case);
        rules.rules.iter().map(|rule| items(&rule.order(&moment, case), case)).collect()
    };
    let by_case: Vec<Vec<Vec<u32>>> = cases.par_iter().map(of_case).collect();
    let ranker = |name| Ranker { name, orders: Vec::new(), scores: Vec::new() };
    let mut rankers: Vec<Ranker> = rules.rules.iter().map(|rule| ranker(rule.name())).collect();
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
        let scores =
            rung.orders.iter().map(|order| order.iter().map(|&(_, score)| score).collect());
        Self { name: rung.name.into(), orders: orders.collect(), scores: scores.collect() }
    }
}
