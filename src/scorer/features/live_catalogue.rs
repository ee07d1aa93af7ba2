//! The catalogue of live features: numbers from counts that are up to date to the moment of a request, and from the
//! shopper's whole past. Each has one definition, for training and serving.

use std::ops::Index;

/// What the live features of one candidate are computed from. The default is an item of which nothing is known, for
/// a shopper without a past.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LiveInput {
    /// The counts of the item.
    pub counts: ItemFigures,
    /// First-time buyers of its category within a week.
    pub category_buyers: f32,
    /// How often baskets of the shopper's latest items went with it.
    pub together: TogetherFigures,
    /// How alike its words are to those of the shopper's latest items.
    pub words: WordFigures,
    /// What the shopper did with it before; `None` if nothing.
    pub past: Option<PastFigures>,
    /// The share of the shopper's purchases that were of items bought before.
    pub repeat_share: f32,
    /// Days between the shopper's baskets, 0 for fewer than two.
    pub days_per_basket: f32,
}

/// An item's counts at a moment. A window of w days is an exponential one: an event of age a counts e^(−a/w).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ItemFigures {
    /// First-time buyers in windows of 1, 3, 7, 28, 90 and 365 days.
    pub buyers: [f32; 6],
    /// Purchases within 7 and 28 days.
    pub purchases: [f32; 2],
    /// Purchases within 28 days by shoppers who had bought it before.
    pub repeats: f32,
    /// Clicks and puts into the cart within a week.
    pub browses: f32,
    /// Days since its last sale; `None` if it never sold.
    pub days_since_sale: Option<f32>,
    /// Days since its first event; `None` without any.
    pub days_known: Option<f32>,
}

/// Sums over the shopper's latest distinct items, latest first. With c baskets in common, `p = c / (buyers + 8)`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TogetherFigures {
    /// Σ 0.8ᵏ p over 5 items, of baskets that hold both.
    pub same: f32,
    /// The largest p of 10 items.
    pub same_max: f32,
    /// Σ 0.8ᵏ p over 5 items, of baskets that come after one with the item.
    pub next: f32,
    /// Σ 0.8ᵏ c over 5 items, of both, within 90 days.
    pub recent: f32,
}

/// Cosines of TF-IDF words with the shopper's latest distinct items.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WordFigures {
    /// With the latest one.
    pub last: f32,
    /// With the mean of 5 that are weighted by 0.8ᵏ.
    pub mean: f32,
    /// With the closest of 20.
    pub best: f32,
}

/// What a shopper did with one item, in the whole past.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PastFigures {
    /// Events of all kinds.
    pub events: f32,
    /// Purchases.
    pub purchases: f32,
    /// Days since the last event.
    pub days_since_seen: f32,
    /// The share of the shopper's baskets that hold it.
    pub basket_share: f32,
    /// Σ 0.8^(baskets ago).
    pub basket_decay: f32,
    /// Σ e^(−days / 60) over its purchases.
    pub day_decay: f32,
    /// `ln((days since the last purchase + 1) / (mean gap + 1))`, 0 if it was bought less than twice.
    pub due: f32,
}

/// One live feature: one number of the direct path's input for each candidate.
#[derive(Clone, Copy, Debug)]
pub struct LiveFeature {
    /// Its name in recipes, bundles, reports and documents.
    pub name: &'static str,
    /// The formula or the unit of its value.
    pub unit: &'static str,
    /// The quantity that it measures.
    pub meaning: &'static str,
    /// Its value.
    pub compute: fn(&LiveInput) -> f32,
}

/// The live features of one candidate, in the order of [`LIVE_FEATURES`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveVector([f32; LIVE_COUNT]);

/// The days that stand for "never" since an item's last sale.
const NEVER_DAYS: f32 = 3_650.0;
/// Weeks in the longer window of the trend.
const TREND_WEEKS: f32 = 4.0;
/// Added to both counts of the trend, so that few events make no large one.
const TREND_OFFSET: f32 = 0.5;

/// Declares the features once, as a table and as one function that computes all of them without a call through a pointer.
macro_rules! live_features {
    ($($name:literal, $unit:literal, $meaning:literal, |$x:ident| $formula:expr;)+) => {
        /// Live features of one candidate.
        pub const LIVE_COUNT: usize = [$($name,)+].len();

        /// Every live feature, in the order of [`LiveVector`].
        pub static LIVE_FEATURES: &[LiveFeature] = &[$(LiveFeature {
            name: $name,
            unit: $unit,
            meaning: $meaning,
            compute: |$x| $formula,
        },)+];

        impl LiveVector {
            /// Computes every live feature.
            #[inline]
            pub fn compute(input: &LiveInput) -> Self {
                Self([$({
                    let $x = input;
                    $formula
                },)+])
            }
        }
    };
}

live_features! {
    "buyers_1d", "ln(1 + n)", "First-time buyers within a day.",
        |x| x.counts.buyers[0].ln_1p();
    "buyers_3d", "ln(1 + n)", "First-time buyers within 3 days.",
        |x| x.counts.buyers[1].ln_1p();
    "buyers_7d", "ln(1 + n)", "First-time buyers within a week.",
        |x| x.counts.buyers[2].ln_1p();
    "buyers_28d", "ln(1 + n)", "First-time buyers within 28 days.",
        |x| x.counts.buyers[3].ln_1p();
    "buyers_90d", "ln(1 + n)", "First-time buyers within 90 days.",
        |x| x.counts.buyers[4].ln_1p();
    "buyers_365d", "ln(1 + n)", "First-time buyers within a year.",
        |x| x.counts.buyers[5].ln_1p();
    "days_since_sale", "ln(1 + days)", "Days since the item last sold.",
        |x| x.counts.days_since_sale.unwrap_or(NEVER_DAYS).ln_1p();
    "days_known", "ln(1 + days)", "Days since the item's first event.",
        |x| x.counts.days_known.unwrap_or(0.0).ln_1p();
    "trend", "ln((week + ½) / (28 days / 4 + ½))", "Purchases within a week against an average week of 28 days.",
        |x| ((x.counts.purchases[0] + TREND_OFFSET)
            / (x.counts.purchases[1] / TREND_WEEKS + TREND_OFFSET)).ln();
    "repeats_28d", "ln(1 + n)", "Purchases within 28 days by shoppers who had bought the item before.",
        |x| x.counts.repeats.ln_1p();
    "browses_7d", "ln(1 + n)", "Clicks and puts into the cart within a week.",
        |x| x.counts.browses.ln_1p();
    "category_buyers_7d", "ln(1 + n)", "First-time buyers of the category within a week.",
        |x| x.category_buyers.ln_1p();
    "together_sum", "Σ 0.8ᵏ p, k < 5", "How often baskets with the shopper's 5 latest items hold the item.",
        |x| x.together.same;
    "together_max", "p", "The same for the one of the 10 latest items with the most.",
        |x| x.together.same_max;
    "next_sum", "Σ 0.8ᵏ p, k < 5", "How often the item is in the basket after one with the shopper's 5 latest items.",
        |x| x.together.next;
    "together_90d", "ln(1 + Σ 0.8ᵏ c), k < 5", "How often both happened within 90 days.",
        |x| x.together.recent.ln_1p();
    "words_last", "cosine", "How alike the item's words are to those of the shopper's latest item.",
        |x| x.words.last;
    "words_mean", "cosine", "How alike they are to the words of the 5 latest items.",
        |x| x.words.mean;
    "words_best", "cosine", "How alike they are to those of the closest of the 20 latest items.",
        |x| x.words.best;
    "seen_before", "ln(1 + n)", "The shopper's events with the item, in the whole past.",
        |x| x.past.map_or(0.0, |past| past.events.ln_1p());
    "seen_recency", "1 / (1 + ln(1 + days))", "Recency of the last of them.",
        |x| x.past.map_or(0.0, |past| (1.0 + past.days_since_seen.ln_1p()).recip());
    "bought_before", "ln(1 + n)", "The shopper's purchases of the item, in the whole past.",
        |x| x.past.map_or(0.0, |past| past.purchases.ln_1p());
    "basket_share", "share", "The share of the shopper's baskets that hold the item.",
        |x| x.past.map_or(0.0, |past| past.basket_share);
    "basket_decay", "Σ 0.8^(baskets ago)", "The shopper's purchases of the item, by how many baskets ago they were.",
        |x| x.past.map_or(0.0, |past| past.basket_decay);
    "day_decay", "Σ e^(−days / 60)", "The shopper's purchases of the item, by how many days ago they were.",
        |x| x.past.map_or(0.0, |past| past.day_decay);
    "due", "ln((days since + 1) / (mean gap + 1))", "How overdue the shopper's next purchase of the item is.",
        |x| x.past.map_or(0.0, |past| past.due);
    "repeat_share", "share", "The share of the shopper's purchases that were of items bought before.",
        |x| x.repeat_share;
    "days_per_basket", "ln(1 + days)", "Days between the shopper's baskets.",
        |x| x.days_per_basket.ln_1p();
}

// === impl LiveVector ===

impl LiveVector {
    /// The values, in the order of [`LIVE_FEATURES`].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

impl Default for LiveVector {
    fn default() -> Self {
        Self::compute(&LiveInput::default())
    }
}

impl Index<&str> for LiveVector {
    type Output = f32;

    /// The feature of this name. Panics if there is none.
    fn index(&self, name: &str) -> &f32 {
        let place = LIVE_FEATURES.iter().position(|feature| feature.name == name);
        &self.0[place.expect("a live feature has this name")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A candidate of whom everything is known.
    fn known() -> LiveInput {
        LiveInput {
            counts: ItemFigures {
                buyers: [0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
                purchases: [4.5, 10.0],
                repeats: 6.0,
                browses: 9.0,
                days_since_sale: Some(1.0),
                days_known: Some(99.0),
            },
            category_buyers: 7.0,
            together: TogetherFigures { same: 0.5, same_max: 0.25, next: 0.125, recent: 3.0 },
            words: WordFigures { last: 0.1, mean: 0.2, best: 0.3 },
            past: Some(PastFigures {
                events: 4.0,
                purchases: 2.0,
                days_since_seen: 6.389_056,
                basket_share: 0.4,
                basket_decay: 1.8,
                day_decay: 0.9,
                due: -0.7,
            }),
            repeat_share: 0.6,
            days_per_basket: 19.085_537,
        }
    }

    /// Calculated by hand.
    const EXPECTED: [(&str, f32); LIVE_COUNT] = [
        ("buyers_1d", 0.0),
        ("buyers_3d", std::f32::consts::LN_2),
        ("buyers_7d", 1.098_612),
        ("buyers_28d", 1.386_294),
        ("buyers_90d", 1.609_438),
        ("buyers_365d", 1.791_759),
        ("days_since_sale", std::f32::consts::LN_2),
        ("days_known", 4.605_17),  // ln 100
        ("trend", 0.510_826),      // ln (5 / 3)
        ("repeats_28d", 1.945_91), // ln 7
        ("browses_7d", std::f32::consts::LN_10),
        ("category_buyers_7d", 2.079_442), // ln 8
        ("together_sum", 0.5),
        ("together_max", 0.25),
        ("next_sum", 0.125),
        ("together_90d", 1.386_294), // ln 4
        ("words_last", 0.1),
        ("words_mean", 0.2),
        ("words_best", 0.3),
        ("seen_before", 1.609_438),   // ln 5
        ("seen_recency", 0.333_333),  // 1 / (1 + ln e²)
        ("bought_before", 1.098_612), // ln 3
        ("basket_share", 0.4),
        ("basket_decay", 1.8),
        ("day_decay", 0.9),
        ("due", -0.7),
        ("repeat_share", 0.6),
        ("days_per_basket", 3.0), // ln e³
    ];

    #[test]
    fn each_live_feature_has_the_value_that_its_formula_gives() {
        let vector = LiveVector::compute(&known());
        for (feature, (name, expected)) in LIVE_FEATURES.iter().zip(EXPECTED) {
            assert_eq!(feature.name, name, "the table has the catalogue's order");
            let value = (feature.compute)(&known());
            assert!((value - expected).abs() < 1e-5, "{name}: {value}, not {expected}");
            assert_eq!(vector[name].to_bits(), value.to_bits(), "{name}");
        }
    }

    #[test]
    fn an_item_without_events_never_sold_and_the_rest_is_zero() {
        for (feature, value) in LIVE_FEATURES.iter().zip(LiveVector::default().as_slice()) {
            let expected = if feature.name == "days_since_sale" { 8.202_756 } else { 0.0 };
            assert!((value - expected).abs() < 1e-5, "{}: {value}", feature.name);
        }
    }

    #[test]
    fn names_are_unique_among_all_inputs() {
        let names: std::collections::BTreeSet<_> = super::super::direct_names().collect();
        assert_eq!(names.len(), super::super::DIRECT_INPUTS);
    }
}
