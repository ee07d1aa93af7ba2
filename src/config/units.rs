//! Durations and sizes with their units: `"150ms"`, `"64MiB"`.

use serde::{Deserialize, Deserializer, de};
use std::time::Duration;

/// A duration with its unit: `"150ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(pub Duration);

/// A number of bytes with its unit: `"64MiB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Microseconds in each unit of time.
const DURATION_UNITS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];
/// Bytes in each unit of size.
const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(Duration::from_micros(quantity(from, &DURATION_UNITS)?)))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(Self(quantity(from, &SIZE_UNITS)?))
    }
}

fn quantity<'de, D: Deserializer<'de>>(from: D, units: &[(&str, u64)]) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text, units).ok_or_else(|| {
        let names = units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        de::Error::custom(format!("`{text}` is not a whole number with one of the units {names}"))
    })
}

/// A whole number times its unit, if the product fits.
fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        let check =
            |text, units: &[_], expected| assert_eq!(parse(text, units), expected, "{text}");
        check("150ms", &DURATION_UNITS, Some(150_000));
        check("10 m", &DURATION_UNITS, Some(600_000_000));
        check("64MiB", &SIZE_UNITS, Some(64 << 20));
        check("", &SIZE_UNITS, None);
        check("-1B", &SIZE_UNITS, None);
        check("1.5GiB", &SIZE_UNITS, None);
        check("99999999999GiB", &SIZE_UNITS, None);
    }
}
