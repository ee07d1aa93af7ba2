//! The catalogue: items by id and by number.

use super::SemanticIds;
use super::lines::at_most;
use crate::domain::{ItemId, ItemText, limits};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The items of one bundle. The number of an item, a category or an attribute is its index.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    items: Vec<CatalogItem>,
    numbers: FxHashMap<ItemId, u32>,
    categories: Numbering<Arc<str>>,
    attributes: Numbering<(Arc<str>, Arc<str>)>,
    /// The numbers of the items that have each attribute, ascending.
    holders: Vec<Vec<u32>>,
    semantic_ids: Option<SemanticIds>,
}

/// One item.
#[derive(Clone, Debug)]
pub struct CatalogItem {
    /// Its id.
    pub id: ItemId,
    /// Its name.
    pub title: Arc<str>,
    /// The number of its category.
    pub category: u32,
    /// The numbers of its attributes.
    pub attributes: Vec<u32>,
    /// Its price in the shop's currency, if known.
    pub price: Option<f32>,
    /// The number of its attribute that names the kind of product, if it has one: the first of `KINDS`.
    pub kind: Option<u32>,
}

/// Names of attributes that name the kind of product: the shop's own, and the one mined from titles.
const KINDS: [&str; 2] = ["product_type", "type"];

/// Attributes of an item, at most: the shop's own, and those that are mined from its title.
const ATTRIBUTES_MAX: usize = 4 * limits::ATTRIBUTES_MAX;

/// A line of `catalog.jsonl.zst`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CatalogRow {
    /// Its id.
    pub id: String,
    /// Its name.
    pub title: String,
    /// Its category.
    pub category: String,
    /// Name and value pairs.
    #[serde(deserialize_with = "at_most::<ATTRIBUTES_MAX, _, _>")]
    pub attributes: Vec<(String, String)>,
    /// Its price in the shop's currency, if known.
    pub price: Option<f32>,
}

/// Numbers distinct values from 0, in the order in which they come.
#[derive(Clone, Debug)]
struct Numbering<T> {
    values: Vec<T>,
    numbers: FxHashMap<T, u32>,
}

// === impl Catalog ===

impl Catalog {
    /// A catalogue of these items, numbered in their order.
    pub fn new(rows: impl IntoIterator<Item = CatalogRow>) -> Self {
        let mut catalog = Self::default();
        for row in rows {
            let category = catalog.categories.number_of(row.category.as_str().into());
            let attributes: Vec<u32> = row
                .attributes
                .iter()
                .map(|(name, value)| {
                    catalog.attributes.number_of((name.as_str().into(), value.as_str().into()))
                })
                .collect();
            let names = || row.attributes.iter().map(|(name, _)| name.as_str());
            let kind = KINDS.iter().find_map(|kind| names().position(|name| name == *kind));
            let item = CatalogItem {
                id: row.id.into(),
                title: row.title.into(),
                category,
                kind: kind.map(|index| attributes[index]),
                attributes,
                price: row.price,
            };
            let number = catalog.items.len() as u32;
            catalog.holders.resize_with(catalog.attributes.values.len(), Vec::new);
            for &attribute in &item.attributes {
                let holders = &mut catalog.holders[attribute as usize];
                if holders.last() != Some(&number) {
                    holders.push(number);
                }
            }
            catalog.numbers.insert(item.id.clone(), number);
            catalog.items.push(item);
        }
        catalog
    }

    /// The lines of `catalog.jsonl.zst`, in the order of the items' numbers.
    pub fn rows(&self) -> impl Iterator<Item = CatalogRow> + '_ {
        self.items.iter().map(|item| CatalogRow {
            id: item.id.as_str().into(),
            title: item.title.to_string(),
            category: self.category(item.category).to_string(),
            attributes: self
                .attributes_of(item)
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            price: item.price,
        })
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The number of the item with this id.
    pub fn number(&self, id: &ItemId) -> Option<u32> {
        self.numbers.get(id).copied()
    }

    /// The item of this number. Panics if there is none.
    pub fn item(&self, number: u32) -> &CatalogItem {
        &self.items[number as usize]
    }

    /// All items, in the order of their numbers.
    pub fn items(&self) -> &[CatalogItem] {
        &self.items
    }

    /// The catalogue with these semantic ids. Panics unless there is one for each item.
    pub fn with_semantic_ids(self, ids: Option<SemanticIds>) -> Self {
        assert!(ids.as_ref().is_none_or(|ids| ids.len() == self.len()), "one id for each item");
        Self { semantic_ids: ids, ..self }
    }

    /// The items' semantic ids, if there are any.
    pub fn semantic_ids(&self) -> Option<&SemanticIds> {
        self.semantic_ids.as_ref()
    }

    /// The name of a category.
    pub fn category(&self, number: u32) -> &Arc<str> {
        &self.categories.values[number as usize]
    }

    /// The number of a category, if any item has it.
    pub fn category_number(&self, name: &str) -> Option<u32> {
        self.categories.numbers.get(name).copied()
    }

    /// How many categories there are.
    pub fn categories_len(&self) -> usize {
        self.categories.values.len()
    }

    /// The name and value of an attribute.
    pub fn attribute(&self, number: u32) -> (&Arc<str>, &Arc<str>) {
        let (name, value) = &self.attributes.values[number as usize];
        (name, value)
    }

    /// The number of an attribute, if any item has it.
    pub fn attribute_number(&self, name: &str, value: &str) -> Option<u32> {
        self.attributes.numbers.get(&(name.into(), value.into())).copied()
    }

    /// How many distinct attributes there are: pairs of a name and a value.
    pub fn attributes_len(&self) -> usize {
        self.attributes.values.len()
    }

    /// The numbers of the items that have an attribute, ascending. [`CatalogItem::attributes`] is the
    /// other direction of this graph.
    pub fn items_with(&self, attribute: u32) -> &[u32] {
        &self.holders[attribute as usize]
    }

    /// The name and value of each of an item's attributes.
    pub fn attributes_of<'a>(
        &'a self,
        item: &'a CatalogItem,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)> {
        item.attributes.iter().map(|&number| self.attribute(number))
    }

    /// The text of an item, as the text encoder reads it.
    pub fn text(&self, number: u32) -> String {
        let item = self.item(number);
        let values = self.attributes_of(item).map(|(_, value)| &**value);
        describe(&item.title, self.category(item.category), values)
    }
}

/// The text of an item that comes inline, in the form of [`Catalog::text`].
pub fn inline_text(item: &ItemText) -> String {
    let values = item.attributes.iter().map(|(_, value)| value.as_str());
    describe(&item.title, &item.category, values)
}

fn describe<'a>(title: &str, category: &'a str, values: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::from(title);
    for part in std::iter::once(category).chain(values).filter(|part| !part.is_empty()) {
        text.push_str(", ");
        text.push_str(part);
    }
    text
}

// === impl Numbering ===

impl<T> Default for Numbering<T> {
    fn default() -> Self {
        Self { values: Vec::new(), numbers: FxHashMap::default() }
    }
}

impl<T: Clone + Eq + std::hash::Hash> Numbering<T> {
    fn number_of(&mut self, value: T) -> u32 {
        let next = self.values.len() as u32;
        *self.numbers.entry(value).or_insert_with_key(|value| {
            self.values.push(value.clone());
            next
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mug() -> CatalogRow {
        CatalogRow {
            id: "m1".into(),
            title: "Red Mug".into(),
            category: "kitchen".into(),
            attributes: vec![("colour".into(), "red".into())],
            price: Some(2.5),
        }
    }

    #[test]
    fn rows_survive_the_round_trip() {
        let catalog = Catalog::new([mug(), CatalogRow { id: "m2".into(), ..mug() }]);
        assert_eq!(catalog.number(&"m2".into()), Some(1));
        assert_eq!(catalog.item(0).attributes, catalog.item(1).attributes);
        let again = Catalog::new(catalog.rows());
        assert_eq!(again.text(1), "Red Mug, kitchen, red");
    }

    #[test]
    fn items_and_attributes_lead_to_each_other() {
        let pairs = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let row = |id: &str, attributes| CatalogRow { id: id.into(), attributes, ..mug() };
        let (red, blue) = (("colour", "red"), ("colour", "blue"));
        let rows = [("a", &[red][..]), ("b", &[blue, red]), ("c", &[]), ("d", &[red, red])];
        let catalog = Catalog::new(rows.map(|(id, has)| row(id, pairs(has))));
        let with =
            |(name, value)| catalog.items_with(catalog.attribute_number(name, value).unwrap());
        assert_eq!((with(red), with(blue)), ([0, 1, 3].as_slice(), [1].as_slice()));
        assert_eq!(catalog.attributes_len(), 2);
    }

    #[test]
    fn an_inline_item_reads_like_one_of_the_catalogue() {
        let inline = ItemText {
            title: "Red Mug".into(),
            category: "kitchen".into(),
            attributes: vec![("colour".into(), "red".into())],
        };
        assert_eq!(inline_text(&inline), Catalog::new([mug()]).text(0));
    }
}
