//! Items with alike titles: the cosine of their words' TF-IDF.

use rayon::prelude::*;
use rustc_hash::FxHashMap;

/// The fewest characters of a word that counts.
const WORD_CHARS_MIN: usize = 2;
/// A word of more than this share of the titles tells too little to be worth its cost.
const WORD_SHARE_MAX: f64 = 0.2;

/// For each item, the items with the most alike titles.
#[derive(Clone, Debug, Default)]
pub(super) struct TitleNeighbours {
    /// `(item, cosine)`, closest first.
    neighbours: Vec<Vec<(u32, f32)>>,
}

/// Titles as weights of words, each of length one.
struct WordWeights {
    /// For each title: `(word, weight)`.
    titles: Vec<Vec<(u32, f32)>>,
    /// For each word: `(title, weight)`.
    postings: Vec<Vec<(u32, f32)>>,
}

impl TitleNeighbours {
    /// Compares every title with every other, and keeps the `most` closest of each.
    pub(super) fn build(titles: &[&str], most: usize) -> Self {
        let weights = WordWeights::of(titles);
        let neighbours = (0..titles.len())
            .into_par_iter()
            .map_init(
                || (vec![0.0_f32; titles.len()], Vec::new()),
                |(cosines, touched), item| weights.closest(item, most, cosines, touched),
            )
            .collect();
        Self { neighbours }
    }

    /// The items with the most alike titles, closest first.
    pub(super) fn of(&self, item: u32) -> &[(u32, f32)] {
        self.neighbours.get(item as usize).map_or(&[], Vec::as_slice)
    }
}

impl WordWeights {
    fn of(titles: &[&str]) -> Self {
        let mut numbers: FxHashMap<String, u32> = FxHashMap::default();
        let mut words: Vec<Vec<u32>> = Vec::with_capacity(titles.len());
        for title in titles {
            let mut of_it: Vec<u32> = words_of(title)
                .map(|word| {
                    let next = numbers.len() as u32;
                    *numbers.entry(word).or_insert(next)
                })
                .collect();
            of_it.sort_unstable();
            of_it.dedup();
            words.push(of_it);
        }
        let mut holders = vec![0_u32; numbers.len()];
        words.iter().flatten().for_each(|&word| holders[word as usize] += 1);
        let all = titles.len() as f64;
        let idf = |word: u32| (all / f64::from(holders[word as usize])).ln() as f32;
        let mut postings = vec![Vec::new(); numbers.len()];
        let mut weighted = Vec::with_capacity(titles.len());
        for (item, words) in (0..).zip(words) {
            let length = words.iter().map(|&word| idf(word).powi(2)).sum::<f32>().sqrt();
            let rare = |&word: &u32| f64::from(holders[word as usize]) <= all * WORD_SHARE_MAX;
            let kept: Vec<(u32, f32)> =
                words.iter().copied().filter(rare).map(|word| (word, idf(word) / length)).collect();
            for &(word, weight) in &kept {
                postings[word as usize].push((item, weight));
            }
            weighted.push(kept);
        }
        Self { titles: weighted, postings }
    }

    fn closest(
        &self,
        item: usize,
        most: usize,
        cosines: &mut [f32],
        touched: &mut Vec<u32>,
    ) -> Vec<(u32, f32)> {
        for &(word, weight) in &self.titles[item] {
            for &(other, theirs) in &self.postings[word as usize] {
                if cosines[other as usize] == 0.0 {
                    touched.push(other);
                }
                cosines[other as usize] += weight * theirs;
            }
        }
        let mut found: Vec<(u32, f32)> = touched
            .drain(..)
            .map(|other| (other, std::mem::take(&mut cosines[other as usize])))
            .filter(|&(other, _)| other as usize != item)
            .collect();
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(most);
        found.shrink_to_fit();
        found
    }
}

/// The words of a title in lower case, without numbers and single characters.
fn words_of(title: &str) -> impl Iterator<Item = String> + '_ {
    title
        .split(|letter: char| !letter.is_alphanumeric())
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
        for (title, words) in table {
            assert_eq!(words_of(title).collect::<Vec<_>>(), words, "{title:?}");
        }
    }

    #[test]
    fn rare_words_bring_titles_closer_than_common_ones() {
        let titles = [
            "red porcelain mug",
            "red pot",
            "red jar",
            "porcelain bowl",
            "lamp",
            "chair",
            "table",
            "sofa",
            "rug",
            "shelf",
            "vase",
            "clock",
            "desk",
            "bench",
            "stool",
        ];
        let near = TitleNeighbours::build(&titles, 2);
        let items = |item| near.of(item).iter().map(|&(other, _)| other).collect::<Vec<_>>();
        assert_eq!(items(0)[0], 3, "two titles have porcelain, three have red");
        assert_eq!(items(0).len(), 2, "only the closest are kept");
        assert!(items(4).is_empty(), "nothing is like a lamp");
        assert!(near.of(99).is_empty(), "an unknown item has no neighbours");
        let (there, back) = (near.of(0)[0].1, near.of(3)[0].1);
        assert!((there - back).abs() < 1e-6 && there < 1.0, "{there} {back}");
    }

    #[test]
    fn a_word_of_most_titles_makes_nothing_alike() {
        let titles = [
            "the red mug",
            "the red pot",
            "the jar",
            "the lamp",
            "the chair",
            "the desk",
            "the sofa",
            "the rug",
            "the vase",
            "the clock",
        ];
        let near = TitleNeighbours::build(&titles, 5);
        assert_eq!(near.of(0).iter().map(|entry| entry.0).collect::<Vec<_>>(), [1]);
        assert!((2..10).all(|item| near.of(item).is_empty()));
    }
}
