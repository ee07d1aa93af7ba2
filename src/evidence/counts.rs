//! Counts of purchases, on which every claim rests.

use crate::bundle::{self, Catalog, CategoryPrices, ItemStats};
use crate::domain::Timestamp;

/// The days that count as recent.
pub const RECENT_DAYS: i64 = 28;
/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// A purchase line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Purchase {
    /// The buyer, by number.
    pub user: u32,
    /// The item, by number.
    pub item: u32,
    /// The time of the purchase.
    pub time: Timestamp,
    /// The price paid, if the shop recorded it.
    pub price: Option<f32>,
}

/// All purchases before a moment, counted by item.
#[derive(Debug)]
pub struct PurchaseCounts {
    /// Only purchases before this moment are counted.
    pub as_of: Timestamp,
    /// Figures by item.
    pub stats: Vec<ItemStats>,
    /// The distinct buyers of each item, ascending.
    pub buyers: Vec<Vec<u32>>,
    /// The distinct items of each user, ascending.
    pub baskets: Vec<Vec<u32>>,
    /// Distinct buyers of each item in the recent days.
    pub recent_buyers: Vec<u32>,
    /// Buyers who bought an item at more than one time.
    pub returners: Vec<u32>,
}

impl PurchaseCounts {
    /// Counts the `purchases` before `as_of`. They must be sorted by time.
    pub fn new(catalog: &Catalog, users: usize, purchases: &[Purchase], as_of: Timestamp) -> Self {
        let known = &purchases[..purchases.partition_point(|purchase| purchase.time < as_of)];
        let mut stats: Vec<_> = catalog
            .items()
            .iter()
            .map(|item| ItemStats { price: item.price, ..ItemStats::default() })
            .collect();
        let mut lines = vec![Vec::new(); catalog.len()];
        for purchase in known {
            stats[purchase.item as usize].count(purchase, as_of);
            lines[purchase.item as usize].push((purchase.user, purchase.time));
        }
        rank_prices(catalog, &mut stats);
        let mut counts = Self {
            as_of,
            stats,
            buyers: Vec::with_capacity(catalog.len()),
            baskets: vec![Vec::new(); users],
            recent_buyers: Vec::with_capacity(catalog.len()),
            returners: Vec::with_capacity(catalog.len()),
        };
        for (item, lines) in lines.into_iter().enumerate() {
            counts.count_item(item as u32, lines);
        }
        counts
    }

    /// Counts one item's purchase lines: (user, time) each.
    fn count_item(&mut self, item: u32, mut lines: Vec<(u32, Timestamp)>) {
        lines.sort_unstable();
        lines.dedup();
        let (mut buyers, mut returners, mut recent) = (Vec::new(), 0, 0);
        for visits in lines.chunk_by(|a, b| a.0 == b.0) {
            let user = visits[0].0;
            buyers.push(user);
            self.baskets[user as usize].push(item);
            returners += u32::from(visits.len() > 1);
            let last = visits[visits.len() - 1].1;
            recent += u32::from(last >= self.as_of - RECENT_DAYS * DAY_S);
        }
        self.stats[item as usize].buyers = buyers.len() as u32;
        self.buyers.push(buyers);
        self.returners.push(returners);
        self.recent_buyers.push(recent);
    }

    /// The buyers of both items, ascending.
    pub fn buyers_of_both(&self, a: u32, b: u32) -> Vec<u32> {
        let [few, many] = {
            let [a, b] = [a, b].map(|item| &self.buyers[item as usize]);
            if a.len() < b.len() { [a, b] } else { [b, a] }
        };
        few.iter().copied().filter(|user| many.binary_search(user).is_ok()).collect()
    }
}

impl ItemStats {
    fn count(&mut self, purchase: &Purchase, as_of: Timestamp) {
        self.sales += 1;
        self.sales_recent += u32::from(purchase.time >= as_of - RECENT_DAYS * DAY_S);
        self.first_sale.get_or_insert(purchase.time);
        self.months[bundle::month(purchase.time)] += 1;
        if let Some(price) = purchase.price {
            self.price = Some(price);
        }
    }
}

/// Sets each item's price rank: the share of its category's priced items that cost less.
fn rank_prices(catalog: &Catalog, stats: &mut [ItemStats]) {
    let prices = CategoryPrices::of(catalog, stats.iter().map(|stats| stats.price));
    for (item, stats) in catalog.items().iter().zip(stats) {
        stats.price_rank = prices.rank(Some(item.category), stats.price);
    }
}
