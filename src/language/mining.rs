//! Attributes of products whose catalogue has only titles: colour, material, motif and type.
//!
//! Shoppers read these attributes ("another cake stand", "more with union jack"), so a wrong one is
//! worse than none. So a word has to be in the lexicon, or the shop's titles have to show what it is: a
//! type ends titles, and a motif recurs across types.

use super::lexicon::{Lexicon, Phrases, Values};
use super::words::{singular, words};
use rustc_hash::{FxHashMap, FxHashSet};

/// The counts above which a word's use makes it a type or a motif.
#[derive(Clone, Debug, PartialEq)]
pub struct MiningConfig {
    /// Titles whose product a noun or phrase has to name to become a type.
    pub type_titles: usize,
    /// Titles in which a word or phrase has to occur to become a motif.
    pub motif_titles: usize,
    /// Different types that a motif has to occur with.
    pub motif_types: usize,
}

impl Default for MiningConfig {
    fn default() -> Self {
        Self { type_titles: 5, motif_titles: 8, motif_types: 4 }
    }
}

/// The share of a noun's uses that have to end a title, for it to name a type.
const ENDING_SHARE: f64 = 0.6;
/// The share of the shorter type's uses that a longer type needs to replace it: "hot water bottle".
const WHOLE_SHARE: f64 = 0.9;
/// The share of the rarer word's uses above which two words are one phrase: "dolly girl".
const BOUND_SHARE: f64 = 0.7;
/// The share of a motif's uses that have to follow the product's name: "lunch bag spaceboy".
const FOLLOWING_SHARE: f64 = 0.3;
/// Letters that a mined noun or motif needs: shorter ones are abbreviations.
const LETTERS_MIN: usize = 4;
/// Letters that a word within a longer type needs: "tea towel", "key ring".
const MODIFIER_LETTERS_MIN: usize = 3;

/// The attributes of each title: (name, value) pairs in the order colour, material, motif, type. A
/// title may lack any of them.
pub fn mine(titles: &[&str], config: &MiningConfig) -> Vec<Vec<(String, String)>> {
    let titles: Vec<Title> = titles.iter().map(|title| Title::read(title)).collect();
    let lexicon = &Lexicon::english();
    let heads = heads(&titles, lexicon, config);
    let named: Vec<Option<usize>> =
        titles.iter().map(|title| title.head(&heads, lexicon)).collect();
    let motifs = motifs(&titles, &named, &heads, lexicon, config);
    let types = TypeNames::learn(&titles, &named, &motifs, lexicon, config);
    let attributes = titles.iter().zip(&named).map(|(title, &head)| {
        let except = &lexicon.not_colours_or_materials;
        let mut found = title.lexical("colour", &lexicon.colours, except);
        found.extend(title.lexical("material", &lexicon.materials, except));
        found.extend(title.motifs(&motifs, head, lexicon));
        found.extend(head.map(|head| ("type".to_owned(), types.name(title, head))));
        found
    });
    attributes.collect()
}

/// A title as words, each in the singular.
struct Title {
    words: Vec<String>,
}

impl Title {
    fn read(title: &str) -> Self {
        Self { words: words(title).iter().map(|word| singular(word)).collect() }
    }

    /// The word at `index` and the one after it.
    fn pair(&self, index: usize) -> Option<(&str, &str)> {
        Some((self.words.get(index)?, self.words.get(index + 1)?))
    }

    /// Whether the word at `index` is part of one of these phrases.
    fn within(&self, index: usize, phrases: &Phrases) -> bool {
        let begins = |index| self.pair(index).is_some_and(|pair| phrases.contains(&pair));
        begins(index) || index > 0 && begins(index - 1)
    }

    /// The `values` of its words, each once, except for words within the phrases `except`.
    fn lexical(&self, name: &str, values: &Values, except: &Phrases) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (index, word) in self.words.iter().enumerate() {
            let value = values.get(word.as_str()).filter(|_| !self.within(index, except));
            if let Some(&value) = value
                && !found.iter().any(|(_, known)| known == value)
            {
                found.push((name.to_owned(), value.to_owned()));
            }
        }
        found
    }

    /// Its motifs, outside of the noun that names the product.
    fn motifs(
        &self,
        mined: &FxHashSet<String>,
        head: Option<usize>,
        lexicon: &Lexicon,
    ) -> Vec<(String, String)> {
        let mut values: Vec<String> = Vec::new();
        let mut index = 0;
        while index < self.words.len() {
            let (value, length) = self.motif_at(index, mined, lexicon);
            if let Some(value) =
                value.filter(|value| head != Some(index) && !values.contains(value))
            {
                values.push(value);
            }
            index += length;
        }
        values.into_iter().map(|value| ("motif".to_owned(), value)).collect()
    }

    /// The motif that starts at `index`, and the number of words that it takes.
    fn motif_at(
        &self,
        index: usize,
        mined: &FxHashSet<String>,
        lexicon: &Lexicon,
    ) -> (Option<String>, usize) {
        if let Some(pair) = self.pair(index) {
            if lexicon.not_motifs.contains(&pair) {
                return (None, 2);
            }
            if let Some(value) = lexicon.motif_phrases.get(&pair) {
                return (Some((*value).to_owned()), 2);
            }
            let phrase = format!("{} {}", pair.0, pair.1);
            if mined.contains(&phrase) {
                return (Some(phrase), 2);
            }
        }
        let word = &self.words[index];
        let value = lexicon.motifs.get(word.as_str()).map(|&value| value.to_owned());
        (value.or_else(|| mined.get(word).cloned()), 1)
    }

    /// The index of the noun that names the product: the last such noun of the first phrase.
    fn head(&self, heads: &FxHashSet<String>, lexicon: &Lexicon) -> Option<usize> {
        self.first_phrase(lexicon).iter().rposition(|word| heads.contains(word))
    }

    /// The index of the last word of the first phrase that is more than a colour, size or pattern.
    fn tail(&self, lexicon: &Lexicon) -> Option<usize> {
        self.first_phrase(lexicon).iter().rposition(|word| lexicon.is_content(word))
    }

    /// The words up to the first break after a content word: "white with black cats bowl" is one
    /// phrase, "jigsaw in tin" is two.
    fn first_phrase(&self, lexicon: &Lexicon) -> &[String] {
        let content = self.words.iter().position(|word| lexicon.is_content(word)).unwrap_or(0);
        let length =
            self.words[content..].iter().position(|word| lexicon.breaks.contains(word.as_str()));
        &self.words[..length.map_or(self.words.len(), |length| content + length)]
    }
}

/// Nouns that name products: those of the lexicon, and those that the shop ends its titles with.
fn heads(titles: &[Title], lexicon: &Lexicon, config: &MiningConfig) -> FxHashSet<String> {
    let mut uses: FxHashMap<&str, NounUse<'_>> = FxHashMap::default();
    for title in titles {
        for word in &title.words {
            uses.entry(word).or_default().titles += 1;
        }
        let Some(tail) = title.tail(lexicon) else { continue };
        let ending = uses.entry(&title.words[tail]).or_default();
        ending.endings += 1;
        let names_product = |word: &String| lexicon.products.contains(word.as_str());
        ending.after_product += usize::from(title.words[..tail].iter().any(names_product));
        ending.before.extend(tail.checked_sub(1).map(|before| title.words[before].as_str()));
    }
    let mined = uses.iter().filter(|(word, ending)| {
        lexicon.can_name(word, LETTERS_MIN) && ending.names_a_type(config)
    });
    let mined = mined.map(|(word, _)| (*word).to_owned());
    lexicon.products.iter().map(|&word| word.to_owned()).chain(mined).collect()
}

/// The uses of a word that may be a noun.
#[derive(Default)]
struct NounUse<'a> {
    titles: usize,
    /// Titles whose first phrase it ends.
    endings: usize,
    /// Of those, titles that name a product before it: "cake tins sketchbook".
    after_product: usize,
    /// The words before it there.
    before: FxHashSet<&'a str>,
}

impl NounUse<'_> {
    /// Whether it is a noun and no pattern: it ends titles, after varied words, where no earlier noun
    /// names the product.
    fn names_a_type(&self, config: &MiningConfig) -> bool {
        self.endings >= config.type_titles
            && self.endings as f64 >= ENDING_SHARE * self.titles as f64
            && self.before.len() * 2 >= config.type_titles
            && self.after_product * 4 <= self.endings
    }
}

/// Words and phrases that recur across types, before the product's name and after it.
///
/// A motif may follow the name ("spaceboy lunch box", "beaker spaceboy"); a part of the name
/// ("cake", "wall", "tea") does not.
fn motifs(
    titles: &[Title],
    named: &[Option<usize>],
    heads: &FxHashSet<String>,
    lexicon: &Lexicon,
    config: &MiningConfig,
) -> FxHashSet<String> {
    let usable = |word: &str| {
        lexicon.can_name(word, LETTERS_MIN)
            && !heads.contains(word)
            && !lexicon.describes(word)
            && !is_participle(word)
    };
    let eligible = |word: &str| usable(word) && !lexicon.parts.contains(word);
    let mut words: FxHashMap<&str, usize> = FxHashMap::default();
    let mut pairs: FxHashMap<(&str, &str), usize> = FxHashMap::default();
    for title in titles {
        for (index, word) in title.words.iter().enumerate() {
            *words.entry(word).or_default() += 1;
            if let Some(pair) = title.pair(index) {
                *pairs.entry(pair).or_default() += 1;
            }
        }
    }
    let bound = |pair: &(&str, &str)| {
        let rarer = words[pair.0].min(words[pair.1]) as f64;
        pairs[pair] as f64 >= BOUND_SHARE * rarer
            && usable(pair.0)
            && usable(pair.1)
            && (eligible(pair.0) || eligible(pair.1))
    };
    let mut uses: FxHashMap<String, WordUse<'_>> = FxHashMap::default();
    for (title, head) in titles.iter().zip(named) {
        let Some(head) = *head else { continue };
        let mut index = 0;
        while index < title.words.len() {
            let pair = title.pair(index).filter(bound);
            let phrase =
                pair.map_or_else(|| title.words[index].clone(), |(a, b)| format!("{a} {b}"));
            if pair.is_some() || eligible(&phrase) {
                let used = uses.entry(phrase).or_default();
                used.titles += 1;
                used.following += usize::from(index > head);
                used.types.insert(&title.words[head]);
            }
            index += if pair.is_some() { 2 } else { 1 };
        }
    }
    let recurring = uses.into_iter().filter(|(_, used)| used.is_motif(config));
    recurring.map(|(phrase, _)| phrase).collect()
}

/// The uses of a word or phrase that may be a motif.
#[derive(Default)]
struct WordUse<'a> {
    titles: usize,
    /// Titles in which it follows the product's name.
    following: usize,
    types: FxHashSet<&'a str>,
}

impl WordUse<'_> {
    fn is_motif(&self, config: &MiningConfig) -> bool {
        self.titles >= config.motif_titles
            && self.types.len() >= config.motif_types
            && self.following as f64 >= FOLLOWING_SHARE * self.titles as f64
    }
}

/// The names of product types: the noun and words before it, "cake stand", "hot water bottle".
struct TypeNames {
    /// Names of two or three words, joined by a space.
    names: FxHashSet<String>,
}

impl TypeNames {
    fn learn(
        titles: &[Title],
        named: &[Option<usize>],
        motifs: &FxHashSet<String>,
        lexicon: &Lexicon,
        config: &MiningConfig,
    ) -> Self {
        let mut uses: FxHashMap<String, usize> = FxHashMap::default();
        for (title, head) in titles.iter().zip(named) {
            let Some(head) = *head else { continue };
            for length in 2..=3 {
                let Some(start) = (head + 1).checked_sub(length) else { break };
                let first = &title.words[start];
                if !lexicon.can_name(first, MODIFIER_LETTERS_MIN)
                    || lexicon.describes(first)
                    || motifs.contains(first)
                {
                    break;
                }
                *uses.entry(title.words[start..=head].join(" ")).or_default() += 1;
            }
        }
        let whole = |name: &str, titles: usize| match name.split_once(' ') {
            Some((_, shorter)) if shorter.contains(' ') => {
                titles as f64 >= WHOLE_SHARE * uses[shorter] as f64
            }
            _ => true,
        };
        let frequent = uses
            .iter()
            .filter(|&(name, &titles)| titles >= config.type_titles && whole(name, titles));
        Self { names: frequent.map(|(name, _)| name.clone()).collect() }
    }

    /// The longest known name that ends at `head`.
    fn name(&self, title: &Title, head: usize) -> String {
        let longest_first = (2..=3).rev().filter_map(|length| (head + 1).checked_sub(length));
        let mut names = longest_first.map(|start| title.words[start..=head].join(" "));
        let known = names.find(|name| self.names.contains(name));
        known.unwrap_or_else(|| title.words[head].clone())
    }
}

impl Lexicon {
    /// Whether a word can be in a mined attribute at all.
    fn can_name(&self, word: &str, letters_min: usize) -> bool {
        word.chars().count() >= letters_min
            && word.chars().all(|letter| letter.is_alphabetic() || letter == '-')
            && !self.is_plain(word)
            && !self.breaks.contains(word)
    }

    /// Whether a word is more than a colour, a size or a pattern.
    fn is_content(&self, word: &str) -> bool {
        !self.is_plain(word) && !self.describes(word) && !self.breaks.contains(word)
    }

    fn is_plain(&self, word: &str) -> bool {
        self.plain.contains(word) || word.chars().any(|letter| letter.is_ascii_digit())
    }

    /// Whether a word describes a product, and so does not name it.
    fn describes(&self, word: &str) -> bool {
        [&self.colours, &self.materials, &self.motifs]
            .iter()
            .any(|values| values.contains_key(word))
    }
}

/// Whether a word says how a product is made ("padded", "hanging"), and is no motif.
fn is_participle(word: &str) -> bool {
    word.ends_with("ed") || word.ends_with("ing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mined(titles: &[&str]) -> Vec<String> {
        let joined = |pairs: Vec<(String, String)>| {
            pairs
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        mine(titles, &MiningConfig::default()).into_iter().map(joined).collect()
    }

    #[track_caller]
    fn check(title: &str, expected: &str) {
        assert_eq!(mined(&[title]), [expected], "{title}");
    }

    #[test]
    fn the_lexicon_alone_finds_attributes_of_a_title() {
        check("Red Retrospot Mug", "colour=red motif=retrospot type=mug");
        check("Gingham Heart Doorstop Red", "colour=red motif=gingham motif=heart type=doorstop");
        check("WOODEN FRAME ANTIQUE WHITE", "colour=white material=wood type=frame");
        check("Blue/brown Dots Umbrella", "colour=blue colour=brown type=umbrella");
        check("Union Jack Bunnies Cushion", "motif=union jack motif=rabbit type=cushion");
        check("White With Black Cats Bowl", "colour=white colour=black motif=cat type=bowl");
        check("Jigsaw In Tin", "type=jigsaw");
    }

    #[test]
    fn a_word_in_another_sense_is_no_attribute() {
        check("Ice Cream Bowl", "type=bowl");
        check("Fairy Cake Candles", "type=candle");
        check("Magic Drawing Slate", "");
        check("Heart", "motif=heart");
        check("", "");
        check("Set Of 3 / 4 With", "");
    }

    /// A catalogue of five colours of each of some products.
    fn catalogue(products: &[&str]) -> Vec<String> {
        let colours = ["Red", "Blue", "Pink", "Green", "White"];
        let titles = products.iter().flat_map(|name| colours.map(|it| name.replace("{}", it)));
        titles.collect()
    }

    #[test]
    fn types_are_learned_from_how_titles_end() {
        let titles = catalogue(&[
            "{} Cake Stand",
            "{} Hot Water Bottle",
            "{} Tall Wibble",
            "Painted {} Wibble",
            "Garden {} Wibble",
        ]);
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let mined = mined(&titles);
        assert_eq!(mined[0], "colour=red type=cake stand");
        assert_eq!(mined[5], "colour=red type=hot water bottle");
        assert_eq!(mined[10], "colour=red type=wibble", "a noun that is not in the lexicon");
    }

    #[test]
    fn motifs_are_learned_from_recurring_across_types() {
        let titles = catalogue(&[
            "Spaceboy {} Mug",
            "Bowl {} Spaceboy",
            "Lunch Bag {} Spaceboy",
            "{} Clock Spaceboy",
            "Dolly Girl {} Mug",
            "Bowl {} Dolly Girl",
            "Bag {} Dolly Girl",
            "Clock Dolly Girl {}",
        ]);
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let mined = mined(&titles);
        assert_eq!(mined[0], "colour=red motif=spaceboy type=mug");
        assert_eq!(mined[10], "colour=red motif=spaceboy type=lunch bag");
        assert_eq!(mined[20], "colour=red motif=dolly girl type=mug");
    }

    /// The titles of a real shop, if its data is beside the project.
    fn real_titles() -> Option<Vec<String>> {
        let root = env!("CARGO_MANIFEST_DIR");
        let path = format!("{root}/../shared/data/online-retail-ii/items.csv.zst");
        let file = std::fs::File::open(path).ok()?;
        let mut rows = csv::Reader::from_reader(zstd::Decoder::new(file).unwrap());
        Some(rows.records().map(|row| row.unwrap()[2].to_owned()).collect())
    }

    #[test]
    fn a_real_shop_is_covered_without_nonsense() {
        let Some(titles) = real_titles() else {
            println!("skipped: the real shop's data is not here");
            return;
        };
        let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
        let found = mine(&titles, &MiningConfig::default());
        let share = |name: &str| {
            let has = |pairs: &&Vec<(String, String)>| pairs.iter().any(|pair| pair.0 == name);
            found.iter().filter(has).count() as f64 / found.len() as f64
        };
        assert!(share("type") > 0.7, "{}", share("type"));
        assert!(share("motif") > 0.4, "{}", share("motif"));
        assert!(share("colour") > 0.3 && share("material") > 0.15);
        let lexicon = Lexicon::english();
        for (title, pairs) in titles.iter().zip(&found) {
            for (name, value) in pairs {
                let sayable =
                    value.split(' ').all(|word| word.len() > 2 && !lexicon.is_plain(word));
                assert!(sayable, "{title}: {name} {value}");
            }
        }
        let mut reversed: Vec<&str> = titles.clone();
        reversed.reverse();
        let mut again = mine(&reversed, &MiningConfig::default());
        again.reverse();
        assert_eq!(found, again, "the order of a catalogue does not matter");
    }
}
