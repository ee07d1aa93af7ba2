//! How the times of a table are written, as far as a user has to say it.

use super::format;
use super::zone;
use jiff::tz::TimeZone;
use std::fmt;
use std::str::FromStr;

/// How times are written.
#[derive(Clone, Debug)]
pub struct TimeOptions {
    /// What a time looks like.
    pub form: TimeForm,
    /// The zone of times that name none.
    pub zone: TimeZone,
}

/// What a time looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TimeForm {
    /// As it shows by itself; what could be two things is refused.
    #[default]
    Evident,
    /// Bare numbers count this unit since 1970. Other text is taken as it shows by itself.
    Unit(TimeUnit),
    /// A format of strptime, such as `%d/%m/%Y %H:%M`.
    Format(String),
    /// Excel's days since 1900.
    Excel1900,
    /// Excel's days since 1904, as old files from a Mac have them.
    Excel1904,
}

/// A unit of time that numbers count since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

/// Why no times can be read with these options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TimeOptionsError(String);

// === impl TimeOptions ===

impl Default for TimeOptions {
    fn default() -> Self {
        Self { form: TimeForm::default(), zone: TimeZone::UTC }
    }
}

impl TimeOptions {
    /// Options as a user gives them: a format of strptime or `excel`, and a zone's name or offset. They
    /// fail if both a unit and a format are given, or if one of them is of no use.
    pub fn new(
        unit: Option<TimeUnit>,
        format: Option<&str>,
        zone: Option<&str>,
    ) -> Result<Self, TimeOptionsError> {
        let form = match (unit, format) {
            (Some(_), Some(_)) => {
                let why = "a time has a unit or a format: give --time-unit or --time-format";
                return Err(TimeOptionsError(why.to_owned()));
            }
            (Some(unit), None) => TimeForm::Unit(unit),
            (None, Some("excel")) => TimeForm::Excel1900,
            (None, Some("excel-1904")) => TimeForm::Excel1904,
            (None, Some(format)) => {
                format::check(format).map_err(TimeOptionsError)?;
                TimeForm::Format(format.to_owned())
            }
            (None, None) => TimeForm::Evident,
        };
        let zone = match zone {
            Some(zone) => zone::parse(zone).map_err(TimeOptionsError)?,
            None => TimeZone::UTC,
        };
        Ok(Self { form, zone })
    }
}

// === impl TimeUnit ===

impl TimeUnit {
    /// Every unit, longest first.
    pub const ALL: [Self; 4] =
        [Self::Seconds, Self::Milliseconds, Self::Microseconds, Self::Nanoseconds];

    /// Its symbol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Microseconds => "us",
            Self::Nanoseconds => "ns",
        }
    }

    /// How many make a second.
    pub(super) fn per_second(self) -> u128 {
        match self {
            Self::Seconds => 1,
            Self::Milliseconds => 1_000,
            Self::Microseconds => 1_000_000,
            Self::Nanoseconds => 1_000_000_000,
        }
    }
}

impl fmt::Display for TimeUnit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Microseconds => "microseconds",
            Self::Nanoseconds => "nanoseconds",
        })
    }
}

impl FromStr for TimeUnit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|unit| unit.as_str() == text);
        found.ok_or_else(|| format!("a unit is one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}
