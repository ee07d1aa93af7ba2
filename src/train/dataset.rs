//! The log of a shop in time order, split in time. Nothing else reads logs.
//!
//! The lines of one basket have no order, so they are shuffled once, from the seed. Files often sort them
//! by product, and a model would learn that. A recipe can keep the listed order, to compare with published
//! figures that do.

use crate::bundle::{Catalog, HistoryEvent};
use crate::domain::{EventKind, Timestamp, UserId};
use crate::evidence::Purchase;
use crate::shop::Shop;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Seconds before a basket in which browsing belongs to the same visit. It would reveal the basket, so
/// it is not in the history.
const VISIT_S: i64 = 3_600;
/// Seconds of a day.
pub const DAY_S: i64 = 86_400;

/// The moments that split the log into training, validation and test data.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Split {
    /// The time of the first event.
    pub begin: Timestamp,
    /// Training data starts here. Earlier events are history only.
    pub train: Timestamp,
    /// Validation data starts here.
    pub validate: Timestamp,
    /// Test data starts here.
    pub test: Timestamp,
    /// The end of test data, after the last event.
    pub end: Timestamp,
}

/// The moments of a [`Split`] as shares of the time between the first and the last event.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitShares {
    /// The share after which training data starts.
    pub train: f64,
    /// The share after which validation data starts.
    pub validate: f64,
    /// The share after which test data starts.
    pub test: f64,
    /// Whether the lines of a basket keep the order of the shop's files.
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
    /// The split of time.
    pub split: Split,
}

/// A purchase line of a user.
#[derive(Clone, Copy, Debug)]
pub struct PurchaseLine {
    /// The number of the item.
    pub item: u32,
    /// When it was bought.
    pub time: Timestamp,
    /// The number of its basket.
    pub basket: u32,
    /// Whether the user bought it for the first time.
    pub first: bool,
}

/// What a user did before a moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Past<'a> {
    /// Their purchases, oldest first.
    pub bought: &'a [PurchaseLine],
    /// Their other events, oldest first.
    pub browsed: &'a [HistoryEvent],
}

// === impl Dataset ===

impl Dataset {
    /// Reads the log of a shop. Fails if the catalogue lacks one of its items.
    pub fn read(
        shop: &Shop,
        catalog: &Catalog,
        shares: SplitShares,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let split = Split::of(shop, shares)?;
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
                    dataset.browsed[user].push(HistoryEvent { item, time, kind });
                }
                _ => {}
            }
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        for bought in &mut dataset.bought {
            order_lines(bought, shares.as_listed, &mut rng);
        }
        Ok(dataset)
    }

    /// Everything that a user did before line `line` of their purchases. Earlier lines of the same basket
    /// are included only if `within_basket`, and browsing that would reveal the basket is left out.
    pub fn past(&self, user: usize, line: usize, within_basket: bool) -> Past<'_> {
        let bought = &self.bought[user];
        let basket = bought[line].basket;
        let start = bought[..line].iter().rposition(|b| b.basket != basket).map_or(0, |at| at + 1);
        let browsed = &self.browsed[user];
        let seen = browsed.partition_point(|past| past.time < bought[line].time - VISIT_S);
        Past {
            bought: &bought[..if within_basket { line } else { start }],
            browsed: &browsed[..seen],
        }
    }

    /// The user's last `most` events before line `line` of their purchases, oldest first. Earlier lines of
    /// the same basket are included only if `within_basket`.
    pub fn history(
        &self,
        user: usize,
        line: usize,
        within_basket: bool,
        most: usize,
    ) -> Vec<HistoryEvent> {
        let Past { mut bought, mut browsed } = self.past(user, line, within_basket);
        let mut history = Vec::with_capacity(most.min(bought.len() + browsed.len()));
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

    /// Whether each of so many items has an event before a moment. Catalogues have no launch dates, so
    /// this decides which items were known by then.
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

/// Sorts a user's lines by time and basket, shuffles each basket unless `as_listed`, and marks first
/// purchases.
fn order_lines(bought: &mut [PurchaseLine], as_listed: bool, rng: &mut ChaCha8Rng) {
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
    fn of(shop: &Shop, shares: SplitShares) -> anyhow::Result<Self> {
        let (Some(first), Some(last)) = (shop.events.first(), shop.events.last()) else {
            anyhow::bail!("the shop has no events")
        };
        anyhow::ensure!(
            0.0 < shares.train
                && shares.train < shares.validate
                && shares.validate < shares.test
                && shares.test < 1.0,
            "`split` must rise between 0 and 1, not train {}, validate {}, test {}",
            shares.train,
            shares.validate,
            shares.test
        );
        let at = |share: f64| first.time + ((last.time - first.time) as f64 * share) as i64;
        Ok(Self {
            begin: first.time,
            train: at(shares.train),
            validate: at(shares.validate),
            test: at(shares.test),
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
        let ordered = |as_listed| {
            let mut bought = listed.clone();
            order_lines(&mut bought, as_listed, &mut ChaCha8Rng::seed_from_u64(7));
            bought
        };
        let (as_listed, shuffled) = (ordered(true), ordered(false));
        assert_eq!(items(&as_listed), items(&listed));
        assert_ne!(items(&shuffled), items(&listed));
        assert_eq!(items(&shuffled), items(&ordered(false)), "the same seed, the same order");
        for bought in [as_listed, shuffled] {
            assert!(bought[..20].iter().all(|b| b.basket == 0 && b.first), "baskets are whole");
            assert!(bought[20..].iter().all(|b| b.basket == 1 && !b.first));
        }
    }
}
