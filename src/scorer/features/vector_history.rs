//! History by the text encoder: cosines of a candidate's wide vector with those of the shopper's latest items, beside the
//! words of the live features. They are computed only where a direct path names them.

use crate::bundle::HistoryEvent;
use crate::scorer::ItemVectors;

/// Latest distinct items that are compared with a candidate.
const LATEST_ITEMS: usize = 20;
/// Of them, those that count in the mean.
const MEAN_ITEMS: usize = 5;
/// What each step back in the history multiplies by.
const STEP_DECAY: f32 = 0.8;

/// One of these features.
#[derive(Clone, Copy, Debug)]
pub struct VectorFeature {
    /// Its name in recipes, bundles and documents.
    pub name: &'static str,
    /// The unit of its value.
    pub unit: &'static str,
    /// The quantity that it measures.
    pub meaning: &'static str,
}

/// These features, in the order of [`VectorFigures::to_array`].
pub static VECTOR_FEATURES: [VectorFeature; 3] = [
    VectorFeature {
        name: "vector_last",
        unit: "cosine",
        meaning: "How alike the item's text is to that of the history's latest item, by the text encoder.",
    },
    VectorFeature {
        name: "vector_mean",
        unit: "cosine",
        meaning: "How alike it is to the mean of the 5 latest items, weighted by 0.8ᵏ.",
    },
    VectorFeature {
        name: "vector_best",
        unit: "cosine",
        meaning: "How alike it is to the closest of the 20 latest items; at least 0.",
    },
];

/// Cosines of one candidate with the latest items.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VectorFigures {
    /// With the latest one.
    pub last: f32,
    /// With the mean of five.
    pub mean: f32,
    /// With the closest of twenty.
    pub best: f32,
}

/// The latest items of a history, by their vectors.
#[derive(Debug)]
pub struct HistoryVectors<'a> {
    vectors: &'a ItemVectors,
    /// Latest first.
    latest: Vec<u32>,
    /// The weighted mean of the latest, of length one; empty without a history.
    mean: Vec<f32>,
}

// === impl VectorFigures ===

impl VectorFigures {
    /// The values, in the order of [`VECTOR_FEATURES`].
    pub fn to_array(self) -> [f32; 3] {
        [self.last, self.mean, self.best]
    }
}

// === impl HistoryVectors ===

impl<'a> HistoryVectors<'a> {
    /// The vectors of the latest distinct items of a history, oldest first.
    pub fn of(vectors: &'a ItemVectors, history: &[HistoryEvent]) -> Self {
        let mut latest: Vec<u32> = Vec::with_capacity(LATEST_ITEMS);
        for event in history.iter().rev() {
            if latest.len() < LATEST_ITEMS && !latest.contains(&event.item) {
                latest.push(event.item);
            }
        }
        let mut mean = vec![0.0; if latest.is_empty() { 0 } else { vectors.width() }];
        for (step, &item) in latest.iter().take(MEAN_ITEMS).enumerate() {
            vectors.add_to(&mut mean, item, STEP_DECAY.powi(step as i32));
        }
        let length = mean.iter().map(|value| value * value).sum::<f32>().sqrt();
        if length > 0.0 {
            for value in &mut mean {
                *value /= length;
            }
        }
        Self { vectors, latest, mean }
    }

    /// The cosines of an item of the catalogue.
    pub fn known(&self, item: u32) -> VectorFigures {
        let mean = if self.mean.is_empty() { 0.0 } else { self.vectors.dot(item, &self.mean) };
        self.figures(mean, |other| self.vectors.between(item, other))
    }

    /// The cosines of an item with this wide vector.
    pub fn inline(&self, vector: &[f32]) -> VectorFigures {
        let mean = self.mean.iter().zip(vector).map(|(a, b)| a * b).sum();
        self.figures(mean, |other| self.vectors.dot(other, vector))
    }

    fn figures(&self, mean: f32, cosine: impl Fn(u32) -> f32) -> VectorFigures {
        let cosines = || self.latest.iter().map(|&other| cosine(other));
        VectorFigures {
            last: cosines().next().unwrap_or(0.0),
            mean,
            best: cosines().fold(0.0, f32::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventKind;

    /// Three items along the axes, and one between the first two.
    fn vectors() -> ItemVectors {
        let half = std::f32::consts::FRAC_1_SQRT_2;
        ItemVectors::of(&[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, half, half, 0.0], 3)
    }

    fn history(items: &[u32]) -> Vec<HistoryEvent> {
        let event = |&item: &u32| HistoryEvent { item, time: 0, kind: EventKind::Purchase };
        items.iter().map(event).collect()
    }

    #[test]
    fn cosines_are_those_of_the_latest_distinct_items() {
        let vectors = vectors();
        // Latest first: 1, 0. The mean is (0.8, 1) over its length.
        let past = history(&[1, 0, 1]);
        let of = HistoryVectors::of(&vectors, &past);
        let length = (0.64_f32 + 1.0).sqrt();
        let half = std::f32::consts::FRAC_1_SQRT_2;
        for (item, expected) in [
            (0, [0.0, 0.8 / length, 1.0]),
            (1, [1.0, 1.0 / length, 1.0]),
            (2, [0.0, 0.0, 0.0]),
            (3, [half, half * 1.8 / length, half]),
        ] {
            let (known, inline) = (of.known(item), of.inline(&vectors.vector(item)));
            for ((known, inline), expected) in
                known.to_array().into_iter().zip(inline.to_array()).zip(expected)
            {
                assert!((known - expected).abs() < 1e-2, "item {item}: {known}, not {expected}");
                assert!((inline - expected).abs() < 1e-2, "item {item}: {inline}");
            }
        }
    }

    #[test]
    fn without_a_history_all_is_zero() {
        let vectors = vectors();
        let of = HistoryVectors::of(&vectors, &[]);
        assert_eq!(of.known(0), VectorFigures::default());
        assert_eq!(of.inline(&[1.0, 0.0, 0.0]), VectorFigures::default());
    }
}
