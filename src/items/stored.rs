//! How an item stands in the store: as JSON, by id.

use super::{ItemTable, KEPT_DAYS, NewItem};
use crate::domain::{ItemId, ItemText, Timestamp};
use crate::store::{BatchStore, SCAN_ENTRIES_MAX, StoreEntry, StoreError, StoreTable};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::ops::Bound;
use std::sync::Arc;

/// Seconds of a day.
const DAY_S: i64 = 86_400;

/// An item in the store.
#[derive(Debug, Serialize, Deserialize)]
struct StoredItem {
    title: String,
    category: String,
    attributes: Vec<(String, String)>,
    price: Option<f32>,
    put_at: Timestamp,
}

/// The entry of an item.
pub(super) fn entry(id: &ItemId, item: &NewItem) -> StoreEntry {
    let NewItem { text: ItemText { title, category, attributes }, price, put_at } = item.clone();
    let stored = StoredItem { title, category, attributes, price, put_at };
    let json = serde_json::to_vec(&stored).expect("texts and finite numbers have a JSON form");
    (key(id), json.into())
}

/// Reads all items. Removes those that were put more than [`KEPT_DAYS`] ago and that the bundle holds by now.
pub(super) fn load(
    store: &dyn BatchStore,
    is_in_bundle: impl Fn(&ItemId) -> bool,
    now: Timestamp,
) -> Result<ItemTable, StoreError> {
    let (mut items, mut outdated) = (ItemTable::default(), Vec::new());
    let mut last = Bytes::new();
    loop {
        let after = Bound::Excluded(&*last);
        let page = store.scan_from(StoreTable::Items, after, SCAN_ENTRIES_MAX)?;
        let Some((last_key, _)) = page.last() else { break };
        last = last_key.clone();
        for (id, item) in page.iter().filter_map(read) {
            if now.saturating_sub(item.put_at) > KEPT_DAYS * DAY_S && is_in_bundle(&id) {
                outdated.push(key(&id));
            } else {
                items.insert(id, Arc::new(item));
            }
        }
    }
    if !outdated.is_empty() {
        tracing::info!(items = outdated.len(), "the bundle holds these items by now: removed");
        store.change(StoreTable::Items, &[], &outdated)?;
    }
    Ok(items)
}

fn key(id: &ItemId) -> Bytes {
    Bytes::copy_from_slice(id.as_str().as_bytes())
}

/// Reads an entry. One that can't be read is left in the store, and reported.
fn read((key, value): &StoreEntry) -> Option<(ItemId, NewItem)> {
    let id = std::str::from_utf8(key).map_err(|error| error.to_string());
    let item = serde_json::from_slice(value).map_err(|error| error.to_string());
    match (id, item) {
        (Ok(id), Ok(StoredItem { title, category, attributes, price, put_at })) => {
            let text = ItemText { title, category, attributes };
            Some((id.into(), NewItem { text, price, put_at }))
        }
        (Err(error), _) | (_, Err(error)) => {
            let key = String::from_utf8_lossy(key);
            tracing::warn!(%key, error, "an item in the store can't be read: it is left out");
            None
        }
    }
}
