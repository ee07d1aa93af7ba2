//! What speaks for a candidate, in the shop's own numbers, as tokens that a language model reads
//! beside the candidate's id: `<a_1><b_7><c_9><d_4><bond_5><sales_2>`.
//!
//! A language model can't count what a shop has counted. The numbers are the scorer's features, so
//! both read the same; each is told in one of a few degrees, and those that say nothing are left out.

use super::model::ShopperContext;
use crate::bundle::{Backing, Cards, Catalog, month};
use crate::scorer::features::{CandidateItem, FeatureContext, FeatureId, FeatureVector};

/// Facts that may be told of a candidate.
pub const FACTS: usize = 10;
/// Degrees of a fact; what is below the first is not told.
pub const DEGREES: usize = 8;

/// How far each fact holds: 0 for not at all, [`DEGREES`] for most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts(pub [u8; FACTS]);

/// A candidate as it is told to a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct OfferedItem {
    /// The number of the item.
    pub item: u32,
    /// What speaks for it.
    pub facts: Facts,
    /// What in the shopper's history backs it most, by a reason on its card.
    pub because: Backing,
}

/// A fact: the word for it, the number that it is told from, and where its degrees begin.
struct Fact {
    word: &'static str,
    number: fn(&FeatureVector) -> f32,
    from: [f32; DEGREES],
}

/// All facts, in the order in which they are told.
const TOLD: [Fact; FACTS] = [
    // Bought before, and how lately.
    Fact {
        word: "again",
        number: |f| f[FeatureId::PurchaseRecency30d],
        from: [0.001, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.85],
    },
    // Its buyers are those of what the shopper met last.
    Fact {
        word: "bond",
        number: |f| f[FeatureId::PartnerSum],
        from: [0.001, 0.05, 0.1, 0.2, 0.35, 0.6, 0.9, 1.3],
    },
    // It lies in one basket with what the shopper's basket holds now.
    Fact {
        word: "basket",
        number: |f| f[FeatureId::BasketCompanionSum],
        from: [0.001, 0.03, 0.06, 0.1, 0.16, 0.25, 0.4, 0.7],
    },
    // … and with what they had earlier.
    Fact {
        word: "goes",
        number: |f| f[FeatureId::EarlierCompanionSum],
        from: [0.001, 0.03, 0.06, 0.1, 0.16, 0.25, 0.4, 0.7],
    },
    // Its reasons are backed by the shopper's history.
    Fact {
        word: "backed",
        number: |f| f[FeatureId::BackingSum],
        from: [0.001, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.5],
    },
    // The shopper's things share its attributes.
    Fact {
        word: "taste",
        number: |f| f[FeatureId::AttributeShare],
        from: [0.02, 0.06, 0.1, 0.14, 0.18, 0.24, 0.32, 0.45],
    },
    // It costs what the shopper usually pays.
    Fact {
        word: "price",
        number: |f| (-f[FeatureId::PriceDistance]).exp(),
        from: [0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9, 0.96],
    },
    // It sells well lately.
    Fact {
        word: "sales",
        number: |f| f[FeatureId::RecentSales],
        from: [0.1, 0.2, 0.3, 0.38, 0.46, 0.54, 0.62, 0.72],
    },
    // The basket holds a thing of its kind already, or the shopper bought one lately.
    Fact {
        word: "twin",
        number: |f| f[FeatureId::KindInBasket].max(0.9 * f[FeatureId::KindPurchaseRecency120d]),
        from: [0.02, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.95],
    },
    // It was looked at lately.
    Fact {
        word: "seen",
        number: |f| f[FeatureId::BrowseRecency30d],
        from: [0.001, 0.02, 0.05, 0.1, 0.2, 0.35, 0.6, 0.85],
    },
];

// === impl Facts ===

impl Facts {
    /// What the scorer's features of a candidate say.
    fn of(features: &FeatureVector) -> Self {
        Self(TOLD.each_ref().map(|fact| {
            let number = (fact.number)(features);
            fact.from.iter().take_while(|from| number >= **from).count() as u8
        }))
    }

    /// How each degree of each fact is written, degrees within facts.
    pub fn words() -> impl Iterator<Item = String> {
        TOLD.iter().flat_map(|fact| (1..=DEGREES).map(move |at| format!("<{}_{at}>", fact.word)))
    }

    /// The places, among the words, of what is told.
    pub fn told(self) -> impl Iterator<Item = usize> {
        let told = self.0.into_iter().enumerate().filter(|(_, degree)| *degree > 0);
        told.map(|(fact, degree)| fact * DEGREES + usize::from(degree) - 1)
    }
}

/// Candidates as they are offered to a language model, for this shopper.
pub fn offers(
    catalog: &Catalog,
    cards: &Cards,
    shopper: ShopperContext<'_>,
    items: &[u32],
) -> Vec<OfferedItem> {
    let ShopperContext { history, now, words: _ } = shopper;
    offers_in(&FeatureContext::new(catalog, cards, history, now, month(now)), cards, items)
}

/// The same for a shopper whose features have been prepared.
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
    fn a_fact_is_told_in_degrees_or_not_at_all() {
        let mut features = FeatureVector::default();
        features[FeatureId::PriceDistance] = 9.0;
        assert_eq!(Facts::of(&features), Facts::default());
        assert_eq!(Facts::default().told().count(), 0);
        features[FeatureId::PartnerSum] = 0.3;
        features[FeatureId::RecentSales] = 5.0;
        let facts = Facts::of(&features);
        let words: Vec<String> = Facts::words().collect();
        assert_eq!(words.len(), FACTS * DEGREES);
        let told: Vec<&str> = facts.told().map(|place| words[place].as_str()).collect();
        assert_eq!(told, ["<bond_4>", "<sales_8>"]);
    }

    #[test]
    fn degrees_rise() {
        assert!(TOLD.iter().all(|fact| fact.from.is_sorted_by(|a, b| a < b)));
    }
}
