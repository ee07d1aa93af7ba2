//! The tokenizer of the text encoder: a byte-level BPE learned from the shop's own texts, or that of a pretrained encoder.

use crate::regular_file::{self, JSON_BYTES_MAX, Links};
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::unicode::NFKC;
use tokenizers::normalizers::utils::{Lowercase, Sequence};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{ModelWrapper, NormalizerWrapper, Tokenizer, TokenizerBuilder, TruncationParams};

/// Tokens of one text, at most. A reason has about thirty, a description about eighty.
pub const TEXT_TOKENS_MAX: usize = 128;
/// Bytes of one text that are read, so that a huge text costs no more than a long one.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// Tokens of a text with special tokens around it, at least: the two, and one of its own.
const FRAMED_TOKENS_MIN: usize = 3;
/// Occurrences that a pair of pieces needs to become a token.
const PAIR_COUNT_MIN: u64 = 2;

/// Encodes a shop's texts as tokens below [`TextTokenizer::vocabulary`], regardless of case.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    tokenizer: Tokenizer,
    /// Whether the special tokens around a text are added.
    is_framed: bool,
}

/// Why a tokenizer could not be trained, read or written.
#[derive(Debug, thiserror::Error)]
#[error("the tokenizer could not be {action}")]
pub struct TextTokenizerError {
    action: &'static str,
    source: tokenizers::Error,
}

impl TextTokenizerError {
    pub(super) fn when(action: &'static str) -> impl Fn(tokenizers::Error) -> Self {
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
        let tokenizer = tokenizer.map_err(TextTokenizerError::when("trained"))?;
        Ok(Self { tokenizer, is_framed: false })
    }

    /// Reads a `tokenizer.json`. Its padding and its truncation are left out: a text ends where its tokens do, or at
    /// [`TEXT_TOKENS_MAX`].
    pub fn load(path: &Path) -> Result<Self, TextTokenizerError> {
        let bytes = regular_file::read(path, Links::Followed, JSON_BYTES_MAX)
            .map_err(|error| TextTokenizerError::when("read")(error.into()))?;
        Self::from_json(&bytes).map_err(TextTokenizerError::when("read"))
    }

    /// Reads the text of a `tokenizer.json`.
    pub(super) fn from_json(json: &[u8]) -> tokenizers::Result<Self> {
        let mut tokenizer = Tokenizer::from_bytes(json)?;
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None)?;
        Ok(Self { tokenizer, is_framed: false })
    }

    /// The tokenizer as the text of a `tokenizer.json`.
    pub(super) fn to_json(&self) -> tokenizers::Result<String> {
        self.tokenizer.to_string(false)
    }

    /// The same tokenizer, which adds its special tokens around a text: BERT's `[CLS]` and `[SEP]`. They count among
    /// the `tokens_max` that a text has at most.
    pub fn framed(mut self, tokens_max: usize) -> Result<Self, TextTokenizerError> {
        let most = tokens_max.min(TEXT_TOKENS_MAX);
        let cut = TruncationParams {
            max_length: most.max(FRAMED_TOKENS_MIN),
            ..TruncationParams::default()
        };
        self.tokenizer.with_truncation(Some(cut)).map_err(TextTokenizerError::when("read"))?;
        Ok(Self { is_framed: true, ..self })
    }

    /// The words of a text, each with the number of its tokens. A word with an unknown piece is `None`.
    pub(super) fn words(&self, text: &str) -> Vec<Option<(String, usize)>> {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        let Ok(encoding) = self.tokenizer.encode(text, false) else { return Vec::new() };
        let unknown = self.unknown();
        let pieces =
            encoding.get_word_ids().iter().zip(encoding.get_tokens()).zip(encoding.get_ids());
        let pieces: Vec<_> = pieces.map(|((word, piece), id)| (*word, piece, *id)).collect();
        let word = |pieces: &[(Option<u32>, &String, u32)]| {
            let is_known = pieces.iter().all(|(_, _, id)| Some(*id) != unknown);
            let text: String = pieces
                .iter()
                .map(|(_, piece, _)| piece.strip_prefix("##").unwrap_or(piece))
                .collect();
            is_known.then_some((text, pieces.len()))
        };
        pieces.chunk_by(|a, b| a.0 == b.0).map(word).collect()
    }

    /// The token that stands for whatever is unknown, if the tokenizer has one.
    pub fn unknown(&self) -> Option<u32> {
        let name = match self.tokenizer.get_model() {
            ModelWrapper::BPE(model) => model.unk_token.clone(),
            ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
            ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
            ModelWrapper::Unigram(_) => Some("<unk>".to_owned()),
        };
        name.and_then(|name| self.tokenizer.token_to_id(&name))
    }

    /// A token's piece of text, with its marks, if there is such a token.
    pub fn piece(&self, token: u32) -> Option<String> {
        self.tokenizer.id_to_token(token)
    }

    /// The special tokens, which stand for no text.
    pub fn special(&self) -> Vec<u32> {
        let decoder = self.tokenizer.get_added_tokens_decoder();
        let mut special: Vec<u32> =
            decoder.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        special.sort_unstable();
        special
    }

    /// Writes a `tokenizer.json` in Hugging Face's format.
    pub fn save(&self, path: &Path) -> Result<(), TextTokenizerError> {
        self.tokenizer.save(path, false).map_err(TextTokenizerError::when("written"))
    }

    /// The number above its largest token.
    pub fn vocabulary(&self) -> usize {
        let largest = self.tokenizer.get_vocab(true).into_values().max();
        largest.map_or(0, |token| token as usize + 1)
    }

    /// The tokens of a text, at most [`TEXT_TOKENS_MAX`] of them.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        // A text of nothing but white space has no vector, and special tokens would give it one.
        if self.is_framed && text.trim().is_empty() {
            return Vec::new();
        }
        // Where every byte is a token, encoding cannot fail. If it does elsewhere, the text counts as empty.
        let encoding = self.tokenizer.encode_fast(text, self.is_framed);
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
