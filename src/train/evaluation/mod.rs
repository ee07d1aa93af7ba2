//! Is each rung of the ladder better than the one below it, and than the best plain rule?
//!
//! Rules and their weights are fitted on the slates of the validation time. Everything else is measured on
//! the slates of the test time.

mod beyond;
mod judged;
mod orders;
mod queries;
mod reasons;
mod text;
mod whole_catalogue;

pub use text::{summary, table};

use super::case_results::CaseResult;
use super::cases::PredictionTask;
use super::offline_ladder::OfflineLadder;
use super::offline_scorer::{OfflineScorer, rechead};
use super::rules::{FittedRules, SalesLog};
use super::training_data::TrainingData;
use super::workspace::Workspace;
use crate::bundle::{Catalog, Part};
use crate::domain::{Quality, UserId};
use judged::{EvaluatedTask, slices_of};
use orders::TaskOrders;
use queries::QueryEvaluation;
use reasons::{JudgedReasons, fact_cases, fact_sales};
use serde_json::{Map, Value};
use std::sync::Arc;

/// The name of the order given.
const GIVEN: &str = Quality::Given.as_str();
/// The key of the rule that is best on validation slates.
const BEST_RULE: &str = "best_rule";

/// The key of the report's sentence.
const SUMMARY: &str = "summary";
/// The key of what was fitted on validation slates.
const RULES: &str = "rules";
/// The key of what is told of the items that are shown.
const REASONS: &str = "reasons";
/// The key of what queries in words change, if the bundle hears them.
const QUERIES: &str = "queries";
/// Both tasks, in the order of a report.
const TASKS: [PredictionTask; 2] = [PredictionTask::FirstPurchase, PredictionTask::NextBasket];

/// What an evaluation found.
#[derive(Debug)]
pub struct Evaluation {
    /// The report: by task, then by slice, then by figure. `docs/evaluation.md` lists its keys.
    pub report: Value,
    tasks: Vec<TaskOrders>,
    catalog: Arc<Catalog>,
    users: Vec<UserId>,
}

// === impl Evaluation ===

impl Evaluation {
    /// Each test case with the orders of every rung and rule, so that anybody can apply their own metric.
    /// They are made one by one, because all ids of all orders together take much memory.
    pub fn cases(&self) -> impl Iterator<Item = CaseResult> + '_ {
        self.tasks.iter().flat_map(|task| {
            let cases = 0..task.cases.len();
            cases.map(|at| task.result(at, &self.catalog, &self.users))
        })
    }
}

/// Measures the workspace's models on the test time of the workspace's shop.
pub fn evaluate(workspace: &mut Workspace<'_>) -> anyhow::Result<Evaluation> {
    let fitted_rules = fit_rules(workspace)?;
    let split = workspace.dataset(&*workspace.catalog()?)?.split;
    let rechead = rechead(workspace)?.map(|(network, _)| network);
    let data = TrainingData::open(workspace, split.test, split.end)?;
    let data = data.with_cards_as_kept(rechead.as_ref());
    let ladder = OfflineLadder::read(workspace, &data)?;
    let log = SalesLog::new(&data.dataset, data.catalog.len());
    let recipe = workspace.recipe.clone();
    let (mut report, mut judged_tasks) = (Map::new(), Vec::new());
    let (mut reasons, sales) = (Map::new(), fact_sales(&data));
    let judged_reasons = JudgedReasons {
        data: &data,
        sales: &sales,
        scorer: ladder.scorer(),
        cases_max: recipe.evaluate.reason_cases,
        resamples: recipe.evaluate.resamples,
        seed: recipe.seed,
    };
    let facts = fact_cases(&data, split.test, split.end, recipe.evaluate.reason_cases);
    reasons.insert("facts".into(), judged_reasons.facts(&facts));
    let tasks =
        data.last_cases(recipe.slates.size, &recipe.shop.currency, split.test, split.end)?;
    for ((task, mut cases), rules) in tasks.into_iter().zip(&fitted_rules) {
        let (what, of) = (format!("evaluating {}", task.as_str()), cases.len() as u64);
        workspace.progress.show(&what, 0, of);
        let show = &mut |done| workspace.progress.show(&what, done as u64, of);
        let climb = ladder.climb(&data, &mut cases, show)?;
        let slices = cases.iter().map(|case| slices_of(&data, case)).collect();
        let orders = TaskOrders::new(task, cases, slices, &climb, &log, rules);
        let what = format!("resampling {}", task.as_str());
        let show = &mut |done: u64, of: u64| workspace.progress.show(&what, done, of);
        let judged = EvaluatedTask { orders: &orders, data: &data, log: &log, rules };
        let table = judged.table(recipe.evaluate.resamples, recipe.seed, show);
        report.insert(task.as_str().into(), table);
        reasons.insert(task.as_str().into(), judged_reasons.told(&orders.cases)?);
        judged_tasks.push(orders);
    }
    let fitted = TASKS.iter().zip(&fitted_rules);
    let fitted = fitted.map(|(task, rules)| (task.as_str().to_owned(), rules.to_json()));
    report.insert(RULES.into(), Value::Object(fitted.collect()));
    report.insert(REASONS.into(), Value::Object(reasons));
    if workspace.has(Part::QueryShape) {
        workspace.progress.show("asking", 0, 1);
        let scorer = OfflineScorer::read(workspace)?.hearing(workspace, &data)?;
        let asking = QueryEvaluation { recipe: &recipe, data: &data, log: &log, scorer: &scorer };
        let tasks = judged_tasks.iter().zip(&fitted_rules);
        let tasks: Vec<_> = tasks.map(|(task, rules)| (&*task.cases, rules.best())).collect();
        report.insert(QUERIES.into(), asking.report(&tasks)?);
    }
    let mut report = Value::Object(report);
    report[SUMMARY] = summary(&report).into();
    let (catalog, users) = (data.catalog.clone(), data.dataset.users.clone());
    Ok(Evaluation { report, tasks: judged_tasks, catalog, users })
}

/// Fits the rules of each task on the slates of the validation time.
fn fit_rules(workspace: &mut Workspace<'_>) -> anyhow::Result<Vec<FittedRules>> {
    let split = workspace.dataset(&*workspace.catalog()?)?.split;
    let data = TrainingData::open(workspace, split.validate, split.test)?;
    let log = SalesLog::new(&data.dataset, data.catalog.len());
    let recipe = &workspace.recipe;
    let (size, currency) = (recipe.slates.size, &recipe.shop.currency);
    let tasks = data.last_cases(size, currency, split.validate, split.test)?;
    let mut fitted = Vec::with_capacity(tasks.len());
    for (at, (_, cases)) in tasks.iter().enumerate() {
        workspace.progress.show("fitting the rules", at as u64, tasks.len() as u64);
        fitted.push(FittedRules::fit(&log, cases));
    }
    Ok(fitted)
}
