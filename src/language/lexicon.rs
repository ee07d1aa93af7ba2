//! Words that shops use in one sense, by what they say about a product: the entries of `lexicon.tsv`.

use rustc_hash::{FxHashMap, FxHashSet};

/// The English lexicon.
const ENGLISH: &str = include_str!("lexicon.tsv");

/// Words to attribute values.
pub(super) type Values = FxHashMap<&'static str, &'static str>;
/// Phrases of two words.
pub(super) type Phrases = FxHashSet<(&'static str, &'static str)>;

/// The words of product titles. They are singular and in lower case, as [`super::words`] gives them.
#[derive(Debug, Default)]
pub(super) struct Lexicon {
    /// Colours.
    pub colours: Values,
    /// Materials.
    pub materials: Values,
    /// Phrases in which a colour or a material is none: "ice cream" is not cream.
    pub not_colours_or_materials: Phrases,
    /// Motifs, patterns and occasions.
    pub motifs: Values,
    /// Motifs of two words.
    pub motif_phrases: FxHashMap<(&'static str, &'static str), &'static str>,
    /// Phrases in which a motif's word is none: "fairy cake", "rose gold".
    pub not_motifs: Phrases,
    /// Nouns that name a kind of product by themselves.
    pub products: FxHashSet<&'static str>,
    /// Words that end the phrase which names the product: "lantern **with** star".
    pub breaks: FxHashSet<&'static str>,
    /// Words for parts, places, states and people, which are no motif by themselves.
    pub parts: FxHashSet<&'static str>,
    /// Words of amount, size, condition and grammar, which are neither type nor motif.
    pub plain: FxHashSet<&'static str>,
}

/// An entry of a lexicon that can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the lexicon, {text:?}: {why}")]
pub(super) struct LexiconError {
    line: usize,
    text: &'static str,
    why: &'static str,
}

// === impl Lexicon ===

impl Lexicon {
    /// The English lexicon.
    pub(super) fn english() -> Self {
        Self::parse(ENGLISH).expect("a test parses every line of lexicon.tsv")
    }

    /// Reads lines of `table<TAB>word or phrase[<TAB>value]`. Blank lines and those that begin with
    /// `#` are skipped.
    fn parse(text: &'static str) -> Result<Self, LexiconError> {
        let mut lexicon = Self::default();
        for (text, line) in text.lines().zip(1..) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            lexicon.add(text).map_err(|why| LexiconError { line, text, why })?;
        }
        Ok(lexicon)
    }

    fn add(&mut self, line: &'static str) -> Result<(), &'static str> {
        let mut cells = line.split('\t');
        let (table, entry) = (cells.next().unwrap_or_default(), cells.next());
        let (entry, value) = (entry.ok_or("it names no word")?, cells.next());
        if cells.next().is_some() || entry.is_empty() || value == Some("") {
            return Err("it is not a table, a word or phrase, and perhaps a value");
        }
        let is_new = match (table, entry.split_once(' '), value) {
            ("colour", None, Some(value)) => self.colours.insert(entry, value).is_none(),
            ("material", None, Some(value)) => self.materials.insert(entry, value).is_none(),
            ("motif", None, Some(value)) => self.motifs.insert(entry, value).is_none(),
            ("motif_phrase", Some(phrase), Some(value)) => {
                self.motif_phrases.insert(phrase, value).is_none()
            }
            ("not_a_colour_or_material", Some(phrase), None) => {
                self.not_colours_or_materials.insert(phrase)
            }
            ("not_a_motif", Some(phrase), None) => self.not_motifs.insert(phrase),
            ("product", None, None) => self.products.insert(entry),
            ("break", None, None) => self.breaks.insert(entry),
            ("part", None, None) => self.parts.insert(entry),
            ("plain", None, None) => self.plain.insert(entry),
            _ => return Err("no table holds such an entry"),
        };
        if is_new { Ok(()) } else { Err("its table holds the entry already") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::words::singular;

    #[test]
    fn every_line_parses_and_nothing_is_listed_twice() {
        let entries = ENGLISH.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        assert_eq!(entries.count(), 418);
        let lexicon = Lexicon::parse(ENGLISH).unwrap();
        let values = [&lexicon.colours, &lexicon.materials, &lexicon.motifs].map(Values::len);
        assert_eq!(values, [24, 34, 55]);
        assert_eq!(lexicon.motif_phrases.len(), 8);
        let phrases = [&lexicon.not_colours_or_materials, &lexicon.not_motifs].map(Phrases::len);
        assert_eq!(phrases, [11, 7]);
        let words = [&lexicon.products, &lexicon.breaks, &lexicon.parts, &lexicon.plain];
        assert_eq!(words.map(FxHashSet::len), [146, 12, 38, 83]);
    }

    #[test]
    fn words_are_singular() {
        let Lexicon { colours, materials, motifs, products, parts, .. } = Lexicon::english();
        let described = [&colours, &materials, &motifs].map(Values::keys).into_iter().flatten();
        for word in described.chain(&products).chain(&parts) {
            assert_eq!(singular(word), *word);
        }
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named() {
        for (text, line, why) in [
            (
                "# all\n\ncolour\tred\tred\ncolour\tred\tpink",
                4,
                "its table holds the entry already",
            ),
            ("colour\tred", 1, "no table holds such an entry"),
            ("product\tmug\tmug", 1, "no table holds such an entry"),
            ("part\tice cream", 1, "no table holds such an entry"),
            ("not_a_motif\trose", 1, "no table holds such an entry"),
            ("smell\trose\trose", 1, "no table holds such an entry"),
            ("product", 1, "it names no word"),
            ("colour\tred\t", 1, "it is not a table, a word or phrase, and perhaps a value"),
            (
                "colour\tred\tred\tred",
                1,
                "it is not a table, a word or phrase, and perhaps a value",
            ),
        ] {
            let error = Lexicon::parse(text).unwrap_err();
            assert_eq!((error.line, error.why), (line, why), "{text:?}");
            assert_eq!(error.text, text.lines().nth(line - 1).unwrap());
        }
    }
}
