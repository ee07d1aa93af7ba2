//! Attributes of products whose catalogue has only titles: colour, material, motif and type.
//!
//! A shopper reads what is found here ("another cake stand", "more with union jack"), so a wrong
//! attribute is worse than none: words come from a lexicon, or have to show by how the shop uses
//! them that they name a type (they end titles) or a motif (they recur across types).

use super::lexicon::{
    BREAKS, COLOURS, MATERIALS, MOTIF_PHRASES, MOTIFS, NEITHER, NO_MOTIF, PARTS, PLAIN, PRODUCTS,
};
use super::words::{singular, words};
use rustc_hash::{FxHashMap, FxHashSet};

/// How often a word has to be used in a way before it counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Mining {
    /// Titles in which a phrase of two words has to name the product to become a type.
    pub type_titles: usize,
    /// Titles in which a word or phrase has to occur to become a motif.
    pub motif_titles: usize,
    /// Different types that it has to occur with.
    pub motif_types: usize,
}

impl Default for Mining {
    fn default() -> Self {
        Self { type_titles: 5, motif_titles: 8, motif_types: 4 }
    }
}

/// The share of a word's uses that have to end a title for the word to be a type's.
const ENDING_SHARE: f64 = 0.6;
/// The share of a longer type's uses above which the shorter one is never said: "hot water bottle".
const WHOLE_SHARE: f64 = 0.9;
/// The share of the rarer word's uses above which two words are one phrase: "dolly girl".
const BOUND_SHARE: f64 = 0.7;
/// The share of a motif's uses that have to follow the product's name: "lunch bag spaceboy".
const FOLLOWING_SHARE: f64 = 0.3;
/// Letters that a mined noun or motif needs: shorter ones are abbreviations.
const LETTERS_MIN: usize = 4;
/// Letters that a word within a longer type needs: "tea towel", "key ring".
const MODIFIER_LETTERS_MIN: usize = 3;

/// For each title its attributes, as (name, value) pairs in the order colour, material, motif,
/// type; what a title doesn't say is left out.
pub fn mine(titles: &[&str], plan: &Mining) -> Vec<Vec<(String, String)>> {
    let titles: Vec<Title> = titles.iter().map(|title| Title::read(title)).collect();
    let heads = heads(&titles, plan);
    let named: Vec<Option<usize>> = titles.iter().map(|title| title.head(&heads)).collect();
    let motifs = motifs(&titles, &named, &heads, plan);
    let types = Types::learn(&titles, &named, &motifs, plan);
    let attributes = titles.iter().zip(&named).map(|(title, &head)| {
        let mut found = title.lexical("colour", COLOURS, NEITHER);
        found.extend(title.lexical("material", MATERIALS, NEITHER));
        found.extend(title.motifs(&motifs, head));
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

    /// The word at `place` and the one after it.
    fn pair(&self, place: usize) -> Option<(&str, &str)> {
        Some((self.words.get(place)?, self.words.get(place + 1)?))
    }

    /// Whether the word at `place` is part of one of these phrases.
    fn within(&self, place: usize, phrases: &[(&str, &str)]) -> bool {
        let begins = |place| self.pair(place).is_some_and(|pair| phrases.contains(&pair));
        begins(place) || place > 0 && begins(place - 1)
    }

    /// The values that a lexicon finds here, each once, except within `phrases`.
    fn lexical(
        &self,
        name: &str,
        lexicon: &[(&str, &str)],
        phrases: &[(&str, &str)],
    ) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = Vec::new();
        for (place, word) in self.words.iter().enumerate() {
            let value = lexicon.iter().find(|(known, _)| known == word).map(|&(_, value)| value);
            if let Some(value) = value.filter(|_| !self.within(place, phrases))
                && !found.iter().any(|(_, known)| known == value)
            {
                found.push((name.to_owned(), value.to_owned()));
            }
        }
        found
    }

    /// The motifs said anywhere but in the name of the product itself.
    fn motifs(&self, mined: &FxHashSet<String>, head: Option<usize>) -> Vec<(String, String)> {
        let mut values: Vec<String> = Vec::new();
        let mut place = 0;
        while place < self.words.len() {
            let (value, length) = self.motif_at(place, mined);
            if let Some(value) =
                value.filter(|value| head != Some(place) && !values.contains(value))
            {
                values.push(value);
            }
            place += length;
        }
        values.into_iter().map(|value| ("motif".to_owned(), value)).collect()
    }

    /// The motif that starts at `place`, and how many words are read with it.
    fn motif_at(&self, place: usize, mined: &FxHashSet<String>) -> (Option<String>, usize) {
        if let Some(pair) = self.pair(place) {
            if NO_MOTIF.contains(&pair) {
                return (None, 2);
            }
            if let Some((_, value)) = MOTIF_PHRASES.iter().find(|(phrase, _)| *phrase == pair) {
                return (Some((*value).to_owned()), 2);
            }
            let phrase = format!("{} {}", pair.0, pair.1);
            if mined.contains(&phrase) {
                return (Some(phrase), 2);
            }
        }
        let word = &self.words[place];
        let known = MOTIFS.iter().find(|(known, _)| known == word);
        let value = known.map(|&(_, value)| value.to_owned());
        (value.or_else(|| mined.get(word).cloned()), 1)
    }

    /// Where the noun stands that names the product: the last such noun of the first phrase.
    fn head(&self, heads: &FxHashSet<String>) -> Option<usize> {
        self.first_phrase().iter().rposition(|word| heads.contains(word))
    }

    /// Where the first phrase ends in a word that says more than colour, size or pattern.
    fn tail(&self) -> Option<usize> {
        self.first_phrase().iter().rposition(|word| says_more(word))
    }

    /// The words up to a break, of which one at least says more than colour, size or pattern:
    /// "white with black cats bowl" is one phrase, "jigsaw in tin" is two.
    fn first_phrase(&self) -> &[String] {
        let content = self.words.iter().position(|word| says_more(word)).unwrap_or(0);
        let length = self.words[content..].iter().position(|word| is_break(word));
        &self.words[..length.map_or(self.words.len(), |length| content + length)]
    }
}

/// Nouns that name products: those of the lexicon, and those that the shop ends its titles with.
fn heads(titles: &[Title], plan: &Mining) -> FxHashSet<String> {
    let mut uses: FxHashMap<&str, Ending<'_>> = FxHashMap::default();
    for title in titles {
        for word in &title.words {
            uses.entry(word).or_default().titles += 1;
        }
        let Some(tail) = title.tail() else { continue };
        let ending = uses.entry(&title.words[tail]).or_default();
        ending.endings += 1;
        ending.after_product +=
            usize::from(title.words[..tail].iter().any(|word| PRODUCTS.contains(&word.as_str())));
        ending.before.extend(tail.checked_sub(1).map(|before| title.words[before].as_str()));
    }
    let mined = uses
        .iter()
        .filter(|(word, ending)| is_word(word, LETTERS_MIN) && ending.names_a_type(plan));
    let mined = mined.map(|(word, _)| (*word).to_owned());
    PRODUCTS.iter().map(|&word| word.to_owned()).chain(mined).collect()
}

/// How a word is used.
#[derive(Default)]
struct Ending<'a> {
    titles: usize,
    /// Titles whose name it ends.
    endings: usize,
    /// … though a product was named before it: "cake tins sketchbook".
    after_product: usize,
    /// What stands before it there.
    before: FxHashSet<&'a str>,
}

impl Ending<'_> {
    /// A noun is told from a pattern by ending titles, after varied words, without another noun
    /// that already named the product.
    fn names_a_type(&self, plan: &Mining) -> bool {
        self.endings >= plan.type_titles
            && self.endings as f64 >= ENDING_SHARE * self.titles as f64
            && self.before.len() * 2 >= plan.type_titles
            && self.after_product * 4 <= self.endings
    }
}

/// Words and phrases that recur across types, before the product's name and after it.
///
/// That they may follow the name tells motifs ("spaceboy lunch box", "beaker spaceboy") from
/// parts of the name ("cake", "wall", "tea").
fn motifs(
    titles: &[Title],
    named: &[Option<usize>],
    heads: &FxHashSet<String>,
    plan: &Mining,
) -> FxHashSet<String> {
    let usable = |word: &str| {
        is_word(word, LETTERS_MIN) && !heads.contains(word) && !is_described(word) && !is_made(word)
    };
    let eligible = |word: &str| usable(word) && !PARTS.contains(&word);
    let mut words: FxHashMap<&str, usize> = FxHashMap::default();
    let mut pairs: FxHashMap<(&str, &str), usize> = FxHashMap::default();
    for title in titles {
        for (place, word) in title.words.iter().enumerate() {
            *words.entry(word).or_default() += 1;
            if let Some(pair) = title.pair(place) {
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
    let mut uses: FxHashMap<String, Company<'_>> = FxHashMap::default();
    for (title, head) in titles.iter().zip(named) {
        let Some(head) = *head else { continue };
        let mut place = 0;
        while place < title.words.len() {
            let pair = title.pair(place).filter(bound);
            let phrase =
                pair.map_or_else(|| title.words[place].clone(), |(a, b)| format!("{a} {b}"));
            if pair.is_some() || eligible(&phrase) {
                let company = uses.entry(phrase).or_default();
                company.titles += 1;
                company.following += usize::from(place > head);
                company.types.insert(&title.words[head]);
            }
            place += if pair.is_some() { 2 } else { 1 };
        }
    }
    let recurring = uses.into_iter().filter(|(_, company)| company.is_motif(plan));
    recurring.map(|(phrase, _)| phrase).collect()
}

/// What a word or phrase is used with.
#[derive(Default)]
struct Company<'a> {
    titles: usize,
    /// Titles in which it follows the product's name.
    following: usize,
    types: FxHashSet<&'a str>,
}

impl Company<'_> {
    fn is_motif(&self, plan: &Mining) -> bool {
        self.titles >= plan.motif_titles
            && self.types.len() >= plan.motif_types
            && self.following as f64 >= FOLLOWING_SHARE * self.titles as f64
    }
}

/// Which words before a product's noun belong to its name: "cake stand", "hot water bottle".
struct Types {
    /// Two words or three, joined by a space.
    names: FxHashSet<String>,
}

impl Types {
    fn learn(
        titles: &[Title],
        named: &[Option<usize>],
        motifs: &FxHashSet<String>,
        plan: &Mining,
    ) -> Self {
        let mut uses: FxHashMap<String, usize> = FxHashMap::default();
        for (title, head) in titles.iter().zip(named) {
            let Some(head) = *head else { continue };
            for length in 2..=3 {
                let Some(start) = (head + 1).checked_sub(length) else { break };
                let first = &title.words[start];
                if !is_word(first, MODIFIER_LETTERS_MIN)
                    || is_described(first)
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
            .filter(|&(name, &titles)| titles >= plan.type_titles && whole(name, titles));
        Self { names: frequent.map(|(name, _)| name.clone()).collect() }
    }

    /// The longest name known that ends at `head`.
    fn name(&self, title: &Title, head: usize) -> String {
        let longest_first = (2..=3).rev().filter_map(|length| (head + 1).checked_sub(length));
        let mut names = longest_first.map(|start| title.words[start..=head].join(" "));
        let known = names.find(|name| self.names.contains(name));
        known.unwrap_or_else(|| title.words[head].clone())
    }
}

/// Whether a word can stand in a mined attribute at all.
fn is_word(word: &str, letters_min: usize) -> bool {
    word.chars().count() >= letters_min
        && word.chars().all(|letter| letter.is_alphabetic() || letter == '-')
        && !is_plain(word)
        && !is_break(word)
}

fn is_break(word: &str) -> bool {
    BREAKS.contains(&word)
}

fn says_more(word: &str) -> bool {
    !is_plain(word) && !is_described(word) && !is_break(word)
}

/// Whether a word says how something is made rather than what is on it: "padded", "hanging".
fn is_made(word: &str) -> bool {
    word.ends_with("ed") || word.ends_with("ing")
}

fn is_plain(word: &str) -> bool {
    PLAIN.contains(&word) || word.chars().any(|letter| letter.is_ascii_digit())
}

/// Whether a lexicon says that a word describes a product and so does not name it.
fn is_described(word: &str) -> bool {
    [COLOURS, MATERIALS, MOTIFS]
        .iter()
        .any(|lexicon| lexicon.iter().any(|&(known, _)| known == word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mined(titles: &[&str]) -> Vec<String> {
        let said = |pairs: Vec<(String, String)>| {
            pairs
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        mine(titles, &Mining::default()).into_iter().map(said).collect()
    }

    #[track_caller]
    fn check(title: &str, expected: &str) {
        assert_eq!(mined(&[title]), [expected], "{title}");
    }

    #[test]
    fn a_title_alone_says_what_the_lexicon_knows() {
        check("Red Retrospot Mug", "colour=red motif=retrospot type=mug");
        check("Gingham Heart Doorstop Red", "colour=red motif=gingham motif=heart type=doorstop");
        check("WOODEN FRAME ANTIQUE WHITE", "colour=white material=wood type=frame");
        check("Blue/brown Dots Umbrella", "colour=blue colour=brown type=umbrella");
        check("Union Jack Bunnies Cushion", "motif=union jack motif=rabbit type=cushion");
        check("White With Black Cats Bowl", "colour=white colour=black motif=cat type=bowl");
        check("Jigsaw In Tin", "type=jigsaw");
    }

    #[test]
    fn a_word_in_another_sense_says_nothing() {
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
        assert_eq!(mined[10], "colour=red type=wibble", "a noun that no lexicon knows");
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

    /// The titles of a real shop, where the data lies beside the project.
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
        let found = mine(&titles, &Mining::default());
        let share = |name: &str| {
            let has = |pairs: &&Vec<(String, String)>| pairs.iter().any(|pair| pair.0 == name);
            found.iter().filter(has).count() as f64 / found.len() as f64
        };
        assert!(share("type") > 0.7, "{}", share("type"));
        assert!(share("motif") > 0.4, "{}", share("motif"));
        assert!(share("colour") > 0.3 && share("material") > 0.15);
        for (title, pairs) in titles.iter().zip(&found) {
            for (name, value) in pairs {
                let sayable = value.split(' ').all(|word| word.len() > 2 && !is_plain(word));
                assert!(sayable, "{title}: {name} {value}");
            }
        }
        let mut reversed: Vec<&str> = titles.clone();
        reversed.reverse();
        let mut again = mine(&reversed, &Mining::default());
        again.reverse();
        assert_eq!(found, again, "the order of a catalogue does not matter");
    }
}
