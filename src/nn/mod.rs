//! What are the layers and losses of the models?
//!
//! [`Din`] is the scorer's network for training with candle; [`FusedDin`] is the same network for serving. Both read the
//! same named tensors, [`Weights`], and `tests/numbers.rs` compares them with each other and with a PyTorch copy.
//! [`direct`] is the scorer's direct path, which reads features alone.
//! [`decoder`] is a language model's wiring: [`packed`] serves it on a CPU, and [`ops`] and [`optim`] train it.
//! [`simd`] holds the vector code of both serving forms and of the training loops.

#[cfg(feature = "cuda")]
pub mod cuda;
pub mod decoder;
mod din;
pub mod direct;
mod dropout;
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
pub mod token_table;
mod weights;

pub use din::{Din, DinBatch, DinOutput};
pub use dropout::Dropout;
pub use fused::{
    CandidateRow, FusedDin, FusedScores, FusedScratch, FusedShapeError, FusedSlate, HistoryRow,
    InlineItem, ItemRef, ItemTable, MASKED_OVERLAP, ReasonTable,
};
pub use loss::{bce_loss, listwise_loss, softmax_loss};
pub use rechead::{
    PUBLISHED_GAMMA, PaperRechead, PublishedNetwork, PublishedRechead, Rechead, RecheadBatch,
    RecheadNetwork, RecheadScratch, RecheadShape, RecheadTokens, RecheadWiring,
};
pub use shape::{Ablation, DinShape};
pub use targets::{BranchTargets, RowTargets, TokenTargets};
pub use weights::{Weights, WeightsError};

/// The name of the table of id embeddings: row 0 is the unknown item's.
pub const ITEM_IDS: &str = "item_id.weight";
