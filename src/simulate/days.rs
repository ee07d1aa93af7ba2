//! The passing of days.

use super::catalogue::Catalogue;
use super::dice::{Purpose, stream};
use super::memory::{Memory, SimPurchase};
use super::mood::Mood;
use super::persona::Persona;
use super::season::{bustle, day_of_year};
use super::shelf::Shelf;
use super::visit::{Happening, Visit};
use super::write::Folder;
use super::{Config, DAYS_MAX, PRODUCTS_MAX, SHOPPERS_MAX, Summary};
use anyhow::ensure;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};
use std::path::Path;

const DAY_SECONDS: i64 = 86_400;
/// At least the bustle of any day; visits are proposed at this pace and thinned to the day's.
const BUSTLE_MAX: f32 = 1.9;
/// A day that never comes.
const NEVER: u16 = u16::MAX;

/// Writes a simulated shop into the new folder `out`, all or nothing. `progress` hears the days
/// done, and of how many.
pub fn simulate(
    config: &Config,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<Summary> {
    check(config)?;
    let folder = Folder::create(out)?;
    let catalogue = Catalogue::draw(config);
    folder.write_items(&catalogue)?;
    folder.write_shoppers(config)?;
    let mut log = folder.log(Summary {
        products: u64::from(config.products),
        shoppers: u64::from(config.shoppers),
        ..Summary::default()
    })?;
    let mut town = Town::new(config, &catalogue);
    for day in 0..config.days as u16 {
        for happening in town.live(day) {
            log.write(happening)?;
        }
        progress(u64::from(day) + 1, u64::from(config.days));
    }
    log.summary.baskets = town.baskets;
    let summary = log.finish()?;
    folder.write_summary(config, &summary)?;
    folder.finish()?;
    Ok(summary)
}

fn check(config: &Config) -> anyhow::Result<()> {
    let limits = [
        ("shoppers", config.shoppers, SHOPPERS_MAX),
        ("products", config.products, PRODUCTS_MAX),
        ("days", config.days, DAYS_MAX),
    ];
    for (name, value, most) in limits {
        ensure!((1..=most).contains(&value), "{name} must be from 1 to {most}, not {value}");
    }
    Ok(())
}

/// The shop and everybody who may visit it.
struct Town<'a> {
    config: &'a Config,
    catalogue: &'a Catalogue,
    shelf: Shelf<'a>,
    memories: Vec<Memory>,
    /// The day of each shopper's next visit. Apart from the memories, because all of them are
    /// read every day.
    next_visits: Vec<u16>,
    baskets: u64,
    /// What happened today.
    today: Vec<Happening>,
}

impl<'a> Town<'a> {
    fn new(config: &'a Config, catalogue: &'a Catalogue) -> Self {
        let shoppers = config.shoppers as usize;
        let mut town = Self {
            config,
            catalogue,
            shelf: Shelf::new(catalogue, config),
            memories: vec![Memory::EMPTY; shoppers],
            next_visits: vec![0; shoppers],
            baskets: 0,
            today: Vec::new(),
        };
        for shopper in 0..config.shoppers {
            let persona = Persona::draw(config, shopper);
            let mut rng = town.visit_stream(shopper);
            let first = gap(&persona, &mut rng).saturating_sub(1);
            town.next_visits[shopper as usize] = persona.joined.saturating_add(first);
        }
        town
    }

    /// Lives through a day, and gives what happened in the order of time.
    fn live(&mut self, day: u16) -> &[Happening] {
        self.today.clear();
        self.shelf.open(day);
        for shopper in 0..self.config.shoppers {
            if self.next_visits[shopper as usize] == day {
                self.come(shopper, day);
            }
        }
        // Stable, so events of one second stay in the order in which they were made.
        self.today.sort_by_key(|happening| happening.time);
        &self.today
    }

    /// Lets a shopper come, or not after all if the day is calm; plans the next time.
    fn come(&mut self, shopper: u32, day: u16) {
        let persona = Persona::draw(self.config, shopper);
        let mut rng = self.visit_stream(shopper);
        self.next_visits[shopper as usize] = day.saturating_add(gap(&persona, &mut rng));
        let epoch_day = self.config.start.div_euclid(DAY_SECONDS) + i64::from(day);
        if rng.random::<f32>() * BUSTLE_MAX < bustle(day_of_year(epoch_day)) {
            self.visit(shopper, &persona, day, rng);
        }
    }

    fn visit(&mut self, shopper: u32, persona: &Persona, day: u16, mut rng: ChaCha8Rng) {
        // From seven to nine in the evening, most often in between. Even a visit in which every
        // place of every list is clicked and carted ends before midnight, so that days follow
        // one another in the files.
        let hours = 7.0 + 7.0 * (rng.random::<f64>() + rng.random::<f64>());
        let memory = &mut self.memories[shopper as usize];
        let bought = Visit {
            catalogue: self.catalogue,
            shelf: &self.shelf,
            persona,
            mood: Mood::of(self.catalogue, persona, memory, self.config, day),
            shopper,
            clock: self.config.start + i64::from(day) * DAY_SECONDS + (hours * 3_600.0) as i64,
            rng,
            happenings: &mut self.today,
        }
        .spend(self.baskets + 1);
        if bought.is_empty() {
            return;
        }
        self.baskets += 1;
        self.shelf.sell(&bought);
        for item in bought {
            memory.remember(SimPurchase { item, day });
        }
    }

    /// The chance of a shopper's next visit; each call opens another stream.
    fn visit_stream(&mut self, shopper: u32) -> ChaCha8Rng {
        let visits = &mut self.memories[shopper as usize].visits;
        *visits += 1;
        stream(self.config.seed, Purpose::Visit, u64::from(shopper), u64::from(*visits))
    }
}

/// Days until a shopper next thinks of the shop: at least one, [`NEVER`] at most.
fn gap(persona: &Persona, rng: &mut impl Rng) -> u16 {
    let wait: f32 = Exp1.sample(rng);
    let days = (wait / (persona.visits_per_day * BUSTLE_MAX)).ceil();
    days.clamp(1.0, f32::from(NEVER)) as u16
}
