//! The only reader of logs: what happened, in the order in which it happened, and cut in time.
//!
//! Lines of one basket have no order of their own, so they are shuffled once, from the seed:
//! files often sort them by product, and a model would learn that. A recipe can leave them as they are
//! listed, for the sake of published figures that do.

use crate::bundle::{Catalog, HistoryEvent};
use crate::domain::{EventKind, Timestamp, UserId};
use crate::evidence::Purchase;
use crate::shop::Shop;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Browsing this close before a basket belongs to the visit that made it, and would give the
/// basket away: it is no history yet.
const VISIT_S: i64 = 3_600;
/// Seconds of a day.
pub const DAY_S: i64 = 86_400;

/// When training data ends, and when validation data ends: everything later is for testing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Split {
    /// The first moment of the shop.
    pub begin: Timestamp,
    /// Training data starts here: before it, there is too little to look back on.
    pub train: Timestamp,
    /// Validation data starts here.
    pub validate: Timestamp,
    /// Test data starts here.
    pub test: Timestamp,
    /// Nothing is read at or after this moment.
    pub end: Timestamp,
}

/// Where a split cuts, as shares of the time that the shop spans.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cuts {
    /// The share after which training data starts.
    pub train: f64,
    /// The share after which validation data starts.
    pub validate: f64,
    /// The share after which test data starts.
    pub test: f64,
    /// Whether the lines of a basket stay in the order in which the shop lists them.
    #[serde(default)]
    pub as_listed: bool,
}

/// The log of a shop, by user.
#[derive(Debug)]
pub struct Dataset {
    /// Users by number.
    pub users: Vec<UserId>,
    /// Each user's purchases, in time order.
    pub bought: Vec<Vec<PurchaseLine>>,
    /// Each user's other events (clicks, carts), in time order.
    pub browsed: Vec<Vec<HistoryEvent>>,
    /// All purchases, in time order.
    pub purchases: Vec<Purchase>,
    /// Where time is cut.
    pub split: Split,
}

/// A purchase line of a user.
#[derive(Clone, Copy, Debug)]
pub struct PurchaseLine {
    /// The number of the item.
    pub item: u32,
    /// When.
    pub time: Timestamp,
    /// Lines bought together share this.
    pub basket: u32,
    /// Whether this user had never bought it before.
    pub first: bool,
}

// === impl Dataset ===

impl Dataset {
    /// Reads the log of a shop whose items all stand in the catalogue.
    pub fn read(shop: &Shop, catalog: &Catalog, cuts: Cuts, seed: u64) -> anyhow::Result<Self> {
        let split = Split::of(shop, cuts)?;
        let numbers = shop
            .items
            .iter()
            .map(|item| catalog.number(&item.id))
            .collect::<Option<Vec<u32>>>()
            .ok_or_else(|| anyhow::anyhow!("the catalogue lacks items of the shop"))?;
        let mut dataset = Self {
            users: shop.users.clone(),
            bought: vec![Vec::new(); shop.users.len()],
            browsed: vec![Vec::new(); shop.users.len()],
            purchases: Vec::new(),
            split,
        };
        for line in &shop.events {
            let (user, item) = (line.user as usize, numbers[line.item as usize]);
            let time = line.time;
            match line.kind {
                EventKind::Purchase => {
                    dataset.bought[user].push(PurchaseLine {
                        item,
                        time,
                        basket: line.basket,
                        first: false,
                    });
                    let price = line.price;
                    dataset.purchases.push(Purchase { user: line.user, item, time, price });
                }
                kind if kind.is_read() => {
                    dataset.browsed[user].push(HistoryEvent { item, time, kind })
                }
                _ => {}
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for bought in &mut dataset.bought {
            settle(bought, cuts.as_listed, &mut rng);
        }
        Ok(dataset)
    }

    /// What the user had done before line `line` of their purchases, oldest first, at most `most`
    /// events: the lines of the same basket that come before it are part of that only
    /// `within_basket`.
    pub fn history(
        &self,
        user: usize,
        line: usize,
        within_basket: bool,
        most: usize,
    ) -> Vec<HistoryEvent> {
        let bought = &self.bought[user];
        let basket = bought[line].basket;
        let start = bought[..line].iter().rposition(|b| b.basket != basket).map_or(0, |at| at + 1);
        let until = if within_basket { line } else { start };
        let browsed = &self.browsed[user];
        let seen = browsed.partition_point(|past| past.time < bought[line].time - VISIT_S);
        let (mut bought, mut browsed) = (&bought[..until], &browsed[..seen]);
        let mut history = Vec::with_capacity(most);
        while history.len() < most {
            let take_bought = match (bought.last(), browsed.last()) {
                (None, None) => break,
                (Some(b), Some(c)) => b.time >= c.time,
                (b, _) => b.is_some(),
            };
            if take_bought {
                let (last, rest) = bought.split_last().expect("it was just looked at");
                history.push(HistoryEvent {
                    item: last.item,
                    time: last.time,
                    kind: EventKind::Purchase,
                });
                bought = rest;
            } else {
                let (last, rest) = browsed.split_last().expect("it was just looked at");
                history.push(*last);
                browsed = rest;
            }
        }
        history.reverse();
        history
    }

    /// Which of so many items somebody touched before a moment. Catalogues don't say when an item
    /// came, so that is what tells those that were known by then.
    pub fn touched(&self, items: usize, until: Timestamp) -> Vec<bool> {
        let bought = self.bought.iter().flatten().map(|b| (b.item, b.time));
        let browsed = self.browsed.iter().flatten().map(|past| (past.item, past.time));
        let mut touched = vec![false; items];
        for (item, _) in bought.chain(browsed).filter(|&(_, time)| time < until) {
            touched[item as usize] = true;
        }
        touched
    }

    /// The lines of each basket that a user bought in `from..until`: ranges into their purchases.
    pub fn baskets(
        &self,
        user: usize,
        from: Timestamp,
        until: Timestamp,
    ) -> impl DoubleEndedIterator<Item = std::ops::Range<usize>> + '_ {
        let bought = &self.bought[user];
        let mut ranges = Vec::new();
        let mut start = bought.partition_point(|b| b.time < from);
        while start < bought.len() && bought[start].time < until {
            let length = bought[start..].partition_point(|b| b.basket == bought[start].basket);
            ranges.push(start..start + length);
            start += length;
        }
        ranges.into_iter()
    }
}

/// Puts a user's lines into time order with baskets whole, and shuffled unless they are to stay
/// `as_listed`, and marks first purchases.
fn settle(bought: &mut [PurchaseLine], as_listed: bool, rng: &mut ChaCha8Rng) {
    bought.sort_by_key(|b| (b.time, b.basket));
    let mut had = rustc_hash::FxHashSet::default();
    for basket in bought.chunk_by_mut(|a, b| a.basket == b.basket) {
        if !as_listed {
            basket.shuffle(rng);
        }
        for line in basket {
            line.first = had.insert(line.item);
        }
    }
}

// === impl Split ===

impl Split {
    fn of(shop: &Shop, cuts: Cuts) -> anyhow::Result<Self> {
        let (Some(first), Some(last)) = (shop.events.first(), shop.events.last()) else {
            anyhow::bail!("the shop has no events")
        };
        anyhow::ensure!(
            0.0 < cuts.train
                && cuts.train < cuts.validate
                && cuts.validate < cuts.test
                && cuts.test < 1.0,
            "cuts must rise between 0 and 1, not {cuts:?}"
        );
        let at = |share: f64| first.time + ((last.time - first.time) as f64 * share) as i64;
        Ok(Self {
            begin: first.time,
            train: at(cuts.train),
            validate: at(cuts.validate),
            test: at(cuts.test),
            end: last.time + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_basket_are_shuffled_unless_they_stay_as_listed() {
        // Two baskets of twenty, listed by item; the second buys the first's items again.
        let line = |at: u32| PurchaseLine { item: at % 20, time: 1, basket: at / 20, first: false };
        let listed: Vec<PurchaseLine> = (0..40).map(line).collect();
        let items = |bought: &[PurchaseLine]| bought.iter().map(|b| b.item).collect::<Vec<_>>();
        let settled = |as_listed| {
            let mut bought = listed.clone();
            settle(&mut bought, as_listed, &mut ChaCha8Rng::seed_from_u64(7));
            bought
        };
        let (kept, shuffled) = (settled(true), settled(false));
        assert_eq!(items(&kept), items(&listed));
        assert_ne!(items(&shuffled), items(&listed));
        assert_eq!(items(&shuffled), items(&settled(false)), "the same seed, the same order");
        for bought in [kept, shuffled] {
            assert!(bought[..20].iter().all(|b| b.basket == 0 && b.first), "baskets are whole");
            assert!(bought[20..].iter().all(|b| b.basket == 1 && !b.first));
        }
    }
}
