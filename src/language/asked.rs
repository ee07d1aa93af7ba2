//! What a query asks for, in words: does it name a value of the catalogue?
//!
//! Only what is surely asked for is found, since a shopper who asked for the contrary would be told "as you asked".

use super::lexicon::Lexicon;
use super::title_words::{LETTERS_MIN, TitleWord, all_words_of, is_fit, words_of};

/// Words of a query that are read: later ones are left out.
pub const ASKED_WORDS_MAX: usize = 64;
/// Words after which a query says what is not wanted, until the sentence ends or a word of [`TURNS`]: a comma may go on
/// with the list. In the singular, as words are read.
const REFUSALS: &[&str] = &[
    "against",
    "ain't",
    "aren't",
    "avoid",
    "can't",
    "cannot",
    "dislike",
    "doesn't",
    "don't",
    "dont",
    "except",
    "excluding",
    "hate",
    "instead",
    "isn't",
    "isnt",
    "lacking",
    "less",
    "minus",
    "neither",
    "never",
    "no",
    "non",
    "none",
    "nor",
    "not",
    "nothing",
    "skip",
    "than",
    "unlike",
    "without",
    "won't",
    "wouldn't",
];
/// Words after which a query says again what is wanted.
const TURNS: &[&str] = &["but", "just", "only", "rather"];
/// Words that take back the word before: "sugar free".
const TAKE_BACK: &[&str] = &["free", "excluded", "allergy"];

/// The words of a query that say what is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AskedWords {
    words: Vec<AskedWord>,
}

/// One word of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AskedWord {
    /// In the singular and lower case.
    key: String,
    /// Whether it stands beside the word before.
    joined: bool,
    /// Whether the next word takes it back, unless that one is named as well.
    taken_back: bool,
}

// === impl AskedWords ===

impl AskedWords {
    /// Reads a query: its first [`ASKED_WORDS_MAX`] words.
    pub fn of(query: &str) -> Self {
        let (mut words, mut refuses): (Vec<AskedWord>, bool) = (Vec::new(), false);
        let query = query.replace('’', "'");
        let (mut broken, mut end) = (true, 0);
        for word in all_words_of(&query).take(ASKED_WORDS_MAX) {
            let TitleWord { key, joined, span, .. } = word;
            let ends = |mark| matches!(mark, ';' | '!' | '?' | '\n') || mark == '.' && !joined;
            refuses &= !query[end..span.0].contains(ends) && !TURNS.contains(&&*key);
            end = span.1;
            if TAKE_BACK.contains(&&*key)
                && joined
                && let Some(last) = words.last_mut().filter(|_| !broken)
            {
                last.taken_back = true;
            } else {
                refuses |= REFUSALS.contains(&&*key);
            }
            if refuses {
                broken = true;
                continue;
            }
            words.push(AskedWord { key, joined: joined && !broken, taken_back: false });
            broken = false;
        }
        Self { words }
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many words of this value stand side by side in the query: all of them, or none.
    pub fn named(&self, value: &str) -> Option<usize> {
        let keys: Vec<String> = words_of(value).map(|word| word.key).collect();
        let tells = keys.iter().any(|key| key.chars().count() > 1 && !is_grammar(key));
        (tells && self.holds(&keys)).then_some(keys.len())
    }

    /// The longest run of a title's words that stands in the query as well, as the title spells it, and its number of
    /// words. One of the words tells something by itself.
    pub fn longest_in<'t>(&self, title: &'t str) -> Option<(&'t str, usize)> {
        let words: Vec<TitleWord<'t>> = words_of(title).collect();
        let keys: Vec<&str> = words.iter().map(|word| &*word.key).collect();
        let mut best: Option<(&str, usize)> = None;
        let lexicon = &Lexicon::english();
        for from in 0..words.len() {
            let joined = words[from + 1..].iter().take_while(|word| word.joined).count();
            let longest =
                (1..=joined + 1).rev().find(|&length| self.holds(&keys[from..from + length]));
            let Some(length) = longest.filter(|&length| best.is_none_or(|best| length > best.1))
            else {
                continue;
            };
            // Words of grammar at an end are no part of what is named.
            let run = &words[from..from + length];
            let first = run.iter().position(|word| !is_grammar(&word.key));
            let last = run.iter().rposition(|word| !is_grammar(&word.key));
            let Some((first, last)) = first.zip(last) else { continue };
            let run = &run[first..=last];
            let tells = run.iter().any(|word| is_fit(&word.key, LETTERS_MIN, lexicon));
            if tells && best.is_none_or(|best| run.len() > best.1) {
                best = Some((&title[run[0].span.0..run[run.len() - 1].span.1], run.len()));
            }
        }
        best
    }

    /// Whether these words stand side by side in the query.
    fn holds(&self, keys: &[impl AsRef<str>]) -> bool {
        let is_it = |words: &[AskedWord]| {
            let same = words.iter().zip(keys).all(|(word, key)| word.key == key.as_ref());
            let joined = words[1..].iter().all(|word| word.joined);
            same && joined && words.last().is_some_and(|last| !last.taken_back)
        };
        !keys.is_empty() && self.words.windows(keys.len()).any(is_it)
    }
}

/// Whether a word only joins others.
fn is_grammar(key: &str) -> bool {
    const GRAMMAR: &[&str] = &[
        "a", "an", "and", "as", "at", "be", "by", "for", "from", "i", "in", "is", "it", "me", "my",
        "of", "on", "or", "please", "some", "that", "the", "this", "to", "want", "with", "you",
        "your",
    ];
    GRAMMAR.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_names_the_values_that_it_asks_for() {
        let named = |query: &str, value: &str| AskedWords::of(query).named(value);
        for (query, value, expected) in [
            ("walnut", "walnut", Some(1)),
            ("A Walnut coffee table", "walnut", Some(1)),
            ("walnut coffee tables", "Coffee Table", Some(2)),
            ("walnut coffee, table", "coffee table", None),
            ("coffee or side table", "coffee table", None),
            ("something blue", "dark blue", None),
            ("dark blue please", "blue", Some(1)),
            // What is refused is not asked for.
            ("not walnut", "walnut", None),
            ("no walnut or oak", "oak", None),
            ("no walnut, oak", "oak", None),
            ("no walnut. oak", "oak", Some(1)),
            ("oak, no walnut", "oak", Some(1)),
            ("I don't like red, blue or green", "green", None),
            ("not walnut but oak", "oak", Some(1)),
            ("a table without drawers", "drawer", None),
            ("anything other than plastic", "plastic", None),
            ("I don't like red", "red", None),
            ("I don’t like red", "red", None),
            ("it isn't red", "red", None),
            ("sugar free sweets", "sugar", None),
            ("sugar free sweets", "sugar free", Some(2)),
            ("sugar-free sweets", "sugar", None),
            ("non toxic paint", "toxic", None),
            ("less salt", "salt", None),
            // No words, and words that say nothing.
            ("", "walnut", None),
            ("walnut", "", None),
            ("🎁🎁🎁", "🎁", None),
            ("\u{1}\u{2}\u{7f}", "red", None),
            ("a", "a", None),
            ("in the", "in", None),
            ("x", "x", None),
            ("xl", "XL", Some(1)),
            ("โต๊ะไม้", "walnut", None),
            ("Kürbiskernöl bitte", "kürbiskernöl", Some(1)),
            ("redder", "red", None),
        ] {
            assert_eq!(named(query, value), expected, "{query:?} {value:?}");
        }
    }

    #[test]
    fn the_longest_run_of_a_title_is_named_as_the_title_spells_it() {
        let longest = |query: &str, title: &'static str| {
            AskedWords::of(query).longest_in(title).map(|(run, _)| run)
        };
        for (query, title, expected) in [
            ("nail lacquer", "OPI Nail Lacquers, Red", Some("Nail Lacquers")),
            ("red nail lacquer", "OPI Nail Lacquer, Red", Some("Nail Lacquer")),
            ("the board game", "Quelf Jr Board Game", Some("Board Game")),
            ("a set of bowls for tea", "Set of Paper Bowls", Some("Bowls")),
            ("a gift for my wife", "Gift for Wives", None),
            ("something with a box", "Box With a Lid", None),
            ("no lacquer", "OPI Nail Lacquer", None),
            ("", "OPI Nail Lacquer", None),
            ("lamp", "", None),
        ] {
            assert_eq!(longest(query, title), expected, "{query:?} {title:?}");
        }
    }

    #[test]
    fn a_long_query_is_read_to_its_bound() {
        let long = "lamp ".repeat(ASKED_WORDS_MAX) + "walnut";
        assert_eq!(AskedWords::of(&long).named("walnut"), None);
        assert_eq!(AskedWords::of(&long).words.len(), ASKED_WORDS_MAX);
    }

    #[test]
    fn a_refusal_is_found_in_the_form_in_which_words_are_read() {
        use super::super::words::singular;
        for word in REFUSALS.iter().chain(TURNS).chain(TAKE_BACK) {
            assert_eq!(*word, singular(word));
        }
    }
}
