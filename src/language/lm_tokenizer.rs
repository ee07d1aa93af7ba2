//! The tokenizer of a language model: its `tokenizer.json`.

use super::text_tokenizer::train_bpe;
use super::{SemanticTokens, SemanticTokensError};
use crate::regular_file::{self, JSON_BYTES_MAX, Links};
use rustc_hash::FxHashSet;
use std::path::{Path, PathBuf};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer};

/// The end-of-text token of a tokenizer that is trained here.
pub const END: &str = "<|endoftext|>";

/// The tokenizer of a language model.
#[derive(Clone, Debug)]
pub struct LmTokenizer {
    tokenizer: Tokenizer,
}

/// Decodes a generated text token by token.
#[derive(Debug)]
pub struct IncrementalDetokenizer<'a> {
    tokenizer: &'a Tokenizer,
    tokens: Vec<u32>,
    prefix: String,
    read: usize,
    /// All tokens, and the text so far.
    all: Vec<u32>,
    text: String,
}

/// Why a tokenizer can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LmTokenizerError {
    /// The file is missing or is not a tokenizer.
    #[error("cannot read the tokenizer `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The tokenizer's error.
        source: tokenizers::Error,
    },
    /// The file can't be written.
    #[error("cannot write the tokenizer `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The tokenizer's error.
        source: tokenizers::Error,
    },
    /// The tokenizer refused a text or a token.
    #[error("the tokenizer refused {what}")]
    Refused {
        /// The input that it refused.
        what: &'static str,
        /// The tokenizer's error.
        source: tokenizers::Error,
    },
}

// === impl LmTokenizer ===

impl LmTokenizer {
    /// Trains the tokenizer of a new model on these texts, case-sensitive. It has at most `vocabulary`
    /// tokens, and at least 257: the bytes and [`END`].
    pub fn fit<'a>(
        texts: impl IntoIterator<Item = &'a str>,
        vocabulary: usize,
    ) -> Result<Self, LmTokenizerError> {
        let refused = |source| LmTokenizerError::Refused { what: "the training texts", source };
        let pieces = ByteLevel::default().add_prefix_space(false);
        let mut tokenizer =
            train_bpe(texts, vocabulary.saturating_sub(1), pieces, NFC).map_err(refused)?;
        tokenizer.add_special_tokens([AddedToken::from(END, true)]).map_err(refused)?;
        Ok(Self { tokenizer })
    }

    /// The number of the token with this text, if there is one.
    pub fn token(&self, text: &str) -> Option<u32> {
        self.tokenizer.token_to_id(text)
    }

    /// Reads the `tokenizer.json` of a model's folder.
    pub fn load(folder: &Path) -> Result<Self, LmTokenizerError> {
        let path = folder.join("tokenizer.json");
        let tokenizer = regular_file::read(&path, Links::Followed, JSON_BYTES_MAX)
            .map_err(tokenizers::Error::from)
            .and_then(Tokenizer::from_bytes);
        let tokenizer = tokenizer.map_err(|source| LmTokenizerError::Read { path, source })?;
        Ok(Self { tokenizer })
    }

    /// Writes the `tokenizer.json` of a model's folder.
    pub fn save(&self, folder: &Path) -> Result<(), LmTokenizerError> {
        let path = folder.join("tokenizer.json");
        let saved = self.tokenizer.save(&path, false);
        saved.map_err(|source| LmTokenizerError::Write { path, source })
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the tokens of semantic ids; see [`SemanticTokens::add_to`].
    pub fn add_semantic_ids(
        &mut self,
        levels: usize,
        codes: usize,
    ) -> Result<SemanticTokens, SemanticTokensError> {
        SemanticTokens::add_to(&mut self.tokenizer, levels, codes)
    }

    /// The added tokens: special tokens, those of semantic ids, and others outside of the BPE.
    pub fn added(&self) -> FxHashSet<u32> {
        self.tokenizer.get_added_tokens_decoder().into_keys().collect()
    }

    /// Adds these words as tokens, unless they are tokens already, and returns their numbers.
    pub fn add(&mut self, words: &[String]) -> Result<Vec<u32>, LmTokenizerError> {
        let refused = |source| LmTokenizerError::Refused { what: "a word", source };
        let added = words.iter().map(|word| AddedToken::from(word, false).normalized(false));
        self.tokenizer.add_tokens(added).map_err(refused)?;
        let token = |word: &String| {
            let missing = || refused(format!("{word} has no token").into());
            self.tokenizer.token_to_id(word).ok_or_else(missing)
        };
        words.iter().map(token).collect()
    }

    /// The tokens of a text, including those that the tokenizer adds around it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, LmTokenizerError> {
        let refused = |source| LmTokenizerError::Refused { what: "the text", source };
        let encoding = self.tokenizer.encode_fast(text, true).map_err(refused)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, without special tokens.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, LmTokenizerError> {
        let refused = |source| LmTokenizerError::Refused { what: "the tokens", source };
        self.tokenizer.decode(tokens, true).map_err(refused)
    }

    /// Decodes a text token by token.
    pub fn detokenizer(&self) -> IncrementalDetokenizer<'_> {
        IncrementalDetokenizer {
            tokenizer: &self.tokenizer,
            tokens: Vec::new(),
            prefix: String::new(),
            read: 0,
            all: Vec::new(),
            text: String::new(),
        }
    }
}

// === impl IncrementalDetokenizer ===

impl IncrementalDetokenizer<'_> {
    /// Adds a token, and returns the text that it adds. It is empty until a character is complete.
    pub fn add(&mut self, token: u32) -> Result<String, LmTokenizerError> {
        let refused = |source| LmTokenizerError::Refused { what: "a token", source };
        let step = tokenizers::step_decode_stream(
            self.tokenizer,
            vec![token],
            true,
            &mut self.tokens,
            &mut self.prefix,
            &mut self.read,
        );
        let part = step.map_err(refused)?.unwrap_or_default();
        self.text.push_str(&part);
        self.all.push(token);
        Ok(part)
    }

    /// The rest of the text: U+FFFD for a character that is incomplete.
    pub fn finish(&self) -> Result<String, LmTokenizerError> {
        let refused = |source| LmTokenizerError::Refused { what: "the tokens", source };
        let whole = self.tokenizer.decode(&self.all, true).map_err(refused)?;
        Ok(whole.strip_prefix(&self.text).unwrap_or_default().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::models::bpe::BPE;

    /// Every byte is a token.
    fn bytes() -> LmTokenizer {
        let mut characters: Vec<_> = ByteLevel::alphabet().into_iter().collect();
        characters.sort_unstable();
        let tokens: [(String, u32); 256] =
            std::array::from_fn(|id| (characters[id].to_string(), id as u32));
        let model = BPE::builder().vocab_and_merges(tokens, Vec::new());
        let mut tokenizer = Tokenizer::new(model.build().unwrap());
        let bytes = ByteLevel::default().add_prefix_space(false);
        tokenizer.with_pre_tokenizer(Some(bytes));
        tokenizer.with_decoder(Some(bytes));
        LmTokenizer { tokenizer }
    }

    #[test]
    fn a_text_decoded_token_by_token_is_the_whole_text() {
        let tokenizer = bytes();
        let text = "Teapot 🫖, 4 €";
        let tokens = tokenizer.encode(text).unwrap();
        assert_eq!(tokens.len(), text.len());
        assert_eq!(tokenizer.decode(&tokens).unwrap(), text);
        let mut detokenizer = tokenizer.detokenizer();
        let parts: Vec<_> = tokens.iter().map(|token| detokenizer.add(*token).unwrap()).collect();
        assert_eq!(parts.concat(), text);
        assert!(parts.iter().all(|part| !part.contains('\u{fffd}')), "{parts:?}");
        assert_eq!(detokenizer.finish().unwrap(), "");
    }

    #[test]
    fn an_incomplete_character_is_not_lost() {
        let tokenizer = bytes();
        let tokens = tokenizer.encode("4 €").unwrap();
        let mut detokenizer = tokenizer.detokenizer();
        let parts: Vec<_> = tokens[..4].iter().map(|t| detokenizer.add(*t).unwrap()).collect();
        assert_eq!(parts.concat(), "4 ");
        let rest = detokenizer.finish().unwrap();
        assert_eq!(rest, "\u{fffd}");
        assert_eq!(tokenizer.decode(&tokens[..4]).unwrap(), format!("4 {rest}"));
    }

    #[test]
    fn semantic_ids_are_tokens_that_outlive_the_file() {
        let mut tokenizer = bytes();
        let tokens = tokenizer.add_semantic_ids(2, 10).unwrap();
        assert_eq!(tokenizer.len(), 256 + 20);
        let folder = tempfile::tempdir().unwrap();
        tokenizer.save(folder.path()).unwrap();
        let mut loaded = LmTokenizer::load(folder.path()).unwrap();
        assert_eq!(loaded.add_semantic_ids(2, 10).unwrap(), tokens);
        let text = format!("A {}!", crate::language::write_id(&[7, 3]));
        let written = loaded.encode(&text).unwrap();
        assert_eq!(written.len(), 2 + 2 + 1);
        assert_eq!(tokens.decode(&written[2..4]).unwrap(), [7, 3]);
        assert_eq!(loaded.decode(&written).unwrap(), text);
    }

    #[test]
    fn a_folder_without_a_tokenizer_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = LmTokenizer::load(folder.path()).unwrap_err().to_string();
        assert!(error.ends_with("tokenizer.json`"), "{error}");
    }
}
