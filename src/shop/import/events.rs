//! Rows to events, users and baskets.

use super::cell::{self, CellFault, DecimalMark};
use super::columns::{ColumnSpecs, KnownColumn};
use super::row::ImportRow;
use super::time::TimeReader;
use super::{ImportSpec, ShopItem};
use crate::domain::{EventKind, Timestamp, UserId};
use crate::shop::ShopEvent;
use rustc_hash::{FxHashMap, FxHashSet};

/// The columns of an event.
pub(super) const COLUMNS: [KnownColumn; 8] = [
    KnownColumn::new("user_id", &["customer_id"]).required().id(),
    KnownColumn::new("item_id", &[]).required().id(),
    KnownColumn::new("time", &["timestamp"]).required(),
    KnownColumn::new("kind", &[]),
    KnownColumn::new("quantity", &[]),
    KnownColumn::new("price", &[]),
    KnownColumn::new("basket", &["invoice", "order_id"]).id(),
    KnownColumn::new("event_id", &[]).id(),
];
const USER: usize = 0;
const ITEM: usize = 1;
const TIME: usize = 2;
const KIND: usize = 3;
const QUANTITY: usize = 4;
const PRICE: usize = 5;
const BASKET: usize = 6;
const EVENT: usize = 7;

/// The columns to look for in a table of events.
pub(super) fn columns(spec: &ImportSpec) -> ColumnSpecs {
    COLUMNS.iter().map(|column| column.spec(spec)).collect()
}

/// Collects the events of a table. Users and baskets are numbered in the order of the rows.
pub(super) struct EventsBuilder<'a> {
    times: TimeReader,
    decimal: DecimalMark,
    items: FxHashMap<&'a str, u32>,
    users: FxHashMap<String, u32>,
    ids: Vec<UserId>,
    baskets: FxHashMap<(u32, BasketKey), u32>,
    seen: FxHashSet<Box<str>>,
    lines: Vec<ShopEvent>,
}

/// The key of a user's basket: the shop's name of it, or else the time.
#[derive(PartialEq, Eq, Hash)]
enum BasketKey {
    Named(Box<str>),
    At(Timestamp),
}

// === impl EventsBuilder ===

impl<'a> EventsBuilder<'a> {
    /// Collects events of `items`. None may be more than a day later than the import.
    pub(super) fn new(items: &'a [ShopItem], spec: &ImportSpec) -> Self {
        Self {
            times: TimeReader::new(spec.time.clone(), spec.now),
            decimal: spec.decimal,
            items: items.iter().map(|item| item.id.as_str()).zip(0..).collect(),
            users: FxHashMap::default(),
            ids: Vec::new(),
            baskets: FxHashMap::default(),
            seen: FxHashSet::default(),
            lines: Vec::new(),
        }
    }

    /// Adds the event of a row.
    pub(super) fn take(&mut self, row: &ImportRow) -> Result<(), CellFault> {
        let user = row.read(USER, cell::id)?;
        let item = row.read(ITEM, |id| {
            self.items.get(id).copied().ok_or("the id of an item in the table of items".into())
        })?;
        let time = row.read(TIME, |text| self.times.read(text))?;
        let kind = row.read_if_any(KIND, cell::kind)?.unwrap_or(EventKind::Purchase);
        let quantity = row.read_if_any(QUANTITY, cell::quantity(self.decimal))?.unwrap_or(1.0);
        let price = row.read_if_any(PRICE, cell::price(self.decimal))?;
        let basket = match row.read_if_any(BASKET, cell::id)? {
            Some(name) => BasketKey::Named(name.into()),
            None => BasketKey::At(time),
        };
        if let Some(event) = row.read_if_any(EVENT, cell::id)?
            && !self.seen.insert(event.into())
        {
            let expected = "an id that no event before it has".into();
            return Err(CellFault { column: EVENT, expected });
        }
        let user = self.user(user);
        let next = self.baskets.len() as u32;
        let basket = *self.baskets.entry((user, basket)).or_insert(next);
        self.lines.push(ShopEvent { time, user, item, kind, quantity, price, basket });
        Ok(())
    }

    fn user(&mut self, id: &str) -> u32 {
        if let Some(number) = self.users.get(id) {
            return *number;
        }
        let number = self.ids.len() as u32;
        self.ids.push(id.into());
        self.users.insert(id.to_owned(), number);
        number
    }

    /// The users by first appearance, and the events sorted by (time, user, basket).
    pub(super) fn finish(mut self) -> (Vec<UserId>, Vec<ShopEvent>) {
        let by_time = |line: &ShopEvent| line.time;
        let users = ranks(self.ids.len(), &self.lines, |line| line.user, by_time);
        for line in &mut self.lines {
            line.user = users[line.user as usize];
        }
        let by_time_and_user = |line: &ShopEvent| (line.time, line.user);
        let baskets = ranks(self.baskets.len(), &self.lines, |line| line.basket, by_time_and_user);
        for line in &mut self.lines {
            line.basket = baskets[line.basket as usize];
        }
        // The sort is stable: equal keys keep the order of the file.
        self.lines.sort_by_key(|line| (line.time, line.user, line.basket));
        let mut ranked: Vec<(u32, UserId)> = users.into_iter().zip(self.ids).collect();
        ranked.sort_unstable_by_key(|(rank, _)| *rank);
        (ranked.into_iter().map(|(_, id)| id).collect(), self.lines)
    }
}

/// The rank of each group of lines by the smallest key of its lines. Equal keys keep the order of the
/// groups' numbers.
fn ranks<K: Ord + Copy>(
    groups: usize,
    lines: &[ShopEvent],
    group: impl Fn(&ShopEvent) -> u32,
    key: impl Fn(&ShopEvent) -> K,
) -> Vec<u32> {
    let mut first: Vec<Option<K>> = vec![None; groups];
    for line in lines {
        let first = &mut first[group(line) as usize];
        *first = Some(first.map_or(key(line), |found| found.min(key(line))));
    }
    let mut order: Vec<usize> = (0..groups).collect();
    order.sort_by_key(|group| first[*group]);
    let mut ranks = vec![0; groups];
    for (group, rank) in order.into_iter().zip(0..) {
        ranks[group] = rank;
    }
    ranks
}
