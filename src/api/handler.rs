//! The handler that both protocols hand their requests to.

use super::error::ApiError;
use super::layers::{Call, CallOutcome};
use super::pb;
use super::readiness::Readiness;
use super::wire::{self, RequestContext, ResponseContext};
use crate::domain::{Criticality, Query};
use crate::rank::{Ladder, LiveLadder, Update};
use crate::telemetry::Metrics;
use async_stream::stream;
use axum::body::Bytes;
use futures_util::{Stream, StreamExt};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// The part of `requests_max` that only critical requests may use: one in sixteen.
const CRITICAL_SHARE: usize = 16;
/// The part of `requests_max` that sheddable requests leave free: one in four.
const UNSHEDDABLE_SHARE: usize = 4;

/// How much the listener lets in, and how long it gives an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiLimits {
    /// Requests in flight.
    pub requests_max: usize,
    /// Time for an answer where the caller does not say.
    pub deadline_default: Duration,
    /// Time kept back from a caller's deadline for writing the answer down and sending it.
    pub reply_reserve: Duration,
}

/// What both protocols share: the ladder that serves, and who may climb it.
#[derive(Debug)]
pub struct RerankHandler {
    live: Arc<LiveLadder>,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    limits: ApiLimits,
    seats: Arc<Semaphore>,
    samples: Option<Bytes>,
}

impl RerankHandler {
    /// A handler in front of the ladder that is live. `samples` is a JSON document of requests to try.
    pub fn new(
        live: Arc<LiveLadder>,
        metrics: Arc<Metrics>,
        readiness: Arc<Readiness>,
        limits: ApiLimits,
        samples: Option<Bytes>,
    ) -> Self {
        let seats = Arc::new(Semaphore::new(limits.requests_max));
        Self { live, metrics, readiness, limits, seats, samples }
    }

    /// The best ranking that the deadline allows.
    pub async fn rerank(
        &self,
        call: Call,
        request: pb::RerankRequest,
    ) -> Result<pb::RerankResponse, ApiError> {
        let (slip, climb) = self.climb(&call, request)?;
        let mut climb = pin!(climb);
        let mut answer = None;
        while let Some(update) = climb.next().await {
            if let Update::Answer(better) = update {
                answer = Some(better);
            }
        }
        let answer = answer.expect("a climb is never empty");
        call.trail.reached(CallOutcome::of(&answer));
        Ok(slip.response(*answer))
    }

    /// Every ranking of the climb as it is reached.
    pub fn stream(
        &self,
        call: Call,
        request: pb::RerankRequest,
    ) -> Result<impl Stream<Item = pb::StreamRerankResponse> + Send + use<>, ApiError> {
        let (slip, climb) = self.climb(&call, request)?;
        Ok(stream! {
            // The call moves in here with its seat: both last as long as the climb.
            let call = call;
            let mut climb = pin!(climb);
            while let Some(update) = climb.next().await {
                yield match update {
                    Update::Thought(piece) => wire::thought(&piece),
                    Update::Answer(answer) => {
                        let last = answer.last;
                        if last {
                            call.trail.reached(CallOutcome::of(&answer));
                        }
                        let ranking = Some(slip.response(*answer));
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
        let query = wire::question(request, envelope(&call))?;
        let ladder = self.ladder(&call, &query)?;
        let slip = ResponseContext::of(&query);
        let reasons = timeout_at(query.deadline.instant(), ladder.explain(query));
        let reasons = reasons.await.map_err(|_| ApiError::late())?;
        Ok(wire::explained(&slip, ladder.version(), reasons))
    }

    /// A seat for one more request, if there is one.
    pub fn admit(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        if self.readiness.is_draining() {
            return Err(ApiError::draining());
        }
        self.seats.clone().try_acquire_owned().map_err(|_| ApiError::busy())
    }

    /// The limits in force.
    pub fn limits(&self) -> &ApiLimits {
        &self.limits
    }

    /// Where requests are counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Whether it would be wise to send requests here.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Requests to try, as JSON.
    pub fn samples(&self) -> Option<&Bytes> {
        self.samples.as_ref()
    }

    fn climb(
        &self,
        call: &Call,
        request: pb::RerankRequest,
    ) -> Result<(ResponseContext, impl Stream<Item = Update> + Send + use<>), ApiError> {
        let query = wire::query(request, envelope(call))?;
        let ladder = self.ladder(call, &query)?;
        Ok((ResponseContext::of(&query), ladder.climb(query)))
    }

    /// The ladder for a valid query, taken once, so that its answer is of one version; and what only
    /// the handler can know: whether the query is for us, in time, and important enough.
    fn ladder(&self, call: &Call, query: &Query) -> Result<Arc<Ladder>, ApiError> {
        let ladder = self.live.ladder();
        let pinned = query.bundle.as_ref();
        if let Some(other) = pinned.filter(|version| *version != ladder.version()) {
            return Err(ApiError::not_found("bundle", other.as_str()));
        }
        if call.expires.passed(Instant::now()) {
            return Err(ApiError::late());
        }
        let kept_free = match query.criticality {
            Criticality::Critical => 0,
            Criticality::Default => self.limits.requests_max / CRITICAL_SHARE,
            Criticality::Sheddable => self.limits.requests_max / UNSHEDDABLE_SHARE,
        };
        if self.seats.available_permits() < kept_free { Err(ApiError::busy()) } else { Ok(ladder) }
    }
}

/// What a call says outside its message. The wall clock is read here, once.
fn envelope(call: &Call) -> RequestContext {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    RequestContext {
        request_id: call.trail.id(),
        now: now.as_secs() as i64,
        deadline: call.deadline,
    }
}
