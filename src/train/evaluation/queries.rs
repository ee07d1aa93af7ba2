//! What queries in words change in the scored rung's orders, on slates of the test time.
//!
//! Only shoppers and wordings are read from which the query path did not learn.

use super::judged::interval;
use crate::reranker::{ScoredOrder, order_by_score};
use crate::simulate::Wordings;
use crate::train::asked_query::{QueryClass, QueryWriter};
use crate::train::cases::Case;
use crate::train::measure::{self, Resampled};
use crate::train::offline_scorer::OfflineScorer;
use crate::train::query_cases::{QueryCase, QueryData, is_held_out};
use crate::train::recipe::Recipe;
use crate::train::rules::{FittedRule, SalesLog};
use crate::train::synthetic_query::SyntheticQuery;
use crate::train::training_data::TrainingData;
use anyhow::Context as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

/// The orders that are compared, in the order of the columns.
const ORDERS: [&str; 5] = ["without", "with", "bm25", "cosine", "best_rule"];
/// The column of the order with the query.
const WITH: usize = 1;
/// The figures, with the cut of each.
const FIGURES: [(&str, usize); 2] = [("ndcg@10", 10), ("accuracy@1", 1)];
/// Groups by the words that a query shares with the title of the item asked for.
const SHARED: [(&str, SharedWords); 3] =
    [("0", |words| words == 0), ("1", |words| words == 1), ("2_and_more", |words| words >= 2)];

type SharedWords = fn(usize) -> bool;

/// A case with its query, and its slate in each order of [`ORDERS`].
struct Asked {
    of: QueryCase,
    orders: Vec<Vec<u32>>,
}

/// What queries are evaluated with.
pub(super) struct QueryEvaluation<'a> {
    pub(super) recipe: &'a Recipe,
    pub(super) data: &'a TrainingData,
    pub(super) log: &'a SalesLog<'a>,
    /// With a query path.
    pub(super) scorer: &'a OfflineScorer,
}

// === impl QueryEvaluation ===

impl QueryEvaluation<'_> {
    /// The section `queries` of the report: by class and by shared words.
    pub(super) fn report(&self, tasks: &[(&[Case], Option<&FittedRule>)]) -> anyhow::Result<Value> {
        let mut asked = Vec::new();
        for (cases, best_rule) in tasks {
            asked.extend(self.asked(cases, *best_rule)?);
        }
        let classes = QueryClass::ALL.map(|class| (class.as_str(), Some(class)));
        let mut report = Map::new();
        for (name, class) in std::iter::once(("all", None)).chain(classes) {
            let of_class: Vec<&Asked> =
                asked.iter().filter(|asked| class.is_none_or(|c| c == asked.of.class)).collect();
            let mut table = Map::new();
            table.insert("all".into(), self.group(&of_class));
            for (name, shares) in SHARED {
                let chosen: Vec<&Asked> =
                    of_class.iter().copied().filter(|asked| shares(asked.of.shared)).collect();
                table.insert(name.into(), self.group(&chosen));
            }
            report.insert(name.into(), Value::Object(table));
        }
        Ok(Value::Object(report))
    }

    /// A query of each class for each case of a held-out shopper.
    fn asked(&self, cases: &[Case], best_rule: Option<&FittedRule>) -> anyhow::Result<Vec<Asked>> {
        let Recipe { seed, shop, query, .. } = self.recipe;
        let query = query.as_ref().context("the recipe has no `query`")?;
        let writer = QueryWriter::new(&self.data.catalog, query, &shop.currency);
        let is_read = |case: &&Case| {
            query.held_out_share <= 0.0 || is_held_out(case.user, *seed, query.held_out_share)
        };
        let written: Vec<QueryCase> = cases
            .iter()
            .filter(is_read)
            .flat_map(|case| QueryClass::ALL.map(|class| (case, class)))
            .filter_map(|(case, class)| {
                let user = u64::from(case.user) << 8;
                let mut rng = ChaCha8Rng::seed_from_u64(seed ^ user ^ class as u64);
                QueryCase::of(&writer, self.data, case, class, Wordings::HeldOut, &mut rng)
            })
            .collect();
        let spoken: Vec<Case> = written.iter().map(|asked| asked.case.clone()).collect();
        let silent =
            |case: &Case| Case { synthetic_query: SyntheticQuery::default(), ..case.clone() };
        let silent: Vec<Case> = spoken.iter().map(silent).collect();
        let without = self.scorer.orders(self.data, &silent)?;
        let with = self.scorer.orders(self.data, &spoken)?;
        let path = self.scorer.query().context("the workspace has no query path")?;
        let rows = QueryData { data: self.data, index: path.index.clone() };
        let plain = |case: &Case| self.plain_orders(&rows, case, best_rule);
        let plain: Vec<[ScoredOrder; 3]> = spoken.par_iter().map(plain).collect();
        let scored = without.into_iter().zip(with).zip(plain);
        Ok(written
            .into_iter()
            .zip(scored)
            .map(|(of, ((without, with), plain))| {
                let orders = [without, with].into_iter().chain(plain);
                let items = |order: ScoredOrder| -> Vec<u32> {
                    order.into_iter().map(|(place, _)| of.case.slate[place]).collect()
                };
                let orders = orders.map(items).collect();
                Asked { of, orders }
            })
            .collect())
    }

    /// The orders by BM25 alone, by the encoder's cosine alone, and by the best plain rule.
    fn plain_orders(
        &self,
        rows: &QueryData<'_>,
        case: &Case,
        best_rule: Option<&FittedRule>,
    ) -> [ScoredOrder; 3] {
        let vectors = rows.vectors(case);
        let by = |name: &str| {
            let values =
                (0..case.slate.len()).map(|at| vectors.get(at).map_or(0.0, |row| row[name]));
            order_by_score(&values.collect::<Vec<_>>())
        };
        let given: Vec<f32> = (0..case.slate.len()).map(|place| -(place as f32)).collect();
        let rule = match best_rule {
            Some(rule) => rule.order(&self.log.moment(case), case),
            None => order_by_score(&given),
        };
        [by("query_bm25"), by("query_cosine"), rule]
    }

    /// The figures of some cases.
    fn group(&self, asked: &[&Asked]) -> Value {
        let figure = |order: usize, cut: usize| -> Vec<f64> {
            let each = asked.iter().map(|asked| {
                let relevant = &asked.of.case.relevant;
                measure::ndcg(&asked.orders[order], relevant, cut)
            });
            each.collect()
        };
        let mut group = json!({ "cases": asked.len() });
        for (name, cut) in FIGURES {
            let columns: Vec<Vec<f64>> =
                (0..ORDERS.len()).map(|order| figure(order, cut)).collect();
            let resamples = self.recipe.evaluate.resamples;
            let Some(resampled) = Resampled::new(&columns, resamples, self.recipe.seed) else {
                continue;
            };
            let (mut means, mut gains) = (Map::new(), Map::new());
            for (at, order) in ORDERS.into_iter().enumerate() {
                means.insert(order.into(), interval(&resampled.mean(at)));
                if at != WITH {
                    gains.insert(format!("over_{order}"), interval(&resampled.gain(at, WITH)));
                }
            }
            group[name] = json!({ "means": means, "gains_with": gains });
        }
        group
    }
}
