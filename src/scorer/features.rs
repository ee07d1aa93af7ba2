//! From histories and cards to the numbers that the network reads: one definition, used by
//! training and serving alike.

use crate::bundle::{Backing, CardReason, Cards, Catalog, HISTORY_LEN, ItemCard, Past};
use crate::domain::{ItemText, Timestamp, UserId};
use rustc_hash::FxHashMap;

/// Dense features of a (user, item) pair.
pub const FEATURES: usize = 18;
/// Buckets of an event's age.
pub const AGES: usize = 24;

/// Distinct items of a history whose partners are looked at, latest first.
const LED_BY: usize = 20;
/// Of them, those whose closeness is added up, …
const SUMMED: usize = 5;
/// … each a step further back counting this much less.
const FADE: f32 = 0.8;

/// Seconds of an hour, and of a day.
const HOUR_S: f32 = 3_600.0;
const DAY_S: f32 = 86_400.0;

/// What a request's history says, counted once and asked for every candidate.
#[derive(Debug)]
pub struct Context<'a> {
    catalog: &'a Catalog,
    history: &'a [Past],
    now: Timestamp,
    month: usize,
    /// By item: how often it occurs, and when last.
    items: FxHashMap<u32, (u32, Timestamp)>,
    categories: FxHashMap<u32, u32>,
    attributes: FxHashMap<u32, u32>,
    /// Mean logarithm of the prices in the history.
    price: Option<f32>,
    /// By item: how close it is to the latest items, added up, and to the closest of more.
    near: FxHashMap<u32, (f32, f32)>,
}

/// What is known of a candidate.
#[derive(Clone, Copy, Debug)]
pub enum Candidate<'a> {
    /// An item of the catalogue, and its card.
    Known(u32, &'a ItemCard),
    /// An item that only comes inline.
    Inline(&'a ItemText),
}

// === impl Context ===

impl<'a> Context<'a> {
    /// Counts the last [`HISTORY_LEN`] events of a history (oldest first), as seen at `now`.
    pub fn new(
        catalog: &'a Catalog,
        cards: &Cards,
        history: &'a [Past],
        now: Timestamp,
        month: usize,
    ) -> Self {
        let history = &history[history.len().saturating_sub(HISTORY_LEN)..];
        let mut context = Self {
            catalog,
            history,
            now,
            month,
            items: FxHashMap::default(),
            categories: FxHashMap::default(),
            attributes: FxHashMap::default(),
            price: None,
            near: near(cards, history),
        };
        let mut prices = (0.0, 0.0);
        for past in history {
            let item = catalog.item(past.item);
            let (count, last) = context.items.entry(past.item).or_insert((0, past.time));
            *count += 1;
            *last = past.time.max(*last);
            *context.categories.entry(item.category).or_default() += 1;
            for &attribute in &item.attributes {
                *context.attributes.entry(attribute).or_default() += 1;
            }
            if let Some(price) = item.price {
                prices = (prices.0 + price.max(0.01).ln(), prices.1 + 1.0);
            }
        }
        context.price = (prices.1 > 0.0).then(|| prices.0 / prices.1);
        context
    }

    /// The events that the network reads, oldest first.
    pub fn history(&self) -> &'a [Past] {
        self.history
    }

    /// The bucket of an event's age: fine for hours, coarse for years.
    pub fn age(&self, past: &Past) -> u8 {
        let hours = (self.now - past.time).max(0) as f32 / HOUR_S;
        ((hours + 1.0).log2() * 1.6).min((AGES - 1) as f32) as u8
    }

    /// The features of a candidate. `overlaps` are its reasons' backings, in order.
    pub fn features(&self, candidate: Candidate<'_>, overlaps: &[f32]) -> [f32; FEATURES] {
        let mut f = [0.0; FEATURES];
        match candidate {
            Candidate::Known(number, card) => {
                self.repeats(number, &mut f);
                self.sales(card, &mut f);
                let item = self.catalog.item(number);
                self.price_fit(card.stats.price, &mut f);
                f[12] = self.share(&self.categories, item.category);
                let liked: f32 =
                    item.attributes.iter().map(|&a| self.share(&self.attributes, a)).sum();
                f[13] = liked / item.attributes.len().max(1) as f32;
                for (overlap, reason) in overlaps.iter().zip(&card.reasons) {
                    f[14] += overlap * reason.strength;
                    f[15] = (overlap * reason.strength).max(f[15]);
                }
                f[14] = f[14].min(3.0);
                (f[16], f[17]) = self.near.get(&number).copied().unwrap_or_default();
            }
            Candidate::Inline(text) => {
                let category = self.catalog.category_number(&text.category);
                f[12] = category.map_or(0.0, |number| self.share(&self.categories, number));
            }
        }
        f
    }

    /// How strongly the history backs a reason, in `0..=1`: when the item that it cites was
    /// bought, or how common the attribute that it cites is.
    pub fn overlap(&self, reason: &CardReason) -> f32 {
        match reason.backing {
            Backing::Item(item) => self
                .items
                .get(&item)
                .map_or(0.0, |&(_, last)| 0.5 + 0.5 * (-self.days_since(last) / 90.0).exp()),
            Backing::Attribute(attribute) => self.share(&self.attributes, attribute).sqrt(),
            Backing::Nothing => 0.0,
        }
    }

    /// Whether a reason would not stand without this very user.
    pub fn is_own(reason: &CardReason, user: &UserId) -> bool {
        reason.supporters.contains(user)
    }

    fn repeats(&self, number: u32, f: &mut [f32; FEATURES]) {
        if let Some(&(count, last)) = self.items.get(&number) {
            let days = self.days_since(last);
            f[0] = (count as f32).ln_1p();
            f[1] = (-days / 7.0).exp();
            f[2] = (-days / 30.0).exp();
            f[3] = (-days / 120.0).exp();
        }
    }

    fn sales(&self, card: &ItemCard, f: &mut [f32; FEATURES]) {
        let stats = &card.stats;
        let [sales, recent] = [stats.sales, stats.sales_recent].map(|count| count as f32);
        f[4] = recent.ln_1p() / 5.0;
        f[5] = sales.ln_1p() / 8.0;
        f[6] = recent / (sales + 10.0);
        f[7] = stats.first_sale.map_or(0.0, |first| self.days_since(first).ln_1p() / 7.0);
        let in_month = stats.months[self.month] as f32;
        f[8] = ((in_month + 1.0) / (sales / 12.0 + 1.0)).ln().clamp(-3.0, 3.0);
        f[9] = stats.price_rank;
    }

    fn price_fit(&self, price: Option<f32>, f: &mut [f32; FEATURES]) {
        if let (Some(price), Some(usual)) = (price, self.price) {
            let gap = (price.max(0.01).ln() - usual).clamp(-3.0, 3.0);
            f[10] = gap.abs();
            f[11] = gap;
        }
    }

    fn share(&self, counts: &FxHashMap<u32, u32>, number: u32) -> f32 {
        counts.get(&number).map_or(0.0, |&count| count as f32 / self.history.len() as f32)
    }

    fn days_since(&self, time: Timestamp) -> f32 {
        (self.now - time).max(0) as f32 / DAY_S
    }
}

/// Where a history leads: the partners of its latest distinct items.
fn near(cards: &Cards, history: &[Past]) -> FxHashMap<u32, (f32, f32)> {
    let mut latest: Vec<u32> = Vec::with_capacity(LED_BY);
    for past in history.iter().rev() {
        if latest.len() < LED_BY && !latest.contains(&past.item) {
            latest.push(past.item);
        }
    }
    let mut near: FxHashMap<u32, (f32, f32)> = FxHashMap::default();
    for (step, &item) in latest.iter().enumerate() {
        let weight = if step < SUMMED { FADE.powi(step as i32) } else { 0.0 };
        for (partner, closeness) in cards.partners(item) {
            let (sum, closest) = near.entry(partner).or_default();
            *sum += weight * closeness;
            *closest = closest.max(closeness);
        }
    }
    near
}
