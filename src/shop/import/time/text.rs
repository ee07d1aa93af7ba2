//! Dates and times in text: every form that has one meaning.

use super::cursor::TimeCursor;
use super::hint::{self, NumericDate};
use super::zone::{self, LocalMoment};
use crate::shop::import::cell::Expected;
use jiff::civil::{Date, DateTime, ISOWeekDate, Time, Weekday};
use jiff::tz::{Offset, TimeZone};

/// Milliseconds of a date in JSON as .NET writes it.
const DOTNET_DATE: (&str, &str) = ("/Date(", ")/");
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] =
    ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
/// Letters of a shortened month or weekday.
const SHORT_LETTERS: usize = 3;
/// Letters of a shortened September.
const SEPT_LETTERS: usize = 4;
const ORDINAL_ENDINGS: [&str; 4] = ["st", "nd", "rd", "th"];
/// Nanoseconds hold nine digits of a second.
const FRACTION_DIGITS: usize = 9;

/// The parts of a text that name a time.
#[derive(Default)]
struct Parts {
    date: Option<Date>,
    time: Option<Time>,
    /// Whether the time is the midnight at the end of the day: 24:00.
    is_day_end: bool,
    zone: Option<TimeZone>,
    offset: Option<Offset>,
}

/// Reads a time that is not a bare number.
pub(super) fn parse(text: &str) -> Result<LocalMoment, Expected> {
    if let Some(found) = dotnet_date(text) {
        return Ok(found);
    }
    // Logs of web servers put a time into brackets.
    let text = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let mut cursor = TimeCursor::new(text);
    let mut parts = Parts::default();
    let weekday = weekday(&mut cursor);
    let date = date(&mut cursor, &mut parts)?;
    if weekday.is_some_and(|weekday| date.weekday() != weekday) {
        return Err(format!("a time whose weekday is that of its date: {date} is not one").into());
    }
    parts.date = Some(date);
    if parts.time.is_none() && time_begins(&mut cursor) {
        time(&mut cursor, &mut parts)?;
    }
    if parts.offset.is_none() && parts.zone.is_none() {
        zone(&mut cursor, &mut parts)?;
    }
    if !cursor.is_done() {
        return Err(hint::unknown());
    }
    parts.moment()
}

// === impl Parts ===

impl Parts {
    fn moment(self) -> Result<LocalMoment, Expected> {
        let date = self.date.ok_or_else(hint::unknown)?;
        let date =
            if self.is_day_end { date.tomorrow().map_err(|_| hint::unknown())? } else { date };
        let civil = date.to_datetime(self.time.unwrap_or(Time::midnight()));
        match (self.offset, self.zone) {
            (None, None) => Ok(LocalMoment::Civil(civil)),
            (None, Some(zone)) => Ok(LocalMoment::Zoned(civil, zone)),
            (Some(offset), None) => instant(civil, offset),
            (Some(offset), Some(zone)) => {
                let Ok(time) = offset.to_timestamp(civil) else { return Err(hint::unknown()) };
                // `Z[Europe/London]` gives the instant in UTC; another offset must be the zone's.
                if offset == Offset::UTC || zone.to_offset(time) == offset {
                    return instant(civil, offset);
                }
                Err(format!("a time of one meaning: {} is never at {offset}", zone::name(&zone))
                    .into())
            }
        }
    }
}

fn instant(civil: DateTime, offset: Offset) -> Result<LocalMoment, Expected> {
    let time = offset.to_timestamp(civil).map_err(|_| hint::unknown())?;
    Ok(LocalMoment::Instant(zone::floor(time)))
}

/// A date of .NET's JSON: `/Date(1259653500000+0100)/`. The offset only says how to show it.
fn dotnet_date(text: &str) -> Option<LocalMoment> {
    let inner = text.strip_prefix(DOTNET_DATE.0)?.strip_suffix(DOTNET_DATE.1)?;
    let end = inner.rfind(['+', '-']).filter(|at| *at > 0).unwrap_or(inner.len());
    let is_offset = end == inner.len() || zone::offset(&inner[end..]).is_some();
    let milliseconds: i64 = inner[..end].parse().ok()?;
    is_offset.then_some(LocalMoment::Instant(milliseconds.div_euclid(1_000)))
}

/// A weekday before a date, with what parts them.
fn weekday(cursor: &mut TimeCursor<'_>) -> Option<Weekday> {
    let word = cursor.peek_word();
    let number = position(&WEEKDAYS, word)?;
    cursor.skip(word.len());
    cursor.take_any(b".,");
    cursor.blanks();
    Weekday::from_monday_zero_offset(number as i8).ok()
}

/// The place of a name, or of its first letters, in `names`.
fn position(names: &[&str], word: &str) -> Option<usize> {
    let word = word.to_ascii_lowercase();
    let is_name = |name: &&str| {
        *name == word
            || word.len() == SHORT_LETTERS && name.starts_with(&word)
            || word.len() == SEPT_LETTERS && word == "sept" && name.starts_with(&word)
    };
    names.iter().position(is_name)
}

fn month(word: &str) -> Option<i8> {
    Some(position(&MONTHS, word)? as i8 + 1)
}

/// A date in one of its forms. A date of Unix' `date` has its time and zone before the year.
fn date(cursor: &mut TimeCursor<'_>, parts: &mut Parts) -> Result<Date, Expected> {
    if !cursor.peek_word().is_empty() {
        return month_first(cursor, parts);
    }
    match cursor.peek_digits() {
        4 => year_first(cursor),
        8 => {
            let (year, month, day) = (cursor.number(4), cursor.number(2), cursor.number(2));
            valid(year, month, day)
        }
        1 | 2 => day_first(cursor),
        _ => Err(hint::unknown()),
    }
}

fn valid(year: Option<i16>, month: Option<i16>, day: Option<i16>) -> Result<Date, Expected> {
    let (Some(year), Some(month), Some(day)) = (year, month, day) else {
        return Err(hint::unknown());
    };
    Date::new(year, month as i8, day as i8)
        .map_err(|_| format!("a date of the calendar: {year}-{month:02}-{day:02} is none").into())
}

/// `2020-01-31`, `2020/1/31`, `2020.01.31`, `2020-Jan-31`, `2020-031`, `2020-W05-3`, `2020W053`.
fn year_first(cursor: &mut TimeCursor<'_>) -> Result<Date, Expected> {
    let year = cursor.number(4);
    if cursor.take(b'W') || cursor.peek_is(b"-W") && cursor.skip(2) {
        return week(cursor, year);
    }
    let Some(separator) = cursor.take_any(b"-/.") else { return Err(hint::unknown()) };
    if separator == b'-' && cursor.peek_digits() == 3 {
        return ordinal(year, cursor.number(3));
    }
    let month = match month(cursor.peek_word()) {
        Some(month) => {
            cursor.skip(cursor.peek_word().len());
            Some(i16::from(month))
        }
        None => cursor.number_up_to(2),
    };
    if cursor.is_done() && month.is_some() {
        return Err("a time: a month alone is none".into());
    }
    let day = cursor.take(separator).then(|| cursor.number_up_to(2)).flatten();
    valid(year, month, day)
}

fn week(cursor: &mut TimeCursor<'_>, year: Option<i16>) -> Result<Date, Expected> {
    let week = cursor.number(2);
    if cursor.is_done() && week.is_some() {
        return Err("a time: a week alone is none".into());
    }
    cursor.take(b'-');
    let (Some(year), Some(week), Some(day)) = (year, week, cursor.number(1)) else {
        return Err(hint::unknown());
    };
    let weekday = Weekday::from_monday_one_offset(day as i8);
    let date = weekday.and_then(|weekday| ISOWeekDate::new(year, week as i8, weekday));
    date.map(Date::from).map_err(|_| "a week and a day of the calendar".into())
}

fn ordinal(year: Option<i16>, day: Option<i16>) -> Result<Date, Expected> {
    let (Some(year), Some(day)) = (year, day) else { return Err(hint::unknown()) };
    let first = Date::new(year, 1, 1).map_err(|_| hint::unknown())?;
    if (1..=first.days_in_year()).contains(&day) {
        let days = jiff::Span::new().days(i64::from(day) - 1);
        return first.checked_add(days).map_err(|_| hint::unknown());
    }
    Err(format!("a date of the calendar: {year} has no day {day}").into())
}

/// `31 Jan 2020`, `31-Jan-2020`, `31/Jan/2020`, `31JAN2020`, `31st of January, 2020`. Without a name for the month it
/// is refused, because a column may hold both orders.
fn day_first(cursor: &mut TimeCursor<'_>) -> Result<Date, Expected> {
    let whole = cursor.rest();
    let day = cursor.number_up_to(2);
    if cursor.peek_is(b":") {
        return Err("a time with its date, not a time of day alone".into());
    }
    let word = cursor.peek_word();
    if ORDINAL_ENDINGS.iter().any(|ending| word.eq_ignore_ascii_case(ending)) {
        cursor.skip(word.len());
    }
    parting(cursor);
    if cursor.peek_word().eq_ignore_ascii_case("of") {
        cursor.skip(2);
        cursor.blanks();
    }
    let word = cursor.peek_word();
    let Some(month) = month(word) else {
        return Err(NumericDate::parse(whole).map_or_else(hint::unknown, NumericDate::refused));
    };
    cursor.skip(word.len());
    year_last(cursor, i16::from(month), day)
}

/// `Jan 31, 2020`, `January 31st 2020`, `Jan 31 07:45:00 UTC 2020`.
fn month_first(cursor: &mut TimeCursor<'_>, parts: &mut Parts) -> Result<Date, Expected> {
    let word = cursor.peek_word();
    let month = month(word).ok_or_else(hint::unknown)?;
    cursor.skip(word.len());
    parting(cursor);
    let day = cursor.number_up_to(2);
    let word = cursor.peek_word();
    if ORDINAL_ENDINGS.iter().any(|ending| word.eq_ignore_ascii_case(ending)) {
        cursor.skip(word.len());
    }
    if cursor.blanks() && cursor.peek_digits() <= 2 {
        time(cursor, parts)?;
        zone(cursor, parts)?;
        cursor.blanks();
    }
    year_last(cursor, i16::from(month), day)
}

fn year_last(cursor: &mut TimeCursor<'_>, month: i16, day: Option<i16>) -> Result<Date, Expected> {
    parting(cursor);
    match cursor.peek_digits() {
        4 => valid(cursor.number(4), Some(month), day),
        2 => Err(hint::short_year()),
        _ => Err(hint::unknown()),
    }
}

/// What stands between the day, the month's name and the year.
fn parting(cursor: &mut TimeCursor<'_>) {
    cursor.take_any(b"-/.,");
    cursor.blanks();
}

/// Skips what stands between a date and its time.
fn time_begins(cursor: &mut TimeCursor<'_>) -> bool {
    if cursor.peek_is(b"T") || cursor.peek_is(b"t") || cursor.peek_is(b"_") || cursor.peek_is(b":")
    {
        return cursor.skip(1);
    }
    let comma = cursor.take(b',');
    let blank = cursor.blanks();
    if cursor.peek_word().eq_ignore_ascii_case("at") {
        cursor.skip(2);
        cursor.blanks();
    }
    (comma || blank) && cursor.peek_digits() > 0
}

/// `07:45`, `07:45:00.5`, `07:45:00,5`, `0745`, `074500`, `7:45 pm`, `7 pm`, `24:00`.
fn time(cursor: &mut TimeCursor<'_>, parts: &mut Parts) -> Result<(), Expected> {
    let is_compact = matches!(cursor.peek_digits(), 4 | 6);
    let hour = if is_compact { cursor.number(2) } else { cursor.number_up_to(2) };
    let mut part = |may_follow: bool| {
        if is_compact {
            return cursor.number(2);
        }
        (may_follow && cursor.take(b':')).then(|| cursor.number(2).unwrap_or(i16::MAX))
    };
    let minute = part(true);
    let second = part(minute.is_some());
    let nanosecond = if second.is_some() { fraction(cursor)? } else { 0 };
    let half = meridiem(cursor);
    let Some(hour) = hour else { return Err(hint::unknown()) };
    if minute.is_none() && half.is_none() {
        return Err("a time with its minutes".into());
    }
    let (minute, second) = (minute.unwrap_or(0), second.unwrap_or(0));
    let hour = match half {
        Some(_) if !(1..=12).contains(&hour) => i16::MAX,
        Some(is_afternoon) => hour % 12 + if is_afternoon { 12 } else { 0 },
        None => hour,
    };
    parts.is_day_end = (hour, minute, second, nanosecond) == (24, 0, 0, 0);
    let hour = if parts.is_day_end { 0 } else { hour };
    // A leap second is taken for the second before it, as Unix time has it.
    let second = if second == 60 { 59 } else { second };
    let fits = hour < 24 && minute < 60 && second < 60;
    let time =
        fits.then(|| Time::new(hour as i8, minute as i8, second as i8, nanosecond).ok()).flatten();
    parts.time = Some(time.ok_or("a time of day from 00:00 to 24:00")?);
    Ok(())
}

/// The nanoseconds of a fraction of a second, which may have more digits.
fn fraction(cursor: &mut TimeCursor<'_>) -> Result<i32, Expected> {
    if !(cursor.peek_is(b".") || cursor.peek_is(b",")) {
        return Ok(0);
    }
    cursor.skip(1);
    let digits = cursor.digits();
    if digits.is_empty() {
        return Err(hint::unknown());
    }
    let kept = &digits[..digits.len().min(FRACTION_DIGITS)];
    let value: i32 = kept.parse().map_err(|_| hint::unknown())?;
    Ok(value * 10_i32.pow((FRACTION_DIGITS - kept.len()) as u32))
}

/// Whether `pm` follows, or `am`; none if neither does.
fn meridiem(cursor: &mut TimeCursor<'_>) -> Option<bool> {
    let rest = cursor.rest().trim_start();
    let blanks = cursor.rest().len() - rest.len();
    let forms = [("a.m.", false), ("p.m.", true), ("am", false), ("pm", true)];
    let starts = |form: &str| rest.get(..form.len()).is_some_and(|s| s.eq_ignore_ascii_case(form));
    let (form, is_afternoon) = forms.into_iter().find(|(form, _)| starts(form))?;
    let is_word = rest[form.len()..].starts_with(|c: char| c.is_ascii_alphabetic());
    (!is_word && cursor.skip(blanks + form.len())).then_some(is_afternoon)
}

/// A zone after a time: `Z`, `UTC`, `GMT+0100 (a comment)`, `+01:00`, `[Europe/London]`, `Europe/London`.
fn zone(cursor: &mut TimeCursor<'_>, parts: &mut Parts) -> Result<(), Expected> {
    cursor.blanks();
    let name = cursor.peek_zone_name();
    if ["Z", "UTC", "GMT", "UT"].iter().any(|utc| name.eq_ignore_ascii_case(utc)) {
        cursor.skip(name.len());
        parts.offset = Some(Offset::UTC);
    } else if name.contains('/') {
        cursor.skip(name.len());
        parts.zone = Some(named(name)?);
    } else if !name.is_empty() {
        return Err(hint::abbreviation(name));
    }
    let offset = cursor.peek_offset();
    if !offset.is_empty() {
        let offset_or = zone::offset(offset).ok_or("an offset such as +01:00")?;
        cursor.skip(offset.len());
        parts.offset = Some(offset_or);
        cursor.blanks();
    }
    if let Some(name) = cursor.bracketed(b'[', b']') {
        parts.zone = Some(named(name)?);
    }
    cursor.blanks();
    cursor.bracketed(b'(', b')');
    Ok(())
}

fn named(name: &str) -> Result<TimeZone, Expected> {
    zone::parse(name).map_err(|_| format!("a time zone that is known: {name} is not").into())
}
