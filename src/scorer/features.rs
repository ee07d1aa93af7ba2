//! From histories and cards to the numbers that the network reads: one definition, used by
//! training and serving alike.

use crate::bundle::{Backing, CardReason, Cards, Catalog, HISTORY_LEN, HistoryEvent, ItemCard};
use crate::domain::{EventKind, ItemText, Timestamp, UserId};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Dense features of a (user, item) pair.
pub const FEATURE_COUNT: usize = 30;
/// Buckets of an event's age.
pub const AGE_BUCKETS: usize = 24;

/// Distinct items of a history whose partners are looked at, latest first.
const LED_BY: usize = 20;
/// Of them, those whose closeness is added up, …
const SUMMED: usize = 5;
/// … each a step further back counting this much less.
const FADE: f32 = 0.8;

/// What was taken this short a time ago belongs to the basket that is being filled.
const VISIT_S: i64 = 3_600;
/// The most that a sum of closeness may say.
const SUM_MAX: f32 = 3.0;

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
    month: usize,
    items: FxHashMap<u32, Met>,
    categories: FxHashMap<u32, u32>,
    attributes: FxHashMap<u32, u32>,
    /// By the attribute that names it.
    kinds: FxHashMap<u32, Had>,
    /// Means of the logarithm and of the rank of the prices in the history.
    price: Option<(f32, f32)>,
    /// Distinct items of the basket that is being filled.
    in_basket: usize,
    near: FxHashMap<u32, Near>,
}

/// How an item occurs in a history.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    bought: u32,
    bought_last: Timestamp,
    browsed: u32,
    browsed_last: Timestamp,
}

/// How a kind of thing occurs in a history.
#[derive(Clone, Copy, Debug, Default)]
struct Had {
    /// Whether the basket that is being filled holds one.
    in_basket: bool,
    bought: u32,
    bought_last: Timestamp,
}

/// How close an item is to what was met last.
#[derive(Clone, Copy, Debug, Default)]
struct Near {
    /// As a partner of the latest items, added up, and of the closest of more.
    partner: (f32, f32),
    /// As a companion of what the basket holds, added up and at most.
    basket: (f32, f32),
    /// As a companion of earlier items, added up and at most.
    earlier: (f32, f32),
}

/// What is known of a candidate.
#[derive(Clone, Copy, Debug)]
pub enum CandidateItem<'a> {
    /// An item of the catalogue, and its card.
    Known(u32, &'a ItemCard),
    /// An item that only comes inline.
    Inline(&'a ItemText),
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
    pub fn age(&self, past: &HistoryEvent) -> u8 {
        let hours = (self.counts.now - past.time).max(0) as f32 / HOUR_S;
        ((hours + 1.0).log2() * 1.6).min((AGE_BUCKETS - 1) as f32) as u8
    }

    /// The features of a candidate. `overlaps` are its reasons' backings, in order.
    pub fn features(&self, candidate: CandidateItem<'_>, overlaps: &[f32]) -> [f32; FEATURE_COUNT] {
        let mut f = [0.0; FEATURE_COUNT];
        match candidate {
            CandidateItem::Known(number, card) => {
                self.repeats(number, &mut f);
                self.sales(card, &mut f);
                let item = self.catalog.item(number);
                self.price_fit(card, &mut f);
                f[12] = self.share(&self.counts.categories, item.category);
                let liked: f32 =
                    item.attributes.iter().map(|&a| self.share(&self.counts.attributes, a)).sum();
                f[13] = liked / item.attributes.len().max(1) as f32;
                for (&overlap, reason) in overlaps.iter().zip(&card.reasons) {
                    let backing = Self::backing(overlap, reason);
                    f[14] += backing;
                    f[15] = backing.max(f[15]);
                }
                f[14] = f[14].min(3.0);
                self.nearness(number, &mut f);
                if let Some(kind) = item.kind {
                    self.alike(kind, &mut f);
                }
            }
            CandidateItem::Inline(text) => {
                let category = self.catalog.category_number(&text.category);
                f[12] = category.map_or(0.0, |number| self.share(&self.counts.categories, number));
            }
        }
        f
    }

    /// How strongly the history backs a reason, in `0..=1`: when the item that it cites was
    /// bought, or how common the attribute that it cites is.
    pub fn overlap(&self, reason: &CardReason) -> f32 {
        match reason.backing {
            Backing::Item(item) => self
                .counts
                .items
                .get(&item)
                .map_or(0.0, |met| 0.5 + 0.5 * (-self.days_since(met.last()) / 90.0).exp()),
            Backing::Attribute(attribute) => self.share(&self.counts.attributes, attribute).sqrt(),
            Backing::Nothing => 0.0,
        }
    }

    /// What a reason speaks for its item, backed so strongly: the stronger its tie, the more.
    pub fn backing(overlap: f32, reason: &CardReason) -> f32 {
        overlap * reason.strength
    }

    /// Whether a reason would not stand without this very user.
    pub fn is_supported_by(reason: &CardReason, user: &UserId) -> bool {
        reason.supporters.contains(user)
    }

    fn repeats(&self, number: u32, f: &mut [f32; FEATURE_COUNT]) {
        let Some(met) = self.counts.items.get(&number) else { return };
        if met.bought > 0 {
            let days = self.days_since(met.bought_last);
            f[0] = (met.bought as f32).ln_1p();
            f[1] = (-days / 7.0).exp();
            f[2] = (-days / 30.0).exp();
            f[3] = (-days / 120.0).exp();
        }
        if met.browsed > 0 {
            f[26] = (met.browsed as f32).ln_1p();
            f[27] = (-self.days_since(met.browsed_last) / 30.0).exp();
        }
    }

    fn sales(&self, card: &ItemCard, f: &mut [f32; FEATURE_COUNT]) {
        let stats = &card.stats;
        let [sales, recent] = [stats.sales, stats.sales_recent].map(|count| count as f32);
        f[4] = recent.ln_1p() / 5.0;
        f[5] = sales.ln_1p() / 8.0;
        f[6] = recent / (sales + 10.0);
        f[7] = stats.first_sale.map_or(0.0, |first| self.days_since(first).ln_1p() / 7.0);
        let in_month = stats.months[self.counts.month] as f32;
        f[8] = ((in_month + 1.0) / (sales / 12.0 + 1.0)).ln().clamp(-3.0, 3.0);
        f[9] = stats.price_rank;
    }

    /// Whether it costs what the history's things cost, in money and among its own category.
    fn price_fit(&self, card: &ItemCard, f: &mut [f32; FEATURE_COUNT]) {
        if let (Some(price), Some((usual, rank))) = (card.stats.price, self.counts.price) {
            let gap = (price.max(0.01).ln() - usual).clamp(-3.0, 3.0);
            f[10] = gap.abs();
            f[11] = gap;
            f[28] = card.stats.price_rank - rank;
            f[29] = f[28].abs();
        }
    }

    fn nearness(&self, number: u32, f: &mut [f32; FEATURE_COUNT]) {
        let near = self.counts.near.get(&number).copied().unwrap_or_default();
        (f[16], f[17]) = near.partner;
        (f[18], f[19]) = (near.basket.0.min(SUM_MAX), near.basket.1);
        f[20] = (self.counts.in_basket as f32).ln_1p() / 2.0;
        (f[21], f[22]) = (near.earlier.0.min(SUM_MAX), near.earlier.1);
    }

    /// Whether a thing of this kind was taken already: of many, one is enough.
    fn alike(&self, kind: u32, f: &mut [f32; FEATURE_COUNT]) {
        let Some(had) = self.counts.kinds.get(&kind) else { return };
        f[23] = f32::from(u8::from(had.in_basket));
        if had.bought > 0 {
            f[24] = (had.bought as f32).ln_1p();
            f[25] = (-self.days_since(had.bought_last) / 120.0).exp();
        }
    }

    fn share(&self, counts: &FxHashMap<u32, u32>, number: u32) -> f32 {
        counts.get(&number).map_or(0.0, |&count| count as f32 / self.history.len() as f32)
    }

    fn days_since(&self, time: Timestamp) -> f32 {
        (self.counts.now - time).max(0) as f32 / DAY_S
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
            price: None,
            in_basket: 0,
            near: FxHashMap::default(),
        };
        let (mut prices, mut ranks, mut priced) = (0.0, 0.0, 0.0);
        for past in history {
            let item = catalog.item(past.item);
            counts.items.entry(past.item).or_default().count(past);
            *counts.categories.entry(item.category).or_default() += 1;
            for &attribute in &item.attributes {
                *counts.attributes.entry(attribute).or_default() += 1;
            }
            let in_basket = counts.is_in_basket(past);
            if let Some(kind) = item.kind {
                counts.kinds.entry(kind).or_default().count(past, in_basket);
            }
            let stats = &cards.items[past.item as usize].stats;
            if let Some(price) = stats.price_paid() {
                prices += price.max(0.01).ln();
                ranks += stats.price_rank;
                priced += 1.0;
            }
        }
        counts.price = (priced > 0.0).then(|| (prices / priced, ranks / priced));
        counts.look_around(history, cards);
        counts
    }

    /// Whether an event put something into the basket that is being filled.
    fn is_in_basket(&self, past: &HistoryEvent) -> bool {
        matches!(past.kind, EventKind::Cart | EventKind::Purchase)
            && past.time >= self.now - VISIT_S
    }

    /// Finds where the history leads: the partners and companions of its latest distinct items.
    fn look_around(&mut self, history: &[HistoryEvent], cards: &Cards) {
        let mut latest: Vec<(u32, bool)> = Vec::with_capacity(LED_BY);
        for past in history.iter().rev() {
            if latest.len() < LED_BY && latest.iter().all(|&(item, _)| item != past.item) {
                latest.push((past.item, self.is_in_basket(past)));
            }
        }
        for (step, &(item, in_basket)) in latest.iter().enumerate() {
            let weight = if step < SUMMED { FADE.powi(step as i32) } else { 0.0 };
            for (partner, closeness) in cards.partners.of(item) {
                let (sum, closest) = &mut self.near.entry(partner).or_default().partner;
                *sum += weight * closeness;
                *closest = closest.max(closeness);
            }
            for (companion, closeness) in cards.companions.of(item) {
                let near = self.near.entry(companion).or_default();
                let (sum, closest) = if in_basket { &mut near.basket } else { &mut near.earlier };
                *sum += closeness;
                *closest = closest.max(closeness);
            }
            self.in_basket += usize::from(in_basket);
        }
    }
}

/// The events that the network reads.
fn last_events(history: &[HistoryEvent]) -> &[HistoryEvent] {
    &history[history.len().saturating_sub(HISTORY_LEN)..]
}

// === impl Met ===

impl Met {
    fn count(&mut self, past: &HistoryEvent) {
        let (count, last) = match past.kind {
            EventKind::Purchase => (&mut self.bought, &mut self.bought_last),
            _ => (&mut self.browsed, &mut self.browsed_last),
        };
        *count += 1;
        *last = past.time.max(*last);
    }

    fn last(&self) -> Timestamp {
        self.bought_last.max(self.browsed_last)
    }
}

// === impl Had ===

impl Had {
    fn count(&mut self, past: &HistoryEvent, in_basket: bool) {
        self.in_basket |= in_basket;
        if past.kind == EventKind::Purchase && !in_basket {
            self.bought += 1;
            self.bought_last = past.time.max(self.bought_last);
        }
    }
}

#[cfg(test)]
mod tests {
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

    fn features(history: &[HistoryEvent], of: u32) -> [f32; FEATURE_COUNT] {
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
        assert_eq!((bowl[18], bowl[19], bowl[21]), (0.5, 0.5, 0.0));
        let bowl = features(&[past(0, 2 * VISIT_S, EventKind::Purchase)], 1);
        assert_eq!((bowl[18], bowl[20], bowl[21], bowl[22]), (0.0, 0.0, 0.5, 0.5));
        let bowl = features(&[past(0, 60, EventKind::Click)], 1);
        assert_eq!((bowl[18], bowl[20]), (0.0, 0.0), "a look puts nothing into a basket");
    }

    #[test]
    fn another_thing_of_the_same_kind_is_known_as_such() {
        let mug = features(&[past(0, 0, EventKind::Purchase)], 2);
        assert_eq!((mug[0], mug[23], mug[24]), (0.0, 1.0, 0.0));
        let mug = features(&[past(0, 86_400, EventKind::Purchase)], 2);
        assert!(mug[23] == 0.0 && mug[24] > 0.0 && mug[25] > 0.9);
        assert!(features(&[past(0, 86_400, EventKind::Purchase)], 1)[24].abs() < f32::EPSILON);
    }

    #[test]
    fn browsing_and_buying_are_told_apart() {
        let clicked = features(&[past(1, 86_400, EventKind::Click)], 1);
        assert!(clicked[0] == 0.0 && clicked[26] > 0.0);
        let bought = features(&[past(1, 86_400, EventKind::Purchase)], 1);
        assert!(bought[0] > 0.0 && bought[26] == 0.0);
    }

    #[test]
    fn a_price_is_the_last_one_paid_and_not_the_catalogues() {
        let bowl = features(&[past(0, 86_400, EventKind::Purchase)], 1);
        assert_eq!((bowl[10], bowl[11]), (0.0, 0.0));
        let (catalog, mut cards) = (catalog(), cards());
        // The mug sold for the first time after the cards were written.
        cards.items[0].stats.sales = 0;
        let history = [past(0, 86_400, EventKind::Purchase)];
        assert_eq!(FeatureContext::new(&catalog, &cards, &history, NOW, 0).counts.price, None);
    }
}
