//! Items to put, and what became of them.

use super::super::error::ApiError;
use super::super::pb;
use super::super::validator::Validator;
use super::{RequestContext, distinct, item_text, request_id};
use crate::domain::{ItemId, ItemText, Version};
use crate::items::{NewItem, PUT_ITEMS_MAX, PutOutcome};
use std::sync::Arc;

/// A valid put, and what its response needs of it.
#[derive(Debug)]
pub struct ItemsPut {
    /// The id of the request.
    pub request_id: Arc<str>,
    /// The items, with distinct ids.
    pub items: Vec<(ItemId, NewItem)>,
}

/// Decodes and validates items to put.
pub fn item_puts(
    request: pb::PutItemsRequest,
    context: RequestContext,
) -> Result<ItemsPut, ApiError> {
    let pb::PutItemsRequest { request_id: id, items } = request;
    let mut validator = Validator::default();
    let ids = items.iter().map(|item| item.item_id.as_str());
    distinct(&mut validator, "items", ".item_id", ids, PUT_ITEMS_MAX);
    let items = items.into_iter().take(PUT_ITEMS_MAX).enumerate().map(|(i, item)| {
        let pb::NewItem { item_id, item, price } = item;
        validator.not_negative(format_args!("items[{i}].price"), price);
        let text = new_text(&mut validator, i, item.unwrap_or_default());
        (item_id.into(), NewItem { text, price, put_at: context.now })
    });
    let items = items.collect();
    let request_id = request_id(&mut validator, id, context.request_id);
    validator.finish(ItemsPut { request_id, items })
}

/// Checks the texts of an item that has nothing else: it needs a title.
fn new_text(validator: &mut Validator, i: usize, item: pb::Item) -> ItemText {
    if item.title.is_empty() {
        validator.reject(format_args!("items[{i}].item.title"), "is empty, but required");
    }
    item_text(validator, format_args!("items[{i}].item"), item)
}

// === impl ItemsPut ===

impl ItemsPut {
    /// Encodes what became of the items of the request `id`. The bundle `holds` some of them, whatever was put.
    pub fn response(
        request_id: &str,
        outcomes: impl Iterator<Item = (ItemId, PutOutcome)>,
        holds: impl Fn(&ItemId) -> bool,
        bundle: &Version,
    ) -> pb::PutItemsResponse {
        let items = outcomes.map(|(item, outcome)| {
            let outcome = match outcome {
                _ if holds(&item) => pb::PutOutcome::InBundle,
                PutOutcome::New => pb::PutOutcome::New,
                PutOutcome::Replaced => pb::PutOutcome::Replaced,
            };
            pb::ItemPut { item_id: item.to_string(), outcome: outcome.into() }
        });
        pb::PutItemsResponse {
            request_id: request_id.to_owned(),
            items: items.collect(),
            bundle: bundle.to_string(),
        }
    }
}
