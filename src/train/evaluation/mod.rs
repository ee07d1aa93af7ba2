//! Is each rung of the ladder better than the one below it, and than the best plain rule?
//!
//! Rules and their weights are fitted on the slates of the validation time. Everything else is measured on
//! the slates of the test time.

mod beyond;
mod judged;
mod text;
mod whole_catalogue;

pub use text::{summary, table};

use super::cases::PredictionTask;
use super::offline_ladder::OfflineLadder;
use super::offline_scorer::rechead;
use super::rules::{FittedRules, SalesLog};
use super::training_data::TrainingData;
use super::workspace::Workspace;
use judged::JudgedTask;
use serde_json::{Map, Value};

/// The key of the report's sentence.
const SUMMARY: &str = "summary";
/// The key of what was fitted on validation slates.
const RULES: &str = "rules";
/// Both tasks, in the order of a report.
const TASKS: [PredictionTask; 2] = [PredictionTask::FirstPurchase, PredictionTask::NextBasket];

/// What an evaluation found.
#[derive(Debug)]
pub struct Evaluation {
    /// The report: by task, then by slice, then by figure.
    pub report: Value,
}

/// Measures the workspace's models on the test time of the workspace's shop.
pub fn evaluate(workspace: &mut Workspace<'_>) -> anyhow::Result<Evaluation> {
    let fitted = fit_rules(workspace)?;
    let split = workspace.dataset(&*workspace.catalog()?)?.split;
    let rechead = rechead(workspace)?.map(|(network, _)| network);
    let data = TrainingData::open(workspace, split.test, split.end)?;
    let data = data.with_cards_as_kept(rechead.as_ref());
    let ladder = OfflineLadder::read(workspace, &data)?;
    let log = SalesLog::new(&data.dataset, data.catalog.len());
    let recipe = workspace.recipe.clone();
    let mut report = Map::new();
    let tasks = data.last_cases(recipe.slates.size, &recipe.shop.currency, split.test, split.end);
    for ((task, mut cases), rules) in tasks.into_iter().zip(&fitted) {
        let (what, of) = (format!("evaluating {}", task.as_str()), cases.len() as u64);
        workspace.progress.show(&what, 0, of);
        let show = &mut |done| workspace.progress.show(&what, done as u64, of);
        let climb = ladder.climb(&data, &mut cases, show)?;
        let judged = JudgedTask::new(task, &data, &log, &cases, &climb, rules);
        let what = format!("resampling {}", task.as_str());
        let show = &mut |done: u64, of: u64| workspace.progress.show(&what, done, of);
        let table = judged.table(recipe.evaluate.resamples, recipe.seed, show);
        report.insert(task.as_str().into(), table);
    }
    let fitted = TASKS.iter().zip(&fitted);
    let fitted = fitted.map(|(task, rules)| (task.as_str().to_owned(), rules.to_json()));
    report.insert(RULES.into(), Value::Object(fitted.collect()));
    let mut report = Value::Object(report);
    report[SUMMARY] = summary(&report).into();
    Ok(Evaluation { report })
}

/// Fits the rules of each task on the slates of the validation time.
fn fit_rules(workspace: &mut Workspace<'_>) -> anyhow::Result<Vec<FittedRules>> {
    let split = workspace.dataset(&*workspace.catalog()?)?.split;
    let data = TrainingData::open(workspace, split.validate, split.test)?;
    let log = SalesLog::new(&data.dataset, data.catalog.len());
    let recipe = &workspace.recipe;
    let (size, currency) = (recipe.slates.size, &recipe.shop.currency);
    let tasks = data.last_cases(size, currency, split.validate, split.test);
    let mut fitted = Vec::with_capacity(tasks.len());
    for (at, (task, cases)) in tasks.iter().enumerate() {
        workspace.progress.show("fitting the rules", at as u64, tasks.len() as u64);
        fitted.push(FittedRules::fit(&log, *task, cases));
    }
    Ok(fitted)
}
