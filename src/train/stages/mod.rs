//! The commands of the pipeline, in the order in which they run.

/// The sections of the recipe that the scorer and its slates come from, and more of them.
macro_rules! scorer_sections {
    ($($more:literal),*) => {
        &["seed", "shop", "split", "slates", "reward_model", $($more),*]
    };
}

mod evaluate;
mod fuse;
mod midtrain;
mod prepare;
mod query;
mod rechead;
mod reward_model;
mod semantic_ids;
mod sft;
mod text_encoder;
mod traces;
mod weigh;
mod write;

pub use crate::train::evaluation::{evaluate, table};
pub use reward_model::examples;
pub use semantic_ids::assign;

use super::Stage;

/// All stages, in the order in which they run.
pub static STAGES: &[&dyn Stage] = &[
    &prepare::Prepare,
    &text_encoder::TextEncoderStage,
    &semantic_ids::SemanticIdsStage,
    &rechead::EarlyRechead,
    &reward_model::RewardModel,
    &query::QueryStage,
    &midtrain::Midtrain,
    &traces::Traces,
    &sft::Sft,
    &weigh::Weigh,
    &rechead::RecheadStage,
    &fuse::Fuse,
    &write::Write,
    &evaluate::Evaluate,
];
