//! Which attributes and companions does a shopper care about? What they bought before says it, and what those bought
//! who bought the same.

use super::{FeatureContext, HistoryCounts};
use crate::bundle::Backing;
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// What each part of a fact's relevance counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RelevanceWeights {
    /// Of the share of the shopper's own events.
    pub own: f32,
    /// Of the share of what is close to their latest items.
    pub near: f32,
}

/// How likely a shopper goes on to buy items with an attribute, or a certain item: the share of their events that had
/// it, and the share of it in what is bought with their latest items.
#[derive(Clone, Debug)]
pub struct Relevance {
    counts: Arc<HistoryCounts>,
    weights: RelevanceWeights,
    events: f32,
    /// The closeness of the partners of the latest items, by attribute, and in all.
    near: FxHashMap<u32, f32>,
    near_all: f32,
}

// === impl RelevanceWeights ===

impl RelevanceWeights {
    /// Chosen on validation cases: `docs/evaluation.md` has the figures.
    pub const CHOSEN: Self = Self { own: 1.0, near: 1.0 };
    /// The shopper's own popularity alone.
    pub const OWN: Self = Self { own: 1.0, near: 0.0 };
}

// === impl FeatureContext ===

impl FeatureContext<'_> {
    /// What the shopper cares about.
    pub fn relevance(&self, weights: RelevanceWeights) -> Relevance {
        let (mut near, mut near_all) = (FxHashMap::default(), 0.0);
        // A map has no order, and the last bits of a sum depend on it.
        let mut close: Vec<(u32, f32)> =
            self.counts.neighbours.iter().map(|(&item, near)| (item, near.partner.sum)).collect();
        close.sort_unstable_by_key(|&(item, _)| item);
        for (item, closeness) in close.into_iter().filter(|&(_, closeness)| closeness > 0.0) {
            near_all += closeness;
            for &attribute in &self.catalog.item(item).attributes {
                *near.entry(attribute).or_default() += closeness;
            }
        }
        let events = self.history.len() as f32;
        Relevance { counts: self.counts.clone(), weights, events, near, near_all }
    }

    /// Whether the shopper bought the item before.
    pub fn has_bought(&self, item: u32) -> bool {
        self.counts.items.get(&item).is_some_and(|events| events.purchases.count > 0)
    }
}

// === impl Relevance ===

impl Relevance {
    /// How relevant an attribute or an item is, in `0..=1`. 0 for what names neither.
    pub fn of(&self, fact: Backing) -> f32 {
        let (own, near) = match fact {
            Backing::Attribute(attribute) => {
                let own = self.counts.attributes.get(&attribute).copied().unwrap_or(0);
                (own, self.near.get(&attribute).copied().unwrap_or(0.0))
            }
            Backing::Item(item) => {
                let events = self.counts.items.get(&item).copied().unwrap_or_default();
                let near = self.counts.neighbours.get(&item).map_or(0.0, |near| near.partner.sum);
                (events.purchases.count + events.browses.count, near)
            }
            Backing::Nothing => return 0.0,
        };
        let share = |part: f32, all: f32| if all > 0.0 { part / all } else { 0.0 };
        let RelevanceWeights { own: of_own, near: of_near } = self.weights;
        let sum = of_own * share(own as f32, self.events) + of_near * share(near, self.near_all);
        (sum / (of_own + of_near)).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Cards, Catalog, CatalogRow, HistoryEvent, ItemCard, NeighbourTable};
    use crate::domain::EventKind;

    #[test]
    fn what_was_bought_and_what_is_close_to_it_is_relevant() {
        let row = |id: &str, colour: &str| CatalogRow {
            id: id.into(),
            title: id.into(),
            category: String::new(),
            attributes: vec![("colour".into(), colour.into())],
            price: None,
        };
        let catalog = Catalog::new([
            row("mug", "red"),
            row("bowl", "blue"),
            row("jug", "blue"),
            row("pan", "black"),
        ]);
        let mut partners = NeighbourTable::new(2);
        partners.push([(1, 0.3), (3, 0.1)].into_iter());
        (0..3).for_each(|_| partners.push([].into_iter()));
        let companions = NeighbourTable { columns: 0, ..NeighbourTable::default() };
        let items = vec![ItemCard::default(); 4];
        let cards = Cards { items, partners, companions, ..Cards::default() };
        let event = |item| HistoryEvent { item, time: 0, kind: EventKind::Purchase };
        let history = [event(0), event(2)];
        let context = FeatureContext::new(&catalog, &cards, &history, 86_400, 0);
        let relevance = context.relevance(RelevanceWeights { own: 1.0, near: 1.0 });
        let attribute = |value: &str| {
            relevance.of(Backing::Attribute(catalog.attribute_number("colour", value).unwrap()))
        };
        for (fact, found, expected) in [
            ("red: one of two events", attribute("red"), 0.25),
            ("blue: one of two events, three quarters of what is close", attribute("blue"), 0.625),
            ("black: a quarter of what is close", attribute("black"), 0.125),
            ("the mug, which was bought", relevance.of(Backing::Item(0)), 0.25),
            ("the bowl, which is close", relevance.of(Backing::Item(1)), 0.375),
            ("nothing", relevance.of(Backing::Nothing), 0.0),
        ] {
            assert!((found - expected).abs() < 1e-6, "{fact}: {found}");
        }
        assert!(context.has_bought(0) && !context.has_bought(1));
        let nobody = FeatureContext::new(&catalog, &cards, &[], 0, 0);
        let nobody = nobody.relevance(RelevanceWeights::CHOSEN);
        assert_eq!(nobody.of(Backing::Attribute(0)), 0.0, "nothing is known of a first visit");
    }
}
