//! Scores items by the Rechead: a vector of a shopper's texts times a vector of an item's text.

mod texts;

pub use texts::{ShopperTexts, ShopperTokens, TextSources, history_vector, predicted_next_item};

use super::{ItemVectors, TextReader};
use crate::bundle::{Cards, UserCard};
use crate::nn::{PaperRechead, Rechead, RecheadScratch, RecheadShape, RecheadTokens};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The largest distance between a stored vector and the same one computed again, as a share of its
/// length.
const STORED_TOLERANCE: f32 = 0.01;

/// The file of a bundle with the Rechead's shape and weight.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecheadFile {
    /// The weight of its score beside the scorer's logit, fitted on validation slates; 0 where it did not improve
    /// them, and where the direct path reads the score.
    pub weight: f32,
    /// The network's shape.
    pub shape: RecheadShape,
}

/// A Rechead, and the vectors of the catalogue's items in its space.
#[derive(Debug)]
pub struct RecheadScorer {
    network: Rechead,
    weight: f32,
    items: HeadItems,
}

/// The vectors of the catalogue's items.
#[derive(Debug)]
enum HeadItems {
    /// (items, d): the paper's wiring has made them.
    Made(Arc<[f32]>),
    /// The vectors of the items' texts, which the published wiring does not move.
    Fixed(Arc<ItemVectors>),
}

// === impl RecheadScorer ===

impl RecheadScorer {
    /// A Rechead of this weight. The paper's wiring takes the vectors of all items from the cards, and computes them
    /// where the cards have none. The published one takes the items' wide vectors as they are.
    pub fn new(
        network: Rechead,
        weight: f32,
        cards: &Cards,
        vectors: Option<&Arc<ItemVectors>>,
    ) -> Self {
        let items = match &network {
            Rechead::Paper(_) if !cards.rechead_vectors.is_empty() => {
                HeadItems::Made(cards.rechead_vectors.clone())
            }
            Rechead::Paper(paper) => HeadItems::Made(made(paper, &cards.item_vectors)),
            Rechead::Published(_) => HeadItems::Fixed(match vectors {
                Some(vectors) => vectors.clone(),
                None => Arc::new(ItemVectors::of(&[], network.width())),
            }),
        };
        Self { network, weight, items }
    }

    /// The same, which reads each text of a shopper as if it were the next one.
    pub fn with_texts_swapped(self) -> Self {
        Self { network: self.network.with_texts_swapped(), ..self }
    }

    /// Whether the cards' vectors were made by this very network, within the precision of their storage. Only the
    /// vectors of `user` and of the last item in their history are recomputed.
    pub fn matches_vectors(&self, user: &UserCard, from: TextSources<'_>) -> bool {
        let UserCard { history, vector, expected_item, rechead_vector, pattern, .. } = user;
        let cards = from.cards;
        if rechead_vector.is_empty() && cards.rechead_vectors.is_empty() {
            return true;
        }
        let written = ShopperTexts {
            history,
            thought: Some(vector),
            thought_text: pattern,
            answer: *expected_item,
        };
        let texts = cards.item_vectors.chunks_exact(self.network.text_width());
        let mut both = texts.zip(cards.rechead_vectors.chunks_exact(self.network.width()));
        let met = history.last().and_then(|past| both.nth(past.item as usize));
        let is_of_text = |(text, of_item): (&[f32], &[f32])| {
            near(of_item, &self.network.item(text, &mut RecheadScratch::default()))
        };
        near(rechead_vector, &self.shopper_vector(written, from)) && met.is_none_or(is_of_text)
    }

    /// The vectors that the network has made of the catalogue's items, for the cards: (items, d). Empty where it takes
    /// those of their texts.
    pub fn made_vectors(&self) -> Arc<[f32]> {
        match &self.items {
            HeadItems::Made(items) => items.clone(),
            HeadItems::Fixed(_) => [].into(),
        }
    }

    /// The vectors of the catalogue's items: (items, d).
    pub fn item_rows(&self) -> Arc<[f32]> {
        match &self.items {
            HeadItems::Made(items) => items.clone(),
            HeadItems::Fixed(vectors) => {
                let mut room = RecheadScratch::default();
                let row = |item| self.network.item(&vectors.vector(item), &mut room);
                (0..vectors.len() as u32).flat_map(row).collect()
            }
        }
    }

    /// The weight of its score.
    pub fn weight(&self) -> f32 {
        self.weight
    }

    /// The vector of a shopper.
    pub fn shopper_vector(&self, of: ShopperTexts<'_>, from: TextSources<'_>) -> Vec<f32> {
        let mut room = RecheadScratch::default();
        let paper = match &self.network {
            Rechead::Paper(paper) => paper,
            Rechead::Published(network) => {
                let texts = ShopperTokens::of(of, from);
                return network.shopper(texts.borrowed(), &mut room);
            }
        };
        let (width, item_texts) = (paper.text_width(), &from.cards.item_vectors);
        let nothing = vec![0.0; width];
        let thought = of.thought.filter(|thought| thought.len() == width).unwrap_or(&nothing);
        let answer = of.answer.or_else(|| predicted_next_item(of.history, from.cards));
        let answer = answer.and_then(|item| item_texts.chunks_exact(width).nth(item as usize));
        let history = history_vector(of.history, item_texts, width);
        paper.shopper(&history, thought, answer, &mut room)
    }

    /// `h_u · h_v` of a shopper and an item of the catalogue (RPORec).
    pub fn score(&self, shopper: &[f32], item: u32) -> f32 {
        match (&self.items, &self.network) {
            (HeadItems::Fixed(vectors), Rechead::Published(network)) => {
                network.shape().item_length * vectors.dot(item, shopper)
            }
            (HeadItems::Fixed(vectors), Rechead::Paper(_)) => vectors.dot(item, shopper),
            (HeadItems::Made(items), _) => {
                let width = self.network.width();
                dot(shopper, &items[item as usize * width..][..width])
            }
        }
    }

    /// The same of an inline item with this text.
    pub fn score_text(&self, shopper: &[f32], text: &str, reader: &TextReader) -> f32 {
        let text = match &self.network {
            Rechead::Paper(_) => reader.vector(text),
            Rechead::Published(_) => reader.wide(text),
        };
        dot(shopper, &self.network.item(&text, &mut RecheadScratch::default()))
    }
}

// === impl ShopperTokens ===

impl ShopperTokens {
    /// The same, as the network reads them.
    pub fn borrowed(&self) -> RecheadTokens<'_> {
        let Self { history, thought, answer } = self;
        RecheadTokens { history, thought, answer: answer.as_deref() }
    }
}

/// The vectors that the network makes of all items' texts (items, e): (items, d).
fn made(network: &PaperRechead, item_texts: &[f32]) -> Arc<[f32]> {
    let mut room = RecheadScratch::default();
    let texts = item_texts.chunks_exact(network.text_width());
    texts.flat_map(|text| network.item(text, &mut room)).collect()
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
