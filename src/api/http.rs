//! The HTTP routes: the contract's messages as JSON, probes and metrics.

use super::call::Call;
use super::error::{ApiError, Protocol};
use super::handler::RerankHandler;
use super::layers::accepts_events;
use super::readiness::ReadinessState;
use crate::domain::limits::BODY_BYTES_MAX;
use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode, Uri};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use tonic::Status;

/// The content type of the Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

type Body = Result<Bytes, BytesRejection>;

/// `POST /api/v1/rerank`: the last ranking, or every ranking of the climb as server-sent events.
pub async fn rerank(
    State(handler): State<Arc<RerankHandler>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = decode(body)?;
    if !accepts_events(&headers) {
        return Ok(Json(handler.rerank(call, request).await?).into_response());
    }
    let rankings = handler.stream(call, request)?;
    let events = rankings.map(|step| Event::default().event("ranking").json_data(step));
    Ok(Sse::new(events).into_response())
}

/// `POST /api/v1/explain`.
pub async fn explain(
    State(handler): State<Arc<RerankHandler>>,
    Extension(call): Extension<Call>,
    body: Body,
) -> Result<Response, ApiError> {
    Ok(Json(handler.explain(call, decode(body)?).await?).into_response())
}

/// `POST /api/v1/items`.
pub async fn put_items(
    State(handler): State<Arc<RerankHandler>>,
    Extension(call): Extension<Call>,
    body: Body,
) -> Result<Response, ApiError> {
    Ok(Json(handler.put_items(call, decode(body)?).await?).into_response())
}

/// `POST /api/v1/events`.
pub async fn record_events(
    State(handler): State<Arc<RerankHandler>>,
    Extension(call): Extension<Call>,
    body: Body,
) -> Result<Response, ApiError> {
    Ok(Json(handler.record_events(call, decode(body)?).await?).into_response())
}

/// `GET /livez`: the process answers.
pub async fn live() -> &'static str {
    "live\n"
}

/// `GET /readyz`: whether the last canary request reached the top rung. The body says why not.
pub async fn ready(State(handler): State<Arc<RerankHandler>>) -> impl IntoResponse {
    let state = handler.admission().readiness().state();
    let status = if state == ReadinessState::Ready { StatusCode::OK } else { UNAVAILABLE };
    (status, format!("{state}\n"))
}

/// `GET /startupz`: whether the first canary request has finished.
pub async fn started(State(handler): State<Arc<RerankHandler>>) -> impl IntoResponse {
    let state = handler.admission().readiness().state();
    let status = if state == ReadinessState::Starting { UNAVAILABLE } else { StatusCode::OK };
    (status, format!("{state}\n"))
}

/// `GET /metrics`: the Prometheus text format.
pub async fn metrics(State(handler): State<Arc<RerankHandler>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, PROMETHEUS)], handler.metrics().render())
}

/// `GET /api/v1/samples`: ready-made requests, in `raisonne demo` only.
pub async fn samples(
    State(handler): State<Arc<RerankHandler>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let samples = handler.samples().ok_or_else(|| ApiError::not_found("path", uri.path()))?;
    Ok(([(CONTENT_TYPE, "application/json")], samples.clone()).into_response())
}

/// Every other path.
pub async fn unknown_path(uri: Uri, headers: HeaderMap) -> Response {
    match Protocol::of(&headers) {
        Protocol::Grpc => Status::unimplemented(format!("there is no {uri}")).into_http(),
        Protocol::Http => ApiError::not_found("path", uri.path()).into_response(),
    }
}

/// A known path with an unsupported method.
pub async fn wrong_method() -> ApiError {
    ApiError::wrong_method()
}

/// Limits the body of an HTTP request. gRPC has its own limit, per message.
pub fn body_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(BODY_BYTES_MAX)
}

const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// Decodes a message from JSON. An error names the path of the field that is wrong.
fn decode<M: DeserializeOwned>(body: Body) -> Result<M, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(BODY_BYTES_MAX),
        _ => ApiError::field("", format!("the body cannot be read: {rejection}")),
    })?;
    decode_json(&body)
}

/// Decodes a message from JSON, as [`decode`] does.
pub(super) fn decode_json<M: DeserializeOwned>(body: &[u8]) -> Result<M, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let message: M = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        ApiError::field(path, format!("cannot be decoded: {}", error.inner()))
    })?;
    json.end().map_err(|error| {
        ApiError::field("", format!("the body holds more than one message: {error}"))
    })?;
    Ok(message)
}
