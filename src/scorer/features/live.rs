//! The live features of candidates for one shopper at one moment, from the statistics as they are then.

use super::live_catalogue::{
    ItemFigures, LiveInput, LiveVector, PastFigures, TogetherFigures, WordFigures,
};
use crate::bundle::{Catalog, HistoryEvent};
use crate::domain::{EventKind, Timestamp};
use crate::language::{WeightedWord, WordWeights};
use crate::statistics::{
    ITEM_GROUPS_MAX, ItemGroups, ShopEvent, ShopperPast, Statistics, StatisticsError,
};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Latest distinct items whose partners and words are compared with a candidate's.
const LATEST_ITEMS: usize = 20;
/// Of them, those whose partners are looked at.
const PARTNER_ITEMS: usize = 10;
/// Of them, those that count in sums.
const SUM_ITEMS: usize = 5;
/// What each step back in the past multiplies by.
const STEP_DECAY: f32 = 0.8;
/// Added to an item's buyers, so that few buyers make no large share.
const BUYERS_OFFSET: f32 = 8.0;
/// Indices of the windows of 7 and 28 days.
const WEEK: usize = 2;
const MONTH: usize = 3;
/// Seconds of a day.
const DAY_S: f32 = 86_400.0;

/// What is counted live for one shopper at one moment, once for every candidate.
#[derive(Debug)]
pub struct LiveCounts {
    now: Timestamp,
    statistics: Arc<Statistics>,
    words: Arc<WordWeights>,
    past: Arc<ShopperPast>,
    together: FxHashMap<u32, TogetherFigures>,
    latest_words: LatestWords,
    repeat_share: f32,
    days_per_basket: f32,
}

/// A candidate, as live features are computed of it.
#[derive(Clone, Copy, Debug)]
pub enum LiveItem<'a> {
    /// An item of the catalogue, by number.
    Known(u32),
    /// An item whose text came with the request, or after the bundle was made.
    New {
        /// Its number in the statistics, if events of it are counted.
        number: Option<u32>,
        /// The number of its category, if the catalogue has it.
        category: Option<u32>,
        /// Its text: title and attributes.
        text: &'a str,
    },
}

/// The words of the latest items, by word.
#[derive(Debug, Default)]
struct LatestWords {
    /// For each word, where it is: (steps back, weight).
    holders: FxHashMap<u32, Vec<(usize, f32)>>,
    /// The length of the weighted sum of the vectors of the items that count in sums.
    mean_length: f32,
}

// === impl LiveCounts ===

impl LiveCounts {
    /// Counts a shopper's past for the candidates of a request at `now`.
    pub fn of(
        statistics: Arc<Statistics>,
        words: Arc<WordWeights>,
        past: Arc<ShopperPast>,
        now: Timestamp,
    ) -> Self {
        let latest: Vec<u32> = past.latest().take(LATEST_ITEMS).collect();
        let together = together(&statistics, &latest, now);
        let latest_words = LatestWords::of(&words, &latest);
        let purchases = past.purchases() as f32;
        let repeat_share = past.repeat_purchases() as f32 / purchases.max(1.0);
        let days_per_basket = match (past.first_purchase(), past.last_purchase()) {
            (Some(first), Some(last)) if past.baskets() > 1 => {
                days_between(first, last) / (past.baskets() - 1) as f32
            }
            _ => 0.0,
        };
        Self { now, statistics, words, past, together, latest_words, repeat_share, days_per_basket }
    }

    /// The moment.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The statistics that it reads.
    pub fn statistics(&self) -> &Arc<Statistics> {
        &self.statistics
    }

    /// The live features of a candidate.
    pub fn vector(&self, catalog: &Catalog, item: LiveItem<'_>) -> LiveVector {
        let weighed;
        let (number, category, words) = match item {
            LiveItem::Known(number) => {
                (Some(number), Some(catalog.item(number).category), self.words.text(number))
            }
            LiveItem::New { number, category, text } => {
                weighed = self.words.weigh(text);
                (number, category, weighed.as_slice())
            }
        };
        LiveVector::compute(&LiveInput {
            counts: number.map_or_else(ItemFigures::default, |number| self.figures(number)),
            category_buyers: category
                .map_or(0.0, |category| self.statistics.category(category, self.now).buyers[WEEK]),
            together: number
                .and_then(|number| self.together.get(&number).copied())
                .unwrap_or_default(),
            words: self.latest_words.compare(words),
            past: number.and_then(|number| self.past_figures(number)),
            repeat_share: self.repeat_share,
            days_per_basket: self.days_per_basket,
        })
    }

    fn figures(&self, number: u32) -> ItemFigures {
        let counts = self.statistics.item(number, self.now);
        let purchases = counts.events[EventKind::Purchase as usize];
        let clicks = counts.events[EventKind::Click as usize];
        let carts = counts.events[EventKind::Cart as usize];
        ItemFigures {
            buyers: counts.buyers,
            purchases: [purchases[WEEK], purchases[MONTH]],
            repeats: counts.repeats,
            browses: clicks[WEEK] + carts[WEEK],
            days_since_sale: counts.last_sale.map(|last| days_between(last, self.now)),
            days_known: counts.first_event.map(|first| days_between(first, self.now)),
        }
    }

    fn past_figures(&self, number: u32) -> Option<PastFigures> {
        let past = self.past.item(number)?;
        let gaps = past.baskets.saturating_sub(1);
        let due = match (past.first_purchase(), past.last_purchase()) {
            (Some(first), Some(last)) if gaps > 0 => {
                let mean_gap = days_between(first, last) / gaps as f32;
                ((days_between(last, self.now) + 1.0) / (mean_gap + 1.0)).ln()
            }
            _ => 0.0,
        };
        Some(PastFigures {
            events: (past.purchases + past.browses) as f32,
            purchases: past.purchases as f32,
            days_since_seen: days_between(past.last_seen, self.now),
            basket_share: past.baskets as f32 / self.past.baskets().max(1) as f32,
            basket_decay: past.recent_baskets(self.past.baskets()) as f32,
            day_decay: past.recent_days(self.now) as f32,
            due,
        })
    }
}

/// How often baskets of the latest items (latest first) went with each of their partners.
fn together(
    statistics: &Statistics,
    latest: &[u32],
    now: Timestamp,
) -> FxHashMap<u32, TogetherFigures> {
    let mut together: FxHashMap<u32, TogetherFigures> = FxHashMap::default();
    for (step, &item) in latest.iter().take(PARTNER_ITEMS).enumerate() {
        let buyers = statistics.item(item, now).buyers_ever as f32 + BUYERS_OFFSET;
        let weight = if step < SUM_ITEMS { STEP_DECAY.powi(step as i32) } else { 0.0 };
        for pair in statistics.pairs(item, now) {
            let of = together.entry(pair.partner).or_default();
            of.same += weight * pair.same / buyers;
            of.same_max = of.same_max.max(pair.same / buyers);
            of.next += weight * pair.next / buyers;
            of.recent += weight * pair.recent;
        }
    }
    together
}

// === impl LatestWords ===

impl LatestWords {
    fn of(words: &WordWeights, latest: &[u32]) -> Self {
        let mut holders: FxHashMap<u32, Vec<(usize, f32)>> = FxHashMap::default();
        for (step, &item) in latest.iter().enumerate() {
            for &(word, weight) in words.text(item) {
                holders.entry(word).or_default().push((step, weight));
            }
        }
        let mut squares: Vec<(u32, f32)> = holders
            .iter()
            .map(|(&word, holders)| {
                let summed = holders.iter().filter(|&&(step, _)| step < SUM_ITEMS);
                let sum: f32 =
                    summed.map(|&(step, weight)| STEP_DECAY.powi(step as i32) * weight).sum();
                (word, sum * sum)
            })
            .collect();
        // A hash map's order must not decide how a sum is rounded.
        squares.sort_unstable_by_key(|&(word, _)| word);
        let mean_length = squares.iter().map(|&(_, square)| square).sum::<f32>().sqrt();
        Self { holders, mean_length }
    }

    fn compare(&self, words: &[WeightedWord]) -> WordFigures {
        let mut cosines = [0.0_f32; LATEST_ITEMS];
        for &(word, weight) in words {
            for &(step, theirs) in self.holders.get(&word).map_or(&[][..], |holders| holders) {
                cosines[step] += weight * theirs;
            }
        }
        let summed = cosines[..SUM_ITEMS].iter().enumerate();
        let sum: f32 = summed.map(|(step, cosine)| STEP_DECAY.powi(step as i32) * cosine).sum();
        WordFigures {
            last: cosines[0],
            mean: if self.mean_length > 0.0 { sum / self.mean_length } else { 0.0 },
            best: cosines.iter().copied().fold(0.0, f32::max),
        }
    }
}

/// A shopper's past, from their events, oldest first.
pub fn past_of(events: impl IntoIterator<Item = HistoryEvent>) -> ShopperPast {
    let event = |HistoryEvent { item, time, kind }| ShopEvent { item, time, kind };
    ShopperPast::of(events.into_iter().map(event))
}

/// The groups of a catalogue's items. Attributes past the bound of an item are not counted.
pub fn item_groups(catalog: &Catalog) -> Result<ItemGroups, StatisticsError> {
    let mut groups = ItemGroups::new(catalog.categories_len(), catalog.attributes_len())?;
    for item in catalog.items() {
        let counted = item.attributes.len().min(ITEM_GROUPS_MAX);
        groups.push(Some(item.category), &item.attributes[..counted])?;
    }
    Ok(groups)
}

/// Days from one moment to another, 0 if it is not later.
fn days_between(from: Timestamp, to: Timestamp) -> f32 {
    to.saturating_sub(from).max(0) as f32 / DAY_S
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::CatalogRow;

    const DAY: Timestamp = 86_400;
    const NOW: Timestamp = 1_000 * DAY;

    fn catalog() -> Catalog {
        let row = |(id, title): (&str, &str)| CatalogRow {
            id: id.into(),
            title: title.into(),
            category: "kitchen".into(),
            attributes: Vec::new(),
            price: None,
        };
        let titles = [("mug", "porcelain mug"), ("bowl", "porcelain bowl"), ("lamp", "oak lamp")];
        Catalog::new(titles.into_iter().chain((0..9).map(|_| ("x", "shelf"))).map(row))
    }

    fn bought(item: u32, days_ago: i64) -> ShopEvent {
        ShopEvent { item, time: NOW - days_ago * DAY, kind: EventKind::Purchase }
    }

    /// Three shoppers bought the mug and the bowl together; one of them bought the lamp after that.
    fn statistics() -> Statistics {
        let mut statistics = Statistics::new(item_groups(&catalog()).unwrap());
        for shopper in 0..3 {
            let mut past = ShopperPast::default();
            for event in [bought(0, 30), bought(1, 30)] {
                statistics.apply(&mut past, event);
            }
            if shopper == 0 {
                statistics.apply(&mut past, bought(2, 20));
            }
        }
        statistics
    }

    fn counts(past: &[ShopEvent]) -> LiveCounts {
        let catalog = catalog();
        let texts = (0..catalog.len() as u32).map(|item| catalog.text(item));
        let words = Arc::new(WordWeights::of(texts));
        let past = Arc::new(ShopperPast::of(past.iter().copied()));
        LiveCounts::of(Arc::new(statistics()), words, past, NOW)
    }

    fn close(found: f32, expected: f32, what: &str) {
        assert!((found - expected).abs() < 1e-4, "{what}: {found}, not {expected}");
    }

    #[test]
    fn what_was_bought_together_is_near() {
        let counts = counts(&[bought(0, 3)]);
        let of = |item| counts.vector(&catalog(), LiveItem::Known(item));
        let (bowl, lamp) = (of(1), of(2));
        close(bowl["together_sum"], 3.0 / 11.0, "three baskets, three buyers and 8");
        close(bowl["together_max"], 3.0 / 11.0, "the only item");
        close(lamp["together_sum"], 0.0, "never in one basket");
        close(lamp["next_sum"], 1.0 / 11.0, "once in the next one");
        close(lamp["together_90d"], (-20.0_f32 / 90.0).exp().ln_1p(), "twenty days ago");
        assert!(bowl["words_last"] > 0.3 && lamp["words_last"] == 0.0, "both are of porcelain");
        close(bowl["words_best"], bowl["words_last"], "the only item");
        close(bowl["words_mean"], bowl["words_last"] / of(0)["words_last"].sqrt(), "its length");
    }

    #[test]
    fn the_past_counts_however_long_ago_it_was() {
        let counts = counts(&[bought(2, 900), bought(2, 800), bought(0, 1)]);
        let of = |item| counts.vector(&catalog(), LiveItem::Known(item));
        let lamp = of(2);
        close(lamp["bought_before"], 3.0_f32.ln(), "twice");
        close(lamp["seen_recency"], 1.0 / (1.0 + 801.0_f32.ln()), "long ago");
        close(lamp["basket_share"], 2.0 / 3.0, "two of three baskets");
        close(lamp["basket_decay"], 0.8 + 0.64, "one and two baskets ago");
        close(lamp["due"], (801.0_f32 / 101.0).ln(), "800 days since, 100 between");
        close(lamp["repeat_share"], 1.0 / 3.0, "one of three purchases");
        close(lamp["days_per_basket"], (899.0_f32 / 2.0).ln_1p(), "two gaps");
        close(of(1)["bought_before"], 0.0, "never");
        close(of(1)["repeat_share"], 1.0 / 3.0, "it is the shopper's");
    }

    #[test]
    fn a_new_item_is_known_by_its_words_and_its_category() {
        let counts = counts(&[bought(0, 3)]);
        let new = LiveItem::New { number: None, category: Some(0), text: "porcelain jug" };
        let vector = counts.vector(&catalog(), new);
        assert!(vector["words_last"] > 0.3, "{vector:?}");
        assert!(vector["category_buyers_7d"] > 0.0);
        close(vector["buyers_365d"], 0.0, "nobody bought it");
        let known = LiveItem::New { number: Some(1), category: Some(0), text: "porcelain bowl" };
        let bowl = counts.vector(&catalog(), LiveItem::Known(1));
        let known = counts.vector(&catalog(), known);
        close(known["together_sum"], bowl["together_sum"], "it has a number");
    }

    #[test]
    fn without_a_past_only_the_item_counts() {
        let vector = counts(&[]).vector(&catalog(), LiveItem::Known(0));
        for name in ["together_sum", "words_best", "words_mean", "seen_before", "repeat_share"] {
            close(vector[name], 0.0, name);
        }
        close(vector["buyers_90d"], (3.0 * (-30.0_f32 / 90.0).exp()).ln_1p(), "three buyers");
        close(vector["days_since_sale"], 31.0_f32.ln(), "thirty days");
    }
}
