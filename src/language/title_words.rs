//! Words and two-word phrases that some titles of a shop share: brands, makers, product lines.
//!
//! They are attributes for a shop whose items have only titles. A shopper reads them in quotes ("More “Dragon Age”"), so
//! they are spelled as the shop spells them. A word of many titles tells nothing, and one of very few is shared by nobody.

use super::lexicon::Lexicon;
use super::words::singular;
use rustc_hash::{FxHashMap, FxHashSet};

/// The bounds within which a word or phrase is shared, and distinctive.
#[derive(Clone, Debug, PartialEq)]
pub struct TitleWordsConfig {
    /// Titles that hold it, at least.
    pub titles_min: usize,
    /// The share of all titles that hold it, at most.
    pub titles_share_max: f64,
    /// Titles that may hold it in a shop that is too small for that share.
    pub titles_max_floor: usize,
    /// Words and phrases of one title, at most.
    pub per_title: usize,
}

impl Default for TitleWordsConfig {
    fn default() -> Self {
        Self { titles_min: 3, titles_share_max: 0.05, titles_max_floor: 20, per_title: 4 }
    }
}

/// The name of the attribute.
pub const TITLE_WORDS: &str = "title words";
/// Words of one title that are read: later ones are mostly praise.
const TITLE_WORDS_MAX: usize = 32;
/// Letters of a word that stands alone: shorter ones are abbreviations.
pub(super) const LETTERS_MIN: usize = 4;
/// Letters of a word within a phrase: "Le Creuset".
const PHRASE_LETTERS_MIN: usize = 2;
/// Letters of any word, at most: longer ones are codes.
const LETTERS_MAX: usize = 24;
/// Letters of a word that a full stop shortens, at most: "Dr. Scholl's".
const SHORTENED_LETTERS_MAX: usize = 3;
/// How much more often than by chance two words stand side by side, to be a phrase.
const LIFT_MIN: f64 = 8.0;
/// The share of the rarer word's uses that the phrase has, at least.
const BOUND_SHARE: f64 = 0.15;
/// The share of the more frequent word's uses from which on two words are a phrase, however few titles there are.
const ALWAYS_SHARE: f64 = 0.7;

/// Words of measure, trade and praise: they are in titles of all kinds, and tell nothing to a shopper.
const SAY_NOTHING: &[&str] = &[
    "about",
    "after",
    "also",
    "amazing",
    "and",
    "any",
    "authentic",
    "bonus",
    "box",
    "brand",
    "bulk",
    "bundle",
    "can",
    "card",
    "case",
    "centimeter",
    "cm",
    "color",
    "compatible",
    "complete",
    "count",
    "day",
    "dia",
    "each",
    "edition",
    "every",
    "exclusive",
    "fluid",
    "fl",
    "foot",
    "free",
    "full",
    "genuine",
    "get",
    "gift",
    "good",
    "gram",
    "great",
    "guaranteed",
    "hot",
    "hour",
    "inch",
    "includes",
    "item",
    "its",
    "kg",
    "kit",
    "lb",
    "life",
    "limited",
    "liter",
    "litre",
    "look",
    "lot",
    "max",
    "meter",
    "mg",
    "milliliter",
    "ml",
    "mm",
    "month",
    "most",
    "name",
    "not",
    "number",
    "only",
    "original",
    "other",
    "ounce",
    "oz",
    "package",
    "packaging",
    "pcs",
    "per",
    "perfect",
    "pk",
    "plus",
    "pound",
    "premium",
    "product",
    "professional",
    "qty",
    "quality",
    "refill",
    "result",
    "retail",
    "sale",
    "same",
    "series",
    "some",
    "special",
    "than",
    "that",
    "their",
    "them",
    "through",
    "time",
    "tm",
    "tube",
    "ultimate",
    "unit",
    "use",
    "value",
    "vary",
    "version",
    "vol",
    "volume",
    "was",
    "week",
    "what",
    "when",
    "will",
    "year",
];

/// Words that say nothing alone, and begin names: "New York".
const BEGINS_NAMES: &[&str] = &["new"];

/// The shared words and phrases of each title, as the shop spells them most often, in the order of the title. The result
/// does not depend on the order of the titles.
pub fn shared_words(titles: &[&str], config: &TitleWordsConfig) -> Vec<Vec<String>> {
    let counted = Counted::read(titles, config);
    let chosen: Vec<Vec<Chosen<'_>>> =
        titles.iter().map(|title| counted.choose(title, config.per_title)).collect();
    let spelled = spellings(&chosen);
    // A word that all other titles have in a phrase is shared no more.
    let name = |chosen: &Chosen<'_>| spelled.get(&chosen.key).map(|&name| name.to_owned());
    chosen.iter().map(|title| title.iter().filter_map(name).collect()).collect()
}

/// A word of a title.
pub(super) struct TitleWord<'a> {
    /// In the singular and lower case.
    pub key: String,
    /// Its place in the title: bytes.
    pub span: (usize, usize),
    /// Whether nothing but a space is between it and the word before.
    pub joined: bool,
    title: &'a str,
}

/// A word or phrase of a title: its number or numbers, and its spelling there.
struct Chosen<'a> {
    key: (u32, Option<u32>),
    spelling: &'a str,
}

/// How many titles hold each word, and each pair of words side by side.
struct Counted {
    numbers: FxHashMap<String, u32>,
    words: Vec<WordCount>,
    pairs: FxHashMap<(u32, u32), u32>,
    titles: usize,
    most: usize,
    least: usize,
}

/// The titles that hold a word.
#[derive(Clone, Copy)]
struct WordCount {
    titles: u32,
    /// The last title that was counted.
    last: usize,
    alone: bool,
    in_phrase: bool,
}

// === impl Counted ===

impl Counted {
    /// Counts words, and then the pairs of those words that are frequent enough.
    fn read(titles: &[&str], config: &TitleWordsConfig) -> Self {
        let share = (titles.len() as f64 * config.titles_share_max) as usize;
        let mut counted = Self {
            numbers: FxHashMap::default(),
            words: Vec::new(),
            pairs: FxHashMap::default(),
            titles: titles.len(),
            most: share.max(config.titles_max_floor),
            least: config.titles_min.max(2),
        };
        let lexicon = &Lexicon::english();
        for (index, title) in titles.iter().enumerate() {
            for word in words_of(title) {
                counted.count_word(word.key, index, lexicon);
            }
        }
        let mut seen = FxHashSet::default();
        for title in titles {
            seen.clear();
            let words = counted.numbered(title);
            seen.extend(words.windows(2).filter_map(|two| Some(counted.pair(two)?.1)));
            for &pair in &seen {
                *counted.pairs.entry(pair).or_default() += 1;
            }
        }
        counted
    }

    fn count_word(&mut self, key: String, title: usize, lexicon: &Lexicon) {
        let next = self.words.len() as u32;
        let number = *self.numbers.entry(key).or_insert_with_key(|key| {
            let fit = |letters| is_fit(key, letters, lexicon);
            let in_phrase = fit(PHRASE_LETTERS_MIN) || BEGINS_NAMES.contains(&&**key);
            let alone = fit(LETTERS_MIN);
            self.words.push(WordCount { titles: 0, last: usize::MAX, alone, in_phrase });
            next
        });
        let count = &mut self.words[number as usize];
        count.titles += u32::from(count.last != title);
        count.last = title;
    }

    /// The words of a title with their numbers.
    fn numbered<'a>(&self, title: &'a str) -> Vec<(u32, TitleWord<'a>)> {
        words_of(title).map(|word| (self.numbers[&word.key], word)).collect()
    }

    /// The spelling and the numbers of two words, if they may be a phrase at all.
    fn pair<'a>(&self, two: &[(u32, TitleWord<'a>)]) -> Option<(&'a str, (u32, u32))> {
        let [(a, first), (b, second)] = two else { return None };
        let fit = |number: u32| {
            let word = &self.words[number as usize];
            word.in_phrase && word.titles as usize >= self.least
        };
        let stands = self.words[*a as usize].alone || self.words[*b as usize].alone;
        (second.joined && a != b && stands && fit(*a) && fit(*b))
            .then(|| (&first.title[first.span.0..second.span.1], (*a, *b)))
    }

    /// How many titles hold two words as a phrase; `None` if they are none.
    fn phrase(&self, (a, b): (u32, u32)) -> Option<u32> {
        let together = *self.pairs.get(&(a, b))?;
        let [a, b] = [a, b].map(|word| f64::from(self.words[word as usize].titles));
        let lift = f64::from(together) * self.titles as f64 / (a * b);
        let is_bound = |share: f64, uses: f64| f64::from(together) >= share * uses;
        let bound = lift >= LIFT_MIN && is_bound(BOUND_SHARE, a.min(b));
        (self.is_shared(together) && (bound || is_bound(ALWAYS_SHARE, a.max(b))))
            .then_some(together)
    }

    fn is_shared(&self, titles: u32) -> bool {
        (self.least..=self.most).contains(&(titles as usize))
    }

    /// The words and phrases of a title: phrases before words, if there are too many.
    fn choose<'a>(&self, title: &'a str, most: usize) -> Vec<Chosen<'a>> {
        let words = self.numbered(title);
        let phrase_at = |at: usize| {
            let (spelling, pair) = self.pair(words.get(at..at + 2)?)?;
            Some((spelling, pair, self.phrase(pair)?))
        };
        let mut found: Vec<(usize, Chosen<'a>)> = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let next = phrase_at(at + 1).map_or(0, |(_, _, titles)| titles);
            let (number, word) = &words[at];
            let count = &self.words[*number as usize];
            match phrase_at(at) {
                Some((spelling, (a, b), titles)) if titles >= next => {
                    found.push((at, Chosen { key: (a, Some(b)), spelling }));
                    at += 1;
                }
                _ if count.alone && self.is_shared(count.titles) => {
                    let spelling = &title[word.span.0..word.span.1];
                    found.push((at, Chosen { key: (*number, None), spelling }));
                }
                _ => {}
            }
            at += 1;
        }
        let mut seen = FxHashSet::default();
        found.retain(|(_, chosen)| seen.insert(chosen.key));
        found.sort_by_key(|(_, chosen)| chosen.key.1.is_none());
        found.truncate(most);
        found.sort_by_key(|(at, _)| *at);
        found.into_iter().map(|(_, chosen)| chosen).collect()
    }
}

/// Whether a word tells a shopper something, if enough titles share it.
pub(super) fn is_fit(key: &str, letters_min: usize, lexicon: &Lexicon) -> bool {
    let letters = key.chars().count();
    (letters_min..=LETTERS_MAX).contains(&letters)
        && key.chars().all(|letter| letter.is_alphabetic() || matches!(letter, '-' | '\'' | '’'))
        && !lexicon.plain.contains(key)
        && !lexicon.breaks.contains(key)
        && !SAY_NOTHING.contains(&key)
}

/// The first words of a title.
pub(super) fn words_of(title: &str) -> impl Iterator<Item = TitleWord<'_>> {
    all_words_of(title).take(TITLE_WORDS_MAX)
}

/// The words of a text. Marks of trade, and full stops after short words, stand for nothing.
pub(super) fn all_words_of(title: &str) -> impl Iterator<Item = TitleWord<'_>> {
    let is_letter = |letter: char| letter.is_alphanumeric() || matches!(letter, '-' | '\'' | '’');
    let (mut from, mut broken, mut letters) = (0, true, 0);
    std::iter::from_fn(move || {
        loop {
            let start = from + title[from..].find(is_letter)?;
            let length = title[start..].find(|letter| !is_letter(letter));
            let end = length.map_or(title.len(), |length| start + length);
            let gap = &title[from..start];
            let is_nothing = |mark: char| {
                mark.is_whitespace()
                    || matches!(mark, '®' | '™')
                    || mark == '.' && letters <= SHORTENED_LETTERS_MAX
            };
            broken |= !gap.chars().all(is_nothing);
            from = end;
            let marks = |mark| matches!(mark, '-' | '\'' | '’');
            let word = title[start..end].trim_matches(marks);
            // A dash that stands alone ends a phrase.
            let joined = !std::mem::replace(&mut broken, word.is_empty());
            letters = word.chars().count();
            if !word.is_empty() {
                let start = end - title[start..end].trim_start_matches(marks).len();
                let key = singular(&word.to_lowercase());
                return Some(TitleWord { key, span: (start, start + word.len()), joined, title });
            }
        }
    })
}

/// The most frequent spelling of each word and phrase of several titles; equals by the alphabet.
fn spellings<'a>(chosen: &[Vec<Chosen<'a>>]) -> FxHashMap<(u32, Option<u32>), &'a str> {
    let mut uses: FxHashMap<(u32, Option<u32>), FxHashMap<&'a str, usize>> = FxHashMap::default();
    for chosen in chosen.iter().flatten() {
        *uses.entry(chosen.key).or_default().entry(chosen.spelling).or_default() += 1;
    }
    let best = |uses: FxHashMap<&'a str, usize>| {
        let most = uses.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0)));
        most.map_or("", |(spelling, _)| spelling)
    };
    let shared = uses.into_iter().filter(|(_, uses)| uses.values().sum::<usize>() > 1);
    shared.map(|(key, uses)| (key, best(uses))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(titles: &[&str]) -> Vec<String> {
        let shared = shared_words(titles, &TitleWordsConfig::default());
        shared.iter().map(|words| words.join("|")).collect()
    }

    /// A title among three others that share words with it, and many that share nothing.
    fn check(title: &str, others: [&str; 3], expected: &str) {
        let fillers: Vec<String> =
            (0..60).map(|n| format!("Filler{} Nothing{}", letters(n), letters(n))).collect();
        let titles = [title].into_iter().chain(others).chain(fillers.iter().map(String::as_str));
        assert_eq!(of(&titles.collect::<Vec<_>>())[0], expected, "{title}");
    }

    /// A number in letters.
    fn letters(number: u32) -> String {
        [number / 26, number % 26].map(|digit| (b'a' + digit as u8) as char).iter().collect()
    }

    #[test]
    fn words_and_phrases_that_titles_share_are_found() {
        for (title, others, expected) in [
            (
                "Dragon Age: Origins - PC",
                ["Dragon Age II", "Dragon Age: Inquisition", "Origins of Dragon Age"],
                "Dragon Age",
            ),
            (
                "OPI Nail Lacquer, Simmer",
                ["OPI Nail Lacquer, Red", "Nail Lacquer by OPI", "Lacquer Nail Nail Lacquer"],
                "Nail Lacquer",
            ),
            ("Ardell Lashes 120", ["ardell Trio", "Ardell Duo", "Ardell, Demi"], "Ardell"),
            ("Bobby Pin", ["Bobby Pins (50)", "bobby pins", "Bobby Pins"], "Bobby Pins"),
            (
                "Dr. Scholl's Bath",
                ["Dr Scholl's", "Dr. Scholl's Sole", "Dr. Scholl's"],
                "Dr. Scholl's",
            ),
            ("WEN® Almond Mint", ["WEN Almond Mint", "Almond Mint", "Almond Mint"], "Almond Mint"),
            ("Kürbiskernöl Graz", ["KÜRBISKERNÖL", "Kürbiskernöl", "Kürbiskernöl"], "Kürbiskernöl"),
        ] {
            check(title, others, expected);
        }
    }

    #[test]
    fn what_says_nothing_is_left_out() {
        for (title, others, why) in [
            ("Set of 3 with New", ["Set of 3 with New"; 3], "grammar and amounts"),
            ("Count 12 Ounce Pack", ["Count 12 Ounce Pack"; 3], "measures"),
            ("1999 B00XYZ1 50's", ["1999 B00XYZ1 50's"; 3], "numbers and codes"),
            ("Wibble", ["Wobble", "Wabble", "Webble"], "nobody shares it"),
            ("Wibble", ["Wibble", "Wabble", "Webble"], "two titles are too few"),
            ("", ["", "", ""], "no words"),
            (", - (", ["®", "’", "--"], "no letters"),
        ] {
            println!("{title}: {why}");
            check(title, others, "");
        }
        let titles: Vec<String> = (0..100).map(|n| format!("Common {}", letters(n))).collect();
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        assert!(of(&titles).iter().all(String::is_empty), "every title has the word");
    }

    #[test]
    fn each_word_and_phrase_is_of_several_titles() {
        check("Halo", ["Halo Wars", "Halo Wars", "Halo Wars"], "");
        check("Halo", ["Halo", "Halo Wars", "Halo Wars"], "Halo");
    }

    #[test]
    fn a_dash_or_a_comma_ends_a_phrase() {
        check("Women. Parfum", ["Women. Parfum", "Women, Parfum", "Women; Parfum"], "Women|Parfum");
        check("Halo - Reach", ["Halo - Reach", "Halo, Reach", "Halo/Reach"], "Halo|Reach");
    }

    #[test]
    fn the_order_of_a_catalogue_does_not_matter() {
        let parts = ["Dragon", "Age", "Mass", "Effect", "mass", "Origins", "Two", "dragons"];
        let title = |n: usize| {
            (0..4).map(|k| parts[(n * (k + 3) + k * k) % 8]).collect::<Vec<_>>().join(" ")
        };
        let titles: Vec<String> = (0..97).map(title).collect();
        let mut titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let config = TitleWordsConfig { titles_share_max: 0.9, ..TitleWordsConfig::default() };
        let found = shared_words(&titles, &config);
        assert!(found.iter().any(|words| !words.is_empty()));
        titles.reverse();
        let mut again = shared_words(&titles, &config);
        again.reverse();
        assert_eq!(found, again);
    }

    #[test]
    fn a_title_gives_few_words_however_long_it_is() {
        let long = vec!["Alpha Bravo, Charlie, Delta, Echoes, Foxtrot, Golf"; 4];
        let fillers: Vec<String> = (0..60).map(letters).collect();
        let titles: Vec<&str> =
            long.into_iter().chain(fillers.iter().map(String::as_str)).collect();
        assert_eq!(of(&titles)[0], "Alpha Bravo|Charlie|Delta|Echoes");
        let endless = "word ".repeat(100_000);
        assert_eq!(of(&[&endless, &endless, &endless])[0], "word");
    }
}
