//! The catalogue of query features: one row for each number that the query path reads of a candidate, beside those that
//! the direct path may read.

use std::ops::Index;

/// What a request in words says about one candidate. Everything is 0 where the request says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueryInput {
    /// The cosine of the query's vector with the item's.
    pub cosine: f32,
    /// The largest with one of its reasons.
    pub reason_cosine: f32,
    /// BM25's sum over the query's words that the slate has, over the most that it can be.
    pub bm25: f32,
    /// The share of these words that the item has.
    pub words: f32,
    /// Of the kinds that the query names and the slate has.
    pub kinds: HitsAndMisses,
    /// Of the other values.
    pub values: HitsAndMisses,
    /// The share of the refused values and words that the item has.
    pub refused: f32,
    /// `ln(price / bound)` of the bound that the price breaks, 0 within the bounds. `None` if the query has no bound, or
    /// the price is not known.
    pub price_excess: Option<f32>,
    /// Words of the query that the slate has.
    pub slate_words: f32,
    /// The share of the query's words that the slate has.
    pub slate_share: f32,
    /// The cosine of the profile's vector with the item's.
    pub profile_cosine: f32,
    /// BM25's sum over the profile's words, over the most that it can be.
    pub profile_bm25: f32,
}

/// The shares of some wanted values that an item has, and of which it has another one instead.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HitsAndMisses {
    /// The share that it has.
    pub hits: f32,
    /// The share of which it has another value of the same attribute.
    pub misses: f32,
}

/// One query feature.
#[derive(Clone, Copy, Debug)]
pub struct QueryFeature {
    /// Its name in recipes, bundles, reports and documents.
    pub name: &'static str,
    /// The formula or the unit of its value.
    pub unit: &'static str,
    /// The quantity that it measures.
    pub meaning: &'static str,
    /// Its value.
    pub compute: fn(&QueryInput) -> f32,
}

/// The query features of one candidate, in the order of [`QUERY_FEATURES`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueryVector([f32; QUERY_COUNT]);

/// The largest logarithm of a price over its bound.
const PRICE_EXCESS_MAX: f32 = 3.0;

/// Declares the features once, as a table and as one function that computes all of them.
macro_rules! query_features {
    ($($name:literal, $unit:literal, $meaning:literal, |$x:ident| $formula:expr;)+) => {
        /// Query features of one candidate.
        pub const QUERY_COUNT: usize = [$($name,)+].len();

        /// Every query feature, in the order of [`QueryVector`].
        pub static QUERY_FEATURES: &[QueryFeature] = &[$(QueryFeature {
            name: $name,
            unit: $unit,
            meaning: $meaning,
            compute: |$x| $formula,
        },)+];

        impl QueryVector {
            /// Computes every query feature.
            #[inline]
            pub fn compute(input: &QueryInput) -> Self {
                Self([$({
                    let $x = input;
                    $formula
                },)+])
            }
        }
    };
}

query_features! {
    "query_cosine", "cosine", "How alike the item's text is to what the query wants, by the text encoder.",
        |x| x.cosine;
    "query_reason_cosine", "cosine", "How alike the closest of the item's reasons is.",
        |x| x.reason_cosine;
    "query_bm25", "BM25 / its most", "How much of the query's words the item's title and values have, rare words more.",
        |x| x.bm25;
    "query_words_had", "share", "The share of the query's words that the item has.",
        |x| x.words;
    "query_kind_hits", "share", "The share of the types and categories that the query names and the item has.",
        |x| x.kinds.hits;
    "query_kind_misses", "share", "The share of them of which the item has another one.",
        |x| x.kinds.misses;
    "query_hits", "share", "The share of the other values that the query names and the item has.",
        |x| x.values.hits;
    "query_misses", "share", "The share of them of which the item has another value of the same attribute.",
        |x| x.values.misses;
    "query_refused", "share", "The share of the values and words that the query refuses and the item has.",
        |x| x.refused;
    "query_price_held", "0 or 1", "Whether the item's price is within the query's bounds.",
        |x| f32::from(u8::from(x.price_excess.is_some_and(|excess| excess.abs() <= 0.0)));
    "query_price_broken", "|ln price − ln bound|, at most 3", "How far the item's price is out of them.",
        |x| x.price_excess.map_or(0.0, |excess| excess.abs().min(PRICE_EXCESS_MAX));
    "query_words", "ln(1 + n)", "The query's words and values that an item of the slate has.",
        |x| x.slate_words.ln_1p();
    "query_slate_share", "share", "The share of all that the query says that an item of the slate has.",
        |x| x.slate_share;
    "profile_cosine", "cosine", "How alike the item's text is to the profile, by the text encoder.",
        |x| x.profile_cosine;
    "profile_bm25", "BM25 / its most", "How much of the profile's words the item has, rare words more.",
        |x| x.profile_bm25;
}

// === impl QueryVector ===

impl QueryVector {
    /// The values, in the order of [`QUERY_FEATURES`].
    pub fn as_slice(&self) -> &[f32] {
        &self.0
    }
}

impl Index<&str> for QueryVector {
    type Output = f32;

    /// The feature of this name. Panics if there is none.
    fn index(&self, name: &str) -> &f32 {
        let place = QUERY_FEATURES.iter().position(|feature| feature.name == name);
        &self.0[place.expect("a query feature has this name")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> QueryInput {
        QueryInput {
            cosine: 0.1,
            reason_cosine: 0.2,
            bm25: 0.3,
            words: 0.4,
            kinds: HitsAndMisses { hits: 1.0, misses: 0.0 },
            values: HitsAndMisses { hits: 0.5, misses: 0.25 },
            refused: 0.75,
            price_excess: Some(-0.5),
            slate_words: 3.0,
            slate_share: 0.6,
            profile_cosine: 0.7,
            profile_bm25: 0.8,
        }
    }

    /// Calculated by hand.
    const EXPECTED: [(&str, f32); QUERY_COUNT] = [
        ("query_cosine", 0.1),
        ("query_reason_cosine", 0.2),
        ("query_bm25", 0.3),
        ("query_words_had", 0.4),
        ("query_kind_hits", 1.0),
        ("query_kind_misses", 0.0),
        ("query_hits", 0.5),
        ("query_misses", 0.25),
        ("query_refused", 0.75),
        ("query_price_held", 0.0),
        ("query_price_broken", 0.5),
        ("query_words", 1.386_294), // ln 4
        ("query_slate_share", 0.6),
        ("profile_cosine", 0.7),
        ("profile_bm25", 0.8),
    ];

    #[test]
    fn each_query_feature_has_the_value_that_its_formula_gives() {
        let vector = QueryVector::compute(&known());
        for (feature, (name, expected)) in QUERY_FEATURES.iter().zip(EXPECTED) {
            assert_eq!(feature.name, name, "the table has the catalogue's order");
            assert!((vector[name] - expected).abs() < 1e-5, "{name}: {}", vector[name]);
            assert_eq!((feature.compute)(&known()).to_bits(), vector[name].to_bits(), "{name}");
        }
    }

    #[test]
    fn prices_are_held_broken_or_not_known() {
        for (excess, held, broken) in [
            (None, 0.0_f32, 0.0_f32),
            (Some(0.0), 1.0, 0.0),
            (Some(9.0), 0.0, 3.0),
            (Some(-0.5), 0.0, 0.5),
        ] {
            let vector = QueryVector::compute(&QueryInput { price_excess: excess, ..known() });
            let found = [vector["query_price_held"], vector["query_price_broken"]];
            assert_eq!(found.map(f32::to_bits), [held, broken].map(f32::to_bits), "{excess:?}");
        }
    }

    #[test]
    fn without_a_query_all_is_zero() {
        assert_eq!(QueryVector::compute(&QueryInput::default()), QueryVector::default());
        assert_eq!(QueryVector::default().as_slice(), [0.0; QUERY_COUNT]);
    }

    #[test]
    fn names_are_unique_among_all_inputs() {
        let names: std::collections::BTreeSet<_> = super::super::query_path_names().collect();
        assert_eq!(names.len(), super::super::DIRECT_INPUTS + QUERY_COUNT);
    }
}
