//! The shop as it was known at one moment: the retriever, the cards and their vectors.

use super::dataset::{DAY_S, Dataset};
use crate::bundle::{COMPANIONS, Cards, Catalog, NeighbourTable, PARTNERS};
use crate::domain::Timestamp;
use crate::evidence::{self, PurchaseCounts, SimilarItem};
use crate::scorer::TextReader;
use crate::upstream::{ItemKnn, ItemKnnConfig};

/// The shop as it was known at `cards.as_of`.
#[derive(Debug)]
pub struct Snapshot {
    /// The shop's own ranker.
    pub upstream: ItemKnn,
    /// The cards of all items. Users' patterns are written when they are needed.
    pub cards: Cards,
}

// === impl Snapshot ===

impl Snapshot {
    /// Takes a snapshot from the events before `as_of`. `item_vectors` don't depend on time.
    pub fn take(
        dataset: &Dataset,
        catalog: &Catalog,
        reader: &TextReader,
        item_vectors: &[f32],
        as_of: Timestamp,
        currency: &str,
    ) -> Self {
        let (upstream, cards) = Self::write(dataset, catalog, as_of, currency);
        let mut snapshot = Self { upstream, cards };
        snapshot.cards.item_vectors = item_vectors.to_vec();
        snapshot.encode_reasons(reader);
        snapshot
    }

    /// Computes the vectors of its reasons.
    pub fn encode_reasons(&mut self, reader: &TextReader) {
        let reasons = self.cards.items.iter().flat_map(|card| &card.reasons);
        let texts: Vec<_> = reasons.map(|reason| &*reason.text).collect();
        self.cards.reason_vectors = reader.vectors(&texts);
    }

    /// The retriever, and the cards without vectors.
    pub fn write(
        dataset: &Dataset,
        catalog: &Catalog,
        as_of: Timestamp,
        currency: &str,
    ) -> (ItemKnn, Cards) {
        let known: Vec<Vec<(u32, Timestamp)>> = dataset
            .bought
            .iter()
            .map(|bought| {
                let known = &bought[..bought.partition_point(|b| b.time < as_of)];
                known.iter().map(|b| (b.item, b.time)).collect()
            })
            .collect();
        let upstream = ItemKnn::build(
            known.iter().map(Vec::as_slice),
            catalog.len(),
            &ItemKnnConfig::before(as_of),
        );
        let partners: Vec<Vec<SimilarItem>> = (0..catalog.len() as u32)
            .map(|item| {
                let near = upstream.neighbours(item).iter().take(PARTNERS_LOOKED_AT);
                near.map(|near| SimilarItem { item: near.item, cosine: near.cosine }).collect()
            })
            .collect();
        let ledger = PurchaseCounts::new(catalog, dataset.users.len(), &dataset.purchases, as_of);
        let items = evidence::item_cards(catalog, &dataset.users, &ledger, &partners, currency);
        let partners = ties(&upstream, catalog.len(), PARTNERS);
        let companions = ties(&in_baskets(dataset, catalog, as_of), catalog.len(), COMPANIONS);
        (upstream, Cards { as_of, items, partners, companions, ..Cards::default() })
    }
}

/// The item-kNN over baskets: each basket counts as a user.
fn in_baskets(dataset: &Dataset, catalog: &Catalog, as_of: Timestamp) -> ItemKnn {
    let baskets: Vec<Vec<(u32, Timestamp)>> = dataset
        .bought
        .iter()
        .flat_map(|bought| {
            bought[..bought.partition_point(|b| b.time < as_of)]
                .chunk_by(|a, b| a.basket == b.basket)
                .map(|basket| basket.iter().map(|b| (b.item, b.time)).collect())
        })
        .collect();
    let plan = ItemKnnConfig { neighbours: COMPANIONS, ..ItemKnnConfig::before(as_of) };
    ItemKnn::build(baskets.iter().map(Vec::as_slice), catalog.len(), &plan)
}

fn ties(of: &ItemKnn, items: usize, columns: usize) -> NeighbourTable {
    let mut ties = NeighbourTable::new(columns);
    for item in 0..items as u32 {
        ties.push(of.neighbours(item).iter().map(|near| (near.item, near.cosine)));
    }
    ties
}

/// Neighbours that the evidence writer reads for one card.
const PARTNERS_LOOKED_AT: usize = 12;

/// The moments of snapshots so that every moment in `from..until` has one that is at most `days` old.
pub fn moments(from: Timestamp, until: Timestamp, days: i64) -> Vec<Timestamp> {
    let step = (days * DAY_S) as usize;
    (from..until).step_by(step.max(1)).collect()
}
