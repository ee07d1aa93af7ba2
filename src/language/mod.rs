//! How do texts become tokens, and tokens texts? How do we read what a shop says of its products?

mod attributes;
mod lexicon;
mod semantic;
mod tokens;
mod vocabulary;
mod words;

pub use attributes::{Mining, mine};
pub use semantic::{SemanticTokens, SemanticTokensError, read_id, write_id};
pub use tokens::{TEXT_TOKENS_MAX, TextTokenizer, TextTokenizerError};
pub use vocabulary::{END, IncrementalDetokenizer, LmTokenizer, LmTokenizerError};
