//! The counts of a bundle that is being opened, up to date with the events since it was made.

use super::open_error::OpenError;
use crate::domain::{ItemId, ItemText, Timestamp, UserId};
use crate::events::{CountsBase, EventRecorder, LiveStatistics, PutItem};
use crate::items::{NewItem, NewItems};
use crate::scorer::ScorerModel;
use crate::scorer::features::{item_groups, past_of};
use crate::statistics::{ShopperPast, Statistics};
use std::sync::Arc;

/// What a bundle knows of its items and shoppers.
#[derive(Debug)]
struct BundleBase(Arc<ScorerModel>);

/// Counts for a bundle: what is stored since it was made, and what comes. Without a recorder of events, the counts stay as
/// they are in the bundle. Blocks.
pub(super) fn follow(
    model: &Arc<ScorerModel>,
    events: Option<&EventRecorder>,
    put: &NewItems,
) -> Result<LiveStatistics, OpenError> {
    let statistics = match &model.live {
        Some(live) => (*live.statistics).clone(),
        None => Statistics::new(item_groups(&model.catalog)?),
    };
    let base = Arc::new(BundleBase(model.clone()));
    Ok(match events {
        None => LiveStatistics::fixed(statistics, base),
        Some(events) => {
            let item = |(id, item): (ItemId, Arc<NewItem>)| PutItem { id, text: item.text.clone() };
            let put: Vec<PutItem> = put.all().into_iter().map(item).collect();
            events.follow(statistics, base, &put)?
        }
    })
}

impl CountsBase for BundleBase {
    fn as_of(&self) -> Timestamp {
        self.0.cards.as_of
    }

    fn number(&self, item: &ItemId) -> Option<u32> {
        self.0.catalog.number(item)
    }

    fn past(&self, user: &UserId) -> ShopperPast {
        self.0.cards.users.get(user).map_or_else(ShopperPast::default, |card| past_of(card.past()))
    }

    fn groups(&self, item: &ItemText) -> (Option<u32>, Vec<u32>) {
        let catalog = &self.0.catalog;
        let attributes = item.attributes.iter();
        let attributes =
            attributes.filter_map(|(name, value)| catalog.attribute_number(name, value));
        (catalog.category_number(&item.category), attributes.collect())
    }
}
