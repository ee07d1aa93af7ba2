//! Texts as counted words, for BM25: how much of a query's words a text holds, by how rare they are.

use rustc_hash::FxHashMap;

/// The fewest characters of a word that counts.
const WORD_CHARS_MIN: usize = 2;
/// Words of one text that are counted, at most: the first ones.
pub const INDEXED_WORDS_MAX: usize = 512;
/// How soon a repeated word stops to count more (BM25's k₁).
const SATURATION: f32 = 1.2;
/// How much a long text is marked down (BM25's b).
const LENGTH_WEIGHT: f32 = 0.75;
/// A plural of fewer letters is left as it is: "bus", "gas".
const PLURAL_CHARS_MIN: usize = 4;

/// The words of some texts, with their counts and how rare each is.
#[derive(Clone, Debug, Default)]
pub struct TextIndex {
    numbers: FxHashMap<Box<str>, u32>,
    /// BM25's inverse document frequency: `ln(1 + (texts − holders + ½) / (holders + ½))`.
    idf: Vec<f32>,
    texts: Vec<IndexedText>,
    mean_length: f32,
}

/// The known words of one text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IndexedText {
    /// (word, times), by word.
    words: Box<[(u32, u8)]>,
    /// All its words, known or not.
    length: f32,
}

// === impl TextIndex ===

impl TextIndex {
    /// Counts the words of these texts.
    pub fn of<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        let mut index = Self::default();
        for text in texts {
            let words: Vec<u32> = stems(text.as_ref()).map(|word| index.number_of(&word)).collect();
            let length = words.len() as f32;
            index.texts.push(IndexedText::new(words, length));
        }
        let mut holders = vec![0_u32; index.numbers.len()];
        for (word, _) in index.texts.iter().flat_map(|text| &text.words) {
            holders[*word as usize] += 1;
        }
        let all = index.texts.len() as f32;
        let idf = |&n: &u32| ((all - n as f32 + 0.5) / (n as f32 + 0.5)).ln_1p();
        index.idf = holders.iter().map(idf).collect();
        index.mean_length = index.texts.iter().map(|text| text.length).sum::<f32>() / all.max(1.0);
        index
    }

    fn number_of(&mut self, word: &str) -> u32 {
        if let Some(&number) = self.numbers.get(word) {
            return number;
        }
        let next = self.numbers.len() as u32;
        self.numbers.insert(word.into(), next);
        next
    }

    /// The number of a word in the form of [`stems`], if a text has it.
    pub fn word(&self, stem: &str) -> Option<u32> {
        self.numbers.get(stem).copied()
    }

    /// How rare a word is. Panics for a number that no word has.
    pub fn idf(&self, word: u32) -> f32 {
        self.idf[word as usize]
    }

    /// The words of the text of this number. Panics if there is none.
    pub fn text(&self, number: u32) -> &IndexedText {
        &self.texts[number as usize]
    }

    /// The words of another text. Those that no text has only count as its length.
    pub fn read(&self, text: &str) -> IndexedText {
        let (mut known, mut length) = (Vec::new(), 0.0);
        for word in stems(text) {
            known.extend(self.word(&word));
            length += 1.0;
        }
        IndexedText::new(known, length)
    }

    /// BM25's value of a word for a text over the most that it can be: 0 where the text lacks it, and below `idf`.
    pub fn value(&self, word: u32, text: &IndexedText) -> f32 {
        let times = f32::from(text.times(word));
        if times <= 0.0 {
            return 0.0;
        }
        let length = text.length / self.mean_length.max(1.0);
        let saturation = SATURATION * (1.0 - LENGTH_WEIGHT + LENGTH_WEIGHT * length);
        self.idf(word) * times / (times + saturation)
    }
}

// === impl IndexedText ===

impl IndexedText {
    fn new(mut words: Vec<u32>, length: f32) -> Self {
        words.sort_unstable();
        let mut counted: Vec<(u32, u8)> = Vec::with_capacity(words.len());
        for word in words {
            match counted.last_mut() {
                Some((last, times)) if *last == word => *times = times.saturating_add(1),
                _ => counted.push((word, 1)),
            }
        }
        Self { words: counted.into(), length }
    }

    /// How often it has a word.
    pub fn times(&self, word: u32) -> u8 {
        let found = self.words.binary_search_by_key(&word, |&(word, _)| word);
        found.map_or(0, |at| self.words[at].1)
    }
}

/// The words of a text in lower case, without the s of a plural and without single characters;
/// [`INDEXED_WORDS_MAX`] at most.
pub fn stems(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| word.chars().take(WORD_CHARS_MIN).count() == WORD_CHARS_MIN)
        .map(|word| stem(&word.to_lowercase()).to_owned())
        .take(INDEXED_WORDS_MAX)
}

/// A word in lower case without the s of a plural. "glass" keeps both.
pub fn stem(word: &str) -> &str {
    let is_plural = word.len() >= PLURAL_CHARS_MIN
        && word.ends_with('s')
        && !["ss", "us", "is"].iter().any(|end| word.ends_with(end));
    if is_plural { &word[..word.len() - 1] } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plurals_lose_their_s_and_other_words_do_not() {
        for (word, expected) in [
            ("mugs", "mug"),
            ("glass", "glass"),
            ("bus", "bus"),
            ("iris", "iris"),
            ("citrus", "citrus"),
            ("gas", "gas"),
            ("s", "s"),
            ("", ""),
            ("été", "été"),
            ("étés", "été"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
        assert_eq!(stems("Red MUGS, a 2 x 1999").collect::<Vec<_>>(), ["red", "mug", "1999"]);
    }

    #[test]
    fn values_are_those_of_the_formula() {
        let index = TextIndex::of(["red mug", "red red pot", "jar"]);
        let (red, mug) = (index.word("red").unwrap(), index.word("mug").unwrap());
        // ln(1 + (3 − 2 + ½) / (2 + ½)) and ln(1 + (3 − 1 + ½) / (1 + ½))
        assert!((index.idf(red) - 0.470_004).abs() < 1e-5);
        assert!((index.idf(mug) - 0.980_829).abs() < 1e-5);
        // Two words in every text on average: k = 1.2 for a text of two words, 1.65 for one of three.
        assert!((index.value(mug, index.text(0)) - 0.980_829 / 2.2).abs() < 1e-5);
        assert!((index.value(red, index.text(1)) - 0.470_004 * 2.0 / 3.65).abs() < 1e-5);
        assert_eq!(index.value(mug, index.text(1)).to_bits(), 0);
        assert_eq!(&index.read("Red mugs"), index.text(0), "another text is read alike");
        assert_eq!(index.word("lamp"), None);
    }

    #[test]
    fn any_text_is_counted() {
        let index = TextIndex::of(["red mug"]);
        let long = "mug ".repeat(100_000);
        for text in ["", "😀😀", "\u{0}\u{7}\n", "ถ้วยกาแฟ", "x", "mug\u{200b}mug", &long]
        {
            let read = index.read(text);
            assert!(index.value(0, &read).is_finite(), "{text:.20}");
            assert!(index.value(1, &read) < index.idf(1), "{text:.20}");
        }
        assert!(TextIndex::of(Vec::<&str>::new()).read("mug").words.is_empty());
    }
}
