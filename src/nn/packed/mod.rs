//! Kernels that serve: weights packed for the processor's vector unit, pooled buffers, and keys and
//! values in pages.
//!
//! [`PackedDecoder`] runs the wiring of [`super::decoder`]. Linear layers go over their weights once per
//! pass, whatever the number of rows, and attention over each page once per head of keys. Every
//! row is computed in an order of its own: its result does not depend on the rows beside it. This
//! folder is where the crate's `unsafe` lives, next to the maps of files.

mod attention;
mod blocks;
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
