//! The counts of items, categories and attributes in stored statistics.

use super::bytes::{Reader, Writer};
use crate::domain::Timestamp;
use crate::statistics::error::StatisticsError;
use crate::statistics::item::{DaySales, GroupState, ItemState};
use crate::statistics::windows::{Day, KINDS, Sum, Windows, bounded};

/// Bit `kind` of the first byte says that there are events of that kind; these bits say that there are any, and that
/// there are sales.
const ANY: u8 = 1 << KINDS;
const SALES: u8 = ANY << 1;
const _: () = assert!(KINDS + 2 <= u8::BITS as usize);

/// Whose counts are read: `item`, `category` or `attribute`, and its number.
type Whose = (&'static str, usize);

/// The error of a value that no events can make.
pub(super) fn fault(
    (of, number): Whose,
    field: &'static str,
    rule: &str,
    value: impl std::fmt::Display,
) -> StatisticsError {
    StatisticsError::Value { of, number, field, rule: rule.to_owned(), value: value.to_string() }
}

/// A sum as it is stored.
trait StoredSum: Sum {
    fn put(self, out: &mut Writer);
    fn take(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, StatisticsError>;
}

impl StoredSum for f32 {
    fn put(self, out: &mut Writer) {
        out.put(self.to_le_bytes());
    }

    fn take(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, StatisticsError> {
        reader.f32(field)
    }
}

impl StoredSum for f64 {
    fn put(self, out: &mut Writer) {
        out.put(self.to_le_bytes());
    }

    fn take(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, StatisticsError> {
        reader.f64(field)
    }
}

pub(super) fn write_item(item: &ItemState, out: &mut Writer) {
    let sold = item.last_sale != Timestamp::MIN;
    if !write_windows(&item.windows, sold, out) {
        return;
    }
    out.put(item.first_event.to_le_bytes());
    if sold {
        out.put(item.last_sale.to_le_bytes());
        let DaySales { today, yesterday } = item.day_sales;
        for count in [item.buyers_ever, item.sales_ever, today, yesterday] {
            out.put(count.to_le_bytes());
        }
    }
}

pub(super) fn read_item(
    reader: &mut Reader<'_>,
    number: usize,
) -> Result<ItemState, StatisticsError> {
    let whose = ("item", number);
    let Some((windows, sold)) = read_windows(reader, whose)? else {
        return Ok(ItemState::default());
    };
    let mut item = ItemState { windows, ..ItemState::default() };
    item.first_event = time(reader, whose, "first_event", windows.day)?;
    if !sold {
        return Ok(item);
    }
    item.last_sale = time(reader, whose, "last_sale", windows.day)?;
    item.buyers_ever = reader.u32("buyers_ever")?;
    item.sales_ever = reader.u32("sales_ever")?;
    item.day_sales =
        DaySales { today: reader.u32("sales today")?, yesterday: reader.u32("sales yesterday")? };
    check_sales(&item, whose)?;
    Ok(item)
}

fn check_sales(item: &ItemState, whose: Whose) -> Result<(), StatisticsError> {
    if item.last_sale < item.first_event {
        return Err(fault(whose, "last_sale", "at least `first_event`", item.last_sale));
    }
    if item.sales_ever == 0 {
        return Err(fault(whose, "sales_ever", "above 0", item.sales_ever));
    }
    if item.buyers_ever > item.sales_ever {
        return Err(fault(whose, "buyers_ever", "at most `sales_ever`", item.buyers_ever));
    }
    let DaySales { today, yesterday } = item.day_sales;
    if today == 0 || u64::from(today) + u64::from(yesterday) > u64::from(item.sales_ever) {
        let rule = "above 0, and with those of yesterday at most `sales_ever`";
        return Err(fault(whose, "sales today", rule, today));
    }
    Ok(())
}

pub(super) fn write_group(group: &GroupState, out: &mut Writer) {
    let sold = group.last_sale != Timestamp::MIN;
    if write_windows(&group.windows, sold, out) && sold {
        out.put(group.last_sale.to_le_bytes());
        out.put(group.sales_ever.to_le_bytes());
    }
}

pub(super) fn read_group(
    reader: &mut Reader<'_>,
    whose: Whose,
) -> Result<GroupState, StatisticsError> {
    let Some((windows, sold)) = read_windows(reader, whose)? else {
        return Ok(GroupState::default());
    };
    let mut group = GroupState { windows, ..GroupState::default() };
    if sold {
        group.last_sale = time(reader, whose, "last_sale", windows.day)?;
        group.sales_ever = reader.u64("sales_ever")?;
        if group.sales_ever == 0 {
            return Err(fault(whose, "sales_ever", "above 0", 0));
        }
    }
    Ok(group)
}

/// Writes windows; `false` if there are no events.
fn write_windows<T: StoredSum>(windows: &Windows<T>, sold: bool, out: &mut Writer) -> bool {
    if windows.day == Day::NEVER {
        out.put([0]);
        return false;
    }
    let has = |kind: usize| windows.events[kind].iter().any(|sum| sum.value() != 0.0);
    let kinds = (0..KINDS).filter(|&kind| has(kind)).fold(0, |bits, kind| bits | 1 << kind);
    out.put([kinds | ANY | if sold { SALES } else { 0 }]);
    out.put(windows.day.0.to_le_bytes());
    let written = (0..KINDS).filter(|kind| kinds & (1 << kind) != 0);
    written.flat_map(|kind| windows.events[kind]).for_each(|sum| sum.put(out));
    if sold {
        windows.buyers.iter().for_each(|sum| sum.put(out));
        windows.repeats.put(out);
    }
    true
}

/// Reads windows, and whether there are sales; `None` if there are no events.
fn read_windows<T: StoredSum>(
    reader: &mut Reader<'_>,
    whose: Whose,
) -> Result<Option<(Windows<T>, bool)>, StatisticsError> {
    let kinds = reader.u8("kinds of events")?;
    if kinds == 0 {
        return Ok(None);
    }
    if kinds & ANY == 0 || kinds > SALES | (SALES - 1) {
        return Err(fault(whose, "kinds of events", "bits of kinds that exist", kinds));
    }
    let mut windows = Windows { day: day(reader, whose)?, ..Windows::default() };
    for kind in (0..KINDS).filter(|kind| kinds & (1 << kind) != 0) {
        for sum in &mut windows.events[kind] {
            *sum = take_sum(reader, whose, "events")?;
        }
    }
    let sold = kinds & SALES != 0;
    if sold {
        for sum in &mut windows.buyers {
            *sum = take_sum(reader, whose, "buyers")?;
        }
        windows.repeats = take_sum(reader, whose, "repeats")?;
    }
    Ok(Some((windows, sold)))
}

fn take_sum<T: StoredSum>(
    reader: &mut Reader<'_>,
    whose: Whose,
    field: &'static str,
) -> Result<T, StatisticsError> {
    let sum = T::take(reader, field)?;
    let value = sum.value();
    if value.is_finite() && value.is_sign_positive() {
        return Ok(sum);
    }
    Err(fault(whose, field, "a finite number from 0", value))
}

/// The day that sums are kept as of.
pub(super) fn day(reader: &mut Reader<'_>, whose: Whose) -> Result<Day, StatisticsError> {
    let day = Day(reader.i32("day")?);
    if day == Day::NEVER {
        return Err(fault(whose, "day", "a day of an event", day.0));
    }
    Ok(day)
}

/// A time that is not after the day that the sums are kept as of.
fn time(
    reader: &mut Reader<'_>,
    whose: Whose,
    field: &'static str,
    latest: Day,
) -> Result<Timestamp, StatisticsError> {
    let time = reader.i64(field)?;
    if bounded(time) != time || Day::of(time) > latest {
        let rule = format!("a time up to day {}", latest.0);
        return Err(fault(whose, field, &rule, time));
    }
    Ok(time)
}
