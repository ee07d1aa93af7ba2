//! The Rechead beside the scorer's network: what a shopper's texts, taken together, say of an item's.

use crate::bundle::{Cards, HistoryEvent, UserCard};
use crate::domain::EventKind;
use crate::nn::{Rechead, RecheadScratch, RecheadShape};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Events whose items are the text of a history (RPORec, c).
const HISTORY_ITEMS: usize = 20;
/// Purchases whose buyers say what comes next, and what each counts beside the one after it.
const FORESEEING: usize = 5;
const DECAY: f32 = 0.8;

/// How far a vector that was kept may be from the one that would be made, as a share of its length.
const KEPT_WITHIN: f32 = 0.01;

/// A Rechead's shape, and how its score is fused: a part of its bundle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecheadFile {
    /// What its score counts beside the scorer's logit: fitted on validation slates, 0 where that did
    /// not pay.
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

/// What was written about a shopper.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShopperTexts<'a> {
    /// What they did, oldest first.
    pub history: &'a [HistoryEvent],
    /// The vector of a thought about them: their pattern, if nobody thought aloud.
    pub thought: Option<&'a [f32]>,
    /// The number of the item that they are expected to want, if a language model said so. The shop's
    /// own counts [foresee](predicted_next_item) one otherwise.
    pub answer: Option<u32>,
}

// === impl RecheadScorer ===

impl RecheadScorer {
    /// Makes the vectors of all items, whose texts have these vectors (items, e).
    pub fn new(network: Rechead, weight: f32, item_texts: &[f32]) -> Self {
        let mut room = RecheadScratch::default();
        let texts = item_texts.chunks_exact(network.text_width());
        let items = texts.flat_map(|text| network.item(text, &mut room)).collect();
        Self { network, weight, items }
    }

    /// Takes the vectors of all items from cards that were written with it, and makes them where cards
    /// have none.
    pub fn from_cards(network: Rechead, weight: f32, cards: &Cards) -> Self {
        if cards.rechead_vectors.is_empty() {
            return Self::new(network, weight, &cards.item_vectors);
        }
        Self { network, weight, items: cards.rechead_vectors.clone() }
    }

    /// Whether cards were written with this very network, to the precision that they are kept in: told
    /// by the vectors of `user`, and of the item that they met last.
    pub fn matches_vectors(&self, user: &UserCard, cards: &Cards) -> bool {
        let UserCard { history, vector, expected_item, rechead_vector, .. } = user;
        if rechead_vector.is_empty() && cards.rechead_vectors.is_empty() {
            return true;
        }
        let written = ShopperTexts { history, thought: Some(vector), answer: *expected_item };
        let texts = cards.item_vectors.chunks_exact(self.network.text_width());
        let mut both = texts.zip(cards.rechead_vectors.chunks_exact(self.network.width()));
        let met = history.last().and_then(|past| both.nth(past.item as usize));
        let is_made_of = |(text, of_item): (&[f32], &[f32])| {
            near(of_item, &self.network.item(text, &mut RecheadScratch::default()))
        };
        near(rechead_vector, &self.shopper_vector(written, cards)) && met.is_none_or(is_made_of)
    }

    /// The vectors of the catalogue's items: (items, d).
    pub fn item_vectors(&self) -> &Arc<[f32]> {
        &self.items
    }

    /// What its score counts.
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// The vector of a shopper, by what these cards know.
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

    /// `h_u · h_v` of an item of the catalogue.
    pub fn score(&self, shopper: &[f32], item: u32) -> f32 {
        let width = self.network.width();
        dot(shopper, &self.items[item as usize * width..][..width])
    }

    /// The same of an item that only comes inline, whose text has this vector.
    pub fn score_text(&self, shopper: &[f32], text: &[f32]) -> f32 {
        dot(shopper, &self.network.item(text, &mut RecheadScratch::default()))
    }
}

/// The vector of a history's text: that of its latest items' texts, each of which counts the same, as
/// the static encoder would make it of all of them together.
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

/// The item that buyers of a shopper's latest purchases bought most, of those that they have not bought:
/// an item-kNN's first guess, which stands in where no language model was asked.
pub fn predicted_next_item(history: &[HistoryEvent], cards: &Cards) -> Option<u32> {
    let bought = || history.iter().rev().filter(|past| past.kind == EventKind::Purchase);
    let mut backed: FxHashMap<u32, f32> = FxHashMap::default();
    let mut share = 1.0;
    for past in bought().take(FORESEEING) {
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

/// Whether a vector is another one in half precision, a little rounding of what it was made of included.
fn near(kept: &[f32], made: &[f32]) -> bool {
    let size = dot(made, made).sqrt();
    let apart = kept.iter().zip(made).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
    kept.len() == made.len() && apart <= KEPT_WITHIN * size
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
