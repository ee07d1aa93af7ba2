//! The query features of a slate: each candidate held against what a request says in words.
//!
//! What no item of the slate has is left out of every share and sum, so that a word that is wrong, or a misspelt one,
//! takes nothing from the others.

use super::query_catalogue::{HitsAndMisses, QueryInput, QueryVector};
use super::query_index::{NamedValue, QueryIndex};
use super::query_words::{QueryWords, Wish};
use crate::bundle::{Cards, inline_text};
use crate::domain::ItemText;
use crate::language::IndexedText;
use crate::nn::text::TEXT_WIDTH;
use crate::scorer::{ItemVectors, TextReader};
use std::borrow::Cow;
use std::sync::Arc;

/// What candidates are held against a request by.
#[derive(Clone, Copy, Debug)]
pub struct QueryView<'a> {
    /// The words and values of the catalogue's items.
    pub index: &'a QueryIndex,
    /// Their cards.
    pub cards: &'a Cards,
    /// The encoder of texts.
    pub reader: &'a TextReader,
    /// The items' wide vectors, if there are any.
    pub vectors: Option<&'a ItemVectors>,
}

/// A request in words with the vectors of its texts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SpokenQuery {
    /// What it says.
    pub words: QueryWords,
    /// The wide vector of what the query wants; empty if it wants nothing.
    wide: Arc<[f32]>,
    /// The same, as reasons are encoded: (`TEXT_WIDTH`).
    narrow: Vec<f32>,
    /// The wide vector of the profile; empty without one.
    profile: Arc<[f32]>,
}

/// A candidate, as query features are computed of it.
#[derive(Clone, Copy, Debug)]
pub enum QueryItem<'a> {
    /// An item of the catalogue, by number.
    Known(u32),
    /// An item whose text came with the request, or after the bundle was made; and its price, if it has one.
    Inline(&'a ItemText, Option<f32>),
}

/// What a candidate says.
struct ItemSays<'a> {
    text: Cow<'a, IndexedText>,
    values: Cow<'a, [NamedValue]>,
    price: Option<f32>,
}

/// What of a request an item of the slate has.
#[derive(Default)]
struct SlateHas {
    wanted: Vec<u32>,
    /// The sum of their rarities.
    wanted_idf: f32,
    profile: Vec<u32>,
    profile_idf: f32,
    kinds: Vec<u32>,
    values: Vec<u32>,
    refused_values: Vec<u32>,
    refused_words: Vec<u32>,
    /// Whether the bounds are held by a price that is known, or broken.
    prices: bool,
    /// The share of all that the query says.
    share: f32,
}

// === impl SpokenQuery ===

impl SpokenQuery {
    /// Parses and encodes a query and a profile; either may be empty. `None` if nothing is said.
    pub fn of(index: &QueryIndex, reader: &TextReader, query: &str, profile: &str) -> Option<Self> {
        let words = QueryWords::parse(index, query, profile);
        if words.is_empty() {
            return None;
        }
        let wanted = words.wanted_text.as_str();
        let encode = |text: &str| if text.is_empty() { [].into() } else { reader.query(text) };
        let wide: Arc<[f32]> = encode(wanted);
        let narrow =
            if wide.is_empty() { Vec::new() } else { reader.encoder().project_all(wide.to_vec()) };
        Some(Self { wide, narrow, profile: encode(profile), words })
    }
}

// === impl QueryView ===

impl QueryView<'_> {
    /// Writes the query features of each candidate. Returns whether anything of the request is in the slate: a word, a
    /// value, or a price within bounds or out of them.
    pub fn rows<'i>(
        &self,
        query: &SpokenQuery,
        items: impl Iterator<Item = QueryItem<'i>>,
        rows: &mut Vec<QueryVector>,
    ) -> bool {
        rows.clear();
        let items: Vec<QueryItem<'i>> = items.collect();
        let says: Vec<ItemSays<'_>> = items.iter().map(|item| self.says(*item)).collect();
        let has = self.slate_has(&query.words, &says);
        if !has.anything() {
            return false;
        }
        rows.extend(items.iter().zip(&says).map(|(item, says)| {
            let (cosine, profile_cosine) = self.cosines(query, *item);
            QueryVector::compute(&QueryInput {
                cosine,
                profile_cosine,
                reason_cosine: self.reason_cosine(query, *item),
                ..self.input(&query.words, &has, says)
            })
        }));
        true
    }

    fn says(&self, item: QueryItem<'_>) -> ItemSays<'_> {
        match item {
            QueryItem::Known(number) => ItemSays {
                text: Cow::Borrowed(self.index.texts().text(number)),
                values: Cow::Borrowed(self.index.item(number)),
                price: self.cards.items[number as usize].stats.price,
            },
            QueryItem::Inline(text, price) => ItemSays {
                text: Cow::Owned(self.index.words(&inline_text(text))),
                values: Cow::Owned(self.index.read(text)),
                price,
            },
        }
    }

    fn slate_has(&self, words: &QueryWords, says: &[ItemSays<'_>]) -> SlateHas {
        let any_word = |word: &u32| says.iter().any(|item| item.text.times(*word) > 0);
        let any_value = |value: u32| {
            says.iter().any(|item| self.index.verdict(value, &item.values) == Some(true))
        };
        let had = |of: &[u32]| -> Vec<u32> { of.iter().copied().filter(any_word).collect() };
        let wished = |chosen: fn(&QueryIndex, &Wish) -> bool| -> Vec<u32> {
            let wishes = words.wishes.iter().filter(|wish| chosen(self.index, wish));
            wishes.map(|wish| wish.value).filter(|&value| any_value(value)).collect()
        };
        let idf = |of: &[u32]| of.iter().map(|&word| self.index.texts().idf(word)).sum();
        let (wanted, profile) = (had(&words.wanted), had(&words.profile));
        let said = words.wanted.len() + words.unknown;
        SlateHas {
            wanted_idf: idf(&wanted),
            profile_idf: idf(&profile),
            kinds: wished(|index, wish| !wish.refused && index.is_kind(wish.value)),
            values: wished(|index, wish| !wish.refused && !index.is_kind(wish.value)),
            refused_values: wished(|_, wish| wish.refused),
            refused_words: had(&words.refused),
            prices: !words.price.is_empty() && says.iter().any(|item| item.price.is_some()),
            share: wanted.len() as f32 / said.max(1) as f32,
            wanted,
            profile,
        }
    }

    fn input(&self, words: &QueryWords, has: &SlateHas, item: &ItemSays<'_>) -> QueryInput {
        let texts = self.index.texts();
        let bm25 = |of: &[u32], most: f32| {
            let sum: f32 = of.iter().map(|&word| texts.value(word, &item.text)).sum();
            if most > 0.0 { sum / most } else { 0.0 }
        };
        let had = |word: &&u32| item.text.times(**word) > 0;
        let (refused_values, refused_words) = (&has.refused_values, &has.refused_words);
        let broken = refused_values.iter().filter(|value| self.has(**value, item)).count()
            + refused_words.iter().filter(had).count();
        QueryInput {
            bm25: bm25(&has.wanted, has.wanted_idf),
            words: share(has.wanted.iter().filter(had).count(), has.wanted.len()),
            kinds: self.hits_and_misses(&has.kinds, item),
            values: self.hits_and_misses(&has.values, item),
            refused: share(broken, refused_values.len() + refused_words.len()),
            price_excess: item
                .price
                .filter(|_| !words.price.is_empty())
                .map(|price| words.price.excess(price)),
            slate_words: (has.wanted.len() + has.kinds.len() + has.values.len()) as f32,
            slate_share: has.share,
            profile_bm25: bm25(&has.profile, has.profile_idf),
            ..QueryInput::default()
        }
    }

    fn has(&self, value: u32, item: &ItemSays<'_>) -> bool {
        self.index.verdict(value, &item.values) == Some(true)
    }

    fn hits_and_misses(&self, values: &[u32], item: &ItemSays<'_>) -> HitsAndMisses {
        let count = |verdict: bool| {
            let found =
                values.iter().filter(|v| self.index.verdict(**v, &item.values) == Some(verdict));
            share(found.count(), values.len())
        };
        HitsAndMisses { hits: count(true), misses: count(false) }
    }

    /// The cosines of an item's text with the query's and the profile's.
    fn cosines(&self, query: &SpokenQuery, item: QueryItem<'_>) -> (f32, f32) {
        match item {
            QueryItem::Known(number) => {
                let dot = |of: &[f32]| match self.vectors {
                    Some(vectors) if !of.is_empty() => vectors.dot(number, of),
                    _ => 0.0,
                };
                (dot(&query.wide), dot(&query.profile))
            }
            QueryItem::Inline(..) if query.wide.is_empty() && query.profile.is_empty() => {
                (0.0, 0.0)
            }
            QueryItem::Inline(text, _) => {
                let vector = self.reader.wide(&inline_text(text));
                (dot(&vector, &query.wide), dot(&vector, &query.profile))
            }
        }
    }

    /// The cosine with the closest of an item's reasons, which are unit vectors; 0 where there is none.
    fn reason_cosine(&self, query: &SpokenQuery, item: QueryItem<'_>) -> f32 {
        let QueryItem::Known(number) = item else { return 0.0 };
        let card = &self.cards.items[number as usize];
        let (first, end) =
            (card.first_reason as usize, card.first_reason as usize + card.reasons.len());
        let vectors = self.cards.reason_vectors.get(first * TEXT_WIDTH..end * TEXT_WIDTH);
        let Some(vectors) = vectors.filter(|_| !query.narrow.is_empty()) else { return 0.0 };
        let cosines = vectors.chunks_exact(TEXT_WIDTH).map(|vector| dot(vector, &query.narrow));
        cosines.reduce(f32::max).unwrap_or(0.0)
    }
}

// === impl SlateHas ===

impl SlateHas {
    fn anything(&self) -> bool {
        let lists = [
            &self.wanted,
            &self.profile,
            &self.kinds,
            &self.values,
            &self.refused_values,
            &self.refused_words,
        ];
        self.prices || lists.iter().any(|list| !list.is_empty())
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn share(part: usize, whole: usize) -> f32 {
    part as f32 / whole.max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Backing, CardReason, Catalog, CatalogRow, ItemCard, ItemStats};
    use crate::domain::ReasonSource;
    use crate::language::TextTokenizer;
    use crate::nn::text::TextEncoder;
    use std::path::Path;

    fn reader() -> TextReader {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
        let tokens = TextTokenizer::load(&demo.join("tokenizer.json")).unwrap();
        TextReader::new(
            tokens,
            TextEncoder::load(&demo.join("text.safetensors"), &demo.join("bert")).unwrap(),
        )
        .unwrap()
    }

    fn catalog() -> Catalog {
        let row = |title: &str, color: &str, kind: &str, price: Option<f32>| CatalogRow {
            id: title.into(),
            title: title.into(),
            category: "kitchen".into(),
            attributes: vec![("color".into(), color.into()), ("product_type".into(), kind.into())],
            price,
        };
        Catalog::new([
            row("Red Mug", "red", "mug", Some(10.0)),
            row("Blue Mug", "blue", "mug", Some(30.0)),
            row("Oak Tray", "brown", "tray", None),
            row("Walnut Bowl", "walnut", "bowl", Some(5.0)),
        ])
    }

    /// Cards with the catalogue's prices. The second item has a reason whose vector is that of `text`.
    fn cards(catalog: &Catalog, reader: &TextReader, text: &str) -> Cards {
        let reason = CardReason {
            text: text.into(),
            source: ReasonSource::Evidence,
            evidence: [].into(),
            strength: 1.0,
            backing: Backing::Nothing,
            supporters: Vec::new(),
        };
        let card = |(number, price): (usize, Option<f32>)| ItemCard {
            stats: ItemStats { price, ..ItemStats::default() },
            reasons: if number == 1 { vec![reason.clone()] } else { Vec::new() },
            first_reason: u32::from(number > 1),
        };
        let prices = catalog.items().iter().map(|item| item.price);
        Cards {
            items: prices.enumerate().map(card).collect(),
            reason_vectors: reader.vector(text),
            ..Cards::default()
        }
    }

    /// The rows of the first three items; the first has the vector of what the query wants.
    fn rows(query: &str, profile: &str) -> Vec<QueryVector> {
        let (catalog, reader) = (catalog(), reader());
        let index = QueryIndex::of(&catalog);
        let Some(spoken) = SpokenQuery::of(&index, &reader, query, profile) else {
            return Vec::new();
        };
        let cards = cards(&catalog, &reader, &spoken.words.wanted_text);
        let mut vectors = reader.wide(&spoken.words.wanted_text);
        vectors.resize(catalog.len() * reader.width(), 0.0);
        let vectors = ItemVectors::of(&vectors, reader.width());
        let view =
            QueryView { index: &index, cards: &cards, reader: &reader, vectors: Some(&vectors) };
        let mut rows = vec![QueryVector::default()];
        let matches = view.rows(&spoken, (0..3).map(QueryItem::Known), &mut rows);
        assert_eq!(matches, !rows.is_empty());
        rows
    }

    /// Calculated by hand: ln(1 + 3.5 / 1.5) for red, ln(1 + 2.5 / 2.5) for mug, and 2 / (2 + k) with
    /// k = 1.2 (¼ + ¾ · 5 / 5) for a text of five words.
    #[test]
    fn each_feature_has_the_value_that_the_slate_gives() {
        let rows = rows("red mug, not blue, under £20, zzqx", "");
        let (red, mug) = (1.203_973, std::f32::consts::LN_2);
        let twice = 2.0 / 3.2;
        let table: [(&str, [f32; 3]); 13] = [
            ("query_cosine", [1.0, 0.0, 0.0]),
            ("query_reason_cosine", [0.0, 1.0, 0.0]),
            ("query_bm25", [twice, twice * mug / (red + mug), 0.0]),
            ("query_words_had", [1.0, 0.5, 0.0]),
            ("query_kind_hits", [1.0, 1.0, 0.0]),
            ("query_kind_misses", [0.0, 0.0, 1.0]),
            ("query_hits", [1.0, 0.0, 0.0]),
            ("query_misses", [0.0, 1.0, 1.0]),
            ("query_refused", [0.0, 1.0, 0.0]),
            ("query_price_held", [1.0, 0.0, 0.0]),
            ("query_price_broken", [0.0, 0.405_465, 0.0]), // ln 1.5
            ("query_words", [1.609_438; 3]),               // ln 5: two words and two values
            ("query_slate_share", [2.0 / 3.0; 3]),
        ];
        for (name, expected) in table {
            // Item vectors have a byte for each number.
            let near = if name.ends_with("cosine") { 2e-2 } else { 1e-4 };
            for (row, expected) in rows.iter().zip(expected) {
                assert!(
                    (row[name] - expected).abs() < near,
                    "{name}: {} is not {expected}",
                    row[name]
                );
            }
        }
    }

    #[test]
    fn what_no_item_of_the_slate_has_takes_nothing_from_the_others() {
        let (right, wrong) = (rows("red mug", ""), rows("red walnut mug", ""));
        for name in ["query_bm25", "query_words_had", "query_hits", "query_misses"] {
            for (right, wrong) in right.iter().zip(&wrong) {
                assert_eq!(right[name].to_bits(), wrong[name].to_bits(), "{name}");
            }
        }
        assert!(wrong[0]["query_slate_share"] < right[0]["query_slate_share"]);
    }

    #[test]
    fn a_profile_is_heard_and_nothing_is_not() {
        let liked = rows("", "likes red");
        assert!(liked[0]["profile_bm25"] > 0.5 && liked[1]["profile_bm25"] < 0.01);
        assert_eq!(liked[0]["query_bm25"].to_bits(), 0);
        for (query, profile) in
            [("", ""), ("walnut bowl", ""), ("zzqx", "zzqx"), ("not walnut", ""), ("the", "and")]
        {
            assert!(rows(query, profile).is_empty(), "{query:?} and {profile:?}");
        }
        assert_eq!(rows("under £5", "").len(), 3, "prices are known");
    }
}
