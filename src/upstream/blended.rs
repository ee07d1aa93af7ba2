//! A stronger stand-in for the shop's ranker: several lists of candidates, merged by reciprocal rank.
//!
//! Its counts are those before the day of the request (UTC): who bought what together, and what sold in the last week
//! and month. The shopper's own purchases are known up to the request. Which titles are alike does not depend on time,
//! but only items that were sold before the day are found by them.

use super::item_knn::{latest_distinct, tally};
use super::titles::TitleNeighbours;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

/// Seconds in a day.
const DAY_S: i64 = 86_400;
/// The `k` of reciprocal rank fusion (Cormack et al. 2009): a list gives `1 / (k + rank)` to its item of that rank.
const RANK_OFFSET: f32 = 60.0;
/// Items of one list that are merged.
const LIST_ITEMS: usize = 100;
/// Popular items that are kept of a day. A list skips those that the shopper has, so more are kept than it holds.
const POPULAR_ITEMS: usize = 1_000;
/// Neighbours of an item, by buyers and by title.
const NEIGHBOURS: usize = 100;
/// The latest distinct items of a user that are counted as bought together. The cost is quadratic in it.
const ITEMS_PER_USER: usize = 200;
/// The latest distinct items of a history whose neighbours are candidates.
const RECENT_ITEMS: usize = 5;
/// The factor on a neighbour's weight for each step back in the history.
const DECAY: f32 = 0.8;
/// Days in which a purchase loses most of its weight among those that are bought again.
const BOUGHT_AGAIN_DAYS: f32 = 60.0;
/// Days of the windows in which popularity is counted.
const WEEK_DAYS: i64 = 7;
const MONTH_DAYS: i64 = 28;

/// How much each list counts when they are merged. 0 leaves a list out.
///
/// By default, all count the same, and the two windows of popularity are one list. On validation slates of two shops,
/// popularity as two whole lists is worse. A shop whose customers buy the same again gains by a higher `bought_before`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BlendWeights {
    /// Items that buyers of the latest items bought, too.
    pub co_purchases: f32,
    /// Items with the most buyers in the last 7 days.
    pub popular_week: f32,
    /// Items with the most buyers in the last 28 days.
    pub popular_month: f32,
    /// Items whose titles are like those of the latest items.
    pub titles: f32,
    /// Items that this shopper bought before, weighted by how lately.
    pub bought_before: f32,
}

/// The log and the titles of a shop, indexed so that the counts before any day can be read.
#[derive(Debug)]
pub struct Blended {
    /// For each user: distinct items with the time of the first purchase, oldest first.
    bought: Vec<Vec<(u32, i64)>>,
    /// For each item: its buyers with the time of their first purchase, oldest first.
    buyers: Vec<Vec<(u32, i64)>>,
    /// All purchases as `(time, item, user)`, oldest first.
    sales: Vec<(i64, u32, u32)>,
    titles: TitleNeighbours,
    weights: BlendWeights,
}

/// What a [`Blended`] knows at the start of one day. Neighbours are counted when they are first needed.
#[derive(Debug)]
pub struct BlendedDay<'a> {
    log: &'a Blended,
    /// Only events before this moment are counted.
    start: i64,
    popular_week: Vec<u32>,
    popular_month: Vec<u32>,
    /// Every item that was ever sold, most buyers first.
    popular_ever: Vec<u32>,
    neighbours: FxHashMap<u32, Vec<(u32, f32)>>,
    /// Zero for each item, between two counts.
    together: Vec<u32>,
}

// === impl BlendWeights ===

impl Default for BlendWeights {
    fn default() -> Self {
        Self {
            co_purchases: 1.0,
            popular_week: 0.5,
            popular_month: 0.5,
            titles: 1.0,
            bought_before: 1.0,
        }
    }
}

// === impl Blended ===

impl Blended {
    /// Indexes each user's `(item, time)` purchases, oldest first. There is a title for each item number.
    pub fn build<'a>(
        users: impl IntoIterator<Item = &'a [(u32, i64)]>,
        titles: &[&str],
        weights: BlendWeights,
    ) -> Self {
        let (mut bought, mut sales) = (Vec::new(), Vec::new());
        let mut buyers = vec![Vec::new(); titles.len()];
        for (user, history) in (0_u32..).zip(users) {
            let mut had = FxHashSet::default();
            let first: Vec<(u32, i64)> =
                history.iter().copied().filter(|&(item, _)| had.insert(item)).collect();
            for &(item, time) in &first {
                buyers[item as usize].push((user, time));
            }
            sales.extend(history.iter().map(|&(item, time)| (time, item, user)));
            bought.push(first);
        }
        sales.sort_unstable();
        for of_item in &mut buyers {
            of_item.sort_unstable_by_key(|&(user, time)| (time, user));
        }
        let titles = TitleNeighbours::build(titles, NEIGHBOURS);
        Self { bought, buyers, sales, titles, weights }
    }

    /// The first moment of the day of a request. Counts end there.
    pub fn day_of(now: i64) -> i64 {
        now.div_euclid(DAY_S) * DAY_S
    }

    /// What was known at the start of the day of `now`.
    pub fn day(&self, now: i64) -> BlendedDay<'_> {
        let start = Self::day_of(now);
        let buyers = (0_u32..).zip(&self.buyers).map(|(item, of_it)| (item, before(of_it, start)));
        let ever = buyers.map(|(item, of_it)| (item, of_it.len() as u32));
        BlendedDay {
            log: self,
            start,
            popular_week: self.popular(start, WEEK_DAYS),
            popular_month: self.popular(start, MONTH_DAYS),
            popular_ever: most_first(ever.filter(|&(_, count)| count > 0).collect()),
            neighbours: FxHashMap::default(),
            together: vec![0; self.buyers.len()],
        }
    }

    /// The items with the most buyers in the days before `start`.
    fn popular(&self, start: i64, days: i64) -> Vec<u32> {
        let at = |moment| self.sales.partition_point(|&(time, ..)| time < moment);
        let sales = &self.sales[at(start - days * DAY_S)..at(start)];
        let mut pairs: Vec<(u32, u32)> =
            sales.iter().map(|&(_, item, user)| (item, user)).collect();
        pairs.sort_unstable();
        pairs.dedup();
        let of_item = pairs.chunk_by(|left, right| left.0 == right.0);
        let mut popular =
            most_first(of_item.map(|pairs| (pairs[0].0, pairs.len() as u32)).collect());
        popular.truncate(POPULAR_ITEMS);
        popular
    }
}

// === impl BlendedDay ===

impl BlendedDay<'_> {
    /// Up to `size` items for a request of this day at `now` by a user with this `(item, time)` history, oldest first;
    /// best first. A score is `Σ weight / (60 + rank)` over the lists that hold the item.
    ///
    /// Where the lists hold too few, items with the most buyers so far fill the slate, with a score of zero.
    pub fn slate(
        &mut self,
        history: &[(u32, i64)],
        now: i64,
        size: usize,
        exclude: &dyn Fn(u32) -> bool,
    ) -> Vec<(u32, f32)> {
        debug_assert_eq!(Blended::day_of(now), self.start, "a request of another day");
        let latest = latest_distinct(history, RECENT_ITEMS);
        let co_purchases = self.co_purchases(&latest);
        let titles = self.alike(&latest);
        let before = bought_before(history, now);
        let weights = self.log.weights;
        let lists = [
            (weights.co_purchases, co_purchases.as_slice()),
            (weights.popular_week, &self.popular_week),
            (weights.popular_month, &self.popular_month),
            (weights.titles, &titles),
            (weights.bought_before, &before),
        ];
        let mut slate = merge(&lists, exclude);
        slate.truncate(size);
        let held: FxHashSet<u32> = slate.iter().map(|&(item, _)| item).collect();
        let missing = size - slate.len();
        let fill = self.popular_ever.iter().filter(|item| !held.contains(item) && !exclude(**item));
        slate.extend(fill.take(missing).map(|&item| (item, 0.0)));
        slate
    }

    /// Items that buyers of the latest items bought, too.
    fn co_purchases(&mut self, latest: &[u32]) -> Vec<u32> {
        let mut votes = Vec::new();
        let mut weight = 1.0;
        for &item in latest {
            if !self.neighbours.contains_key(&item) {
                let found = self.count_neighbours(item);
                self.neighbours.insert(item, found);
            }
            votes.extend(
                self.neighbours[&item].iter().map(|&(near, cosine)| (near, weight * cosine)),
            );
            weight *= DECAY;
        }
        tally(votes).into_iter().map(|(item, _)| item).collect()
    }

    /// The closest items by the buyers that they share, `together / √(buyers × its buyers)`.
    fn count_neighbours(&mut self, item: u32) -> Vec<(u32, f32)> {
        let own = before(&self.log.buyers[item as usize], self.start);
        let mut touched = Vec::new();
        for &(user, _) in own {
            let bought = before(&self.log.bought[user as usize], self.start);
            for &(other, _) in &bought[bought.len().saturating_sub(ITEMS_PER_USER)..] {
                if self.together[other as usize] == 0 {
                    touched.push(other);
                }
                self.together[other as usize] += 1;
            }
        }
        let mut found = Vec::with_capacity(touched.len());
        for other in touched {
            let together = std::mem::take(&mut self.together[other as usize]);
            if other != item {
                let theirs = before(&self.log.buyers[other as usize], self.start).len();
                let cosine = together as f32 / (own.len() as f32 * theirs as f32).sqrt();
                found.push((other, cosine));
            }
        }
        found.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        found.truncate(NEIGHBOURS);
        found
    }

    /// Items that were sold before this day, with titles like those of the latest items.
    fn alike(&self, latest: &[u32]) -> Vec<u32> {
        let mut votes = Vec::new();
        let mut weight = 1.0;
        for &item in latest {
            let near = self.log.titles.of(item).iter().filter(|&&(near, _)| self.is_known(near));
            votes.extend(near.map(|&(near, cosine)| (near, weight * cosine)));
            weight *= DECAY;
        }
        tally(votes).into_iter().map(|(item, _)| item).collect()
    }

    fn is_known(&self, item: u32) -> bool {
        self.log.buyers[item as usize].first().is_some_and(|&(_, time)| time < self.start)
    }
}

/// The entries of a list, oldest first, that are older than a moment.
fn before(list: &[(u32, i64)], moment: i64) -> &[(u32, i64)] {
    &list[..list.partition_point(|&(_, time)| time < moment)]
}

/// Items by their counts, largest first; ties in the order of their numbers.
fn most_first(mut counts: Vec<(u32, u32)>) -> Vec<u32> {
    counts.sort_unstable_by_key(|&(item, count)| (std::cmp::Reverse(count), item));
    counts.into_iter().map(|(item, _)| item).collect()
}

/// The items of a history by how often and how lately they were bought.
fn bought_before(history: &[(u32, i64)], now: i64) -> Vec<u32> {
    let votes = history.iter().rev().map(|&(item, time)| {
        let days = (now - time).max(0) as f32 / DAY_S as f32;
        (item, (-days / BOUGHT_AGAIN_DAYS).exp())
    });
    tally(votes.collect()).into_iter().map(|(item, _)| item).collect()
}

/// Merges lists by reciprocal rank. Excluded items take no rank.
fn merge(lists: &[(f32, &[u32])], exclude: &dyn Fn(u32) -> bool) -> Vec<(u32, f32)> {
    let mut votes = Vec::new();
    for &(weight, list) in lists.iter().filter(|(weight, _)| *weight > 0.0) {
        let allowed = list.iter().filter(|item| !exclude(**item)).take(LIST_ITEMS);
        votes.extend(
            allowed.zip(1_u32..).map(|(&item, rank)| (item, weight / (RANK_OFFSET + rank as f32))),
        );
    }
    tally(votes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 100 * DAY_S + 3_600;
    const NOTHING: BlendWeights = BlendWeights {
        co_purchases: 0.0,
        popular_week: 0.0,
        popular_month: 0.0,
        titles: 0.0,
        bought_before: 0.0,
    };
    const TITLES: [&str; 12] = [
        "red mug",
        "blue pot",
        "porcelain mug",
        "lamp",
        "chair",
        "porcelain bowl",
        "desk",
        "sofa",
        "rug",
        "vase",
        "clock",
        "stool",
    ];

    fn day(days: i64) -> i64 {
        days * DAY_S + 60
    }

    /// Item 1 sells with item 0, item 3 in the last week, item 4 in the last month, item 5 long ago, item 6 today.
    fn users() -> Vec<Vec<(u32, i64)>> {
        vec![
            vec![(0, day(10)), (1, day(20))],
            vec![(0, day(10)), (1, day(30))],
            vec![(3, day(95))],
            vec![(3, day(96)), (6, day(100))],
            vec![(4, day(80))],
            vec![(4, day(81))],
            vec![(4, day(82))],
            vec![(2, day(40)), (5, day(50))],
        ]
    }

    fn slate_of(
        users: &[Vec<(u32, i64)>],
        weights: BlendWeights,
        history: &[(u32, i64)],
        exclude: &dyn Fn(u32) -> bool,
    ) -> Vec<(u32, f32)> {
        let blended = Blended::build(users.iter().map(Vec::as_slice), &TITLES, weights);
        blended.day(NOW).slate(history, NOW, 20, exclude)
    }

    fn scored(slate: &[(u32, f32)]) -> Vec<u32> {
        slate.iter().filter(|entry| entry.1 > 0.0).map(|entry| entry.0).collect()
    }

    #[test]
    fn each_list_alone_finds_what_it_is_for() {
        let history = [(2, day(98)), (0, day(99))];
        let table: [(&str, BlendWeights, &[u32]); 6] = [
            ("nothing", NOTHING, &[]),
            ("co-purchases", BlendWeights { co_purchases: 1.0, ..NOTHING }, &[1, 5]),
            ("week", BlendWeights { popular_week: 1.0, ..NOTHING }, &[3]),
            ("month", BlendWeights { popular_month: 1.0, ..NOTHING }, &[4, 3]),
            ("titles", BlendWeights { titles: 1.0, ..NOTHING }, &[2, 0, 5]),
            ("bought before", BlendWeights { bought_before: 1.0, ..NOTHING }, &[0, 2]),
        ];
        for (name, weights, expected) in table {
            let slate = slate_of(&users(), weights, &history, &|_| false);
            assert_eq!(scored(&slate), expected, "{name}");
        }
    }

    #[test]
    fn an_item_of_two_lists_comes_before_the_first_of_one() {
        let merged = merge(&[(1.0, &[7, 8]), (1.0, &[9, 8])], &|_| false);
        assert_eq!(merged.iter().map(|entry| entry.0).collect::<Vec<_>>(), [8, 7, 9]);
        assert!((merged[0].1 - 2.0 / 62.0).abs() < 1e-6, "{merged:?}");
        let merged = merge(&[(1.0, &[7, 8]), (3.0, &[9])], &|item| item == 7);
        assert_eq!(merged.iter().map(|entry| entry.0).collect::<Vec<_>>(), [9, 8]);
        assert!((merged[1].1 - 1.0 / 61.0).abs() < 1e-6, "an excluded item takes no rank");
    }

    #[test]
    fn a_slate_is_filled_up_without_what_is_excluded() {
        let slate = slate_of(&users(), BlendWeights::default(), &[], &|item| item == 3);
        let items: Vec<u32> = slate.iter().map(|entry| entry.0).collect();
        assert_eq!(items[0], 4, "an unknown shopper gets what is popular");
        let mut sorted = items.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 4, 5], "each item that was sold, once");
        let blended = Blended::build([], &TITLES, BlendWeights::default());
        assert!(blended.day(NOW).slate(&[], NOW, 5, &|_| false).is_empty());
    }

    #[test]
    fn nothing_of_the_day_or_after_it_is_read() {
        let history = [(2, day(98)), (0, day(99))];
        let known = slate_of(&users(), BlendWeights::default(), &history, &|_| false);
        let table = [
            ("later the same day", NOW + 60),
            ("earlier the same day", 100 * DAY_S),
            ("the next day", day(101)),
        ];
        for (name, time) in table {
            let mut users = users();
            users.push(vec![(0, time), (9, time)]);
            users.push(vec![(9, time), (3, time)]);
            let slate = slate_of(&users, BlendWeights::default(), &history, &|_| false);
            assert_eq!(slate, known, "{name}");
        }
        let mut users = users();
        users.push(vec![(0, 100 * DAY_S - 1), (9, 100 * DAY_S - 1)]);
        let slate = slate_of(&users, BlendWeights::default(), &history, &|_| false);
        assert!(scored(&slate).contains(&9), "the last second before the day counts");
    }

    #[test]
    fn a_day_before_1970_begins_before_its_moments() {
        for (now, start) in [(0, 0), (DAY_S - 1, 0), (-1, -DAY_S), (-DAY_S, -DAY_S)] {
            assert_eq!(Blended::day_of(now), start, "{now}");
        }
    }
}
