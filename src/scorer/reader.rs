//! Encodes texts as vectors.

use crate::language::TextTokenizer;
use crate::nn::text::{
    Bert, BertFolder, EncodeTokens as _, Projection, StaticFolder, TEXT_WIDTH, TextEncoder,
    TextEncoderError, TokenTable, bert_folder, static_table,
};
use moka::sync::Cache;
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

/// Queries whose wide vectors are kept, where a BERT makes them.
const QUERIES_KEPT: u64 = 10_000;
/// Bytes of a query whose vector is kept, at most.
const QUERY_KEPT_BYTES_MAX: usize = 256;

/// A text encoder and the tokenizer that it was trained with.
///
/// A text has two vectors: a *wide* one, as the encoder gives it, and the one that the scorer's network reads, of
/// [`TEXT_WIDTH`] numbers. They are the same for the encoder that a shop trains. A text is cut at
/// [`TEXT_TOKENS_MAX`](crate::language::TEXT_TOKENS_MAX) tokens.
#[derive(Debug)]
pub struct TextReader {
    tokens: TextTokenizer,
    encoder: TextEncoder,
    /// Wide vectors of queries. `None` for an encoder that is as fast as a look-up.
    queries: Option<Cache<String, Arc<[f32]>>>,
}

/// Why a reader is refused.
#[derive(Debug, thiserror::Error)]
pub enum TextReaderError {
    /// The encoder.
    #[error(transparent)]
    Encoder(#[from] TextEncoderError),
    /// The tokenizer.
    #[error("the encoder's tokenizer")]
    Tokenizer(#[from] crate::language::TextTokenizerError),
}

/// What a text is for: some encoders read a prefix that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TextRole {
    Document,
    Query,
}

// === impl TextReader ===

impl TextReader {
    /// A reader of these parts. The tokenizer may have no token that the encoder does not know.
    pub fn new(tokens: TextTokenizer, encoder: TextEncoder) -> Result<Self, TextReaderError> {
        let (found, rows) = (tokens.vocabulary(), encoder.wide().vocabulary());
        if found > rows {
            return Err(TextEncoderError::Vocabulary { tokens: found, rows }.into());
        }
        let (tokens, queries) = match encoder.bert() {
            Some(bert) => {
                (tokens.framed(bert.settings().tokens_max)?, Some(Cache::new(QUERIES_KEPT)))
            }
            None => (tokens, None),
        };
        Ok(Self { tokens, encoder, queries })
    }

    /// The vector of a text: (`TEXT_WIDTH`), of length one or all zeros.
    pub fn vector(&self, text: &str) -> Vec<f32> {
        let mut vector = vec![0.0; TEXT_WIDTH];
        self.encoder.encode(&self.encode(text, TextRole::Document), &mut vector);
        vector
    }

    /// The vectors of many texts, in order: (texts, `TEXT_WIDTH`).
    pub fn vectors<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<f32> {
        self.encoder.project_all(self.wides(texts))
    }

    /// The tokens of a text, each below [`Self::vocabulary`].
    pub fn tokens(&self, text: &str) -> Vec<u32> {
        self.encode(text, TextRole::Document)
    }

    /// How many tokens there are.
    pub fn vocabulary(&self) -> usize {
        self.tokens.vocabulary()
    }

    /// The rows whose sum has the direction of a text's wide vector, one for each token: (vocabulary, [`Self::width`]).
    /// `None` for an encoder that is no table.
    pub fn token_rows(&self) -> Option<Vec<f32>> {
        let mut rows = self.encoder.table()?.numbers();
        rows.truncate(self.vocabulary() * self.width());
        Some(rows)
    }

    /// Numbers in a wide vector.
    pub fn width(&self) -> usize {
        self.encoder.wide().width()
    }

    /// The wide vector of a text: ([`Self::width`]), of length one or all zeros.
    pub fn wide(&self, text: &str) -> Vec<f32> {
        self.wide_as(text, TextRole::Document)
    }

    /// The wide vector of a shopper's query, in the space of the items' [`Self::wide`] ones. Where a BERT makes it, a
    /// bounded cache keeps it.
    pub fn query(&self, text: &str) -> Arc<[f32]> {
        let make = || -> Arc<[f32]> { self.wide_as(text, TextRole::Query).into() };
        match &self.queries {
            Some(kept) if text.len() <= QUERY_KEPT_BYTES_MAX => kept.get_with_by_ref(text, make),
            _ => make(),
        }
    }

    /// The wide vectors of many texts, in order: (texts, [`Self::width`]). A BERT reads equal texts once.
    pub fn wides<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Vec<f32> {
        let encode = |text: &str| self.encode(text, TextRole::Document);
        if self.encoder.bert().is_none() {
            let tokens: Vec<Vec<u32>> =
                texts.par_iter().map(|text| encode(text.as_ref())).collect();
            return self.encoder.wide().encode_all(&tokens);
        }
        let mut numbers: FxHashMap<&str, usize> = FxHashMap::default();
        let mut distinct: Vec<&str> = Vec::new();
        let number = |text| {
            *numbers.entry(text).or_insert_with(|| {
                distinct.push(text);
                distinct.len() - 1
            })
        };
        let order: Vec<usize> = texts.iter().map(AsRef::as_ref).map(number).collect();
        let tokens: Vec<Vec<u32>> = distinct.par_iter().map(|text| encode(text)).collect();
        let (wide, width) = (self.encoder.wide().encode_all(&tokens), self.width());
        order.into_iter().flat_map(|text| &wide[text * width..][..width]).copied().collect()
    }

    /// The encoder.
    pub fn encoder(&self) -> &TextEncoder {
        &self.encoder
    }

    fn wide_as(&self, text: &str, role: TextRole) -> Vec<f32> {
        let tokens = self.encode(text, role);
        let Some(table) = self.encoder.table() else {
            return self.encoder.wide().encode_all(&[tokens]);
        };
        let mut vector = vec![0.0; table.width()];
        table.encode(&tokens, &mut vector);
        vector
    }

    fn encode(&self, text: &str, role: TextRole) -> Vec<u32> {
        let Some(bert) = self.encoder.bert() else { return self.tokens.encode(text) };
        let settings = bert.settings();
        let prefix = match role {
            TextRole::Document => &settings.document_prefix,
            TextRole::Query => &settings.query_prefix,
        };
        // A prefix alone would give an empty text a vector.
        if text.trim().is_empty() {
            return Vec::new();
        }
        let mut text = Cow::Borrowed(text);
        if !prefix.is_empty() {
            text = Cow::Owned(format!("{prefix}{text}"));
        }
        if settings.lowercase {
            text = Cow::Owned(text.to_lowercase());
        }
        self.tokens.encode(&text)
    }
}

/// Reads the static table of a folder, in single precision, and its tokenizer.
pub fn open_static(folder: &Path) -> Result<(TextTokenizer, TokenTable), TextReaderError> {
    let StaticFolder { table, tokenizer, drops_unknown } = static_table(folder)?;
    let tokens = TextTokenizer::load(&tokenizer)?;
    let unknown = tokens.unknown().filter(|_| drops_unknown);
    let table = match unknown {
        Some(token) => table.without(token),
        None => table,
    };
    let (found, rows) = (tokens.vocabulary(), table.vocabulary());
    if found > rows {
        return Err(TextEncoderError::Vocabulary { tokens: found, rows }.into());
    }
    Ok((tokens, table))
}

/// Reads the BERT of a folder, and its tokenizer.
pub fn open_bert(folder: &Path) -> Result<(TextTokenizer, Bert), TextReaderError> {
    let BertFolder { folder, settings, tokenizer } = bert_folder(folder)?;
    let tokens = TextTokenizer::load(&tokenizer)?;
    let bert = Bert::open(&folder, settings)?;
    let (found, rows) = (tokens.vocabulary(), bert.vocabulary());
    if found > rows {
        return Err(TextEncoderError::Vocabulary { tokens: found, rows }.into());
    }
    Ok((tokens, bert))
}

/// A reader of a folder with a static table or a BERT, for measurements: its narrow vectors are the first numbers of its
/// wide ones.
pub fn open_pretrained(folder: &Path) -> Result<TextReader, TextReaderError> {
    match open_bert(folder) {
        Ok((tokens, bert)) => {
            let projection = Projection::fit(&[], bert.width());
            TextReader::new(tokens, TextEncoder::of_bert(Arc::new(bert), projection))
        }
        // A folder without a BERT's configuration may hold a table.
        Err(TextReaderError::Encoder(
            TextEncoderError::Missing { .. } | TextEncoderError::Family { .. },
        )) => {
            let (tokens, table) = open_static(folder)?;
            let projection = Projection::fit(&[], table.width());
            TextReader::new(tokens, TextEncoder::of_table(table, projection))
        }
        Err(error) => Err(error),
    }
}
