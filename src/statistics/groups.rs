//! The category and the attributes of each item, by number.

use super::chunks::Chunked;
use super::error::StatisticsError;

/// Items of a catalogue, put items included.
pub const ITEMS_MAX: usize = 1 << 26;
/// Categories of a catalogue, and attributes.
pub const GROUPS_MAX: usize = 1 << 22;
/// Attributes of one item that are counted.
pub const ITEM_GROUPS_MAX: usize = 256;
/// Items whose groups lie in one chunk.
const CHUNK: usize = 32;
/// The number of no category.
const NONE: u32 = u32::MAX;

/// For each item its category and its attributes.
#[derive(Clone, Debug)]
pub struct ItemGroups {
    categories: usize,
    attributes: usize,
    items: usize,
    chunks: Chunked<GroupChunk, 1>,
}

/// The groups of up to [`CHUNK`] items.
#[derive(Clone, Debug, Default)]
struct GroupChunk {
    categories: Vec<u32>,
    /// Where the attributes of each item end.
    ends: Vec<u32>,
    attributes: Vec<u32>,
}

// === impl ItemGroups ===

impl ItemGroups {
    /// No items yet, with so many categories and attributes. Fails above [`GROUPS_MAX`].
    pub fn new(categories: usize, attributes: usize) -> Result<Self, StatisticsError> {
        for (field, value) in [("categories", categories), ("attributes", attributes)] {
            if value > GROUPS_MAX {
                return Err(StatisticsError::AboveLimit { field, limit: GROUPS_MAX, value });
            }
        }
        Ok(Self { categories, attributes, items: 0, chunks: Chunked::new(0) })
    }

    /// Appends an item. Fails for a number that is not below those of [`ItemGroups::new`], for more than
    /// [`ITEM_GROUPS_MAX`] attributes, and above [`ITEMS_MAX`] items; then nothing is appended.
    pub fn push(
        &mut self,
        category: Option<u32>,
        attributes: &[u32],
    ) -> Result<(), StatisticsError> {
        let above = |field, limit, value| StatisticsError::AboveLimit { field, limit, value };
        if self.items >= ITEMS_MAX {
            return Err(above("items", ITEMS_MAX, self.items + 1));
        }
        if attributes.len() > ITEM_GROUPS_MAX {
            return Err(above("attributes of an item", ITEM_GROUPS_MAX, attributes.len()));
        }
        let item = self.items;
        let check = |field, number: u32, limit: usize| {
            if (number as usize) < limit {
                return Ok(());
            }
            let (rule, value) = (format!("below {limit}"), number.to_string());
            Err(StatisticsError::Value { of: "item", number: item, field, rule, value })
        };
        category.map_or(Ok(()), |number| check("category", number, self.categories))?;
        for &number in attributes {
            check("attribute", number, self.attributes)?;
        }
        self.append(category, attributes.iter().copied());
        Ok(())
    }

    /// Appends what is known of an item's groups, and leaves out the rest. `None` above [`ITEMS_MAX`] items.
    pub(super) fn push_known(
        &mut self,
        category: Option<u32>,
        attributes: &[u32],
    ) -> Option<usize> {
        if self.items >= ITEMS_MAX {
            return None;
        }
        let (categories, known) = (self.categories, self.attributes);
        let category = category.filter(|&number| (number as usize) < categories);
        let attributes = attributes.iter().copied().filter(|&number| (number as usize) < known);
        self.append(category, attributes.take(ITEM_GROUPS_MAX));
        Some(self.items - 1)
    }

    fn append(&mut self, category: Option<u32>, attributes: impl Iterator<Item = u32>) {
        if self.items.is_multiple_of(CHUNK) {
            self.chunks.push(GroupChunk::default());
        }
        let last = self.chunks.len() - 1;
        let chunk = self.chunks.get_mut(last).expect("there is a chunk for the item");
        chunk.categories.push(category.unwrap_or(NONE));
        let start = chunk.attributes.len();
        for number in attributes {
            // An attribute that is named twice counts once.
            if !chunk.attributes[start..].contains(&number) {
                chunk.attributes.push(number);
            }
        }
        chunk.ends.push(chunk.attributes.len() as u32);
        self.items += 1;
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.items == 0
    }

    /// How many categories there are.
    pub fn categories(&self) -> usize {
        self.categories
    }

    /// How many attributes there are.
    pub fn attributes(&self) -> usize {
        self.attributes
    }

    /// The category and the attributes of an item; none for an unknown number.
    pub fn of(&self, item: u32) -> (Option<u32>, &[u32]) {
        let (at, place) = (item as usize / CHUNK, item as usize % CHUNK);
        let Some(chunk) = self.chunks.get(at).filter(|chunk| place < chunk.ends.len()) else {
            return (None, &[]);
        };
        let start = if place == 0 { 0 } else { chunk.ends[place - 1] as usize };
        let category = chunk.categories[place];
        let attributes = &chunk.attributes[start..chunk.ends[place] as usize];
        ((category != NONE).then_some(category), attributes)
    }
}
