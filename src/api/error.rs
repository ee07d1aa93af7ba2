//! The one table that maps errors to gRPC statuses and HTTP responses.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use serde_json::json;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// When a caller whom we refused may retry.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Why a call gets no answer. Anything else that fails leads to an answer of lower quality.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    kind: ApiErrorKind,
    /// The public message.
    message: String,
    violations: Vec<Violation>,
    /// Type and name of the resource that was not found.
    resource: Option<(&'static str, String)>,
}

/// A field that is invalid.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// The field's path: `candidates[3].item_id`.
    pub field: String,
    /// The problem, with the value and the limit.
    pub problem: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ApiErrorKind {
    Invalid,
    TooLarge,
    NotFound,
    WrongMethod,
    Busy,
    Draining,
    Late,
    NotEnabled,
    StoreFailed,
    Internal,
}

/// The protocol of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP with JSON.
    Http,
}

// === impl ApiErrorKind ===

impl ApiErrorKind {
    /// The table: gRPC code, HTTP status, and `type` in the JSON error.
    fn row(self) -> (Code, StatusCode, &'static str) {
        match self {
            Self::Invalid => (Code::InvalidArgument, StatusCode::BAD_REQUEST, "invalid_request"),
            Self::TooLarge => (Code::OutOfRange, StatusCode::PAYLOAD_TOO_LARGE, "invalid_request"),
            Self::NotFound => (Code::NotFound, StatusCode::NOT_FOUND, "not_found"),
            Self::WrongMethod => {
                (Code::Unimplemented, StatusCode::METHOD_NOT_ALLOWED, "invalid_request")
            }
            Self::Busy => (Code::ResourceExhausted, StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            Self::Draining => (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::Late => (Code::DeadlineExceeded, StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Self::NotEnabled => (Code::Unimplemented, StatusCode::NOT_IMPLEMENTED, "not_enabled"),
            Self::StoreFailed => {
                (Code::Unavailable, StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            }
            Self::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Draining | Self::StoreFailed)
    }
}

// === impl ApiError ===

impl ApiError {
    fn new(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), violations: Vec::new(), resource: None }
    }

    /// Fields are invalid. `more` of them are not listed.
    pub fn invalid(violations: Vec<Violation>, more: usize) -> Self {
        let lines =
            violations.iter().map(|Violation { field, problem }| format!("{field} {problem}"));
        let mut lines: Vec<_> = lines.collect();
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        let message = lines.join("; ").trim_start().to_owned();
        Self { violations, ..Self::new(ApiErrorKind::Invalid, message) }
    }

    /// One field is invalid, or the whole body if `field` is empty.
    pub fn field(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::invalid(vec![Violation { field: field.into(), problem: problem.into() }], 0)
    }

    /// The body is larger than the limit.
    pub fn too_large(bytes_max: usize) -> Self {
        Self::new(ApiErrorKind::TooLarge, format!("the body is larger than {bytes_max} bytes"))
    }

    /// There is no `resource` of this name.
    pub fn not_found(resource: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        let message = format!("there is no {resource} `{name}` here");
        Self { resource: Some((resource, name)), ..Self::new(ApiErrorKind::NotFound, message) }
    }

    /// The path does not support this HTTP method.
    pub fn wrong_method() -> Self {
        Self::new(ApiErrorKind::WrongMethod, "this path does not support this HTTP method")
    }

    /// As many requests are in flight as are admitted.
    pub fn busy() -> Self {
        Self::new(ApiErrorKind::Busy, "too many requests are in flight")
    }

    /// As many calls with events wait as may.
    pub fn events_busy() -> Self {
        Self::new(ApiErrorKind::Busy, "too many calls with events wait to be stored")
    }

    /// The server is shutting down.
    pub fn draining() -> Self {
        Self::new(ApiErrorKind::Draining, "the server is shutting down")
    }

    /// The deadline passed before there was any answer.
    pub fn late() -> Self {
        Self::new(ApiErrorKind::Late, "the deadline passed before there was any answer")
    }

    /// The server has no store, and the call needs one.
    pub fn no_store() -> Self {
        let message = "this server keeps nothing: it has no store (`store.path` names one)";
        Self::new(ApiErrorKind::NotEnabled, message)
    }

    /// The store can't be written, so that nothing of the call is kept. `private` goes to the log only.
    pub fn store_failed(private: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %private, "the store failed");
        let message = "the store cannot be written: nothing of this call is kept";
        Self::new(ApiErrorKind::StoreFailed, message)
    }

    /// A bug or a fault of the server. `private` goes to the log only.
    pub fn internal(private: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %private, "internal error");
        Self::new(ApiErrorKind::Internal, "internal error")
    }

    /// The same error in a request that is nested in `field` of another one.
    pub fn within(mut self, field: &str) -> Self {
        for violation in &mut self.violations {
            violation.field = format!("{field}.{}", violation.field);
        }
        self
    }

    /// As a response of this protocol.
    pub fn respond(self, protocol: Protocol) -> Response {
        match protocol {
            Protocol::Grpc => Status::from(self).into_http(),
            Protocol::Http => self.into_response(),
        }
    }
}

/// The public message.
impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        let ApiError { kind, message, violations, resource } = error;
        let mut details = ErrorDetails::new();
        if !violations.is_empty() {
            let fields = violations.into_iter().map(|v| FieldViolation::new(v.field, v.problem));
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        if let Some((resource, name)) = resource {
            details.set_resource_info(resource, name, "", message.clone());
        }
        if kind.is_retryable() {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        Self::with_error_details(kind.row().0, message, details)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { kind, message, violations, resource: _ } = self;
        let (code, status, error_type) = kind.row();
        let details: Vec<_> = violations
            .iter()
            .map(|Violation { field, problem }| json!({ "field": field, "description": problem }))
            .collect();
        let body = json!({ "error": {
            "message": message,
            "type": error_type,
            "param": violations.first().map(|v| &v.field).filter(|field| !field.is_empty()),
            "code": code_name(code),
            "details": details,
        }});
        let mut response = (status, Json(body)).into_response();
        if kind.is_retryable() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_DELAY.as_secs()));
        }
        response.extensions_mut().insert(code);
        response
    }
}

// === impl Protocol ===

impl Protocol {
    /// The protocol of a request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if content_type.starts_with(b"application/grpc") { Self::Grpc } else { Self::Http }
    }
}

/// The gRPC code of a response of either protocol.
pub fn code_of(response: &Response) -> Code {
    let extensions = response.extensions();
    match (extensions.get::<Status>(), extensions.get::<Code>()) {
        (Some(status), _) => status.code(),
        (None, Some(code)) => *code,
        (None, None) if response.status().is_success() => Code::Ok,
        (None, None) => Code::Unknown,
    }
}

/// The name of a code, as in gRPC, for JSON and metric labels.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
