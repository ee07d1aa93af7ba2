//! How do we read what a shop says about its products?

mod attributes;
mod lexicon;
mod tokens;
mod words;

pub use attributes::{Mining, mine};
pub use tokens::{TEXT_TOKENS_MAX, Tokens, TokensError};
