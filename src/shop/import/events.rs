//! Rows to events, users and baskets.

use super::ImportSpec;
use super::cell::{self, CellFault, DecimalMark};
use super::columns::{ColumnSpecs, KnownColumn};
use super::event_gaps::EventGaps;
use super::event_ids::EventIds;
use super::event_records::{BASKET_UNNAMED, EventRecord, EventRecords};
use super::numbering::IdNumbers;
use super::row::ImportRow;
use super::time::TimeReader;
use crate::domain::{EventKind, Timestamp};
use std::path::Path;

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

/// A valid row of a table of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRow<'a> {
    /// The file that it is in.
    pub file: &'a Path,
    /// Its line from 1; for Parquet, its row from 1.
    pub line: u64,
    /// The user's id.
    pub user: &'a str,
    /// The item's id.
    pub item: &'a str,
    /// Its time.
    pub time: Timestamp,
    /// What the user did; a purchase if the table does not say.
    pub kind: EventKind,
    /// The event's id, if the table has one.
    pub event: Option<&'a str>,
}

/// The columns to look for in a table of events.
pub(super) fn columns(spec: &ImportSpec) -> ColumnSpecs {
    COLUMNS.iter().map(|column| column.spec(spec)).collect()
}

/// The event of a row, whose item may be any.
pub(super) fn read_row<'r>(
    row: &'r ImportRow,
    times: &mut TimeReader,
) -> Result<EventRow<'r>, CellFault> {
    Ok(EventRow {
        file: &row.file,
        line: row.line,
        user: row.read(USER, cell::id)?,
        item: row.read(ITEM, cell::id)?,
        time: row.read(TIME, |text| times.read(text))?,
        kind: row.read_if_any(KIND, cell::kind)?.unwrap_or(EventKind::Purchase),
        event: row.read_if_any(EVENT, cell::id)?,
    })
}

/// Collects the events of a table. Users and named baskets are numbered in the order of the rows.
pub(super) struct EventsBuilder<'a> {
    times: TimeReader,
    decimal: DecimalMark,
    items: &'a IdNumbers,
    users: IdNumbers,
    /// The user's number and the basket's name, as one text.
    baskets: IdNumbers,
    basket_key: Vec<u8>,
    ids: EventIds,
    records: Vec<EventRecord>,
    gaps: EventGaps,
}

// === impl EventsBuilder ===

impl<'a> EventsBuilder<'a> {
    /// Collects events of `items`. None may be more than a day later than the import.
    pub(super) fn new(items: &'a IdNumbers, spec: &ImportSpec) -> Self {
        Self {
            times: TimeReader::new(spec.time.clone(), spec.now),
            decimal: spec.decimal,
            items,
            users: IdNumbers::default(),
            baskets: IdNumbers::default(),
            basket_key: Vec::new(),
            ids: EventIds::default(),
            records: Vec::new(),
            gaps: EventGaps::default(),
        }
    }

    /// Adds the event of a row.
    pub(super) fn take(&mut self, row: &ImportRow) -> Result<(), CellFault> {
        let user = row.read(USER, cell::id)?;
        let item = row.read(ITEM, cell::id)?;
        let Some(item) = self.items.find(item.as_bytes()) else {
            self.gaps.count_unknown(item);
            let expected = "the id of an item in the table of items".into();
            return Err(CellFault { column: ITEM, expected });
        };
        let time = row.read(TIME, |text| self.times.read(text))?;
        let kind = row.read_if_any(KIND, cell::kind)?.unwrap_or(EventKind::Purchase);
        let quantity = row.read_if_any(QUANTITY, cell::quantity(self.decimal))?;
        let price = row.read_if_any(PRICE, cell::price(self.decimal))?.unwrap_or(f32::NAN);
        let basket = row.read_if_any(BASKET, cell::id)?;
        if let Some(event) = row.read_if_any(EVENT, cell::id)? {
            self.gaps.with_event_id = true;
            if !self.ids.insert(event) {
                let expected = "an id that no event before it has".into();
                return Err(CellFault { column: EVENT, expected });
            }
        }
        self.gaps.without_quantity += u64::from(quantity.is_none());
        let (user, _) = self.users.number(user.as_bytes());
        let basket = basket.map_or(BASKET_UNNAMED, |name| self.basket(user, name));
        let quantity = quantity.unwrap_or(1.0);
        self.records.push(EventRecord { time, user, item, basket, quantity, price, kind });
        Ok(())
    }

    fn basket(&mut self, user: u32, name: &str) -> u32 {
        self.basket_key.clear();
        self.basket_key.extend_from_slice(&user.to_le_bytes());
        self.basket_key.extend_from_slice(name.as_bytes());
        self.baskets.number(&self.basket_key).0
    }

    /// The events in order, and what their rows lacked.
    pub(super) fn finish(self) -> (EventRecords, EventGaps) {
        let Self { times, users, baskets, ids, records, mut gaps, .. } = self;
        gaps.time_warnings = times.warnings();
        let named = baskets.len();
        // The largest tables are not needed while the records are sorted.
        drop((baskets, ids));
        (EventRecords::new(records, users, named), gaps)
    }
}
