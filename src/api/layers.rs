//! The middleware around every call: admission, deadline, metrics and tracing.

use super::call::{Call, CallOutcome, CallRecord};
use super::error::{ApiError, Protocol, code_name, code_of};
use super::handler::RerankHandler;
use crate::domain::limits::ID_BYTES_MAX;
use crate::rank::Receipt;
use crate::telemetry::Metrics;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::header::{ACCEPT, HeaderMap, HeaderName, HeaderValue};
use http_body_util::BodyExt as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::Code;
use tracing::{Instrument as _, Span, info_span};

/// The longest deadline that a caller may set.
const DEADLINE_MAX: Duration = Duration::from_mins(1);
/// Deadline of a call with events that states none: a disk may be slow, and a page does not wait for it.
const EVENTS_DEADLINE_DEFAULT: Duration = Duration::from_secs(5);
/// How long after its deadline a call may hold its permit. A body that is still not read then is given up.
const STALL_GRACE: Duration = Duration::from_millis(250);
/// Digits of a `grpc-timeout`.
const TIMEOUT_DIGITS_MAX: usize = 8;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const HTTP_TIMEOUT: HeaderName = HeaderName::from_static("x-request-timeout-ms");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");

/// Observes a call to the end of its response. Dropping it records the call in the metrics.
struct CallObserver {
    metrics: Arc<Metrics>,
    method: Method,
    start: Instant,
    record: Arc<CallRecord>,
    /// The status of the response's head. None if the caller leaves before it.
    code: Option<Code>,
}

/// The method that is called, the same for gRPC and HTTP.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Rerank,
    StreamRerank,
    Explain,
    PutItems,
    RecordEvents,
    Unknown,
}

/// Admits a call, sets its deadline, and observes it to the end of its response.
pub async fn observe(
    State(handler): State<Arc<RerankHandler>>,
    mut request: Request,
    next: Next,
) -> Response {
    let protocol = Protocol::of(request.headers());
    let mut observer = CallObserver::of(&handler, &request);
    let span = observer.span(request.headers());
    let answered = match admit(&handler, request.headers(), &observer) {
        Ok(call) => {
            let give_up = call.response_deadline.instant() + STALL_GRACE;
            request.extensions_mut().insert(call);
            timeout_at(give_up, next.run(request)).instrument(span).await
        }
        Err(error) => Ok(error.respond(protocol)),
    };
    let response = answered.unwrap_or_else(|_| ApiError::late().respond(protocol));
    observer.code = Some(code_of(&response));
    observer.attach(response)
}

fn admit(
    handler: &RerankHandler,
    headers: &HeaderMap,
    observer: &CallObserver,
) -> Result<Call, ApiError> {
    let permit = handler.admission().admit()?;
    let limits = handler.admission().limits();
    let default = match observer.method {
        Method::RecordEvents => EVENTS_DEADLINE_DEFAULT,
        _ => limits.deadline_default,
    };
    let budget = timeout(headers)?.unwrap_or(default).min(DEADLINE_MAX);
    if budget.is_zero() {
        return Err(ApiError::late());
    }
    Ok(Call::new(observer.start, budget, limits.reply_reserve, observer.record.clone(), permit))
}

/// The caller's timeout: the shorter one, if both headers are there.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ApiError> {
    let read = |name: &HeaderName, parse: fn(&str) -> Option<Duration>| match headers.get(name) {
        None => Ok(None),
        Some(value) => match value.to_str().ok().and_then(parse) {
            Some(timeout) => Ok(Some(timeout)),
            None => Err(ApiError::field(name.as_str(), format!("is {value:?}, not a timeout"))),
        },
    };
    let (grpc, http) = (read(&GRPC_TIMEOUT, grpc_timeout)?, read(&HTTP_TIMEOUT, milliseconds)?);
    Ok(grpc.into_iter().chain(http).min())
}

fn milliseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

/// A `grpc-timeout` as the gRPC specification defines it: at most eight digits and a unit.
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

/// The trace id of a W3C `traceparent`: 32 hexadecimal digits.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let id = headers.get(TRACE_PARENT)?.to_str().ok()?.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit())).then_some(id)
}

/// Whether an HTTP caller accepts the climb as server-sent events.
pub fn accepts_events(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("text/event-stream"))
}

// === impl CallObserver ===

impl CallObserver {
    fn of(handler: &RerankHandler, request: &Request) -> Self {
        let id = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
        let id = id.filter(|id| (1..=ID_BYTES_MAX).contains(&id.len()));
        Self {
            metrics: handler.metrics().clone(),
            method: Method::of(request),
            start: Instant::now(),
            record: Arc::new(CallRecord::new(id)),
            code: None,
        }
    }

    fn span(&self, headers: &HeaderMap) -> Span {
        info_span!(
            "call",
            method = self.method.as_str(),
            id = %self.record.id(),
            trace_id = trace_id(headers),
        )
    }

    /// Adds the headers, and moves into the body, so that it is dropped when the body ends.
    fn attach(self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.record.id()) {
            headers.insert(REQUEST_ID, id);
        }
        if let Ok(timing) = HeaderValue::from_str(&self.timing()) {
            headers.insert(SERVER_TIMING, timing);
        }
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // This makes the closure, and so the body, own the observer.
                let _ = &self;
                frame
            }))
        })
    }

    fn timing(&self) -> String {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let total = ms(self.start.elapsed());
        match self.record.outcome() {
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
        let outcome = self.record.outcome();
        let code = match self.code {
            // A stream's head is sent before its outcome. Without one, the caller left before the end.
            Some(Code::Ok) if self.method == Method::StreamRerank && outcome.is_none() => {
                Code::Cancelled
            }
            Some(code) => code,
            None => Code::Cancelled,
        };
        let quality = outcome.map_or("none", |outcome| outcome.quality.as_str());
        self.metrics.request(self.method.as_str(), quality, code_name(code), self.start.elapsed());
    }
}

// === impl Method ===

impl Method {
    fn of(request: &Request) -> Self {
        match request.uri().path() {
            "/api/v1/rerank" if accepts_events(request.headers()) => Self::StreamRerank,
            "/api/v1/rerank" | "/raisonne.v1.RerankService/Rerank" => Self::Rerank,
            "/raisonne.v1.RerankService/StreamRerank" => Self::StreamRerank,
            "/api/v1/explain" | "/raisonne.v1.RerankService/Explain" => Self::Explain,
            "/api/v1/items" | "/raisonne.v1.RerankService/PutItems" => Self::PutItems,
            "/api/v1/events" | "/raisonne.v1.RerankService/RecordEvents" => Self::RecordEvents,
            _ => Self::Unknown,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Rerank => "Rerank",
            Self::StreamRerank => "StreamRerank",
            Self::Explain => "Explain",
            Self::PutItems => "PutItems",
            Self::RecordEvents => "RecordEvents",
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
        assert_eq!(timeout(&headers).unwrap(), None);
        headers.insert(HTTP_TIMEOUT, HeaderValue::from_static("70"));
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_static("40m"));
        assert_eq!(timeout(&headers).unwrap(), Some(Duration::from_millis(40)));
        headers.insert(HTTP_TIMEOUT, HeaderValue::from_static("soon"));
        assert!(timeout(&headers).is_err());
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
