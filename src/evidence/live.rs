//! Claims about an item from counts that change while the service runs.
//!
//! Each names the day from which it counts. A day begins at midnight in UTC.

use super::wording;
use crate::domain::{Evidence, EvidenceKind, Timestamp};
use crate::statistics::{DaySales, ItemCounts};
use std::sync::Arc;

/// The fewest sales of a claim about yesterday and today: fewer may be one shopper's.
pub const SOLD_SINCE_MIN: u32 = 10;
/// Days for which an item that was put is called new.
pub const NEW_DAYS: u32 = 30;
/// The days of a claim about sales: yesterday and today.
pub const SOLD_SINCE_DAYS: u32 = 2;
/// Seconds after a put until events of the item are surely counted: those that came before the put are not.
const PUT_MARGIN_S: i64 = 3_600;
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
    /// What is known at `now` of an item with these counts, which hold every event from `counted_since` on. The bundle
    /// does not hold the item if it was put.
    pub fn of(
        counts: &ItemCounts,
        counted_since: Option<Timestamp>,
        put_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Self {
        let counted_since = match put_at {
            Some(put_at) => {
                counted_since.map(|since| since.max(put_at.saturating_add(PUT_MARGIN_S)))
            }
            None => counted_since,
        };
        let today = now.div_euclid(DAY_S);
        let is_whole =
            counted_since.is_some_and(|since| since <= (today - 1).saturating_mul(DAY_S));
        // The counts of two days are those around the last sale, which a clock ahead of ours may have put past today.
        let is_past = counts.last_sale.is_some_and(|sale| sale.div_euclid(DAY_S) <= today);
        let DaySales { today, yesterday } = counts.sales_by_day;
        let sold = today.saturating_add(yesterday);
        Self { sold_since_yesterday: (is_whole && is_past).then_some(sold), put_at }
    }

    /// What can be claimed of the item at `now`, the more telling first. Empty where the counts are too small.
    pub fn claims(&self, now: Timestamp) -> Vec<LiveClaim> {
        self.sold(now).into_iter().chain(self.put(now)).filter_map(claim).collect()
    }

    fn sold(&self, now: Timestamp) -> Option<Evidence> {
        let count = self.sold_since_yesterday.filter(|&sold| sold >= SOLD_SINCE_MIN)?;
        let yesterday = now - i64::from(SOLD_SINCE_DAYS - 1) * DAY_S;
        Some(evidence(EvidenceKind::SoldSince, yesterday, count, SOLD_SINCE_DAYS))
    }

    fn put(&self, now: Timestamp) -> Option<Evidence> {
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
    use crate::domain::EventKind;
    use crate::statistics::{ItemGroups, ShopEvent, ShopperPast, Statistics};
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

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
    fn sales_are_claimed_only_where_every_one_is_counted() {
        let midnight = NOON - DAY_S / 2;
        let sold = DaySales { today: 5, yesterday: 7 };
        let check = |since, put_at, last_sale, expected: Option<u32>| {
            let counts = ItemCounts { last_sale, sales_by_day: sold, ..ItemCounts::default() };
            let facts = LiveFacts::of(&counts, since, put_at, NOON);
            assert_eq!(facts.sold_since_yesterday, expected, "{since:?} {put_at:?} {last_sale:?}");
            assert_eq!(facts.put_at, put_at);
        };
        let (long, yesterday) = (Some(Timestamp::MIN), midnight - DAY_S);
        check(long, None, Some(NOON), Some(12));
        check(None, None, Some(NOON), None);
        check(Some(yesterday), None, Some(NOON), Some(12));
        check(Some(yesterday + 1), None, Some(NOON), None);
        check(long, None, None, None);
        check(long, None, Some(midnight + DAY_S - 1), Some(12));
        check(long, None, Some(midnight + DAY_S), None);
        check(long, Some(NOON), Some(NOON), None);
        check(long, Some(yesterday - PUT_MARGIN_S), Some(NOON), Some(12));
        check(long, Some(yesterday - PUT_MARGIN_S + 1), Some(NOON), None);
    }

    /// Sales come in any order, also late and from a clock that is ahead. A claim is either not made, or a recount of the
    /// purchases finds the same number.
    #[test]
    fn a_recount_never_refutes_a_claim() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let (mut told, mut untold) = (0, 0);
        for _ in 0..300 {
            let mut groups = ItemGroups::new(0, 0).unwrap();
            groups.push(None, &[]).unwrap();
            let mut statistics = Statistics::new(groups);
            let (mut past, mut times, mut clock) = (ShopperPast::default(), Vec::new(), NOON);
            for _ in 0..60 {
                clock += rng.random_range(0..DAY_S / 4);
                let time = clock + rng.random_range(-2 * DAY_S..300);
                let kind = EventKind::ALL[rng.random_range(0..EventKind::ALL.len())];
                statistics.apply(&mut past, ShopEvent { item: 0, time, kind });
                times.extend((kind == EventKind::Purchase).then_some(time));
                let counts = statistics.item(0, clock);
                let facts = LiveFacts::of(&counts, Some(Timestamp::MIN), None, clock);
                let yesterday = (clock.div_euclid(DAY_S) - 1) * DAY_S;
                let recount = times.iter().filter(|&&time| time >= yesterday).count() as u32;
                match facts.sold_since_yesterday {
                    Some(sold) => assert_eq!(sold, recount, "{times:?} {clock}"),
                    None => untold += 1,
                }
                told += u32::from(facts.sold_since_yesterday.is_some());
            }
        }
        assert!(told > 1_000 && untold > 10, "{told} {untold}");
    }

    #[test]
    fn moments_that_no_calendar_knows_are_no_panic() {
        for now in [i64::MIN / 2, -62_135_596_800, 0, 253_402_300_799, i64::MAX / 2] {
            let facts = LiveFacts { sold_since_yesterday: Some(99), put_at: Some(now) };
            assert!(facts.claims(now).len() <= 2);
        }
    }
}
