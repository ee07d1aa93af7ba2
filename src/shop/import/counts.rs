//! Counts of a log that say what a model can learn from it.

use super::event_gaps::EventGaps;
use super::event_records::{EventRecord, EventRecords};
use crate::domain::{EventKind, Timestamp};
use serde::Serialize;
use std::collections::BTreeMap;

/// The share of the span that training takes; validation and test come after it, as in `models/demo.toml`.
pub(super) const TRAINING_SHARE: f64 = 0.8;
/// Events of a user below which there is little to learn from.
pub(super) const FEW_EVENTS: usize = 3;
const DAY_S: i64 = 24 * 60 * 60;

/// What the events of a log are.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LogCounts {
    /// Events of each kind that occurs.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Events of a user and an item that this user had an event with before.
    pub repeats: u64,
    /// Events that are equal to an earlier one in every column. Logs with ids of events have none.
    pub exact_duplicates: u64,
    /// Items that were never bought.
    pub items_never_bought: usize,
    /// Items without any event.
    pub items_without_events: usize,
    /// Users with fewer than three events.
    pub users_with_few_events: usize,
    /// The user with the most events, and how many.
    pub top_user: Option<(String, usize)>,
    /// The time until which events are training data, if a recipe trains on the first four fifths of the span.
    pub training_end: Option<Timestamp>,
    /// Items without an event before it.
    pub cold_items: usize,
    /// Users without an event before it.
    pub cold_users: usize,
    /// Events without a quantity: they count as one piece.
    pub without_quantity: u64,
    /// Events without a price.
    pub without_price: u64,
    /// Whether every event is at midnight: days are the finest time.
    pub only_dates: bool,
}

// === impl LogCounts ===

impl LogCounts {
    /// Counts the events of a shop of `items` items. It takes 4 bytes per event, and a few per user and item.
    pub(super) fn of(log: &EventRecords, gaps: &EventGaps, items: usize) -> Self {
        let records = &log.records;
        let mut kinds = [0_u64; EventKind::ALL.len()];
        let (mut without_price, mut is_bought) = (0, vec![false; items]);
        for record in records {
            kinds[record.kind as usize] += 1;
            without_price += u64::from(record.price.is_nan());
            is_bought[record.item as usize] |= record.kind == EventKind::Purchase;
        }
        let training_end = training_end(records);
        let users = UserCounts::of(log, items);
        let (before, has_events) = items_before(records, items, training_end);
        let unset = |flags: &[bool]| flags.iter().filter(|is_set| !**is_set).count();
        let seen_users = first_users(log, training_end);
        Self {
            kinds: EventKind::ALL
                .into_iter()
                .map(|kind| (kind.as_str(), kinds[kind as usize]))
                .filter(|(_, count)| *count > 0)
                .collect(),
            repeats: users.repeats,
            exact_duplicates: if gaps.with_event_id { 0 } else { exact_duplicates(records) },
            items_never_bought: unset(&is_bought),
            items_without_events: unset(&has_events),
            users_with_few_events: users.with_few,
            top_user: users.top.map(|(user, events)| (log.user(user).to_owned(), events)),
            training_end,
            cold_items: unset(&before),
            cold_users: log.user_ids.len() - seen_users,
            without_quantity: gaps.without_quantity,
            without_price,
            only_dates: !records.is_empty() && records.iter().all(|r| r.time % DAY_S == 0),
        }
    }
}

fn training_end(records: &[EventRecord]) -> Option<Timestamp> {
    let (first, last) = (records.first()?.time, records.last()?.time);
    Some(first + (last.saturating_sub(first) as f64 * TRAINING_SHARE) as i64)
}

/// Whether each item has an event before a time, and whether it has one at all.
fn items_before(
    records: &[EventRecord],
    items: usize,
    end: Option<Timestamp>,
) -> (Vec<bool>, Vec<bool>) {
    let (mut before, mut at_all) = (vec![false; items], vec![false; items]);
    for record in records {
        at_all[record.item as usize] = true;
        before[record.item as usize] |= end.is_some_and(|end| record.time < end);
    }
    (before, at_all)
}

/// How many users have an event before a time. They are numbered by their first events.
fn first_users(log: &EventRecords, end: Option<Timestamp>) -> usize {
    let before = log.records.partition_point(|record| end.is_some_and(|end| record.time < end));
    log.records[..before].iter().map(|record| record.user as usize + 1).max().unwrap_or(0)
}

/// Events that are equal to an earlier one. The records of one basket and moment stand together.
fn exact_duplicates(records: &[EventRecord]) -> u64 {
    let key = |r: &EventRecord| (r.time, r.user, r.basket);
    let rest = |r: &EventRecord| (r.item, r.kind as u8, r.quantity.to_bits(), r.price.to_bits());
    let (mut count, mut lines) = (0, Vec::new());
    for group in records.chunk_by(|a, b| key(a) == key(b)) {
        if group.len() > 1 {
            lines.clear();
            lines.extend(group.iter().map(rest));
            lines.sort_unstable();
            count += lines.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
        }
    }
    count
}

/// Counts of the users' events.
#[derive(Debug, PartialEq)]
struct UserCounts {
    repeats: u64,
    with_few: usize,
    top: Option<(u32, usize)>,
}

// === impl UserCounts ===

impl UserCounts {
    /// Groups the items by user, with a counting sort, and looks at each user's.
    fn of(log: &EventRecords, items: usize) -> Self {
        let (users, records) = (log.user_ids.len(), &log.records);
        let mut ends = vec![0_u32; users + 1];
        for record in records {
            ends[record.user as usize + 1] += 1;
        }
        for user in 0..users {
            ends[user + 1] += ends[user];
        }
        // Afterwards, `ends[user]` is the end of the user's items.
        let mut grouped = vec![0_u32; records.len()];
        for record in records {
            let at = &mut ends[record.user as usize];
            grouped[*at as usize] = record.item;
            *at += 1;
        }
        let mut counts = Self { repeats: 0, with_few: 0, top: None };
        // The last user who had an event with each item: nobody yet.
        let mut had = vec![u32::MAX; items];
        let mut begin = 0;
        for (user, end) in (0..users as u32).zip(ends) {
            let events = &grouped[begin..end as usize];
            begin = end as usize;
            for item in events {
                let last = std::mem::replace(&mut had[*item as usize], user);
                counts.repeats += u64::from(last == user);
            }
            counts.with_few += usize::from(events.len() < FEW_EVENTS);
            if counts.top.is_none_or(|(_, most)| events.len() > most) {
                counts.top = Some((user, events.len()));
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::super::event_records::BASKET_UNNAMED;
    use super::super::numbering::IdNumbers;
    use super::*;
    use EventKind::{Click, Purchase};

    const DAY: i64 = DAY_S;

    /// A log of (time, user, item, kind).
    fn counts(rows: &[(Timestamp, u32, u32, EventKind)], items: usize) -> LogCounts {
        let mut users = IdNumbers::default();
        let users_max = rows.iter().map(|row| row.1 + 1).max().unwrap_or(0);
        for user in 0..users_max {
            users.number(format!("u{user}").as_bytes());
        }
        let record = |&(time, user, item, kind): &(Timestamp, u32, u32, EventKind)| EventRecord {
            time,
            user,
            item,
            basket: BASKET_UNNAMED,
            quantity: 1.0,
            price: if item == 0 { f32::NAN } else { 2.0 },
            kind,
        };
        let log = EventRecords::new(rows.iter().map(record).collect(), users, 0);
        LogCounts::of(&log, &EventGaps::default(), items)
    }

    #[test]
    fn repeats_duplicates_and_cold_ones_are_counted() {
        let found = counts(
            &[
                (0, 0, 0, Click),
                (DAY, 0, 0, Purchase),
                (DAY, 0, 0, Purchase),
                (DAY, 1, 0, Purchase),
                (2 * DAY, 0, 1, Click),
                (10 * DAY, 2, 2, Purchase),
            ],
            4,
        );
        let expected = LogCounts {
            kinds: [("click", 2), ("purchase", 4)].into(),
            repeats: 2,
            exact_duplicates: 1,
            items_never_bought: 2,
            items_without_events: 1,
            users_with_few_events: 2,
            top_user: Some(("u0".into(), 4)),
            training_end: Some(8 * DAY),
            cold_items: 2,
            cold_users: 1,
            without_quantity: 0,
            without_price: 4,
            only_dates: true,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn a_log_of_nothing_and_of_one_moment_can_be_counted() {
        assert_eq!(counts(&[], 2).items_without_events, 2);
        let found = counts(&[(5, 0, 0, Click), (5, 1, 1, Click)], 2);
        assert_eq!((found.cold_items, found.cold_users), (2, 2));
        assert!(!found.only_dates);
        assert_eq!(found.users_with_few_events, 2);
    }
}
