//! Texts as weighted words, so that the cosine of two texts is the sum over the words that they share: binary TF-IDF.

use rustc_hash::FxHashMap;

/// The fewest characters of a word that counts.
const WORD_CHARS_MIN: usize = 2;
/// A word of more than this share of the texts tells too little to be worth its cost.
const WORD_SHARE_MAX: f64 = 0.2;
/// Words of one text that count, at most: the rarest ones.
const WORDS_MAX: usize = 64;

/// The words of some texts, each with its weight. The vector of a text has length one before common words and those
/// past the bound are left out.
#[derive(Clone, Debug, Default)]
pub struct WordWeights {
    numbers: FxHashMap<Box<str>, u32>,
    /// The inverse document frequency of each word: `ln(texts / holders)`.
    idf: Vec<f32>,
    /// Whether each word is rare enough to be compared.
    is_rare: Vec<bool>,
    texts: Vec<Box<[WeightedWord]>>,
}

/// The number of a word, and its weight in a text.
pub type WeightedWord = (u32, f32);

// === impl WordWeights ===

impl WordWeights {
    /// Weighs the words of these texts.
    pub fn of<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Self {
        let mut numbers: FxHashMap<Box<str>, u32> = FxHashMap::default();
        let words: Vec<Vec<u32>> = texts
            .into_iter()
            .map(|text| {
                distinct(words_of(text.as_ref()).map(|word| {
                    let next = numbers.len() as u32;
                    *numbers.entry(word.into()).or_insert(next)
                }))
            })
            .collect();
        let mut holders = vec![0_u32; numbers.len()];
        words.iter().flatten().for_each(|&word| holders[word as usize] += 1);
        let all = words.len() as f64;
        let idf = holders.iter().map(|&count| (all / f64::from(count)).ln() as f32).collect();
        let is_rare = holders.iter().map(|&count| f64::from(count) <= all * WORD_SHARE_MAX);
        let mut weights = Self { numbers, idf, is_rare: is_rare.collect(), texts: Vec::new() };
        weights.texts = words.into_iter().map(|words| weights.weighted(&words).into()).collect();
        weights
    }

    /// How many texts there are.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// How many distinct words the texts have.
    pub fn words_len(&self) -> usize {
        self.idf.len()
    }

    /// The words of the text of this number, by word; none for a number that is not there.
    pub fn text(&self, number: u32) -> &[WeightedWord] {
        self.texts.get(number as usize).map_or(&[], |words| words)
    }

    /// The words of another text, by word. Words that no text has are left out.
    pub fn weigh(&self, text: &str) -> Vec<WeightedWord> {
        let known = words_of(text).filter_map(|word| self.numbers.get(&*word).copied());
        self.weighted(&distinct(known))
    }

    fn weighted(&self, words: &[u32]) -> Vec<WeightedWord> {
        let idf = |word: u32| self.idf[word as usize];
        let length = words.iter().map(|&word| idf(word).powi(2)).sum::<f32>().sqrt();
        let rare = words.iter().copied().filter(|&word| self.is_rare[word as usize]);
        let mut kept: Vec<WeightedWord> = rare.map(|word| (word, idf(word) / length)).collect();
        if kept.len() > WORDS_MAX {
            kept.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            kept.truncate(WORDS_MAX);
            kept.sort_unstable_by_key(|&(word, _)| word);
        }
        kept
    }
}

fn distinct(words: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut words: Vec<u32> = words.collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// The words of a text in lower case, without numbers and single characters.
fn words_of(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|letter: char| !letter.is_alphanumeric())
        .filter(|word| word.chars().take(WORD_CHARS_MIN).count() == WORD_CHARS_MIN)
        .filter(|word| !word.chars().all(char::is_numeric))
        .map(str::to_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_neither_numbers_nor_single_characters() {
        let table: [(&str, &[&str]); 5] = [
            ("Red Mug, 2 pints", &["red", "mug", "pints"]),
            ("T-Light (12)", &["light"]),
            ("", &[]),
            ("1999", &[]),
            ("ÉTÉ 4x4", &["été", "4x4"]),
        ];
        for (text, words) in table {
            assert_eq!(words_of(text).collect::<Vec<_>>(), words, "{text:?}");
        }
    }

    #[test]
    fn a_text_weighs_the_same_whether_it_is_one_of_them_or_another() {
        let texts = ["red mug", "red pot", "blue jar", "green lamp", "old chair", "tea mug tea"];
        let weights = WordWeights::of(texts);
        for (number, text) in (0..).zip(texts) {
            assert_eq!(weights.weigh(text), weights.text(number), "{text}");
        }
        let known: Vec<u32> = weights.weigh("a JAR of unheard").iter().map(|word| word.0).collect();
        assert_eq!(known.len(), 1, "only known words count");
        assert_eq!(weights.weigh("mug mug tea"), weights.weigh("tea mug"), "words count once");
        assert!(weights.text(99).is_empty());
    }

    #[test]
    fn rare_words_weigh_more_and_common_ones_nothing() {
        let texts = ["the red mug", "the red pot", "the jar", "the lamp", "the oak", "the ash"];
        let weights = WordWeights::of(texts);
        let mug = weights.text(0);
        assert_eq!(mug.len(), 1, "two of six are too many for red, and all for the");
        assert!(mug[0].1 > 0.7 && mug[0].1 < 1.0, "{mug:?}");
    }

    #[test]
    fn a_long_text_keeps_its_rarest_words() {
        let long = (0..200).map(|word| format!("w{word}")).collect::<Vec<_>>().join(" ");
        let others = (0..100).map(|word| format!("w{word}"));
        let weights = WordWeights::of(std::iter::once(long).chain(others));
        let kept = weights.text(0);
        assert_eq!(kept.len(), WORDS_MAX);
        assert!(kept.iter().all(|&(word, _)| word >= 100), "those that no other text has");
        assert!(kept.windows(2).all(|pair| pair[0].0 < pair[1].0), "sorted by word");
    }
}
