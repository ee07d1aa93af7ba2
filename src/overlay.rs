//! How is one layer of settings laid over another?
//!
//! The configuration lays the environment over a file, and a recipe lays `--set KEY=VALUE` over its own: both are
//! TOML tables, and both take single values as text.

use toml::{Table, Value};

/// A step of a key's path names a value where a section was needed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is a value, not a section")]
pub struct NotASection(pub String);

/// Sets the value at `path`, and adds the sections that lead to it.
///
/// `text` is a TOML value (`7`, `true`, `[1, 2]`, `{ a = 1 }`), or else a string without quotes (`40ms`, `data/x`).
/// A date is a string as well, because no setting is a TOML date.
///
/// # Panics
///
/// If `path` is empty.
pub fn set(table: &mut Table, path: &[&str], text: &str) -> Result<(), NotASection> {
    let (key, sections) = path.split_last().expect("a path has at least one step");
    let mut table = table;
    for section in sections {
        table = table
            .entry(*section)
            .or_insert_with(|| Value::Table(Table::new()))
            .as_table_mut()
            .ok_or_else(|| NotASection((*section).to_owned()))?;
    }
    table.insert((*key).to_owned(), value(text));
    Ok(())
}

/// Lays `upper` over `lower`, key by key: sections are merged, and all other values are replaced.
pub fn merge(lower: &mut Table, upper: Table) {
    for (key, value) in upper {
        match (lower.get_mut(&key), value) {
            (Some(Value::Table(lower)), Value::Table(upper)) => merge(lower, upper),
            (_, value) => _ = lower.insert(key, value),
        }
    }
}

fn value(text: &str) -> Value {
    let parsed = format!("value = {text}").parse::<Table>().ok();
    parsed
        // Text with a line break could hold more than one key.
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .filter(|value| !value.is_datetime())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_toml_or_else_a_string() {
        let check = |text: &str, expected: Value| assert_eq!(value(text), expected, "{text}");
        check("7", Value::Integer(7));
        check("0.5", Value::Float(0.5));
        check("false", Value::Boolean(false));
        check("[1, 2]", Value::Array(vec![Value::Integer(1), Value::Integer(2)]));
        check("\"7\"", Value::String("7".into()));
        for text in
            ["40ms", "data/facts.redb", "[::1]:9000", "127.0.0.1:0", "2024-05-01", "1\nb = 2", ""]
        {
            check(text, Value::String(text.into()));
        }
    }

    #[test]
    fn an_upper_layer_replaces_only_what_it_names() {
        let table = |text: &str| text.parse::<Table>().unwrap();
        let mut lower = table("[api]\na = 1\nb = 2\n[engine]\nc = 3\n");
        merge(&mut lower, table("[api]\nb = 4\n[store]\nd = 5\n"));
        assert_eq!(lower, table("[api]\na = 1\nb = 4\n[engine]\nc = 3\n[store]\nd = 5\n"));
        set(&mut lower, &["api", "deep", "e"], "6").unwrap();
        assert_eq!(lower["api"]["deep"]["e"], Value::Integer(6));
        assert_eq!(set(&mut lower, &["api", "a", "x"], "7"), Err(NotASection("a".into())));
    }
}
