//! Text to numbers: a byte-level BPE learned from the shop's own texts.

use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::normalizers::utils::{Lowercase, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{NormalizerWrapper, Tokenizer, TokenizerBuilder};

/// Tokens of one text that are read; a reason has about thirty, a description about eighty.
pub const TEXT_TOKENS_MAX: usize = 128;
/// Bytes of one text that are looked at, so that a huge text costs no more than a long one.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Times that a pair of pieces has to occur to become a token: what occurs once teaches nothing.
const PAIR_COUNT_MIN: u64 = 2;

/// Turns a shop's texts into numbers below [`TextTokenizer::vocabulary`], regardless of case.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
}

/// Why a tokenizer could not be made, read or written.
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
    /// Learns up to `vocabulary` tokens (256 at least: the bytes); the same texts, in any order,
    /// give the same tokens.
    pub fn fit<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        vocabulary: usize,
    ) -> Result<Self, TextTokenizerError> {
        // A space in front makes the first word of a text the same token as anywhere else.
        let pieces = ByteLevel::default().add_prefix_space(true);
        let normalizer = Sequence::new(vec![NFKC.into(), Lowercase.into()]);
        let tokenizer = learn(texts, vocabulary, pieces, normalizer);
        Ok(Self { tokenizer: tokenizer.map_err(TextTokenizerError::when("made"))? })
    }

    /// Reads a `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self, TextTokenizerError> {
        let tokenizer = Tokenizer::from_file(path).map_err(TextTokenizerError::when("read"))?;
        Ok(Self { tokenizer })
    }

    /// Writes a `tokenizer.json`, which any program of the Hugging Face family reads.
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
        // Every byte is a token, so encoding cannot fail; were it to, a text without tokens is
        // what a missing text is.
        let encoding = self.tokenizer.encode_fast(text, false);
        let mut tokens = encoding.map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default();
        tokens.truncate(TEXT_TOKENS_MAX);
        tokens
    }
}

/// A byte-level BPE of these texts, the same in whichever order they come.
pub(super) fn learn<'a>(
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

    fn tokens() -> TextTokenizer {
        TextTokenizer::fit(TITLES, 300).unwrap()
    }

    fn json(tokens: &TextTokenizer) -> String {
        tokens.tokenizer.to_string(false).unwrap()
    }

    /// Enough words that merges tie often: ties are where an unordered map would show.
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
    fn case_and_width_do_not_matter_and_place_does_not_either() {
        let tokens = tokens();
        assert_eq!(tokens.encode("RED mug"), tokens.encode("red Mug"));
        assert_eq!(tokens.encode("ｍｕｇ"), tokens.encode("mug"));
        assert_eq!(tokens.encode("mug").len(), 1, "a frequent word is one token");
        assert!(tokens.encode("red mug").ends_with(&tokens.encode("mug")));
    }

    #[test]
    fn any_text_is_encoded_within_bounds() {
        let tokens = tokens();
        assert!(tokens.encode("").is_empty());
        for text in ["日本語 🫖", "\0\u{ffff}", "ß"] {
            let encoded = tokens.encode(text);
            assert!(!encoded.is_empty());
            assert!(encoded.iter().all(|&token| (token as usize) < tokens.vocabulary()));
        }
        assert_eq!(tokens.encode(&"é".repeat(100_000)).len(), TEXT_TOKENS_MAX);
    }

    #[test]
    fn a_saved_tokenizer_is_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        let tokens = tokens();
        tokens.save(&path).unwrap();
        let loaded = TextTokenizer::load(&path).unwrap();
        assert_eq!(json(&loaded), json(&tokens));
        assert_eq!(loaded.encode("red cake"), tokens.encode("red cake"));
        std::fs::write(&path, "{").unwrap();
        assert_eq!(
            TextTokenizer::load(&path).unwrap_err().to_string(),
            "the tokenizer could not be read"
        );
    }
}
