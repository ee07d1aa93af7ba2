//! Figures of a run: ours, and the standard ones under their standard names.

use super::read::{Qrels, Run};
use crate::train::measure;
use anyhow::ensure;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

/// What a figure is computed of: a query's order and its judgements.
#[derive(Clone, Copy, Debug)]
pub struct JudgedOrder<'a> {
    /// Best first.
    order: &'a [&'a str],
    /// The documents with a grade of one or more.
    relevant: &'a [&'a str],
    grades: &'a HashMap<String, i32>,
}

type TrecFigure = fn(JudgedOrder<'_>) -> f64;

/// Our figures, as in the report of an evaluation. Relevant is what has a grade of one or more.
///
/// `recall@k` divides the hits by `min(k, relevant)`: of each query, it is the greater one of `P@k` and `R@k`.
pub const FIGURES: [(&str, TrecFigure); 6] = [
    ("recall@1", |judged| measure::recall(judged.order, judged.relevant, 1)),
    ("recall@5", |judged| measure::recall(judged.order, judged.relevant, 5)),
    ("recall@10", |judged| measure::recall(judged.order, judged.relevant, 10)),
    ("ndcg@5", |judged| measure::ndcg(judged.order, judged.relevant, 5)),
    ("ndcg@10", |judged| measure::ndcg(judged.order, judged.relevant, 10)),
    ("mrr", |judged| measure::reciprocal_rank(judged.order, judged.relevant)),
];

/// The standard figures, by the names of `ir_measures`. `R@k` divides by all relevant documents, and the gain of `nDCG@k`
/// is the grade.
pub const STANDARD_FIGURES: [(&str, TrecFigure); 12] = [
    ("P@1", |judged| judged.hits(1) / 1.0),
    ("P@5", |judged| judged.hits(5) / 5.0),
    ("P@10", |judged| judged.hits(10) / 10.0),
    ("R@1", |judged| judged.recall(1)),
    ("R@5", |judged| judged.recall(5)),
    ("R@10", |judged| judged.recall(10)),
    ("Success@1", |judged| judged.hits(1).min(1.0)),
    ("Success@5", |judged| judged.hits(5).min(1.0)),
    ("Success@10", |judged| judged.hits(10).min(1.0)),
    ("nDCG@5", |judged| judged.graded_ndcg(5)),
    ("nDCG@10", |judged| judged.graded_ndcg(10)),
    ("RR", |judged| measure::reciprocal_rank(judged.order, judged.relevant)),
];

/// The figures of a run: a mean over the queries of the qrels. A query that the run lacks counts as zero, as for
/// `trec_eval -c`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunFigures {
    /// Queries of the qrels.
    pub queries: usize,
    /// Queries of the qrels that the run lacks.
    pub missing: usize,
    /// Queries of the run that the qrels lack. They are not measured.
    pub unjudged: usize,
    /// The means, by figure.
    pub mean: BTreeMap<&'static str, f64>,
    /// Each query's figures.
    pub queries_each: BTreeMap<String, BTreeMap<&'static str, f64>>,
}

/// Measures a run. Refuses one that shares no query with the qrels.
pub fn measure_run(qrels: &Qrels, run: &Run) -> anyhow::Result<RunFigures> {
    let queries = qrels.0.len();
    let found = qrels.0.keys().filter(|query| run.0.contains_key(*query)).count();
    ensure!(
        found > 0,
        "none of the {} queries of the run is among the {queries} of the qrels",
        run.0.len()
    );
    let measured = |(query, grades): (&String, &HashMap<String, i32>)| {
        let order = run.0.get(query).map(Vec::as_slice).unwrap_or_default();
        (query.clone(), figures(order, grades))
    };
    let each: BTreeMap<_, _> = qrels.0.iter().map(measured).collect();
    let mean = |name: &'static str| {
        let sum: f64 = each.values().map(|figures: &BTreeMap<_, f64>| figures[name]).sum();
        (name, sum / queries as f64)
    };
    let names = FIGURES.iter().chain(&STANDARD_FIGURES).map(|(name, _)| *name);
    Ok(RunFigures {
        queries,
        missing: queries - found,
        unjudged: run.0.len() - found,
        mean: names.map(mean).collect(),
        queries_each: each,
    })
}

fn figures(order: &[String], grades: &HashMap<String, i32>) -> BTreeMap<&'static str, f64> {
    let order: Vec<&str> = order.iter().map(String::as_str).collect();
    let relevant: Vec<&str> =
        grades.iter().filter(|(_, grade)| **grade > 0).map(|(name, _)| name.as_str()).collect();
    let judged = JudgedOrder { order: &order, relevant: &relevant, grades };
    FIGURES.iter().chain(&STANDARD_FIGURES).map(|(name, figure)| (*name, figure(judged))).collect()
}

// === impl JudgedOrder ===

impl JudgedOrder<'_> {
    /// Relevant documents among the first `k`.
    fn hits(self, k: usize) -> f64 {
        self.order.iter().take(k).filter(|document| self.grade(document) > 0.0).count() as f64
    }

    fn recall(self, k: usize) -> f64 {
        self.hits(k) / self.relevant.len().max(1) as f64
    }

    /// Documents without a grade, and with a negative one, gain nothing.
    fn grade(self, document: &str) -> f64 {
        f64::from(self.grades.get(document).copied().unwrap_or(0).max(0))
    }

    fn graded_ndcg(self, k: usize) -> f64 {
        let gain = |gains: &[f64]| -> f64 {
            let each = gains.iter().take(k).enumerate();
            each.map(|(place, gain)| gain / ((place + 2) as f64).log2()).sum()
        };
        let mut best: Vec<f64> =
            self.relevant.iter().map(|document| self.grade(document)).collect();
        best.sort_unstable_by(|a, b| b.total_cmp(a));
        let found: Vec<f64> = self.order.iter().take(k).map(|item| self.grade(item)).collect();
        let ideal = gain(&best);
        if ideal == 0.0 { 0.0 } else { gain(&found) / ideal }
    }
}
