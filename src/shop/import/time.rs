//! The time of an event: text is taken by its form, and what could be two things is refused.

mod cursor;
mod digits;
mod format;
mod hint;
mod options;
mod span;
mod text;
mod zone;

pub use options::{TimeForm, TimeOptions, TimeOptionsError, TimeUnit};
pub use span::{EventSpan, SpanWarning};

use super::cell::Expected;
use super::number::WrittenNumber;
use crate::domain::Timestamp;
use digits::NumberForm;
use zone::LocalHour;

const DAY_S: i64 = 24 * 60 * 60;
/// Words that tools write for a missing value.
const NULL_WORDS: [&str; 10] =
    ["null", "none", "nan", "nat", "na", "n/a", "<na>", "nil", "\\n", "-"];

/// A time that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FoundTime {
    /// Unix seconds, rounded down.
    pub time: Timestamp,
    /// How a bare number was taken without an option that says it.
    pub number: Option<NumberForm>,
    /// Whether the hour is one that a change of the clock repeats or leaves out.
    pub hour: LocalHour,
}

/// Reads the times of one table: all bare numbers must be of one form.
pub(super) struct TimeReader {
    options: TimeOptions,
    now: Timestamp,
    number: Option<NumberForm>,
    repeated: u64,
    left_out: u64,
}

/// Reads one time. It is from 1970 to a day after `now`.
pub(super) fn read(
    text: &str,
    options: &TimeOptions,
    now: Timestamp,
) -> Result<FoundTime, Expected> {
    let text = text.trim();
    if text.is_empty() || NULL_WORDS.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return Err("a time, not an empty value".into());
    }
    let number = WrittenNumber::parse(text);
    let (moment, form) = match (&options.form, &number) {
        (TimeForm::Format(format), _) => (format::strptime(format, text)?, None),
        (TimeForm::Excel1900, _) => (format::excel(text, format::DAYS_1900)?, None),
        (TimeForm::Excel1904, _) => (format::excel(text, format::DAYS_1904)?, None),
        (TimeForm::Unit(unit), Some(number)) => (digits::count(number, *unit)?, None),
        (TimeForm::Evident, Some(number)) => {
            let (moment, form) = digits::by_magnitude(number)?;
            (moment, Some(form))
        }
        (TimeForm::Evident | TimeForm::Unit(_), None) => (text::parse(text)?, None),
    };
    let (time, hour) = moment.resolve(&options.zone)?;
    if (0..=now.saturating_add(DAY_S)).contains(&time) {
        return Ok(FoundTime { time, number: form, hour });
    }
    Err(format!("a time from 1970 to tomorrow, not {}", zone::shown(time)).into())
}

// === impl TimeReader ===

impl TimeReader {
    /// Reads times of a table that is imported at the time `now`.
    pub(super) fn new(options: TimeOptions, now: Timestamp) -> Self {
        Self { options, now, number: None, repeated: 0, left_out: 0 }
    }

    /// Reads the next time.
    pub(super) fn read(&mut self, text: &str) -> Result<Timestamp, Expected> {
        let found = read(text, &self.options, self.now)?;
        if let Some(form) = found.number {
            let before = *self.number.get_or_insert(form);
            if before != form {
                return Err(format!(
                    "{before}, as in the rows before, but this number reads as {form}: say \
                     --time-unit if all of them count the same"
                )
                .into());
            }
        }
        match found.hour {
            LocalHour::Plain => {}
            LocalHour::Repeated => self.repeated += 1,
            LocalHour::LeftOut => self.left_out += 1,
        }
        Ok(found.time)
    }

    /// What a reader of the report should know about the times.
    pub(super) fn warnings(&self) -> Vec<String> {
        let zone = zone::name(&self.options.zone);
        let mut warnings = Vec::new();
        if self.repeated > 0 {
            warnings.push(format!(
                "{} times are in an hour that {zone} has twice when its clocks go back: the first was taken",
                self.repeated
            ));
        }
        if self.left_out > 0 {
            warnings.push(format!(
                "{} times are in an hour that {zone} leaves out when its clocks go forward: the hour after \
                 was taken",
                self.left_out
            ));
        }
        warnings
    }
}

#[cfg(test)]
mod tests {
    use super::options::TimeUnit;
    use super::*;

    /// 2023-11-14T22:13:20Z.
    const NOW: Timestamp = 1_700_000_000;
    /// 2009-12-01T07:45:00Z.
    const TIME: Timestamp = 1_259_653_500;
    /// 2009-12-01T00:00:00Z.
    const DATE: Timestamp = 1_259_625_600;

    fn evident(text: &str) -> Result<Timestamp, Expected> {
        read(text, &TimeOptions::default(), NOW).map(|found| found.time)
    }

    #[test]
    fn evident_times_are_read_in_every_form() {
        for (text, expected) in [
            // Counts since 1970.
            ("1259653500", TIME),
            ("+1259653500", TIME),
            ("999999999", 999_999_999),
            ("1259653500.0", TIME),
            ("1259653500.999", TIME),
            ("1.2596535e9", TIME),
            ("1.2596535E9", TIME),
            ("1.2596535e+09", TIME),
            ("1259653500000", TIME),
            ("1259653500000.0", TIME),
            ("1.2596535E12", TIME),
            ("946684800000", 946_684_800),
            ("1259653500999999", TIME),
            ("946684800000000", 946_684_800),
            ("1259653500999999999", TIME),
            ("946684800000000000", 946_684_800),
            ("1.2596535e+18", TIME),
            ("/Date(1259653500000)/", TIME),
            ("/Date(1259653500000+0100)/", TIME),
            // Digits of a date.
            ("20091201", DATE),
            ("20091201.0", DATE),
            ("20091201074500", TIME),
            ("20091201074500999", TIME),
            ("20091201074500999999", TIME),
            // ISO 8601 and its habits.
            ("2009-12-01", DATE),
            ("2009/12/01", DATE),
            ("2009.12.01", DATE),
            ("2009-12-1", DATE),
            ("2009-W49-2", DATE),
            ("2009W492", DATE),
            ("2009-335", DATE),
            ("2009-12-01T07:45", TIME),
            ("2009-12-01T07:45:00", TIME),
            ("2009-12-01T07:45:00Z", TIME),
            ("2009-12-01t07:45:00z", TIME),
            ("2009-12-01 07:45:00", TIME),
            (" 2009-12-01  07:45 ", TIME),
            ("2009-12-01 7:45", TIME),
            ("2009-12-01_07:45:00", TIME),
            ("2009-12-01T07:45:00.123456789123Z", TIME),
            ("2009-12-01T07:45:00,5Z", TIME),
            ("2009-12-01 07:45:00.0", TIME),
            ("2009-W49-2T07:45:00Z", TIME),
            ("2009-335T07:45:00Z", TIME),
            ("20091201T074500Z", TIME),
            ("20091201T0745", TIME),
            ("20091201 07:45:00", TIME),
            ("2009-11-30T24:00:00", DATE),
            ("2009-12-01T07:44:60Z", TIME - 1),
            // Zones.
            ("2009-12-01T08:45:00+01:00", TIME),
            ("2009-12-01T08:45:00+0100", TIME),
            ("2009-12-01T08:45:00+01", TIME),
            ("2009-12-01T08:45:00.000+01:00", TIME),
            ("2009-12-01 08:45:00 +0100", TIME),
            ("2009-12-01T02:15:00-05:30", TIME),
            ("2009-12-01T08:45:00+01:00[Europe/Berlin]", TIME),
            ("2009-12-01T08:45[Europe/Berlin]", TIME),
            ("2009-12-01T07:45:00Z[UTC]", TIME),
            ("2009-12-01T07:45:00Z[Europe/Berlin]", TIME),
            ("2009-12-01 08:45:00 Europe/Berlin", TIME),
            ("2009-12-01 02:45:00 America/New_York", TIME),
            ("2009-12-01 07:45:00 UTC", TIME),
            ("2009-12-01 07:45:00 GMT", TIME),
            ("2009-12-01 08:45:00 GMT+0100", TIME),
            ("2009-12-01 08:45:00 UTC+01:00", TIME),
            ("2009-12-01Z", DATE),
            // Names of months.
            ("Tue, 1 Dec 2009 07:45:00 +0000", TIME),
            ("Tue, 01 Dec 2009 07:45:00 GMT", TIME),
            ("1 Dec 2009 08:45 +0100", TIME),
            ("Tue Dec  1 07:45:00 2009", TIME),
            ("Tue Dec  1 07:45:00 UTC 2009", TIME),
            ("Tue Dec 01 08:45:00 +0100 2009", TIME),
            ("Tue Dec 01 2009 08:45:00 GMT+0100 (Central European Standard Time)", TIME),
            ("01/Dec/2009:07:45:00 +0000", TIME),
            ("[01/Dec/2009:07:45:00 +0000]", TIME),
            ("01DEC2009:07:45:00", TIME),
            ("01-Dec-2009", DATE),
            ("1. December 2009", DATE),
            ("December 1, 2009", DATE),
            ("Dec 1st, 2009, 7:45 AM", TIME),
            ("1st of December 2009 at 7:45 a.m.", TIME),
            ("2009-Dec-01", DATE),
            ("Tuesday, December 1, 2009 7:45:00 AM", TIME),
            // Halves of a day.
            ("2009-12-01 7:45 AM", TIME),
            ("2009-12-01 07:45:00am", TIME),
            ("2009-12-01 7:45\u{202f}AM", TIME),
            ("2009-12-01 12:45 AM", TIME - 7 * 3_600),
            ("2009-12-01 12:45 PM", TIME + 5 * 3_600),
            ("2009-12-01 7 pm", DATE + 19 * 3_600),
            // The bounds.
            ("1970-01-01", 0),
            ("1700086400", NOW + DAY_S),
        ] {
            assert_eq!(evident(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn what_could_be_two_things_is_refused_with_the_option_that_settles_it() {
        for (text, named) in [
            // Missing.
            ("", "not an empty value"),
            (" ", "not an empty value"),
            ("null", "not an empty value"),
            ("NaN", "not an empty value"),
            ("NaT", "not an empty value"),
            ("None", "not an empty value"),
            ("\\N", "not an empty value"),
            // Out of bounds.
            ("-1", "from 1970"),
            ("-1259653500", "from 1970"),
            ("1969-12-31T23:59:59.5Z", "not 1969-12-31T23:59:59Z"),
            ("1700086401", "not 2023-11-15T22:13:21Z"),
            ("2024-02-29", "not 2024-02-29T00:00:00Z"),
            ("9999999999", "not 2286-11-20"),
            ("1259653500000000000000", "22 digits is not evidently"),
            // Few digits.
            ("0", "--time-unit s, ms, us or ns"),
            ("1", "--time-unit s"),
            ("2023", "a year alone is none"),
            ("2023.0", "a year alone is none"),
            ("202311", "a month (YYYYMM) alone is none"),
            ("45235", "--time-format excel"),
            ("45235.5", "--time-format excel"),
            ("25122020", "such as %d%m%Y"),
            ("03042020", "such as %d%m%Y"),
            ("20231305", "8 digits is not evidently"),
            ("20091201.5", "8 digits is not evidently"),
            ("12596535001", "11 digits is not evidently"),
            ("0001259653500", "13 digits is not evidently"),
            ("12596535001259", "14 digits is not evidently"),
            ("20091301074500", "14 digits is not evidently"),
            // Two things.
            ("2009120107", "--time-unit s or --time-format %Y%m%d%H"),
            ("200912010745", "--time-unit ms or --time-format %Y%m%d%H%M"),
            ("203001010745", "--time-unit ms or --time-format %Y%m%d%H%M"),
            ("231105123000", "--time-format %y%m%d%H%M%S"),
            ("633952647000000000", "ticks of .NET: say --time-unit ns"),
            ("129041415000000000", "a file time of Windows: say --time-unit ns"),
            ("1.26E+12", "a spreadsheet has shortened"),
            ("1.25965E+09", "a spreadsheet has shortened"),
            ("03/04/2020", "'%d/%m/%Y' if the day is first, or '%m/%d/%Y' if the month is"),
            ("3.4.2020 12:30", "'%d.%m.%Y %H:%M' if the day is first, or '%m.%d.%Y %H:%M'"),
            ("03-04-20", "'%d-%m-%y' if the day is first"),
            ("25/12/2020", "an option that says its order: --time-format '%d/%m/%Y'"),
            ("12/25/2020 7:45:10 PM", "--time-format '%m/%d/%Y %I:%M:%S %p'"),
            ("25.12.2020T07:45:00.5+01:00", "--time-format '%d.%m.%YT%H:%M:%S%.f%z'"),
            ("1-Dec-09", "four digits"),
            ("2009-12-01 07:45:00 CET", "the zone CET is known in several places"),
            ("2009-12-01 07:45:00 EST", "and --time-zone"),
            ("2009-07-01T07:45:00+01:00[America/New_York]", "America/New_York is never at +01"),
            // Parts.
            ("2009-12", "a month alone is none"),
            ("2009-W49", "a week alone is none"),
            ("07:45:00", "not a time of day alone"),
            ("2009-12-01T07", "with its minutes"),
            // No dates.
            ("2023-02-29", "2023-02-29 is none"),
            ("2009-366", "2009 has no day 366"),
            ("2009-W54-1", "of the calendar"),
            ("2009-12-01T25:00", "from 00:00 to 24:00"),
            ("2009-12-01 13:00 PM", "from 00:00 to 24:00"),
            ("2009-12-01T07:60", "from 00:00 to 24:00"),
            ("Mon, 1 Dec 2009 07:45:00 +0000", "whose weekday is that of its date"),
            ("2009-12-01T07:45:00+25:00", "an offset such as"),
            ("2009-12-01 07:45 Mars/North", "Mars/North is not"),
            // Anything.
            ("yesterday", "such as Unix seconds or"),
            ("2009-12-01T", "such as"),
            ("2009-12-01 07:45:00 and so on", "the zone and is known"),
            ("1,259,653,500", "such as"),
            ("1259653500s", "such as"),
            ("true", "such as"),
            ("٢٠٠٩-12-01", "such as"),
            ("2009−12−01", "such as"),
            ("{\"$date\":5}", "such as"),
            ("Dec", "such as"),
            ("Dec é", "such as"),
            ("[", "such as"),
            ("/Date(soon)/", "such as"),
        ] {
            let expected = evident(text).expect_err(text);
            assert!(expected.contains(named), "{text:?}: {expected}\nlacks {named}");
        }
    }

    #[test]
    fn a_stated_unit_is_taken_by_its_letter() {
        let counted = |text: &str, unit| {
            let options = TimeOptions::new(Some(unit), None, None).unwrap();
            read(text, &options, NOW).ok().map(|found| found.time)
        };
        for (text, unit, expected) in [
            ("0", TimeUnit::Seconds, Some(0)),
            ("-0.0", TimeUnit::Seconds, Some(0)),
            ("2", TimeUnit::Seconds, Some(2)),
            ("20231105", TimeUnit::Seconds, Some(20_231_105)),
            ("1259653500", TimeUnit::Seconds, Some(TIME)),
            ("1259653500.9", TimeUnit::Seconds, Some(TIME)),
            ("1259653500999", TimeUnit::Milliseconds, Some(TIME)),
            ("200912010745", TimeUnit::Milliseconds, Some(200_912_010)),
            ("1.26E+12", TimeUnit::Milliseconds, Some(1_260_000_000)),
            ("1259653500999999", TimeUnit::Microseconds, Some(TIME)),
            ("633952647000000000", TimeUnit::Nanoseconds, Some(633_952_647)),
            ("2009-12-01", TimeUnit::Milliseconds, Some(DATE)),
            ("1259653500000", TimeUnit::Seconds, None),
            ("-1", TimeUnit::Seconds, None),
            ("-0.5", TimeUnit::Seconds, None),
            ("99999999999999999999999999999999999999999", TimeUnit::Nanoseconds, None),
            ("03/04/2020", TimeUnit::Seconds, None),
        ] {
            assert_eq!(counted(text, unit), expected, "{text} {unit}");
        }
    }

    #[test]
    fn times_without_a_zone_are_in_the_stated_one() {
        let options = TimeOptions::new(None, None, Some("Europe/Berlin")).unwrap();
        for (text, expected) in [
            ("2009-12-01 08:45:00", TIME),
            ("2009-12-01T07:45:00Z", TIME),
            ("1259653500", TIME),
            ("2009-12-01", DATE - 3_600),
            ("20091201", DATE - 3_600),
            ("2009-07-01", 1_246_399_200),
        ] {
            assert_eq!(read(text, &options, NOW).map(|found| found.time), Ok(expected), "{text}");
        }
        let mut times = TimeReader::new(options, NOW);
        for text in ["2022-10-30 02:30", "2022-10-30 02:31", "2022-03-27 02:30", "2022-03-27 03:30"]
        {
            times.read(text).unwrap();
        }
        let [repeated, left_out] = &*times.warnings() else { panic!("two warnings") };
        assert!(
            repeated.starts_with("2 times are in an hour that Europe/Berlin has twice"),
            "{repeated}"
        );
        assert!(
            left_out.starts_with("1 times are in an hour that Europe/Berlin leaves out"),
            "{left_out}"
        );
    }

    #[test]
    fn a_table_has_one_form_of_bare_numbers() {
        for (texts, wrong) in [
            (&["1259653500", "999999999", "2009-12-01"][..], None),
            (&["20091201", "20091202"], None),
            (&["1259653500", "1259653500000"], Some("reads as milliseconds since 1970")),
            (&["1259653500", "20091201"], Some("reads as the digits of a date")),
            (&["20091201", "1259653500"], Some("the digits of a date, as in the rows before")),
            (&["soon", "1259653500"], None),
        ] {
            let mut times = TimeReader::new(TimeOptions::default(), NOW);
            let last = texts.iter().map(|text| times.read(text)).last().unwrap();
            match (last, wrong) {
                (Ok(_), None) => {}
                (Err(expected), Some(wrong)) => {
                    assert!(expected.contains(wrong), "{expected}");
                }
                other => panic!("{texts:?}: {other:?}"),
            }
        }
        assert_eq!(TimeReader::new(TimeOptions::default(), NOW).warnings(), [""; 0]);
    }

    #[test]
    fn options_that_are_of_no_use_are_refused() {
        for (unit, format, zone, named) in [
            (Some(TimeUnit::Seconds), Some("%Y"), None, "give --time-unit or --time-format"),
            (None, Some("%d/%m"), None, "it must hold a year, a month and a day"),
            (None, None, Some("Londn"), "\"Londn\" is no time zone"),
        ] {
            let error = TimeOptions::new(unit, format, zone).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert_eq!(TimeOptions::new(None, Some("excel"), None).unwrap().form, TimeForm::Excel1900);
        assert_eq!("us".parse(), Ok(TimeUnit::Microseconds));
        assert_eq!("min".parse::<TimeUnit>().unwrap_err(), "a unit is one of s, ms, us, ns");
    }
}
