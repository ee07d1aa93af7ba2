//! What shoppers might have said in words. No log holds it, so it is made up of what is known: a request
//! names some of what the item is that was then taken, and a profile some of what the shopper had before.
//!
//! A model that has learned from a share of such lessons listens to requests; and it can do without.

use crate::bundle::{Catalog, HistoryEvent};
use crate::reranker::ShopperWords;
use rand::Rng;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;

/// Attributes that a request names beside the kind of thing, at most.
const ATTRIBUTES_ASKED: usize = 2;
/// How often a shopper of whom something is said asks for nothing, and how often they have no profile.
const SILENT: f64 = 0.3;

/// What is said of a shopper.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyntheticQuery {
    /// What the shop knows about them.
    pub profile: String,
    /// What they ask for.
    pub query_text: String,
}

// === impl SyntheticQuery ===

impl SyntheticQuery {
    /// What is told of a shopper who did this and then took that item.
    pub fn of(
        catalog: &Catalog,
        history: &[HistoryEvent],
        taken: u32,
        rng: &mut ChaCha8Rng,
    ) -> Self {
        let mut query = Self::default();
        if !rng.random_bool(SILENT) {
            query.query_text = query_text(catalog, taken, rng);
        }
        if !rng.random_bool(SILENT) {
            query.profile = profile(catalog, history, rng);
        }
        query
    }

    /// The same, as a prompt tells it.
    pub fn words(&self) -> ShopperWords<'_> {
        ShopperWords { profile: &self.profile, request: &self.query_text }
    }
}

/// Words for an item: some of its attributes, and what kind of thing it is.
pub fn query_text(catalog: &Catalog, item: u32, rng: &mut ChaCha8Rng) -> String {
    let item = catalog.item(item);
    let others: Vec<u32> =
        item.attributes.iter().copied().filter(|number| Some(*number) != item.kind).collect();
    let count = rng.random_range(0..=ATTRIBUTES_ASKED);
    let value = |number: u32| &**catalog.attribute(number).1;
    let mut words: Vec<&str> =
        others.choose_multiple(rng, count).map(|&number| value(number)).collect();
    words.push(item.kind.map_or_else(|| catalog.category(item.category), value));
    words.join(" ").to_lowercase()
}

/// Something that some of the items of a history have.
fn profile(catalog: &Catalog, history: &[HistoryEvent], rng: &mut ChaCha8Rng) -> String {
    let some: Vec<u32> = history.choose_multiple(rng, 2).map(|past| past.item).collect();
    let mut values: Vec<&str> = Vec::new();
    for item in some {
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
    fn a_request_names_the_kind_and_only_what_the_item_is() {
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
            let asked = query_text(&catalog, 0, &mut rng);
            assert!(asked.ends_with("mug"), "{asked}");
            assert!(asked.split(' ').all(|word| ["red", "oak", "mug"].contains(&word)), "{asked}");
            assert_eq!(query_text(&catalog, 1, &mut rng), "kitchen");
        }
        assert_eq!(profile(&catalog, &[], &mut rng), "");
    }
}
