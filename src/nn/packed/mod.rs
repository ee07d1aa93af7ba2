//! Kernels that serve: weights packed for the processor's vector unit, pooled buffers, paged keys
//! and values.
pub mod attention;
pub mod crew;
pub mod kv;
pub mod lanes;
pub mod lines;
pub mod matrix;
