//! What a catalogue's items say, as queries are held against it: words, values of attributes, and kinds.

use crate::bundle::{Catalog, CatalogItem};
use crate::domain::ItemText;
use crate::language::{IndexedText, TextIndex, stems};
use rustc_hash::{FxHashMap, FxHashSet};

/// Words of a value that a query may name as one phrase, at most. A longer value is found by its words alone.
pub const PHRASE_WORDS_MAX: usize = 4;
/// Stands for the name of a category among the names of attributes.
const CATEGORY: &str = "category";
/// Names of attributes whose values say what a thing is.
const KIND_NAMES: [&str; 3] = [CATEGORY, "product_type", "type"];
/// Stands for a value that no item of the catalogue has.
const NO_VALUE: u32 = u32::MAX;

/// The words and values of a catalogue's items.
#[derive(Debug, Default)]
pub struct QueryIndex {
    /// Of title, category and values.
    texts: TextIndex,
    names: FxHashMap<Box<str>, u32>,
    values: FxHashMap<Box<str>, u32>,
    /// By value: the names of the attributes that have it.
    names_of: Vec<FxHashSet<u32>>,
    /// By item: its values, with their names.
    items: Vec<Box<[NamedValue]>>,
    kind_names: FxHashSet<u32>,
}

/// A value of an item, and the name of its attribute, by their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedValue {
    /// The name.
    pub name: u32,
    /// The value.
    pub value: u32,
}

// === impl QueryIndex ===

impl QueryIndex {
    /// Indexes the items of a catalogue.
    pub fn of(catalog: &Catalog) -> Self {
        let texts = (0..catalog.len() as u32).map(|item| catalog.text(item));
        let mut index = Self { texts: TextIndex::of(texts), ..Self::default() };
        for name in KIND_NAMES {
            let number = index.name_number(name);
            index.kind_names.insert(number);
        }
        for item in catalog.items() {
            let values = index.add_item(catalog, item);
            index.items.push(values);
        }
        index
    }

    fn add_item(&mut self, catalog: &Catalog, item: &CatalogItem) -> Box<[NamedValue]> {
        let category = (CATEGORY, &**catalog.category(item.category));
        let attributes = catalog.attributes_of(item).map(|(name, value)| (&**name, &**value));
        let pairs = std::iter::once(category).chain(attributes);
        let numbered = pairs.filter_map(|(name, value)| {
            let phrase = phrase(value)?;
            let name = self.name_number(name);
            let value = self.value_number(phrase);
            self.names_of[value as usize].insert(name);
            Some(NamedValue { name, value })
        });
        numbered.collect()
    }

    fn name_number(&mut self, name: &str) -> u32 {
        let next = self.names.len() as u32;
        *self.names.entry(name.into()).or_insert(next)
    }

    fn value_number(&mut self, phrase: String) -> u32 {
        let next = self.values.len() as u32;
        let number = *self.values.entry(phrase.into()).or_insert(next);
        if number == next {
            self.names_of.push(FxHashSet::default());
        }
        number
    }

    /// The counted words of the items.
    pub fn texts(&self) -> &TextIndex {
        &self.texts
    }

    /// The number of a value, by its words in the form of [`stems`] with one space between them.
    pub fn value(&self, phrase: &str) -> Option<u32> {
        self.values.get(phrase).copied()
    }

    /// Whether a value says what a thing is: its category, or its type.
    pub fn is_kind(&self, value: u32) -> bool {
        self.names_of[value as usize].iter().any(|name| self.kind_names.contains(name))
    }

    /// The values of an item of the catalogue.
    pub fn item(&self, number: u32) -> &[NamedValue] {
        &self.items[number as usize]
    }

    /// The values of another item. Those that no item of the catalogue has still say that it has another value.
    pub fn read(&self, text: &ItemText) -> Vec<NamedValue> {
        let category = (CATEGORY, text.category.as_str());
        let attributes =
            text.attributes.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let pairs = std::iter::once(category).chain(attributes);
        let known = pairs.filter_map(|(name, value)| {
            let (name, phrase) = (*self.names.get(name)?, phrase(value)?);
            Some(NamedValue { name, value: self.value(&phrase).unwrap_or(NO_VALUE) })
        });
        known.collect()
    }

    /// Whether an item with these values has a value (`Some(true)`), or another one of the same attribute
    /// (`Some(false)`). `None` if nothing is known.
    pub fn verdict(&self, value: u32, of_item: &[NamedValue]) -> Option<bool> {
        if of_item.iter().any(|pair| pair.value == value) {
            return Some(true);
        }
        let names = &self.names_of[value as usize];
        of_item.iter().any(|pair| names.contains(&pair.name)).then_some(false)
    }

    /// The words of an item that comes with a request.
    pub fn words(&self, text: &str) -> IndexedText {
        self.texts.read(text)
    }
}

/// The words of a value as one phrase; `None` if it has none or too many.
fn phrase(value: &str) -> Option<String> {
    let words: Vec<String> = stems(value).take(PHRASE_WORDS_MAX + 1).collect();
    (1..=PHRASE_WORDS_MAX).contains(&words.len()).then(|| words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::CatalogRow;

    fn index() -> QueryIndex {
        let row = |id: &str, material: &str| CatalogRow {
            id: id.into(),
            title: format!("{material} thing"),
            category: "Kitchen".into(),
            attributes: vec![
                ("material".into(), material.into()),
                ("product_type".into(), "serving board".into()),
            ],
            price: None,
        };
        QueryIndex::of(&Catalog::new([row("w", "walnut"), row("o", "Oak")]))
    }

    #[test]
    fn a_value_is_had_or_another_one_is_or_nothing_is_known() {
        let index = index();
        let (walnut, board) =
            (index.value("walnut").unwrap(), index.value("serving board").unwrap());
        assert_eq!(index.verdict(walnut, index.item(0)), Some(true));
        assert_eq!(index.verdict(walnut, index.item(1)), Some(false));
        assert_eq!(index.verdict(walnut, &[]), None);
        assert!(index.is_kind(board) && index.is_kind(index.value("kitchen").unwrap()));
        assert!(!index.is_kind(walnut));
        assert_eq!(index.value("pine"), None);
    }

    #[test]
    fn an_inline_item_has_the_same_values() {
        let index = index();
        let text = |material: &str| ItemText {
            title: String::new(),
            category: "kitchen".into(),
            attributes: vec![("material".into(), material.into()), ("mood".into(), "dark".into())],
        };
        let walnut = index.value("walnut").unwrap();
        assert_eq!(index.verdict(walnut, &index.read(&text("Walnut"))), Some(true));
        assert_eq!(index.verdict(walnut, &index.read(&text("pine"))), Some(false));
        assert_eq!(index.verdict(walnut, &index.read(&ItemText::default())), None);
        let long = "word ".repeat(PHRASE_WORDS_MAX + 1);
        assert_eq!(index.verdict(walnut, &index.read(&text(&long))), None);
    }
}
