//! The loop over days.

use super::catalogue::SimCatalogue;
use super::dice::{Purpose, stream};
use super::memory::{PurchaseMemory, SimPurchase};
use super::mood::Mood;
use super::persona::Persona;
use super::season::{bustle, day_of_year};
use super::shelf::Shelf;
use super::visit::{SimEvent, Visit};
use super::write::OutputFolder;
use super::{DAYS_MAX, PRODUCTS_MAX, SHOPPERS_MAX, SimulationConfig, SimulationSummary};
use anyhow::ensure;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1};
use std::path::Path;

const DAY_SECONDS: i64 = 86_400;
/// An upper bound of any day's bustle. Visits are proposed at this rate, and thinned to the day's.
const BUSTLE_MAX: f32 = 1.9;
/// A day that never comes.
const NEVER: u16 = u16::MAX;

/// Writes a simulated shop into the new folder `out`, all or nothing. `progress` receives the days done
/// and their total.
pub fn simulate(
    config: &SimulationConfig,
    out: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> anyhow::Result<SimulationSummary> {
    check(config)?;
    let folder = OutputFolder::create(out)?;
    let catalogue = SimCatalogue::draw(config);
    folder.write_items(&catalogue)?;
    folder.write_shoppers(config)?;
    let mut log = folder.log(SimulationSummary {
        products: u64::from(config.products),
        shoppers: u64::from(config.shoppers),
        ..SimulationSummary::default()
    })?;
    let mut town = Town::new(config, &catalogue);
    for day in 0..config.days as u16 {
        for event in town.simulate_day(day) {
            log.write(event)?;
        }
        progress(u64::from(day) + 1, u64::from(config.days));
    }
    log.summary.baskets = town.baskets;
    let summary = log.finish()?;
    folder.write_summary(config, &summary)?;
    folder.finish()?;
    Ok(summary)
}

fn check(config: &SimulationConfig) -> anyhow::Result<()> {
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
    config: &'a SimulationConfig,
    catalogue: &'a SimCatalogue,
    shelf: Shelf<'a>,
    memories: Vec<PurchaseMemory>,
    /// The day of each shopper's next visit. They are apart from the memories, because every day reads
    /// all of them.
    next_visits: Vec<u16>,
    baskets: u64,
    /// The events of the day.
    today: Vec<SimEvent>,
}

impl<'a> Town<'a> {
    fn new(config: &'a SimulationConfig, catalogue: &'a SimCatalogue) -> Self {
        let shoppers = config.shoppers as usize;
        let mut town = Self {
            config,
            catalogue,
            shelf: Shelf::new(catalogue, config),
            memories: vec![PurchaseMemory::EMPTY; shoppers],
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

    /// Simulates a day, and returns its events in time order.
    fn simulate_day(&mut self, day: u16) -> &[SimEvent] {
        self.today.clear();
        self.shelf.open(day);
        for shopper in 0..self.config.shoppers {
            if self.next_visits[shopper as usize] == day {
                self.propose_visit(shopper, day);
            }
        }
        // The sort is stable: events of one second keep their order.
        self.today.sort_by_key(|event| event.time);
        &self.today
    }

    /// Draws whether a shopper visits, by the day's bustle, and the day of their next visit.
    fn propose_visit(&mut self, shopper: u32, day: u16) {
        let persona = Persona::draw(self.config, shopper);
        let mut rng = self.visit_stream(shopper);
        self.next_visits[shopper as usize] = day.saturating_add(gap(&persona, &mut rng));
        let epoch_day = self.config.start.div_euclid(DAY_SECONDS) + i64::from(day);
        if rng.random::<f32>() * BUSTLE_MAX < bustle(day_of_year(epoch_day)) {
            self.visit(shopper, &persona, day, rng);
        }
    }

    fn visit(&mut self, shopper: u32, persona: &Persona, day: u16, mut rng: ChaCha8Rng) {
        // From 7:00 to 21:00, most often in between. Even a visit that clicks and carts every product of
        // every list ends before midnight, so that the files are in time order.
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
            events: &mut self.today,
        }
        .simulate(self.baskets + 1);
        if bought.is_empty() {
            return;
        }
        self.baskets += 1;
        self.shelf.sell(&bought);
        for item in bought {
            memory.remember(SimPurchase { item, day });
        }
    }

    /// The random stream of a shopper's next visit. Each call opens another one.
    fn visit_stream(&mut self, shopper: u32) -> ChaCha8Rng {
        let visits = &mut self.memories[shopper as usize].visits;
        *visits += 1;
        stream(self.config.seed, Purpose::Visit, u64::from(shopper), u64::from(*visits))
    }
}

/// Days until a shopper's next proposed visit: from 1 to [`NEVER`].
fn gap(persona: &Persona, rng: &mut impl Rng) -> u16 {
    let wait: f32 = Exp1.sample(rng);
    let days = (wait / (persona.visits_per_day * BUSTLE_MAX)).ceil();
    days.clamp(1.0, f32::from(NEVER)) as u16
}
