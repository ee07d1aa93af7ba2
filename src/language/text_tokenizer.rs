//! The tokenizer of the text encoder: a byte-level BPE learned from the shop's own texts.

use crate::regular_file::{self, JSON_BYTES_MAX, Links};
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::normalizers::utils::{Lowercase, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{NormalizerWrapper, Tokenizer, TokenizerBuilder};

/// Tokens of one text, at most. A reason has about thirty, a description about eighty.
pub const TEXT_TOKENS_MAX: usize = 128;
/// Bytes of one text that are read, so that a huge text costs no more than a long one.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Occurrences that a pair of pieces needs to become a token.
const PAIR_COUNT_MIN: u64 = 2;

/// Encodes a shop's texts as tokens below [`TextTokenizer::vocabulary`], regardless of case.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
}

/// Why a tokenizer could not be trained, read or written.
#[derive(Debug, thiserror::Error)]
#[error("the tokenizer could not be {action}")]
pub struct TextTokenizerError {
    action: &'static str,
    source: tokenizers::Error,
}

impl TextTokenizerError {
    fn when(action: &'static str) -> impl Fn(tokenizers::Error) -> Self {
        move |source| Self { action, source }
    }
}

impl TextTokenizer {
    /// Trains a tokenizer of up to `vocabulary` tokens, of which the bytes are 256. The tokens don't depend
    /// on the order of the texts.
    pub fn fit<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        vocabulary: usize,
    ) -> Result<Self, TextTokenizerError> {
        // With a space in front, the first word of a text is the same token as elsewhere.
        let pieces = ByteLevel::default().add_prefix_space(true);
        let normalizer = Sequence::new(vec![NFKC.into(), Lowercase.into()]);
        let tokenizer = train_bpe(texts, vocabulary, pieces, normalizer);
        Ok(Self { tokenizer: tokenizer.map_err(TextTokenizerError::when("trained"))? })
    }

    /// Reads a `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self, TextTokenizerError> {
        let bytes = regular_file::read(path, Links::Followed, JSON_BYTES_MAX)
            .map_err(|error| TextTokenizerError::when("read")(error.into()))?;
        let tokenizer = Tokenizer::from_bytes(bytes).map_err(TextTokenizerError::when("read"))?;
        Ok(Self { tokenizer })
    }

    /// Writes a `tokenizer.json` in Hugging Face's format.
    pub fn save(&self, path: &Path) -> Result<(), TextTokenizerError> {
        self.tokenizer.save(path, false).map_err(TextTokenizerError::when("written"))
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The tokens of a text, at most [`TEXT_TOKENS_MAX`] of them.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        // Every byte is a token, so encoding cannot fail. If it did, the text would count as empty.
        let encoding = self.tokenizer.encode_fast(text, false);
        let mut tokens = encoding.map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
        tokens.truncate(TEXT_TOKENS_MAX);
        tokens
    }
}

/// Trains a byte-level BPE. It does not depend on the order of the texts.
pub(super) fn train_bpe<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    vocabulary: usize,
    pieces: ByteLevel,
    normalizer: impl Into<NormalizerWrapper>,
) -> tokenizers::Result<Tokenizer> {
    let mut texts: Vec<&str> = texts.into_iter().collect();
    texts.sort_unstable();
    let mut trainer = BpeTrainer::builder()
        .vocab_size(vocabulary)
        .min_frequency(PAIR_COUNT_MIN)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    let mut untrained = TokenizerBuilder::new()
        .with_model(BPE::default())
        .with_normalizer(Some(normalizer.into()))
        .with_pre_tokenizer(Some(pieces))
        .with_post_processor(Some(pieces))
        .with_decoder(Some(pieces))
        .build()?;
    Ok(untrained.train(&mut trainer, texts.into_iter())?.clone().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TITLES: [&str; 6] = [
        "Red Retrospot Mug",
        "Red Retrospot Cake Stand",
        "Ceramic Cake Stand",
        "Ceramic Retrospot Mug",
        "Wooden Picture Frame",
        "Wooden Cake Box",
    ];

    fn tokenizer() -> TextTokenizer {
        TextTokenizer::fit(TITLES, 300).unwrap()
    }

    fn json(tokenizer: &TextTokenizer) -> String {
        tokenizer.tokenizer.to_string(false).unwrap()
    }

    /// Enough words for many ties between merges, which would show an unordered map.
    fn many_titles() -> Vec<String> {
        let syllables = ["ka", "lo", "mi", "ren", "tos", "vu", "pel", "dar"];
        let word = |n: usize| {
            format!("{}{}{}", syllables[n % 8], syllables[n / 8 % 8], syllables[n * 5 % 8])
        };
        (0..600).map(|n| format!("{} {} {}", word(n), word(n * 7 + 3), word(n * 13 + 1))).collect()
    }

    #[test]
    fn the_same_texts_in_any_order_give_the_same_tokens() {
        let mut titles = many_titles();
        let once = TextTokenizer::fit(titles.iter().map(String::as_str), 600).unwrap();
        for _ in 0..4 {
            titles.rotate_left(123);
            let again = TextTokenizer::fit(titles.iter().map(String::as_str), 600).unwrap();
            assert_eq!(json(&once), json(&again));
        }
    }

    #[test]
    fn case_width_and_position_do_not_matter() {
        let tokenizer = tokenizer();
        assert_eq!(tokenizer.encode("RED mug"), tokenizer.encode("red Mug"));
        assert_eq!(tokenizer.encode("ｍｕｇ"), tokenizer.encode("mug"));
        assert_eq!(tokenizer.encode("mug").len(), 1, "a frequent word is one token");
        assert!(tokenizer.encode("red mug").ends_with(&tokenizer.encode("mug")));
    }

    #[test]
    fn any_text_is_encoded_within_bounds() {
        let tokenizer = tokenizer();
        assert!(tokenizer.encode("").is_empty());
        for text in ["日本語 🫖", "\0\u{ffff}", "ß"] {
            let encoded = tokenizer.encode(text);
            assert!(!encoded.is_empty());
            assert!(encoded.iter().all(|&token| (token as usize) < tokenizer.vocabulary()));
        }
        assert_eq!(tokenizer.encode(&"é".repeat(100_000)).len(), TEXT_TOKENS_MAX);
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let tokenizer = tokenizer();
        tokenizer.save(&path).unwrap();
        let loaded = TextTokenizer::load(&path).unwrap();
        assert_eq!(json(&loaded), json(&tokenizer));
        assert_eq!(loaded.encode("red cake"), tokenizer.encode("red cake"));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(
            TextTokenizer::load(&path).unwrap_err().to_string(),
            "the tokenizer could not be read"
        );
    }
}
