//! Checks of fields against their limits. One error lists all violations of a request.

use super::error::{ApiError, Violation};
use crate::domain::limits::ID_BYTES_MAX;
use std::borrow::Cow;
use std::fmt::Display;

/// Violations that one error lists. More are only counted.
const VIOLATIONS_MAX: usize = 16;
/// Characters of an invalid value that an error quotes.
const ECHO_CHARS_MAX: usize = 40;

/// An invalid value as an error quotes it: its start, if it is long.
pub fn echo(value: &str) -> Cow<'_, str> {
    match value.char_indices().nth(ECHO_CHARS_MAX) {
        None => value.into(),
        Some((end, _)) => format!("{}…", &value[..end]).into(),
    }
}

/// Collects violations. A field's path is formatted only if the field is invalid.
#[derive(Debug, Default)]
pub struct Validator {
    violations: Vec<Violation>,
    more: usize,
}

impl Validator {
    /// Adds a violation.
    pub fn reject(&mut self, field: impl Display, problem: impl Display) {
        if self.violations.len() < VIOLATIONS_MAX {
            let (field, problem) = (field.to_string(), problem.to_string());
            self.violations.push(Violation { field, problem });
        } else {
            self.more += 1;
        }
    }

    /// Checks an id that is required.
    pub fn id(&mut self, field: impl Display, id: &str) {
        if id.is_empty() {
            self.reject(field, "is empty, but required");
        } else {
            self.bytes(field, id, ID_BYTES_MAX);
        }
    }

    /// Checks that a text has at most `max` bytes.
    pub fn bytes(&mut self, field: impl Display, text: &str, max: usize) {
        if text.len() > max {
            let (length, start) = (text.len(), echo(text));
            self.reject(field, format_args!("is {length} bytes (`{start}`); the limit is {max}"));
        }
    }

    /// Checks that a list has at most `max` entries.
    pub fn count(&mut self, field: impl Display, count: usize, max: usize) {
        if count > max {
            self.reject(field, format_args!("has {count} entries; the limit is {max}"));
        }
    }

    /// Checks that a number is at most `max`.
    pub fn at_most(&mut self, field: impl Display, number: usize, max: usize) {
        if number > max {
            self.reject(field, format_args!("is {number}; the limit is {max}"));
        }
    }

    /// Checks that a number is neither NaN nor infinite.
    pub fn finite(&mut self, field: impl Display, number: Option<f32>) {
        if let Some(number) = number.filter(|number| !number.is_finite()) {
            self.reject(field, format_args!("is {number}, but must be finite"));
        }
    }

    /// Checks that a number that must be finite is not negative either.
    pub fn not_negative(&mut self, field: impl Display, number: Option<f32>) {
        if let Some(number) = number.filter(|number| number.is_finite() && *number < 0.0) {
            self.reject(&field, format_args!("is {number}, but must not be negative"));
        }
        self.finite(field, number);
    }

    /// Decodes an enum, and checks that the contract names this number.
    pub fn enum_value<E: TryFrom<i32> + Default>(&mut self, field: impl Display, number: i32) -> E {
        E::try_from(number).unwrap_or_else(|_| {
            self.reject(field, format_args!("is {number}, which names no value"));
            E::default()
        })
    }

    /// The first violation.
    pub fn into_first(self) -> Option<Violation> {
        self.violations.into_iter().next()
    }

    /// `value`, if there is no violation.
    pub fn finish<T>(self, value: T) -> Result<T, ApiError> {
        if self.violations.is_empty() { Ok(value) } else { Err(self.into_error()) }
    }

    /// All violations.
    pub fn into_error(self) -> ApiError {
        ApiError::invalid(self.violations, self.more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_are_listed_up_to_a_bound() {
        let mut validator = Validator::default();
        for number in 0..20 {
            validator.id(format_args!("candidates[{number}].item_id"), "");
        }
        let error = validator.finish(()).unwrap_err();
        let message = format!("{error:?}");
        assert!(message.contains("candidates[15].item_id is empty, but required; and 4 more"));
        assert!(!message.contains("candidates[16]"));
    }
}
