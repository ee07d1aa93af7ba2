//! How is a slate scored in a millisecond?
//!
//! The network of [`super::Din`] for one thread and one slate at a time: in f32, on vectors chosen when the weights are
//! loaded, without allocations per slate. Everything independent of the request is computed ahead: an item's vector and
//! its part of the first layers ([`ItemTable`]), and a reason's key and value ([`ReasonTable`]). A pair of candidate and
//! event costs one product of width x 32, then 32 x 16.
//!
//! A candidate's score does not depend on the rest of the slate: every row goes through the same operations in the same
//! order. So it is the same to the bit alone, among a thousand, and in any order.

mod history;
mod kernels;
mod load;
mod reasons;
#[cfg(feature = "cuda")]
mod row_major;
mod score;
mod shape_error;
mod tables;
mod target;

use super::DinShape;
use super::simd::VectorLevel;
use std::ops::Range;

pub(super) use kernels::{
    Epilogue, FusedLayerNorm, PanelKernel, PanelLinear, ROWS, RowsView, dot, run,
};
#[cfg(feature = "cuda")]
pub(super) use row_major::PaddedWidths;
pub use score::{FusedScores, FusedScratch};
pub use shape_error::FusedShapeError;
pub use tables::{InlineItem, ItemTable, ReasonTable};

/// The overlap of a reason that is masked for this shopper. At least one reason must not be.
pub const MASKED_OVERLAP: f32 = f32::NEG_INFINITY;

/// The network, packed for this processor.
#[derive(Debug)]
pub struct FusedDin {
    shape: DinShape,
    level: VectorLevel,
    /// (items + 1, d)
    item_ids: Vec<f32>,
    item_text: PanelLinear,
    /// (ages, d) and (kinds, d)
    ages: Vec<f32>,
    kinds: Vec<f32>,
    history: history::HistoryEncoder,
    target: target::TargetAttention,
    /// An item's part of the target attention's first layer, and of the head's.
    item_target: PanelLinear,
    item_head: PanelLinear,
    pattern: PanelLinear,
    no_pattern: Vec<f32>,
    reasons: reasons::ReasonAttention,
    head: score::ScoreHead,
}

/// A slate to score, with any number of candidates.
#[derive(Debug, Clone, Copy)]
pub struct FusedSlate<'a> {
    /// The items that [`ItemRef::Row`] points into.
    pub items: &'a ItemTable,
    /// The reasons that [`CandidateRow::reasons`] points into.
    pub reasons: &'a ReasonTable,
    /// The shopper's events, at most `DinShape::history`; order does not matter, age does.
    pub history: &'a [HistoryRow<'a>],
    /// (e): the shopper's interest pattern, if one is known.
    pub pattern: Option<&'a [f32]>,
    /// The candidates.
    pub candidates: &'a [CandidateRow<'a>],
}

/// An item: of the catalogue, or one that came with the request.
#[derive(Debug, Clone, Copy)]
pub enum ItemRef<'a> {
    /// Index in the slate's [`ItemTable`].
    Row(u32),
    /// An item that the catalogue does not have.
    Inline(&'a InlineItem),
}

/// An event of the shopper's history.
#[derive(Debug, Clone, Copy)]
pub struct HistoryRow<'a> {
    /// The item.
    pub item: ItemRef<'a>,
    /// Bucket of its age, below `DinShape::ages`.
    pub age: u8,
    /// Kind of event, below `DinShape::kinds`.
    pub kind: u8,
}

/// A candidate of a slate.
#[derive(Debug, Clone)]
pub struct CandidateRow<'a> {
    /// The item.
    pub item: ItemRef<'a>,
    /// (F)
    pub features: &'a [f32],
    /// Its reasons in the slate's [`ReasonTable`], at most `DinShape::reasons`.
    pub reasons: Range<u32>,
    /// One number per reason, 0 to 1: how strongly the shopper's own history backs its evidence;
    /// or [`MASKED_OVERLAP`].
    pub overlap: &'a [f32],
}
