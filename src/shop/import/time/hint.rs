//! Why a text is no evident time, and the option that says what it is.

use super::cursor::TimeCursor;
use crate::shop::import::cell::Expected;

/// Letters of a zone's abbreviation that are shown.
const ABBREVIATION_LETTERS: usize = 8;

/// A date of three numbers that does not begin with its year.
pub(super) struct NumericDate<'a> {
    first: i16,
    second: i16,
    separator: char,
    has_long_year: bool,
    rest: &'a str,
}

// === impl NumericDate ===

impl<'a> NumericDate<'a> {
    /// Takes `03/04/2020 12:30` apart; none if the text is another thing.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut cursor = TimeCursor::new(text);
        let first = cursor.number_up_to(2)?;
        let separator = cursor.take_any(b"/.-")?;
        let second = cursor.number_up_to(2)?;
        cursor.take(separator).then_some(())?;
        let digits = cursor.peek_digits();
        let has_long_year = digits == 4;
        if !matches!(digits, 2 | 4) {
            return None;
        }
        cursor.skip(digits);
        Some(Self {
            first,
            second,
            separator: char::from(separator),
            has_long_year,
            rest: cursor.rest(),
        })
    }

    /// The error for it, with the formats that it may have.
    pub(super) fn refused(self) -> Expected {
        let (separator, year) = (self.separator, if self.has_long_year { "%Y" } else { "%y" });
        let rest = time_format(self.rest);
        let form = |a: &str, b: &str| format!("'{a}{separator}{b}{separator}{year}{rest}'");
        let (day_first, month_first) = (form("%d", "%m"), form("%m", "%d"));
        match (self.first > 12, self.second > 12) {
            (true, _) => format!(
                "a date that begins with its year, or an option that says its order: --time-format {day_first}"
            ),
            (false, true) => format!(
                "a date that begins with its year, or an option that says its order: --time-format {month_first}"
            ),
            (false, false) => format!(
                "a date of one meaning: say --time-format {day_first} if the day is first, or {month_first} if the \
                 month is"
            ),
        }
        .into()
    }
}

/// The format of strptime that the end of a text may have: a time of day and a zone.
fn time_format(rest: &str) -> String {
    let mut format = String::new();
    let mut cursor = TimeCursor::new(rest);
    let mut directives = ["%H", "%M", "%S"].into_iter();
    let end = rest.trim_end().to_ascii_lowercase();
    let has_half = end.ends_with("am") || end.ends_with("pm");
    while !cursor.is_done() {
        if cursor.peek_digits() > 0 {
            cursor.digits();
            match directives.next() {
                Some("%H") if has_half => format.push_str("%I"),
                Some(directive) => format.push_str(directive),
                None => {}
            }
        } else if directives.len() < 3 && !cursor.peek_offset().is_empty() {
            format.push_str("%z");
            cursor.skip(cursor.peek_offset().len());
        } else if ["AM", "PM"].iter().any(|half| cursor.peek_word().eq_ignore_ascii_case(half)) {
            format.push_str("%p");
            cursor.skip(2);
        } else if directives.len() == 0 && cursor.take(b'.') {
            cursor.digits();
            format.push_str("%.f");
        } else {
            let next = cursor.rest().chars().next().unwrap_or(' ');
            format.push(next);
            cursor.skip(next.len_utf8());
        }
    }
    format
}

/// The error for text of no known form.
pub(super) fn unknown() -> Expected {
    "a time from 1970 to tomorrow, such as Unix seconds or 2020-01-31 12:30:00; --time-format says other forms".into()
}

/// The error for a year of two digits.
pub(super) fn short_year() -> Expected {
    "a date whose year has four digits; --time-format, such as '%d-%b-%y', says that two are the year".into()
}

/// The error for the abbreviation of a zone.
pub(super) fn abbreviation(name: &str) -> Expected {
    let shown: String = name.chars().take(ABBREVIATION_LETTERS).collect();
    format!(
        "a time of one meaning: the zone {shown} is known in several places: write an offset such as +01:00, or say \
         --time-format '%Y-%m-%d %H:%M:%S {shown}' and --time-zone"
    )
    .into()
}
