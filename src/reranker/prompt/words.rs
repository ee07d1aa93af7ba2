//! Untrusted texts in a trunk: what the shop knows about a shopper, and the shopper's request in words.
//!
//! They are truncated, put on one line, and stripped of the tokens that the tokenizer added to its words. So a text can
//! neither end the prompt nor name items by id.

use super::{Prompts, STOP};
use crate::reranker::shopper::ShopperWords;

/// Tokens of each text: the first.
const TOKENS_MAX: usize = 64;
/// Characters of each text that are tokenized.
const CHARACTERS_MAX: usize = 8 * TOKENS_MAX;

impl Prompts {
    /// The sentence about a shopper.
    pub(super) fn profile(&self, words: ShopperWords<'_>) -> Vec<u32> {
        self.sentence(&self.about, words.profile)
    }

    /// The sentence of a shopper's request.
    pub(super) fn query(&self, words: ShopperWords<'_>) -> Vec<u32> {
        self.sentence(&self.query, words.query_text)
    }

    /// A sentence of a text, or no tokens if nothing of the text is left.
    fn sentence(&self, begin: &[u32], text: &str) -> Vec<u32> {
        let text: String = text.chars().take(CHARACTERS_MAX).collect();
        let (mut tokens, removed) = self.plain_tokens(&text);
        if removed {
            // Spaces may be left around the removed tokens.
            let left = self.tokenizer.decode(&tokens).unwrap_or_default();
            tokens = self.plain_tokens(&left).0;
        }
        tokens.truncate(TOKENS_MAX);
        if tokens.is_empty() {
            return tokens;
        }
        [begin, &tokens, &self.stop].concat()
    }

    /// The tokens of a text without added tokens, and whether any was removed. A text that can't be tokenized has none.
    fn plain_tokens(&self, text: &str) -> (Vec<u32>, bool) {
        let line = text.split_whitespace().fold(String::new(), |line, word| line + " " + word);
        let mut tokens = self.tokenizer.encode(line.trim_end_matches(STOP)).unwrap_or_default();
        let all = tokens.len();
        tokens.retain(|token| !self.added.contains(token));
        let removed = tokens.len() < all;
        (tokens, removed)
    }
}
