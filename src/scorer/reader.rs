//! Encodes texts as vectors.

use crate::language::TextTokenizer;
use crate::nn::text::{TEXT_WIDTH, TextEncoder};
use rayon::prelude::*;

/// A text encoder and the tokenizer that it was trained with.
///
/// A text has two vectors: a *wide* one, as the encoder gives it, and the one that the scorer's network reads, of
/// [`TEXT_WIDTH`] numbers. They are the same for the encoder that a shop trains.
#[derive(Debug)]
pub struct TextReader {
    tokens: TextTokenizer,
    encoder: TextEncoder,
}

impl TextReader {
    /// A reader of these parts.
    pub fn new(tokens: TextTokenizer, encoder: TextEncoder) -> Self {
        Self { tokens, encoder }
    }

    /// The vector of a text: (`TEXT_WIDTH`), of length one or all zeros.
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let mut vector = vec![0.0; TEXT_WIDTH];
        self.encoder.encode(&self.tokens.encode(text), &mut vector);
        vector
    }

    /// The vectors of many texts, in order: (texts, `TEXT_WIDTH`).
    pub fn vectors<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<f32> {
        texts.par_iter().flat_map_iter(|text| self.vector(text.as_ref())).collect()
    }

    /// The tokens of a text, each below [`Self::vocabulary`].
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.tokens.encode(text)
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.tokens.vocabulary()
    }

    /// The rows whose sum has the direction of a text's wide vector, one for each token: (vocabulary, [`Self::width`]).
    /// `None` for an encoder that is no table.
    pub fn token_rows(&self) -> Option<&[f32]> {
        Some(self.encoder.rows())
    }

    /// Numbers in a wide vector.
    pub fn width(&self) -> usize {
        TEXT_WIDTH
    }

    /// The wide vector of a text: ([`Self::width`]), of length one or all zeros.
    pub fn wide(&self, text: &str) -> Vec<f32> {
        self.vector(text)
    }

    /// The wide vectors of many texts, in order: (texts, [`Self::width`]).
    pub fn wides<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<f32> {
        texts.par_iter().flat_map_iter(|text| self.wide(text.as_ref())).collect()
    }
}
