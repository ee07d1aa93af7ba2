//! The true utility of every product for a shopper at one moment.
//!
//! ```text
//! utility = taste · facets + interest + life + means + season + needs + quality + trend
//! ```
//!
//! Needs depend on earlier purchases: complements gain, substitutes of durables lose, and products that
//! are used up gain again.

use super::SimulationConfig;
use super::catalogue::{SimCatalogue, SimItem};
use super::goods::{CATEGORIES, Nature};
use super::memory::PurchaseMemory;
use super::persona::Persona;
use super::season::day_of_year;
use super::words::{Facet, OCCASIONS, VALUES, number};

/// The gain of a complement of a purchase, in logits, and the days over which it fades.
const COMPLEMENT: (f32, f32) = (1.3, 60.0);
/// The gain of another product of a purchase's collection, and the days.
const COLLECTION: (f32, f32) = (1.7, 180.0);
/// The loss of another durable of the same type, and the days.
const SUBSTITUTE: (f32, f32) = (-4.5, 500.0);
/// The loss of the same product, if it is not used up.
const OWNED: f32 = -5.5;
/// The gain of a consumed type when it is due, and its loss just after a purchase.
const DUE: (f32, f32) = (0.1, -3.5);
/// The additional gain of the same product when it is due.
const LOYALTY: f32 = 0.7;
/// The gain of a category by a life event.
const LIFE_CATEGORY: f32 = 1.2;
/// The gain of an occasion by a life event.
const LIFE_OCCASION: f32 = 1.4;
/// The lower bound of a price's part in the utility.
const PRICE_FLOOR: f32 = -5.0;

/// The utilities of a shopper during one visit.
#[derive(Debug)]
pub struct Mood<'a> {
    catalogue: &'a SimCatalogue,
    persona: &'a Persona,
    day: u16,
    /// The day of the year.
    pub day_of_year: f32,
    taste: [f32; VALUES],
    /// The gain of each category, by number.
    pub categories: [f32; CATEGORIES.len()],
    /// The gain of each product type by needs, by number.
    pub needs: Vec<f32>,
    /// The gains of collections, at most one entry for each.
    collections: Vec<(u32, f32)>,
    /// The gains of single products. The first entry of a product counts.
    known: Vec<(u32, f32)>,
}

impl<'a> Mood<'a> {
    /// The mood on `day` of a shopper with a `memory`.
    pub fn of(
        catalogue: &'a SimCatalogue,
        persona: &'a Persona,
        memory: &PurchaseMemory,
        config: &SimulationConfig,
        day: u16,
    ) -> Self {
        let epoch_day = config.start.div_euclid(86_400) + i64::from(day);
        let mut mood = Self {
            catalogue,
            persona,
            day,
            day_of_year: day_of_year(epoch_day),
            taste: persona.taste(day, config.days),
            categories: persona.interests,
            needs: vec![0.0; catalogue.kinds.len()],
            collections: Vec::new(),
            known: Vec::new(),
        };
        mood.live(persona);
        for bought in memory.latest() {
            mood.want_after(bought.item, day.saturating_sub(bought.day));
        }
        mood
    }

    /// The utility of a product at `price_factor` times its list price, in logits.
    pub fn utility(&self, number: u32, price_factor: f32) -> f32 {
        let item = &self.catalogue.items[number as usize];
        let taste: f32 = Facet::ALL
            .iter()
            .zip(item.facets)
            .map(|(facet, value)| self.taste[facet.offset() + usize::from(value)])
            .sum();
        taste
            + 0.4 * self.categories[usize::from(item.category)]
            + self.price_fit(item, price_factor)
            + item.season.pull(self.day_of_year)
            + self.needs[usize::from(item.kind)]
            + self.of_collection(item)
            + find(&self.known, number).unwrap_or(0.0)
            + item.quality
            + item.trend(self.day)
    }

    /// Products that are due again, latest purchase first.
    pub fn due(&self) -> impl Iterator<Item = u32> {
        self.known.iter().filter(|(_, gain)| *gain > LOYALTY / 2.0).map(|&(item, _)| item)
    }

    /// Updates the needs for a purchase of product `number`, `ago` days before.
    pub fn want_after(&mut self, number: u32, ago: u16) {
        let catalogue = self.catalogue;
        let item = &catalogue.items[number as usize];
        let kind = &catalogue.kinds[usize::from(item.kind)];
        for &other in &kind.goes_with {
            let need = &mut self.needs[usize::from(other)];
            *need = need.max(faded(COMPLEMENT, ago));
        }
        if let Some(collection) = item.collection {
            self.want_collection(collection, faded(COLLECTION, ago));
        }
        match kind.kind.nature {
            Nature::Durable => {
                let need = &mut self.needs[usize::from(item.kind)];
                *need = need.min(faded(SUBSTITUTE, ago));
                self.know(number, OWNED);
            }
            Nature::Collected => self.know(number, OWNED),
            Nature::Consumed(period) => self.want_again(number, f32::from(period), ago),
        }
    }

    fn live(&mut self, persona: &Persona) {
        for event in persona.happening(self.day) {
            let occasion = usize::from(number(&OCCASIONS, event.occasion));
            self.taste[Facet::Occasion.offset() + occasion] += LIFE_OCCASION;
            for (gain, category) in self.categories.iter_mut().zip(&CATEGORIES) {
                if event.categories.contains(&category.name) {
                    *gain += LIFE_CATEGORY;
                }
            }
        }
    }

    /// A consumed product is due around its period, and for a while after.
    fn want_again(&mut self, number: u32, period: f32, ago: u16) {
        if find(&self.known, number).is_some() {
            return;
        }
        let periods = f32::from(ago) / (period * self.persona.pace);
        let ripe = 1.0 / (1.0 + ((1.0 - periods) / 0.12).exp());
        let ripe = ripe * (-periods / 10.0).exp();
        self.know(number, LOYALTY * ripe);
        let kind = usize::from(self.catalogue.items[number as usize].kind);
        let need = DUE.1 + (DUE.0 - DUE.1) * ripe;
        // Purchases that are long past have no effect.
        let need = if periods > 3.0 { need.max(0.0) } else { need };
        self.needs[kind] = if self.needs[kind] < 0.0 { self.needs[kind] } else { need };
    }

    fn know(&mut self, number: u32, gain: f32) {
        if find(&self.known, number).is_none() {
            self.known.push((number, gain));
        }
    }

    fn want_collection(&mut self, collection: u32, gain: f32) {
        match self.collections.iter_mut().find(|(known, _)| *known == collection) {
            Some((_, known)) => *known = known.max(gain),
            None => self.collections.push((collection, gain)),
        }
    }

    fn of_collection(&self, item: &SimItem) -> f32 {
        item.collection.and_then(|number| find(&self.collections, number)).unwrap_or(0.0)
    }

    /// The utility of a price. It is best at the shopper's means, and falls faster above than below.
    fn price_fit(&self, item: &SimItem, price_factor: f32) -> f32 {
        let apart = (item.dearness + price_factor.ln() - self.persona.means) / 0.5;
        let side = if apart > 0.0 { 1.0 } else { 0.4 };
        (-side * self.persona.thrift * apart * apart).max(PRICE_FLOOR)
    }
}

fn faded((strength, days): (f32, f32), ago: u16) -> f32 {
    strength * (-f32::from(ago) / days).exp()
}

fn find(pairs: &[(u32, f32)], key: u32) -> Option<f32> {
    pairs.iter().find(|(known, _)| *known == key).map(|&(_, gain)| gain)
}

#[cfg(test)]
mod tests {
    use super::super::memory::SimPurchase;
    use super::*;

    /// Utilities of item `of`, before and `ago` days after a purchase of `bought`.
    fn check(bought: u32, of: u32, ago: u16) -> (f32, f32) {
        let config = SimulationConfig { products: 1_500, ..SimulationConfig::default() };
        let catalogue = SimCatalogue::draw(&config);
        let persona = Persona::draw(&config, 0);
        let utility = |memory: &PurchaseMemory| {
            Mood::of(&catalogue, &persona, memory, &config, 400).utility(of, 1.0)
        };
        let mut memory = PurchaseMemory::EMPTY;
        let before = utility(&memory);
        memory.remember(SimPurchase { item: bought, day: 400 - ago });
        (before, utility(&memory))
    }

    fn first_of(name: &str) -> u32 {
        let catalogue = SimCatalogue::draw(&SimulationConfig {
            products: 1_500,
            ..SimulationConfig::default()
        });
        let kind = |item: &SimItem| catalogue.kinds[usize::from(item.kind)].kind.name;
        catalogue.items.iter().position(|item| kind(item) == name).expect("a common type") as u32
    }

    #[test]
    fn a_teapot_makes_cups_wanted_and_teapots_not() {
        let (teapot, cup) = (first_of("teapot"), first_of("tea cup"));
        let (before, after) = check(teapot, cup, 5);
        assert!(after > before + 1.0, "{before} {after}");
        let (before, after) = check(teapot, teapot, 30);
        assert!(after < before - 3.0, "{before} {after}");
    }

    #[test]
    fn soap_is_wanted_again_when_it_is_used_up() {
        let soap = first_of("soap bar");
        let (before, just_after) = check(soap, soap, 2);
        let (_, later) = check(soap, soap, 70);
        assert!(just_after < before - 1.0, "{before} {just_after}");
        assert!(later > before + 0.5, "{before} {later}");
    }
}
