//! What a request says in words, parsed once: wanted words, wanted and refused values, and bounds of the price.

use super::query_index::{PHRASE_WORDS_MAX, QueryIndex};
use super::query_tokens::{Token, tokens};
use crate::language::{stem, stems};

/// Distinct known words of a query or a profile that count, at most: the first ones.
pub const QUERY_WORDS_MAX: usize = 64;
/// Values that a query may want or refuse, at most: the first ones.
pub const WISHES_MAX: usize = 16;

/// Words that want nothing by themselves.
#[rustfmt::skip]
const STOP_WORDS: &[&str] = &[
    "a", "about", "am", "an", "and", "any", "are", "as", "be", "but", "by", "can", "could", "do", "find", "for", "get",
    "give", "got", "had", "has", "have", "help", "hi", "how", "i", "id", "im", "in", "is", "it", "its", "like", "liked",
    "look", "looking", "love", "made", "me", "my", "need", "of", "on", "one", "or", "please", "recommend", "search",
    "show", "some", "something", "such", "suggest", "that", "the", "them", "thing", "this", "to", "want", "wanted",
    "was", "we", "what", "which", "who", "will", "with", "would", "you", "your",
];
/// What refuses the value or word after it.
const NEGATORS: &[&[&str]] = &[
    &["anything", "but"],
    &["other", "than"],
    &["rather", "than"],
    &["instead", "of"],
    &["free", "of"],
    &["free", "from"],
    &["not"],
    &["no"],
    &["nor"],
    &["without"],
    &["except"],
    &["excluding"],
    &["avoid"],
    &["never"],
    &["non"],
    &["minus"],
    &["dont"],
];
/// What refuses the value or word before it: "nickel-free".
const NEGATOR_AFTER: &str = "free";
/// Carries a refusal on to the next value: "no leather or wool".
const CARRIES_ON: &str = "or";
/// What an upper bound of the price begins with.
const AT_MOST: &[&[&str]] = &[
    &["no", "more", "than"],
    &["not", "more", "than"],
    &["less", "than"],
    &["cheaper", "than"],
    &["lower", "than"],
    &["at", "most"],
    &["up", "to"],
    &["not", "over"],
    &["not", "above"],
    &["under"],
    &["below"],
    &["max"],
    &["maximum"],
];
/// What a lower bound of the price begins with.
const AT_LEAST: &[&[&str]] = &[
    &["no", "less", "than"],
    &["not", "less", "than"],
    &["more", "than"],
    &["at", "least"],
    &["not", "under"],
    &["not", "below"],
    &["over"],
    &["above"],
    &["min"],
    &["minimum"],
];
/// Words after a number that make it no price.
#[rustfmt::skip]
const UNITS: &[&str] = &[
    "cm", "mm", "m", "inch", "inches", "ft", "foot", "feet", "kg", "g", "gram", "grams", "oz", "lb", "l", "ml",
    "litre", "litres", "liter", "liters", "pint", "pints", "w", "watt", "watts", "v", "volt", "volts", "piece", "pieces",
    "pack", "packs", "set", "minute", "minutes", "hour", "hours", "day", "days", "week", "weeks", "month", "months",
    "year", "years", "people", "person", "persons", "cup", "cups", "percent", "stars",
];
/// Words after a number that make it a price.
#[rustfmt::skip]
const CURRENCIES: &[&str] = &[
    "pound", "pounds", "quid", "gbp", "euro", "euros", "eur", "dollar", "dollars", "usd", "bucks", "pence",
];

/// What a request says in words. All vectors are empty where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueryWords {
    /// The known words that are wanted, distinct.
    pub wanted: Vec<u32>,
    /// The known words that are refused, distinct.
    pub refused: Vec<u32>,
    /// The words that no item of the catalogue has.
    pub unknown: usize,
    /// The values that are wanted or refused.
    pub wishes: Vec<Wish>,
    /// The bounds of the price.
    pub price: PriceBounds,
    /// The known words of the profile, distinct.
    pub profile: Vec<u32>,
    /// What the query wants, as a text: without refusals and prices.
    pub wanted_text: String,
}

/// A value that a query names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The value's number.
    pub value: u32,
    /// Whether it is refused.
    pub refused: bool,
}

/// The bounds of a price.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PriceBounds {
    /// The lowest.
    pub at_least: Option<f32>,
    /// The highest.
    pub at_most: Option<f32>,
}

// === impl PriceBounds ===

impl PriceBounds {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.at_least.is_none() && self.at_most.is_none()
    }

    /// `ln(price / bound)` of the bound that a price breaks: above 0 where it is too high, below 0 where it is too low,
    /// and 0 where the bounds are held.
    pub fn excess(&self, price: f32) -> f32 {
        match (self.at_least, self.at_most) {
            (_, Some(most)) if price > most => (price / most.max(f32::MIN_POSITIVE)).ln(),
            (Some(least), _) if price < least => {
                (price.max(f32::MIN_POSITIVE) / least).ln().max(f32::MIN)
            }
            _ => 0.0,
        }
    }
}

// === impl QueryWords ===

impl QueryWords {
    /// Parses a query and a profile. Any text is sound.
    pub fn parse(index: &QueryIndex, query: &str, profile: &str) -> Self {
        let mut words = Self::default();
        let tokens = tokens(query);
        Parser { index, tokens: &tokens, at: 0, refusing: false, was_refused: false }
            .run(&mut words);
        for word in stems(profile).filter(|word| !is_stop_word(word)) {
            if let Some(number) = index.texts().word(&word) {
                push_distinct(&mut words.profile, number);
            }
        }
        words
    }

    /// Whether nothing was said that an item could be held against.
    pub fn is_empty(&self) -> bool {
        let Self { wanted, refused, wishes, profile, price, .. } = self;
        wanted.is_empty()
            && refused.is_empty()
            && wishes.is_empty()
            && profile.is_empty()
            && price.is_empty()
            && self.wanted_text.is_empty()
    }
}

/// Walks over the tokens of a query.
struct Parser<'a> {
    index: &'a QueryIndex,
    tokens: &'a [Token],
    at: usize,
    /// Whether the next value or word is refused.
    refusing: bool,
    /// Whether the last value or word was.
    was_refused: bool,
}

// === impl Parser ===

impl Parser<'_> {
    fn run(mut self, to: &mut QueryWords) {
        while self.at < self.tokens.len() {
            if self.border() || self.price(to) || self.negator() || self.stop_word() {
                continue;
            }
            self.value_or_word(to);
        }
    }

    fn border(&mut self) -> bool {
        let is_border = matches!(self.tokens[self.at], Token::Border);
        if is_border {
            (self.at, self.refusing) = (self.at + 1, false);
        }
        is_border
    }

    /// Reads "under £20", "between 10 and 20" and "£10 to £20".
    fn price(&mut self, to: &mut QueryWords) -> bool {
        let found = self.range().or_else(|| {
            let most = self.bound(AT_MOST).map(|(value, end)| (None, Some(value), end));
            most.or_else(|| self.bound(AT_LEAST).map(|(value, end)| (Some(value), None, end)))
        });
        let Some((at_least, at_most, end)) = found else { return false };
        to.price.at_least = at_least.or(to.price.at_least);
        to.price.at_most = at_most.or(to.price.at_most);
        (self.at, self.refusing) = (end, false);
        true
    }

    /// A bound that begins with one of these phrases here, and where it ends.
    fn bound(&self, phrases: &[&[&str]]) -> Option<(f32, usize)> {
        let begun = phrases.iter().find(|phrase| self.says(self.at, phrase))?;
        let (value, _, end) = self.price_at(self.at + begun.len())?;
        Some((value, end))
    }

    fn range(&self) -> Option<(Option<f32>, Option<f32>, usize)> {
        let is_between = self.says(self.at, &["between"]);
        let (low, low_signed, next) = self.price_at(self.at + usize::from(is_between))?;
        let joins: &[&str] = if is_between { &["and", "to"] } else { &["to"] };
        if !joins.iter().any(|join| self.says(next, &[join])) {
            return None;
        }
        let (high, high_signed, end) = self.price_at(next + 1)?;
        let is_price = is_between || low_signed || high_signed;
        is_price.then(|| (Some(low.min(high)), Some(low.max(high)), end))
    }

    /// A price at this token: its value, whether a currency says so, and where it ends.
    fn price_at(&self, at: usize) -> Option<(f32, bool, usize)> {
        let Some(Token::Number { value, signed, .. }) = self.tokens.get(at) else { return None };
        let next = self.tokens.get(at + 1).and_then(Token::word);
        match next {
            Some(word) if CURRENCIES.contains(&word) => Some((*value, true, at + 2)),
            Some(word) if UNITS.contains(&word) && !signed => None,
            _ => Some((*value, *signed, at + 1)),
        }
    }

    fn negator(&mut self) -> bool {
        let found = NEGATORS.iter().find(|phrase| self.says(self.at, phrase));
        if let Some(phrase) = found {
            (self.at, self.refusing) = (self.at + phrase.len(), true);
        }
        found.is_some()
    }

    fn stop_word(&mut self) -> bool {
        let Some(word) = self.tokens[self.at].word().filter(|word| is_stop_word(word)) else {
            return false;
        };
        self.refusing |= self.was_refused && word == CARRIES_ON;
        self.at += 1;
        true
    }

    /// Reads the longest value that begins here, or else one word.
    fn value_or_word(&mut self, to: &mut QueryWords) {
        let (value, length) = self.longest_value().map_or((None, 1), |(v, n)| (Some(v), n));
        let end = self.at + length;
        let is_freed = self.says(end, &[NEGATOR_AFTER])
            && !NEGATORS.iter().any(|phrase| self.says(end, phrase));
        let refused = self.refusing || is_freed;
        if let Some(value) = value.filter(|_| to.wishes.len() < WISHES_MAX) {
            let wish = Wish { value, refused };
            if !to.wishes.contains(&wish) {
                to.wishes.push(wish);
            }
        }
        for token in &self.tokens[self.at..end] {
            let Some(text) = token.text() else { continue };
            match self.index.texts().word(stem(text)) {
                Some(word) if refused => push_distinct(&mut to.refused, word),
                Some(word) => push_distinct(&mut to.wanted, word),
                None => to.unknown += 1,
            }
            if !refused {
                if !to.wanted_text.is_empty() {
                    to.wanted_text.push(' ');
                }
                to.wanted_text.push_str(text);
            }
        }
        (self.at, self.refusing, self.was_refused) = (end, false, refused);
        self.at += usize::from(is_freed);
    }

    fn longest_value(&self) -> Option<(u32, usize)> {
        let left = &self.tokens[self.at..];
        (1..=PHRASE_WORDS_MAX.min(left.len())).rev().find_map(|length| {
            let texts: Option<Vec<&str>> =
                left[..length].iter().map(|token| token.text().map(stem)).collect();
            Some((self.index.value(&texts?.join(" "))?, length))
        })
    }

    /// Whether these words stand at this token.
    fn says(&self, at: usize, words: &[&str]) -> bool {
        let here = self.tokens.get(at..at + words.len());
        here.is_some_and(|here| {
            here.iter().zip(words).all(|(token, word)| token.word() == Some(*word))
        })
    }
}

/// Whether a word in lower case wants nothing by itself.
pub fn is_stop_word(word: &str) -> bool {
    STOP_WORDS.binary_search(&word).is_ok()
}

fn push_distinct(to: &mut Vec<u32>, number: u32) {
    if to.len() < QUERY_WORDS_MAX && !to.contains(&number) {
        to.push(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::{Catalog, CatalogRow};

    fn index() -> QueryIndex {
        let row = |title: &str, material: &str, color: &str| CatalogRow {
            id: title.into(),
            title: title.into(),
            category: "kitchen".into(),
            attributes: vec![
                ("material".into(), material.into()),
                ("color".into(), color.into()),
                ("product_type".into(), "mug".into()),
            ],
            price: None,
        };
        let catalog = Catalog::new([
            row("Star Mug 1999", "leather", "red"),
            row("Bee Mug", "recycled glass", "sky blue"),
            row("Hare Mug", "wool", "white"),
        ]);
        QueryIndex::of(&catalog)
    }

    /// (values wanted, values refused, other words wanted) as texts.
    fn parsed(query: &str) -> (Vec<String>, Vec<String>, String) {
        let index = index();
        let words = QueryWords::parse(&index, query, "");
        let name = |value: u32| {
            let all = ["leather", "red", "mug", "recycled glass", "sky blue", "wool", "white"];
            let found = all.into_iter().find(|phrase| index.value(phrase) == Some(value));
            found.unwrap_or("kitchen").to_owned()
        };
        let of = |refused: bool| -> Vec<String> {
            let chosen = words.wishes.iter().filter(|wish| wish.refused == refused);
            chosen.map(|wish| name(wish.value)).collect()
        };
        (of(false), of(true), words.wanted_text)
    }

    #[test]
    fn stop_words_are_sorted() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn values_are_wanted_and_refused() {
        let table: &[(&str, &[&str], &[&str], &str)] = &[
            ("a red mug", &["red", "mug"], &[], "red mug"),
            ("RED MUGS!", &["red", "mug"], &[], "red mugs"),
            ("mug, not red", &["mug"], &["red"], "mug"),
            ("mug without leather", &["mug"], &["leather"], "mug"),
            ("no leather or wool, but red", &["red"], &["leather", "wool"], "red"),
            ("no leather mug", &["mug"], &["leather"], "mug"),
            ("not a red mug", &["mug"], &["red"], "mug"),
            ("leather-free mug", &["mug"], &["leather"], "mug"),
            ("mug free from leather", &["mug"], &["leather"], "mug"),
            ("anything but sky blue", &[], &["sky blue"], ""),
            (
                "recycled glass and sky blue",
                &["recycled glass", "sky blue"],
                &[],
                "recycled glass sky blue",
            ),
            ("I don't want wool", &[], &["wool"], ""),
            ("a star from 1999", &[], &[], "star from 1999"),
            ("dark oak", &[], &[], "dark oak"),
        ];
        for (query, wanted, refused, text) in table {
            assert_eq!(
                parsed(query),
                (
                    wanted.iter().map(|&value| value.to_owned()).collect(),
                    refused.iter().map(|&value| value.to_owned()).collect(),
                    (*text).to_owned()
                ),
                "{query}"
            );
        }
    }

    #[test]
    fn bounds_of_the_price_are_read_and_other_numbers_are_not() {
        let index = index();
        for (query, at_least, at_most) in [
            ("under £20", None, Some(20.0)),
            ("below 20", None, Some(20.0)),
            ("between 10 and 20", Some(10.0), Some(20.0)),
            ("between £20 and £10.50", Some(10.5), Some(20.0)),
            ("over 50", Some(50.0), None),
            ("£5 to £9", Some(5.0), Some(9.0)),
            ("no more than 1,299.99 dollars", None, Some(1_299.99)),
            ("over £5 and under £9", Some(5.0), Some(9.0)),
            ("at least 8 euros", Some(8.0), None),
            ("cheap", None, None),
            ("5 to 9 mugs", None, None),
            ("under 20 cm", None, None),
            ("under £20 cm", None, Some(20.0)),
            ("mug 1999", None, None),
            ("under", None, None),
            ("under 99999999999999999999999999999999999999999999999999", None, None),
        ] {
            let price = QueryWords::parse(&index, query, "").price;
            assert_eq!(price, PriceBounds { at_least, at_most }, "{query}");
        }
    }

    #[test]
    fn a_price_is_held_too_high_or_too_low() {
        let bounds = PriceBounds { at_least: Some(10.0), at_most: Some(20.0) };
        assert_eq!(bounds.excess(15.0).to_bits(), 0);
        assert!((bounds.excess(40.0) - std::f32::consts::LN_2).abs() < 1e-6);
        assert!((bounds.excess(5.0) + std::f32::consts::LN_2).abs() < 1e-6);
        assert!(bounds.excess(0.0).is_finite());
        let nothing = PriceBounds { at_least: None, at_most: Some(0.0) };
        assert!(nothing.excess(1.0).is_finite());
    }

    #[test]
    fn any_text_is_sound() {
        let index = index();
        let long = "red mug not wool under £5 ".repeat(200);
        let distinct = (0..600).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ");
        for text in [
            "",
            " ",
            "s",
            "😀🎁",
            "\u{0}\u{1b}[2J\u{7f}",
            "ถ้วยสีแดง",
            "£",
            "£££ 1 . , 2",
            "not",
            &long,
            &distinct,
        ] {
            let words = QueryWords::parse(&index, text, text);
            assert!(words.wanted.len() <= QUERY_WORDS_MAX && words.wishes.len() <= WISHES_MAX);
            assert!(words.wanted_text.len() <= text.len(), "{text:.20}");
        }
        for text in ["", "😀🎁", "\u{0}\u{7f}", "the", "not"] {
            assert!(QueryWords::parse(&index, text, text).is_empty(), "{text:?}");
        }
    }
}
