//! What a teacher said of a slate: a thought, and the order that follows from it.

use super::cases::Case;
use crate::bundle::{Backing, Catalog, ItemCard, Past};
use crate::domain::{EventKind, Timestamp};
use crate::reranker::{Because, Offer, Thought};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

/// A teacher's answer that was kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trace {
    /// What the shopper had done, oldest first: (item, time, kind).
    pub history: Vec<(u32, Timestamp, String)>,
    /// When they were shown the slate.
    pub now: Timestamp,
    /// The candidates, best first: the one that was taken leads.
    pub order: Vec<Offer>,
    /// How the teacher thought, if that led to the one that was taken.
    pub thought: Option<String>,
}

/// Someone who can think about a slate.
pub trait Teacher: Sync {
    /// The candidate that it would take, and why; it does not know which one was taken.
    fn attempt(&self, case: &Case, offered: &[u32]) -> Option<(u32, Thought)>;

    /// Why a candidate may have been taken, told that it was; `None` if nothing speaks for it.
    fn explain(&self, case: &Case, item: u32) -> Option<Thought>;
}

/// The evidence writer as a teacher: it takes the candidate that the shopper's own history backs
/// most, by the reasons on its card, and says so. It is no language model, and what it says is
/// always so.
#[derive(Debug)]
pub struct EvidenceTeacher<'a> {
    /// The items.
    pub catalog: &'a Catalog,
    /// Their cards, as of no later than the cases.
    pub cards: &'a [ItemCard],
}

/// Attributes that a thought says the shopper likes.
const LIKES: usize = 2;
/// Events that an attribute must occur in, to be liked.
const LIKED_MIN: u32 = 3;
/// What sharing an attribute counts beside going with something that was bought.
const ATTRIBUTE_SHARE: f32 = 0.5;

// === impl EvidenceTeacher ===

impl Teacher for EvidenceTeacher<'_> {
    fn attempt(&self, case: &Case, offered: &[u32]) -> Option<(u32, Thought)> {
        let shopper = Shopper::of(self.catalog, &case.history);
        let backed = |&item: &u32| {
            let (strength, backing) = self.backing(item, &shopper)?;
            Some((item, strength, backing))
        };
        let best = offered.iter().filter_map(backed);
        let (item, _, backing) = best.max_by(|a, b| a.1.total_cmp(&b.1).then(b.0.cmp(&a.0)))?;
        Some((item, self.say(item, backing, &shopper)?))
    }

    fn explain(&self, case: &Case, item: u32) -> Option<Thought> {
        let shopper = Shopper::of(self.catalog, &case.history);
        let (_, backing) = self.backing(item, &shopper)?;
        self.say(item, backing, &shopper)
    }
}

impl EvidenceTeacher<'_> {
    fn say(&self, item: u32, backing: Backing, shopper: &Shopper) -> Option<Thought> {
        let because = match backing {
            Backing::Item(other) => Because::GoesWith(self.catalog.item(other).title.to_string()),
            Backing::Attribute(number) => Because::Is(self.catalog.attribute(number).1.to_string()),
            Backing::Nothing => return None,
        };
        let title = self.catalog.item(item).title.to_string();
        Some(Thought { likes: shopper.likes(self.catalog), title, because })
    }

    /// How far a shopper's history backs an item, and what backs it most.
    fn backing(&self, item: u32, shopper: &Shopper) -> Option<(f32, Backing)> {
        let backed = self.cards[item as usize].reasons.iter().filter_map(|reason| {
            let strength = match reason.backing {
                Backing::Item(other) => {
                    shopper.items.contains_key(&other).then_some(reason.strength)?
                }
                Backing::Attribute(number) => {
                    let shared = *shopper.attributes.get(&number)? as f32 / shopper.events as f32;
                    shared * reason.strength * ATTRIBUTE_SHARE
                }
                Backing::Nothing => return None,
            };
            Some((strength, reason.backing))
        });
        let backed: Vec<_> = backed.collect();
        let sum: f32 = backed.iter().map(|(strength, _)| strength).sum();
        let (_, most) = backed.into_iter().max_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((sum, most))
    }
}

/// What a history says at a glance.
struct Shopper {
    events: u32,
    items: FxHashMap<u32, u32>,
    attributes: FxHashMap<u32, u32>,
}

// === impl Shopper ===

impl Shopper {
    fn of(catalog: &Catalog, history: &[Past]) -> Self {
        let bought = || history.iter().filter(|past| past.kind == EventKind::Purchase);
        let mut shopper = Self {
            events: bought().count() as u32,
            items: FxHashMap::default(),
            attributes: FxHashMap::default(),
        };
        for past in bought() {
            *shopper.items.entry(past.item).or_default() += 1;
            for &attribute in &catalog.item(past.item).attributes {
                *shopper.attributes.entry(attribute).or_default() += 1;
            }
        }
        shopper
    }

    /// What they chose again and again, by the names of attributes that can be said.
    fn likes(&self, catalog: &Catalog) -> Vec<String> {
        let speaks = |number: &u32| crate::evidence::speaks(catalog.attribute(*number).0);
        let liked = self.attributes.iter().filter(|(number, count)| {
            **count >= LIKED_MIN && speaks(number) && !catalog.attribute(**number).1.contains('.')
        });
        let mut liked: Vec<(u32, u32)> = liked.map(|(number, count)| (*number, *count)).collect();
        liked.sort_by_key(|&(number, count)| (std::cmp::Reverse(count), number));
        liked
            .iter()
            .take(LIKES)
            .map(|&(number, _)| catalog.attribute(number).1.to_string())
            .collect()
    }
}

// === impl Trace ===

impl Trace {
    /// Its history, as prompts read it.
    pub fn history(&self) -> Vec<Past> {
        let past = |(item, time, kind): &(u32, Timestamp, String)| {
            let kind = EventKind::parse(kind)?;
            Some(Past { item: *item, time: *time, kind })
        };
        self.history.iter().filter_map(past).collect()
    }
}
