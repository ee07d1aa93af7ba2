//! The gRPC side: the contract's service, health and reflection.

use super::error::ApiError;
use super::handler::RerankHandler;
use super::layers::Call;
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

const VALID: &str = "descriptors made by our own build are valid";

/// The service behind the contract.
struct Service(Arc<RerankHandler>);

/// The calls that are admitted, timed and observed.
pub fn calls(handler: Arc<RerankHandler>) -> Router<Arc<RerankHandler>> {
    let service = RerankServiceServer::new(Service(handler))
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .send_compressed(Gzip)
        .send_compressed(Zstd)
        .max_decoding_message_size(BODY_BYTES_MAX);
    Routes::new(service).into_axum_router().reset_fallback().with_state(())
}

/// What tells about the service: health, and reflection in both versions that clients speak.
pub fn about(handler: &RerankHandler) -> Router<Arc<RerankHandler>> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Routes::new(handler.readiness().service())
        .add_service(reflection().build_v1().expect(VALID))
        .add_service(reflection().build_v1alpha().expect(VALID))
        .into_axum_router()
        .reset_fallback()
        .with_state(())
}

#[tonic::async_trait]
impl RerankService for Service {
    async fn rerank(
        &self,
        request: Request<pb::RerankRequest>,
    ) -> Result<Response<pb::RerankResponse>, Status> {
        let (call, request) = open(request)?;
        Ok(Response::new(self.0.rerank(call, request).await?))
    }

    type StreamRerankStream = BoxStream<'static, Result<pb::StreamRerankResponse, Status>>;

    async fn stream_rerank(
        &self,
        request: Request<pb::StreamRerankRequest>,
    ) -> Result<Response<Self::StreamRerankStream>, Status> {
        let (call, pb::StreamRerankRequest { request }) = open(request)?;
        let climb = self.0.stream(call, request.unwrap_or_default());
        let climb = climb.map_err(|fault| fault.within("request"))?;
        Ok(Response::new(climb.map(Ok).boxed()))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        let (call, request) = open(request)?;
        Ok(Response::new(self.0.explain(call, request).await?))
    }
}

/// The call that `layers::attend` left with a request, and its message.
fn open<T>(mut request: Request<T>) -> Result<(Call, T), ApiError> {
    let call = request.extensions_mut().remove::<Call>();
    let call = call.ok_or_else(|| ApiError::internal(&"a call came past the layers"))?;
    Ok((call, request.into_inner()))
}
