//! Which facts of an item does a shopper care about? The facts of the item that they bought are ranked, and judged by
//! what they bought beside and after it: the ranking task of StaR, with attributes and companions for statements.

use super::{interval, step};
use crate::bundle::{Backing, HISTORY_LEN, HistoryEvent};
use crate::domain::Timestamp;
use crate::evidence::can_be_said;
use crate::scorer::features::{Fact, FactSales, FeatureContext, RelevanceWeights};
use crate::train::measure::{self, Resampled, rounded};
use crate::train::training_data::TrainingData;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rustc_hash::FxHashSet;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Companions of an item that are facts of it, at most.
const COMPANIONS_MAX: usize = 12;
/// The cut of the figure.
const CUT: usize = 10;
/// The rankings of facts, by name. The last two break ties by popularity.
const RANKINGS: [&str; 4] = ["random", "popularity", "own_popularity", "chosen"];

/// A purchase, and what the shopper bought with it and later.
#[derive(Debug)]
pub(in crate::train::evaluation) struct FactCase {
    now: Timestamp,
    history: Vec<HistoryEvent>,
    snapshot: usize,
    facts: Vec<Fact>,
    relevant: Vec<Fact>,
}

/// Each shopper's first purchase in `from..until` that others follow, if some and not all facts of its item hold for
/// those: at most so many.
pub(in crate::train::evaluation) fn fact_cases(
    data: &TrainingData,
    from: Timestamp,
    until: Timestamp,
    most: usize,
) -> Vec<FactCase> {
    let cases = (0..data.dataset.users.len()).filter_map(|user| fact_case(data, user, from, until));
    let cases: Vec<FactCase> = cases.collect();
    let step = step(cases.len(), most);
    cases.into_iter().step_by(step).take(most).collect()
}

fn fact_case(
    data: &TrainingData,
    user: usize,
    from: Timestamp,
    until: Timestamp,
) -> Option<FactCase> {
    let bought = &data.dataset.bought[user];
    let line = data.dataset.baskets(user, from, until).next()?.start;
    let (item, now) = (bought[line].item, bought[line].time);
    let later = bought[line..].iter().filter(|bought| bought.time < until && bought.item != item);
    let then: FxHashSet<u32> = later.map(|bought| bought.item).collect();
    let history = data.dataset.history(user, line, false, HISTORY_LEN);
    let snapshot = data.snapshots.partition_point(|s| s.cards.as_of <= now).saturating_sub(1);
    let facts = facts_of(data, snapshot, item);
    let holds = |fact: &Fact| match fact.about {
        Backing::Item(companion) => then.contains(&companion),
        Backing::Attribute(attribute) => {
            then.iter().any(|&item| data.catalog.item(item).attributes.contains(&attribute))
        }
        Backing::Nothing => false,
    };
    let relevant: Vec<Fact> = facts.iter().copied().filter(holds).collect();
    (!history.is_empty() && !relevant.is_empty() && relevant.len() < facts.len())
        .then_some(FactCase { now, history, snapshot, facts, relevant })
}

/// The attributes of an item that can be said, and the items that go with it.
fn facts_of(data: &TrainingData, snapshot: usize, item: u32) -> Vec<Fact> {
    let catalog = &data.catalog;
    let sayable = |&attribute: &u32| {
        let (name, value) = catalog.attribute(attribute);
        can_be_said(name) && !value.is_empty()
    };
    let mut attributes: Vec<u32> =
        catalog.item(item).attributes.iter().copied().filter(sayable).collect();
    attributes.sort_unstable();
    attributes.dedup();
    let companions = data.snapshots[snapshot].cards.partners.of(item).take(COMPANIONS_MAX);
    let companions = companions
        .map(|(companion, closeness)| Fact { about: Backing::Item(companion), closeness });
    let attributes = attributes.into_iter();
    let attributes =
        attributes.map(|attribute| Fact { about: Backing::Attribute(attribute), closeness: 0.0 });
    attributes.chain(companions).collect()
}

/// NDCG@10 of each ranking, and what the served one gains over the shopper's own popularity.
pub(super) fn figures(
    data: &TrainingData,
    sales: &[Arc<FactSales>],
    cases: &[FactCase],
    resamples: usize,
    seed: u64,
) -> Value {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut columns: Vec<Vec<f64>> = RANKINGS.iter().map(|_| Vec::new()).collect();
    for case in cases {
        let mut random = case.facts.clone();
        random.shuffle(&mut rng);
        let sales = &sales[case.snapshot];
        let by = |weights| case.ranked(data, sales, weights);
        let ranked = [
            random,
            by_value(&case.facts, |fact| (0.0, sales.share(fact.about))),
            by(RelevanceWeights::OWN),
            by(RelevanceWeights::CHOSEN),
        ];
        for (column, ranked) in columns.iter_mut().zip(ranked) {
            column.push(measure::ndcg(&ranked, &case.relevant, CUT));
        }
    }
    let mut report = Map::new();
    report.insert("cases".into(), cases.len().into());
    let facts = cases.iter().map(|case| case.facts.len() as f64);
    report.insert("facts".into(), json!(measure::mean_of(facts).map(rounded)));
    if let Some(resampled) = Resampled::new(&columns, resamples, seed) {
        let means = RANKINGS.iter().enumerate();
        let means = means.map(|(at, name)| ((*name).to_owned(), interval(&resampled.mean(at))));
        report.insert("ndcg@10".into(), Value::Object(means.collect()));
        report.insert("over_own_popularity".into(), interval(&resampled.gain(2, 3)));
    }
    Value::Object(report)
}

// === impl FactCase ===

impl FactCase {
    /// The facts by their relevance for the shopper, ties by their popularity.
    fn ranked(
        &self,
        data: &TrainingData,
        sales: &Arc<FactSales>,
        weights: RelevanceWeights,
    ) -> Vec<Fact> {
        let cards = &data.snapshots[self.snapshot].cards;
        let month = crate::bundle::month(self.now);
        let context = FeatureContext::new(&data.catalog, cards, &self.history, self.now, month);
        let relevance = context.relevance(sales.clone(), weights);
        by_value(&self.facts, |fact| (relevance.of(fact), sales.share(fact.about)))
    }
}

/// Facts by a value, highest first, ties by the second value and then in their order.
fn by_value(facts: &[Fact], value: impl Fn(Fact) -> (f32, f32)) -> Vec<Fact> {
    let mut valued: Vec<(Fact, (f32, f32))> =
        facts.iter().map(|&fact| (fact, value(fact))).collect();
    valued.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
    valued.into_iter().map(|(fact, _)| fact).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_ordered_by_value_then_popularity_then_place() {
        let fact = |number| Fact { about: Backing::Attribute(number), closeness: 0.0 };
        let values = [(0.2, 1.0), (0.5, 1.0), (0.5, 3.0), (0.2, 1.0)];
        let value = |of: Fact| match of.about {
            Backing::Attribute(number) => values[number as usize],
            _ => (0.0, 0.0),
        };
        let facts: Vec<Fact> = (0..4).map(fact).collect();
        assert_eq!(by_value(&facts, value), [2, 1, 0, 3].map(fact));
    }
}
