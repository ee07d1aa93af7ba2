//! The serving decoder on a CPU: weights packed for the vector unit, pooled activations and a paged KV cache.
//!
//! [`PackedDecoder`] runs the wiring of [`super::decoder`]. Linear layers read their weights once per
//! forward pass for any number of rows, and attention reads each page once per key head. Every row is summed in a
//! fixed order, so its result does not depend on the rest of the batch (batch invariance).

mod attention;
mod ggml;
mod kv;
mod lines;
mod matrix;
mod measure;
mod model;
mod rows;
mod thread_pool;

pub use super::simd::SimdLevel;
pub use attention::{AttentionGroup, BlockTableEntry};
pub use kv::{KvSlot, PAGE_TOKENS};
pub use measure::{peak_flops, read_bandwidth};
pub use model::{
    Activations, KvDtype, ModelMemory, PackedDecoder, PackedOptions, PagedBatch, SelectedLogits,
    WeightDtype,
};
