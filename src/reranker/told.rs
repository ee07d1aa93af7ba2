//! The reasons that a shopper is told of the items of one list: by one code, in serving and in evaluation.

use crate::bundle::{Backing, CardReason, Catalog};
use crate::domain::{Evidence, EvidenceKind};
use crate::evidence::{self, Answer, ChoiceWeights, ReasonChoice, ReasonSignals};
use crate::language::AskedWords;
use crate::scorer::features::{Fact, FactSales, FeatureContext, Relevance, RelevanceWeights};
use std::sync::Arc;

/// Chooses what is told of the items of one list, from the first item on.
#[derive(Debug)]
pub struct Teller<'a> {
    catalog: &'a Catalog,
    context: FeatureContext<'a>,
    relevance: Relevance,
    asked: AskedWords,
    choice: ReasonChoice,
}

/// An item of which reasons are told.
#[derive(Clone, Copy, Debug)]
pub struct ToldItem<'a> {
    /// Its number, if the catalogue holds it.
    pub number: Option<u32>,
    /// The reasons on its card.
    pub reasons: &'a [CardReason],
    /// The scorer's attention to each. A reason without any is not for this shopper.
    pub attention: &'a [f32],
}

/// What is told of an item.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Told {
    /// Which wish of the query it fulfils: told first.
    pub answer: Option<Answer>,
    /// The places of the reasons on its card, most telling first.
    pub reasons: Vec<usize>,
}

// === impl Teller ===

impl<'a> Teller<'a> {
    /// For a shopper in this context, with this query text, where this was bought by everybody.
    pub fn new(
        catalog: &'a Catalog,
        sales: &Arc<FactSales>,
        context: FeatureContext<'a>,
        query_text: Option<&str>,
        weights: ChoiceWeights,
    ) -> Self {
        let relevance = context.relevance(sales.clone(), RelevanceWeights::CHOSEN);
        let asked = query_text.map(AskedWords::of).unwrap_or_default();
        Self { catalog, context, relevance, asked, choice: ReasonChoice::new(weights) }
    }

    /// What is told of the list's next item: at most so many reasons, the answer to the query among them.
    pub fn tell(&mut self, item: ToldItem<'_>, most: usize) -> Told {
        let answer = item.number.filter(|_| most > 0);
        let answer = answer.and_then(|number| evidence::answer(self.catalog, &self.asked, number));
        let signals: Vec<_> = item
            .reasons
            .iter()
            .zip(item.attention)
            .map(|(reason, &attention)| {
                let is_fit = attention > 0.0 && !is_told_by(answer.as_ref(), reason);
                is_fit.then(|| self.signals(item.number, reason, attention))
            })
            .collect();
        let most = most - usize::from(answer.is_some());
        Told { reasons: self.choice.choose(item.reasons, &signals, most), answer }
    }

    /// What is known of a reason for this shopper.
    pub fn signals(&self, item: Option<u32>, reason: &CardReason, attention: f32) -> ReasonSignals {
        ReasonSignals {
            backing: own_backing(&self.context, item, reason),
            // The strength of a reason about a companion is its closeness.
            relevance: self
                .relevance
                .of(Fact { about: reason.backing, closeness: reason.strength }),
            attention,
        }
    }
}

/// How strongly the shopper's own history backs a reason of an item, in `0..=1`: the item or the attribute that it
/// names, or for one about buyers who came back, the item itself.
pub fn own_backing(context: &FeatureContext<'_>, item: Option<u32>, reason: &CardReason) -> f32 {
    let is_repeat = |reason: &CardReason| {
        reason.evidence.first().is_some_and(|evidence| evidence.kind == EvidenceKind::Repeat)
    };
    match reason.backing {
        Backing::Nothing if is_repeat(reason) => {
            f32::from(u8::from(item.is_some_and(|item| context.has_bought(item))))
        }
        _ => context.overlap(reason),
    }
}

/// Whether an answer names what a reason is about.
fn is_told_by(answer: Option<&Answer>, reason: &CardReason) -> bool {
    let about = reason.evidence.first().filter(|_| matches!(reason.backing, Backing::Attribute(_)));
    answer.zip(about).is_some_and(|(answer, about)| {
        let same = |told: &Evidence| told.attribute == about.attribute && told.value == about.value;
        answer.evidence.iter().any(same)
    })
}
