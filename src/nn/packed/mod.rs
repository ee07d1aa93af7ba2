//! Kernels that serve: weights packed for the processor's vector unit, pooled buffers, and keys and
//! values in pages.
//!
//! [`Packed`] runs the wiring of [`super::decoder`]. Linear layers go over their weights once per
//! pass, whatever the number of rows, and attention over each page once per head of keys. Every
//! row is computed in an order of its own: its result does not depend on the rows beside it. This
//! folder is where the crate's `unsafe` lives, next to the maps of files.

mod attention;
mod blocks;
mod crew;
mod kv;
mod lanes;
mod lines;
mod matrix;
mod measure;
mod model;
mod rows;

pub use attention::{Group, Seen};
pub use kv::{PAGE_TOKENS, Slot};
pub use lanes::Level;
pub use measure::{peak, read_bandwidth};
pub use model::{Buffer, Columns, Kept, Memory, Options, Packed, Pass, Precision};
