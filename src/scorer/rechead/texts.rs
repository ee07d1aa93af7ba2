//! The texts about a shopper that a Rechead reads.

use crate::bundle::{Cards, Catalog, HistoryEvent};
use crate::domain::EventKind;
use crate::scorer::TextReader;
use rustc_hash::FxHashMap;

/// Latest events of a history whose items' texts stand for it (RPORec, c).
const HISTORY_ITEMS: usize = 20;
/// Tokens of a history's text, at most: those of the latest titles are kept.
const HISTORY_TOKENS_MAX: usize = 512;
/// Latest purchases whose partners, items with similar buyers, predict the next item.
const PREDICTING_PURCHASES: usize = 5;
/// What each step back in the history multiplies a partner's closeness by.
const DECAY: f32 = 0.8;

/// A shopper's texts (RPORec: context, thought and answer).
#[derive(Clone, Copy, Debug, Default)]
pub struct ShopperTexts<'a> {
    /// Their history, oldest first, whose items' texts are the context.
    pub history: &'a [HistoryEvent],
    /// The vector of a thought about them, or of their pattern where there is none. The paper's wiring reads it.
    pub thought: Option<&'a [f32]>,
    /// The text of that thought, or of that pattern; empty where there is none. The published wiring reads it.
    pub thought_text: &'a str,
    /// The item that a language model expects them to want, by number. Without one,
    /// [`predicted_next_item`] stands in.
    pub answer: Option<u32>,
}

/// What the texts of a shop's items are read from.
#[derive(Clone, Copy, Debug)]
pub struct TextSources<'a> {
    /// The items.
    pub catalog: &'a Catalog,
    /// Their cards.
    pub cards: &'a Cards,
    /// The encoder of texts.
    pub reader: &'a TextReader,
}

/// The tokens of a shopper's texts, as the published wiring reads them in training and in serving.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShopperTokens {
    /// Of the history: the titles of its latest items, the most recent last. An item that was bought again is there
    /// again.
    pub history: Vec<u32>,
    /// Of the thought; none where there is no thought.
    pub thought: Vec<u32>,
    /// Of the answer: the text of the item that is expected. `None` where nothing is.
    pub answer: Option<Vec<u32>>,
}

// === impl ShopperTokens ===

impl ShopperTokens {
    /// Reads a shopper's texts.
    pub fn of(of: ShopperTexts<'_>, from: TextSources<'_>) -> Self {
        let answer = of.answer.or_else(|| predicted_next_item(of.history, from.cards));
        let known = answer.filter(|&item| (item as usize) < from.catalog.len());
        Self {
            history: history_tokens(of.history, from),
            thought: from.reader.tokens(of.thought_text),
            answer: known.map(|item| from.reader.tokens(&from.catalog.text(item))),
        }
    }
}

/// The tokens of the titles of a history's latest items, oldest first.
fn history_tokens(history: &[HistoryEvent], from: TextSources<'_>) -> Vec<u32> {
    let latest = &history[history.len().saturating_sub(HISTORY_ITEMS)..];
    let title = |past: &HistoryEvent| from.reader.tokens(&from.catalog.item(past.item).title);
    let mut tokens: Vec<u32> = latest.iter().flat_map(title).collect();
    tokens.drain(..tokens.len().saturating_sub(HISTORY_TOKENS_MAX));
    tokens
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
