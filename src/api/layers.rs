//! What happens to every call before and after its handler: admission, deadline, observation.

use super::error::{ApiError, Protocol, code_of, word};
use super::handler::{ApiLimits, RerankHandler};
use crate::domain::limits::ID_BYTES_MAX;
use crate::domain::{Deadline, Quality};
use crate::rank::{Answer, Receipt};
use crate::telemetry::Metrics;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tracing::{Instrument as _, Span, info_span};

/// The longest time that a caller may ask for.
const DEADLINE_MAX: Duration = Duration::from_mins(1);
/// How long after its deadline a call may hold its seat: its body should have come long before.
const STALL_GRACE: Duration = Duration::from_millis(250);
/// Digits of a `grpc-timeout`.
const TIMEOUT_DIGITS_MAX: usize = 8;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const HTTP_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// What a handler knows of its call beside the message.
#[derive(Clone, Debug)]
pub struct Call {
    /// When the climb must end.
    pub deadline: Deadline,
    /// When the caller stops waiting: a reserve later.
    pub expires: Deadline,
    /// What the handler leaves behind for the response's head and the metrics.
    pub trail: Arc<CallRecord>,
    /// Held as long as there is work.
    _seat: Arc<OwnedSemaphorePermit>,
}

/// What is learnt about a call on its way.
#[derive(Debug, Default)]
pub struct CallRecord {
    id: OnceLock<Arc<str>>,
    outcome: OnceLock<CallOutcome>,
}

/// What an answer was.
#[derive(Clone, Copy, Debug)]
pub struct CallOutcome {
    quality: Quality,
    receipt: Receipt,
}

/// A call that is being watched; dropping it records it.
struct CallObserver {
    metrics: Arc<Metrics>,
    method: Method,
    begun: Instant,
    trail: Arc<CallRecord>,
    /// The code of the response's head; none yet if the caller leaves before it.
    code: Option<Code>,
}

/// What is called, however it is spelt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Rerank,
    StreamRerank,
    Explain,
    Unknown,
}

/// Admits a call, sets its deadline, and watches it to the end of its body.
pub async fn attend(
    State(handler): State<Arc<RerankHandler>>,
    mut request: Request,
    next: Next,
) -> Response {
    let protocol = Protocol::of(request.headers());
    let mut watched = CallObserver::of(&handler, &request);
    let span = watched.span(request.headers());
    let answered = match enter(&handler, request.headers(), &watched) {
        Ok(call) => {
            let stalled = call.expires.instant() + STALL_GRACE;
            request.extensions_mut().insert(call);
            timeout_at(stalled, next.run(request)).instrument(span).await
        }
        Err(fault) => Ok(fault.respond(protocol)),
    };
    let response = answered.unwrap_or_else(|_| ApiError::late().respond(protocol));
    watched.code = Some(code_of(&response));
    watched.seal(response)
}

fn enter(
    handler: &RerankHandler,
    headers: &HeaderMap,
    watched: &CallObserver,
) -> Result<Call, ApiError> {
    let seat = Arc::new(handler.admit()?);
    let ApiLimits { deadline_default, reply_reserve, .. } = *handler.limits();
    let budget = budget(headers)?.unwrap_or(deadline_default).min(DEADLINE_MAX);
    if budget.is_zero() {
        return Err(ApiError::late());
    }
    let to_climb = budget.checked_sub(reply_reserve).filter(|left| !left.is_zero());
    Ok(Call {
        deadline: Deadline::after(watched.begun, to_climb.unwrap_or(budget)),
        expires: Deadline::after(watched.begun, budget),
        trail: watched.trail.clone(),
        _seat: seat,
    })
}

/// The time that the caller gives us; the shorter one, if they say it twice.
fn budget(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let read = |name: &HeaderName, parse: fn(&str) -> Option<Duration>| match headers.get(name) {
        None => Ok(None),
        Some(value) => match value.to_str().ok().and_then(parse) {
            Some(budget) => Ok(Some(budget)),
            None => {
                Err(ApiError::wrong(name.as_str(), format!("is {value:?}, which is no timeout")))
            }
        },
    };
    let (grpc, http) = (read(&GRPC_TIMEOUT, grpc_timeout)?, read(&HTTP_TIMEOUT, milliseconds)?);
    Ok(grpc.into_iter().chain(http).min())
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

/// As in the gRPC specification: at most eight digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty()
        || digits.len() > TIMEOUT_DIGITS_MAX
        || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let count = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// The trace that a `traceparent` (W3C) belongs to: 32 hexadecimal digits.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(TRACE_PARENT)?.to_str().ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(id)
}

/// Whether an HTTP caller wants the climb as server-sent events.
pub fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/event-stream"))
}

// === impl CallRecord ===

impl CallRecord {
    /// The name of the call: the caller's, or one made up.
    pub fn id(&self) -> Arc<str> {
        self.id.get_or_init(|| format!("{:016x}", rand::random::<u64>()).into()).clone()
    }

    /// Takes note of the answer.
    pub fn reached(&self, outcome: CallOutcome) {
        // A climb has one last answer, so there is no second outcome to lose.
        let _ = self.outcome.set(outcome);
    }
}

// === impl CallOutcome ===

impl CallOutcome {
    /// Of a climb's last answer.
    pub fn of(answer: &Answer) -> Self {
        Self { quality: answer.ranking.quality, receipt: answer.receipt }
    }
}

// === impl CallObserver ===

impl CallObserver {
    fn of(handler: &RerankHandler, request: &Request) -> Self {
        let trail = CallRecord::default();
        let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        if let Some(id) = given.filter(|id| (1..=ID_BYTES_MAX).contains(&id.len())) {
            let _ = trail.id.set(id.into());
        }
        Self {
            metrics: handler.metrics().clone(),
            method: Method::of(request),
            begun: Instant::now(),
            trail: Arc::new(trail),
            code: None,
        }
    }

    fn span(&self, headers: &HeaderMap) -> Span {
        info_span!(
            "call",
            method = self.method.as_str(),
            id = %self.trail.id(),
            trace_id = trace_id(headers),
        )
    }

    /// Puts what was learnt into the head, and stays with the body to its end.
    fn seal(self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.trail.id()) {
            headers.insert(REQUEST_ID, id);
        }
        if let Ok(timing) = HeaderValue::from_str(&self.timing()) {
            headers.insert(SERVER_TIMING, timing);
        }
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // Owned by the body from here on, and dropped with it.
                let _ = &self;
                frame
            }))
        })
    }

    fn timing(&self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let total = ms(self.begun.elapsed());
        match self.trail.outcome.get() {
            Some(CallOutcome { receipt: Receipt { queue, compute, .. }, .. }) => format!(
                "queue;dur={:.3}, compute;dur={:.3}, total;dur={total:.3}",
                ms(*queue),
                ms(*compute)
            ),
            None => format!("total;dur={total:.3}"),
        }
    }
}

impl Drop for CallObserver {
    fn drop(&mut self) {
        let outcome = self.trail.outcome.get();
        let code = match self.code {
            // Only a stream's head comes before its outcome: this one was not read to its end.
            Some(Code::Ok) if self.method == Method::StreamRerank && outcome.is_none() => {
                Code::Cancelled
            }
            Some(code) => code,
            None => Code::Cancelled,
        };
        let quality = outcome.map_or("none", |outcome| outcome.quality.as_str());
        self.metrics.request(self.method.as_str(), quality, word(code), self.begun.elapsed());
    }
}

// === impl Method ===

impl Method {
    fn of(request: &Request) -> Self {
        match request.uri().path() {
            "/api/v1/rerank" if wants_events(request.headers()) => Self::StreamRerank,
            "/api/v1/rerank" | "/raisonne.v1.RerankService/Rerank" => Self::Rerank,
            "/raisonne.v1.RerankService/StreamRerank" => Self::StreamRerank,
            "/api/v1/explain" | "/raisonne.v1.RerankService/Explain" => Self::Explain,
            _ => Self::Unknown,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Rerank => "Rerank",
            Self::StreamRerank => "StreamRerank",
            Self::Explain => "Explain",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let check = |text, expected| assert_eq!(grpc_timeout(text), expected, "{text}");
        check("1H", Some(Duration::from_hours(1)));
        check("2M", Some(Duration::from_mins(2)));
        check("3S", Some(Duration::from_secs(3)));
        check("40m", Some(Duration::from_millis(40)));
        check("50u", Some(Duration::from_micros(50)));
        check("60n", Some(Duration::from_nanos(60)));
        check("0m", Some(Duration::ZERO));
        check("99999999H", Some(Duration::from_hours(99_999_999)));
        for wrong in ["", "m", "10", "10x", "-1m", "+1m", "123456789m", "1é"] {
            check(wrong, None);
        }
    }

    #[test]
    fn the_shorter_timeout_counts() {
        let mut headers = HeaderMap::new();
        assert_eq!(budget(&headers).unwrap(), None);
        headers.insert(HTTP_TIMEOUT, HeaderValue::from_static("70"));
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("40m"));
        assert_eq!(budget(&headers).unwrap(), Some(Duration::from_millis(40)));
        headers.insert(HTTP_TIMEOUT, HeaderValue::from_static("soon"));
        assert!(budget(&headers).is_err());
    }

    #[test]
    fn a_trace_is_taken_only_from_a_whole_header() {
        let mut headers = HeaderMap::new();
        let id = "0af7651916cd43dd8448eb211c80319c";
        let whole = format!("00-{id}-b7ad6b7169203331-01");
        headers.insert(TRACE_PARENT, HeaderValue::from_str(&whole).unwrap());
        assert_eq!(trace_id(&headers), Some(id));
        headers.insert(TRACE_PARENT, HeaderValue::from_static("00-abc-01"));
        assert_eq!(trace_id(&headers), None);
    }
}
