//! Checks of fields against their limits: all that are wrong are told at once.

use super::error::{ApiError, Violation};
use crate::domain::limits::ID_BYTES_MAX;
use std::fmt::Display;

/// Wrong fields told to a caller in one go; more are only counted.
const VIOLATIONS_MAX: usize = 16;
/// Characters of a wrong value that are told back.
const ECHO_CHARS_MAX: usize = 40;

/// The wrong fields found so far. A field's path is written only where it is wrong.
#[derive(Debug, Default)]
pub struct Validator {
    violations: Vec<Violation>,
    more: usize,
}

impl Validator {
    /// Says that `field` is wrong.
    pub fn refuse(&mut self, field: impl Display, problem: impl Display) {
        if self.violations.len() < VIOLATIONS_MAX {
            let (field, problem) = (field.to_string(), problem.to_string());
            self.violations.push(Violation { field, problem });
        } else {
            self.more += 1;
        }
    }

    /// An id that must be there.
    pub fn id(&mut self, field: impl Display, id: &str) {
        if id.is_empty() {
            self.refuse(field, "is empty, but required");
        } else {
            self.bytes(field, id, ID_BYTES_MAX);
        }
    }

    /// Text of at most `max` bytes.
    pub fn bytes(&mut self, field: impl Display, text: &str, max: usize) {
        if text.len() > max {
            let start = text.chars().take(ECHO_CHARS_MAX).collect::<String>();
            let length = text.len();
            self.refuse(field, format_args!("is {length} bytes (`{start}…`); the limit is {max}"));
        }
    }

    /// At most `max` of them.
    pub fn count(&mut self, field: impl Display, count: usize, max: usize) {
        if count > max {
            self.refuse(field, format_args!("has {count} entries; the limit is {max}"));
        }
    }

    /// A number of at most `max`.
    pub fn at_most(&mut self, field: impl Display, number: usize, max: usize) {
        if number > max {
            self.refuse(field, format_args!("is {number}; the limit is {max}"));
        }
    }

    /// Neither NaN nor infinite.
    pub fn finite(&mut self, field: impl Display, number: Option<f32>) {
        if let Some(number) = number.filter(|number| !number.is_finite()) {
            self.refuse(field, format_args!("is {number}, but must be finite"));
        }
    }

    /// A number that the contract names as a value of its enum.
    pub fn named<E: TryFrom<i32> + Default>(&mut self, field: impl Display, number: i32) -> E {
        E::try_from(number).unwrap_or_else(|_| {
            self.refuse(field, format_args!("is {number}, which names no value"));
            E::default()
        })
    }

    /// `value`, if nothing is wrong.
    pub fn admit<T>(self, value: T) -> Result<T, ApiError> {
        let Self { violations, more } = self;
        if violations.is_empty() { Ok(value) } else { Err(ApiError::invalid(violations, more)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_fields_are_told_up_to_a_bound() {
        let mut bounds = Validator::default();
        for number in 0..20 {
            bounds.id(format_args!("candidates[{number}].item_id"), "");
        }
        let fault = bounds.admit(()).unwrap_err();
        let told = format!("{fault:?}");
        assert!(told.contains("candidates[15].item_id is empty, but required; and 4 more"));
        assert!(!told.contains("candidates[16]"));
    }
}
