//! Why a GPU can't compute gradients.

use super::super::device::CudaError;
use crate::nn::decoder::{DecoderConfigError, LinearId};

/// Why a GPU can't compute gradients.
#[derive(Debug, thiserror::Error)]
pub enum BackpropError {
    /// There are no kernels for the model.
    #[error(transparent)]
    Config(#[from] DecoderConfigError),
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] CudaError),
    /// A tensor has another shape than the model says.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// The model has no adapters.
    #[error("a GPU trains adapters only, and the model has none")]
    NoAdapters,
    /// The model has an adapter on its unembedding.
    #[error("a GPU trains adapters of layers, and the model has one on `{}`", LinearId::Unembed.name())]
    OnUnembedding,
    /// A batch is larger than the buffers.
    #[error(
        "a batch has {rows} rows in sequences of {length}, and there is room for {rows_max} in such of {length_max}"
    )]
    TooLarge {
        /// Its rows, padding included.
        rows: usize,
        /// Rows of a sequence.
        length: usize,
        /// Rows of the largest batch.
        rows_max: usize,
        /// Rows of its longest sequence.
        length_max: usize,
    },
    /// A batch has a token or a position that the model does not have.
    #[error("a batch has {what} {value}, and there are {count}")]
    OutOfBounds {
        /// `token` or `position`.
        what: &'static str,
        /// Its number.
        value: u32,
        /// How many the model has.
        count: usize,
    },
}
