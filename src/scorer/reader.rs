//! Encodes texts as vectors.

use crate::language::TextTokenizer;
use crate::nn::text::{TEXT_WIDTH, TextEncoder};
use rayon::prelude::*;

/// The static text encoder and the tokenizer that it was trained with.
#[derive(Debug)]
pub struct TextReader {
    /// The tokenizer.
    pub tokens: TextTokenizer,
    /// The encoder of its tokens.
    pub encoder: TextEncoder,
}

impl TextReader {
    /// The vector of a text: (width).
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let mut vector = vec![0.0; TEXT_WIDTH];
        self.encoder.encode(&self.tokens.encode(text), &mut vector);
        vector
    }

    /// The vectors of many texts, in order: (texts, width).
    pub fn vectors<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<f32> {
        texts.par_iter().flat_map_iter(|text| self.vector(text.as_ref())).collect()
    }
}
