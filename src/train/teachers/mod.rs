//! Those who can think about a slate, behind one trait.
//!
//! A teacher thinks about a slate and takes a candidate, without being told which one was taken
//! (GR2's rejection sampling, B4); where it erred it may be told, and asked why that one was (targeted
//! sampling). Whoever it is, what it says counts only if a program reads it and finds that all of it
//! holds ([`verdict`]).

mod asking;
mod bundle;
mod chat;
mod endpoint;
mod evidence;
mod question;
mod recipe;
mod verdict;
mod words;

pub use asking::{Asking, ask_all};
pub use question::{Posed, Question};
pub use recipe::{EndpointRecipe, TeacherRecipe};
pub use verdict::Answer;

use crate::bundle::Catalog;
use crate::reranker::Thought;
use bundle::BundleTeacher;
use endpoint::Endpoint;
use evidence::EvidenceTeacher;
use serde_json::Value;
use std::num::{NonZeroU32, NonZeroUsize};

/// Someone who can think about a slate.
pub trait Teacher: Sync {
    /// Who it is, as a report tells it: all that what it says depends on, and no secret.
    fn about(&self) -> Value;

    /// Slates that it may be asked about at a time.
    fn at_once(&self) -> NonZeroUsize;

    /// Times that it may be asked about one slate. Who would say the same again is asked once.
    fn attempts_max(&self) -> NonZeroU32 {
        NonZeroU32::MIN
    }

    /// The candidate that it would take, and why; it does not know which one was taken. `number`
    /// counts the attempts on this slate. An error ends the stage: what concerns this slate alone is
    /// something [`Said`].
    fn attempt(&self, question: &Question<'_>, number: u32) -> anyhow::Result<Said>;

    /// Why a candidate may have been taken, told that it was; `None` from who can't be told.
    fn explain(&self, question: &Question<'_>, taken: u32) -> anyhow::Result<Option<Said>>;
}

/// What a teacher said of a slate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Nothing, or nothing that is an answer.
    Nothing,
    /// Something that no thought could be read from.
    Unreadable,
    /// It was called, and nothing came back.
    Failed,
    /// It took a candidate, and said why.
    Took(u32, Thought),
}

/// The teacher that a recipe names.
pub fn open(recipe: &TeacherRecipe, catalog: &Catalog) -> anyhow::Result<Box<dyn Teacher>> {
    Ok(match recipe {
        TeacherRecipe::Evidence => Box::new(EvidenceTeacher),
        TeacherRecipe::Bundle(folder) => Box::new(BundleTeacher::open(folder, catalog)?),
        TeacherRecipe::Endpoint(recipe) => Box::new(Endpoint::open(recipe)?),
    })
}
