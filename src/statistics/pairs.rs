//! Which items are bought together, or one in the basket after the other: the best partners of each item.
//!
//! A row holds [`PARTNERS_MAX`] partners. A partner that a full row doesn't hold takes the place of the weakest, and its
//! counts begin at zero. The strength of a partner is its recent pairs and a quarter of all its pairs. So counts err downwards only: by what was counted before the
//! partner was last dropped. `docs/statistics.md` compares other rules.

use super::windows::Day;
use crate::domain::Timestamp;

/// Partners that are kept of an item.
pub const PARTNERS_MAX: usize = 64;
/// The length of the window of recent pairs.
pub const PAIR_DAYS: u16 = 90;

/// Places that a row gets when it needs one more. Doubling them would leave a quarter of all places empty.
const ROW_GROWTH: usize = 8;
/// What a pair of long ago adds to the strength of a partner, relative to a pair of now.
const PAST_WEIGHT: f32 = 0.25;

/// How often an item and a partner were bought, since the partner was last taken into the item's row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairCounts {
    /// The number of the partner.
    pub partner: u32,
    /// Baskets with both; 65,535 stands for more.
    pub same: f32,
    /// Times that the partner was in the basket after one with the item; 65,535 stands for more.
    pub next: f32,
    /// Both together in a window of [`PAIR_DAYS`].
    pub recent: f32,
}

/// How two items were bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Same,
    Next,
}

/// What is kept of a pair: twelve bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pair {
    pub(super) partner: u32,
    pub(super) same: u16,
    pub(super) next: u16,
    /// Recent pairs as of the start of the row's day.
    pub(super) recent: f32,
}

/// The partners of an item, in no order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PairRow {
    pub(super) day: Day,
    pub(super) pairs: Vec<Pair>,
}

// === impl Pair ===

impl Pair {
    /// What decides who is dropped.
    fn strength(&self) -> f32 {
        self.recent + PAST_WEIGHT * (f32::from(self.same) + f32::from(self.next))
    }

    fn count(&mut self, link: Link, weight: f64) {
        let count = match link {
            Link::Same => &mut self.same,
            Link::Next => &mut self.next,
        };
        *count = count.saturating_add(1);
        self.recent = (f64::from(self.recent) + weight) as f32;
    }
}

// === impl PairRow ===

impl Default for PairRow {
    fn default() -> Self {
        Self { day: Day::NEVER, pairs: Vec::new() }
    }
}

impl PairRow {
    pub(super) fn add(&mut self, partner: u32, link: Link, time: Timestamp) {
        self.move_to(Day::of(time));
        let weight = growth(self.day.days_until(time));
        let held = self.pairs.iter().position(|pair| pair.partner == partner);
        let at = held.unwrap_or_else(|| self.take_in(partner));
        self.pairs[at].count(link, weight);
    }

    /// Gives a partner a place: a new one, or that of the weakest. Of equals, it is the one that stands first.
    fn take_in(&mut self, partner: u32) -> usize {
        let newcomer = Pair { partner, same: 0, next: 0, recent: 0.0 };
        if self.pairs.len() < PARTNERS_MAX {
            if self.pairs.len() == self.pairs.capacity() {
                self.pairs.reserve_exact(ROW_GROWTH);
            }
            self.pairs.push(newcomer);
            return self.pairs.len() - 1;
        }
        let strengths = self.pairs.iter().map(Pair::strength).enumerate();
        let weakest = strengths.min_by(|a, b| a.1.total_cmp(&b.1));
        let (at, _) = weakest.expect("a full row has partners");
        self.pairs[at] = newcomer;
        at
    }

    /// Keeps recent pairs as of the start of `day`, unless theirs is as late.
    fn move_to(&mut self, day: Day) {
        if day <= self.day {
            return;
        }
        if !self.pairs.is_empty() {
            let factor = growth(f64::from(self.day.0) - f64::from(day.0));
            for pair in &mut self.pairs {
                pair.recent = (f64::from(pair.recent) * factor) as f32;
            }
        }
        self.day = day;
    }

    /// The pairs at a moment.
    pub(super) fn read(&self, now: Timestamp) -> impl Iterator<Item = PairCounts> + '_ {
        let factor = growth(-self.day.days_until(now).max(0.0));
        self.pairs.iter().map(move |pair| {
            let (same, next) = (f32::from(pair.same), f32::from(pair.next));
            let recent = (f64::from(pair.recent) * factor) as f32;
            PairCounts { partner: pair.partner, same, next, recent }
        })
    }
}

/// e^(days/[`PAIR_DAYS`]).
fn growth(days: f64) -> f64 {
    (days / f64::from(PAIR_DAYS)).exp()
}
