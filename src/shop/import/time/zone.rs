//! Moments that may lack a zone, and what a zone makes of them.

use crate::domain::Timestamp;
use crate::shop::import::cell::Expected;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};

/// Seconds of the largest offset from UTC.
const OFFSET_S_MAX: i32 = 18 * 3_600;

/// What a text says about a time.
#[derive(Clone, Debug)]
pub(super) enum LocalMoment {
    /// Unix seconds.
    Instant(Timestamp),
    /// A date and a time of day without a zone.
    Civil(DateTime),
    /// A date and a time of day in a zone.
    Zoned(DateTime, TimeZone),
}

/// Whether the clocks of a zone showed a time once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shop::import) enum LocalHour {
    /// Once.
    Plain,
    /// Twice: the clocks went back. The first time is taken.
    Repeated,
    /// Never: the clocks went forward. As much after the change is taken as it is after it by the old clock.
    LeftOut,
}

// === impl LocalMoment ===

impl LocalMoment {
    /// Unix seconds, rounded down. Without a zone of its own, a moment is in `zone`.
    pub(super) fn resolve(&self, zone: &TimeZone) -> Result<(Timestamp, LocalHour), Expected> {
        let (time, zone) = match self {
            Self::Instant(seconds) => return Ok((*seconds, LocalHour::Plain)),
            Self::Civil(time) => (*time, zone),
            Self::Zoned(time, zone) => (*time, zone),
        };
        let found = zone.to_ambiguous_timestamp(time);
        let hour = match found.offset() {
            AmbiguousOffset::Unambiguous { .. } => LocalHour::Plain,
            AmbiguousOffset::Fold { .. } => LocalHour::Repeated,
            AmbiguousOffset::Gap { .. } => LocalHour::LeftOut,
        };
        let time = found.compatible().map_err(|_| "a time from 1970 to tomorrow")?;
        Ok((floor(time), hour))
    }
}

/// Unix seconds, rounded down.
pub(super) fn floor(time: jiff::Timestamp) -> Timestamp {
    time.as_second() - i64::from(time.subsec_nanosecond() < 0)
}

/// A zone by its IANA name or its offset from UTC.
pub(super) fn parse(text: &str) -> Result<TimeZone, String> {
    let text = text.trim();
    if let Some(zone) = offset(text) {
        return Ok(TimeZone::fixed(zone));
    }
    if text.eq_ignore_ascii_case("UTC") || text.eq_ignore_ascii_case("Z") {
        return Ok(TimeZone::UTC);
    }
    TimeZone::get(text).map_err(|_| {
        format!("{text:?} is no time zone: give a name such as Europe/London, or an offset such as +01:00")
    })
}

/// An offset from UTC: `+01:00`, `+0100`, `+01` or `+01:00:00`.
pub(super) fn offset(text: &str) -> Option<Offset> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let digits = match digits.split(':').collect::<Vec<_>>()[..] {
        [all] => all.to_owned(),
        [hours, minutes] => format!("{hours:0>2}{minutes}"),
        [hours, minutes, seconds] => format!("{hours:0>2}{minutes}{seconds}"),
        _ => return None,
    };
    let is_one = matches!(digits.len(), 2 | 4 | 6) && digits.bytes().all(|b| b.is_ascii_digit());
    let part = |from: usize| digits.get(from..from + 2).unwrap_or("0").parse::<i32>().ok();
    let (hours, minutes, seconds) = is_one.then_some((part(0)?, part(2)?, part(4)?))?;
    let all = hours * 3_600 + minutes * 60 + seconds;
    let fits = minutes < 60 && seconds < 60 && all <= OFFSET_S_MAX;
    fits.then(|| Offset::from_seconds(sign * all).ok())?
}

/// The name of a zone, or its offset.
pub(super) fn name(zone: &TimeZone) -> String {
    match (zone.iana_name(), zone.to_fixed_offset()) {
        (Some(name), _) => name.to_owned(),
        (None, Ok(offset)) => offset.to_string(),
        (None, Err(_)) => "the time zone".to_owned(),
    }
}

/// A time as a reader knows it.
pub(super) fn shown(time: Timestamp) -> String {
    match jiff::Timestamp::from_second(time) {
        Ok(time) => time.to_string(),
        Err(_) => "a year beyond the calendar".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_names_or_offsets() {
        for (text, seconds) in [
            ("+01:00", 3_600),
            ("+0100", 3_600),
            ("+01", 3_600),
            ("-5:30", -19_800),
            ("-00:00", 0),
            ("+05:45:30", 20_730),
            ("UTC", 0),
            ("z", 0),
            ("Etc/GMT+5", -18_000),
        ] {
            let offset = parse(text).unwrap().to_offset(jiff::Timestamp::UNIX_EPOCH);
            assert_eq!(offset.seconds(), seconds, "{text}");
        }
        assert_eq!(name(&parse("europe/london").unwrap()), "Europe/London");
        for text in
            ["", "+", "+1:0", "+19:00", "+01:60", "+1", "+01:00:00:00", "London", "Mars/North"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn hours_that_a_zone_repeats_or_leaves_out_are_taken_by_one_rule() {
        let berlin = parse("Europe/Berlin").unwrap();
        for (text, utc, hour) in [
            ("2023-03-26T01:59:59", "2023-03-26T00:59:59Z", LocalHour::Plain),
            ("2023-03-26T02:00:00", "2023-03-26T01:00:00Z", LocalHour::LeftOut),
            ("2023-03-26T02:30:00", "2023-03-26T01:30:00Z", LocalHour::LeftOut),
            ("2023-03-26T03:00:00", "2023-03-26T01:00:00Z", LocalHour::Plain),
            ("2023-10-29T01:59:59", "2023-10-28T23:59:59Z", LocalHour::Plain),
            ("2023-10-29T02:00:00", "2023-10-29T00:00:00Z", LocalHour::Repeated),
            ("2023-10-29T02:59:59", "2023-10-29T00:59:59Z", LocalHour::Repeated),
            ("2023-10-29T03:00:00", "2023-10-29T02:00:00Z", LocalHour::Plain),
        ] {
            let (time, found) = LocalMoment::Civil(text.parse().unwrap()).resolve(&berlin).unwrap();
            assert_eq!((shown(time), found), (utc.to_owned(), hour), "{text}");
        }
    }
}
