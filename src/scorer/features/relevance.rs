//! Which attributes and companions of an item does a shopper care about? What they bought before says it, what those
//! bought who bought the same, and what everybody buys.

use super::{FeatureContext, HistoryCounts};
use crate::bundle::{Backing, Cards, Catalog};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// The share of all sales that stands in for none, whose logarithm would be too low.
const SALES_SHARE_MIN: f32 = 1e-5;

/// A logistic model of whether a shopper goes on to buy what a fact names. `docs/evaluation.md` says on which cases its
/// weights were fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RelevanceWeights {
    /// Of the root of the share of the shopper's own events.
    pub own: f32,
    /// Of the root of its share in what is close to their latest items.
    pub near: f32,
    /// Of the logarithm of its share in all sales.
    pub sales: f32,
    /// Of the root of a companion's closeness to the item.
    pub closeness: f32,
    /// Of an attribute, which more items have than one.
    pub attribute: f32,
    /// What is added to every fact.
    pub bias: f32,
}

/// A fact about an item: a reason may rest on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fact {
    /// The attribute or the companion.
    pub about: Backing,
    /// A companion's closeness to the item, in `0..=1`: the cosine of their buyers.
    pub closeness: f32,
}

/// How often facts were bought by everybody.
#[derive(Clone, Debug, Default)]
pub struct FactSales {
    items: Vec<u32>,
    attributes: Vec<u32>,
    all: f32,
}

/// How likely a shopper goes on to buy what a fact names.
#[derive(Clone, Debug)]
pub struct Relevance {
    counts: Arc<HistoryCounts>,
    sales: Arc<FactSales>,
    weights: RelevanceWeights,
    events: f32,
    /// The closeness of the partners of the latest items, by attribute, and in all.
    near: FxHashMap<u32, f32>,
    near_all: f32,
}

// === impl RelevanceWeights ===

impl RelevanceWeights {
    /// Fitted on cases of four shops, before their test times.
    pub const CHOSEN: Self =
        Self { own: 2.6, near: 0.8, sales: 0.3, closeness: 4.2, attribute: 3.1, bias: -1.8 };
    /// The shopper's own popularity alone.
    pub const OWN: Self =
        Self { own: 1.0, near: 0.0, sales: 0.0, closeness: 0.0, attribute: 0.0, bias: 0.0 };
}

// === impl FactSales ===

impl FactSales {
    /// Counts the sales of the cards.
    pub fn of(catalog: &Catalog, cards: &Cards) -> Self {
        let items: Vec<u32> = cards.items.iter().map(|card| card.stats.sales).collect();
        let of_attribute = |attribute: u32| {
            let holders = catalog.items_with(attribute).iter();
            holders.fold(0_u32, |sum, &item| sum.saturating_add(items[item as usize]))
        };
        let attributes = (0..catalog.attributes_len() as u32).map(of_attribute).collect();
        let all = items.iter().map(|&sales| sales as f32).sum();
        Self { items, attributes, all }
    }

    /// The share of all sales that were of an item, or of items with an attribute.
    pub fn share(&self, about: Backing) -> f32 {
        let sales = match about {
            Backing::Item(item) => self.items.get(item as usize),
            Backing::Attribute(attribute) => self.attributes.get(attribute as usize),
            Backing::Nothing => None,
        };
        share(sales.copied().unwrap_or(0) as f32, self.all)
    }
}

// === impl FeatureContext ===

impl FeatureContext<'_> {
    /// What the shopper cares about, where this was bought by everybody.
    pub fn relevance(&self, sales: Arc<FactSales>, weights: RelevanceWeights) -> Relevance {
        let (mut near, mut near_all) = (FxHashMap::default(), 0.0);
        let all = self.counts.neighbours.iter().map(|(&item, near)| (item, near.partner.sum));
        let mut close: Vec<(u32, f32)> = all.filter(|&(_, closeness)| closeness > 0.0).collect();
        // A map has no order, and the last bits of a sum depend on it.
        close.sort_unstable_by_key(|&(item, _)| item);
        for (item, closeness) in close {
            near_all += closeness;
            for &attribute in &self.catalog.item(item).attributes {
                *near.entry(attribute).or_default() += closeness;
            }
        }
        let (counts, events) = (self.counts.clone(), self.history.len() as f32);
        Relevance { counts, sales, weights, events, near, near_all }
    }

    /// Whether the shopper bought the item before.
    pub fn has_bought(&self, item: u32) -> bool {
        self.counts.items.get(&item).is_some_and(|events| events.purchases.count > 0)
    }
}

// === impl Relevance ===

impl Relevance {
    /// The logit of a fact. `None` for what names neither an attribute nor an item.
    pub fn logit(&self, fact: Fact) -> Option<f32> {
        let (own, near, attribute) = match fact.about {
            Backing::Attribute(attribute) => {
                let own = self.counts.attributes.get(&attribute).copied().unwrap_or(0);
                (own, self.near.get(&attribute).copied().unwrap_or(0.0), 1.0)
            }
            Backing::Item(item) => {
                let events = self.counts.items.get(&item).copied().unwrap_or_default();
                let near = self.counts.neighbours.get(&item).map_or(0.0, |near| near.partner.sum);
                (events.purchases.count + events.browses.count, near, 0.0)
            }
            Backing::Nothing => return None,
        };
        let closeness = if attribute > 0.0 { 0.0 } else { fact.closeness.max(0.0) };
        let sales = (self.sales.share(fact.about) + SALES_SHARE_MIN).ln();
        let weights = self.weights;
        Some(
            weights.own * share(own as f32, self.events).sqrt()
                + weights.near * share(near, self.near_all).sqrt()
                + weights.sales * sales
                + weights.closeness * closeness.sqrt()
                + weights.attribute * attribute
                + weights.bias,
        )
    }

    /// How likely the shopper goes on to buy what a fact names, in `0..=1`. 0 for what names nothing.
    pub fn of(&self, fact: Fact) -> f32 {
        self.logit(fact).map_or(0.0, |logit| 1.0 / (1.0 + (-logit).exp()))
    }
}

/// A part of a whole, 0 if there is none.
fn share(part: f32, all: f32) -> f32 {
    if all > 0.0 { part / all } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{CatalogRow, HistoryEvent, ItemCard, ItemStats, NeighbourTable};
    use crate::domain::EventKind;

    fn catalog() -> Catalog {
        let row = |id: &str, colour: &str| CatalogRow {
            id: id.into(),
            title: id.into(),
            category: String::new(),
            attributes: vec![("colour".into(), colour.into())],
            price: None,
        };
        Catalog::new([
            row("mug", "red"),
            row("bowl", "blue"),
            row("jug", "blue"),
            row("pan", "black"),
        ])
    }

    /// The bowl and the pan are close to the mug. The items sold 10, 20, 30 and 40 times.
    fn cards() -> Cards {
        let mut partners = NeighbourTable::new(2);
        partners.push([(1, 0.3), (3, 0.1)].into_iter());
        (0..3).for_each(|_| partners.push([].into_iter()));
        let companions = NeighbourTable { columns: 0, ..NeighbourTable::default() };
        let card = |sales| ItemCard {
            stats: ItemStats { sales, ..ItemStats::default() },
            ..ItemCard::default()
        };
        let items = [10, 20, 30, 40].map(card).to_vec();
        Cards { items, partners, companions, ..Cards::default() }
    }

    fn fact(about: Backing, closeness: f32) -> Fact {
        Fact { about, closeness }
    }

    #[test]
    fn each_part_of_a_facts_relevance_is_counted() {
        let (catalog, cards) = (catalog(), cards());
        let sales = Arc::new(FactSales::of(&catalog, &cards));
        let event = |item| HistoryEvent { item, time: 0, kind: EventKind::Purchase };
        let history = [event(0), event(2)];
        let context = FeatureContext::new(&catalog, &cards, &history, 86_400, 0);
        let attribute =
            |value: &str| Backing::Attribute(catalog.attribute_number("colour", value).unwrap());
        let none = RelevanceWeights { own: 0.0, ..RelevanceWeights::OWN };
        let own = RelevanceWeights { own: 1.0, ..none };
        let near = RelevanceWeights { near: 1.0, ..none };
        let sold = RelevanceWeights { sales: 1.0, ..none };
        let close = RelevanceWeights { closeness: 1.0, ..none };
        let kind = RelevanceWeights { attribute: 3.0, bias: -1.0, ..none };
        let root = |value: f32| value.sqrt();
        for (what, weights, of, expected) in [
            ("red is one of two events", own, fact(attribute("red"), 0.0), root(0.5)),
            ("the mug as well", own, fact(Backing::Item(0), 0.0), root(0.5)),
            ("black is none", own, fact(attribute("black"), 0.0), 0.0),
            (
                "blue is three quarters of what is close",
                near,
                fact(attribute("blue"), 0.0),
                root(0.75),
            ),
            ("the pan is a quarter", near, fact(Backing::Item(3), 0.0), 0.5),
            ("blue sold 50 of 100", sold, fact(attribute("blue"), 0.0), 0.50001_f32.ln()),
            ("the pan sold 40", sold, fact(Backing::Item(3), 0.0), 0.40001_f32.ln()),
            ("a companion is close", close, fact(Backing::Item(3), 0.25), 0.5),
            ("an attribute is close to nothing", close, fact(attribute("red"), 0.25), 0.0),
            ("an attribute", kind, fact(attribute("red"), 0.0), 2.0),
            ("a companion", kind, fact(Backing::Item(1), 0.0), -1.0),
        ] {
            let found = context.relevance(sales.clone(), weights).logit(of).unwrap();
            assert!((found - expected).abs() < 1e-5, "{what}: {found}, not {expected}");
        }
        let relevance = context.relevance(sales.clone(), kind);
        assert_eq!(relevance.logit(fact(Backing::Nothing, 0.5)), None);
        assert!(relevance.of(fact(Backing::Nothing, 0.5)) < f32::EPSILON);
        assert!((relevance.of(fact(attribute("red"), 0.0)) - 0.880_797).abs() < 1e-5);
        assert!(context.has_bought(0) && !context.has_bought(1));
    }

    #[test]
    fn a_first_visit_and_a_shop_without_sales_are_no_panic() {
        let catalog = catalog();
        let cards = Cards { items: vec![ItemCard::default(); 4], ..cards() };
        let sales = Arc::new(FactSales::of(&catalog, &cards));
        let context = FeatureContext::new(&catalog, &cards, &[], 0, 0);
        let relevance = context.relevance(sales, RelevanceWeights::CHOSEN);
        for about in [Backing::Attribute(0), Backing::Item(3), Backing::Item(99), Backing::Nothing]
        {
            let found = relevance.of(fact(about, f32::MIN));
            assert!((0.0..=1.0).contains(&found), "{about:?}: {found}");
        }
    }
}
