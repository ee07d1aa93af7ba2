//! NVIDIA GPUs: a decoder that serves, over `kernels/decoder.cu` and cuBLAS; its backward pass, for adapters; and the
//! scorer's network, over `kernels/scorer.cu`.
//!
//! The libraries of CUDA are opened when a device is requested, so the same program starts on machines without them, and
//! says which one is missing. All memory of a forward pass is allocated when the model is loaded. A pass is one upload of
//! the rows that the engine laid out, and then a sequence of launches, or the replay of one CUDA graph.
//!
//! Layers' weights and the inputs of their products are bf16 or 8 bits, and so is the KV cache. The residual stream is
//! f32, and sums are f32, or 32-bit integers for products of 8-bit integers.

mod backprop;
mod batch;
mod blas;
mod buffers;
mod decoder;
mod device;
mod graphs;
#[expect(
    dead_code,
    clippy::struct_field_names,
    reason = "`tests/kernels.rs` reads its tables, and names are those of the kernels"
)]
mod interface;
mod load;
mod options;
mod pass;
mod products;
mod resident;
mod rope;
mod scorer;
mod slots;
mod upload;
mod words;

pub use backprop::{Backprop, BackpropError, BackpropOptions};
pub use batch::{CudaScorerLimits, CudaScorerTables, CudaSlate};
pub use decoder::CudaDecoder;
pub use device::CudaError;
pub use interface::CudaWeightDtype;
pub use load::LoadError;
pub use options::CudaOptions;
pub use scorer::{CudaScorer, CudaScorerError, CudaScores};
pub use upload::{CudaOutput, CudaOutputSpec};

use crate::nn::{decoder as wiring, packed};

// The interface depends on no other module, so it repeats what these say.
const _: () = {
    assert!(interface::PAGE_TOKENS as usize == packed::PAGE_TOKENS);
    assert!(interface::TRUNK == wiring::TRUNK && interface::PADDING == wiring::PADDING);
};
