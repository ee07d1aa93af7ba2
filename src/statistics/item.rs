//! The counts of one item, and of one category or attribute.

use super::windows::{Day, KINDS, Moment, Novelty, WINDOWS, Windows};
use crate::domain::{EventKind, Timestamp};

/// An item's counts at a moment; all zeros for an item without events.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ItemCounts {
    /// First-time buyers in each window.
    pub buyers: [f32; WINDOWS],
    /// Events in each window, by [`EventKind`].
    pub events: [[f32; WINDOWS]; KINDS],
    /// Purchases by shoppers who bought it in an earlier basket, in a window of [`super::REPEAT_DAYS`].
    pub repeats: f32,
    /// The time of its earliest event of any kind.
    pub first_event: Option<Timestamp>,
    /// The time of its latest purchase.
    pub last_sale: Option<Timestamp>,
    /// Distinct buyers.
    pub buyers_ever: u32,
    /// Purchases.
    pub sales_ever: u32,
    /// Purchases of today and of yesterday.
    pub sales_by_day: DaySales,
}

/// Purchases on two days of UTC, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DaySales {
    /// On the day of the reading.
    pub today: u32,
    /// On the day before.
    pub yesterday: u32,
}

/// The counts of a category or an attribute at a moment: those of its items together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct GroupCounts {
    /// First-time buyers of its items in each window. Who buys two of its items for the first time counts twice.
    pub buyers: [f32; WINDOWS],
    /// Events in each window, by [`EventKind`].
    pub events: [[f32; WINDOWS]; KINDS],
    /// Purchases of items that the shopper bought in an earlier basket, in a window of [`super::REPEAT_DAYS`].
    pub repeats: f32,
    /// The time of the latest purchase.
    pub last_sale: Option<Timestamp>,
    /// Purchases.
    pub sales_ever: u64,
}

/// What is kept of an item.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ItemState {
    pub(super) windows: Windows<f32>,
    /// [`Timestamp::MAX`] if there is none.
    pub(super) first_event: Timestamp,
    /// [`Timestamp::MIN`] if there is none.
    pub(super) last_sale: Timestamp,
    pub(super) buyers_ever: u32,
    pub(super) sales_ever: u32,
    /// Purchases on the day of the last sale, and on the day before it.
    pub(super) day_sales: DaySales,
}

/// What is kept of a category or an attribute. Millions of events may count in one, so its sums are in `f64`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct GroupState {
    pub(super) windows: Windows<f64>,
    /// [`Timestamp::MIN`] if there is none.
    pub(super) last_sale: Timestamp,
    pub(super) sales_ever: u64,
}

// === impl DaySales ===

impl DaySales {
    /// Counts a sale, given the latest sale before it.
    fn count(&mut self, day: Day, last_sale: Timestamp) {
        let latest = Day::of(last_sale);
        if last_sale == Timestamp::MIN || day > latest {
            *self = self.on(day, latest);
            self.today += 1;
        } else if day == latest {
            self.today = self.today.saturating_add(1);
        } else if i64::from(latest.0) - i64::from(day.0) == 1 {
            self.yesterday = self.yesterday.saturating_add(1);
        }
    }

    /// What these sales of `latest` and the day before it are for a reading on `day`. Sales after `day` are left out.
    fn on(self, day: Day, latest: Day) -> Self {
        match i64::from(day.0) - i64::from(latest.0) {
            0 => self,
            1 => Self { today: 0, yesterday: self.today },
            -1 => Self { today: self.yesterday, yesterday: 0 },
            _ => Self::default(),
        }
    }
}

// === impl ItemState ===

impl Default for ItemState {
    fn default() -> Self {
        Self {
            windows: Windows::default(),
            first_event: Timestamp::MAX,
            last_sale: Timestamp::MIN,
            buyers_ever: 0,
            sales_ever: 0,
            day_sales: DaySales::default(),
        }
    }
}

impl ItemState {
    pub(super) fn count(&mut self, moment: &Moment, kind: EventKind, novelty: Novelty) {
        self.windows.add(moment, kind, novelty);
        self.first_event = self.first_event.min(moment.time);
        if kind != EventKind::Purchase {
            return;
        }
        self.day_sales.count(moment.day, self.last_sale);
        self.last_sale = self.last_sale.max(moment.time);
        self.sales_ever = self.sales_ever.saturating_add(1);
        self.buyers_ever = self.buyers_ever.saturating_add(u32::from(novelty.first));
    }

    pub(super) fn read(&self, now: Timestamp) -> ItemCounts {
        let values = self.windows.read(now);
        let sold = self.last_sale != Timestamp::MIN;
        let sales_by_day = self.day_sales.on(Day::of(now), Day::of(self.last_sale));
        ItemCounts {
            buyers: values.buyers,
            events: values.events,
            repeats: values.repeats,
            first_event: (self.first_event != Timestamp::MAX).then_some(self.first_event),
            last_sale: sold.then_some(self.last_sale),
            buyers_ever: self.buyers_ever,
            sales_ever: self.sales_ever,
            sales_by_day: if sold { sales_by_day } else { DaySales::default() },
        }
    }
}

// === impl GroupState ===

impl Default for GroupState {
    fn default() -> Self {
        Self { windows: Windows::default(), last_sale: Timestamp::MIN, sales_ever: 0 }
    }
}

impl GroupState {
    pub(super) fn count(&mut self, moment: &Moment, kind: EventKind, novelty: Novelty) {
        self.windows.add(moment, kind, novelty);
        if kind == EventKind::Purchase {
            self.last_sale = self.last_sale.max(moment.time);
            self.sales_ever = self.sales_ever.saturating_add(1);
        }
    }

    pub(super) fn read(&self, now: Timestamp) -> GroupCounts {
        let values = self.windows.read(now);
        GroupCounts {
            buyers: values.buyers,
            events: values.events,
            repeats: values.repeats,
            last_sale: (self.last_sale != Timestamp::MIN).then_some(self.last_sale),
            sales_ever: self.sales_ever,
        }
    }
}
