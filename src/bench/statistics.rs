//! How much memory do the catalogue's counts take, how long do they load, and how many events a second do they take?

use super::memory_bytes;
use crate::domain::{EventKind, Timestamp};
use crate::statistics::{ItemGroups, ShopEvent, ShopperPast, Statistics};
use anyhow::{Result, ensure};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::hint::black_box;
use std::io::Write;
use tokio::time::Instant;

/// Categories and attributes of the random catalogue, and attributes of an item.
const CATEGORIES: u32 = 500;
const ATTRIBUTES: u32 = 5_000;
const ITEM_ATTRIBUTES: usize = 3;
/// Shoppers who take turns.
const SHOPPERS: usize = 50_000;
/// Items of a basket.
const BASKET: usize = 8;
/// Baskets after which the pairs are counted again, and the most baskets that are bought for them.
const BASKETS_BETWEEN_COUNTS: usize = 20_000;
const BASKETS_MAX: usize = 10_000_000;
/// The first event.
const START: Timestamp = 1_700_000_000;
/// Items that are read to time a reading.
const READINGS: usize = 1_000_000;
/// Items that a reading cycles through, as those of one slate after the other do.
const READ_ITEMS: usize = 1_000;
const SEED: u64 = 1;

/// What `raisonne bench statistics` measures.
#[derive(Debug, Clone, Copy)]
pub struct StatisticsOptions {
    /// Items of the random catalogue.
    pub items: usize,
    /// Pairs that are kept before anything is measured.
    pub pairs: usize,
    /// Events that are applied to measure their rate.
    pub events: usize,
    /// Events after which the counts are published: cloned, the clone before dropped.
    pub turn: usize,
    /// Prints JSON instead of lines.
    pub json: bool,
}

/// The measurements.
#[derive(Debug, Serialize)]
struct StatisticsReport {
    items: usize,
    pairs: usize,
    stored_bytes: usize,
    /// Memory that a loaded state adds to the process.
    memory_bytes: Option<u64>,
    store_seconds: f64,
    load_seconds: f64,
    events_per_second: f64,
    turn: usize,
    published_events_per_second: f64,
    publish_us: f64,
    read_ns: f64,
}

/// The counts, and what draws shoppers' events for them.
struct Shop {
    statistics: Statistics,
    pasts: Vec<ShopperPast>,
    rng: ChaCha8Rng,
    time: Timestamp,
}

/// Times the catalogue's counts on one core.
pub fn statistics(options: &StatisticsOptions, out: &mut dyn Write) -> Result<()> {
    let StatisticsOptions { items, pairs, events, turn, json } = *options;
    ensure!(items > BASKET, "`items` is {items}, and must be above {BASKET}");
    ensure!(
        events > 0 && turn > 0,
        "`events` is {events} and `turn` is {turn}: both must be above 0"
    );
    let mut shop = Shop::new(items)?;
    let pairs = shop.buy_until(pairs)?;
    let begun = Instant::now();
    let bytes = shop.statistics.to_bytes();
    let store_seconds = begun.elapsed().as_secs_f64();
    let (memory_bytes, load_seconds) = load(&bytes)?;
    let drawn = shop.draw(events);
    let (events_per_second, _) = shop.apply(&drawn, usize::MAX);
    let (published_events_per_second, publish_us) = shop.apply(&drawn, turn);
    let report = StatisticsReport {
        items,
        pairs,
        stored_bytes: bytes.len(),
        memory_bytes,
        store_seconds,
        load_seconds,
        events_per_second,
        turn,
        published_events_per_second,
        publish_us,
        read_ns: shop.read_ns(),
    };
    if json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&report)?)?);
    }
    report.print(out)
}

/// The memory that a loaded state adds, and the seconds that it takes to load. A first one takes what the heap has
/// free already, and the second one is measured.
fn load(bytes: &[u8]) -> Result<(Option<u64>, f64)> {
    let first = Statistics::from_bytes(bytes)?;
    let (before, begun) = (memory_bytes(), Instant::now());
    let second = Statistics::from_bytes(bytes)?;
    let seconds = begun.elapsed().as_secs_f64();
    let memory = before.zip(memory_bytes()).map(|(before, after)| after.saturating_sub(before));
    drop((first, second));
    Ok((memory, seconds))
}

// === impl StatisticsReport ===

impl StatisticsReport {
    fn print(&self, out: &mut dyn Write) -> Result<()> {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        writeln!(out, "{} items, {} pairs", self.items, self.pairs)?;
        write!(
            out,
            "stored: {:.1} MB in {:.2} s; ",
            mb(self.stored_bytes as u64),
            self.store_seconds
        )?;
        writeln!(out, "loaded in {:.2} s", self.load_seconds)?;
        if let Some(memory) = self.memory_bytes {
            writeln!(out, "in memory: {:.1} MB", mb(memory))?;
        }
        writeln!(out, "{:.0} events/s on one core", self.events_per_second)?;
        write!(out, "{:.0} events/s, published", self.published_events_per_second)?;
        writeln!(out, " every {} events in {:.0} us", self.turn, self.publish_us)?;
        Ok(writeln!(out, "{:.0} ns to read an item", self.read_ns)?)
    }
}

// === impl Shop ===

impl Shop {
    fn new(items: usize) -> Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut groups = ItemGroups::new(CATEGORIES as usize, ATTRIBUTES as usize)?;
        for _ in 0..items {
            let attributes: [u32; ITEM_ATTRIBUTES] =
                std::array::from_fn(|_| rng.random_range(0..ATTRIBUTES));
            groups.push(Some(rng.random_range(0..CATEGORIES)), &attributes)?;
        }
        let pasts = vec![ShopperPast::default(); SHOPPERS];
        Ok(Self { statistics: Statistics::new(groups), pasts, rng, time: START })
    }

    /// Half of the items are drawn evenly, and half by a popularity that falls with their number.
    fn draw_item(&mut self) -> u32 {
        let (items, draw) = (self.statistics.len(), self.rng.random::<f64>());
        let even = draw * items as f64;
        let item = if self.rng.random() { even } else { (items as f64).powf(draw) - 1.0 };
        (item as u32).min(items as u32 - 1)
    }

    /// Lets shoppers buy baskets until so many pairs are kept, and returns how many are.
    fn buy_until(&mut self, pairs: usize) -> Result<usize> {
        for baskets in 0..BASKETS_MAX {
            if baskets.is_multiple_of(BASKETS_BETWEEN_COUNTS) {
                let kept = self.pairs();
                if kept >= pairs {
                    return Ok(kept);
                }
            }
            let shopper = self.rng.random_range(0..SHOPPERS);
            for _ in 0..BASKET {
                let event = self.event(EventKind::Purchase);
                self.statistics.apply(&mut self.pasts[shopper], event);
            }
            self.time += 1;
        }
        anyhow::bail!("{BASKETS_MAX} baskets make {} pairs, not {pairs}", self.pairs())
    }

    fn pairs(&self) -> usize {
        let items = 0..self.statistics.len() as u32;
        items.map(|item| self.statistics.pairs(item, self.time).count()).sum()
    }

    fn event(&mut self, kind: EventKind) -> ShopEvent {
        ShopEvent { item: self.draw_item(), time: self.time, kind }
    }

    /// Events of visits: of ten, six impressions, three clicks and a purchase.
    fn draw(&mut self, events: usize) -> Vec<(usize, ShopEvent)> {
        let mut shopper = 0;
        let visit = |at: usize| at.is_multiple_of(10 * BASKET);
        let kind = |place| match place {
            0..6 => EventKind::Impression,
            6..9 => EventKind::Click,
            _ => EventKind::Purchase,
        };
        let draw = |at| {
            if visit(at) {
                shopper = self.rng.random_range(0..SHOPPERS);
                self.time += 1;
            }
            (shopper, self.event(kind(at % 10)))
        };
        (0..events).map(draw).collect()
    }

    /// Applies events, and publishes the counts after each `turn` of them. Returns events per second, and the
    /// microseconds of a publication.
    fn apply(&mut self, events: &[(usize, ShopEvent)], turn: usize) -> (f64, f64) {
        let mut published = None;
        let (begun, mut publishing, mut turns) = (Instant::now(), 0.0, 0);
        for events in events.chunks(turn) {
            for (shopper, event) in events {
                self.statistics.apply(&mut self.pasts[*shopper], *event);
            }
            if turn < usize::MAX {
                let begun = Instant::now();
                published = Some(self.statistics.clone());
                publishing += begun.elapsed().as_secs_f64();
                turns += 1;
            }
        }
        black_box(&published);
        let rate = events.len() as f64 / begun.elapsed().as_secs_f64();
        (rate, publishing * 1e6 / f64::from(turns.max(1)))
    }

    fn read_ns(&self) -> f64 {
        let (items, now) = (self.statistics.len().min(READ_ITEMS), self.time + 1);
        let begun = Instant::now();
        for reading in 0..READINGS {
            black_box(self.statistics.item((reading % items) as u32, now));
        }
        begun.elapsed().as_secs_f64() * 1e9 / READINGS as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_shop_is_measured() {
        let options =
            StatisticsOptions { items: 50, pairs: 300, events: 200, turn: 20, json: true };
        let mut out = Vec::new();
        statistics(&options, &mut out).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert!(report["pairs"].as_u64().unwrap() >= 300, "{report}");
        assert!(report["stored_bytes"].as_u64().unwrap() > 50 * 24, "{report}");
        for field in ["events_per_second", "published_events_per_second", "read_ns"] {
            assert!(report[field].as_f64().unwrap() > 0.0, "{report}");
        }
    }

    #[test]
    fn sizes_of_nothing_are_refused() {
        for (items, events, turn) in [(8, 1, 1), (0, 1, 1), (9, 0, 1), (9, 1, 0)] {
            let options = StatisticsOptions { items, pairs: 0, events, turn, json: false };
            let error = statistics(&options, &mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains("must be above"), "{error}");
        }
    }
}
