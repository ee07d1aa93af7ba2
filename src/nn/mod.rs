//! What are the layers and losses of the models?
//!
//! [`Din`] is the scorer's network as candle trains it; [`FusedDin`] is the same network as the
//! service runs it. Both read the same named tensors, [`Weights`], and are held against each
//! other and against a PyTorch copy by `tests/numbers.rs`. [`decoder`] is a language model's wiring:
//! [`packed`] serves it, and [`ops`] and [`optim`] train it.

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
pub mod simd;
pub mod softmax;
mod targets;
pub mod text;
mod weights;

pub use din::{Din, DinBatch, DinOutput, Dropout};
pub use fused::{
    CandidateRow, FusedDin, FusedScores, FusedScratch, FusedShapeError, FusedSlate, HistoryRow,
    InlineItem, ItemRef, ItemTable, MASKED_OVERLAP, ReasonTable,
};
pub use loss::{bce_loss, softmax_loss};
pub use rechead::{Rechead, RecheadBatch, RecheadNetwork, RecheadScratch, RecheadShape};
pub use shape::{Ablation, DinShape};
pub use targets::{BranchTargets, RowTargets, TokenTargets};
pub use weights::{Weights, WeightsError};

/// The name of the table of id embeddings: row 0 is the unknown item's.
pub const ITEM_IDS: &str = "item_id.weight";
