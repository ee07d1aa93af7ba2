//! Fits the weight of the place in the order given, and chooses the best rule, on validation slates.

use super::{AND_PLACE, RULES, Rule, SalesLog, SalesMoment, order};
use crate::reranker::ScoredOrder;
use crate::train::cases::Case;
use crate::train::measure::{self, rounded};
use rayon::prelude::*;
use serde_json::{Map, Value, json};

/// The weights of `ln(1 + place)` that are tried.
pub const PLACE_WEIGHTS: [f64; 14] =
    [0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 20.0];
/// The weight where there is no validation slate to fit it on.
const PLACE_WEIGHT_UNFITTED: f64 = 1.0;
/// The figure that rules are fitted by: NDCG at this cut.
const CUT: usize = 10;

/// A rule with its weight.
#[derive(Clone, Debug)]
pub struct FittedRule {
    /// The rule.
    pub rule: &'static Rule,
    /// The weight of `ln(1 + place)`; 0 for the rule alone.
    pub place_weight: f64,
    /// The mean NDCG@10 on validation slates.
    pub ndcg: f64,
}

/// All rules of one task, each alone and with the place.
#[derive(Clone, Debug)]
pub struct FittedRules {
    /// Each rule alone, then with the place, in the order of [`RULES`].
    pub rules: Vec<FittedRule>,
    /// The position of the rule with the best NDCG@10 on validation, the earlier of equals. `None` without
    /// validation slates.
    pub best: Option<usize>,
    /// Validation slates.
    pub cases: usize,
}

// === impl FittedRule ===

impl FittedRule {
    /// Its name in tables and files.
    pub fn name(&self) -> String {
        let place = if self.place_weight > 0.0 { AND_PLACE } else { "" };
        format!("{}{place}", self.rule.name)
    }

    /// Its order of a case's slate.
    pub fn order(&self, moment: &SalesMoment<'_>, case: &Case) -> ScoredOrder {
        order(&self.rule.values(moment, &case.slate), self.place_weight)
    }
}

// === impl FittedRules ===

impl FittedRules {
    /// Fits every rule on a task's validation cases.
    pub fn fit(log: &SalesLog<'_>, cases: &[Case]) -> Self {
        let values = values(log, cases);
        let mut rules = Vec::with_capacity(2 * RULES.len());
        for (at, rule) in RULES.iter().enumerate() {
            let ndcg = |weight: f64| mean_ndcg(cases, &values, at, weight);
            rules.push(FittedRule { rule, place_weight: 0.0, ndcg: ndcg(0.0) });
            let tried = PLACE_WEIGHTS.map(|weight| (weight, ndcg(weight)));
            let start = (PLACE_WEIGHT_UNFITTED, ndcg(PLACE_WEIGHT_UNFITTED));
            let better =
                |best: (f64, f64), next: (f64, f64)| if next.1 > best.1 { next } else { best };
            let (place_weight, ndcg) = tried.into_iter().fold(start, better);
            rules.push(FittedRule { rule, place_weight, ndcg });
        }
        let best = (0..rules.len()).rev().max_by(|&a, &b| rules[a].ndcg.total_cmp(&rules[b].ndcg));
        Self { best: best.filter(|_| !cases.is_empty()), rules, cases: cases.len() }
    }

    /// The best rule.
    pub fn best(&self) -> Option<&FittedRule> {
        self.best.map(|at| &self.rules[at])
    }

    /// For a report: what was fitted.
    pub fn to_json(&self) -> Value {
        let fitted = |rule: &FittedRule| {
            let validation = (self.cases > 0).then(|| rounded(rule.ndcg));
            let of = json!({
                "formula": formula(rule),
                "place_weight": rule.place_weight,
                "validation_ndcg@10": validation,
            });
            (rule.name(), of)
        };
        json!({
            "validation_cases": self.cases,
            "best_rule": self.best().map(FittedRule::name),
            "fitted": self.rules.iter().map(fitted).collect::<Map<_, _>>(),
        })
    }
}

fn formula(rule: &FittedRule) -> String {
    match rule.place_weight {
        0.0 => rule.rule.about.to_owned(),
        weight => format!("({}) − {weight} · ln(1 + place)", rule.rule.about),
    }
}

/// Every rule's values of every case: (cases, rules, candidates).
fn values(log: &SalesLog<'_>, cases: &[Case]) -> Vec<Vec<Vec<f64>>> {
    let of_case = |case: &Case| {
        let moment = log.moment(case);
        RULES.iter().map(|rule| rule.values(&moment, &case.slate)).collect()
    };
    cases.par_iter().map(of_case).collect()
}

fn mean_ndcg(cases: &[Case], values: &[Vec<Vec<f64>>], rule: usize, weight: f64) -> f64 {
    let ndcg = |(case, values): (&Case, &Vec<Vec<f64>>)| {
        let order = order(&values[rule], weight);
        let items: Vec<u32> = order.iter().map(|&(place, _)| case.slate[place]).collect();
        measure::ndcg(&items, &case.relevant, CUT)
    };
    // Collected before they are added, so that the sum does not depend on threads.
    let figures: Vec<f64> = cases.par_iter().zip(values).map(ndcg).collect();
    measure::mean_of(figures).unwrap_or(0.0)
}
