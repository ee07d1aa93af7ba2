//! A JSON value as the text of a cell.

use super::cell::{NESTED_EXPECTED, VALUE_SEPARATOR};
use super::columns::ColumnSpec;
use super::id::{boolean_text, number_text};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Lists within lists.
const DEPTH_MAX: usize = 16;

/// Adds a JSON value to the cell of a column, or says what would be valid. Lists and objects are for nested columns only:
/// the values of a list are separated, and an object stays JSON.
pub(super) fn add_json(
    value: &str,
    column: &ColumnSpec,
    cell: &mut String,
) -> Result<(), Cow<'static, str>> {
    if value.starts_with(['[', '{']) && !column.nested {
        return Err(NESTED_EXPECTED.into());
    }
    add_value(value, column.id, cell, 0)
}

fn add_value(
    value: &str,
    is_id: bool,
    cell: &mut String,
    depth: usize,
) -> Result<(), Cow<'static, str>> {
    match value.as_bytes() {
        [b'n', ..] => {}
        [b'"', ..] => cell.push_str(&text_of(value)?),
        [b't' | b'f', ..] => cell.push_str(boolean_text(value == "true", is_id)?),
        [b'{', ..] => cell.push_str(value),
        [b'[', ..] if depth == DEPTH_MAX => {
            return Err(format!("lists that are nested at most {DEPTH_MAX} deep").into());
        }
        [b'[', ..] => {
            let values: Vec<&RawValue> = serde_json::from_str(value).map_err(|_| "a list")?;
            for value in values {
                if !cell.is_empty() {
                    cell.push(VALUE_SEPARATOR);
                }
                add_value(value.get(), is_id, cell, depth + 1)?;
            }
        }
        // A number keeps its digits: an id may have more of them than a float.
        _ => cell.push_str(&number_text(value, is_id)?),
    }
    Ok(())
}

fn text_of(value: &str) -> Result<Cow<'_, str>, Cow<'static, str>> {
    let inner = &value[1..value.len() - 1];
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str(value).map(Cow::Owned).map_err(|_| "text of whole characters".into())
}
