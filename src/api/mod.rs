//! How do outsiders talk to us?
//!
//! gRPC and HTTP share one port and one [`RerankHandler`]. Both decode into the messages of `proto/raisonne/v1`, so
//! equal requests get equal answers. Only `wire` knows both these messages and the types of [`crate::domain`], and
//! only `error` maps errors to statuses.

mod admission;
mod call;
mod enum_names;
mod error;
mod events;
mod grpc;
mod handler;
mod http;
mod items;
mod layers;
mod listen;
mod offline;
mod readiness;
mod validator;
mod wire;

pub use admission::ApiLimits;
pub use error::ApiError;
pub use handler::{RerankHandler, WallClock, wall_clock};
pub use listen::{ApiListener, BindError, ShutdownTimeout};
pub use offline::{OfflineAnswer, OfflineRequest, OfflineTerms, parse_time, requests_of};
pub use readiness::{Readiness, ReadinessState};

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use std::sync::Arc;

/// The messages and services of the contract, generated from `proto/raisonne/v1`.
#[expect(
    clippy::pedantic,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]
pub mod pb {
    tonic::include_proto!("raisonne.v1");
    include!(concat!(env!("OUT_DIR"), "/raisonne.v1.serde.rs"));
    include!(concat!(env!("OUT_DIR"), "/raisonne.v1.enums.rs"));

    /// An encoded `FileDescriptorSet` of the contract, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

/// Every route of the port.
pub fn router(handler: Arc<RerankHandler>) -> Router {
    let calls = grpc::calls(handler.clone())
        .route("/api/v1/rerank", post(http::rerank))
        .route("/api/v1/explain", post(http::explain))
        .route("/api/v1/items", post(http::put_items))
        .route("/api/v1/events", post(http::record_events))
        .with_state(handler.clone())
        .layer(http::body_limit())
        .route_layer(from_fn_with_state(handler.clone(), layers::observe));
    let about = grpc::about(&handler)
        .route("/livez", get(http::live))
        .route("/readyz", get(http::ready))
        .route("/startupz", get(http::started))
        .route("/metrics", get(http::metrics))
        .route("/api/v1/samples", get(http::samples))
        .with_state(handler);
    calls.merge(about).fallback(http::unknown_path).method_not_allowed_fallback(http::wrong_method)
}
