//! The one table from what went wrong to a gRPC status and an HTTP response.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use serde_json::json;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

/// When a caller whom we refused may come back.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Why there is no answer. Everything short of these is an answer of lower quality.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    kind: ApiErrorKind,
    /// What the caller reads.
    message: String,
    violations: Vec<Violation>,
    /// The thing that was not found: its type and its name.
    resource: Option<(&'static str, String)>,
}

/// A field that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Its path: `candidates[3].item_id`.
    pub field: String,
    /// What is wrong with it, with its value and the limit.
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
    Internal,
}

/// How the caller speaks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// HTTP with JSON.
    Http,
}

// === impl ApiErrorKind ===

impl ApiErrorKind {
    /// The table: gRPC code, HTTP status, and the family that JSON names.
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
            Self::Internal => (Code::Internal, StatusCode::INTERNAL_SERVER_ERROR, "internal_error"),
        }
    }

    fn is_worth_a_retry(self) -> bool {
        matches!(self, Self::Busy | Self::Draining)
    }
}

// === impl ApiError ===

impl ApiError {
    fn of(kind: ApiErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), violations: Vec::new(), resource: None }
    }

    /// Fields are wrong; `more` of them were not listed.
    pub fn invalid(violations: Vec<Violation>, more: usize) -> Self {
        let told =
            violations.iter().map(|Violation { field, problem }| format!("{field} {problem}"));
        let mut told: Vec<_> = told.collect();
        if more > 0 {
            told.push(format!("and {more} more"));
        }
        let message = told.join("; ").trim_start().to_owned();
        Self { violations, ..Self::of(ApiErrorKind::Invalid, message) }
    }

    /// One field, or the whole body where `field` is empty, is wrong.
    pub fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::invalid(vec![Violation { field: field.into(), problem: problem.into() }], 0)
    }

    /// The body is larger than we read.
    pub fn too_large(bytes_max: usize) -> Self {
        Self::of(ApiErrorKind::TooLarge, format!("the body is larger than {bytes_max} bytes"))
    }

    /// There is no `name` of this `resource`.
    pub fn not_found(resource: &'static str, name: impl Into<String>) -> Self {
        let name = name.into();
        let message = format!("there is no {resource} `{name}` here");
        Self { resource: Some((resource, name)), ..Self::of(ApiErrorKind::NotFound, message) }
    }

    /// The path is there, but not for this HTTP method.
    pub fn wrong_method() -> Self {
        Self::of(ApiErrorKind::WrongMethod, "this path does not answer this HTTP method")
    }

    /// We are full.
    pub fn busy() -> Self {
        Self::of(ApiErrorKind::Busy, "too many requests are in flight")
    }

    /// We are leaving.
    pub fn draining() -> Self {
        Self::of(ApiErrorKind::Draining, "the server is shutting down")
    }

    /// The deadline passed before there was any answer.
    pub fn late() -> Self {
        Self::of(ApiErrorKind::Late, "the deadline passed before there was any answer")
    }

    /// Something of ours is broken; `private` is for the log alone.
    pub fn internal(private: &dyn std::fmt::Display) -> Self {
        tracing::error!(error = %private, "internal fault");
        Self::of(ApiErrorKind::Internal, "something is broken here")
    }

    /// The same fault in a request that lies in `field` of another one.
    pub fn within(mut self, field: &str) -> Self {
        for violation in &mut self.violations {
            violation.field = format!("{field}.{}", violation.field);
        }
        self
    }

    /// In the words of the protocol.
    pub fn respond(self, protocol: Protocol) -> Response {
        match protocol {
            Protocol::Grpc => Status::from(self).into_http(),
            Protocol::Http => self.into_response(),
        }
    }
}

impl From<ApiError> for Status {
    fn from(fault: ApiError) -> Self {
        let ApiError { kind, message, violations, resource } = fault;
        let mut details = ErrorDetails::new();
        if !violations.is_empty() {
            let fields = violations.into_iter().map(|v| FieldViolation::new(v.field, v.problem));
            details.set_bad_request(fields.collect::<Vec<_>>());
        }
        if let Some((resource, name)) = resource {
            details.set_resource_info(resource, name, "", message.clone());
        }
        if kind.is_worth_a_retry() {
            details.set_retry_info(Some(RETRY_DELAY));
        }
        Self::with_error_details(kind.row().0, message, details)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { kind, message, violations, resource: _ } = self;
        let (code, status, family) = kind.row();
        let details: Vec<_> = violations
            .iter()
            .map(|Violation { field, problem }| json!({ "field": field, "description": problem }))
            .collect();
        let body = json!({ "error": {
            "message": message,
            "type": family,
            "param": violations.first().map(|v| &v.field).filter(|field| !field.is_empty()),
            "code": word(code),
            "details": details,
        }});
        let mut response = (status, Json(body)).into_response();
        if kind.is_worth_a_retry() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_DELAY.as_secs()));
        }
        response.extensions_mut().insert(code);
        response
    }
}

// === impl Protocol ===

impl Protocol {
    /// Which one a request speaks.
    pub fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if kind.starts_with(b"application/grpc") { Self::Grpc } else { Self::Http }
    }
}

/// The code that a response carries, whichever protocol it speaks.
pub fn code_of(response: &Response) -> Code {
    let extensions = response.extensions();
    match (extensions.get::<Status>(), extensions.get::<Code>()) {
        (Some(status), _) => status.code(),
        (None, Some(code)) => *code,
        (None, None) if response.status().is_success() => Code::Ok,
        (None, None) => Code::Unknown,
    }
}

/// A code as gRPC writes it, in JSON and in metric labels.
pub fn word(code: Code) -> &'static str {
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
