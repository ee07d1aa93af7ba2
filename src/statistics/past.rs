//! What one shopper did with each item, over their whole past.

use super::ShopEvent;
use super::basket::{Baskets, Place, VISIT_S};
use super::windows::{DAY_S, Novelty, bounded};
use crate::domain::{EventKind, Timestamp};

/// Items of one shopper that are remembered.
pub const PAST_ITEMS_MAX: usize = 4_096;
/// Latest distinct items, in their order.
pub const LATEST_ITEMS_MAX: usize = 20;
/// What a basket with an item counts, relative to one that is a basket later.
pub const BASKET_FADE: f64 = 0.8;
/// Days after which a purchase counts 1/e of a purchase now.
pub const REBUY_DAYS: u16 = 60;
/// Items that are forgotten at once when there are too many, so that not every event looks for one.
const FORGOTTEN_AT_ONCE: usize = PAST_ITEMS_MAX / 8;

/// What one shopper clicked, put in a cart and bought. Impressions and dismissals are not remembered.
///
/// Beyond [`PAST_ITEMS_MAX`] items, an eighth of them is forgotten: first items that were never bought, then bought
/// ones, each from the one seen longest ago. Counts over all items stay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ShopperPast {
    /// Ascending by number.
    items: Vec<(u32, ItemPast)>,
    /// The latest distinct items with the last time of each, latest first.
    latest: Vec<(u32, Timestamp)>,
    baskets: Baskets,
    events: u32,
    purchases: u32,
    repeat_purchases: u32,
    first_purchase: Option<Timestamp>,
    last_purchase: Option<Timestamp>,
}

/// What one shopper did with one item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ItemPast {
    /// Purchases: lines of baskets.
    pub purchases: u32,
    /// Clicks and carts.
    pub browses: u32,
    /// Baskets with it. A late purchase is in no basket.
    pub baskets: u32,
    /// The last basket with it, counted from 1.
    last_basket: u32,
    /// Σ .8^(baskets ago) as of the last basket with it.
    basket_weight: f32,
    /// Σ e^(−days/60) as of the last purchase.
    day_weight: f32,
    first_purchase: Timestamp,
    last_purchase: Timestamp,
    /// Its latest event: a click, a cart or a purchase.
    pub last_seen: Timestamp,
}

/// What recording an event found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) novelty: Novelty,
    /// Whether the item is new in the open basket, and makes pairs.
    pub(super) makes_pairs: bool,
}

// === impl ShopperPast ===

impl ShopperPast {
    /// The past that these events make in time order. Those of equal times keep their order.
    pub fn of(events: impl IntoIterator<Item = ShopEvent>) -> Self {
        let mut events: Vec<_> = events.into_iter().collect();
        events.sort_by_key(|event| event.time);
        let mut past = Self::default();
        for event in events {
            past.apply(event);
        }
        past
    }

    /// Records an event that nothing else counts.
    pub fn apply(&mut self, event: ShopEvent) {
        self.record(ShopEvent { time: bounded(event.time), ..event });
    }

    /// Records an event of a time that counts, and says what is new about it.
    pub(super) fn record(&mut self, event: ShopEvent) -> Recorded {
        if !event.kind.is_read() {
            return Recorded::default();
        }
        self.events = self.events.saturating_add(1);
        self.keep_latest(event);
        let at = self.place_of(event);
        let seen = &mut self.items[at].1;
        seen.last_seen = seen.last_seen.max(event.time);
        if event.kind != EventKind::Purchase {
            seen.browses = seen.browses.saturating_add(1);
            return Recorded::default();
        }
        let place = self.baskets.place(event.time);
        let novelty = self.items[at].1.buy(event.time, place, self.baskets.count);
        self.purchases = self.purchases.saturating_add(1);
        self.repeat_purchases = self.repeat_purchases.saturating_add(u32::from(novelty.repeat));
        let (first, last) = (&mut self.first_purchase, &mut self.last_purchase);
        *first = Some(first.map_or(event.time, |time| time.min(event.time)));
        *last = Some(last.map_or(event.time, |time| time.max(event.time)));
        let makes_pairs = place != Place::Late && self.baskets.add(event.item);
        Recorded { novelty, makes_pairs }
    }

    /// The place of the event's item, which is made if there is none.
    fn place_of(&mut self, event: ShopEvent) -> usize {
        if let Ok(at) = self.items.binary_search_by_key(&event.item, |entry| entry.0) {
            return at;
        }
        if self.items.len() >= PAST_ITEMS_MAX {
            self.forget();
        }
        let at = self.items.partition_point(|entry| entry.0 < event.item);
        self.items.insert(at, (event.item, ItemPast::new(event.time)));
        at
    }

    /// Forgets [`FORGOTTEN_AT_ONCE`] items.
    fn forget(&mut self) {
        let key = |(item, past): &(u32, ItemPast)| (past.purchases > 0, past.last_seen, *item);
        let mut keys: Vec<_> = self.items.iter().map(key).collect();
        let (_, &mut first_kept, _) = keys.select_nth_unstable(FORGOTTEN_AT_ONCE);
        self.items.retain(|entry| key(entry) >= first_kept);
    }

    fn keep_latest(&mut self, ShopEvent { item, mut time, .. }: ShopEvent) {
        if let Some(at) = self.latest.iter().position(|entry| entry.0 == item) {
            time = time.max(self.latest.remove(at).1);
        }
        let at = self.latest.partition_point(|entry| entry.1 > time);
        self.latest.insert(at, (item, time));
        self.latest.truncate(LATEST_ITEMS_MAX);
    }

    /// What the shopper did with an item; `None` if nothing is remembered.
    pub fn item(&self, item: u32) -> Option<&ItemPast> {
        let at = self.items.binary_search_by_key(&item, |entry| entry.0).ok()?;
        Some(&self.items[at].1)
    }

    /// The items that are remembered, ascending by number.
    pub fn items(&self) -> impl ExactSizeIterator<Item = (u32, &ItemPast)> {
        self.items.iter().map(|(item, past)| (*item, past))
    }

    /// The latest distinct items, newest first; at most [`LATEST_ITEMS_MAX`].
    pub fn latest(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.latest.iter().map(|entry| entry.0)
    }

    /// Baskets. Purchases belong to one basket if each is at most [`VISIT_S`] after the one before.
    pub fn baskets(&self) -> u32 {
        self.baskets.count
    }

    /// Clicks, carts and purchases.
    pub fn events(&self) -> u32 {
        self.events
    }

    /// Purchases: lines of baskets.
    pub fn purchases(&self) -> u32 {
        self.purchases
    }

    /// Purchases of an item that was in an earlier basket; one for each basket and item.
    pub fn repeat_purchases(&self) -> u32 {
        self.repeat_purchases
    }

    /// The time of the first purchase.
    pub fn first_purchase(&self) -> Option<Timestamp> {
        self.first_purchase
    }

    /// The time of the last purchase.
    pub fn last_purchase(&self) -> Option<Timestamp> {
        self.last_purchase
    }

    /// The items of the latest basket, and of the one before: the first [`super::BASKET_ITEMS_MAX`] of each.
    pub(super) fn last_baskets(&self) -> (&[u32], &[u32]) {
        (&self.baskets.open, &self.baskets.previous)
    }
}

// === impl ItemPast ===

impl ItemPast {
    fn new(time: Timestamp) -> Self {
        Self {
            purchases: 0,
            browses: 0,
            baskets: 0,
            last_basket: 0,
            basket_weight: 0.0,
            day_weight: 0.0,
            first_purchase: Timestamp::MAX,
            last_purchase: Timestamp::MIN,
            last_seen: time,
        }
    }

    /// Records a purchase in the shopper's basket `basket`.
    fn buy(&mut self, time: Timestamp, place: Place, basket: u32) -> Novelty {
        let first = self.purchases == 0;
        let repeat = !first && self.is_another_basket(time, place, basket);
        self.purchases = self.purchases.saturating_add(1);
        if first || repeat {
            self.add_day_weight(time);
        }
        self.first_purchase = self.first_purchase.min(time);
        self.last_purchase = self.last_purchase.max(time);
        if place != Place::Late && self.last_basket != basket {
            self.basket_weight = (self.recent_baskets(basket) + 1.0) as f32;
            self.last_basket = basket;
            self.baskets = self.baskets.saturating_add(1);
        }
        Novelty { first, repeat }
    }

    /// Whether a purchase is in another basket than the ones before. A late one is, unless it is within
    /// [`VISIT_S`] of the first or the last.
    fn is_another_basket(&self, time: Timestamp, place: Place, basket: u32) -> bool {
        let near = |other: Timestamp| time.abs_diff(other) <= VISIT_S.unsigned_abs();
        match place {
            Place::Late => !near(self.first_purchase) && !near(self.last_purchase),
            Place::Open | Place::New => self.last_basket != basket,
        }
    }

    fn add_day_weight(&mut self, time: Timestamp) {
        self.day_weight = if self.purchases == 1 {
            1.0
        } else if time >= self.last_purchase {
            (self.recent_days(time) + 1.0) as f32
        } else {
            (f64::from(self.day_weight) + day_decay(time, self.last_purchase)) as f32
        };
    }

    /// The time of the first purchase.
    pub fn first_purchase(&self) -> Option<Timestamp> {
        (self.purchases > 0).then_some(self.first_purchase)
    }

    /// The time of the last purchase.
    pub fn last_purchase(&self) -> Option<Timestamp> {
        (self.purchases > 0).then_some(self.last_purchase)
    }

    /// Σ .8^(baskets ago) over the baskets with the item, once the shopper had `baskets`; the latest is 0 ago.
    pub fn recent_baskets(&self, baskets: u32) -> f64 {
        let ago = baskets.saturating_sub(self.last_basket);
        f64::from(self.basket_weight) * BASKET_FADE.powf(f64::from(ago))
    }

    /// Σ e^(−days/60) over its purchases, one for each basket, at `now`.
    pub fn recent_days(&self, now: Timestamp) -> f64 {
        f64::from(self.day_weight) * day_decay(self.last_purchase, now)
    }
}

/// e^(−days/[`REBUY_DAYS`]) between two moments; 1 if the second is not later.
fn day_decay(time: Timestamp, now: Timestamp) -> f64 {
    let seconds = now.saturating_sub(time).max(0);
    (-(seconds as f64) / (f64::from(REBUY_DAYS) * DAY_S as f64)).exp()
}
