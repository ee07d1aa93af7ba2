//! Are the reasons that are told about the shopper? Each figure is of what the served choice tells, beside what the
//! scorer's attention alone would tell.

mod facts;
mod fidelity;
mod told;

pub(super) use facts::fact_cases;

use crate::evidence::ChoiceWeights;
use crate::scorer::features::FactSales;
use crate::train::cases::Case;
use crate::train::measure::{self, Interval, rounded};
use crate::train::offline_scorer::OfflineScorer;
use crate::train::snapshot::Snapshot;
use crate::train::training_data::TrainingData;
use facts::FactCase;
use fidelity::Fidelity;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use told::{CaseTold, ToldFigures};

/// Reasons that are told of an item.
const TOLD: usize = 2;
/// Items of which reasons are told.
const SHOWN: usize = 10;
/// The choices that are compared, by name.
const CHOICES: [(&str, ChoiceWeights); 2] =
    [("attention", ChoiceWeights::ATTENTION), ("chosen", ChoiceWeights::CHOSEN)];

/// What reasons are judged by.
pub(super) struct JudgedReasons<'a> {
    pub(super) data: &'a TrainingData,
    /// What was bought before each snapshot.
    pub(super) sales: &'a [Arc<FactSales>],
    pub(super) scorer: &'a OfflineScorer,
    pub(super) cases_max: usize,
    pub(super) resamples: usize,
    pub(super) seed: u64,
}

// === impl JudgedReasons ===

impl JudgedReasons<'_> {
    /// The figures of what the shoppers of these cases care about.
    pub(super) fn facts(&self, cases: &[FactCase]) -> Value {
        facts::figures(self.data, self.sales, cases, self.resamples, self.seed)
    }

    /// The figures of some cases' told reasons.
    pub(super) fn told(&self, cases: &[Case]) -> anyhow::Result<Value> {
        let step = step(cases.len(), self.cases_max);
        let cases: Vec<Case> = cases.iter().step_by(step).take(self.cases_max).cloned().collect();
        let mut told: Vec<ToldFigures> = CHOICES.iter().map(|_| ToldFigures::default()).collect();
        let mut moved: Vec<Fidelity> = CHOICES.iter().map(|_| Fidelity::default()).collect();
        self.scorer.score_each(self.data, &cases, |index, score| {
            let case = &cases[index];
            for (at, (_, weights)) in CHOICES.iter().enumerate() {
                let chosen_by = (&self.sales[case.snapshot], *weights);
                let of_case = CaseTold::new(self.data, self.scorer, case, &score(&[]), chosen_by);
                told[at].add(self.data, case, &of_case);
                moved[at].add(self.scorer, case, &of_case, score, self.seed);
            }
        })?;
        let mut report = Map::new();
        report.insert("cases".into(), cases.len().into());
        for (at, (name, _)) in CHOICES.iter().enumerate() {
            let mut figures = told[at].to_json();
            figures["fidelity"] = moved[at].to_json(self.resamples, self.seed);
            report.insert((*name).into(), figures);
        }
        Ok(Value::Object(report))
    }
}

/// What was bought before each snapshot.
pub(super) fn fact_sales(data: &TrainingData) -> Vec<Arc<FactSales>> {
    let of = |snapshot: &Snapshot| Arc::new(FactSales::of(&data.catalog, &snapshot.cards));
    data.snapshots.iter().map(of).collect()
}

/// The step that spreads at most `most` of so many cases evenly.
fn step(cases: usize, most: usize) -> usize {
    cases.div_ceil(most.max(1)).max(1)
}

/// A figure before and after, and what it gained: paired.
fn compared(before: &[f64], after: &[f64], resamples: usize, seed: u64) -> Value {
    let Some(found) = measure::compare(before, after, resamples, seed) else { return Value::Null };
    json!({
        "before": interval(&found.before), "after": interval(&found.after), "gain": interval(&found.gain),
    })
}

fn interval(of: &Interval) -> Value {
    json!({ "mean": rounded(of.mean), "low": rounded(of.low), "high": rounded(of.high) })
}
