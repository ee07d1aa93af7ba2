//! The gRPC services: the contract's, health and reflection.

use super::call::Call;
use super::error::ApiError;
use super::handler::RerankHandler;
use super::pb;
use super::pb::rerank_service_server::{RerankService, RerankServiceServer};
use crate::domain::limits::BODY_BYTES_MAX;
use axum::Router;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::service::Routes;
use tonic::{Request, Response, Status};

const VALID: &str = "the build script writes valid descriptors";

/// Implements the contract's service.
struct GrpcService(Arc<RerankHandler>);

/// The contract's service, whose calls pass the middleware.
pub fn calls(handler: Arc<RerankHandler>) -> Router<Arc<RerankHandler>> {
    let service = RerankServiceServer::new(GrpcService(handler))
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .send_compressed(Gzip)
        .send_compressed(Zstd)
        .max_decoding_message_size(BODY_BYTES_MAX);
    Routes::new(service).into_axum_router().reset_fallback().with_state(())
}

/// Health, and reflection in both versions that clients speak. They pass no middleware.
pub fn about(handler: &RerankHandler) -> Router<Arc<RerankHandler>> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Routes::new(handler.admission().readiness().service())
        .add_service(reflection().build_v1().expect(VALID))
        .add_service(reflection().build_v1alpha().expect(VALID))
        .into_axum_router()
        .reset_fallback()
        .with_state(())
}

#[tonic::async_trait]
impl RerankService for GrpcService {
    async fn rerank(
        &self,
        request: Request<pb::RerankRequest>,
    ) -> Result<Response<pb::RerankResponse>, Status> {
        let (call, request) = split(request)?;
        Ok(Response::new(self.0.rerank(call, request).await?))
    }

    type StreamRerankStream = BoxStream<'static, Result<pb::StreamRerankResponse, Status>>;

    async fn stream_rerank(
        &self,
        request: Request<pb::StreamRerankRequest>,
    ) -> Result<Response<Self::StreamRerankStream>, Status> {
        let (call, pb::StreamRerankRequest { request }) = split(request)?;
        let rankings = self.0.stream(call, request.unwrap_or_default());
        let rankings = rankings.map_err(|error| error.within("request"))?;
        Ok(Response::new(rankings.map(Ok).boxed()))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let (call, request) = split(request)?;
        Ok(Response::new(self.0.explain(call, request).await?))
    }

    async fn put_items(
        &self,
        request: Request<pb::PutItemsRequest>,
    ) -> Result<Response<pb::PutItemsResponse>, Status> {
        let (call, request) = split(request)?;
        Ok(Response::new(self.0.put_items(call, request).await?))
    }

    async fn record_events(
        &self,
        request: Request<pb::RecordEventsRequest>,
    ) -> Result<Response<pb::RecordEventsResponse>, Status> {
        let (call, request) = split(request)?;
        Ok(Response::new(self.0.record_events(call, request).await?))
    }
}

/// Splits a request into the call that the middleware attached and its message.
fn split<T>(mut request: Request<T>) -> Result<(Call, T), ApiError> {
    let call = request.extensions_mut().remove::<Call>();
    let call = call.ok_or_else(|| ApiError::internal(&"a call did not pass the middleware"))?;
    Ok((call, request.into_inner()))
}
