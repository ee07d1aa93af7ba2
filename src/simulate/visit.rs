//! One visit: lists are shown, some places examined, some products clicked, carted and bought.

use super::catalogue::Catalogue;
use super::dice::weighted;
use super::goods::{CATEGORIES, Nature};
use super::mood::Mood;
use super::persona::Persona;
use super::shelf::Shelf;
use super::words::Facet;
use crate::domain::{EventKind, Timestamp};
use rand::Rng;

/// Lines of one basket.
pub const BASKET_MAX: usize = 8;
/// Products that may be taken from one list.
const TAKEN_MAX: usize = 3;
/// Lists of one visit that the shopper asks for.
const MISSIONS_MAX: usize = 6;
/// How quickly attention falls with the place on a list.
const EXAMINATION_POWER: f32 = 0.7;
/// The scale of what a shopper cannot say: the noise of a choice, in logits.
const NOISE: f32 = 0.35;
/// The utility from which a product is clicked, in logits.
const CLICK_AT: f32 = 2.6;
/// The utility from which it is put in the cart.
const CART_AT: f32 = 3.3;
/// The chance that something is left in the cart.
const ABANDONED: f64 = 0.12;

/// Less than so many seconds pass from one event of a visit to the next.
const PAUSE_SECONDS: i64 = 25;

/// Something that happened, with what only the oracle knows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Happening {
    /// Unix seconds.
    pub time: Timestamp,
    /// The shopper's number.
    pub shopper: u32,
    /// The product's number.
    pub item: u32,
    /// A click, a cart or a purchase.
    pub kind: EventKind,
    /// Pieces.
    pub quantity: u8,
    /// The price of one, in hundredths.
    pub cents: u32,
    /// The number of the basket that a purchase belongs to, from 1.
    pub basket: Option<u64>,
    /// The true utility at that moment, in logits.
    pub preference: f32,
    /// The probability that the place was examined on which the product was shown.
    pub propensity: f32,
}

/// A product that was examined.
#[derive(Clone, Copy, Debug)]
struct Seen {
    item: u32,
    preference: f32,
    propensity: f32,
    /// The preference as it felt, with noise.
    felt: f32,
}

/// A shopper in the shop.
#[derive(Debug)]
pub struct Visit<'a, 'b, R> {
    /// What is sold.
    pub catalogue: &'a Catalogue,
    /// The shop, as it is today.
    pub shelf: &'b Shelf<'a>,
    /// Who it is.
    pub persona: &'b Persona,
    /// What is wanted.
    pub mood: Mood<'b>,
    /// The number of the shopper.
    pub shopper: u32,
    /// The time now; it moves on with every event.
    pub clock: Timestamp,
    /// The visit's chance.
    pub rng: R,
    /// What happened.
    pub happenings: &'b mut Vec<Happening>,
}

impl<R: Rng> Visit<'_, '_, R> {
    /// Spends the visit and gives the products that were bought, as basket `number`.
    pub fn spend(mut self, number: u64) -> Vec<u32> {
        let mut basket: Vec<Seen> = Vec::new();
        if self.rng.random_bool(0.25) {
            let due = self.shelf.still_sold(self.mood.due());
            self.browse(&due, &mut basket);
        }
        let mut missions = 1;
        while missions < MISSIONS_MAX && self.rng.random_bool(0.5) {
            missions += 1;
        }
        for _ in 0..missions {
            let list = self.ask(&basket);
            self.browse(&list, &mut basket);
        }
        if let Some(last) = basket.last() {
            let list = self.shelf.bought_with(last.item);
            self.browse(&list, &mut basket);
        }
        self.check_out(&basket, number)
    }

    /// A list that the shopper asks for: what goes with things, a search, or a look around.
    fn ask(&mut self, basket: &[Seen]) -> Vec<u32> {
        if let Some(last) = basket.last()
            && self.rng.random_bool(0.3)
            && let Some(collection) = self.catalogue.items[last.item as usize].collection
        {
            return self.shelf.collection(collection, &mut self.rng);
        }
        let category = self.draw_category();
        match self.rng.random_range(0..100) {
            0..30 => match self.draw_complement() {
                Some(kind) => self.search(kind),
                None => self.shelf.category(category, &mut self.rng),
            },
            30..68 => {
                let kind = self.draw_kind(category);
                self.search(kind)
            }
            68..90 => self.shelf.category(category, &mut self.rng),
            _ => self.shelf.new_arrivals(category, &mut self.rng),
        }
    }

    /// A search for a product type, mostly with something that is loved: "sage mug".
    fn search(&mut self, kind: u16) -> Vec<u32> {
        let told = [Facet::Color, Facet::Material, Facet::Style, Facet::Motif];
        let leanings = &self.persona.leanings;
        let loves = leanings.iter().map(|leaning| {
            if told.contains(&leaning.facet) { leaning.first.max(0.0) } else { 0.0 }
        });
        let love = if self.rng.random_bool(0.75) {
            weighted(&mut self.rng, &loves.collect::<Vec<_>>())
        } else {
            None
        };
        let value = love.map(|at| (leanings[at].facet, leanings[at].value));
        self.shelf.search(kind, value, &mut self.rng)
    }

    fn draw_category(&mut self) -> usize {
        if self.rng.random_bool(f64::from(self.persona.curiosity)) {
            return self.rng.random_range(0..CATEGORIES.len());
        }
        let weights = self.mood.categories.map(f32::exp);
        weighted(&mut self.rng, &weights).expect("an exponential is positive")
    }

    fn draw_kind(&mut self, category: usize) -> u16 {
        let kinds = &self.catalogue.kinds;
        let first = kinds.iter().position(|kind| usize::from(kind.category) == category);
        let first = first.expect("every category has types");
        let weights: Vec<_> = CATEGORIES[category]
            .kinds
            .iter()
            .zip(&self.mood.needs[first..])
            .map(|(kind, need)| (0.7 * kind.season.pull(self.mood.day_of_year) + need).exp())
            .collect();
        let at = weighted(&mut self.rng, &weights).expect("an exponential is positive");
        (first + at) as u16
    }

    fn draw_complement(&mut self) -> Option<u16> {
        let weights: Vec<_> = self.mood.needs.iter().map(|need| need.max(0.0)).collect();
        weighted(&mut self.rng, &weights).map(|at| at as u16)
    }

    /// Looks at a list from the top: places are examined less and less, what pleases is clicked,
    /// and the best of that goes into the cart. The noise is Gumbel's, so the choice among the
    /// clicked is a softmax with the cart's threshold as the option to take nothing.
    fn browse(&mut self, list: &[u32], basket: &mut Vec<Seen>) {
        let mut clicked = Vec::new();
        for (place, &item) in list.iter().enumerate() {
            let propensity = ((place + 1) as f32).powf(-EXAMINATION_POWER);
            if self.rng.random::<f32>() >= propensity {
                continue;
            }
            let preference = self.mood.utility(item, self.shelf.price_factor(item));
            let gumbel = -(-(1.0 - self.rng.random::<f32>()).max(f32::MIN_POSITIVE).ln()).ln();
            let seen = Seen { item, preference, propensity, felt: preference + NOISE * gumbel };
            if seen.felt >= CLICK_AT {
                self.happen(EventKind::Click, seen, 1);
                clicked.push(seen);
            }
        }
        clicked.sort_by(|a, b| b.felt.total_cmp(&a.felt));
        self.take(&clicked, basket);
    }

    fn take(&mut self, clicked: &[Seen], basket: &mut Vec<Seen>) {
        let mut taken = 0;
        for &seen in clicked.iter().filter(|seen| seen.felt >= CART_AT) {
            if taken == TAKEN_MAX || basket.len() == BASKET_MAX {
                return;
            }
            if !self.fits(seen.item, basket) {
                continue;
            }
            self.happen(EventKind::Cart, seen, 1);
            if !self.rng.random_bool(ABANDONED) {
                basket.push(seen);
                taken += 1;
                self.mood.want_after(seen.item, 0);
            }
        }
    }

    /// Whether a product makes sense beside those in the basket: not the same one again, nor two
    /// of a type of which one is enough.
    fn fits(&self, item: u32, basket: &[Seen]) -> bool {
        let kind = |item: u32| self.catalogue.items[item as usize].kind;
        let nature = self.catalogue.kinds[usize::from(kind(item))].kind.nature;
        basket.iter().all(|seen| {
            seen.item != item && (nature == Nature::Collected || kind(seen.item) != kind(item))
        })
    }

    fn check_out(mut self, basket: &[Seen], number: u64) -> Vec<u32> {
        let from = self.happenings.len();
        for &seen in basket {
            let quantity = self.draw_quantity(seen.item);
            self.happen(EventKind::Purchase, seen, quantity);
        }
        // The lines of a basket are paid at one time.
        for happening in &mut self.happenings[from..] {
            happening.time = self.clock;
            happening.basket = Some(number);
        }
        basket.iter().map(|seen| seen.item).collect()
    }

    fn draw_quantity(&mut self, item: u32) -> u8 {
        let kind = self.catalogue.items[item as usize].kind;
        let weights: &[f32] = match self.catalogue.kinds[usize::from(kind)].kind.nature {
            Nature::Durable => &[0.97, 0.03],
            Nature::Collected => &[0.55, 0.2, 0.05, 0.12, 0.0, 0.08],
            Nature::Consumed(_) => &[0.6, 0.25, 0.1, 0.05],
        };
        1 + weighted(&mut self.rng, weights).expect("the weights are positive") as u8
    }

    fn happen(&mut self, kind: EventKind, seen: Seen, quantity: u8) {
        self.clock += self.rng.random_range(4..PAUSE_SECONDS);
        self.happenings.push(Happening {
            time: self.clock,
            shopper: self.shopper,
            item: seen.item,
            kind,
            quantity,
            cents: self.shelf.cents(seen.item),
            basket: None,
            preference: seen.preference,
            propensity: seen.propensity,
        });
    }
}
