//! Parses cells. Each rule describes the valid values for its error.

use super::row::ImportRow;
use crate::domain::{EventKind, limits};
use serde_json::Value;
use std::borrow::Cow;

/// Separates the values of an attribute.
pub(super) const VALUE_SEPARATOR: char = '|';
/// The valid values of a cell that holds a list or an object by mistake.
pub(super) const NESTED_EXPECTED: &str = "text or a number";

/// What parts the fraction from the whole of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DecimalMark {
    /// A point: 6.95.
    #[default]
    Point,
    /// A comma: 6,95. Points part thousands.
    Comma,
}

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
pub(super) fn price(mark: DecimalMark) -> impl Fn(&str) -> Result<f32, Expected> {
    move |text| amount(text, mark, |price| price >= 0.0, "a number of at least 0")
}

/// A quantity: more than zero.
pub(super) fn quantity(mark: DecimalMark) -> impl Fn(&str) -> Result<f32, Expected> {
    move |text| amount(text, mark, |quantity| quantity > 0.0, "a number above 0")
}

/// A number within its bound, which `expected` names.
fn amount(
    text: &str,
    mark: DecimalMark,
    fits: impl Fn(f32) -> bool,
    expected: &'static str,
) -> Result<f32, Expected> {
    let text = text.trim();
    let number = match mark {
        DecimalMark::Point => text.parse().ok(),
        DecimalMark::Comma => with_comma(text).and_then(|text| text.parse().ok()),
    };
    let number = number.filter(|number: &f32| number.is_finite() && fits(*number));
    number.ok_or_else(|| format!("{expected}{}", amount_hint(text, mark)).into())
}

/// How to go on with a number that is written in another way.
fn amount_hint(text: &str, mark: DecimalMark) -> &'static str {
    let is_numeric = text.bytes().all(|b| b.is_ascii_digit() || b",. '+-".contains(&b));
    match mark {
        DecimalMark::Point if is_numeric && text.contains(',') => {
            ", with a point and no other mark: --decimal-comma reads 6,95 and 1.234,50"
        }
        DecimalMark::Comma if is_numeric && text.contains('.') => {
            " of one meaning, with a decimal comma such as 1.234,50"
        }
        _ if !is_numeric && text.bytes().any(|b| b.is_ascii_digit()) => {
            ", without a currency or a unit"
        }
        _ => "",
    }
}

/// A number with a decimal comma as one with a point. Points part thousands; a single one before three digits could
/// be either, and is refused. One before another count of digits comes from a typed file.
fn with_comma(text: &str) -> Option<String> {
    text.bytes().any(|byte| byte.is_ascii_digit()).then_some(())?;
    let (whole, fraction) = match text.split_once(',') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text, None),
    };
    let groups: Vec<&str> = whole.split('.').collect();
    let (first, others) = groups.split_first()?;
    let are_thousands = (1..=3).contains(&first.trim_start_matches(['+', '-']).len())
        && others.iter().all(|group| group.len() == 3);
    match (others.len(), fraction) {
        (0, _) => {}
        (1, None) if are_thousands => return None,
        (1, None) => return Some(text.to_owned()),
        _ if !are_thousands => return None,
        _ => {}
    }
    let digits = fraction.unwrap_or("0");
    digits
        .bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| format!("{}.{digits}", groups.concat()))
}

/// The kind of an event.
pub(super) fn kind(text: &str) -> Result<EventKind, Expected> {
    EventKind::parse(text.trim()).ok_or_else(|| {
        format!("one of {}", EventKind::ALL.map(EventKind::as_str).join(", ")).into()
    })
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
            ("", false, false),
        ] {
            assert_eq!(price(DecimalMark::Point)(text).is_ok(), is_price, "{text:?}");
            assert_eq!(quantity(DecimalMark::Point)(text).is_ok(), is_quantity, "{text:?}");
        }
    }

    #[test]
    fn a_decimal_comma_is_read_where_it_is_stated() {
        for (text, expected) in [
            ("6,95", Some(6.95)),
            ("1234,5", Some(1_234.5)),
            ("1.234,50", Some(1_234.5)),
            ("1.234.567", Some(1_234_567.0)),
            ("1.234.567,25", Some(1_234_567.2)),
            ("7", Some(7.0)),
            ("6.95", Some(6.95)),
            ("0.5", Some(0.5)),
            ("1.234", None),
            ("12.34,5", None),
            ("1.2.3", None),
            ("1,234,567", None),
            ("1,234.50", None),
            ("6,95 €", None),
            ("6,-5", None),
            ("-6,95", None),
            ("", None),
        ] {
            assert_eq!(price(DecimalMark::Comma)(text).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_wrong_number_says_how_to_go_on() {
        for (text, mark, named) in [
            ("6,95", DecimalMark::Point, "--decimal-comma"),
            ("1,234.50", DecimalMark::Point, "no other mark"),
            ("6.95 EUR", DecimalMark::Point, "without a currency"),
            ("£6", DecimalMark::Point, "without a currency"),
            ("1.234", DecimalMark::Comma, "of one meaning"),
            ("1,234.50", DecimalMark::Comma, "of one meaning"),
        ] {
            let expected = price(mark)(text).unwrap_err();
            assert!(expected.contains(named), "{text:?}: {expected}");
        }
        assert_eq!(price(DecimalMark::Point)("free").unwrap_err(), "a number of at least 0");
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
