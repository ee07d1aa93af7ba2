//! How do texts become tokens, and tokens texts? What does a product's title say about it?

mod asked;
mod lexicon;
mod lm_tokenizer;
mod mining;
mod semantic_tokens;
mod text_index;
mod text_tokenizer;
mod title_words;
mod word_weights;
mod words;
mod words_of_shop;

pub use asked::{ASKED_WORDS_MAX, AskedWords};
pub use lm_tokenizer::{END, IncrementalDetokenizer, LmTokenizer, LmTokenizerError};
pub use mining::{MiningConfig, mine};
pub use semantic_tokens::{SemanticTokens, SemanticTokensError, read_id, write_id};
pub use text_index::{INDEXED_WORDS_MAX, IndexedText, TextIndex, stem, stems};
pub use text_tokenizer::{TEXT_TOKENS_MAX, TextTokenizer, TextTokenizerError};
pub use title_words::{TITLE_WORDS, TitleWordsConfig, shared_words};
pub use word_weights::{WeightedWord, WordWeights};
pub use words_of_shop::{ShopVocabulary, ShopVocabularyLimits};
