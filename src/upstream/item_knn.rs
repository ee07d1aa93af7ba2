//! Item-kNN over co-purchases, with recency, filled up with popular items.

use rayon::prelude::*;

/// Seconds in a day.
const DAY_S: i64 = 86_400;

/// The settings of an [`ItemKnn`].
#[derive(Clone, Debug, PartialEq)]
pub struct ItemKnnConfig {
    /// Only events before this moment are read (Unix seconds).
    pub as_of: i64,
    /// The latest distinct items of one user that are counted.
    ///
    /// The cost is quadratic in it, and the baskets of wholesale buyers say little about any two items.
    pub items_per_user: usize,
    /// Neighbours of each item.
    pub neighbours: usize,
    /// The latest distinct items of a history from which a slate is built.
    pub recent: usize,
    /// The factor on a neighbour's weight for each step back in the history.
    pub decay: f32,
    /// Days before `as_of` in which popularity is counted.
    pub popularity_days: i64,
}

impl ItemKnnConfig {
    /// The settings with which the baselines were measured, for events before `as_of`.
    pub fn before(as_of: i64) -> Self {
        Self {
            as_of,
            items_per_user: 200,
            neighbours: 100,
            recent: 5,
            decay: 0.8,
            popularity_days: 28,
        }
    }
}

/// An item that the same users bought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Neighbour {
    /// The other item.
    pub item: u32,
    /// `together / √(buyers × its buyers)`, in `0..=1`.
    pub cosine: f32,
    /// Users who bought both.
    pub together: u32,
}

/// Co-purchase neighbours and popularity of items, from events before one moment.
#[derive(Clone, Debug)]
pub struct ItemKnn {
    /// For each item: closest first.
    neighbours: Vec<Vec<Neighbour>>,
    /// Every item that was ever bought, most popular in the window first.
    popular: Vec<u32>,
    recent: usize,
    decay: f32,
}

impl ItemKnn {
    /// Counts each user's `(item, time)` events, oldest first, with item numbers below `items`.
    pub fn build<'a>(
        users: impl IntoIterator<Item = &'a [(u32, i64)]>,
        items: usize,
        config: &ItemKnnConfig,
    ) -> Self {
        let mut popularity = vec![(0_u32, 0_u32); items];
        let mut baskets = NumberGroups::default();
        for history in users {
            let history = &history[..history.partition_point(|&(_, time)| time < config.as_of)];
            let window = history
                .partition_point(|&(_, time)| time < config.as_of - config.popularity_days * DAY_S);
            for item in latest_distinct(&history[window..], usize::MAX) {
                popularity[item as usize].0 += 1;
            }
            for item in latest_distinct(history, usize::MAX) {
                popularity[item as usize].1 += 1;
            }
            baskets.push(&latest_distinct(history, config.items_per_user));
        }
        Self {
            neighbours: closest(&baskets, items, config.neighbours),
            popular: by_popularity(&popularity),
            recent: config.recent,
            decay: config.decay,
        }
    }

    /// The items most often bought with `item`, closest first.
    pub fn neighbours(&self, item: u32) -> &[Neighbour] {
        self.neighbours.get(item as usize).map_or(&[], Vec::as_slice)
    }

    /// Every item that was ever bought, by its buyers in the latest window and then by all of them.
    pub fn popular(&self) -> &[u32] {
        &self.popular
    }

    /// Up to `size` items for a user with this `(item, time)` history, oldest first, best first.
    ///
    /// A score is `Σ decayᵏ · cos(the k-th latest item, item)`. Popular items fill the remaining positions, with a score
    /// of zero.
    pub fn slate(
        &self,
        history: &[(u32, i64)],
        size: usize,
        exclude: &dyn Fn(u32) -> bool,
    ) -> Vec<(u32, f32)> {
        let mut slate = self.related(history);
        slate.retain(|&(item, _)| !exclude(item));
        slate.truncate(size);
        let found: Vec<u32> = slate.iter().map(|&(item, _)| item).collect();
        let missing = size - slate.len();
        let fill = self.popular.iter().filter(|item| !found.contains(item) && !exclude(**item));
        slate.extend(fill.take(missing).map(|&item| (item, 0.0)));
        slate
    }

    /// The neighbours of the latest items with their scores, best first.
    fn related(&self, history: &[(u32, i64)]) -> Vec<(u32, f32)> {
        let mut votes: Vec<(u32, f32)> = Vec::with_capacity(self.recent * 100);
        let mut weight = 1.0;
        for item in latest_distinct(history, self.recent) {
            votes
                .extend(self.neighbours(item).iter().map(|near| (near.item, weight * near.cosine)));
            weight *= self.decay;
        }
        tally(votes)
    }
}

/// Adds up the votes of each item, best first; ties in the order of their numbers.
pub(super) fn tally(mut votes: Vec<(u32, f32)>) -> Vec<(u32, f32)> {
    // The sort is stable, so an item's votes are added in the order given on every machine.
    votes.sort_by_key(|&(item, _)| item);
    votes.dedup_by(|vote, kept| {
        let same = vote.0 == kept.0;
        if same {
            kept.1 += vote.1;
        }
        same
    });
    votes.sort_unstable_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
    votes
}

/// The `most` latest distinct items of a history that is oldest first, newest first.
pub(super) fn latest_distinct(history: &[(u32, i64)], most: usize) -> Vec<u32> {
    let mut seen = rustc_hash::FxHashSet::default();
    let newest_first = history.iter().rev().map(|&(item, _)| item);
    newest_first.filter(|&item| seen.insert(item)).take(most).collect()
}

/// The `most` closest neighbours of each item.
///
/// Each item's co-purchases are counted on their own in a scratch row, so the result does not depend on the number of
/// threads.
fn closest(baskets: &NumberGroups, items: usize, most: usize) -> Vec<Vec<Neighbour>> {
    let buyers = baskets.inverted(items);
    (0..items)
        .into_par_iter()
        .map_init(
            || (vec![0_u32; items], Vec::new()),
            |(together, touched), item| {
                for &user in buyers.group(item) {
                    for &other in baskets.group(user as usize) {
                        if together[other as usize] == 0 {
                            touched.push(other);
                        }
                        together[other as usize] += 1;
                    }
                }
                let own = buyers.group(item).len() as f32;
                let mut found: Vec<Neighbour> = Vec::with_capacity(touched.len());
                for other in touched.drain(..) {
                    let together = std::mem::take(&mut together[other as usize]);
                    if other as usize != item {
                        let theirs = buyers.group(other as usize).len() as f32;
                        let cosine = together as f32 / (own * theirs).sqrt();
                        found.push(Neighbour { item: other, cosine, together });
                    }
                }
                keep_closest(found, most)
            },
        )
        .collect()
}

/// The `most` closest, closest first; ties in the order of their numbers.
fn keep_closest(mut found: Vec<Neighbour>, most: usize) -> Vec<Neighbour> {
    let nearer = |left: &Neighbour, right: &Neighbour| {
        right.cosine.total_cmp(&left.cosine).then(left.item.cmp(&right.item))
    };
    if found.len() > most && most > 0 {
        found.select_nth_unstable_by(most - 1, nearer);
    }
    found.truncate(most);
    found.sort_unstable_by(nearer);
    found.shrink_to_fit();
    found
}

/// Items with any buyer, ordered by (buyers in the window, buyers ever), largest first.
fn by_popularity(popularity: &[(u32, u32)]) -> Vec<u32> {
    let bought = |item: &u32| popularity[*item as usize].1 > 0;
    let mut popular: Vec<u32> = (0..popularity.len() as u32).filter(bought).collect();
    popular.sort_unstable_by_key(|&item| (std::cmp::Reverse(popularity[item as usize]), item));
    popular
}

/// Groups of numbers in one allocation (compressed sparse rows).
#[derive(Debug)]
struct NumberGroups {
    /// The start of each group, and the end of the last.
    bounds: Vec<usize>,
    members: Vec<u32>,
}

impl Default for NumberGroups {
    fn default() -> Self {
        Self { bounds: vec![0], members: Vec::new() }
    }
}

impl NumberGroups {
    fn push(&mut self, members: &[u32]) {
        self.members.extend_from_slice(members);
        self.bounds.push(self.members.len());
    }

    fn group(&self, index: usize) -> &[u32] {
        &self.members[self.bounds[index]..self.bounds[index + 1]]
    }

    /// The transpose: for each member number below `members`, the groups that hold it, ascending.
    fn inverted(&self, members: usize) -> Self {
        let mut bounds = vec![0; members + 1];
        for &member in &self.members {
            bounds[member as usize + 1] += 1;
        }
        for member in 0..members {
            bounds[member + 1] += bounds[member];
        }
        let mut next = bounds.clone();
        let mut inverted = vec![0; self.members.len()];
        for group in 0..self.bounds.len() - 1 {
            for &member in self.group(group) {
                inverted[next[member as usize]] = group as u32;
                next[member as usize] += 1;
            }
        }
        Self { bounds, members: inverted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Four users; item 5 is only bought after the retriever's time.
    const USERS: [&[(u32, i64)]; 4] = [
        &[(0, 10), (1, 20), (0, 30)],
        &[(0, 10), (1, 20), (2, 30)],
        &[(1, 10), (2, 20), (5, 2_000)],
        &[(3, 500)],
    ];

    fn config() -> ItemKnnConfig {
        ItemKnnConfig::before(1_000)
    }

    fn retriever() -> ItemKnn {
        ItemKnn::build(USERS, 6, &config())
    }

    #[test]
    fn cosine_counts_each_user_once() {
        let retriever = retriever();
        let near: Vec<(u32, u32)> =
            retriever.neighbours(0).iter().map(|near| (near.item, near.together)).collect();
        assert_eq!(near, [(1, 2), (2, 1)]);
        let cosine = retriever.neighbours(0)[0].cosine;
        assert!((cosine - 2.0 / 6_f32.sqrt()).abs() < 1e-6, "{cosine}");
        assert!(retriever.neighbours(3).is_empty());
        assert!(retriever.neighbours(99).is_empty(), "an unknown item has no neighbours");
    }

    #[test]
    fn nothing_after_its_time_is_read() {
        let retriever = retriever();
        assert!(retriever.neighbours(5).is_empty());
        assert!(!retriever.popular().contains(&5));
    }

    #[test]
    fn a_slate_decays_with_age_and_is_filled_with_popular_items() {
        let retriever = retriever();
        let history = [(2, 40), (0, 50)];
        let slate = retriever.slate(&history, 4, &|item| item == 0 || item == 2);
        assert_eq!(slate.iter().map(|entry| entry.0).collect::<Vec<_>>(), [1, 3]);
        let expected = 2.0 / 6_f32.sqrt() + 0.8 * 2.0 / 6_f32.sqrt();
        assert!((slate[0].1 - expected).abs() < 1e-6, "{slate:?}");
        assert!(slate[1].1 == 0.0, "a popular item has no score");
    }

    #[test]
    fn an_unknown_user_gets_recently_popular_items() {
        let users: [&[(u32, i64)]; 3] = [&[(0, 1)], &[(0, 2)], &[(1, 100 * DAY_S)]];
        let retriever = ItemKnn::build(users, 3, &ItemKnnConfig::before(101 * DAY_S));
        assert_eq!(retriever.slate(&[], 2, &|_| false), [(1, 0.0), (0, 0.0)]);
        assert_eq!(retriever.slate(&[], 1, &|item| item == 1), [(0, 0.0)]);
        assert!(retriever.slate(&[], 0, &|_| false).is_empty());
    }

    #[test]
    fn limits_keep_the_latest_items_and_the_closest_neighbours() {
        assert_eq!(latest_distinct(&[(1, 0), (2, 1), (1, 2), (3, 3)], 2), [3, 1]);
        let narrow = ItemKnnConfig { neighbours: 1, ..config() };
        let retriever = ItemKnn::build(USERS, 6, &narrow);
        assert_eq!(retriever.neighbours(1).len(), 1);
        assert_eq!(retriever.neighbours(1)[0].item, 0, "equals go by number");
    }

    /// First purchases of a real shop, by user, if the data is beside the project. Lines of one invoice are shuffled, because
    /// their order means nothing.
    fn real_histories() -> Option<Vec<Vec<(u32, i64)>>> {
        let root = env!("CARGO_MANIFEST_DIR");
        let path = format!("{root}/../shared/data/online-retail-ii/events.csv.zst");
        let file = std::fs::File::open(path).ok()?;
        let mut rows = csv::Reader::from_reader(zstd::Decoder::new(file).unwrap());
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let mut lines: Vec<(u32, i64, u64, u32)> = rows
            .deserialize()
            .map(|row| {
                let (time, user, _invoice, item, ..): (i64, u32, u32, u32, i64, f64) = row.unwrap();
                (user, time, random.random(), item)
            })
            .collect();
        lines.sort_unstable();
        let mut bought = rustc_hash::FxHashSet::default();
        lines.retain(|&(user, _, _, item)| bought.insert((user, item)));
        let of_one_user = lines.chunk_by(|left, right| left.0 == right.0);
        let histories = of_one_user.map(|user| user.iter().map(|line| (line.3, line.1)).collect());
        Some(histories.filter(|history: &Vec<_>| history.len() >= 5).collect())
    }

    #[test]
    fn co_purchases_find_what_a_real_shopper_buys_next_far_better_than_popularity() {
        let Some(histories) = real_histories() else {
            println!("skipped: the real shop's data is not here");
            return;
        };
        let known = histories.iter().map(|history| &history[..history.len() - 1]);
        let retriever = ItemKnn::build(known.clone(), 5_000, &ItemKnnConfig::before(i64::MAX / 2));
        let (mut related, mut popular) = (0.0, 0.0);
        for (known, history) in known.zip(&histories) {
            let next = history[known.len()].0;
            let owned = |item| known.iter().any(|event| event.0 == item);
            let slate = retriever.slate(known, 10, &owned);
            related += f64::from(u8::from(slate.iter().any(|entry| entry.0 == next)));
            let mut first = retriever.popular().iter().filter(|&&item| !owned(item)).take(10);
            popular += f64::from(u8::from(first.any(|&item| item == next)));
        }
        let [related, popular] = [related, popular].map(|hits| hits / histories.len() as f64);
        println!("recall at 10: co-purchases {related:.4}, popularity {popular:.4}");
        assert!(related > 0.17 && related < 0.25, "{related}");
        assert!(popular > 0.02 && popular < 0.04, "{popular}");
    }
}
