//! A server of a bundle on a free port, with a client of each protocol.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use raisonne::api::pb::rerank_service_client::RerankServiceClient;
use raisonne::app::{App, Services, open_services};
use raisonne::config::{Config, HumanDuration};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;
use tonic::transport::Channel;

/// The clock of these servers, so that scores do not depend on the second: 2026-11-05T12:00:00Z, later than the demo's
/// log.
pub const NOON: i64 = 1_793_880_000;
/// Longer than any request here takes on a slow machine.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How often a store is tried that a server which has stopped still holds, every [`STORE_PAUSE`].
const STORE_TRIES: usize = 300;
const STORE_PAUSE: Duration = Duration::from_millis(200);

pub struct Server {
    pub app: App,
    pub grpc: RerankServiceClient<Channel>,
    http: Client<HttpConnector, Full<Bytes>>,
}

impl Server {
    /// Serves this bundle with this store.
    pub async fn start(bundle: &Path, store: Option<PathBuf>) -> Self {
        let mut config = Config::default();
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.api.deadline_default = HumanDuration(PATIENCE);
        bundle.clone_into(&mut config.bundle.path);
        config.store.path = store;
        let services = Self::services(&config).await;
        let app = App::start_with_clock(&config.api, services, || NOON).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", app.address())).unwrap();
        let grpc = RerankServiceClient::new(channel.connect().await.unwrap());
        Self { app, grpc, http: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Opens the services. The tasks of a server that has stopped hold its store for some seconds.
    async fn services(config: &Config) -> Services {
        for _ in 0..STORE_TRIES {
            match open_services(config).await {
                Ok((services, _)) => return services,
                Err(error) if error.to_string().contains("in use") => {}
                Err(error) => panic!("{error:#}"),
            }
            sleep(STORE_PAUSE).await;
        }
        panic!("the store is still in use");
    }

    /// Posts JSON, and gives the status and the answer.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> (StatusCode, Value) {
        let request = Request::post(format!("http://{}{path}", self.app.address()));
        let request = request.header("x-request-timeout-ms", PATIENCE.as_millis().to_string());
        let reply = self.http.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
        let (head, body) = reply.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, serde_json::from_slice(&body).unwrap())
    }
}
