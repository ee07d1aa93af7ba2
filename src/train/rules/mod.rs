//! How far do plain rules come inside the same slate?
//!
//! A rule gives each candidate a value by counts alone. It orders a slate by that value, or by the value
//! less `w · ln(1 + place)`, where the place counts from 0 in the order given. Ties keep the order given.
//! The weight is fitted on validation slates, and so is the choice of the best rule: a rule that was chosen
//! on the test time would flatter itself.

mod fit;
mod memory;

pub use fit::{FittedRule, FittedRules, PLACE_WEIGHTS};
pub use memory::{FAVOURITE_DAYS, SalesLog, SalesMoment};

use crate::reranker::{ScoredOrder, order_by_score};

/// The rule of the split of next-basket gains: items bought before come first.
pub const BOUGHT_BEFORE_FIRST: &str = "bought_before_first";
/// What a rule's name ends with if the place in the order given counts too.
pub const AND_PLACE: &str = "_and_place";

/// A plain rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name in tables and files.
    pub name: &'static str,
    /// Its formula.
    pub about: &'static str,
    /// The value of an item at a moment: more is better.
    value: fn(&SalesMoment<'_>, u32) -> f64,
}

/// Every rule.
pub static RULES: [Rule; 7] = [
    Rule {
        name: "popular_7d",
        about: "ln(1 + sales of the last 7 days)",
        value: |moment, item| moment.sales(item, 7).ln_1p(),
    },
    Rule {
        name: "popular_28d",
        about: "ln(1 + sales of the last 28 days)",
        value: |moment, item| moment.sales(item, 28).ln_1p(),
    },
    Rule {
        name: "popular_90d",
        about: "ln(1 + sales of the last 90 days)",
        value: |moment, item| moment.sales(item, 90).ln_1p(),
    },
    Rule {
        name: "own_favourites",
        about: "ln(1 + Σ e^(−days ÷ 90) over the shopper's purchases of the item)",
        value: |moment, item| moment.own(item).favour.ln_1p(),
    },
    Rule {
        name: BOUGHT_BEFORE_FIRST,
        about: "1 if the shopper bought the item before, else 0",
        value: |moment, item| f64::from(u8::from(moment.own(item).bought > 0)),
    },
    Rule {
        name: "seen_before_last",
        about: "−1 if the shopper bought, put into the cart or looked at the item before, else 0",
        value: |moment, item| -f64::from(u8::from(moment.own(item).seen())),
    },
    // The scorer reads the earlier lines of the basket, so a rival may.
    Rule {
        name: "seen_or_in_basket_last",
        about: "−1 if the shopper met the item before, or earlier in the basket, else 0",
        value: |moment, item| {
            let own = moment.own(item);
            -f64::from(u8::from(own.seen() || own.in_basket))
        },
    },
];

// === impl Rule ===

impl Rule {
    /// The value of each item of a slate.
    pub fn values(&self, moment: &SalesMoment<'_>, slate: &[u32]) -> Vec<f64> {
        slate.iter().map(|&item| (self.value)(moment, item)).collect()
    }
}

/// Orders a slate by values less `weight · ln(1 + place)`. Equal scores keep the order given.
pub fn order(values: &[f64], weight: f64) -> ScoredOrder {
    let score = |(place, value): (usize, &f64)| (value - weight * (place as f64).ln_1p()) as f32;
    order_by_score(&values.iter().enumerate().map(score).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
