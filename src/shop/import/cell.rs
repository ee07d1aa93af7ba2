//! Parses cells. Each rule describes the valid values for its error.

use super::row::ImportRow;
use crate::domain::{EventKind, Timestamp, limits};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use serde_json::Value;
use std::borrow::Cow;

/// Separates the values of an attribute.
pub(super) const VALUE_SEPARATOR: char = '|';
/// The valid values of a cell that holds a list or an object by mistake.
pub(super) const NESTED_EXPECTED: &str = "text or a number";
const DAY_S: i64 = 24 * 60 * 60;

/// A description of the valid values of a cell.
pub(super) type Expected = Cow<'static, str>;

/// A cell whose value is not valid.
#[derive(Debug)]
pub(super) struct CellFault {
    pub column: usize,
    pub expected: Expected,
}

impl ImportRow {
    /// Parses the cell of a column by a rule.
    pub(super) fn read<'r, T>(
        &'r self,
        column: usize,
        rule: impl FnOnce(&'r str) -> Result<T, Expected>,
    ) -> Result<T, CellFault> {
        rule(self.text(column)).map_err(|expected| CellFault { column, expected })
    }

    /// Parses the cell of a column by a rule, unless it is empty.
    pub(super) fn read_if_any<'r, T>(
        &'r self,
        column: usize,
        rule: impl FnOnce(&'r str) -> Result<T, Expected>,
    ) -> Result<Option<T>, CellFault> {
        if self.text(column).trim().is_empty() {
            return Ok(None);
        }
        self.read(column, rule).map(Some)
    }
}

/// An id, unchanged: requests will name the same.
pub(super) fn id(text: &str) -> Result<&str, Expected> {
    let fits = (1..=limits::ID_BYTES_MAX).contains(&text.len());
    if fits && text.trim() == text && !text.contains(char::is_control) {
        return Ok(text);
    }
    let expected = "an id of 1 to {} bytes without control characters or blanks around it";
    Err(expected.replace("{}", &limits::ID_BYTES_MAX.to_string()).into())
}

/// Text of at most `bytes_max`.
pub(super) fn text(bytes_max: usize) -> impl Fn(&str) -> Result<String, Expected> {
    move |text| {
        let text = text.trim();
        if text.len() <= bytes_max {
            return Ok(text.to_owned());
        }
        Err(format!("text of at most {bytes_max} bytes, not {}", text.len()).into())
    }
}

/// A price: zero or more.
pub(super) fn price(text: &str) -> Result<f32, Expected> {
    number(text).filter(|price| *price >= 0.0).ok_or("a number of at least 0".into())
}

/// A quantity: more than zero.
pub(super) fn quantity(text: &str) -> Result<f32, Expected> {
    number(text).filter(|quantity| *quantity > 0.0).ok_or("a number above 0".into())
}

fn number(text: &str) -> Option<f32> {
    text.trim().parse().ok().filter(|number: &f32| number.is_finite())
}

/// The kind of an event.
pub(super) fn kind(text: &str) -> Result<EventKind, Expected> {
    EventKind::parse(text.trim()).ok_or_else(|| {
        format!("one of {}", EventKind::ALL.map(EventKind::as_str).join(", ")).into()
    })
}

/// A time from 1970 to a day after `now`. Without a zone it is UTC.
pub(super) fn time(now: Timestamp) -> impl Fn(&str) -> Result<Timestamp, Expected> {
    move |text| {
        let text = text.trim();
        let time = text.parse().ok().or_else(|| instant(text)).or_else(|| civil(text));
        time.filter(|time| (0..=now.saturating_add(DAY_S)).contains(time)).ok_or(
            "a time from 1970 to tomorrow: Unix seconds, RFC 3339, or YYYY-MM-DD[ HH:MM[:SS]]"
                .into(),
        )
    }
}

fn instant(text: &str) -> Option<Timestamp> {
    Some(text.parse::<jiff::Timestamp>().ok()?.as_second())
}

fn civil(text: &str) -> Option<Timestamp> {
    let time = text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?;
    Some(time.timestamp().as_second())
}

/// Writes a JSON value as a cell of a CSV file.
pub(super) fn from_json(value: &Value, cell: &mut String) {
    match value {
        Value::Null => {}
        Value::String(text) => cell.push_str(text),
        Value::Array(values) => {
            for value in values {
                if !cell.is_empty() {
                    cell.push(VALUE_SEPARATOR);
                }
                from_json(value, cell);
            }
        }
        other => cell.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = 1_700_000_000;

    #[test]
    fn times_are_read_in_every_form() {
        for (text, expected) in [
            ("0", Some(0)),
            ("1259653500", Some(1_259_653_500)),
            ("2009-12-01T07:45:00Z", Some(1_259_653_500)),
            ("2009-12-01T08:45:00.5+01:00", Some(1_259_653_500)),
            ("2009-12-01 07:45:00", Some(1_259_653_500)),
            (" 2009-12-01 07:45 ", Some(1_259_653_500)),
            ("2009-12-01", Some(1_259_625_600)),
            ("2024-02-29", None),
            ("2023-02-29", None),
            ("1700086400", Some(NOW + DAY_S)),
            ("1700086401", None),
            ("-1", None),
            ("1259653500000", None),
            ("yesterday", None),
            ("", None),
            ("nan", None),
        ] {
            assert_eq!(time(NOW)(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_are_finite_and_within_their_bounds() {
        for (text, is_price, is_quantity) in [
            ("6.95", true, true),
            (" 1e3 ", true, true),
            ("0", true, false),
            ("-0.01", false, false),
            ("NaN", false, false),
            ("inf", false, false),
            ("1e39", false, false),
            ("6,95", false, false),
            ("£6", false, false),
        ] {
            assert_eq!(price(text).is_ok(), is_price, "{text:?}");
            assert_eq!(quantity(text).is_ok(), is_quantity, "{text:?}");
        }
    }

    #[test]
    fn ids_are_taken_unchanged() {
        let longest = "x".repeat(limits::ID_BYTES_MAX);
        for text in ["a", "85123A", "né", "two words", &longest] {
            assert_eq!(id(text).unwrap(), text);
        }
        for text in ["", " a", "a\t", "a\nb", &format!("{longest}x")] {
            assert!(id(text).is_err(), "{text:?}");
        }
    }
}
