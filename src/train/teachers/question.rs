//! A slate as a question to a teacher.

use crate::bundle::{Backing, CardReason, Cards, Catalog, month};
use crate::domain::UserId;
use crate::scorer::features::FeatureContext;
use crate::train::cases::Case;

/// A question to a teacher: everything known when the slate was shown, and nothing later.
#[derive(Debug)]
pub struct SlateQuestion<'a> {
    /// The shopper and the moment. A teacher must not read its `relevant` items.
    pub case: &'a Case,
    /// The shopper's id.
    pub user: &'a UserId,
    /// The catalogue.
    pub catalog: &'a Catalog,
    /// The cards as of a moment not later than the case.
    pub cards: &'a Cards,
    /// The candidates, shuffled.
    pub offered: Vec<u32>,
    /// The seed of the teacher's sampling.
    pub seed: u32,
}

/// A question with its label.
#[derive(Debug)]
pub struct LabelledQuestion<'a> {
    /// The question.
    pub question: SlateQuestion<'a>,
    /// The candidate that was taken.
    pub taken: u32,
}

/// A reason on a candidate's card, and how strongly the shopper's history backs it.
pub type BackedReason<'a> = (f32, &'a CardReason);

// === impl SlateQuestion ===

impl<'a> SlateQuestion<'a> {
    /// The shopper's history as the scorer's features read it.
    pub fn context(&self) -> FeatureContext<'a> {
        let Case { history, now, .. } = self.case;
        FeatureContext::new(self.catalog, self.cards, history, *now, month(*now))
    }

    /// The reasons on a candidate's card that the shopper's history backs. Reasons that rest on this shopper's own events
    /// are left out, as in the scorer's training.
    pub fn backed_reasons(&self, context: &FeatureContext<'a>, item: u32) -> Vec<BackedReason<'a>> {
        let reasons = self.cards.items[item as usize].reasons.iter();
        let is_independent = |reason: &&CardReason| {
            reason.backing != Backing::Nothing
                && !FeatureContext::is_supported_by(reason, self.user)
        };
        let backed = reasons.filter(is_independent).map(|reason| {
            let backing = FeatureContext::backing(context.overlap(reason), reason);
            (backing, reason)
        });
        backed.filter(|(backing, _)| *backing > 0.0).collect()
    }
}
