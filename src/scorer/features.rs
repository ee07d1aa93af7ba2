//! The features of a shopper and a candidate: numbers that the network reads, defined once for training and
//! serving. [`FEATURES`] lists them; [`FeatureContext`] counts a history, from which they are computed.

mod catalogue;
#[cfg(test)]
mod document;
mod live;
mod live_catalogue;
mod query_catalogue;
mod query_index;
mod query_rows;
mod query_tokens;
mod query_words;
mod relevance;
mod vector_history;

pub use catalogue::{FEATURE_COUNT, FEATURES, Feature, FeatureId, FeatureVector};
pub use live::{LiveCounts, LiveItem, item_groups, past_of};
pub use live_catalogue::{
    ItemFigures, LIVE_COUNT, LIVE_FEATURES, LiveFeature, LiveInput, LiveVector, PastFigures,
    TogetherFigures, WordFigures,
};
pub use relevance::{Fact, FactSales, Relevance, RelevanceWeights};

pub use query_catalogue::{
    HitsAndMisses, QUERY_COUNT, QUERY_FEATURES, QueryFeature, QueryInput, QueryVector,
};
pub use query_index::{NamedValue, QueryIndex};
pub use query_rows::{QueryItem, QueryView, SpokenQuery};
pub use query_words::{PriceBounds, QUERY_WORDS_MAX, QueryWords, WISHES_MAX, Wish, is_stop_word};

pub use vector_history::{HistoryVectors, VECTOR_FEATURES, VectorFeature, VectorFigures};

use crate::bundle::{Backing, CardReason, Cards, Catalog, HISTORY_LEN, HistoryEvent, ItemCard};
use crate::domain::{EventKind, ItemText, Timestamp, UserId};
use catalogue::{FeatureInput, Occurrences, PriceGap, SalesFigures, SumAndMax};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Numbers that the direct path may read of a candidate: every feature, then every live feature.
pub const DIRECT_INPUTS: usize = FEATURE_COUNT + LIVE_COUNT;

/// Buckets of an event's age.
pub const AGE_BUCKETS: usize = 24;
/// Buckets per doubling of an event's age.
const AGE_BUCKETS_PER_DOUBLING: f32 = 1.6;

/// Distinct items of a history whose neighbours are looked up, latest first.
const NEIGHBOURHOOD_ITEMS: usize = 20;
/// Of them, those whose partners' closeness is summed.
const PARTNER_SUM_ITEMS: usize = 5;
/// What each step back in the history multiplies that closeness by.
const PARTNER_SUM_DECAY: f32 = 0.8;

/// What was bought or put into the cart within this time is the open basket.
const OPEN_BASKET_S: i64 = 3_600;
/// The price that stands in for a lower one, whose logarithm would be too low.
const PRICE_MIN: f32 = 0.01;
/// The overlap of an item falls from 1 towards one half. After these days, what it has above one
/// half is divided by e.
const BACKING_DECAY_DAYS: f32 = 90.0;

/// Seconds of an hour, and of a day.
const HOUR_S: f32 = 3_600.0;
const DAY_S: f32 = 86_400.0;

/// Features of candidates for one shopper at one moment.
#[derive(Clone, Debug)]
pub struct FeatureContext<'a> {
    catalog: &'a Catalog,
    history: &'a [HistoryEvent],
    counts: Arc<HistoryCounts>,
}

/// A shopper's history at one moment, counted once for every candidate of every rung.
#[derive(Debug)]
pub struct HistoryCounts {
    now: Timestamp,
    /// Of the year, `0..12`.
    month: usize,
    items: FxHashMap<u32, ItemHistory>,
    /// Events by category, and by attribute.
    categories: FxHashMap<u32, u32>,
    attributes: FxHashMap<u32, u32>,
    /// By the attribute that names the kind.
    kinds: FxHashMap<u32, KindHistory>,
    /// `None` where no price of the history's items is known.
    usual_price: Option<UsualPrice>,
    /// Distinct items in the open basket.
    basket_items: u32,
    neighbours: FxHashMap<u32, NeighbourCloseness>,
}

/// A candidate, as features are computed of it.
#[derive(Clone, Copy, Debug)]
pub enum CandidateItem<'a> {
    /// An item of the catalogue, by number, and its card.
    Known(u32, &'a ItemCard),
    /// An item whose text came with the request or a put, and its price, if it is known.
    Inline(&'a ItemText, Option<RankedPrice>),
}

/// A candidate's price, and the share of its category's priced items that cost less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RankedPrice {
    /// In the shop's currency.
    pub price: f32,
    /// In `0..=1`.
    pub rank: f32,
}

/// Events of one sort in a history.
#[derive(Clone, Copy, Debug, Default)]
struct EventCount {
    count: u32,
    last: Timestamp,
}

/// The events with one item.
#[derive(Clone, Copy, Debug, Default)]
struct ItemHistory {
    purchases: EventCount,
    browses: EventCount,
}

/// The events with items of one kind.
#[derive(Clone, Copy, Debug, Default)]
struct KindHistory {
    in_basket: bool,
    /// Purchases before the open basket.
    purchases: EventCount,
}

/// Means over the history's events whose items have a price.
#[derive(Clone, Copy, Debug, PartialEq)]
struct UsualPrice {
    log_price: f32,
    rank: f32,
}

/// How close an item is to the latest items of a history.
#[derive(Clone, Copy, Debug, Default)]
struct NeighbourCloseness {
    /// By their buyers.
    partner: SumAndMax,
    /// By the baskets that hold both: to items in the open basket, and to earlier ones.
    basket_companion: SumAndMax,
    earlier_companion: SumAndMax,
}

// === impl FeatureContext ===

impl<'a> FeatureContext<'a> {
    /// Counts the last [`HISTORY_LEN`] events of a history (oldest first), as seen at `now`.
    pub fn new(
        catalog: &'a Catalog,
        cards: &Cards,
        history: &'a [HistoryEvent],
        now: Timestamp,
        month: usize,
    ) -> Self {
        let counts = Arc::new(HistoryCounts::of(catalog, cards, history, now, month));
        Self::with_counts(catalog, history, counts)
    }

    /// The same, with the counts of this very history.
    pub fn with_counts(
        catalog: &'a Catalog,
        history: &'a [HistoryEvent],
        counts: Arc<HistoryCounts>,
    ) -> Self {
        Self { catalog, history: last_events(history), counts }
    }

    /// The events that the network reads, oldest first.
    pub fn history(&self) -> &'a [HistoryEvent] {
        self.history
    }

    /// The bucket of an event's age: fine for hours, coarse for years.
    pub fn age(&self, event: &HistoryEvent) -> u8 {
        let hours = (self.counts.now - event.time).max(0) as f32 / HOUR_S;
        ((hours + 1.0).log2() * AGE_BUCKETS_PER_DOUBLING).min((AGE_BUCKETS - 1) as f32) as u8
    }

    /// The features of a candidate. `overlaps` are those of its card's reasons, in order.
    pub fn features(&self, candidate: CandidateItem<'_>, overlaps: &[f32]) -> FeatureVector {
        FeatureVector::compute(&match candidate {
            CandidateItem::Known(number, card) => self.known_input(number, card, overlaps),
            CandidateItem::Inline(text, price) => self.inline_input(text, price),
        })
    }

    fn known_input(&self, number: u32, card: &ItemCard, overlaps: &[f32]) -> FeatureInput {
        let item = self.catalog.item(number);
        let own = self.counts.items.get(&number).copied().unwrap_or_default();
        let near = self.counts.neighbours.get(&number).copied().unwrap_or_default();
        let kind =
            item.kind.and_then(|kind| self.counts.kinds.get(&kind)).copied().unwrap_or_default();
        let shares: f32 =
            item.attributes.iter().map(|&a| self.share(&self.counts.attributes, a)).sum();
        let mut backing = SumAndMax::default();
        for (&overlap, reason) in overlaps.iter().zip(&card.reasons) {
            backing.add(Self::backing(overlap, reason), 1.0);
        }
        FeatureInput {
            purchases: self.occurrences(own.purchases),
            browses: self.occurrences(own.browses),
            sales: self.sales(card),
            price_gap: self.price_gap(RankedPrice::of(card)),
            category_share: self.share(&self.counts.categories, item.category),
            attribute_share: shares / item.attributes.len().max(1) as f32,
            backing,
            partner: near.partner,
            basket_companion: near.basket_companion,
            earlier_companion: near.earlier_companion,
            basket_items: self.counts.basket_items,
            kind_in_basket: kind.in_basket,
            kind_purchases: self.occurrences(kind.purchases),
        }
    }

    /// Of an item that the shop does not know, only the category and the price say something.
    fn inline_input(&self, text: &ItemText, price: Option<RankedPrice>) -> FeatureInput {
        let category = self.catalog.category_number(&text.category);
        let share = category.map_or(0.0, |number| self.share(&self.counts.categories, number));
        let price_rank = price.map_or(0.0, |price| price.rank);
        FeatureInput {
            category_share: share,
            sales: SalesFigures { price_rank, ..SalesFigures::default() },
            price_gap: self.price_gap(price),
            ..FeatureInput::default()
        }
    }

    fn sales(&self, card: &ItemCard) -> SalesFigures {
        let stats = &card.stats;
        SalesFigures {
            total: stats.sales,
            recent: stats.sales_recent,
            in_month: stats.months[self.counts.month],
            days_since_first: stats.first_sale.map(|first| self.days_since(first)),
            price_rank: stats.price_rank,
        }
    }

    fn price_gap(&self, price: Option<RankedPrice>) -> Option<PriceGap> {
        let (RankedPrice { price, rank }, usual) = price.zip(self.counts.usual_price)?;
        Some(PriceGap {
            log_price: price.max(PRICE_MIN).ln() - usual.log_price,
            rank: rank - usual.rank,
        })
    }

    fn occurrences(&self, of: EventCount) -> Occurrences {
        let days_since_last = if of.count == 0 { 0.0 } else { self.days_since(of.last) };
        Occurrences { count: of.count, days_since_last }
    }

    /// How strongly the history supports a reason's claim, in `0..=1`. An item that the reason cites
    /// counts by how lately it was met, an attribute by how common it is.
    pub fn overlap(&self, reason: &CardReason) -> f32 {
        match reason.backing {
            Backing::Item(item) => self.counts.items.get(&item).map_or(0.0, |history| {
                0.5 + 0.5 * (-self.days_since(history.last()) / BACKING_DECAY_DAYS).exp()
            }),
            Backing::Attribute(attribute) => self.share(&self.counts.attributes, attribute).sqrt(),
            Backing::Nothing => 0.0,
        }
    }

    /// The backing of a reason with this overlap: the overlap times the reason's own strength.
    pub fn backing(overlap: f32, reason: &CardReason) -> f32 {
        overlap * reason.strength
    }

    /// Whether a reason would not stand without this very user.
    pub fn is_supported_by(reason: &CardReason, user: &UserId) -> bool {
        reason.supporters.contains(user)
    }

    /// The share of the history's events that were counted under this number.
    fn share(&self, counts: &FxHashMap<u32, u32>, number: u32) -> f32 {
        counts.get(&number).map_or(0.0, |&count| count as f32 / self.history.len() as f32)
    }

    fn days_since(&self, time: Timestamp) -> f32 {
        (self.counts.now - time).max(0) as f32 / DAY_S
    }
}

// === impl RankedPrice ===

impl RankedPrice {
    /// The price on a card, if it is known.
    fn of(card: &ItemCard) -> Option<Self> {
        card.stats.price.map(|price| Self { price, rank: card.stats.price_rank })
    }
}

// === impl HistoryCounts ===

impl HistoryCounts {
    /// Counts the last [`HISTORY_LEN`] events of a history (oldest first), as seen at `now`.
    pub fn of(
        catalog: &Catalog,
        cards: &Cards,
        history: &[HistoryEvent],
        now: Timestamp,
        month: usize,
    ) -> Self {
        let history = last_events(history);
        let mut counts = Self {
            now,
            month,
            items: FxHashMap::default(),
            categories: FxHashMap::default(),
            attributes: FxHashMap::default(),
            kinds: FxHashMap::default(),
            usual_price: None,
            basket_items: 0,
            neighbours: FxHashMap::default(),
        };
        let (mut log_prices, mut ranks, mut priced) = (0.0, 0.0, 0.0);
        for event in history {
            let item = catalog.item(event.item);
            counts.items.entry(event.item).or_default().count(event);
            *counts.categories.entry(item.category).or_default() += 1;
            for &attribute in &item.attributes {
                *counts.attributes.entry(attribute).or_default() += 1;
            }
            let in_basket = counts.is_in_basket(event);
            if let Some(kind) = item.kind {
                counts.kinds.entry(kind).or_default().count(event, in_basket);
            }
            let stats = &cards.items[event.item as usize].stats;
            if let Some(price) = stats.price_paid() {
                log_prices += price.max(PRICE_MIN).ln();
                ranks += stats.price_rank;
                priced += 1.0;
            }
        }
        counts.usual_price = (priced > 0.0)
            .then(|| UsualPrice { log_price: log_prices / priced, rank: ranks / priced });
        counts.find_neighbours(history, cards);
        counts
    }

    /// Whether an event put something into the open basket.
    fn is_in_basket(&self, event: &HistoryEvent) -> bool {
        matches!(event.kind, EventKind::Cart | EventKind::Purchase)
            && event.time >= self.now - OPEN_BASKET_S
    }

    /// Collects the partners and companions of the history's latest distinct items.
    fn find_neighbours(&mut self, history: &[HistoryEvent], cards: &Cards) {
        let mut latest: Vec<(u32, bool)> = Vec::with_capacity(NEIGHBOURHOOD_ITEMS);
        for event in history.iter().rev() {
            if latest.len() < NEIGHBOURHOOD_ITEMS
                && latest.iter().all(|&(item, _)| item != event.item)
            {
                latest.push((event.item, self.is_in_basket(event)));
            }
        }
        for (step, &(item, in_basket)) in latest.iter().enumerate() {
            let weight =
                if step < PARTNER_SUM_ITEMS { PARTNER_SUM_DECAY.powi(step as i32) } else { 0.0 };
            for (partner, closeness) in cards.partners.of(item) {
                self.neighbours.entry(partner).or_default().partner.add(closeness, weight);
            }
            for (companion, closeness) in cards.companions.of(item) {
                let of = self.neighbours.entry(companion).or_default();
                let of =
                    if in_basket { &mut of.basket_companion } else { &mut of.earlier_companion };
                of.add(closeness, 1.0);
            }
            self.basket_items += u32::from(in_basket);
        }
    }
}

/// The names of the direct path's inputs, in their order.
pub fn direct_names() -> impl Iterator<Item = &'static str> {
    let features = FEATURES.iter().map(|feature| feature.name);
    features.chain(LIVE_FEATURES.iter().map(|feature| feature.name))
}

/// The names of the query path's inputs, in their order: the direct path's, then the query features.
pub fn query_path_names() -> impl Iterator<Item = &'static str> {
    direct_names().chain(QUERY_FEATURES.iter().map(|feature| feature.name))
}

/// The events that the network reads.
fn last_events(history: &[HistoryEvent]) -> &[HistoryEvent] {
    &history[history.len().saturating_sub(HISTORY_LEN)..]
}

// === impl EventCount ===

impl EventCount {
    fn add(&mut self, time: Timestamp) {
        self.count += 1;
        self.last = time.max(self.last);
    }
}

// === impl ItemHistory ===

impl ItemHistory {
    fn count(&mut self, event: &HistoryEvent) {
        match event.kind {
            EventKind::Purchase => self.purchases.add(event.time),
            _ => self.browses.add(event.time),
        }
    }

    /// When the item was last met.
    fn last(&self) -> Timestamp {
        self.purchases.last.max(self.browses.last)
    }
}

// === impl KindHistory ===

impl KindHistory {
    fn count(&mut self, event: &HistoryEvent, in_basket: bool) {
        self.in_basket |= in_basket;
        if event.kind == EventKind::Purchase && !in_basket {
            self.purchases.add(event.time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::FeatureId as Id;
    use super::*;
    use crate::bundle::{CatalogRow, ItemStats, NeighbourTable};

    const NOW: Timestamp = 400 * 86_400;

    fn catalog() -> Catalog {
        let row = |id: &str, kind: &str| CatalogRow {
            id: id.into(),
            title: id.into(),
            category: "kitchen".into(),
            attributes: vec![("product_type".into(), kind.into())],
            price: Some(100.0),
        };
        Catalog::new([row("mug", "mug"), row("bowl", "bowl"), row("second mug", "mug")])
    }

    /// The bowl goes into baskets with the mug; everything sold for 2.
    fn cards() -> Cards {
        let stats = ItemStats { sales: 5, price: Some(2.0), ..ItemStats::default() };
        let mut companions = NeighbourTable::new(2);
        companions.push([(1, 0.5)].into_iter());
        companions.push([(0, 0.5), (2, 0.25)].into_iter());
        companions.push([].into_iter());
        let mut partners = NeighbourTable::new(1);
        (0..3).for_each(|_| partners.push([].into_iter()));
        let items = vec![ItemCard { stats, ..ItemCard::default() }; 3];
        Cards { items, partners, companions, ..Cards::default() }
    }

    fn features(history: &[HistoryEvent], of: u32) -> FeatureVector {
        let (catalog, cards) = (catalog(), cards());
        let context = FeatureContext::new(&catalog, &cards, history, NOW, 0);
        context.features(CandidateItem::Known(of, &cards.items[of as usize]), &[])
    }

    fn past(item: u32, ago_s: i64, kind: EventKind) -> HistoryEvent {
        HistoryEvent { item, time: NOW - ago_s, kind }
    }

    #[test]
    fn what_lies_in_the_basket_leads_elsewhere_than_what_was_bought_before() {
        let bowl = features(&[past(0, 60, EventKind::Cart)], 1);
        assert_eq!(
            (
                bowl[Id::BasketCompanionSum],
                bowl[Id::BasketCompanionMax],
                bowl[Id::EarlierCompanionSum]
            ),
            (0.5, 0.5, 0.0)
        );
        let bowl = features(&[past(0, 2 * OPEN_BASKET_S, EventKind::Purchase)], 1);
        assert_eq!(
            (
                bowl[Id::BasketCompanionSum],
                bowl[Id::BasketItems],
                bowl[Id::EarlierCompanionSum],
                bowl[Id::EarlierCompanionMax]
            ),
            (0.0, 0.0, 0.5, 0.5)
        );
        let bowl = features(&[past(0, 60, EventKind::Click)], 1);
        assert_eq!(
            (bowl[Id::BasketCompanionSum], bowl[Id::BasketItems]),
            (0.0, 0.0),
            "a look puts nothing into a basket"
        );
    }

    #[test]
    fn another_thing_of_the_same_kind_is_known_as_such() {
        let mug = features(&[past(0, 0, EventKind::Purchase)], 2);
        assert_eq!(
            (mug[Id::Purchases], mug[Id::KindInBasket], mug[Id::KindPurchases]),
            (0.0, 1.0, 0.0)
        );
        let mug = features(&[past(0, 86_400, EventKind::Purchase)], 2);
        assert!(
            mug[Id::KindInBasket] == 0.0
                && mug[Id::KindPurchases] > 0.0
                && mug[Id::KindPurchaseRecency120d] > 0.9
        );
        assert!(
            features(&[past(0, 86_400, EventKind::Purchase)], 1)[Id::KindPurchases].abs()
                < f32::EPSILON
        );
    }

    #[test]
    fn browsing_and_buying_are_told_apart() {
        let clicked = features(&[past(1, 86_400, EventKind::Click)], 1);
        assert!(clicked[Id::Purchases] == 0.0 && clicked[Id::Browses] > 0.0);
        let bought = features(&[past(1, 86_400, EventKind::Purchase)], 1);
        assert!(bought[Id::Purchases] > 0.0 && bought[Id::Browses] == 0.0);
    }

    #[test]
    fn the_price_of_a_new_item_counts_as_that_of_a_known_one() {
        const PRICE_FEATURES: [&str; 5] = [
            "price_rank",
            "price_distance",
            "price_difference",
            "price_rank_difference",
            "price_rank_distance",
        ];
        let catalog = catalog();
        let mut cards = cards();
        for (item, (price, rank)) in
            cards.items.iter_mut().zip([(2.0, 0.5), (8.0, 0.75), (0.0, 0.0)])
        {
            (item.stats.price, item.stats.price_rank) = (Some(price), rank);
        }
        let text = ItemText { title: "cup".into(), category: "kitchen".into(), attributes: vec![] };
        let history = [past(0, 5_000, EventKind::Purchase)];
        let context = FeatureContext::new(&catalog, &cards, &history, NOW, 0);
        let values = |of: CandidateItem<'_>| {
            let features = context.features(of, &[]);
            let named = FEATURES.iter().zip(features.as_slice());
            let priced = named.filter(|(feature, _)| PRICE_FEATURES.contains(&feature.name));
            priced.map(|(_, value)| *value).collect::<Vec<f32>>()
        };
        for number in 0..3 {
            let card = &cards.items[number as usize];
            let known = values(CandidateItem::Known(number, card));
            let price =
                RankedPrice { price: card.stats.price.unwrap(), rank: card.stats.price_rank };
            assert_eq!(values(CandidateItem::Inline(&text, Some(price))), known, "{price:?}");
            assert_eq!(known.len(), PRICE_FEATURES.len());
        }
        assert_eq!(values(CandidateItem::Inline(&text, None)), [0.0; 5], "no price says nothing");
        let free = RankedPrice { price: 0.0, rank: 0.0 };
        assert!(
            values(CandidateItem::Inline(&text, Some(free))).iter().all(|value| value.is_finite())
        );
        // Without a price in the history, only the rank is known.
        let context = FeatureContext::new(&catalog, &cards, &[], NOW, 0);
        let price = RankedPrice { price: 8.0, rank: 0.75 };
        let features = context.features(CandidateItem::Inline(&text, Some(price)), &[]);
        assert_eq!(features.as_slice().iter().filter(|value| **value != 0.0).count(), 1);
    }

    #[test]
    fn a_price_is_the_last_one_paid_and_not_the_catalogues() {
        let bowl = features(&[past(0, 86_400, EventKind::Purchase)], 1);
        assert_eq!((bowl[Id::PriceDistance], bowl[Id::PriceDifference]), (0.0, 0.0));
        let (catalog, mut cards) = (catalog(), cards());
        // The mug sold for the first time after the cards were written.
        cards.items[0].stats.sales = 0;
        let history = [past(0, 86_400, EventKind::Purchase)];
        assert_eq!(HistoryCounts::of(&catalog, &cards, &history, NOW, 0).usual_price, None);
    }
}
