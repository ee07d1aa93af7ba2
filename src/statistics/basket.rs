//! Which purchases belong to one basket.

use crate::domain::Timestamp;

/// Seconds after a purchase within which the next one belongs to the same basket.
pub const VISIT_S: i64 = 3_600;
/// Distinct items of a basket that make pairs: the first ones.
pub const BASKET_ITEMS_MAX: usize = 64;

/// Where a purchase belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the latest basket.
    Open,
    /// In a basket after it.
    New,
    /// Before it: in no basket that is known any more.
    Late,
}

/// A shopper's latest basket, and the items of the one before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Baskets {
    /// How many there were.
    pub(super) count: u32,
    /// The first and the last purchase of the latest.
    span: Option<(Timestamp, Timestamp)>,
    /// The first [`BASKET_ITEMS_MAX`] distinct items of the latest.
    pub(super) open: Vec<u32>,
    /// The same of the one before.
    pub(super) previous: Vec<u32>,
}

// === impl Baskets ===

impl Baskets {
    /// Finds the basket of a purchase, and begins a new one where it must.
    pub(super) fn place(&mut self, time: Timestamp) -> Place {
        match &mut self.span {
            Some((first, _)) if time < first.saturating_sub(VISIT_S) => Place::Late,
            Some((first, last)) if time <= last.saturating_add(VISIT_S) => {
                *first = time.min(*first);
                *last = time.max(*last);
                Place::Open
            }
            _ => {
                self.span = Some((time, time));
                self.count = self.count.saturating_add(1);
                std::mem::swap(&mut self.previous, &mut self.open);
                self.open.clear();
                Place::New
            }
        }
    }

    /// Adds an item to the latest basket. `false` if it is there already, or if the basket is full.
    pub(super) fn add(&mut self, item: u32) -> bool {
        let fits = self.open.len() < BASKET_ITEMS_MAX && !self.open.contains(&item);
        if fits {
            self.open.push(item);
        }
        fits
    }
}
