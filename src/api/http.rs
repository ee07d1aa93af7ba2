//! The HTTP side: the contract's messages as JSON, and what operators ask.

use super::error::{ApiError, Protocol};
use super::handler::RerankHandler;
use super::layers::{Call, wants_events};
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

/// `POST /api/v1/rerank`: one answer, or the whole climb as server-sent events.
pub async fn rerank(
    State(handler): State<Arc<RerankHandler>>,
    Extension(call): Extension<Call>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request = read(body)?;
    if !wants_events(&headers) {
        return Ok(Json(handler.rerank(call, request).await?).into_response());
    }
    let climb = handler.stream(call, request)?;
    let events = climb.map(|step| Event::default().event("ranking").json_data(step));
    Ok(Sse::new(events).into_response())
}

/// `POST /api/v1/explain`.
pub async fn explain(
    State(handler): State<Arc<RerankHandler>>,
    Extension(call): Extension<Call>,
    body: Body,
) -> Result<Response, ApiError> {
    Ok(Json(handler.explain(call, read(body)?).await?).into_response())
}

/// `GET /livez`: the process answers.
pub async fn live() -> &'static str {
    "live\n"
}

/// `GET /readyz`: a canary slate went through every rung in the last seconds; if not, why.
pub async fn ready(State(handler): State<Arc<RerankHandler>>) -> impl IntoResponse {
    let state = handler.readiness().state();
    let status = if state == ReadinessState::Ready { StatusCode::OK } else { UNAVAILABLE };
    (status, format!("{state}\n"))
}

/// `GET /startupz`: the first canary slate has come back.
pub async fn started(State(handler): State<Arc<RerankHandler>>) -> impl IntoResponse {
    let state = handler.readiness().state();
    let status = if state == ReadinessState::Starting { UNAVAILABLE } else { StatusCode::OK };
    (status, format!("{state}\n"))
}

/// `GET /metrics`: the Prometheus text format.
pub async fn metrics(State(handler): State<Arc<RerankHandler>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, PROMETHEUS)], handler.metrics().render())
}

/// `GET /api/v1/samples`: ready-made requests, in a demo.
pub async fn samples(
    State(handler): State<Arc<RerankHandler>>,
    uri: Uri,
) -> Result<Response, ApiError> {
    let samples = handler.samples().ok_or_else(|| ApiError::not_found("path", uri.path()))?;
    Ok(([(CONTENT_TYPE, "application/json")], samples.clone()).into_response())
}

/// Every other path.
pub async fn nowhere(uri: Uri, headers: HeaderMap) -> Response {
    match Protocol::of(&headers) {
        Protocol::Grpc => Status::unimplemented(format!("there is no {uri}")).into_http(),
        Protocol::Http => ApiError::not_found("path", uri.path()).into_response(),
    }
}

/// A path of ours, asked with another method.
pub async fn wrong_method() -> ApiError {
    ApiError::wrong_method()
}

/// Stops reading a body where it grows too large. gRPC has its own limit, per message.
pub fn body_limit() -> DefaultBodyLimit {
    DefaultBodyLimit::max(BODY_BYTES_MAX)
}

const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;

/// Reads a message from JSON; an error names the path of the field where reading stopped.
fn read<M: DeserializeOwned>(body: Body) -> Result<M, ApiError> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(BODY_BYTES_MAX),
        _ => ApiError::wrong("", format!("the body could not be read: {rejection}")),
    })?;
    let mut json = serde_json::Deserializer::from_slice(&body);
    let message: M = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        ApiError::wrong(path, format!("is not what it should be: {}", error.inner()))
    })?;
    json.end().map_err(|error| ApiError::wrong("", format!("more than one message: {error}")))?;
    Ok(message)
}
