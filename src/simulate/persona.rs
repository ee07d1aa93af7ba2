//! The persona of a shopper. It is drawn from the seed when it is needed, and never stored.

use super::SimulationConfig;
use super::catalogue::normal;
use super::dice::{Purpose, one, stream, weighted};
use super::goods::CATEGORIES;
use super::words::{COLORS, Facet, MATERIALS, MOTIFS, STYLES, VALUES, number};
use rand::Rng;
use std::array;

/// Visits of a median shopper in two years.
const VISITS_IN_TWO_YEARS: f32 = 24.0;
/// The spread of activity: the standard deviation of its logarithm.
const ACTIVITY_SPREAD: f32 = 1.0;
/// The share of shoppers who know the shop from the first day.
const FIRST_DAY_SHARE: f64 = 0.5;
/// The share of liked values that fade while another one grows.
const DRIFT_SHARE: f64 = 0.3;

/// An event that changes a shopper's needs for some months.
#[derive(Debug)]
pub struct LifeEvent {
    /// Its name.
    pub name: &'static str,
    /// How long it lasts, in days.
    days: u16,
    /// The categories that gain.
    pub categories: &'static [&'static str],
    /// The occasion that is shopped for.
    pub occasion: &'static str,
}

/// The possible life events.
pub static LIFE_EVENTS: [LifeEvent; 6] = [
    LifeEvent {
        name: "new home",
        days: 150,
        categories: &["home decor", "lighting", "textiles", "kitchen"],
        occasion: "housewarming",
    },
    LifeEvent { name: "baby", days: 270, categories: &["toys", "textiles"], occasion: "new baby" },
    LifeEvent {
        name: "wedding",
        days: 120,
        categories: &["dining", "jewellery", "stationery"],
        occasion: "wedding",
    },
    LifeEvent { name: "gardening", days: 240, categories: &["garden"], occasion: "garden party" },
    LifeEvent {
        name: "baking",
        days: 210,
        categories: &["kitchen", "dining"],
        occasion: "weekend bake",
    },
    LifeEvent {
        name: "hosting",
        days: 180,
        categories: &["table linen", "candles", "dining"],
        occasion: "dinner party",
    },
];

/// A value of a facet that a shopper likes or avoids.
#[derive(Clone, Copy, Debug)]
pub struct Leaning {
    /// The facet.
    pub facet: Facet,
    /// The number of the value.
    pub value: u8,
    /// Its part in the utility on the first day, in logits; negative if it is avoided.
    pub first: f32,
    /// The same on the last day.
    pub last: f32,
}

/// A shopper's taste, means and life.
#[derive(Debug)]
pub struct Persona {
    /// The day from which the shopper knows the shop.
    pub joined: u16,
    /// Visits a day, when the shop is as busy as usual.
    pub visits_per_day: f32,
    /// Liked and avoided values of facets.
    pub leanings: Vec<Leaning>,
    /// The interest in each category, as a logit. The mean of the exponentials is about 1.
    pub interests: [f32; CATEGORIES.len()],
    /// The preferred price level: the logarithm of price over usual price.
    pub means: f32,
    /// The weight of the price in the utility.
    pub thrift: f32,
    /// The factor on the period after which a consumed type is due.
    pub pace: f32,
    /// The probability that a search is for a random category instead of one of interest.
    pub curiosity: f32,
    /// The life events, with their first days.
    pub life: Vec<(&'static LifeEvent, u16)>,
}

impl Persona {
    /// The persona of a shopper.
    pub fn draw(config: &SimulationConfig, shopper: u32) -> Self {
        let mut rng = stream(config.seed, Purpose::Persona, u64::from(shopper), 0);
        let rng = &mut rng;
        let days = config.days as u16;
        Self {
            joined: draw_joined(days, rng),
            visits_per_day: VISITS_IN_TWO_YEARS / 730.0 * (ACTIVITY_SPREAD * normal(rng)).exp(),
            leanings: draw_leanings(rng),
            interests: array::from_fn(|_| 1.15 * normal(rng) - 0.3),
            means: 0.05 + 0.5 * normal(rng),
            thrift: 0.9 * (0.35 * normal(rng)).exp(),
            pace: (0.25 * normal(rng)).exp(),
            curiosity: rng.random_range(0.02..0.18),
            life: draw_life(days, rng),
        }
    }

    /// The part of each facet value in the utility on `day` of `days`, in logits. It moves linearly from
    /// the first strength of a leaning to the last.
    pub fn taste(&self, day: u16, days: u32) -> [f32; VALUES] {
        let part = f32::from(day) / days as f32;
        let mut taste = [0.0; VALUES];
        for leaning in &self.leanings {
            let at = leaning.facet.offset() + usize::from(leaning.value);
            taste[at] += leaning.first + part * (leaning.last - leaning.first);
        }
        taste
    }

    /// The life events that last on `day`.
    pub fn happening(&self, day: u16) -> impl Iterator<Item = &'static LifeEvent> {
        let on = move |from: u16, event: &LifeEvent| day >= from && day - from < event.days;
        self.life.iter().filter(move |&&(event, from)| on(from, event)).map(|&(event, _)| event)
    }
}

fn draw_joined(days: u16, rng: &mut impl Rng) -> u16 {
    if rng.random_bool(FIRST_DAY_SHARE) { 0 } else { rng.random_range(0..days) * 4 / 5 }
}

/// Tastes are correlated: a shopper likes a style, and mostly the colours, materials and motifs of its
/// look. So shoppers resemble each other, and can be learned from.
fn draw_leanings(rng: &mut impl Rng) -> Vec<Leaning> {
    let style = rng.random_range(0..STYLES.len());
    let second = rng.random_range(0..STYLES.len());
    let mut leanings = Vec::with_capacity(20);
    like(&mut leanings, Facet::Style, style as u8, 1.5, rng);
    like(&mut leanings, Facet::Style, second as u8, 0.9, rng);
    for look in [style, style, second].map(|number| &STYLES[number]) {
        let color = from_look(look.colors, &COLORS, rng);
        like(&mut leanings, Facet::Color, color, 1.2, rng);
        let material = from_look(look.materials, &MATERIALS, rng);
        like(&mut leanings, Facet::Material, material, 1.1, rng);
        let motif = from_look(look.motifs, &MOTIFS, rng);
        like(&mut leanings, Facet::Motif, motif, 1.3, rng);
    }
    for (facet, strength) in [(Facet::Occasion, 0.7), (Facet::Brand, 0.9), (Facet::Brand, 0.9)] {
        let value = rng.random_range(0..facet.len()) as u8;
        like(&mut leanings, facet, value, strength, rng);
    }
    for facet in [Facet::Color, Facet::Color, Facet::Material, Facet::Style, Facet::Motif] {
        let value = rng.random_range(0..facet.len()) as u8;
        leanings.push(Leaning { facet, value, first: -1.2, last: -1.2 });
    }
    leanings
}

fn from_look(look: &[&str], words: &[&str], rng: &mut impl Rng) -> u8 {
    if rng.random_bool(0.7) {
        number(words, one(rng, look))
    } else {
        rng.random_range(0..words.len()) as u8
    }
}

/// Adds a liked value. Some fade, and then another value of the facet grows.
fn like(leanings: &mut Vec<Leaning>, facet: Facet, value: u8, strength: f32, rng: &mut impl Rng) {
    let strength = strength * rng.random_range(0.7..1.3);
    if rng.random_bool(DRIFT_SHARE) {
        let grown = rng.random_range(0..facet.len()) as u8;
        leanings.push(Leaning { facet, value, first: strength, last: 0.2 * strength });
        leanings.push(Leaning { facet, value: grown, first: 0.0, last: strength });
    } else {
        leanings.push(Leaning { facet, value, first: strength, last: strength });
    }
}

fn draw_life(days: u16, rng: &mut impl Rng) -> Vec<(&'static LifeEvent, u16)> {
    let count = weighted(rng, &[0.35, 0.45, 0.2]).expect("the weights are positive");
    (0..count)
        .map(|_| (&LIFE_EVENTS[rng.random_range(0..LIFE_EVENTS.len())], rng.random_range(0..days)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::words::{OCCASIONS, number};
    use super::*;

    #[test]
    fn a_persona_is_the_same_whenever_it_is_drawn() {
        let config = SimulationConfig::default();
        let draw = |shopper| format!("{:?}", Persona::draw(&config, shopper));
        assert_eq!(draw(3), draw(3));
        assert_ne!(draw(3), draw(4));
    }

    #[test]
    fn life_events_name_known_words() {
        for event in &LIFE_EVENTS {
            number(&OCCASIONS, event.occasion);
            for name in event.categories {
                assert!(CATEGORIES.iter().any(|category| category.name == *name), "{name}");
            }
        }
    }

    #[test]
    fn a_taste_drifts_from_its_first_to_its_last_strength() {
        let config = SimulationConfig::default();
        let mut persona = Persona::draw(&config, 1);
        persona.leanings = vec![Leaning { facet: Facet::Color, value: 2, first: 1.0, last: 0.0 }];
        let at = |day| persona.taste(day, 730)[2];
        assert!((at(0) - 1.0).abs() < 1e-6 && (at(365) - 0.5).abs() < 1e-6);
    }
}
