//! Synthetic shopper queries and profiles. A shop's log holds none, so they are generated. A query names some attributes of
//! the item that was then taken. A profile names some attributes of items in the history.
//!
//! Only a share of the lessons has them, so the model also works without.

use crate::bundle::{Catalog, HistoryEvent};
use crate::reranker::ShopperWords;
use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

/// The most attributes that a query names besides the kind of item.
const QUERY_ATTRIBUTES_MAX: usize = 2;
/// The probability that the query is empty, and that the profile is.
const EMPTY_PROBABILITY: f64 = 0.3;

/// A shopper's query and profile. Either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyntheticQuery {
    /// What the shop knows about the shopper, in words.
    pub profile: String,
    /// What the shopper searches for, in words.
    pub query_text: String,
}

// === impl SyntheticQuery ===

impl SyntheticQuery {
    /// Generates both for a shopper with this history who then took this item.
    pub fn of(
        catalog: &Catalog,
        history: &[HistoryEvent],
        taken: u32,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let mut query = Self::default();
        if !rng.random_bool(EMPTY_PROBABILITY) {
            query.query_text = query_text(catalog, taken, rng);
        }
        if !rng.random_bool(EMPTY_PROBABILITY) {
            query.profile = profile(catalog, history, rng);
        }
        query
    }

    /// The words as a prompt takes them.
    pub fn words(&self) -> ShopperWords<'_> {
        ShopperWords { profile: &self.profile, query_text: &self.query_text }
    }
}

/// Words for an item: some of its attributes, then its kind or category, in lower case.
pub fn query_text(catalog: &Catalog, item: u32, rng: &mut ChaCha8Rng) -> String {
    let item = catalog.item(item);
    let others: Vec<u32> =
        item.attributes.iter().copied().filter(|number| Some(*number) != item.kind).collect();
    let count = rng.random_range(0..=QUERY_ATTRIBUTES_MAX);
    let value = |number: u32| &**catalog.attribute(number).1;
    let mut words: Vec<&str> =
        others.choose_multiple(rng, count).map(|&number| value(number)).collect();
    words.push(item.kind.map_or_else(|| catalog.category(item.category), value));
    words.join(" ").to_lowercase()
}

/// Attributes of one or two items of a history.
pub(super) fn profile(catalog: &Catalog, history: &[HistoryEvent], rng: &mut ChaCha8Rng) -> String {
    let items: Vec<u32> = history.choose_multiple(rng, 2).map(|event| event.item).collect();
    let mut values: Vec<&str> = Vec::new();
    for item in items {
        let attribute = catalog.item(item).attributes.choose(rng);
        values.extend(attribute.map(|&number| &**catalog.attribute(number).1));
    }
    if values.is_empty() { String::new() } else { format!("likes {}", values.join(" and ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::CatalogRow;
    use rand::SeedableRng as _;

    #[test]
    fn a_query_names_the_kind_and_only_attributes_of_the_item() {
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let row = CatalogRow {
            id: "m".into(),
            title: "Red Oak Mug".into(),
            category: "Kitchen".into(),
            attributes: vec![own("colour", "Red"), own("material", "Oak"), own("type", "mug")],
            price: None,
        };
        let bare = CatalogRow { id: "b".into(), attributes: Vec::new(), ..row.clone() };
        let catalog = Catalog::new([row, bare]);
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..50 {
            let query = query_text(&catalog, 0, &mut rng);
            assert!(query.ends_with("mug"), "{query}");
            assert!(query.split(' ').all(|word| ["red", "oak", "mug"].contains(&word)), "{query}");
            assert_eq!(query_text(&catalog, 1, &mut rng), "kitchen");
        }
        assert_eq!(profile(&catalog, &[], &mut rng), "");
    }
}
