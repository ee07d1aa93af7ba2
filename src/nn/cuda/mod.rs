//! Kernels that serve on an NVIDIA GPU: the wiring of [`super::decoder`], over `kernels/decoder.cu` and cuBLAS; and
//! the scorer's network, over `kernels/scorer.cu`.
//!
//! The libraries of CUDA are opened when a device is asked for, so the same program starts where there is none, and
//! says which one is missing. Everything that a pass writes to is taken when the model is loaded; a pass then is a
//! sequence of launches, or one launch of a graph, after one upload of what the engine planned.
//!
//! Weights, keys and values of a decoder, and what goes into products are bf16; weights of layers, and what they are multiplied
//! with, may have 8 bits. The rows between them are f32, and so are all sums, but for those of integers.

mod backprop;
mod batch;
mod blas;
mod device;
mod graphs;
mod load;
mod model;
mod pass;
mod products;
mod rows;
mod scorer;
mod slots;

pub use backprop::{Backprop, BackpropError, BackpropOptions};
pub use device::CudaError;
pub use load::LoadError;
pub use model::{CudaDecoder, CudaOptions};
pub use products::CudaWeightDtype;
pub use rows::{CudaOutput, CudaOutputSpec};
pub use scorer::{
    CudaScorer, CudaScorerError, CudaScorerLimits, CudaScorerTables, CudaScores, CudaSlate,
};
