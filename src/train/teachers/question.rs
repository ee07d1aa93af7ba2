//! A slate as it is put to a teacher.

use crate::bundle::{Backing, CardReason, Cards, Catalog, month};
use crate::domain::UserId;
use crate::scorer::features::FeatureContext;
use crate::train::cases::Case;

/// What a teacher is asked: everything that was known when the slate was shown, and nothing that
/// came of it.
#[derive(Debug)]
pub struct Question<'a> {
    /// The shopper and the moment. Its `relevant` items are none of a teacher's business.
    pub case: &'a Case,
    /// Who the shopper is.
    pub user: &'a UserId,
    /// The items.
    pub catalog: &'a Catalog,
    /// Their cards, as of no later than the case.
    pub cards: &'a Cards,
    /// The candidates, in an order that says nothing.
    pub offered: Vec<u32>,
    /// What is random in an answer comes from it.
    pub seed: u32,
}

/// A question, and what no teacher sees before it has answered.
#[derive(Debug)]
pub struct Posed<'a> {
    /// The question.
    pub question: Question<'a>,
    /// The candidate that was taken.
    pub taken: u32,
}

/// A reason on a candidate's card that the shopper's history backs, and what it speaks for it.
pub type Backed<'a> = (f32, &'a CardReason);

// === impl Question ===

impl<'a> Question<'a> {
    /// What the shopper's history says, counted as the scorer counts it.
    pub fn context(&self) -> FeatureContext<'a> {
        let Case { history, now, .. } = self.case;
        FeatureContext::new(self.catalog, self.cards, history, *now, month(*now))
    }

    /// The reasons on a candidate's card that this shopper's history backs, but those that would
    /// not stand without this very shopper: those that a scorer attends to as well.
    pub fn backed(&self, context: &FeatureContext<'a>, item: u32) -> Vec<Backed<'a>> {
        let reasons = self.cards.items[item as usize].reasons.iter();
        let stands = |reason: &&CardReason| {
            reason.backing != Backing::Nothing
                && !FeatureContext::is_supported_by(reason, self.user)
        };
        let backed = reasons.filter(stands).map(|reason| {
            let backing = FeatureContext::backing(context.overlap(reason), reason);
            (backing, reason)
        });
        backed.filter(|(backing, _)| *backing > 0.0).collect()
    }
}
