//! A JSON value as the text of a cell.

use super::cell::{NESTED_EXPECTED, VALUE_SEPARATOR};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Lists within lists.
const DEPTH_MAX: usize = 16;

/// Adds a JSON value to a cell, or says what would be valid. Lists and objects are for `nested` columns only: the
/// values of a list are separated, and an object stays JSON.
pub(super) fn add_json(value: &str, nested: bool, cell: &mut String) -> Result<(), String> {
    let is_nested = value.starts_with(['[', '{']);
    if is_nested && !nested {
        return Err(NESTED_EXPECTED.to_owned());
    }
    add_value(value, cell, 0)
}

fn add_value(value: &str, cell: &mut String, depth: usize) -> Result<(), String> {
    match value.as_bytes() {
        [b'n', ..] => {}
        [b'"', ..] => {
            let text: Cow<'_, str> = text_of(value)?;
            cell.push_str(&text);
        }
        [b'[', ..] if depth == DEPTH_MAX => {
            return Err(format!("lists that are nested at most {DEPTH_MAX} deep"));
        }
        [b'[', ..] => {
            let values: Vec<&RawValue> =
                serde_json::from_str(value).map_err(|_| "a list".to_owned())?;
            for value in values {
                if !cell.is_empty() {
                    cell.push(VALUE_SEPARATOR);
                }
                add_value(value.get(), cell, depth + 1)?;
            }
        }
        // A number keeps its digits: an id may have more of them than a float.
        _ => cell.push_str(value),
    }
    Ok(())
}

fn text_of(value: &str) -> Result<Cow<'_, str>, String> {
    let inner = &value[1..value.len() - 1];
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str(value).map(Cow::Owned).map_err(|_| "text of whole characters".to_owned())
}
