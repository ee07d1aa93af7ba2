//! Teachers of thoughts, behind one trait.
//!
//! A teacher thinks about a slate and chooses a candidate without knowing the label (GR2's rejection sampling, B4). Where
//! it is wrong, it may be given the label and explain it (targeted sampling). A thought is accepted only if every claim in
//! it can be checked and holds ([`outcome`]).

mod bundle;
mod chat;
mod endpoint;
mod evidence;
mod outcome;
mod question;
mod recipe;
mod rejection_sampling;
mod slate_prompt;

pub use outcome::QuestionOutcome;
pub use question::{LabelledQuestion, SlateQuestion};
pub use recipe::{EndpointRecipe, TeacherRecipe};
pub use rejection_sampling::{RejectionSampling, sample_all};

use crate::bundle::Catalog;
use crate::reranker::Thought;
use bundle::BundleTeacher;
use endpoint::EndpointTeacher;
use evidence::EvidenceTeacher;
use serde_json::Value;
use std::num::{NonZeroU32, NonZeroUsize};

/// Thinks about slates.
pub trait Teacher: Sync {
    /// Identifies the teacher in reports and answer logs: every setting that its replies depend on, and no secret.
    fn description(&self) -> Value;

    /// The most concurrent questions.
    fn concurrency(&self) -> NonZeroUsize;

    /// The most attempts per slate. A deterministic teacher has one.
    fn attempts_max(&self) -> NonZeroU32 {
        NonZeroU32::MIN
    }

    /// Chooses a candidate and says why, without the label. `number` counts the attempts on this slate. An error ends the
    /// stage; a failure on this slate alone is a [`TeacherReply`].
    fn attempt(&self, question: &SlateQuestion<'_>, number: u32) -> anyhow::Result<TeacherReply>;

    /// Explains why the taken candidate was taken. `None` if the teacher cannot be given the label.
    fn explain(
        &self,
        question: &SlateQuestion<'_>,
        taken: u32,
    ) -> anyhow::Result<Option<TeacherReply>>;
}

/// A teacher's reply about a slate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TeacherReply {
    /// It names no candidate.
    NoAnswer,
    /// No thought can be parsed from it.
    Unreadable,
    /// The call failed.
    CallFailed,
    /// A candidate and the thought that led to it.
    Chose(u32, Thought),
}

/// Opens the teacher that a recipe names.
pub fn open(recipe: &TeacherRecipe, catalog: &Catalog) -> anyhow::Result<Box<dyn Teacher>> {
    Ok(match recipe {
        TeacherRecipe::Evidence => Box::new(EvidenceTeacher),
        TeacherRecipe::Bundle(folder) => Box::new(BundleTeacher::open(folder, catalog)?),
        TeacherRecipe::Endpoint(recipe) => Box::new(EndpointTeacher::open(recipe)?),
    })
}
