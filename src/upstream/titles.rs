//! Items with alike titles: the cosine of their words' TF-IDF.

use crate::language::WordWeights;
use rayon::prelude::*;

/// For each item, the items with the most alike titles.
#[derive(Clone, Debug, Default)]
pub(super) struct TitleNeighbours {
    /// `(item, cosine)`, closest first.
    neighbours: Vec<Vec<(u32, f32)>>,
}

/// Titles as weighted words, and where each word is.
struct TitleIndex {
    weights: WordWeights,
    /// For each word: `(title, weight)`.
    postings: Vec<Vec<(u32, f32)>>,
}

impl TitleNeighbours {
    /// Compares every title with every other, and keeps the `most` closest of each.
    pub(super) fn build(titles: &[&str], most: usize) -> Self {
        let index = TitleIndex::of(titles);
        let neighbours = (0..titles.len() as u32)
            .into_par_iter()
            .map_init(
                || (vec![0.0_f32; titles.len()], Vec::new()),
                |(cosines, touched), item| index.closest(item, most, cosines, touched),
            )
            .collect();
        Self { neighbours }
    }

    /// The items with the most alike titles, closest first.
    pub(super) fn of(&self, item: u32) -> &[(u32, f32)] {
        self.neighbours.get(item as usize).map_or(&[], Vec::as_slice)
    }
}

impl TitleIndex {
    fn of(titles: &[&str]) -> Self {
        let weights = WordWeights::of(titles);
        let mut postings = vec![Vec::new(); weights.words_len()];
        for title in 0..titles.len() as u32 {
            for &(word, weight) in weights.text(title) {
                postings[word as usize].push((title, weight));
            }
        }
        Self { weights, postings }
    }

    fn closest(
        &self,
        item: u32,
        most: usize,
        cosines: &mut [f32],
        touched: &mut Vec<u32>,
    ) -> Vec<(u32, f32)> {
        for &(word, weight) in self.weights.text(item) {
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
            .filter(|&(other, _)| other != item)
            .collect();
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(most);
        found.shrink_to_fit();
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
