//! Times in a format that the user states.

use super::zone::{LocalMoment, floor};
use crate::shop::import::cell::Expected;
use jiff::civil::date;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::tz::TimeZone;

/// Days from Excel's day 0 to 1970, where it counts from 1900. It takes 1900 for a leap year, so day 0 is
/// 1899-12-30 for every date since March 1900.
pub(super) const DAYS_1900: f64 = 25_569.0;
/// Days from Excel's day 0 to 1970, where it counts from 1904.
pub(super) const DAYS_1904: f64 = 24_107.0;
/// The largest day that Excel knows: the end of the year 9999.
const EXCEL_DAY_MAX: f64 = 2_958_466.0;
const DAY_S: f64 = 86_400.0;

/// Fails if `format` can't read what it writes, or reads no date.
pub(super) fn check(format: &str) -> Result<(), String> {
    let failed = |why: String| format!("the time format {format:?} can't be used: {why}");
    let sample = date(2021, 3, 4).at(17, 6, 7, 0).to_zoned(TimeZone::UTC);
    let sample = sample.map_err(|error| failed(error.to_string()))?;
    let written = strtime::format(format, &sample).map_err(|error| failed(error.to_string()))?;
    let parsed = strtime::parse(format, &written).map_err(|error| failed(error.to_string()))?;
    match moment(&parsed) {
        Ok(_) => Ok(()),
        Err(_) => Err(failed("it must hold a year, a month and a day".to_owned())),
    }
}

/// A time in a format of strptime.
pub(super) fn strptime(format: &str, text: &str) -> Result<LocalMoment, Expected> {
    let parsed = strtime::parse(format, text).and_then(|parsed| moment(&parsed));
    parsed.map_err(|_| format!("a time in the format {format:?}").into())
}

fn moment(parsed: &BrokenDownTime) -> Result<LocalMoment, jiff::Error> {
    if parsed.iana_time_zone().is_some() {
        return Ok(LocalMoment::Instant(floor(parsed.to_zoned()?.timestamp())));
    }
    if parsed.offset().is_some() || parsed.timestamp().is_some() {
        return Ok(LocalMoment::Instant(floor(parsed.to_timestamp()?)));
    }
    Ok(LocalMoment::Civil(parsed.to_datetime()?))
}

/// A time as Excel's days; `days_1970` of them are before 1970. It is rounded to a second, because the
/// fraction of a day is.
pub(super) fn excel(text: &str, days_1970: f64) -> Result<LocalMoment, Expected> {
    let days: Option<f64> = text.parse().ok();
    let days = days.filter(|days| (0.0..EXCEL_DAY_MAX).contains(days));
    let days = days.ok_or("a number of Excel's days, such as 45235.5")?;
    let seconds = ((days - days_1970) * DAY_S).round() as i64;
    let time = jiff::Timestamp::from_second(seconds).map_err(|_| "a number of Excel's days")?;
    // Excel knows no zones.
    Ok(LocalMoment::Civil(TimeZone::UTC.to_datetime(time)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(found: Result<LocalMoment, Expected>) -> Option<i64> {
        Some(found.ok()?.resolve(&TimeZone::UTC).unwrap().0)
    }

    #[test]
    fn formats_that_read_no_date_are_refused() {
        for format in [
            "%d/%m/%Y",
            "%m/%d/%y %I:%M %p",
            "%s",
            "%Y-%m-%dT%H:%M:%S%.f%z",
            "%Y %j",
            "%d.%m.%Y %H Uhr",
        ] {
            assert_eq!(check(format), Ok(()), "{format}");
        }
        for format in ["", "%Y", "%Y%m", "%H:%M", "%d/%m", "%K", "%", "date", "%c"] {
            assert!(check(format).is_err(), "{format}");
        }
    }

    #[test]
    fn a_stated_format_is_read_by_its_letter() {
        for (format, text, expected) in [
            ("%d/%m/%Y", "03/04/2020", Some(1_585_872_000)),
            ("%m/%d/%Y", "03/04/2020", Some(1_583_280_000)),
            ("%m/%d/%y %I:%M %p", "12/1/09 7:45 AM", Some(1_259_653_500)),
            ("%d.%m.%Y %H:%M:%S", "1.12.2009 07:45:00", Some(1_259_653_500)),
            ("%Y%m%d%H%M", "200912010745", Some(1_259_653_500)),
            ("%Y%m%d", "20091201", Some(1_259_625_600)),
            ("%s", "20231105", Some(20_231_105)),
            ("%Y-%m-%d %H:%M:%S %z", "2009-12-01 08:45:00 +0100", Some(1_259_653_500)),
            ("%Y-%m-%d %H:%M %Q", "2009-12-01 08:45 Europe/Berlin", Some(1_259_653_500)),
            ("%Y-%m-%d %H:%M:%S%.f", "2009-12-01 07:45:00.999", Some(1_259_653_500)),
            ("%d/%m/%Y", "2020-04-03", None),
            ("%d/%m/%Y", "03/04/2020 12:00", None),
            ("%d/%m/%Y", "31/02/2020", None),
        ] {
            assert_eq!(seconds(strptime(format, text)), expected, "{format} {text}");
        }
    }

    #[test]
    fn excels_days_are_dates() {
        for (text, days, expected) in [
            ("45235", DAYS_1900, Some(1_699_142_400)),
            ("45235.5", DAYS_1900, Some(1_699_185_600)),
            ("40148.3229166667", DAYS_1900, Some(1_259_653_500)),
            ("25569", DAYS_1900, Some(0)),
            ("43773", DAYS_1904, Some(1_699_142_400)),
            ("4.5235E4", DAYS_1900, Some(1_699_142_400)),
            ("2023-11-05", DAYS_1900, None),
            ("1699142400", DAYS_1900, None),
            ("-1", DAYS_1900, None),
            ("nan", DAYS_1900, None),
        ] {
            assert_eq!(seconds(excel(text, days)), expected, "{text}");
        }
    }
}
