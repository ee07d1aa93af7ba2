//! The call that puts items.

use super::call::Call;
use super::error::ApiError;
use super::handler::RerankHandler;
use super::pb;
use super::wire::{self, ItemsPut};
use crate::events::PutItem;
use crate::items::PutError;
use tokio::time::timeout_at;

impl RerankHandler {
    /// Puts items that the bundle does not hold: all of them, or none.
    ///
    /// The call completes once they are durable. A call that its deadline cuts off may have put them; putting them
    /// again is harmless.
    pub async fn put_items(
        &self,
        call: Call,
        request: pb::PutItemsRequest,
    ) -> Result<pb::PutItemsResponse, ApiError> {
        let put = wire::item_puts(request, self.request_context(&call))?;
        let writer = self.items().ok_or_else(ApiError::no_store)?;
        let ItemsPut { request_id, items } = put;
        let ids: Vec<_> = items.iter().map(|(id, _)| id.clone()).collect();
        let counted = items.iter().map(|(id, item)| (id.clone(), item.text.clone()));
        let counted = counted.map(|(id, text)| PutItem { id, text }).collect();
        let outcomes = timeout_at(call.climb_deadline.instant(), writer.put(items)).await;
        let outcomes = outcomes.map_err(|_| ApiError::late())?.map_err(refusal)?;
        if let Some(events) = self.events() {
            events.put_items(counted).await.map_err(|_| ApiError::events_busy())?;
        }
        let ladder = self.ladder();
        let outcomes = ids.into_iter().zip(outcomes);
        let holds = |item: &_| ladder.holds(item);
        Ok(ItemsPut::response(&request_id, outcomes, holds, ladder.version()))
    }
}

fn refusal(error: PutError) -> ApiError {
    match error {
        PutError::Busy => ApiError::busy(),
        PutError::TooMany { count, max } => {
            ApiError::field("items", format!("would make {count} items in all; the limit is {max}"))
        }
        PutError::Store(error) => ApiError::store_failed(&error),
        PutError::Gone => ApiError::internal(&error),
    }
}
