//! Which facts of an item does a shopper care about? The facts of the item that they bought are ranked, and judged by
//! what they bought beside and after it: the ranking task of StaR, with attributes and companions for statements.

use super::{interval, step};
use crate::bundle::{Backing, HISTORY_LEN, HistoryEvent};
use crate::domain::Timestamp;
use crate::evidence::can_be_said;
use crate::scorer::features::{FeatureContext, Relevance, RelevanceWeights};
use crate::train::measure::{self, Resampled, rounded};
use crate::train::training_data::TrainingData;
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::{Map, Value, json};

/// Companions of an item that are facts of it, at most.
const COMPANIONS_MAX: usize = 12;
/// The cut of the figure.
const CUT: usize = 10;
/// The rankings of facts, by name. The last two break ties by the popularity among all.
const RANKINGS: [&str; 4] = ["random", "popularity", "own_popularity", "chosen"];
/// Weights of what is close to the shopper's items that are tried on validation cases.
const NEAR_WEIGHTS: [f32; 7] = [0.0, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0];

/// A purchase, and what the shopper bought with it and later.
#[derive(Debug)]
pub(in crate::train::evaluation) struct FactCase {
    now: Timestamp,
    history: Vec<HistoryEvent>,
    snapshot: usize,
    facts: Vec<Backing>,
    relevant: Vec<Backing>,
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
    let holds = |fact: &Backing| match *fact {
        Backing::Item(companion) => then.contains(&companion),
        Backing::Attribute(attribute) => {
            then.iter().any(|&item| data.catalog.item(item).attributes.contains(&attribute))
        }
        Backing::Nothing => false,
    };
    let relevant: Vec<Backing> = facts.iter().copied().filter(holds).collect();
    (!history.is_empty() && !relevant.is_empty() && relevant.len() < facts.len())
        .then_some(FactCase { now, history, snapshot, facts, relevant })
}

/// The attributes of an item that can be said, and the items that go with it.
fn facts_of(data: &TrainingData, snapshot: usize, item: u32) -> Vec<Backing> {
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
    let companions = companions.map(|(companion, _)| Backing::Item(companion));
    attributes.into_iter().map(Backing::Attribute).chain(companions).collect()
}

/// NDCG@10 of each ranking, and what the served one gains over the shopper's own popularity.
pub(super) fn figures(
    data: &TrainingData,
    cases: &[FactCase],
    resamples: usize,
    seed: u64,
) -> Value {
    let mut popularity = Popularity::new(data);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut columns: Vec<Vec<f64>> = RANKINGS.iter().map(|_| Vec::new()).collect();
    for case in cases {
        let mut random = case.facts.clone();
        random.shuffle(&mut rng);
        let popular = popularity.of_facts(case);
        let by = |weights| case.ranked(data, &popular, weights);
        let ranked = [
            random,
            by_value(&case.facts, |at| (0.0, popular[at])),
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

/// NDCG@10 on validation cases with each weight of what is close to the shopper's items.
pub(in crate::train::evaluation) fn weights_tried(
    data: &TrainingData,
    cases: &[FactCase],
) -> Value {
    let mut popularity = Popularity::new(data);
    let popular: Vec<Vec<f64>> = cases.iter().map(|case| popularity.of_facts(case)).collect();
    let tried = NEAR_WEIGHTS.iter().map(|&near| {
        let weights = RelevanceWeights { own: 1.0, near };
        let figures = cases.iter().zip(&popular).map(|(case, popular)| {
            measure::ndcg(&case.ranked(data, popular, weights), &case.relevant, CUT)
        });
        (near.to_string(), json!(measure::mean_of(figures).map(rounded)))
    });
    json!({ "cases": cases.len(), "near": Value::Object(tried.collect()) })
}

// === impl FactCase ===

impl FactCase {
    /// The facts by their relevance for the shopper, ties by their popularity.
    fn ranked(
        &self,
        data: &TrainingData,
        popular: &[f64],
        weights: RelevanceWeights,
    ) -> Vec<Backing> {
        let cards = &data.snapshots[self.snapshot].cards;
        let month = crate::bundle::month(self.now);
        let context = FeatureContext::new(&data.catalog, cards, &self.history, self.now, month);
        let relevance: Relevance = context.relevance(weights);
        by_value(&self.facts, |at| (relevance.of(self.facts[at]), popular[at]))
    }
}

/// Facts by a value, highest first, ties by the second value and then in their order.
fn by_value(facts: &[Backing], value: impl Fn(usize) -> (f32, f64)) -> Vec<Backing> {
    let mut order: Vec<usize> = (0..facts.len()).collect();
    let values: Vec<(f32, f64)> = order.iter().map(|&at| value(at)).collect();
    order.sort_by(|&a, &b| {
        let (a, b) = (values[a], values[b]);
        b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    order.into_iter().map(|at| facts[at]).collect()
}

/// How often facts were bought before each snapshot.
struct Popularity<'a> {
    data: &'a TrainingData,
    known: FxHashMap<(usize, u32), f64>,
}

// === impl Popularity ===

impl<'a> Popularity<'a> {
    fn new(data: &'a TrainingData) -> Self {
        Self { data, known: FxHashMap::default() }
    }

    fn of_facts(&mut self, case: &FactCase) -> Vec<f64> {
        case.facts.iter().map(|&fact| self.of(case.snapshot, fact)).collect()
    }

    /// The sales of an item, or of all items with an attribute.
    fn of(&mut self, snapshot: usize, fact: Backing) -> f64 {
        let cards = &self.data.snapshots[snapshot].cards.items;
        let sales = |item: u32| f64::from(cards[item as usize].stats.sales);
        match fact {
            Backing::Item(item) => sales(item),
            Backing::Attribute(attribute) => {
                *self.known.entry((snapshot, attribute)).or_insert_with(|| {
                    self.data.catalog.items_with(attribute).iter().map(|&item| sales(item)).sum()
                })
            }
            Backing::Nothing => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_ordered_by_value_then_popularity_then_place() {
        let facts: Vec<Backing> = (0..4).map(Backing::Attribute).collect();
        let values = [(0.2, 1.0), (0.5, 1.0), (0.5, 3.0), (0.2, 1.0)];
        let numbers: Vec<Backing> = [2, 1, 0, 3].map(Backing::Attribute).to_vec();
        assert_eq!(by_value(&facts, |at| values[at]), numbers);
    }
}
