//! What are the layers and losses of the models?
//!
//! [`Din`] is the scorer's network as candle trains it; [`Fused`] is the same network as the
//! service runs it. Both read the same named tensors, [`Weights`], and are held against each
//! other and against a PyTorch copy by `tests/numbers.rs`. [`decoder`] is a language model's wiring:
//! [`packed`] serves it, and [`ops`] and [`optim`] train it.

mod aims;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod decoder;
mod din;
mod fused;
mod layers;
mod loss;
pub mod ops;
pub mod optim;
pub mod packed;
mod rechead;
pub mod rqvae;
mod shape;
pub mod softmax;
pub mod text;
mod weights;

pub use aims::{Aims, Choice, Followed};
pub use din::{Batch, Din, Dropout, Scored};
pub use fused::{
    CandidateRow, Fused, HistoryRow, ItemRef, ItemRow, ItemTable, LEFT_OUT, Misfit, ReasonTable,
    Scores, Scratch, Slate,
};
pub use loss::{bce_loss, softmax_loss};
pub use rechead::{Rechead, RecheadBatch, RecheadNetwork, RecheadRoom, RecheadShape};
pub use shape::{Ablation, Shape};
pub use weights::{Weights, WeightsError};

/// The name of the table of id embeddings: row 0 is the unknown item's.
pub const ITEM_IDS: &str = "item_id.weight";
