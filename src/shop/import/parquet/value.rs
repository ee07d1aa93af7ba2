//! The text of a Parquet value, by its column's type.

use crate::shop::import::cell::Expected;
use crate::shop::import::id::{
    DOUBLE_WHOLE_END, FLOAT_WHOLE_END, HALF_WHOLE_END, UUID_BYTES, boolean_text, bytes_text,
    decimal_text, float_text, uuid_text,
};
use half::f16;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as PhysicalType};
use parquet::data_type::Int96;
use parquet::schema::types::Type;
use std::fmt::Write as _;

/// Bytes of the largest decimal that is read: 38 digits.
const DECIMAL_BYTES: usize = 16;
const EPOCH: Date = jiff::civil::date(1970, 1, 1);
const NANOSECONDS_A_SECOND: i64 = 1_000_000_000;
const SECONDS_A_DAY: i64 = 24 * 60 * 60;

/// What the values of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueKind {
    /// Text, or bytes that should be.
    Text,
    Boolean,
    Integer,
    /// A whole number that may have the sign's bit set.
    Unsigned,
    Half,
    Float,
    Double,
    /// A whole number to divide by so many powers of ten.
    Decimal(i32),
    Uuid,
    /// Days since 1970.
    Date,
    /// Nanoseconds of a unit, since midnight.
    TimeOfDay(i64),
    /// Nanoseconds of a unit, since 1970 in UTC.
    Instant(i64),
    /// Nanoseconds of a unit, since 1970 by the clock of an unknown zone.
    Civil(i64),
    /// Spark's old timestamps: nanoseconds of a day of the Julian calendar, in UTC.
    Int96,
}

/// A value of a column.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Boolean(bool),
    Integer(i64),
    /// A single-precision float as a double, or a double.
    Float(f64),
    Int96(Int96),
    Bytes(&'a [u8]),
}

// === impl ValueKind ===

impl ValueKind {
    /// The kind of a column that is not nested; none if there is no text of its values.
    pub(super) fn of(column: &Type) -> Option<Self> {
        let info = column.get_basic_info();
        if info.converted_type() == ConvertedType::INTERVAL {
            return None;
        }
        let logical = info.logical_type_ref().and_then(Self::of_logical);
        let kind = logical
            .or_else(|| Self::of_converted(info.converted_type(), column.get_scale()))
            .unwrap_or_else(|| Self::of_physical(column.get_physical_type()));
        Some(kind)
    }

    fn of_logical(logical: &LogicalType) -> Option<Self> {
        match logical {
            LogicalType::String | LogicalType::Enum | LogicalType::Json | LogicalType::Bson => {
                Some(Self::Text)
            }
            LogicalType::Uuid => Some(Self::Uuid),
            LogicalType::Float16 => Some(Self::Half),
            LogicalType::Date => Some(Self::Date),
            LogicalType::Decimal(decimal) => Some(Self::Decimal(decimal.scale)),
            LogicalType::Integer(integer) if integer.is_signed => Some(Self::Integer),
            LogicalType::Integer(_) => Some(Self::Unsigned),
            LogicalType::Time(time) => Some(Self::TimeOfDay(nanoseconds(time.unit))),
            LogicalType::Timestamp(time) if time.is_adjusted_to_u_t_c => {
                Some(Self::Instant(nanoseconds(time.unit)))
            }
            LogicalType::Timestamp(time) => Some(Self::Civil(nanoseconds(time.unit))),
            _ => None,
        }
    }

    /// By the types of Parquet's first version, in which each timestamp is in UTC.
    fn of_converted(converted: ConvertedType, scale: i32) -> Option<Self> {
        match converted {
            ConvertedType::DECIMAL => Some(Self::Decimal(scale)),
            ConvertedType::DATE => Some(Self::Date),
            ConvertedType::TIME_MILLIS => Some(Self::TimeOfDay(nanoseconds(TimeUnit::MILLIS))),
            ConvertedType::TIME_MICROS => Some(Self::TimeOfDay(nanoseconds(TimeUnit::MICROS))),
            ConvertedType::TIMESTAMP_MILLIS => Some(Self::Instant(nanoseconds(TimeUnit::MILLIS))),
            ConvertedType::TIMESTAMP_MICROS => Some(Self::Instant(nanoseconds(TimeUnit::MICROS))),
            ConvertedType::UINT_8
            | ConvertedType::UINT_16
            | ConvertedType::UINT_32
            | ConvertedType::UINT_64 => Some(Self::Unsigned),
            _ => None,
        }
    }

    fn of_physical(physical: PhysicalType) -> Self {
        match physical {
            PhysicalType::BOOLEAN => Self::Boolean,
            PhysicalType::INT32 | PhysicalType::INT64 => Self::Integer,
            PhysicalType::INT96 => Self::Int96,
            PhysicalType::FLOAT => Self::Float,
            PhysicalType::DOUBLE => Self::Double,
            PhysicalType::BYTE_ARRAY | PhysicalType::FIXED_LEN_BYTE_ARRAY => Self::Text,
        }
    }

    /// Adds the text of a value to a cell, or says what would be valid.
    pub(super) fn write(
        self,
        value: Value<'_>,
        is_id: bool,
        cell: &mut String,
    ) -> Result<(), Expected> {
        match (self, value) {
            (Self::Text, Value::Bytes(bytes)) => cell.push_str(bytes_text(bytes)?),
            (Self::Uuid, Value::Bytes(bytes)) => {
                let bytes: &[u8; UUID_BYTES] =
                    bytes.try_into().map_err(|_| "16 bytes of a UUID")?;
                cell.push_str(&uuid_text(bytes));
            }
            (Self::Boolean, Value::Boolean(value)) => cell.push_str(boolean_text(value, is_id)?),
            (Self::Integer, Value::Integer(value)) => push(cell, value),
            (Self::Unsigned, Value::Integer(value)) => push(cell, value as u64),
            (Self::Float, Value::Float(value)) => {
                cell.push_str(&single_text(value, is_id)?);
            }
            (Self::Double, Value::Float(value)) => {
                cell.push_str(&float_text(value, DOUBLE_WHOLE_END, is_id)?);
            }
            (Self::Half, Value::Bytes(bytes)) => {
                let bytes = bytes.try_into().map_err(|_| "2 bytes of a float")?;
                let value = f16::from_le_bytes(bytes).to_f64();
                cell.push_str(&float_text(value, HALF_WHOLE_END, is_id)?);
            }
            (Self::Decimal(scale), value) => {
                cell.push_str(&decimal_text(&unscaled(value)?, scale, is_id)?);
            }
            (kind, value) => kind.write_moment(value, cell).ok_or("a time of the calendar")?,
        }
        Ok(())
    }

    /// Adds the text of a date, a time of day or a timestamp; none if it is beyond the calendar.
    fn write_moment(self, value: Value<'_>, cell: &mut String) -> Option<()> {
        match (self, value) {
            (Self::Date, Value::Integer(days)) => {
                let span = SignedDuration::from_secs(days.checked_mul(SECONDS_A_DAY)?);
                push(cell, EPOCH.checked_add(span).ok()?);
            }
            (Self::TimeOfDay(unit), Value::Integer(count)) => {
                let since = SignedDuration::from_nanos(count.checked_mul(unit)?);
                push(cell, Time::midnight().checked_add(since).ok()?);
            }
            (Self::Instant(unit), Value::Integer(count)) => push(cell, instant(count, unit)?),
            (Self::Civil(unit), Value::Integer(count)) => {
                push(cell, TimeZone::UTC.to_datetime(instant(count, unit)?));
            }
            // The crate's nanoseconds wrap around in 2262, its seconds do not.
            (Self::Int96, Value::Int96(value)) => {
                push(cell, Timestamp::from_second(value.to_seconds()).ok()?);
            }
            _ => return None,
        }
        Some(())
    }
}

impl Value<'_> {
    /// The value as a person may recognise it in an error.
    pub(super) fn shown(self) -> String {
        match self {
            Self::Boolean(value) => value.to_string(),
            Self::Integer(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Int96(value) => value.to_string(),
            Self::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        }
    }
}

fn push(cell: &mut String, value: impl std::fmt::Display) {
    write!(cell, "{value}").expect("a string takes every text");
}

/// A single-precision float by its own shortest text: 6.95, not 6.949999809265137.
fn single_text(value: f64, is_id: bool) -> Result<String, Expected> {
    let text = float_text(value, FLOAT_WHOLE_END, is_id)?;
    Ok(if is_id || value == 0.0 { text } else { (value as f32).to_string() })
}

/// The digits of a decimal's whole number.
fn unscaled(value: Value<'_>) -> Result<String, Expected> {
    let bytes = match value {
        Value::Integer(value) => return Ok(value.to_string()),
        Value::Bytes(bytes) => bytes,
        _ => return Err("a decimal".into()),
    };
    // Two's complement, highest byte first. The first bytes may only repeat the sign.
    let fill = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    let (first, last) = bytes.split_at(bytes.len().saturating_sub(DECIMAL_BYTES));
    let mut number = [fill; DECIMAL_BYTES];
    number[DECIMAL_BYTES - last.len()..].copy_from_slice(last);
    let number = i128::from_be_bytes(number);
    let keeps_sign = first.is_empty() || (number < 0) == (fill == 0xff);
    if first.iter().all(|byte| *byte == fill) && keeps_sign {
        return Ok(number.to_string());
    }
    Err("a decimal of at most 38 digits".into())
}

/// A moment in whole seconds, rounded down: a shop's times are.
fn instant(count: i64, unit: i64) -> Option<Timestamp> {
    Timestamp::from_second(count.div_euclid(NANOSECONDS_A_SECOND / unit)).ok()
}

/// The nanoseconds of a unit.
fn nanoseconds(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::MILLIS => 1_000_000,
        TimeUnit::MICROS => 1_000,
        TimeUnit::NANOS => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(kind: ValueKind, value: Value<'_>, is_id: bool) -> Option<String> {
        let mut cell = String::new();
        kind.write(value, is_id, &mut cell).ok().map(|()| cell)
    }

    #[test]
    fn values_are_text_by_their_kind() {
        use Value::{Boolean, Bytes, Float, Integer};
        let large: Vec<u8> = [&[0; 16][..], &[0x80], &[0; 15]].concat();
        let long: Vec<u8> = [&[0xff; 31][..], &[0x83]].concat();
        for (kind, value, id, other) in [
            (ValueKind::Text, Bytes(b"a\xc3\xa9"), Some("aé"), Some("aé")),
            (ValueKind::Text, Bytes(b"\xff"), None, None),
            (ValueKind::Boolean, Boolean(true), None, Some("true")),
            (ValueKind::Integer, Integer(i64::MIN), Some("-9223372036854775808"), None),
            (ValueKind::Unsigned, Integer(-1), Some("18446744073709551615"), None),
            (ValueKind::Double, Float(12.0), Some("12"), Some("12")),
            (ValueKind::Double, Float(6.95), None, Some("6.95")),
            (ValueKind::Double, Float(1e16), None, Some("10000000000000000")),
            (ValueKind::Float, Float(f64::from(6.95_f32)), None, Some("6.95")),
            (ValueKind::Float, Float(16_777_216.0), None, Some("16777216")),
            (ValueKind::Half, Bytes(&[0, 0x4a]), Some("12"), Some("12")),
            (ValueKind::Decimal(2), Integer(1_200), Some("12"), Some("12")),
            (ValueKind::Decimal(2), Bytes(&[0x04, 0xe2]), None, Some("12.5")),
            (ValueKind::Decimal(0), Bytes(&long), Some("-125"), Some("-125")),
            (ValueKind::Decimal(0), Bytes(&large), None, None),
            (ValueKind::Decimal(0), Bytes(b""), Some("0"), Some("0")),
            (ValueKind::Date, Integer(14_579), Some("2009-12-01"), Some("2009-12-01")),
            (ValueKind::Date, Integer(i64::MAX), None, None),
            (ValueKind::TimeOfDay(1_000), Integer(27_900_000_000), Some("07:45:00"), None),
            (
                ValueKind::Instant(1),
                Integer(1_259_653_500_999_999_999),
                Some("2009-12-01T07:45:00Z"),
                None,
            ),
            (ValueKind::Instant(1_000_000), Integer(-1), Some("1969-12-31T23:59:59Z"), None),
            (ValueKind::Instant(1_000_000), Integer(i64::MAX), None, None),
            (
                ValueKind::Civil(1_000),
                Integer(1_259_653_500_000_000),
                Some("2009-12-01T07:45:00"),
                None,
            ),
        ] {
            assert_eq!(text(kind, value, true).as_deref(), id, "{kind:?} {value:?}");
            if other.is_some() {
                assert_eq!(text(kind, value, false).as_deref(), other, "{kind:?} {value:?}");
            }
        }
        let mut int96 = Int96::new();
        int96.set_data(0, 0, 2_440_588 + 14_579);
        assert_eq!(
            text(ValueKind::Int96, Value::Int96(int96), false).unwrap(),
            "2009-12-01T00:00:00Z"
        );
        assert_eq!(text(ValueKind::Date, Value::Bytes(b"x"), false), None);
    }
}
