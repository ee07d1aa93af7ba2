//! The calls of the contract that rank and explain, in its messages. Both protocols end here.

use super::admission::{AdmissionControl, ApiLimits};
use super::call::Call;
use super::error::ApiError;
use super::pb;
use super::readiness::Readiness;
use super::wire::{self, RequestContext, ResponseContext};
use crate::domain::Timestamp;
use crate::events::EventRecorder;
use crate::items::ItemWriter;
use crate::rank::{ClimbAnswer, Ladder, LiveLadder, Update};
use crate::telemetry::Metrics;
use async_stream::stream;
use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::timeout_at;

/// Handles the calls of gRPC and HTTP on the ladder that is live.
#[derive(Debug)]
pub struct RerankHandler {
    live: Arc<LiveLadder>,
    metrics: Arc<Metrics>,
    admission: AdmissionControl,
    samples: Option<Bytes>,
    items: Option<Arc<ItemWriter>>,
    events: Option<EventRecorder>,
    clock: WallClock,
}

/// Tells the present, in Unix seconds.
pub type WallClock = fn() -> Timestamp;

impl RerankHandler {
    /// A handler for the ladder that is live. `samples` is a JSON document of ready-made requests.
    pub fn new(
        live: Arc<LiveLadder>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        limits: ApiLimits,
        samples: Option<Bytes>,
    ) -> Self {
        let admission = AdmissionControl::new(limits, readiness);
        Self { live, metrics, admission, samples, items: None, events: None, clock: wall_clock }
    }

    /// The same handler, which puts items by this writer.
    pub fn with_items(self, items: Option<Arc<ItemWriter>>) -> Self {
        Self { items, ..self }
    }

    /// The same handler, which takes events if there is a recorder.
    pub fn with_events(self, events: Option<EventRecorder>) -> Self {
        Self { events, ..self }
    }

    /// The same handler with another clock.
    pub fn with_clock(self, clock: WallClock) -> Self {
        Self { clock, ..self }
    }

    /// The best ranking that the deadline allows.
    pub async fn rerank(
        &self,
        call: Call,
        request: pb::RerankRequest,
    ) -> Result<pb::RerankResponse, ApiError> {
        let (context, climb) = self.climb(&call, request)?;
        let answer = last_answer(climb).await;
        call.record.record(&answer);
        Ok(context.response(answer))
    }

    /// Every ranking of the climb as it is reached.
    pub fn stream(
        &self,
        call: Call,
        request: pb::RerankRequest,
    ) -> Result<impl Stream<Item = pb::StreamRerankResponse> + Send + use<>, ApiError> {
        let (context, climb) = self.climb(&call, request)?;
        Ok(stream! {
            // The stream owns the call, so the permit is held as long as the climb lasts.
            let call = call;
            let mut climb = pin!(climb);
            while let Some(update) = climb.next().await {
                yield match update {
                    Update::Thought(piece) => wire::thought(&piece),
                    Update::Answer(answer) => {
                        let last = answer.last;
                        if last {
                            call.record.record(&answer);
                        }
                        let ranking = Some(context.response(*answer));
                        pb::StreamRerankResponse { ranking, last, ..Default::default() }
                    }
                };
            }
        })
    }

    /// Cached reasons, without ranking.
    pub async fn explain(
        &self,
        call: Call,
        request: pb::ExplainRequest,
    ) -> Result<pb::ExplainResponse, ApiError> {
        let query = wire::explain_query(request, self.request_context(&call))?;
        let ladder = self.live.ladder();
        self.admission.check(&call, &query, ladder.version())?;
        let context = ResponseContext::of(&query);
        let reasons = timeout_at(query.deadline.instant(), ladder.explain(query));
        let reasons = reasons.await.map_err(|_| ApiError::late())?;
        Ok(context.explanation(ladder.version(), reasons))
    }

    /// Which requests are admitted.
    pub fn admission(&self) -> &AdmissionControl {
        &self.admission
    }

    /// Where requests are counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Ready-made requests, as JSON.
    pub fn samples(&self) -> Option<&Bytes> {
        self.samples.as_ref()
    }

    /// Starts a climb. The ladder is taken once, so that every ranking of the climb is of one version.
    fn climb(
        &self,
        call: &Call,
        request: pb::RerankRequest,
    ) -> Result<(ResponseContext, impl Stream<Item = Update> + Send + use<>), ApiError> {
        let query = wire::rerank_query(request, self.request_context(call))?;
        let ladder = self.live.ladder();
        self.admission.check(call, &query, ladder.version())?;
        Ok((ResponseContext::of(&query), ladder.climb(query)))
    }

    /// What puts items, if the server has a store.
    pub(super) fn items(&self) -> Option<&ItemWriter> {
        self.items.as_deref()
    }

    /// What takes events, if the server has a store.
    pub(super) fn events(&self) -> Option<&EventRecorder> {
        self.events.as_ref()
    }

    /// The ladder that is live.
    pub(super) fn ladder(&self) -> Arc<Ladder> {
        self.live.ladder()
    }

    /// What a call states outside its message. The clock is read here, once per call.
    pub(super) fn request_context(&self, call: &Call) -> RequestContext {
        let (request_id, deadline) = (call.record.id(), call.climb_deadline);
        RequestContext { request_id, now: (self.clock)(), is_replay: false, deadline }
    }
}

/// The last answer of a climb.
pub(super) async fn last_answer(climb: impl Stream<Item = Update>) -> ClimbAnswer {
    let mut climb = pin!(climb);
    let mut answer = None;
    while let Some(update) = climb.next().await {
        if let Update::Answer(better) = update {
            answer = Some(better);
        }
    }
    *answer.expect("a climb is never empty")
}

/// The present by the system's clock.
pub fn wall_clock() -> Timestamp {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64
}
