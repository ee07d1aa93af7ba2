//! How many of the items that shoppers are shown come with a reason.

use super::cases::Case;
use super::training_data::TrainingData;
use crate::scorer::features::FeatureContext;

/// The share of the first `most` items of each case's order that have a reason for the case's shopper, as serving
/// attaches them: on the item's card, and not resting on this very shopper. 0 if nothing is shown.
pub fn reason_share<'a>(
    data: &TrainingData,
    shown: impl Iterator<Item = (&'a Case, &'a [u32])>,
    most: usize,
) -> f64 {
    let (mut items, mut reasoned) = (0_usize, 0_usize);
    for (case, order) in shown {
        let user = &data.dataset.users[case.user as usize];
        let cards = &data.snapshots[case.snapshot].cards.items;
        for &item in order.iter().take(most) {
            let mut reasons = cards[item as usize].reasons.iter();
            items += 1;
            reasoned +=
                usize::from(reasons.any(|reason| !FeatureContext::is_supported_by(reason, user)));
        }
    }
    reasoned as f64 / items.max(1) as f64
}
