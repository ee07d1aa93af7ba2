//! The catalogue of the scorer's features: each one's name, unit, meaning and formula.

use std::ops::{Index, IndexMut};

/// Everything that a feature may read: one candidate, seen by one shopper at one moment.
///
/// The default is a candidate that neither the shop nor the shopper knows; all its features are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FeatureInput {
    /// Purchases of the item in the history.
    pub purchases: Occurrences,
    /// Other events with the item in the history: clicks, and puts into the cart.
    pub browses: Occurrences,
    /// The item's sales up to its card's as-of time.
    pub sales: SalesFigures,
    /// How its price differs from the history's mean; `None` where either is unknown.
    pub price_gap: Option<PriceGap>,
    /// The share of the history's events with items of its category, in `0..=1`.
    pub category_share: f32,
    /// The share of the history's events with an item of one of its attributes, averaged over
    /// these.
    pub attribute_share: f32,
    /// How strongly the history backs each of its reasons.
    pub backing: SumAndMax,
    /// Closeness to the history's latest items, by the buyers that they share with it.
    pub partner: SumAndMax,
    /// Closeness to the items in the open basket, by the baskets that hold both.
    pub basket_companion: SumAndMax,
    /// Closeness to earlier items of the history, by the baskets that hold both.
    pub earlier_companion: SumAndMax,
    /// Distinct items in the open basket.
    pub basket_items: u32,
    /// Whether the open basket holds an item of its kind: its type of product, such as “mug”.
    pub kind_in_basket: bool,
    /// Earlier purchases of items of its kind.
    pub kind_purchases: Occurrences,
}

/// How often something occurs in a history, and when it last did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Occurrences {
    /// Events.
    pub count: u32,
    /// Days since the last of them; 0 where there is none.
    pub days_since_last: f32,
}

/// Purchase lines of an item.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SalesFigures {
    /// All.
    pub total: u32,
    /// Those of the 28 days before the card was written.
    pub recent: u32,
    /// Those of this month of the year, in any year.
    pub in_month: u32,
    /// Days since the first; `None` where it never sold.
    pub days_since_first: Option<f32>,
    /// The share of its category's priced items that cost less, in `0..=1`.
    pub price_rank: f32,
}

/// A price less the mean of the history's prices.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PriceGap {
    /// Difference of natural logarithms.
    pub log_price: f32,
    /// Difference of the ranks within the items' categories.
    pub rank: f32,
}

/// The sum and the maximum of some non-negative numbers; zeros where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SumAndMax {
    /// Their sum.
    pub sum: f32,
    /// The largest.
    pub max: f32,
}

/// One feature: one number of the network's input for each candidate.
#[derive(Clone, Copy, Debug)]
pub struct Feature {
    /// Its place in the network's input.
    pub id: FeatureId,
    /// Its name in reports and documents.
    pub name: &'static str,
    /// The formula or the unit of its value.
    pub unit: &'static str,
    /// The quantity that it measures.
    pub meaning: &'static str,
    /// Its value.
    pub compute: fn(&FeatureInput) -> f32,
}

/// The features of one candidate, in the order of [`FEATURES`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FeatureVector([f32; FEATURE_COUNT]);

/// The most that a sum of closeness or backing counts.
const SUM_MAX: f32 = 3.0;
/// The largest difference of logarithms that counts.
const LOG_RATIO_MAX: f32 = 3.0;

/// Declares the features once, as an enum, as a table, and as one function that computes all of them
/// without a call through a pointer.
macro_rules! features {
    ($($id:ident, $name:literal, $unit:literal, $meaning:literal, |$x:ident| $formula:expr;)+) => {
        /// A feature's place in the network's input. The order never changes: weights depend on it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum FeatureId {
            $(#[doc = $meaning] $id,)+
        }

        /// Features of one candidate.
        pub const FEATURE_COUNT: usize = [$(FeatureId::$id,)+].len();

        /// Every feature, in the order of the network's input.
        pub static FEATURES: &[Feature] = &[$(Feature {
            id: FeatureId::$id,
            name: $name,
            unit: $unit,
            meaning: $meaning,
            compute: |$x| $formula,
        },)+];

        impl FeatureVector {
            /// Computes every feature.
            #[inline]
            pub fn compute(input: &FeatureInput) -> Self {
                Self([$({
                    let $x = input;
                    $formula
                },)+])
            }
        }
    };
}

features! {
    Purchases, "purchases", "ln(1 + n)",
        "Purchases of the item in the history.",
        |x| log_count(x.purchases.count);
    PurchaseRecency7d, "purchase_recency_7d", "exp(−days / 7)",
        "Recency of the item's last purchase, on a scale of a week.",
        |x| recency(x.purchases, 7.0);
    PurchaseRecency30d, "purchase_recency_30d", "exp(−days / 30)",
        "Recency of the item's last purchase, on a scale of a month.",
        |x| recency(x.purchases, 30.0);
    PurchaseRecency120d, "purchase_recency_120d", "exp(−days / 120)",
        "Recency of the item's last purchase, on a scale of a season.",
        |x| recency(x.purchases, 120.0);
    RecentSales, "recent_sales", "ln(1 + n) / 5",
        "The item's purchase lines of the last 28 days.",
        |x| log_count(x.sales.recent) / 5.0;
    Sales, "sales", "ln(1 + n) / 8",
        "All purchase lines of the item.",
        |x| log_count(x.sales.total) / 8.0;
    RecentSalesShare, "recent_sales_share", "recent / (all + 10)",
        "The share of the item's purchase lines that fell into the last 28 days.",
        |x| x.sales.recent as f32 / (x.sales.total as f32 + 10.0);
    DaysOnSale, "days_on_sale", "ln(1 + days) / 7",
        "Days since the item first sold.",
        |x| x.sales.days_since_first.map_or(0.0, |days| days.ln_1p() / 7.0);
    Seasonality, "seasonality", "ln((in month + 1) / (all / 12 + 1)), within ±3",
        "Purchase lines of this month of the year against those of an average month.",
        |x| ((x.sales.in_month as f32 + 1.0) / (x.sales.total as f32 / 12.0 + 1.0))
            .ln()
            .clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX);
    PriceRank, "price_rank", "share",
        "The share of the category's priced items that cost less.",
        |x| x.sales.price_rank;
    PriceDistance, "price_distance", "|ln price − mean ln price|, at most 3",
        "How far the price is from what the shopper usually pays.",
        |x| log_price_gap(x).abs();
    PriceDifference, "price_difference", "ln price − mean ln price, within ±3",
        "How much more the item costs than what the shopper usually pays.",
        |x| log_price_gap(x);
    CategoryShare, "category_share", "share",
        "The share of the history's events with items of the same category.",
        |x| x.category_share;
    AttributeShare, "attribute_share", "share",
        "The share of the history's events with an item's attribute, averaged over its attributes.",
        |x| x.attribute_share;
    BackingSum, "backing_sum", "sum, at most 3",
        "How strongly the history backs the item's reasons together.",
        |x| x.backing.sum.min(SUM_MAX);
    BackingMax, "backing_max", "0 to 1",
        "How strongly the history backs the best of the item's reasons.",
        |x| x.backing.max;
    PartnerSum, "partner_sum", "Σ 0.8ᵏ cosine, k < 5",
        "How alike the item's buyers are to those of the history's 5 latest items.",
        |x| x.partner.sum;
    PartnerMax, "partner_max", "cosine",
        "How alike the item's buyers are to those of the closest of the 20 latest items.",
        |x| x.partner.max;
    BasketCompanionSum, "basket_companion_sum", "Σ cosine, at most 3",
        "How often the item shares a basket with the items of the open basket.",
        |x| x.basket_companion.sum.min(SUM_MAX);
    BasketCompanionMax, "basket_companion_max", "cosine",
        "How often the item shares a basket with the closest item of the open basket.",
        |x| x.basket_companion.max;
    BasketItems, "basket_items", "ln(1 + n) / 2",
        "Distinct items in the open basket: bought or put into the cart within the hour.",
        |x| log_count(x.basket_items) / 2.0;
    EarlierCompanionSum, "earlier_companion_sum", "Σ cosine, at most 3",
        "How often the item shares a basket with earlier items among the 20 latest.",
        |x| x.earlier_companion.sum.min(SUM_MAX);
    EarlierCompanionMax, "earlier_companion_max", "cosine",
        "How often the item shares a basket with the closest of those earlier items.",
        |x| x.earlier_companion.max;
    KindInBasket, "kind_in_basket", "0 or 1",
        "Whether the open basket holds an item of the same kind.",
        |x| f32::from(u8::from(x.kind_in_basket));
    KindPurchases, "kind_purchases", "ln(1 + n)",
        "Earlier purchases of items of the same kind.",
        |x| log_count(x.kind_purchases.count);
    KindPurchaseRecency120d, "kind_purchase_recency_120d", "exp(−days / 120)",
        "Recency of the last of those purchases.",
        |x| recency(x.kind_purchases, 120.0);
    Browses, "browses", "ln(1 + n)",
        "Clicks on the item, and puts into the cart, in the history.",
        |x| log_count(x.browses.count);
    BrowseRecency30d, "browse_recency_30d", "exp(−days / 30)",
        "Recency of the last of those events.",
        |x| recency(x.browses, 30.0);
    PriceRankDifference, "price_rank_difference", "rank − mean rank",
        "The item's price rank less the mean price rank of the history's items.",
        |x| price_rank_gap(x);
    PriceRankDistance, "price_rank_distance", "|rank − mean rank|",
        "How far the item's price rank is from the mean price rank of the history's items.",
        |x| price_rank_gap(x).abs();
}

/// `ln(1 + count)`. Most counts are zero, which needs no logarithm.
fn log_count(count: u32) -> f32 {
    if count == 0 { 0.0 } else { (count as f32).ln_1p() }
}

/// `exp(−days / scale)` of the last occurrence, 0 where there is none.
fn recency(of: Occurrences, scale_days: f32) -> f32 {
    if of.count == 0 { 0.0 } else { (-of.days_since_last / scale_days).exp() }
}

fn log_price_gap(x: &FeatureInput) -> f32 {
    x.price_gap.map_or(0.0, |gap| gap.log_price.clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX))
}

fn price_rank_gap(x: &FeatureInput) -> f32 {
    x.price_gap.map_or(0.0, |gap| gap.rank)
}

// === impl FeatureVector ===

impl FeatureVector {
    /// The values, in the order of [`FEATURES`].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

impl Default for FeatureVector {
    fn default() -> Self {
        Self([0.0; FEATURE_COUNT])
    }
}

impl Index<FeatureId> for FeatureVector {
    type Output = f32;

    fn index(&self, feature: FeatureId) -> &f32 {
        &self.0[feature as usize]
    }
}

impl IndexMut<FeatureId> for FeatureVector {
    fn index_mut(&mut self, feature: FeatureId) -> &mut f32 {
        &mut self.0[feature as usize]
    }
}

// === impl SumAndMax ===

impl SumAndMax {
    /// Adds a number. The sum counts `weight` times the number, the maximum all of it.
    pub(super) fn add(&mut self, value: f32, weight: f32) {
        self.sum += weight * value;
        self.max = value.max(self.max);
    }
}

#[cfg(test)]
mod tests {
    use super::FeatureId as Id;
    use super::*;

    /// A candidate of whom everything is known.
    fn known() -> FeatureInput {
        let occurrences = |count, days_since_last| Occurrences { count, days_since_last };
        let sum_and_max = |sum, max| SumAndMax { sum, max };
        FeatureInput {
            purchases: occurrences(3, 14.0),
            browses: occurrences(1, 60.0),
            sales: SalesFigures {
                total: 240,
                recent: 25,
                in_month: 62,
                days_since_first: Some(99.0),
                price_rank: 0.25,
            },
            price_gap: Some(PriceGap { log_price: -0.5, rank: -0.125 }),
            category_share: 0.3,
            attribute_share: 0.2,
            backing: sum_and_max(1.5, 0.75),
            partner: sum_and_max(4.0, 0.9),
            basket_companion: sum_and_max(3.5, 0.8),
            earlier_companion: sum_and_max(0.6, 0.4),
            basket_items: 2,
            kind_in_basket: true,
            kind_purchases: occurrences(7, 120.0),
        }
    }

    /// Calculated by hand.
    const EXPECTED: [(Id, f32); FEATURE_COUNT] = [
        (Id::Purchases, 1.386_294),           // ln 4
        (Id::PurchaseRecency7d, 0.135_335),   // e^-2
        (Id::PurchaseRecency30d, 0.627_089),  // e^(-14/30)
        (Id::PurchaseRecency120d, 0.889_880), // e^(-14/120)
        (Id::RecentSales, 0.651_619),         // ln 26 / 5
        (Id::Sales, 0.685_600),               // ln 241 / 8
        (Id::RecentSalesShare, 0.1),          // 25 / 250
        (Id::DaysOnSale, 0.657_881),          // ln 100 / 7
        (Id::Seasonality, 1.098_612),         // ln (63 / 21)
        (Id::PriceRank, 0.25),
        (Id::PriceDistance, 0.5),
        (Id::PriceDifference, -0.5),
        (Id::CategoryShare, 0.3),
        (Id::AttributeShare, 0.2),
        (Id::BackingSum, 1.5),
        (Id::BackingMax, 0.75),
        (Id::PartnerSum, 4.0), // no bound
        (Id::PartnerMax, 0.9),
        (Id::BasketCompanionSum, 3.0), // bounded
        (Id::BasketCompanionMax, 0.8),
        (Id::BasketItems, 0.549_306), // ln 3 / 2
        (Id::EarlierCompanionSum, 0.6),
        (Id::EarlierCompanionMax, 0.4),
        (Id::KindInBasket, 1.0),
        (Id::KindPurchases, 2.079_442),           // ln 8
        (Id::KindPurchaseRecency120d, 0.367_879), // e^-1
        (Id::Browses, std::f32::consts::LN_2),
        (Id::BrowseRecency30d, 0.135_335), // e^-2
        (Id::PriceRankDifference, -0.125),
        (Id::PriceRankDistance, 0.125),
    ];

    #[test]
    fn each_feature_has_the_value_that_its_formula_gives() {
        let vector = FeatureVector::compute(&known());
        for (feature, (id, expected)) in FEATURES.iter().zip(EXPECTED) {
            assert_eq!(feature.id, id, "the table has the catalogue's order");
            let value = (feature.compute)(&known());
            assert!((value - expected).abs() < 1e-5, "{}: {value}, not {expected}", feature.name);
            assert_eq!(vector[id].to_bits(), value.to_bits(), "{}", feature.name);
        }
    }

    #[test]
    fn nothing_known_is_zero_everywhere() {
        assert_eq!(FeatureVector::compute(&FeatureInput::default()), FeatureVector::default());
    }

    #[test]
    fn large_differences_are_bounded() {
        let gap = |log_price| Some(PriceGap { log_price, rank: 0.0 });
        let dear = FeatureVector::compute(&FeatureInput { price_gap: gap(9.0), ..known() });
        assert_eq!((dear[Id::PriceDifference], dear[Id::PriceDistance]), (3.0, 3.0));
        let cheap = FeatureVector::compute(&FeatureInput { price_gap: gap(-9.0), ..known() });
        assert_eq!((cheap[Id::PriceDifference], cheap[Id::PriceDistance]), (-3.0, 3.0));
        let sales = SalesFigures { total: 12_000, in_month: 0, ..known().sales };
        let winter = FeatureVector::compute(&FeatureInput { sales, ..known() });
        assert!((winter[Id::Seasonality] + 3.0).abs() < f32::EPSILON);
    }

    #[test]
    fn places_and_names_are_unique() {
        assert_eq!(FEATURES.len(), FEATURE_COUNT);
        for (place, feature) in FEATURES.iter().enumerate() {
            assert_eq!(feature.id as usize, place);
            assert!(FEATURES[..place].iter().all(|earlier| earlier.name != feature.name));
        }
    }
}
