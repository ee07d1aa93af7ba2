//! The scorer's features of a candidate as tokens after the candidate's id:
//! `<a_1><b_7><c_9><d_4><bond_5><sales_2>`.
//!
//! A language model can't count what a shop has counted. So each fact buckets one of the scorer's features into a few
//! degrees, with a token each. A fact below its first degree has no token.

use super::shopper::ShopperContext;
use crate::bundle::{Backing, Cards, Catalog, month};
use crate::scorer::features::{CandidateItem, FeatureContext, FeatureId, FeatureVector};

/// Facts of a candidate.
pub const FACTS: usize = 10;
/// Degrees of a fact.
pub const DEGREES: usize = 8;

/// The degree of each fact: 0 for none, at most [`DEGREES`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts(pub [u8; FACTS]);

/// A candidate as a prompt describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OfferedItem {
    /// The number of the item.
    pub item: u32,
    /// Its facts.
    pub facts: Facts,
    /// The part of the shopper's history that backs the best reason on its card.
    pub because: Backing,
}

/// A fact: its name in tokens, its value, and the least value of each degree.
struct Fact {
    name: &'static str,
    value: fn(&FeatureVector) -> f32,
    thresholds: [f32; DEGREES],
}

/// All facts, in the order of their tokens.
const CATALOGUE: [Fact; FACTS] = [
    // The shopper bought it, and how recently.
    Fact {
        name: "again",
        value: |f| f[FeatureId::PurchaseRecency30d],
        thresholds: [0.001, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.85],
    },
    // Its buyers also bought the shopper's latest items.
    Fact {
        name: "bond",
        value: |f| f[FeatureId::PartnerSum],
        thresholds: [0.001, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9, 1.3],
    },
    // It is often in one basket with the items in the shopper's basket.
    Fact {
        name: "basket",
        value: |f| f[FeatureId::BasketCompanionSum],
        thresholds: [0.001, 0.03, 0.06, 0.1, 0.16, 0.25, 0.4, 0.7],
    },
    // It is often in one basket with the shopper's earlier items.
    Fact {
        name: "goes",
        value: |f| f[FeatureId::EarlierCompanionSum],
        thresholds: [0.001, 0.03, 0.06, 0.1, 0.16, 0.25, 0.4, 0.7],
    },
    // Its reasons are backed by the shopper's history.
    Fact {
        name: "backed",
        value: |f| f[FeatureId::BackingSum],
        thresholds: [0.001, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5],
    },
    // The shopper's items share its attributes.
    Fact {
        name: "taste",
        value: |f| f[FeatureId::AttributeShare],
        thresholds: [0.02, 0.06, 0.1, 0.14, 0.18, 0.24, 0.32, 0.45],
    },
    // It costs what the shopper usually pays.
    Fact {
        name: "price",
        value: |f| (-f[FeatureId::PriceDistance]).exp(),
        thresholds: [0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96],
    },
    // It has sold well recently.
    Fact {
        name: "sales",
        value: |f| f[FeatureId::RecentSales],
        thresholds: [0.1, 0.2, 0.3, 0.38, 0.46, 0.54, 0.62, 0.72],
    },
    // The basket holds an item of its kind, or the shopper bought one recently.
    Fact {
        name: "twin",
        value: |f| f[FeatureId::KindInBasket].max(0.9 * f[FeatureId::KindPurchaseRecency120d]),
        thresholds: [0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.95],
    },
    // The shopper viewed it recently.
    Fact {
        name: "seen",
        value: |f| f[FeatureId::BrowseRecency30d],
        thresholds: [0.001, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.85],
    },
];

// === impl Facts ===

impl Facts {
    /// The facts of a candidate's features.
    fn of(features: &FeatureVector) -> Self {
        Self(CATALOGUE.each_ref().map(|fact| {
            let value = (fact.value)(features);
            fact.thresholds.iter().take_while(|threshold| value >= **threshold).count() as u8
        }))
    }

    /// The token of each degree of each fact: (facts, degrees).
    pub fn tokens() -> impl Iterator<Item = String> {
        CATALOGUE
            .iter()
            .flat_map(|fact| (1..=DEGREES).map(move |degree| format!("<{}_{degree}>", fact.name)))
    }

    /// The index of each of its tokens in [`tokens`](Self::tokens).
    pub fn token_indices(self) -> impl Iterator<Item = usize> {
        let present = self.0.into_iter().enumerate().filter(|(_, degree)| *degree > 0);
        present.map(|(fact, degree)| fact * DEGREES + usize::from(degree) - 1)
    }
}

/// The candidates as a prompt for this shopper describes them.
pub fn offers(
    catalog: &Catalog,
    cards: &Cards,
    shopper: ShopperContext<'_>,
    items: &[u32],
) -> Vec<OfferedItem> {
    let ShopperContext { history, now, words: _ } = shopper;
    offers_in(&FeatureContext::new(catalog, cards, history, now, month(now)), cards, items)
}

/// [`offers`] for a shopper whose features are prepared.
pub fn offers_in(context: &FeatureContext<'_>, cards: &Cards, items: &[u32]) -> Vec<OfferedItem> {
    let offer = |&item: &u32| {
        let card = &cards.items[item as usize];
        let overlaps: Vec<f32> =
            card.reasons.iter().map(|reason| context.overlap(reason)).collect();
        let features = context.features(CandidateItem::Known(item, card), &overlaps);
        let backed = overlaps
            .iter()
            .zip(&card.reasons)
            .map(|(&overlap, reason)| (FeatureContext::backing(overlap, reason), reason.backing));
        let most = backed.filter(|(backing, _)| *backing > 0.0).max_by(|a, b| a.0.total_cmp(&b.0));
        let because = most.map_or(Backing::Nothing, |(_, backing)| backing);
        OfferedItem { item, facts: Facts::of(&features), because }
    };
    items.iter().map(offer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fact_has_the_token_of_its_degree_or_none() {
        let mut features = FeatureVector::default();
        features[FeatureId::PriceDistance] = 9.0;
        assert_eq!(Facts::of(&features), Facts::default());
        assert_eq!(Facts::default().token_indices().count(), 0);
        features[FeatureId::PartnerSum] = 0.3;
        features[FeatureId::RecentSales] = 5.0;
        let facts = Facts::of(&features);
        let tokens: Vec<String> = Facts::tokens().collect();
        assert_eq!(tokens.len(), FACTS * DEGREES);
        let present: Vec<&str> =
            facts.token_indices().map(|index| tokens[index].as_str()).collect();
        assert_eq!(present, ["<bond_4>", "<sales_8>"]);
    }

    #[test]
    fn thresholds_rise() {
        assert!(CATALOGUE.iter().all(|fact| fact.thresholds.is_sorted_by(|a, b| a < b)));
    }
}
