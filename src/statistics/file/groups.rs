//! The groups of items in stored statistics.

use super::bytes::{Reader, Writer};
use crate::statistics::error::StatisticsError;
use crate::statistics::groups::{ITEM_GROUPS_MAX, ITEMS_MAX, ItemGroups};

/// The number of no category.
const NONE: u32 = u32::MAX;
// The number of an item's attributes is written in two bytes.
const _: () = assert!(ITEM_GROUPS_MAX <= u16::MAX as usize);

pub(super) fn write(groups: &ItemGroups, out: &mut Writer) {
    for count in [groups.categories(), groups.attributes(), groups.len()] {
        out.put((count as u32).to_le_bytes());
    }
    for item in 0..groups.len() as u32 {
        let (category, attributes) = groups.of(item);
        out.put(category.unwrap_or(NONE).to_le_bytes());
        out.put((attributes.len() as u16).to_le_bytes());
        for number in attributes {
            out.put(number.to_le_bytes());
        }
    }
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<ItemGroups, StatisticsError> {
    let (categories, attributes) = (reader.u32("categories")?, reader.u32("attributes")?);
    let mut groups = ItemGroups::new(categories as usize, attributes as usize)?;
    let items = reader.u32("items")? as usize;
    if items > ITEMS_MAX {
        return Err(StatisticsError::AboveLimit { field: "items", limit: ITEMS_MAX, value: items });
    }
    let mut attributes = Vec::new();
    for item in 0..items {
        let category = reader.u32("category")?;
        let count = reader.u16("attributes of an item")?;
        attributes.clear();
        for _ in 0..count {
            attributes.push(reader.u32("attribute")?);
        }
        groups.push((category != NONE).then_some(category), &attributes)?;
        let kept = groups.of(item as u32).1.len();
        if kept < attributes.len() {
            let (field, rule) = ("attributes of an item", "named once".to_owned());
            let value = format!("{count} with {} named twice", attributes.len() - kept);
            return Err(StatisticsError::Value { of: "item", number: item, field, rule, value });
        }
    }
    Ok(groups)
}
