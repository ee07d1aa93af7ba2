//! How a decoder is loaded onto a GPU.

use super::interface::CudaWeightDtype;
use crate::nn::packed::KvDtype;

/// How a decoder is loaded onto a GPU.
#[derive(Clone, Copy, Debug)]
pub struct CudaOptions {
    /// The number of the GPU.
    pub ordinal: usize,
    /// KV pages; fewer, if the GPU has no memory for so many.
    pub kv_pages: usize,
    /// Rows of a forward pass, at most.
    pub max_batched_tokens: usize,
    /// Tokens of a sequence, at most.
    pub context_tokens_max: usize,
    /// Sequences that decode at once, at most. Passes over one token of each are captured as CUDA graphs; with 0, none
    /// are.
    pub decodes_max: usize,
    /// The dtype that the layers' weights are converted to.
    pub weight_dtype: CudaWeightDtype,
    /// The dtype of the KV cache.
    pub kv_dtype: KvDtype,
}
