//! The evidence writer as a teacher.

use super::question::{Backed, Question};
use super::{Said, Teacher};
use crate::bundle::Backing;
use crate::reranker::{self, Because, Thought};
use serde_json::{Value, json};
use std::num::NonZeroUsize;
use std::thread::available_parallelism;

/// It takes the candidate that the shopper's own history backs most, by the reasons on its card, and
/// says so. It is no language model, and what it says is always so. How far a history backs a reason is
/// what the scorer reads, so that a thought names what the scorer attends to.
#[derive(Debug)]
pub struct EvidenceTeacher;

/// Attributes that a thought says the shopper likes.
const LIKES: usize = 2;

// === impl EvidenceTeacher ===

impl Teacher for EvidenceTeacher {
    fn about(&self) -> Value {
        json!("evidence")
    }

    fn at_once(&self) -> NonZeroUsize {
        available_parallelism().unwrap_or(NonZeroUsize::MIN)
    }

    fn attempt(&self, question: &Question<'_>, _number: u32) -> anyhow::Result<Said> {
        let context = question.context();
        let backed = question.offered.iter().filter_map(|&item| {
            let reasons = question.backed(&context, item);
            let all: f32 = reasons.iter().map(|(backing, _)| backing).sum();
            Some((item, all, most(&reasons)?))
        });
        let best = backed.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)));
        Ok(best.map_or(Said::Nothing, |(item, _, backing)| say(question, item, backing)))
    }

    fn explain(&self, question: &Question<'_>, taken: u32) -> anyhow::Result<Option<Said>> {
        let reasons = question.backed(&question.context(), taken);
        let most = most(&reasons);
        Ok(Some(most.map_or(Said::Nothing, |backing| say(question, taken, backing))))
    }
}

/// What backs an item most.
fn most(reasons: &[Backed<'_>]) -> Option<Backing> {
    let most = reasons.iter().max_by(|a, b| a.0.total_cmp(&b.0));
    most.map(|(_, reason)| reason.backing)
}

fn say(question: &Question<'_>, item: u32, backing: Backing) -> Said {
    let catalog = question.catalog;
    let because = match backing {
        Backing::Item(other) => Because::GoesWith(catalog.item(other).title.to_string()),
        Backing::Attribute(number) => Because::Is(catalog.attribute(number).1.to_string()),
        Backing::Nothing => return Said::Nothing,
    };
    let title = catalog.item(item).title.to_string();
    let likes = reranker::likes(catalog, &question.case.history).into_iter().take(LIKES);
    let likes = likes.map(|number| catalog.attribute(number).1.to_string()).collect();
    Said::Took(item, Thought { likes, title, because })
}
