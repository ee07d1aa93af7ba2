//! One visit: the shop shows lists, and the shopper examines, clicks, carts and buys some products.

use super::catalogue::SimCatalogue;
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
/// Lists that the shopper asks for in one visit, at most. The shop may show two more unasked:
/// products that are due again, and products that go with the basket.
const MISSIONS_MAX: usize = 6;
/// The exponent with which the probability of examination falls with the rank on a list.
const EXAMINATION_POWER: f32 = 0.7;
/// The scale of a choice's random part, in logits.
const NOISE: f32 = 0.35;
/// The utility above which a product is clicked, in logits.
const CLICK_AT: f32 = 2.6;
/// The utility above which it is put in the cart.
const CART_AT: f32 = 3.3;
/// The probability that a product stays in the cart, and is not bought.
const ABANDONED: f64 = 0.12;

/// Seconds between two events of a visit are fewer than these.
const PAUSE_SECONDS: i64 = 25;

/// An event. Its preference and propensity are the simulator's secrets: only the oracle's files,
/// which no model reads, hold them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimEvent {
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
    /// The probability that the product's rank on the list is examined.
    pub propensity: f32,
}

/// A product that was examined.
#[derive(Clone, Copy, Debug)]
struct ExaminedItem {
    item: u32,
    preference: f32,
    propensity: f32,
    /// The preference plus noise: what the shopper acts on.
    felt: f32,
}

/// A shopper in the shop.
#[derive(Debug)]
pub struct Visit<'a, 'b, R> {
    /// The catalogue.
    pub catalogue: &'a SimCatalogue,
    /// The shop today.
    pub shelf: &'b Shelf<'a>,
    /// The shopper's persona.
    pub persona: &'b Persona,
    /// The shopper's utilities.
    pub mood: Mood<'b>,
    /// The number of the shopper.
    pub shopper: u32,
    /// The time. It advances with every event.
    pub clock: Timestamp,
    /// The visit's random stream.
    pub rng: R,
    /// The events so far.
    pub events: &'b mut Vec<SimEvent>,
}

impl<R: Rng> Visit<'_, '_, R> {
    /// Simulates the visit, and returns the products that were bought as basket `number`.
    pub fn simulate(mut self, number: u64) -> Vec<u32> {
        let mut basket: Vec<ExaminedItem> = Vec::new();
        if self.rng.random_bool(0.25) {
            let due = self.shelf.still_sold(self.mood.due());
            self.browse(&due, &mut basket);
        }
        let mut missions = 1;
        while missions < MISSIONS_MAX && self.rng.random_bool(0.5) {
            missions += 1;
        }
        for _ in 0..missions {
            let list = self.request_list(&basket);
            self.browse(&list, &mut basket);
        }
        if let Some(last) = basket.last() {
            let list = self.shelf.bought_with(last.item);
            self.browse(&list, &mut basket);
        }
        self.check_out(&basket, number)
    }

    /// A list that the shopper requests: complements, a search, or a category.
    fn request_list(&mut self, basket: &[ExaminedItem]) -> Vec<u32> {
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

    /// A search for a product type, mostly with a liked value: "sage mug".
    fn search(&mut self, kind: u16) -> Vec<u32> {
        let searchable = [Facet::Color, Facet::Material, Facet::Style, Facet::Motif];
        let leanings = &self.persona.leanings;
        let likes = leanings.iter().map(|leaning| {
            if searchable.contains(&leaning.facet) { leaning.first.max(0.0) } else { 0.0 }
        });
        let liked = if self.rng.random_bool(0.75) {
            weighted(&mut self.rng, &likes.collect::<Vec<_>>())
        } else {
            None
        };
        let value = liked.map(|at| (leanings[at].facet, leanings[at].value));
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

    /// Examines a list from the top, with falling probability. Products of high utility are
    /// clicked, and the best of them go into the cart. The noise is Gumbel's, so which product is
    /// best is drawn from a softmax. None is taken if the best stays below the cart's threshold.
    fn browse(&mut self, list: &[u32], basket: &mut Vec<ExaminedItem>) {
        let mut clicked = Vec::new();
        for (index, &item) in list.iter().enumerate() {
            let propensity = ((index + 1) as f32).powf(-EXAMINATION_POWER);
            if self.rng.random::<f32>() >= propensity {
                continue;
            }
            let preference = self.mood.utility(item, self.shelf.price_factor(item));
            let gumbel = -(-(1.0 - self.rng.random::<f32>()).max(f32::MIN_POSITIVE).ln()).ln();
            let seen =
                ExaminedItem { item, preference, propensity, felt: preference + NOISE * gumbel };
            if seen.felt >= CLICK_AT {
                self.happen(EventKind::Click, seen, 1);
                clicked.push(seen);
            }
        }
        clicked.sort_by(|a, b| b.felt.total_cmp(&a.felt));
        self.take(&clicked, basket);
    }

    fn take(&mut self, clicked: &[ExaminedItem], basket: &mut Vec<ExaminedItem>) {
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

    /// Whether a product may be added to the basket: it is not in it, and neither is another one of its
    /// type, unless the type is collected.
    fn fits(&self, item: u32, basket: &[ExaminedItem]) -> bool {
        let kind = |item: u32| self.catalogue.items[item as usize].kind;
        let nature = self.catalogue.kinds[usize::from(kind(item))].kind.nature;
        basket.iter().all(|seen| {
            seen.item != item && (nature == Nature::Collected || kind(seen.item) != kind(item))
        })
    }

    fn check_out(mut self, basket: &[ExaminedItem], number: u64) -> Vec<u32> {
        let from = self.events.len();
        for &seen in basket {
            let quantity = self.draw_quantity(seen.item);
            self.happen(EventKind::Purchase, seen, quantity);
        }
        // The lines of a basket have one time.
        for event in &mut self.events[from..] {
            event.time = self.clock;
            event.basket = Some(number);
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

    fn happen(&mut self, kind: EventKind, seen: ExaminedItem, quantity: u8) {
        self.clock += self.rng.random_range(4..PAUSE_SECONDS);
        self.events.push(SimEvent {
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
