//! Bare numbers as times: by how many digits they have, or by a stated unit.

use super::options::TimeUnit;
use super::zone::LocalMoment;
use crate::shop::import::cell::Expected;
use crate::shop::import::number::WrittenNumber;
use jiff::civil::DateTime;
use std::fmt;
use std::ops::RangeInclusive;

/// Years in which a number may be a date.
const YEARS: RangeInclusive<i16> = 1900..=2199;
/// 100 ns since the year 1, as .NET counts: 1970 to 2040. As nanoseconds since 1970 they are 1989 or 1990.
const DOTNET_TICKS: RangeInclusive<u128> = 621_355_968_000_000_000..=643_445_856_000_000_000;
/// 100 ns since 1601, as Windows counts: 1970 to 2040. As nanoseconds since 1970 they are 1973 or 1974.
const WINDOWS_TICKS: RangeInclusive<u128> = 116_444_736_000_000_000..=138_534_624_000_000_000;
/// Digits of a date as a number: YYYYMMDD.
const DATE_DIGITS: usize = 8;
/// Digits of the number YYYYMMDDHH. As seconds since 1970 it is later than 2030.
const HOUR_DIGITS: usize = 10;
/// Digits of the number YYYYMMDDHHMM.
const MINUTE_DIGITS: usize = 12;
/// Digits of the number YYYYMMDDHHMMSS.
const SECOND_DIGITS: usize = 14;

/// What a bare number is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shop::import) enum NumberForm {
    /// A count since 1970.
    Count(TimeUnit),
    /// The digits of a date.
    Date,
}

// === impl NumberForm ===

impl fmt::Display for NumberForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(unit) => write!(f, "{unit} since 1970"),
            Self::Date => f.write_str("the digits of a date"),
        }
    }
}

/// A count of `unit` since 1970.
pub(super) fn count(number: &WrittenNumber, unit: TimeUnit) -> Result<LocalMoment, Expected> {
    if number.negative && !number.is_zero() {
        return Err("a time from 1970 to tomorrow, not a number below 0".into());
    }
    let seconds = number.whole.parse::<u128>().ok().map(|whole| whole / unit.per_second());
    let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
    seconds.map(LocalMoment::Instant).ok_or_else(|| {
        format!("a time from 1970 to tomorrow: as {unit} this number is too large").into()
    })
}

/// A number without a stated unit: what it is shows by how many digits it has. A number that could be two
/// things is refused.
pub(super) fn by_magnitude(number: &WrittenNumber) -> Result<(LocalMoment, NumberForm), Expected> {
    if number.negative {
        return Err("a time from 1970 to tomorrow, not a number below 0".into());
    }
    if number.shortened {
        return Err("a time with all its digits: a spreadsheet has shortened this number".into());
    }
    let digits = number.whole.as_str();
    if let Some(date) = compact(digits).filter(|_| !number.has_fraction) {
        return match digits.len() {
            MINUTE_DIGITS => Err(two_things(TimeUnit::Milliseconds, "%Y%m%d%H%M")),
            _ => Ok((LocalMoment::Civil(date), NumberForm::Date)),
        };
    }
    let unit = match digits.len() {
        _ if digits.starts_with('0') => return Err(unclear(digits)),
        HOUR_DIGITS if compact(&format!("{digits}00")).is_some() => {
            return Err(two_things(TimeUnit::Seconds, "%Y%m%d%H"));
        }
        9..=10 => TimeUnit::Seconds,
        MINUTE_DIGITS if compact(&format!("20{digits}")).is_some() => {
            return Err(two_things(TimeUnit::Milliseconds, "%y%m%d%H%M%S"));
        }
        12..=13 => TimeUnit::Milliseconds,
        15..=16 => TimeUnit::Microseconds,
        18..=19 => TimeUnit::Nanoseconds,
        _ => return Err(unclear(digits)),
    };
    let value: u128 = digits.parse().map_err(|_| unclear(digits))?;
    if let Some(clock) = other_clock(value) {
        return Err(format!(
            "a time of one meaning: this number could be nanoseconds since 1970 or {clock}: say --time-unit ns, \
             or write it in another way"
        )
        .into());
    }
    Ok((count(number, unit)?, NumberForm::Count(unit)))
}

/// The clock, other than Unix', on which a number of 18 digits is a time of today.
fn other_clock(value: u128) -> Option<&'static str> {
    match value {
        value if DOTNET_TICKS.contains(&value) => Some("ticks of .NET"),
        value if WINDOWS_TICKS.contains(&value) => Some("a file time of Windows"),
        _ => None,
    }
}

/// The date and time that digits without separators spell: `YYYYMMDD[HHMM[SS[fraction]]]`.
fn compact(digits: &str) -> Option<DateTime> {
    let is_one = matches!(digits.len(), DATE_DIGITS | MINUTE_DIGITS | SECOND_DIGITS | 17 | 20);
    if !is_one {
        return None;
    }
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or("0").parse::<i8>().ok();
    let year = digits[..4].parse().ok().filter(|year| YEARS.contains(year))?;
    let (month, day, hour) = (part(4, 6)?, part(6, 8)?, part(8, 10)?);
    DateTime::new(year, month, day, hour, part(10, 12)?, part(12, 14)?, 0).ok()
}

fn two_things(unit: TimeUnit, format: &str) -> Expected {
    format!(
        "a time of one meaning: this number could be {unit} since 1970 or a date: say --time-unit {} or \
         --time-format {format}",
        unit.as_str()
    )
    .into()
}

/// The error for a number of so few or so many digits that it is no evident time.
fn unclear(digits: &str) -> Expected {
    let is_year = |digits: &str| digits.parse().is_ok_and(|year| YEARS.contains(&year));
    let guess = match digits.len() {
        4 if is_year(digits) => ": a year alone is none",
        6 if is_year(&digits[..4]) && ("01"..="12").contains(&&digits[4..]) => {
            ": a month (YYYYMM) alone is none"
        }
        5 => ": Excel's days are read with --time-format excel",
        6 | 8 => ": a date of another order is read with --time-format, such as %d%m%Y",
        _ => "",
    };
    let count = match digits.len() {
        1 => "1 digit".to_owned(),
        count => format!("{count} digits"),
    };
    format!(
        "a time: a number of {count} is not evidently one{guess}; say --time-unit s, ms, us or ns if it counts them \
         since 1970"
    )
    .into()
}
