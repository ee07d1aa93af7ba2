//! Vector instructions: the one place where the processor's features are asked for and switched on.
//!
//! Three layers, from plain to special:
//!
//! - `loops`: sums, maxima, dot products and `exp` as plain loops, which `vectorised` compiles for the widest
//!   registers. They use no fused multiply-add, so every processor computes the same bits: sampling and training
//!   depend on that.
//! - `lanes`: [`Lanes`], sixteen f32 with fused multiply-add. Kernels are written once over it and compiled for
//!   each [`VectorLevel`]. The fused scorer uses it.
//! - `products`: [`ProductLanes`], which adds products with bf16 and int8 weights, for each [`SimdLevel`]. The
//!   packed decoder uses it.

mod lanes;
mod loops;
mod products;

pub use lanes::{LANES, Lanes, PortableLanes, VectorKernel, VectorLevel};
pub(super) use loops::{dot, exp, max, sum, vectorised};
pub use products::{
    CacheLine, ProductKernel, ProductLanes, SimdLevel, TileShape, high_half, low_half,
};
