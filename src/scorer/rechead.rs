//! Scores items by the Rechead: a vector of a shopper's texts times a vector of an item's text.

use crate::bundle::{Cards, HistoryEvent, UserCard};
use crate::domain::EventKind;
use crate::nn::{Rechead, RecheadScratch, RecheadShape};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Latest events of a history whose items' texts stand for it (RPORec, c).
const HISTORY_ITEMS: usize = 20;
/// Latest purchases whose partners, items with similar buyers, predict the next item.
const PREDICTING_PURCHASES: usize = 5;
/// What each step back in the history multiplies a partner's closeness by.
const DECAY: f32 = 0.8;

/// The largest distance between a stored vector and the same one computed again, as a share of its
/// length.
const STORED_TOLERANCE: f32 = 0.01;

/// The file of a bundle with the Rechead's shape and weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecheadFile {
    /// The weight of its score beside the scorer's logit, fitted on validation slates; 0 where it did not improve
    /// them.
    pub weight: f32,
    /// The network's shape.
    pub shape: RecheadShape,
}

/// A Rechead, and the vectors of the catalogue's items in its space.
#[derive(Debug)]
pub struct RecheadScorer {
    network: Rechead,
    weight: f32,
    /// (items, d)
    items: Arc<[f32]>,
}

/// A shopper's texts (RPORec: context, thought and answer).
#[derive(Clone, Copy, Debug, Default)]
pub struct ShopperTexts<'a> {
    /// Their history, oldest first, whose items' texts are the context.
    pub history: &'a [HistoryEvent],
    /// The vector of a thought about them, or of their pattern where there is none.
    pub thought: Option<&'a [f32]>,
    /// The item that a language model expects them to want, by number. Without one,
    /// [`predicted_next_item`] stands in.
    pub answer: Option<u32>,
}

// === impl RecheadScorer ===

impl RecheadScorer {
    /// Computes the vectors of all items from those of their texts: (items, e).
    pub fn new(network: Rechead, weight: f32, item_texts: &[f32]) -> Self {
        let mut room = RecheadScratch::default();
        let texts = item_texts.chunks_exact(network.text_width());
        let items = texts.flat_map(|text| network.item(text, &mut room)).collect();
        Self { network, weight, items }
    }

    /// Takes the vectors of all items from the cards, and computes them where the cards have none.
    pub fn from_cards(network: Rechead, weight: f32, cards: &Cards) -> Self {
        if cards.rechead_vectors.is_empty() {
            return Self::new(network, weight, &cards.item_vectors);
        }
        Self { network, weight, items: cards.rechead_vectors.clone() }
    }

    /// Whether the cards' vectors were made by this very network, within the precision of their storage. Only the
    /// vectors of `user` and of the last item in their history are recomputed.
    pub fn matches_vectors(&self, user: &UserCard, cards: &Cards) -> bool {
        let UserCard { history, vector, expected_item, rechead_vector, .. } = user;
        if rechead_vector.is_empty() && cards.rechead_vectors.is_empty() {
            return true;
        }
        let written = ShopperTexts { history, thought: Some(vector), answer: *expected_item };
        let texts = cards.item_vectors.chunks_exact(self.network.text_width());
        let mut both = texts.zip(cards.rechead_vectors.chunks_exact(self.network.width()));
        let met = history.last().and_then(|past| both.nth(past.item as usize));
        let is_of_text = |(text, of_item): (&[f32], &[f32])| {
            near(of_item, &self.network.item(text, &mut RecheadScratch::default()))
        };
        near(rechead_vector, &self.shopper_vector(written, cards)) && met.is_none_or(is_of_text)
    }

    /// The vectors of the catalogue's items: (items, d).
    pub fn item_vectors(&self) -> &Arc<[f32]> {
        &self.items
    }

    /// The weight of its score.
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// The vector of a shopper. The vectors of the texts of items come from the cards.
    pub fn shopper_vector(&self, of: ShopperTexts<'_>, cards: &Cards) -> Vec<f32> {
        let item_texts = &cards.item_vectors;
        let width = self.network.text_width();
        let nothing = vec![0.0; width];
        let thought = of.thought.filter(|thought| thought.len() == width).unwrap_or(&nothing);
        let answer = of.answer.or_else(|| predicted_next_item(of.history, cards));
        let answer = answer.and_then(|item| item_texts.chunks_exact(width).nth(item as usize));
        let history = history_vector(of.history, item_texts, width);
        self.network.shopper(&history, thought, answer, &mut RecheadScratch::default())
    }

    /// `h_u · h_v` of a shopper and an item of the catalogue (RPORec).
    pub fn score(&self, shopper: &[f32], item: u32) -> f32 {
        let width = self.network.width();
        dot(shopper, &self.items[item as usize * width..][..width])
    }

    /// The same of an inline item, whose text has this vector.
    pub fn score_text(&self, shopper: &[f32], text: &[f32]) -> f32 {
        dot(shopper, &self.network.item(text, &mut RecheadScratch::default()))
    }
}

/// The vector of a history's text: the normalised sum of the vectors of its latest items' texts.
pub fn history_vector(history: &[HistoryEvent], item_texts: &[f32], width: usize) -> Vec<f32> {
    let mut text = vec![0.0; width];
    for past in history.iter().rev().take(HISTORY_ITEMS) {
        let of_it = &item_texts[past.item as usize * width..][..width];
        for (sum, value) in text.iter_mut().zip(of_it) {
            *sum += value;
        }
    }
    let length = dot(&text, &text).sqrt();
    if length > 0.0 {
        for value in &mut text {
            *value /= length;
        }
    }
    text
}

/// The first guess of an item-kNN: of the partners of a shopper's latest purchases, the closest one
/// that they have not bought. It stands in where no language model was asked.
pub fn predicted_next_item(history: &[HistoryEvent], cards: &Cards) -> Option<u32> {
    let bought = || history.iter().rev().filter(|past| past.kind == EventKind::Purchase);
    let mut backed: FxHashMap<u32, f32> = FxHashMap::default();
    let mut share = 1.0;
    for past in bought().take(PREDICTING_PURCHASES) {
        for (partner, closeness) in cards.partners.of(past.item) {
            *backed.entry(partner).or_default() += share * closeness;
        }
        share *= DECAY;
    }
    for past in bought() {
        backed.remove(&past.item);
    }
    let best = backed.into_iter().max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
    best.map(|(item, _)| item)
}

/// Whether a vector stored in half precision is, within rounding, the one computed again.
fn near(stored: &[f32], computed: &[f32]) -> bool {
    let size = dot(computed, computed).sqrt();
    let apart = stored.iter().zip(computed).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    stored.len() == computed.len() && apart <= STORED_TOLERANCE * size
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_items_make_up_the_text_of_a_history() {
        let past = |item| HistoryEvent { item, time: 0, kind: EventKind::Purchase };
        let texts = [1.0, 0.0, 0.0, 1.0];
        assert_eq!(history_vector(&[], &texts, 2), [0.0, 0.0]);
        assert_eq!(history_vector(&[past(1)], &texts, 2), [0.0, 1.0]);
        let mut long = vec![past(1); 9];
        long.extend([past(0); HISTORY_ITEMS]);
        assert_eq!(history_vector(&long, &texts, 2), [1.0, 0.0]);
        let even = history_vector(&[past(0), past(1)], &texts, 2);
        assert!(even.iter().all(|value| (value - 0.5_f32.sqrt()).abs() < 1e-6));
    }
}
