//! Semantic ids as tokens of a language model: `<a_12><b_3><c_40><d_1>`, one token for each code.
//!
//! The letter is the level of the code. So a token has one meaning at every position, and an id needs no
//! delimiters: it begins with an `a`, and has a fixed number of levels.

use tokenizers::{AddedToken, Tokenizer};

/// Levels that have a letter.
const LEVELS_MAX: usize = 26;
/// Codes of a level, at most: a code has 16 bits.
const CODES_MAX: usize = 1 << 16;

/// The tokens of semantic ids in one tokenizer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SemanticTokens {
    codes: usize,
    /// (levels, codes): the token of each code.
    tokens: Vec<u32>,
    /// The same, sorted by token: (token, index in `tokens`).
    indices: Vec<(u32, usize)>,
}

/// Why a tokenizer can't have the tokens.
#[derive(Debug, thiserror::Error)]
pub enum SemanticTokensError {
    /// A number is out of bounds.
    #[error("semantic ids: {field} must be 1 to {max}, not {value}")]
    Range {
        /// The number: `levels` or `codes`.
        field: &'static str,
        /// Its maximum.
        max: usize,
        /// Its value.
        value: usize,
    },
    /// The tokenizer refused a token.
    #[error("the tokenizer refused the token `{0}`")]
    Refused(String),
}

// === impl SemanticTokens ===

impl SemanticTokens {
    /// Adds missing tokens to the end of a tokenizer, level by level. Tokens that it has keep their numbers,
    /// so the same call finds them in a tokenizer that was saved.
    pub fn add_to(
        tokenizer: &mut Tokenizer,
        levels: usize,
        codes: usize,
    ) -> Result<Self, SemanticTokensError> {
        for (field, value, max) in [("levels", levels, LEVELS_MAX), ("codes", codes, CODES_MAX)] {
            if !(1..=max).contains(&value) {
                return Err(SemanticTokensError::Range { field, max, value });
            }
        }
        let names: Vec<String> = (0..levels)
            .flat_map(|level| (0..codes).map(move |code| name(level, code as u16)))
            .collect();
        // They are matched before the text around them is normalised. They are not special tokens, so
        // decoding keeps them.
        let added = names.iter().map(|name| AddedToken::from(name, false).normalized(false));
        let refused = |name: &String| SemanticTokensError::Refused(name.clone());
        tokenizer.add_tokens(added).map_err(|_| refused(&names[0]))?;
        let token = |name: &String| tokenizer.token_to_id(name).ok_or_else(|| refused(name));
        let tokens = names.iter().map(token).collect::<Result<Vec<u32>, _>>()?;
        let mut indices: Vec<(u32, usize)> = tokens.iter().copied().zip(0..).collect();
        indices.sort_unstable();
        Ok(Self { codes, tokens, indices })
    }

    /// Tokens of an id.
    pub fn levels(&self) -> usize {
        self.tokens.len() / self.codes
    }

    /// All tokens, level by level: the rows that a model's embedding needs.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The tokens of an id, or of a prefix; `None` if a code or a level is out of bounds.
    pub fn encode(&self, id: &[u16]) -> Option<Vec<u32>> {
        let token = |(level, &code): (usize, &u16)| {
            let code = usize::from(code);
            if code < self.codes {
                self.tokens.get(level * self.codes + code).copied()
            } else {
                None
            }
        };
        id.iter().enumerate().map(token).collect()
    }

    /// The id of these tokens; `None` if one of them is not a code, or is of another level.
    pub fn decode(&self, tokens: &[u32]) -> Option<Vec<u16>> {
        let code = |(level, token): (usize, &u32)| {
            let found = self.indices.binary_search_by_key(token, |&(token, _)| token).ok()?;
            let index = self.indices[found].1;
            (index / self.codes == level).then_some((index % self.codes) as u16)
        };
        tokens.iter().enumerate().map(code).collect()
    }
}

/// An id as text.
pub fn write_id(id: &[u16]) -> String {
    id.iter().enumerate().map(|(level, &code)| name(level, code)).collect()
}

/// Parses an id in the form of [`write_id`], and nothing else.
pub fn read_id(text: &str) -> Option<Vec<u16>> {
    let codes = text.strip_prefix('<')?.strip_suffix('>')?.split("><");
    let code = |(level, code): (usize, &str)| {
        let digits = code.strip_prefix(letter(level)?)?.strip_prefix('_')?;
        let code = digits.parse::<u16>().ok()?;
        // An id has one form: without a sign or leading zeros.
        (code.to_string() == digits).then_some(code)
    };
    codes.enumerate().map(code).collect()
}

fn name(level: usize, code: u16) -> String {
    format!("<{}_{code}>", letter(level).unwrap_or('?'))
}

fn letter(level: usize) -> Option<char> {
    (level < LEVELS_MAX).then(|| char::from(b'a' + level as u8))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::TextTokenizer;

    fn tokenizer() -> Tokenizer {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokenizer.json");
        TextTokenizer::fit(["red mug and blue mug", "Red Mug, A Gift"], 300)
            .unwrap()
            .save(&path)
            .unwrap();
        Tokenizer::from_file(&path).unwrap()
    }

    #[test]
    fn an_id_is_text_and_back() {
        assert_eq!(write_id(&[12, 3, 40, 1]), "<a_12><b_3><c_40><d_1>");
        for id in [vec![0], vec![12, 3, 40, 1], vec![65_535; LEVELS_MAX]] {
            assert_eq!(read_id(&write_id(&id)), Some(id));
        }
        for text in ["", "<>", "<b_1>", "<a_1>x", "<a_1><a_2>", "<a_01>", "<a_+1>", "<a_65536>"] {
            assert_eq!(read_id(text), None, "{text}");
        }
    }

    #[test]
    fn each_code_is_one_token_within_a_text() {
        let mut tokenizer = tokenizer();
        let before = tokenizer.get_vocab_size(true);
        let tokens = SemanticTokens::add_to(&mut tokenizer, 4, 50).unwrap();
        assert_eq!(tokenizer.get_vocab_size(true), before + 200);
        assert_eq!(tokens.tokens(), (before as u32..before as u32 + 200).collect::<Vec<_>>());
        let id = [12, 3, 40, 1];
        let text = format!("A gift, red mug{}", write_id(&id));
        let encoded = tokenizer.encode_fast(text.as_str(), false).unwrap();
        let written: Vec<u32> =
            encoded.get_ids().iter().copied().filter(|&token| token as usize >= before).collect();
        assert_eq!(Some(&written), tokens.encode(&id).as_ref());
        assert_eq!(tokens.decode(&written).unwrap(), id);
        let plain = tokenizer.encode_fast("a gift, red mug", false).unwrap();
        assert_eq!(encoded.len(), plain.len() + 4, "the text before is read as ever");
        let decoded = tokenizer.decode(&written, true).unwrap();
        assert_eq!(read_id(&decoded.replace(' ', "")).unwrap(), id, "{decoded}");
    }

    #[test]
    fn a_saved_tokenizer_has_the_same_tokens() {
        let mut tokenizer = tokenizer();
        let tokens = SemanticTokens::add_to(&mut tokenizer, 3, 20).unwrap();
        let mut again: Tokenizer = tokenizer.to_string(false).unwrap().parse().unwrap();
        let size = again.get_vocab_size(true);
        assert_eq!(SemanticTokens::add_to(&mut again, 3, 20).unwrap(), tokens);
        assert_eq!(again.get_vocab_size(true), size, "nothing was added twice");
    }

    #[test]
    fn tokens_of_another_level_are_no_id() {
        let tokens = SemanticTokens::add_to(&mut tokenizer(), 2, 5).unwrap();
        let own = tokens.encode(&[4, 0]).unwrap();
        assert_eq!(tokens.decode(&own[..1]), Some(vec![4]), "how an id begins");
        assert_eq!(tokens.decode(&[own[1], own[0]]), None);
        assert_eq!(tokens.decode(&[0]), None);
        assert_eq!((tokens.encode(&[5]), tokens.encode(&[1, 1, 1])), (None, None));
    }

    #[test]
    fn sizes_out_of_bounds_are_named() {
        let error = |levels, codes| {
            SemanticTokens::add_to(&mut tokenizer(), levels, codes).unwrap_err().to_string()
        };
        assert_eq!(error(27, 5), "semantic ids: levels must be 1 to 26, not 27");
        assert_eq!(error(2, 0), "semantic ids: codes must be 1 to 65536, not 0");
    }
}
