//! What a shopper wants at one moment: the true utility of every product.
//!
//! ```text
//! utility = taste · facets + interest + life + means + season + needs + quality + trend
//! ```
//!
//! Needs come from what was bought before: complements are wanted, substitutes of durables are
//! not, and what is used up is wanted again.

use super::Config;
use super::catalogue::{Catalogue, Item};
use super::goods::{CATEGORIES, Nature};
use super::memory::Memory;
use super::persona::Persona;
use super::season::day_of_year;
use super::words::{Facet, OCCASIONS, VALUES, number};

/// What a complement of the last purchases gains, in logits, and the days after which it fades.
const COMPLEMENT: (f32, f32) = (1.3, 60.0);
/// What another product of a collection gains that was bought from, and the days.
const COLLECTION: (f32, f32) = (1.7, 180.0);
/// What a second durable of the same type loses, and the days.
const SUBSTITUTE: (f32, f32) = (-4.5, 500.0);
/// What the same product loses when it is not used up.
const OWNED: f32 = -5.5;
/// What a type that is used up gains when it is due, and loses just after a purchase.
const DUE: (f32, f32) = (0.1, -3.5);
/// What the very product gains besides, when it is due.
const LOYALTY: f32 = 0.7;
/// What a category gains by a life event.
const LIFE_CATEGORY: f32 = 1.2;
/// What an occasion gains by a life event.
const LIFE_OCCASION: f32 = 1.4;
/// The least that a price can do to utility.
const PRICE_FLOOR: f32 = -5.0;

/// The state of mind of a shopper during one visit.
#[derive(Debug)]
pub struct Mood<'a> {
    catalogue: &'a Catalogue,
    persona: &'a Persona,
    day: u16,
    /// The day of the year.
    pub day_of_year: f32,
    taste: [f32; VALUES],
    /// What each category gains, by number.
    pub categories: [f32; CATEGORIES.len()],
    /// What each product type gains from needs, by number.
    pub needs: Vec<f32>,
    /// What collections gain; at most one entry for each.
    collections: Vec<(u32, f32)>,
    /// What single products gain or lose; the first entry of a product counts.
    known: Vec<(u32, f32)>,
}

impl<'a> Mood<'a> {
    /// The mood on `day` of a shopper with a `memory`.
    pub fn of(
        catalogue: &'a Catalogue,
        persona: &'a Persona,
        memory: &Memory,
        config: &Config,
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

    /// Products that were used up and are wanted again, latest purchase first.
    pub fn due(&self) -> impl Iterator<Item = u32> {
        self.known.iter().filter(|(_, gain)| *gain > LOYALTY / 2.0).map(|&(item, _)| item)
    }

    /// Updates the needs by a purchase of `number`, `ago` days before.
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

    /// Things that are used up become wanted around their period, and stay so for a while.
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
        // Old purchases of the type matter no more once they are long past.
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

    fn of_collection(&self, item: &Item) -> f32 {
        item.collection.and_then(|number| find(&self.collections, number)).unwrap_or(0.0)
    }

    /// A price suits best when it is as dear as the shopper's means; too cheap hurts less than
    /// too dear.
    fn price_fit(&self, item: &Item, price_factor: f32) -> f32 {
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
        let config = Config { products: 1_500, ..Config::default() };
        let catalogue = Catalogue::draw(&config);
        let persona = Persona::draw(&config, 0);
        let utility =
            |memory: &Memory| Mood::of(&catalogue, &persona, memory, &config, 400).utility(of, 1.0);
        let mut memory = Memory::EMPTY;
        let before = utility(&memory);
        memory.remember(SimPurchase { item: bought, day: 400 - ago });
        (before, utility(&memory))
    }

    fn first_of(name: &str) -> u32 {
        let catalogue = Catalogue::draw(&Config { products: 1_500, ..Config::default() });
        let kind = |item: &Item| catalogue.kinds[usize::from(item.kind)].kind.name;
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
