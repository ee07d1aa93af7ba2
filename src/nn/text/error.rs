//! Why an encoder is refused.

use std::io;
use std::path::PathBuf;

/// Why an encoder is refused. The errors name the field, what was found and what is expected.
#[derive(Debug, thiserror::Error)]
pub enum TextEncoderError {
    /// A file can't be read.
    #[error("{} can't be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder lacks a file.
    #[error("{} has no {expected}", .folder.display())]
    Missing {
        /// The folder.
        folder: PathBuf,
        /// The file that is missing.
        expected: &'static str,
    },
    /// A folder has weights only as a pickle.
    #[error(
        "{} has its weights only as a pickle, {file}, which can run code when it is read: save them as safetensors",
        .folder.display()
    )]
    Pickle {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: String,
    },
    /// A BERT of another family.
    #[error("{} has `model_type` {found}, not bert", .path.display())]
    Family {
        /// The file of its configuration.
        path: PathBuf,
        /// Its family.
        found: String,
    },
    /// A setting of a folder that is not supported.
    #[error("{}: `{field}` is {found}, not {expected}", .path.display())]
    Setting {
        /// The file.
        path: PathBuf,
        /// The field.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: String,
    },
    /// The tokenizer has more tokens than the encoder.
    #[error("the tokenizer has {tokens} tokens, and the encoder's table has {rows} rows")]
    Vocabulary {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Rows of the table.
        rows: usize,
    },
    /// A number that is not finite.
    #[error("{0} has a number that is not finite")]
    NotFinite(String),
    /// A table that is too wide.
    #[error("the table of tokens is {found} wide, not 1 to {most}")]
    Width {
        /// Its width.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// A projection of another width.
    #[error("the projection gives {found} numbers, not {expected}")]
    ProjectionWidth {
        /// Its numbers.
        found: usize,
        /// Those that the scorer reads.
        expected: usize,
    },
    /// The tensors of a file do not fit together.
    #[error("{0}")]
    Tensors(String),
    /// The tensor library refused.
    #[error("tensor library")]
    Candle(#[from] candle_core::Error),
}
