//! The attributes of an item: name and value pairs.

use super::cell::{Expected, VALUE_SEPARATOR, from_json};
use crate::domain::limits::ATTRIBUTES_MAX;
use crate::shop::ATTRIBUTE_BYTES_MAX;
use serde_json::{Map, Value};

/// The attributes of one item: distinct, without empty values, at most [`ATTRIBUTES_MAX`].
#[derive(Default)]
pub(super) struct ItemAttributes(Vec<(String, String)>);

// === impl ItemAttributes ===

impl ItemAttributes {
    /// Adds the attributes in a JSON object.
    pub(super) fn add_object(&mut self, text: &str) -> Result<(), Expected> {
        let expected = || "a JSON object of texts, numbers and lists of them".into();
        let object: Map<String, Value> = serde_json::from_str(text).map_err(|_| expected())?;
        for (name, value) in object {
            let values = match value {
                Value::Array(values) => values,
                value => vec![value],
            };
            for value in values {
                if value.is_array() || value.is_object() {
                    return Err(expected());
                }
                let mut text = String::new();
                from_json(&value, &mut text);
                self.add(&name, &text)?;
            }
        }
        Ok(())
    }

    /// Adds the values in a cell of the attribute `name`.
    pub(super) fn add_values(&mut self, name: &str, text: &str) -> Result<(), Expected> {
        text.split(VALUE_SEPARATOR).try_for_each(|value| self.add(name, value))
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), Expected> {
        let pair = (name.trim().to_owned(), value.trim().to_owned());
        if pair.0.is_empty() || pair.0.len().max(pair.1.len()) > ATTRIBUTE_BYTES_MAX {
            return Err(format!(
                "attributes with a name, and no name or value above {ATTRIBUTE_BYTES_MAX} bytes"
            )
            .into());
        }
        if pair.1.is_empty() || self.0.contains(&pair) {
            return Ok(());
        }
        if self.0.len() == ATTRIBUTES_MAX {
            return Err(format!("at most {ATTRIBUTES_MAX} attributes of one item").into());
        }
        self.0.push(pair);
        Ok(())
    }

    /// The pairs, sorted by name. The values of one name keep their order.
    pub(super) fn sorted(mut self) -> Vec<(String, String)> {
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pairs: ItemAttributes) -> Vec<String> {
        pairs.sorted().iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn objects_hold_texts_and_lists_of_texts() {
        for (text, expected) in [
            ("{}", Some(vec![])),
            (r#"{"size":5,"dry":true,"made":null,"void":""}"#, Some(vec!["dry=true", "size=5"])),
            (r#"{"color":["red","blue","red"]}"#, Some(vec!["color=red", "color=blue"])),
            (r#"{"":"red"}"#, None),
            (r#"{"a":{"b":1}}"#, None),
            (r#"{"a":[[1]]}"#, None),
            (r#"["a"]"#, None),
            ("red", None),
        ] {
            let mut pairs = ItemAttributes::default();
            let found = pairs.add_object(text).ok().map(|()| shown(pairs));
            let expected = expected.map(|pairs| pairs.into_iter().map(str::to_owned).collect());
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn an_item_has_few_attributes_however_they_come() {
        let mut pairs = ItemAttributes::default();
        pairs.add_values("size", " S |M||S").unwrap();
        pairs.add_values("color", "red").unwrap();
        pairs.add_object(r#"{"size":"L","color":"red"}"#).unwrap();
        assert_eq!(
            shown(ItemAttributes(pairs.0.clone())),
            ["color=red", "size=S", "size=M", "size=L"]
        );
        let many: Vec<_> = (0..ATTRIBUTES_MAX).map(|n| n.to_string()).collect();
        let refused = pairs.add_values("n", &many.join("|")).unwrap_err();
        assert_eq!(refused, "at most 32 attributes of one item");
    }
}
