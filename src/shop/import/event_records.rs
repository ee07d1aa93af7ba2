//! The events of a log as records of 32 bytes: put in order, numbered, and read as a shop's events.

use super::numbering::IdNumbers;
use crate::domain::{EventKind, Timestamp};
use crate::shop::ShopEvent;

/// The basket of an event that names none: its user's events of that moment make one.
pub(super) const BASKET_UNNAMED: u32 = u32::MAX;
/// A basket that has no number yet.
const UNNUMBERED: u32 = u32::MAX;

/// An event as it is kept while a log is read. Its price is NaN if it has none.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventRecord {
    pub time: Timestamp,
    pub user: u32,
    pub item: u32,
    pub basket: u32,
    pub quantity: f32,
    pub price: f32,
    pub kind: EventKind,
}

const _: () = assert!(size_of::<EventRecord>() == 32, "the memory per event is documented");

/// The events of a log, sorted by (time, user, basket); equal keys keep the order of the source. Users and baskets are
/// numbered in the order of their first events.
#[derive(Debug, Default)]
pub(super) struct EventRecords {
    pub records: Vec<EventRecord>,
    pub baskets: u32,
    /// The ids of the users, and the index of each user's id there.
    pub users: IdNumbers,
    pub user_ids: Vec<u32>,
}

// === impl EventRecords ===

impl EventRecords {
    /// Sorts and numbers records whose users are numbered as in `users`, and whose baskets have `named` numbers.
    pub(super) fn new(mut records: Vec<EventRecord>, users: IdNumbers, named: usize) -> Self {
        let user_ids = by_first_event(users.len(), &records);
        let mut ranks = vec![0; users.len()];
        for (&id, rank) in user_ids.iter().zip(0..) {
            ranks[id as usize] = rank;
        }
        for record in &mut records {
            record.user = ranks[record.user as usize];
        }
        drop(ranks);
        // The sort is stable. It takes half of the records' memory once more, unless they are sorted.
        if !records.is_sorted_by_key(moment) {
            records.sort_by_key(moment);
        }
        let baskets = number_baskets(&mut records, named);
        Self { records, baskets, users, user_ids }
    }

    /// The id of a user.
    pub(super) fn user(&self, user: u32) -> &str {
        self.users.text(self.user_ids[user as usize])
    }

    /// The events, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = ShopEvent> {
        self.records.iter().map(|&record| record.into())
    }
}

impl From<EventRecord> for ShopEvent {
    fn from(record: EventRecord) -> Self {
        let EventRecord { time, user, item, kind, quantity, basket, price } = record;
        let price = (!price.is_nan()).then_some(price);
        Self { time, user, item, kind, quantity, price, basket }
    }
}

fn moment(record: &EventRecord) -> (Timestamp, u32) {
    (record.time, record.user)
}

/// The users in the order of their first events; those of one time keep the order of their numbers.
fn by_first_event(users: usize, records: &[EventRecord]) -> Vec<u32> {
    let mut first = vec![Timestamp::MAX; users];
    for record in records {
        let first = &mut first[record.user as usize];
        *first = record.time.min(*first);
    }
    let mut order: Vec<u32> = (0..users as u32).collect();
    order.sort_by_key(|user| first[*user as usize]);
    order
}

/// Numbers the baskets of sorted records by (time, user) of their first events, and sorts each moment of a user by them.
/// Of the baskets that a user begins in one moment, the unnamed one comes first, and the others as in the file.
fn number_baskets(records: &mut [EventRecord], named: usize) -> u32 {
    let mut numbers = vec![UNNUMBERED; named];
    let (mut new, mut next) = (Vec::new(), 0);
    for group in records.chunk_by_mut(|a, b| moment(a) == moment(b)) {
        let mut unnamed = UNNUMBERED;
        new.clear();
        for basket in group.iter().map(|record| record.basket) {
            match basket {
                BASKET_UNNAMED if unnamed == UNNUMBERED => {
                    unnamed = next;
                    next += 1;
                }
                BASKET_UNNAMED => {}
                name if numbers[name as usize] == UNNUMBERED => new.push(name),
                _ => {}
            }
        }
        new.sort_unstable();
        new.dedup();
        for name in &new {
            numbers[*name as usize] = next;
            next += 1;
        }
        for record in &mut *group {
            record.basket = match record.basket {
                BASKET_UNNAMED => unnamed,
                name => numbers[name as usize],
            };
        }
        if !group.is_sorted_by_key(|record| record.basket) {
            group.sort_by_key(|record| record.basket);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(time: Timestamp, user: u32, item: u32, basket: u32) -> EventRecord {
        let kind = EventKind::Purchase;
        EventRecord { time, user, item, basket, quantity: 1.0, price: f32::NAN, kind }
    }

    fn sorted(rows: &[(Timestamp, u32, u32, u32)], named: usize) -> (Vec<[u32; 4]>, u32) {
        let users = rows.iter().map(|row| row.1 + 1).max().unwrap_or(0);
        let mut ids = IdNumbers::default();
        for user in 0..users {
            ids.number(user.to_string().as_bytes());
        }
        let records = rows.iter().map(|&(t, u, i, b)| record(t, u, i, b)).collect();
        let log = EventRecords::new(records, ids, named);
        let row =
            |e: ShopEvent| [e.time as u32, log.user(e.user).parse().unwrap(), e.item, e.basket];
        (log.events().map(row).collect(), log.baskets)
    }

    /// As plainly as it can be said: the key of a basket, and the order of keys by their first events.
    #[test]
    fn baskets_are_numbered_by_their_first_events() {
        const NO: u32 = BASKET_UNNAMED;
        for (rows, named, expected, baskets) in [
            (vec![], 0, vec![], 0),
            // Later rows may be earlier events; users come by their first event.
            (
                vec![(9, 0, 5, NO), (3, 1, 6, NO), (9, 0, 7, NO), (4, 0, 8, NO)],
                0,
                vec![[3, 1, 6, 0], [4, 0, 8, 1], [9, 0, 5, 2], [9, 0, 7, 2]],
                3,
            ),
            // A named basket spans time; an unnamed one does not.
            (
                vec![(1, 0, 1, 0), (1, 0, 2, 1), (1, 0, 3, NO), (2, 0, 4, 1), (2, 0, 5, NO)],
                2,
                vec![[1, 0, 3, 0], [1, 0, 1, 1], [1, 0, 2, 2], [2, 0, 4, 2], [2, 0, 5, 3]],
                4,
            ),
            // One basket's lines stand together, in the order of the file.
            (
                vec![(1, 0, 1, 0), (1, 0, 2, 1), (1, 0, 3, 0)],
                2,
                vec![[1, 0, 1, 0], [1, 0, 3, 0], [1, 0, 2, 1]],
                2,
            ),
        ] {
            assert_eq!(sorted(&rows, named), (expected, baskets), "{rows:?}");
        }
    }
}
