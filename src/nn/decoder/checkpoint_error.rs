//! The error of a checkpoint that cannot be used.

use super::DecoderConfigError;
use safetensors::SafeTensorError;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// Why a checkpoint cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// A file cannot be read.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A folder holds no model, or several.
    #[error("`{}` {found}; it should be a folder with config.json and *.safetensors, or a GGUF file", path.display())]
    Unclear {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        found: String,
    },
    /// A GGUF file has no `tokenizer.json` beside it. Its own tokenizer is not read.
    #[error("`{}` is missing: a GGUF file needs the model's tokenizer.json beside it", .0.display())]
    Tokenizer(PathBuf),
    /// The configuration is malformed or not supported.
    #[error(transparent)]
    Config(#[from] DecoderConfigError),
    /// A file is not in the safetensors format.
    #[error("`{}` is not a safetensors file", path.display())]
    Safetensors {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SafeTensorError,
    },
    /// A file is not in the GGUF format.
    #[error("`{}` is not a valid GGUF file: {why}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// A tensor that the decoder needs is missing.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// Two files hold tensors of the same name.
    #[error("tensor `{0}` is there twice")]
    Twice(String),
    /// A tensor's dimensions differ from the configuration's.
    #[error("tensor `{name}` has dimensions {found:?}, not {expected:?}")]
    Dimensions {
        /// The tensor.
        name: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// The configuration's.
        expected: Vec<usize>,
    },
    /// A tensor's number format is not supported.
    #[error("tensor `{name}` is {found}, not F32, F16 or BF16")]
    Type {
        /// The tensor.
        name: String,
        /// Its format.
        found: String,
    },
    /// Requested rows do not exist, or do not fill the given buffer.
    #[error("rows {}..{} of `{name}`, which has {of}, do not fill {length} numbers", rows.start, rows.end)]
    Rows {
        /// The tensor.
        name: String,
        /// The rows.
        rows: Range<usize>,
        /// Rows of the tensor.
        of: usize,
        /// Length of the buffer.
        length: usize,
    },
    /// The system has too little memory for the model.
    #[error("the system has no memory for the model's {what}")]
    Memory {
        /// The part that does not fit.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A matrix cannot be quantised.
    #[error("`{name}` cannot be quantised: its {columns} inputs are not whole blocks of {block}")]
    Blocks {
        /// The tensor.
        name: String,
        /// Its inputs.
        columns: usize,
        /// Numbers in a block.
        block: usize,
    },
    /// The tensor library refused.
    #[error("tensor library")]
    Candle(#[from] candle_core::Error),
}
