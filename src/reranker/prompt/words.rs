//! What a caller says in words of a shopper, and what a shopper asks for, as a trunk tells it.
//!
//! Strangers write it. So it is told up to a bound, on one line, and without the tokens that a tokenizer
//! holds beside its words: a text can neither end the prompt nor name items by their ids.

use super::{Prompts, STOP};

/// Tokens of each that are told: the first.
const TOKENS_MAX: usize = 64;
/// Characters of each that are read at all.
const CHARACTERS_MAX: usize = 8 * TOKENS_MAX;

/// What is said in words; either may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShopperWords<'a> {
    /// What the shop knows about the shopper.
    pub profile: &'a str,
    /// What the shopper asks for.
    pub request: &'a str,
}

impl Prompts {
    /// What the shop knows about a shopper.
    pub(super) fn profile(&self, words: ShopperWords<'_>) -> Vec<u32> {
        self.told(&self.about, words.profile)
    }

    /// What a shopper asks for.
    pub(super) fn request(&self, words: ShopperWords<'_>) -> Vec<u32> {
        self.told(&self.asks, words.request)
    }

    /// A sentence of these words, or nothing where there are none.
    fn told(&self, begin: &[u32], text: &str) -> Vec<u32> {
        let text: String = text.chars().take(CHARACTERS_MAX).collect();
        let (mut tokens, stranger) = self.plain(&text);
        if stranger {
            // Around what was left out there may be spaces, which say nothing.
            let left = self.vocabulary.decode(&tokens).unwrap_or_default();
            tokens = self.plain(&left).0;
        }
        tokens.truncate(TOKENS_MAX);
        if tokens.is_empty() {
            return tokens;
        }
        [begin, &tokens, &self.stop].concat()
    }

    /// The tokens of a text's words, and whether it held others. What the tokenizer can't read says
    /// nothing.
    fn plain(&self, text: &str) -> (Vec<u32>, bool) {
        let line = text.split_whitespace().fold(String::new(), |line, word| line + " " + word);
        let mut tokens = self.vocabulary.encode(line.trim_end_matches(STOP)).unwrap_or_default();
        let all = tokens.len();
        tokens.retain(|token| !self.added.contains(token));
        let stranger = tokens.len() < all;
        (tokens, stranger)
    }
}
