//! The span of a log, and what is odd about it.

use crate::domain::Timestamp;
use serde::Serialize;
use std::fmt;

const DAY_S: i64 = 24 * 60 * 60;
/// Days at the end of a log whose share of the events is counted.
const RECENT_DAYS: i64 = 10;
/// Days of the longest log that is not odd.
const DAYS_MAX: i64 = 30 * 366;
/// 2000-01-01: few shops have an older log, and a wrong unit of time gives one.
const YEAR_2000: Timestamp = 946_684_800;

/// When the events of a shop happened.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventSpan {
    /// The time of the first event, Unix seconds.
    pub first: Timestamp,
    /// The time of the last event, Unix seconds.
    pub last: Timestamp,
    /// Midnights in UTC between the two.
    pub days: i64,
    /// The share of the events in the last ten days, 0 to 1.
    pub recent_share: f64,
    /// What is odd about it.
    pub warnings: Vec<SpanWarning>,
}

/// An oddity of a span, which a wrong unit or format of time may have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SpanWarning {
    /// The first event is before the year 2000.
    Before2000,
    /// The span is over thirty years long.
    Over30Years,
    /// The last event is later than now.
    InFuture,
    /// All events are at one instant.
    SingleInstant,
}

// === impl EventSpan ===

impl EventSpan {
    /// The span of events at `times`, in any order; none without events.
    pub fn of(times: impl Iterator<Item = Timestamp> + Clone, now: Timestamp) -> Option<Self> {
        let (first, last) = (times.clone().min()?, times.clone().max()?);
        let recent = last.saturating_sub(RECENT_DAYS * DAY_S);
        let (mut all, mut late) = (0_u64, 0_u64);
        for time in times {
            all += 1;
            late += u64::from(time > recent);
        }
        Some(Self {
            first,
            last,
            days: last.div_euclid(DAY_S) - first.div_euclid(DAY_S),
            recent_share: late as f64 / all as f64,
            warnings: warnings(first, last, now),
        })
    }
}

fn warnings(first: Timestamp, last: Timestamp, now: Timestamp) -> Vec<SpanWarning> {
    let all = [
        (SpanWarning::Before2000, first < YEAR_2000),
        (SpanWarning::Over30Years, last.saturating_sub(first) > DAYS_MAX * DAY_S),
        (SpanWarning::InFuture, last > now),
        (SpanWarning::SingleInstant, first == last),
    ];
    all.into_iter().filter(|(_, odd)| *odd).map(|(warning, _)| warning).collect()
}

impl fmt::Display for EventSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = if self.days == 1 { "day" } else { "days" };
        write!(f, "{} to {}, {} {days}, ", date(self.first), date(self.last), self.days)?;
        match (self.recent_share * 100.0).round() {
            0.0 => f.write_str("under 1 %")?,
            share => write!(f, "{share} %")?,
        }
        write!(f, " of events in the last {RECENT_DAYS} days")
    }
}

impl fmt::Display for SpanWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before2000 => "events before 2000: are the unit and the form of time right?",
            Self::Over30Years => {
                "a span of over 30 years: are the unit and the form of time right?"
            }
            Self::InFuture => "events in the future: is the time zone right?",
            Self::SingleInstant => "every event is at one instant: is it the right column?",
        })
    }
}

/// The date of a time in UTC, or its seconds if it is in no year of the calendar.
fn date(time: Timestamp) -> String {
    match jiff::Timestamp::from_second(time) {
        Ok(time) => time.strftime("%Y-%m-%d").to_string(),
        Err(_) => format!("{time} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = 1_700_000_000;

    fn span(times: &[Timestamp]) -> EventSpan {
        EventSpan::of(times.iter().copied(), NOW).unwrap()
    }

    #[test]
    fn a_span_is_one_line() {
        let (first, last) = (1_575_187_200, 1_639_051_200);
        let days = (0..739).map(|day| first + day * DAY_S).chain([last]);
        let found = EventSpan::of(days, NOW).unwrap();
        assert_eq!(
            found.to_string(),
            "2019-12-01 to 2021-12-09, 739 days, 1 % of events in the last 10 days"
        );
        assert_eq!(found.warnings, []);
        assert_eq!(EventSpan::of(std::iter::empty(), NOW), None);
        let many = std::iter::repeat_n(first, 999).chain([last]);
        assert!(EventSpan::of(many, NOW).unwrap().to_string().contains(", under 1 % of"));
        let one = span(&[first, first + DAY_S]).to_string();
        assert!(one.ends_with("2019-12-02, 1 day, 100 % of events in the last 10 days"), "{one}");
    }

    #[test]
    fn odd_spans_are_warned_of() {
        use SpanWarning::{Before2000, InFuture, Over30Years, SingleInstant};
        for (times, expected) in [
            (&[1_600_000_000, 1_600_000_001][..], &[][..]),
            (&[YEAR_2000, NOW], &[]),
            (&[YEAR_2000 - 1, NOW], &[Before2000]),
            (&[20_231_105, 20_231_106], &[Before2000]),
            (&[0, NOW], &[Before2000, Over30Years]),
            (&[NOW, NOW + 1], &[InFuture]),
            (&[NOW, NOW], &[SingleInstant]),
            (&[i64::MIN, i64::MAX], &[Before2000, Over30Years, InFuture]),
        ] {
            assert_eq!(span(times).warnings, expected, "{times:?}");
            assert!(span(times).to_string().contains(" of events in the last"));
        }
    }

    #[test]
    fn warnings_are_named_in_json() {
        let json = serde_json::to_value(span(&[5, 5])).unwrap();
        assert_eq!(json["warnings"], serde_json::json!(["before2000", "single_instant"]));
        assert_eq!((&json["first"], &json["days"]), (&5.into(), &0.into()));
    }
}
