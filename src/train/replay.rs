//! Replays a shop's log through the statistics, so that each case reads what a server would have known at its moment.

use super::dataset::Dataset;
use crate::bundle::{Catalog, HistoryEvent};
use crate::domain::{EventKind, Timestamp};
use crate::language::WordWeights;
use crate::scorer::features::{LiveCounts, LiveItem, LiveVector, item_groups, past_of};
use crate::statistics::{ShopEvent, ShopperPast, Statistics, StatisticsError};
use std::sync::Arc;

/// A shop's log in time order, to be counted from its beginning.
#[derive(Debug)]
pub struct Replay<'a> {
    catalog: &'a Catalog,
    words: Arc<WordWeights>,
    /// (user, event), in time order.
    events: Vec<(u32, ShopEvent)>,
    next: usize,
    pasts: Vec<ShopperPast>,
    statistics: Arc<Statistics>,
    /// Seconds by which the counts lag behind the moment of a case.
    age_s: i64,
}

/// A case whose live features are read.
#[derive(Clone, Copy, Debug)]
pub struct LiveCase<'a> {
    /// Its moment.
    pub now: Timestamp,
    /// The shopper's whole past, oldest first.
    pub past: &'a [HistoryEvent],
    /// The candidates.
    pub slate: &'a [u32],
}

// === impl Replay ===

impl<'a> Replay<'a> {
    /// Begins before the first event of the log. Counts lag `age_s` seconds behind; 0 is live.
    pub fn new(
        dataset: &Dataset,
        catalog: &'a Catalog,
        words: Arc<WordWeights>,
        age_s: i64,
    ) -> Result<Self, StatisticsError> {
        Ok(Self {
            catalog,
            words,
            events: events(dataset),
            next: 0,
            pasts: vec![ShopperPast::default(); dataset.users.len()],
            statistics: Arc::new(Statistics::new(item_groups(catalog)?)),
            age_s,
        })
    }

    /// Counts every event before a moment. Moments must not go back.
    pub fn advance(&mut self, moment: Timestamp) {
        let statistics = Arc::make_mut(&mut self.statistics);
        while let Some(&(user, event)) =
            self.events.get(self.next).filter(|(_, event)| event.time < moment)
        {
            statistics.apply(&mut self.pasts[user as usize], event);
            self.next += 1;
        }
    }

    /// The counts so far.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// The live features of each candidate of a case. Cases must come in time order.
    pub fn read(&mut self, case: LiveCase<'_>) -> Vec<LiveVector> {
        self.advance(case.now.saturating_sub(self.age_s));
        let past = Arc::new(past_of(case.past.iter().copied()));
        let counts = LiveCounts::of(self.statistics.clone(), self.words.clone(), past, case.now);
        let vector = |&item: &u32| counts.vector(self.catalog, LiveItem::Known(item));
        case.slate.iter().map(vector).collect()
    }
}

fn events(dataset: &Dataset) -> Vec<(u32, ShopEvent)> {
    let mut events = Vec::new();
    for (user, (bought, browsed)) in (0..).zip(dataset.bought.iter().zip(&dataset.browsed)) {
        let browsed =
            browsed.iter().map(|&HistoryEvent { item, time, kind }| ShopEvent { item, time, kind });
        let bought = bought.iter().map(|line| ShopEvent {
            item: line.item,
            time: line.time,
            kind: EventKind::Purchase,
        });
        events.extend(browsed.chain(bought).map(|event| (user, event)));
    }
    events.sort_by_key(|&(user, event)| (event.time, user));
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::CatalogRow;
    use crate::train::dataset::{PurchaseLine, Split};

    const DAY: Timestamp = 86_400;

    fn catalog() -> Catalog {
        Catalog::new(["mug", "bowl"].map(|id| CatalogRow {
            id: id.into(),
            title: id.into(),
            category: String::new(),
            attributes: Vec::new(),
            price: None,
        }))
    }

    /// Each of four shoppers buys the mug, a day after the one before.
    fn dataset() -> Dataset {
        let line = |day| PurchaseLine { item: 0, time: day * DAY, basket: day as u32, first: true };
        Dataset {
            users: (0..4).map(|user| format!("u{user}").as_str().into()).collect(),
            bought: (1..=4).map(|day| vec![line(day)]).collect(),
            browsed: vec![Vec::new(); 4],
            purchases: Vec::new(),
            split: Split { begin: 0, train: 0, validate: 0, test: 0, end: 9 * DAY },
        }
    }

    fn buyers(age_s: i64, moments: &[Timestamp]) -> Vec<u32> {
        let catalog = catalog();
        let words = Arc::new(WordWeights::default());
        let mut replay = Replay::new(&dataset(), &catalog, words, age_s).unwrap();
        let read = |&now: &Timestamp| {
            let vectors = replay.read(LiveCase { now, past: &[], slate: &[0, 1] });
            assert_eq!(vectors.len(), 2);
            let counts = replay.statistics().item(0, now);
            let read = vectors[0]["buyers_365d"];
            assert_eq!(read.to_bits(), counts.buyers[5].ln_1p().to_bits());
            counts.buyers_ever
        };
        moments.iter().map(read).collect()
    }

    #[test]
    fn no_case_sees_an_event_of_its_own_moment_or_later() {
        assert_eq!(buyers(0, &[0, DAY, DAY + 1, 3 * DAY, 9 * DAY]), [0, 0, 1, 2, 4]);
    }

    #[test]
    fn old_counts_lag_behind() {
        assert_eq!(buyers(2 * DAY, &[3 * DAY, 3 * DAY + 1, 5 * DAY, 9 * DAY]), [0, 1, 2, 4]);
    }
}
