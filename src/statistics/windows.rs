//! Counts in windows of several lengths, which forget without work.
//!
//! A window of w days counts an event of age a as e^(−a/w) (forward decay: Cormode et al., ICDE 2009). The sums are
//! kept as of the start of a day, the day of the latest event. An event adds e^(s/w), s being its seconds since then,
//! and a reading multiplies by e^(−s/w). So an event never rescales the sums but on the first of a new day.

use crate::domain::{EventKind, Timestamp};

/// The lengths of the windows.
pub const WINDOW_DAYS: [u16; WINDOWS] = [1, 3, 7, 28, 90, 365];
/// The length of the window of repeat purchases.
pub const REPEAT_DAYS: u16 = WINDOW_DAYS[REPEAT_WINDOW];
/// How many windows there are.
pub(super) const WINDOWS: usize = 6;
/// How many kinds of events there are.
pub(super) const KINDS: usize = EventKind::ALL.len();
/// The place of the window of repeat purchases.
const REPEAT_WINDOW: usize = 3;
/// Seconds of a day.
pub(super) const DAY_S: i64 = 86_400;

/// Times count up to five million years from 1970, before and after; a time beyond counts as the last of these.
const TIME_MAX: Timestamp = i32::MAX as i64 * DAY_S;

/// The nearest time that counts.
pub(super) fn bounded(time: Timestamp) -> Timestamp {
    time.clamp(-TIME_MAX, TIME_MAX)
}

/// A day of UTC: days since 1970-01-01.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(pub(super) i32);

impl Day {
    /// The day before every other: of what has no events.
    pub(super) const NEVER: Self = Self(i32::MIN);

    pub(super) fn of(time: Timestamp) -> Self {
        Self(bounded(time).div_euclid(DAY_S) as i32)
    }

    /// Days from this day's start until `time`; negative before it.
    pub(super) fn days_until(self, time: Timestamp) -> f64 {
        (bounded(time) - i64::from(self.0) * DAY_S) as f64 / DAY_S as f64
    }
}

/// e^(days/w) for each window.
pub(super) fn growth(days: f64) -> [f64; WINDOWS] {
    WINDOW_DAYS.map(|window| (days / f64::from(window)).exp())
}

/// e^(−a/w) for each window, a being the days from a day's start until `now`. A reading never looks behind that start.
pub(super) fn decay(day: Day, now: Timestamp) -> [f64; WINDOWS] {
    growth(-day.days_until(now).max(0.0))
}

/// A number that sums are kept in.
pub(super) trait Sum: Copy + Default {
    /// The nearest such number.
    fn of(value: f64) -> Self;
    /// Its value.
    fn value(self) -> f64;
}

impl Sum for f32 {
    fn of(value: f64) -> Self {
        value as Self
    }

    fn value(self) -> f64 {
        f64::from(self)
    }
}

impl Sum for f64 {
    fn of(value: f64) -> Self {
        value
    }

    fn value(self) -> f64 {
        self
    }
}

/// An event's moment, and its weight in windows that are kept as of the start of its day. Computed once for all that
/// the event counts in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) time: Timestamp,
    pub(super) day: Day,
    weights: [f64; WINDOWS],
}

impl Moment {
    pub(super) fn of(time: Timestamp) -> Self {
        let day = Day::of(time);
        Self { time, day, weights: growth(day.days_until(time)) }
    }

    /// Its weight in windows that are kept as of the start of a later day.
    fn weights_at(&self, later: Day) -> [f64; WINDOWS] {
        if later == self.day { self.weights } else { growth(later.days_until(self.time)) }
    }
}

/// What an event is besides its kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Novelty {
    /// The shopper's first purchase of the item.
    pub(super) first: bool,
    /// A purchase of an item that the shopper bought in an earlier basket.
    pub(super) repeat: bool,
}

/// First-time buyers, events by kind and repeat purchases in windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Windows<T> {
    /// The sums are as of the start of this day.
    pub(super) day: Day,
    pub(super) buyers: [T; WINDOWS],
    pub(super) events: [[T; WINDOWS]; KINDS],
    pub(super) repeats: T,
}

/// The values of [`Windows`] at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct WindowValues {
    pub(super) buyers: [f32; WINDOWS],
    pub(super) events: [[f32; WINDOWS]; KINDS],
    pub(super) repeats: f32,
}

// === impl Windows ===

impl<T: Sum> Default for Windows<T> {
    fn default() -> Self {
        Self {
            day: Day::NEVER,
            buyers: [T::default(); WINDOWS],
            events: [[T::default(); WINDOWS]; KINDS],
            repeats: T::default(),
        }
    }
}

impl<T: Sum> Windows<T> {
    /// Counts an event. One before the sums' day adds at its own age.
    pub(super) fn add(&mut self, moment: &Moment, kind: EventKind, novelty: Novelty) {
        if self.day < moment.day {
            self.move_to(moment.day);
        }
        let weights = moment.weights_at(self.day);
        add_all(&mut self.events[kind as usize], &weights);
        if novelty.first {
            add_all(&mut self.buyers, &weights);
        }
        if novelty.repeat {
            self.repeats = T::of(self.repeats.value() + weights[REPEAT_WINDOW]);
        }
    }

    /// Keeps the sums as of the start of a later day.
    fn move_to(&mut self, day: Day) {
        if self.day != Day::NEVER {
            let factors = growth(f64::from(self.day.0) - f64::from(day.0));
            let sums = self.events.iter_mut().chain([&mut self.buyers]);
            for (sum, factor) in sums.flat_map(|row| row.iter_mut().zip(&factors)) {
                *sum = T::of(sum.value() * factor);
            }
            self.repeats = T::of(self.repeats.value() * factors[REPEAT_WINDOW]);
        }
        self.day = day;
    }

    /// The counts at a moment: one exponential for each window.
    pub(super) fn read(&self, now: Timestamp) -> WindowValues {
        if self.day == Day::NEVER {
            return WindowValues::default();
        }
        let factors = decay(self.day, now);
        let read =
            |row: &[T; WINDOWS]| std::array::from_fn(|at| (row[at].value() * factors[at]) as f32);
        WindowValues {
            buyers: read(&self.buyers),
            events: std::array::from_fn(|kind| read(&self.events[kind])),
            repeats: (self.repeats.value() * factors[REPEAT_WINDOW]) as f32,
        }
    }
}

fn add_all<T: Sum>(sums: &mut [T; WINDOWS], weights: &[f64; WINDOWS]) {
    for (sum, weight) in sums.iter_mut().zip(weights) {
        *sum = T::of(sum.value() + weight);
    }
}
