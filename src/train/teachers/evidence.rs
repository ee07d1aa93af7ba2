//! The evidence writer as a teacher.

use super::question::{BackedReason, SlateQuestion};
use super::{Teacher, TeacherReply};
use crate::bundle::Backing;
use crate::reranker::{self, Because, Thought};
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// A teacher without a language model. It chooses the candidate whose card's reasons the shopper's history backs most, and
/// names the strongest one, so its thoughts always hold. The backing is the scorer's feature, so a thought names what the
/// scorer attends to.
#[derive(Debug)]
pub struct EvidenceTeacher;

/// Liked attributes that a thought names.
const LIKES_MAX: usize = 2;

// === impl EvidenceTeacher ===

impl Teacher for EvidenceTeacher {
    fn description(&self) -> Value {
        json!("evidence")
    }

    fn concurrency(&self) -> NonZeroUsize {
        available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }

    fn attempt(&self, question: &SlateQuestion<'_>, _number: u32) -> anyhow::Result<TeacherReply> {
        let context = question.context();
        let backed = question.offered.iter().filter_map(|&item| {
            let reasons = question.backed_reasons(&context, item);
            let all: f32 = reasons.iter().map(|(backing, _)| backing).sum();
            Some((item, all, strongest(&reasons)?))
        });
        let best = backed.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        Ok(best.map_or(TeacherReply::NoAnswer, |(item, _, backing)| reply(question, item, backing)))
    }

    fn explain(
        &self,
        question: &SlateQuestion<'_>,
        taken: u32,
    ) -> anyhow::Result<Option<TeacherReply>> {
        let reasons = question.backed_reasons(&question.context(), taken);
        let backing = strongest(&reasons);
        Ok(Some(backing.map_or(TeacherReply::NoAnswer, |backing| reply(question, taken, backing))))
    }
}

/// The backing of the strongest reason.
fn strongest(reasons: &[BackedReason<'_>]) -> Option<Backing> {
    let strongest = reasons.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    strongest.map(|(_, reason)| reason.backing)
}

/// A choice of the item with its thought, if something backs it.
fn reply(question: &SlateQuestion<'_>, item: u32, backing: Backing) -> TeacherReply {
    let catalog = question.catalog;
    let because = match backing {
        Backing::Item(other) => Because::GoesWith(catalog.item(other).title.to_string()),
        Backing::Attribute(number) => Because::Is(catalog.attribute(number).1.to_string()),
        Backing::Nothing => return TeacherReply::NoAnswer,
    };
    let title = catalog.item(item).title.to_string();
    let likes = reranker::likes(catalog, &question.case.history).into_iter().take(LIKES_MAX);
    let likes = likes.map(|number| catalog.attribute(number).1.to_string()).collect();
    TeacherReply::Chose(item, Thought { likes, title, because })
}
