//! How does a shop's log become a bundle?
//!
//! A [`Stage`] is a command: parts in, parts out. The stages run in the order of [`STAGES`], from
//! a shop's log to a bundle that can be served.

mod adapt;
mod answer_log;
pub mod aside_file;
pub mod asked_query;
pub mod batch;
pub mod case_results;
pub mod cases;
pub mod checkpoint;
pub mod dataset;
pub mod direct;
mod direct_member;
pub mod direct_recipe;
pub mod direct_slates;
pub mod evaluation;
pub mod export;
mod finetune;
pub mod fit;
pub mod fusion_fit;
mod gpu;
mod gradients;
pub mod learner;
pub mod learner_config;
pub mod lesson;
mod lineage;
pub mod measure;
pub mod offline_ladder;
mod offline_reranker;
mod offline_scorer;
pub mod packed_lines;
mod progress;
pub mod publish;
mod query_cases;
mod query_path;
pub mod query_recipe;
mod reason_share;
mod rechead_checks;
mod rechead_fit;
pub mod rechead_recipe;
pub mod recipe;
pub mod replay;
pub mod rules;
pub mod snapshot;
pub mod stages;
mod stop;
pub mod synthetic_query;
mod teachers;
mod text_recipe;
mod trace;
pub mod trainer;
pub mod training_data;
pub mod trec;
pub mod warnings;
mod weight;
pub mod workspace;
mod writer;

pub use learner::Learner;
pub use lesson::Lesson;
pub use lineage::{
    StalePart, check as check_lineage, check_before as check_lineage_before, maker, shop_hash,
};
pub use progress::{Metric, NoProgress, ProgressObserver, ProgressUpdate};
pub use reason_share::reason_share;
pub use recipe::Recipe;
pub use stages::STAGES;
pub use stop::{StopSignal, StopWatch, Stopped};
pub use trainer::Trainer;
pub use workspace::Workspace;

use crate::bundle::Part;
use serde_json::Value;

/// The sections of a recipe: everything but its name.
const RECIPE_SECTIONS: &[&str] = &[
    "seed",
    "shop",
    "split",
    "slates",
    "text_encoder",
    "semantic_ids",
    "reward_model",
    "direct",
    "query",
    "language_model",
    "rechead",
    "cards",
    "evaluate",
];

/// One command of the pipeline: parts in, parts out.
pub trait Stage: Sync {
    /// Its name on the command line and in recipes.
    fn name(&self) -> &'static str;

    /// One sentence about it, for `--help`.
    fn about(&self) -> &'static str;

    /// The parts that it reads.
    fn inputs(&self) -> &'static [Part];

    /// Further parts that it reads where the recipe asks for them and an earlier stage has made them.
    fn may_read(&self) -> &'static [Part] {
        &[]
    }

    /// Parts that it reads by this recipe, and that not every recipe with these parts has it read.
    fn reads_by(&self, _recipe: &Recipe) -> &'static [Part] {
        &[]
    }

    /// The sections of the recipe that its outputs depend on. A part is made anew if one of them changes.
    /// By default, they are all but the name.
    fn recipe_sections(&self) -> &'static [&'static str] {
        RECIPE_SECTIONS
    }

    /// The parts that it writes.
    fn outputs(&self) -> &'static [Part];

    /// Whether a recipe needs it.
    fn is_enabled(&self, _recipe: &Recipe) -> bool {
        true
    }

    /// Runs it, and returns its losses and metrics.
    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value>;
}

/// Runs a stage, records what its outputs were made from, and writes its report: the seed, the seconds and the stage's measurements. The report
/// is written last, so its presence means success.
pub fn run(stage: &dyn Stage, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
    use anyhow::Context as _;
    for part in stage.inputs() {
        anyhow::ensure!(
            workspace.path(*part).exists(),
            "{} needs {}, which {} does not hold: run the stages before it first",
            stage.name(),
            part.file(),
            workspace.dir.display()
        );
    }
    if workspace.stop.is_requested() {
        return Err(Stopped::Stage).with_context(|| format!("stage {}", stage.name()));
    }
    let begun = tokio::time::Instant::now();
    let in_stage = || format!("stage {}", stage.name());
    let read = lineage::inputs_of(stage, workspace).with_context(in_stage)?;
    let measured = stage.run(workspace).with_context(in_stage)?;
    lineage::record(stage, &read, workspace).with_context(in_stage)?;
    let report = serde_json::json!({
        "stage": stage.name(),
        "seed": workspace.recipe.seed,
        "seconds": (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        "measured": measured,
    });
    let path = workspace.dir.join(format!("{}.report.json", stage.name()));
    std::fs::write(&path, serde_json::to_vec_pretty(&report)?)
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(report)
}
