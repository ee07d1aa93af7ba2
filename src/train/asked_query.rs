//! Queries in words for the scorer's query path. A log holds none, so they are written from the item that was then taken:
//! from its values and title, from another item that shares a value with it, or with one fact that is wrong.

use super::query_recipe::QueryRecipe;
use super::synthetic_query::profile;
use crate::bundle::{Catalog, HistoryEvent};
use crate::language::stems;
use crate::scorer::features::is_stop_word;
use crate::simulate::Wordings;
use rand::Rng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand_chacha::ChaCha8Rng;
use rustc_hash::FxHashMap;

/// Values that a query names, at most.
const VALUES_MAX: usize = 3;
/// Words of the title that it names, at most.
const TITLE_WORDS_MAX: usize = 2;
/// The probability that it names the kind of thing.
const KIND_PROBABILITY: f64 = 0.5;
/// The probability of words of the title.
const TITLE_PROBABILITY: f64 = 0.25;
/// The probability of a refusal, and of a bound of the price.
const REFUSAL_PROBABILITY: f64 = 0.2;
const PRICE_PROBABILITY: f64 = 0.2;
/// The probability that a word is replaced by another one that means the same.
const SYNONYM_PROBABILITY: f64 = 0.4;
/// A bound of the price is the price times 1 to this, rounded up.
const PRICE_ROOM_MAX: f32 = 1.5;
/// The longest title of another item that a query quotes, in words.
const QUOTED_WORDS_MAX: usize = 6;

/// How a query is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QueryClass {
    /// It names what the item is.
    Explicit,
    /// It names another item, with which the item shares a value.
    Implicit,
    /// It names what the item is, and one value that is another item's.
    Misinformed,
}

/// A query that a shopper could have asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskedQuery {
    /// How it was made.
    pub class: QueryClass,
    /// What the shopper searches for.
    pub query_text: String,
    /// What the shop knows about the shopper; often empty.
    pub profile: String,
}

/// Writes queries for the items of a catalogue.
#[derive(Debug)]
pub struct QueryWriter<'a> {
    catalog: &'a Catalog,
    recipe: &'a QueryRecipe,
    /// The sign before prices.
    currency: &'a str,
    /// All values by the name of their attribute.
    values: FxHashMap<&'a str, Vec<u32>>,
}

// === impl QueryClass ===

impl QueryClass {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Explicit, Self::Implicit, Self::Misinformed];

    /// Its name in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::Implicit => "implicit",
            Self::Misinformed => "misinformed",
        }
    }
}

// === impl QueryWriter ===

impl<'a> QueryWriter<'a> {
    /// A writer for this catalogue.
    pub fn new(catalog: &'a Catalog, recipe: &'a QueryRecipe, currency: &'a str) -> Self {
        let mut values: FxHashMap<&str, Vec<u32>> = FxHashMap::default();
        for number in 0..catalog.attributes_len() as u32 {
            let (name, value) = catalog.attribute(number);
            if !value.is_empty() {
                values.entry(&**name).or_default().push(number);
            }
        }
        Self { catalog, recipe, currency, values }
    }

    /// A class, by the shares of the recipe.
    pub fn draw_class(&self, rng: &mut ChaCha8Rng) -> QueryClass {
        let at: f64 = rng.random();
        let (implicit, misinformed) = (self.recipe.implicit_share, self.recipe.misinformed_share);
        match at {
            _ if at < implicit => QueryClass::Implicit,
            _ if at < implicit + misinformed => QueryClass::Misinformed,
            _ => QueryClass::Explicit,
        }
    }

    /// A query of a class for a shopper with this history who then took this item. `None` if the catalogue says too
    /// little for the class.
    pub fn write(
        &self,
        class: QueryClass,
        (history, taken): (&[HistoryEvent], u32),
        wordings: Wordings,
        rng: &mut ChaCha8Rng,
    ) -> Option<AskedQuery> {
        let wanted = match class {
            QueryClass::Explicit => self.explicit(taken, None, wordings, rng),
            QueryClass::Implicit => self.implicit(taken, wordings, rng),
            QueryClass::Misinformed => {
                let wrong = self.wrong_value(taken, rng)?;
                self.explicit(taken, Some(wrong), wordings, rng)
            }
        }?;
        let query_text = wordings.requests().choose(rng)?.replace("{}", &wanted);
        let has_profile = rng.random_bool(self.recipe.profile_share);
        let profile = if has_profile { profile(self.catalog, history, rng) } else { String::new() };
        Some(AskedQuery { class, query_text, profile })
    }

    /// Values of the item, perhaps words of its title, a refusal and a price; and a wrong value.
    fn explicit(
        &self,
        taken: u32,
        wrong: Option<u32>,
        wordings: Wordings,
        rng: &mut ChaCha8Rng,
    ) -> Option<String> {
        let item = self.catalog.item(taken);
        let own: Vec<u32> = self.named_values(taken);
        let count = rng.random_range(1..=VALUES_MAX).min(own.len());
        let chosen: Vec<u32> = own.choose_multiple(rng, count).copied().collect();
        let mut parts: Vec<String> =
            chosen.into_iter().map(|value| self.said(value, wordings, rng)).collect();
        parts.extend(wrong.map(|value| self.said(value, wordings, rng)));
        if parts.is_empty() || rng.random_bool(TITLE_PROBABILITY) {
            let words: Vec<&str> = title_words(&item.title).collect();
            let count = rng.random_range(1..=TITLE_WORDS_MAX);
            parts.extend(words.choose_multiple(rng, count).map(|word| word.to_lowercase()));
        }
        parts.shuffle(rng);
        if rng.random_bool(KIND_PROBABILITY) {
            parts.push(self.kind(taken, wordings, rng));
        }
        if rng.random_bool(REFUSAL_PROBABILITY)
            && let Some(other) = self.wrong_value(taken, rng)
        {
            let refusal = wordings.refusals().choose(rng)?;
            parts.push(refusal.replace("{}", &self.said(other, wordings, rng)));
        }
        if let Some(price) = item.price.filter(|_| rng.random_bool(PRICE_PROBABILITY)) {
            let bound = (price * rng.random_range(1.0..PRICE_ROOM_MAX)).ceil();
            let bound = format!("{}{bound}", self.currency);
            parts.push(wordings.price_bounds().choose(rng)?.replace("{}", &bound));
        }
        (!parts.is_empty()).then(|| parts.join(" "))
    }

    /// Another item that shares a value with this one, by its title.
    fn implicit(&self, taken: u32, wordings: Wordings, rng: &mut ChaCha8Rng) -> Option<String> {
        let own = self.named_values(taken);
        let shared = own.choose(rng)?;
        let others = self.catalog.items_with(*shared);
        let other = others.choose(rng).filter(|&&other| other != taken)?;
        let title = &self.catalog.item(*other).title;
        let quoted: Vec<&str> = title.split_whitespace().take(QUOTED_WORDS_MAX).collect();
        let likeness = wordings.likenesses().choose(rng)?.replace("{}", &quoted.join(" "));
        if rng.random_bool(KIND_PROBABILITY) {
            return Some(format!("{} {likeness}", self.kind(taken, wordings, rng)));
        }
        Some(likeness)
    }

    /// The values of an item that a shopper would name: all but its kind.
    fn named_values(&self, item: u32) -> Vec<u32> {
        let item = self.catalog.item(item);
        let is_named = |&&value: &&u32| {
            Some(value) != item.kind && !self.catalog.attribute(value).1.is_empty()
        };
        item.attributes.iter().filter(is_named).copied().collect()
    }

    /// A value that the item does not have, of an attribute of which it has another one.
    fn wrong_value(&self, item: u32, rng: &mut ChaCha8Rng) -> Option<u32> {
        let own = self.named_values(item);
        let (name, _) = self.catalog.attribute(*own.choose(rng)?);
        let others = self.values.get(&**name)?;
        others.choose(rng).filter(|other| !own.contains(other)).copied()
    }

    /// A value as a shopper says it.
    fn said(&self, value: u32, wordings: Wordings, rng: &mut ChaCha8Rng) -> String {
        reworded(&self.catalog.attribute(value).1.to_lowercase(), wordings, rng)
    }

    fn kind(&self, item: u32, wordings: Wordings, rng: &mut ChaCha8Rng) -> String {
        let item = self.catalog.item(item);
        let kind = item.kind.map_or_else(
            || &**self.catalog.category(item.category),
            |kind| &**self.catalog.attribute(kind).1,
        );
        reworded(&kind.to_lowercase(), wordings, rng)
    }
}

/// The word itself, or another one that means the same.
fn reworded(word: &str, wordings: Wordings, rng: &mut ChaCha8Rng) -> String {
    let others = wordings.synonyms(word);
    let other = others.choose(rng).filter(|_| rng.random_bool(SYNONYM_PROBABILITY));
    other.map_or(word, |other| other).to_owned()
}

/// The words of a title with at least two letters.
fn title_words(title: &str) -> impl Iterator<Item = &str> {
    let words = title.split(|letter: char| !letter.is_alphanumeric());
    words.filter(|word| word.chars().filter(|letter| letter.is_alphabetic()).count() > 1)
}

/// How many distinct words of a query stand in a title.
pub fn shared_words(query: &str, title: &str) -> usize {
    let title: Vec<String> = stems(title).filter(|word| !is_stop_word(word)).collect();
    let mut shared: Vec<String> = stems(query).filter(|word| title.contains(word)).collect();
    shared.sort_unstable();
    shared.dedup();
    shared.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::CatalogRow;
    use rand::SeedableRng as _;

    fn catalog() -> Catalog {
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let row = |id: &str, title: &str, color: &str, material: &str| CatalogRow {
            id: id.into(),
            title: title.into(),
            category: "Kitchen".into(),
            attributes: vec![own("colour", color), own("material", material), own("type", "mug")],
            price: Some(9.5),
        };
        Catalog::new([
            row("a", "Fern Mug", "Red", "oak"),
            row("b", "Hare Cup", "Red", "tin"),
            row("c", "Bee Bowl", "Blue", "oak"),
        ])
    }

    #[test]
    fn an_explicit_query_says_nothing_that_is_wrong() {
        let (catalog, recipe) = (catalog(), QueryRecipe::default());
        let writer = QueryWriter::new(&catalog, &recipe, "£");
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let mut seen = String::new();
        for _ in 0..200 {
            let query =
                writer.write(QueryClass::Explicit, (&[], 0), Wordings::Training, &mut rng).unwrap();
            let text = query.query_text.as_str();
            assert!(!text.contains("bee") && !text.contains("hare"), "{text}");
            for other in ["blue", "tin"] {
                let refused = ["not ", "without ", "no "].map(|no| format!("{no}{other}"));
                let is_refused = refused.iter().any(|refused| text.contains(refused));
                assert!(!text.split(' ').any(|word| word == other) || is_refused, "{text}");
            }
            seen.push_str(text);
        }
        for part in ["red", "crimson", "oak", "fern", "mug", "under £"] {
            assert!(seen.contains(part), "{part} never comes");
        }
        let refusals =
            ["not ", "without ", "no "].map(|no| ["blue", "tin"].map(|v| format!("{no}{v}")));
        assert!(refusals.as_flattened().iter().any(|refusal| seen.contains(refusal)));
        assert!(!seen.contains("scarlet"), "a wording of the evaluation");
    }

    #[test]
    fn other_classes_name_another_item_or_a_wrong_value() {
        let (catalog, recipe) = (catalog(), QueryRecipe::default());
        let writer = QueryWriter::new(&catalog, &recipe, "£");
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let mut write = |class| {
            (0..100)
                .filter_map(|_| writer.write(class, (&[], 0), Wordings::HeldOut, &mut rng))
                .map(|query| query.query_text)
                .collect::<Vec<_>>()
        };
        let implicit = write(QueryClass::Implicit);
        assert!(implicit.iter().all(|text| text.contains("Hare Cup") || text.contains("Bee Bowl")));
        let misinformed = write(QueryClass::Misinformed);
        assert!(misinformed.iter().all(|text| text.contains("blue") || text.contains("tin")));
        assert!(!implicit.is_empty() && !misinformed.is_empty());
    }

    #[test]
    fn shared_words_are_counted_once_and_without_their_plural() {
        for (query, title, expected) in [
            ("red mugs", "Red Mug", 2),
            ("mug mug", "Mug", 1),
            ("scarlet beaker", "Red Mug", 0),
            ("for the mug", "A Mug for the Garden", 1),
            ("", "Red Mug", 0),
        ] {
            assert_eq!(shared_words(query, title), expected, "{query}");
        }
    }
}
