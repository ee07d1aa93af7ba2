//! Claims about an item from counts that change while the service runs.
//!
//! Each names the day from which it counts. A day begins at midnight in UTC.

use super::wording;
use crate::domain::{Evidence, EvidenceKind, Timestamp};
use std::sync::Arc;

/// The fewest sales of a claim about yesterday and today: fewer may be one shopper's.
pub const SOLD_SINCE_MIN: u32 = 10;
/// Days for which an item that was put is called new.
pub const NEW_DAYS: u32 = 30;
/// The days of a claim about sales: yesterday and today.
pub const SOLD_SINCE_DAYS: u32 = 2;
/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// What is known of an item at the moment of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveFacts {
    /// Purchases counted yesterday and today; `None` unless every purchase of these days was counted.
    pub sold_since_yesterday: Option<u32>,
    /// When the shop put the item, if the bundle does not hold it.
    pub put_at: Option<Timestamp>,
}

/// A claim from live counts, in words.
#[derive(Clone, Debug, PartialEq)]
pub struct LiveClaim {
    /// The sentence.
    pub text: Arc<str>,
    /// Its figures and its day.
    pub evidence: Evidence,
}

// === impl LiveFacts ===

impl LiveFacts {
    /// What can be claimed of the item at `now`, the more telling first. Empty where the counts are too small.
    pub fn claims(&self, now: Timestamp) -> Vec<LiveClaim> {
        self.sold(now).into_iter().chain(self.new(now)).filter_map(claim).collect()
    }

    fn sold(&self, now: Timestamp) -> Option<Evidence> {
        let count = self.sold_since_yesterday.filter(|&sold| sold >= SOLD_SINCE_MIN)?;
        let yesterday = now - i64::from(SOLD_SINCE_DAYS - 1) * DAY_S;
        Some(evidence(EvidenceKind::SoldSince, yesterday, count, SOLD_SINCE_DAYS))
    }

    fn new(&self, now: Timestamp) -> Option<Evidence> {
        let put_at = self.put_at?;
        let days = now.div_euclid(DAY_S) - put_at.div_euclid(DAY_S);
        let days = u32::try_from(days).ok().filter(|&days| days <= NEW_DAYS)?;
        Some(evidence(EvidenceKind::NewSince, put_at, days, NEW_DAYS))
    }
}

fn evidence(kind: EvidenceKind, day: Timestamp, count: u32, of: u32) -> Evidence {
    let value = wording::day(day).into();
    Evidence { kind, item: None, attribute: "day".into(), value, count, of }
}

fn claim(evidence: Evidence) -> Option<LiveClaim> {
    let text = wording::phrasings(&evidence, "", "").into_iter().next()?;
    if evidence.value.is_empty() {
        return None;
    }
    Some(LiveClaim { text: text.into(), evidence })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-05T12:00:00Z.
    const NOON: Timestamp = 1_793_880_000;

    #[test]
    fn a_claim_is_told_when_its_count_is_large_enough() {
        let check = |sold, put_at, expected: &[(&str, &str, u32, u32)]| {
            let claims = LiveFacts { sold_since_yesterday: sold, put_at }.claims(NOON);
            let found: Vec<_> = claims
                .iter()
                .map(|LiveClaim { text, evidence: e }| (&**text, &*e.value, e.count, e.of))
                .collect();
            assert_eq!(found, expected, "{sold:?} {put_at:?}");
        };
        check(None, None, &[]);
        check(Some(0), None, &[]);
        check(Some(SOLD_SINCE_MIN - 1), None, &[]);
        let ten = ("Sold 10 times since yesterday.", "2026-11-04", 10, 2);
        check(Some(SOLD_SINCE_MIN), None, &[ten]);
        let many = ("Sold 4123 times since yesterday.", "2026-11-04", 4_123, 2);
        check(Some(4_123), None, &[many]);
        let days = |days: i64| Some(NOON - days * DAY_S);
        check(None, days(0), &[("New since today.", "2026-11-05", 0, 30)]);
        check(None, days(1), &[("New since yesterday.", "2026-11-04", 1, 30)]);
        check(None, days(2), &[("New since 3 November.", "2026-11-03", 2, 30)]);
        check(None, days(30), &[("New since 6 October.", "2026-10-06", 30, 30)]);
        check(None, days(31), &[]);
        check(None, days(-1), &[]);
        check(Some(10), days(2), &[ten, ("New since 3 November.", "2026-11-03", 2, 30)]);
    }

    #[test]
    fn moments_that_no_calendar_knows_are_no_panic() {
        for now in [i64::MIN / 2, -62_135_596_800, 0, 253_402_300_799, i64::MAX / 2] {
            let facts = LiveFacts { sold_since_yesterday: Some(99), put_at: Some(now) };
            assert!(facts.claims(now).len() <= 2);
        }
    }
}
