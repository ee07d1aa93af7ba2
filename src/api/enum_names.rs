//! How JSON names the values of the contract's enums: with their prefix or without it, in any case, or by number.

use super::validator::echo;
use serde::de::{Deserializer, Error, Visitor};
use std::fmt;

/// What follows the prefix in the name of an enum's first value.
const FIRST: &str = "UNSPECIFIED";

/// An enum of the contract: the names and numbers of its values, the unspecified one first.
pub(super) type EnumValues = &'static [(&'static str, i32)];

/// Reads the number of an enum's value. `null` is the unspecified one, as if the field were absent.
pub(super) fn number<'de, D: Deserializer<'de>>(
    deserializer: D,
    values: EnumValues,
) -> Result<i32, D::Error> {
    deserializer.deserialize_any(EnumVisitor { values })
}

struct EnumVisitor {
    values: EnumValues,
}

impl EnumVisitor {
    /// What the names of the values begin with: `EVENT_KIND_`.
    fn prefix(&self) -> &'static str {
        self.values[0].0.strip_suffix(FIRST).unwrap_or_default()
    }

    fn named<E: Error>(&self, said: &str) -> Result<i32, E> {
        let prefix = self.prefix().len();
        let is_said = |name: &str| {
            name.eq_ignore_ascii_case(said) || name[prefix..].eq_ignore_ascii_case(said)
        };
        let value = self.values.iter().find(|(name, _)| is_said(name));
        value.map(|(_, number)| *number).ok_or_else(|| self.unknown(format_args!("{}", echo(said))))
    }

    fn numbered<E: Error>(&self, said: impl fmt::Display, number: Option<i32>) -> Result<i32, E> {
        let value = self.values.iter().find(|(_, known)| Some(*known) == number);
        value.map(|(_, number)| *number).ok_or_else(|| self.unknown(said))
    }

    fn unknown<E: Error>(&self, said: impl fmt::Display) -> E {
        E::custom(format_args!("`{said}` is unknown; expected {}", self as &dyn fmt::Display))
    }
}

impl fmt::Display for EnumVisitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix();
        f.write_str("one of ")?;
        for (i, (name, _)) in self.values.iter().enumerate() {
            write!(f, "{}`{}`", if i == 0 { "" } else { ", " }, &name[prefix.len()..])?;
        }
        write!(f, ", with or without `{prefix}`, in any case")
    }
}

impl Visitor<'_> for EnumVisitor {
    type Value = i32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }

    fn visit_str<E: Error>(self, said: &str) -> Result<i32, E> {
        self.named(said)
    }

    fn visit_i64<E: Error>(self, said: i64) -> Result<i32, E> {
        self.numbered(said, said.try_into().ok())
    }

    fn visit_u64<E: Error>(self, said: u64) -> Result<i32, E> {
        self.numbered(said, said.try_into().ok())
    }

    fn visit_unit<E: Error>(self) -> Result<i32, E> {
        Ok(self.values[0].1)
    }
}
