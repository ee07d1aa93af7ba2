//! The counts against plain sums over the events that they were made of.

mod counted;
mod pairs;
mod past;
mod stored;
mod windows;

use super::*;
use crate::domain::EventKind::{Cart, Click, Dismissal, Impression, Purchase};
use std::collections::BTreeMap;

/// A day, in seconds.
const DAY: Timestamp = 86_400;
/// A moment at noon.
const NOON: Timestamp = 20_000 * DAY + DAY / 2;

/// Numbers that look random (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Statistics and the past of each shopper.
#[derive(Clone)]
struct Counted {
    statistics: Statistics,
    pasts: BTreeMap<u32, ShopperPast>,
}

impl Counted {
    /// So many items; item i is in category i % 3, and has the attributes i % 2 and 2.
    fn of(items: u32) -> Self {
        let mut groups = ItemGroups::new(3, 3).unwrap();
        for item in 0..items {
            groups.push(Some(item % 3), &[item % 2, 2]).unwrap();
        }
        Self { statistics: Statistics::new(groups), pasts: BTreeMap::new() }
    }

    fn apply(&mut self, user: u32, event: ShopEvent) {
        self.statistics.apply(self.pasts.entry(user).or_default(), event);
    }

    fn all(items: u32, events: &[(u32, ShopEvent)]) -> Self {
        let mut counted = Self::of(items);
        for &(user, event) in events {
            counted.apply(user, event);
        }
        counted
    }
}

fn event(item: u32, time: Timestamp, kind: EventKind) -> ShopEvent {
    ShopEvent { item, time, kind }
}

fn bought(item: u32, time: Timestamp) -> ShopEvent {
    event(item, time, Purchase)
}

/// Events of 20 shoppers over 400 days, in time order; several at one time.
fn log(items: u32, events: usize, seed: u64) -> Vec<(u32, ShopEvent)> {
    let mut dice = Dice(seed);
    let mut drawn: Vec<_> = (0..events)
        .map(|_| {
            let time =
                NOON - (dice.below(400 * 24) as Timestamp) * 3_600 + dice.below(9) as Timestamp;
            let kind = EventKind::ALL[dice.below(5) as usize];
            (dice.below(20) as u32, event(dice.below(u64::from(items)) as u32, time, kind))
        })
        .collect();
    drawn.sort_by_key(|(_, event)| event.time);
    drawn
}

/// Moves each event up to `most` places.
fn shaken(mut events: Vec<(u32, ShopEvent)>, most: u64, seed: u64) -> Vec<(u32, ShopEvent)> {
    let mut dice = Dice(seed);
    for at in 0..events.len() {
        let other = (at + dice.below(most) as usize).min(events.len() - 1);
        events.swap(at, other);
    }
    events
}

#[track_caller]
fn near(value: f32, expected: f64, name: &str) {
    let error = (f64::from(value) - expected).abs();
    assert!(error <= 1e-5 * expected.abs() + 1e-30, "{name}: {value}, not {expected}");
}
