//! The call that takes events. Both protocols end here.

use super::call::Call;
use super::error::ApiError;
use super::handler::RerankHandler;
use super::pb;
use super::wire;
use crate::events::RecordError;
use tokio::time::timeout_at;

impl RerankHandler {
    /// Takes events. They are durable, and counted, when it returns.
    pub async fn record_events(
        &self,
        call: Call,
        request: pb::RecordEventsRequest,
    ) -> Result<pb::RecordEventsResponse, ApiError> {
        let recorder = self.events().ok_or_else(ApiError::no_store)?;
        let (context, events) = wire::record_call(request, self.request_context(&call))?;
        self.admission().check_default(&call)?;
        // After the deadline, they may be stored all the same. The caller may send them again.
        let recorded = timeout_at(call.response_deadline.instant(), recorder.record(events));
        let outcome = recorded.await.map_err(|_| ApiError::late())?;
        let outcome = outcome.map_err(|error| match error {
            RecordError::Refused(refused) => wire::RecordContext::refused(&refused),
            RecordError::Full => ApiError::events_busy(),
            RecordError::Gone | RecordError::Failed(_) => ApiError::store_failed(&error),
        })?;
        Ok(context.response(outcome))
    }
}
