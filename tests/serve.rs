//! The service from outside: real sockets, both protocols, stub rungs.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "serve/enum_names.rs"]
mod enum_names;
#[path = "support/ladder_options.rs"]
mod ladder_options;
mod support;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use raisonne::api::pb::rerank_service_client::RerankServiceClient;
use raisonne::api::{BindError, ReadinessState, pb};
use raisonne::app::{App, Services};
use raisonne::config;
use raisonne::rank::{Ladder, LiveLadder, Shortfall, SwapStrategy};
use raisonne::telemetry::Metrics;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use support::{Gate, StubRung};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::codec::CompressionEncoding;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A server on a free port, and an HTTP client.
struct Server {
    app: App,
    http: Client<HttpConnector, Full<Bytes>>,
    /// Whether canary requests succeed.
    healthy: Arc<AtomicBool>,
}

struct HttpReply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl HttpReply {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{}: {:?}", self.status, self.body))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

impl Server {
    async fn of(stub: StubRung) -> Self {
        Self::with(stub, api()).await
    }

    async fn with(stub: StubRung, config: config::ApiConfig) -> Self {
        let metrics = Arc::new(Metrics::new());
        let ladder = Ladder::new(vec![stub.rung()], "test-1".into(), metrics.clone());
        let healthy = Arc::new(AtomicBool::new(true));
        let heart = healthy.clone();
        let services = Services {
            live: live(ladder, &metrics),
            canary: Arc::new(move || {
                let beats = heart.load(Ordering::Relaxed);
                Box::pin(async move { beats.then_some(()).ok_or("no heart") })
            }),
            metrics,
            events: None,
            samples: Some(json!([rerank_json()])),
            items: None,
        };
        let app = App::start(&config, services).await.unwrap();
        let http = Client::builder(TokioExecutor::new()).build_http();
        Self { app, http, healthy }
    }

    fn address(&self) -> SocketAddr {
        self.app.address()
    }

    async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.address())).unwrap();
        endpoint.connect().await.unwrap()
    }

    async fn grpc(&self) -> RerankServiceClient<Channel> {
        RerankServiceClient::new(self.channel().await)
    }

    async fn send(&self, request: http::request::Builder, body: impl Into<Bytes>) -> HttpReply {
        let response = self.http.request(request.body(Full::new(body.into())).unwrap());
        let (head, body) = response.await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        HttpReply { status: head.status, headers: head.headers, body }
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("http://{}{path}", self.address()))
    }

    async fn post(&self, path: &str, body: impl Into<Bytes>) -> HttpReply {
        self.send(self.request(Method::POST, path), body).await
    }

    async fn get(&self, path: &str) -> HttpReply {
        self.send(self.request(Method::GET, path), "").await
    }

    /// Sends a message that must be refused, and returns why.
    async fn refused(&self, request: pb::RerankRequest) -> Status {
        self.grpc().await.rerank(request).await.unwrap_err()
    }
}

impl Gate {
    fn closed() -> Self {
        Self { waiting: watch::Sender::new(0), is_open: watch::Sender::new(false) }
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Completes once so many climbs have come to the gate.
    async fn reached_by(&self, climbs: usize) {
        self.waiting.subscribe().wait_for(|waiting| *waiting >= climbs).await.unwrap();
    }
}

impl StubRung {
    fn behind(gate: &Gate) -> Self {
        Self { gate: Some(gate.clone()), ..Self::default() }
    }
}

/// Limit of a call that is not about deadlines, so long that a slow machine keeps it.
const PATIENCE: Duration = Duration::from_secs(20);

fn patient<M>(message: M) -> tonic::Request<M> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// Sends a request that will be in flight until the gate opens.
async fn in_flight(server: &Server) -> JoinHandle<Result<pb::RerankResponse, Status>> {
    let mut client = server.grpc().await;
    tokio::spawn(async move { Ok(client.rerank(patient(rerank())).await?.into_inner()) })
}

/// Waits until a condition holds.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} never came true"));
}

/// A ladder that is never swapped.
fn live(ladder: Ladder, metrics: &Arc<Metrics>) -> Arc<LiveLadder> {
    let options = ladder_options::ladder_options(metrics.clone());
    Arc::new(LiveLadder::start(Arc::new(ladder), options, SwapStrategy::default()))
}

fn api() -> config::ApiConfig {
    config::ApiConfig { listen: ([127, 0, 0, 1], 0).into(), ..config::ApiConfig::default() }
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64
}

fn rerank() -> pb::RerankRequest {
    let candidate = |(item, prior): (&str, f32)| pb::Candidate {
        item_id: item.into(),
        prior_score: Some(prior),
        item: None,
    };
    pb::RerankRequest {
        request_id: "r-1".into(),
        user: Some(pb::User { user_id: "u".into(), ..Default::default() }),
        candidates: [("a", 0.75), ("b", 0.5), ("c", 0.25)].map(candidate).into(),
        ..Default::default()
    }
}

fn rerank_json() -> Value {
    json!({
        "requestId": "r-1",
        "user": { "userId": "u" },
        "candidates": [
            { "itemId": "a", "priorScore": 0.75 },
            { "itemId": "b", "priorScore": 0.5 },
            { "itemId": "c", "priorScore": 0.25 },
        ],
    })
}

fn slate(length: usize) -> pb::RerankRequest {
    let candidate =
        |i| pb::Candidate { item_id: format!("item-{i}"), prior_score: None, item: None };
    pb::RerankRequest { candidates: (0..length).map(candidate).collect(), ..rerank() }
}

fn items(response: &pb::RerankResponse) -> Vec<&str> {
    response.results.iter().map(|result| result.item_id.as_str()).collect()
}

fn fields(status: &Status) -> Vec<(String, String)> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations);
    let violations = violations.unwrap_or_default();
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

// === Answers ===

#[tokio::test]
async fn both_protocols_give_equal_answers() {
    let server = Server::of(StubRung::default()).await;
    let grpc = server.grpc().await.rerank(rerank()).await.unwrap().into_inner();
    let http = server.post("/api/v1/rerank", rerank_json().to_string()).await;
    assert_eq!(http.status, StatusCode::OK);
    assert_eq!(http.headers["content-type"], "application/json");
    let http: pb::RerankResponse = serde_json::from_slice(&http.body).unwrap();
    assert_eq!(grpc, http);
    assert_eq!(items(&grpc), ["c", "b", "a"]);
    assert_eq!(grpc.quality(), pb::Quality::Scored);
    assert_eq!((grpc.request_id.as_str(), grpc.bundle.as_str()), ("r-1", "test-1"));
    let first = &grpc.results[0];
    assert_eq!((first.rank, first.input_rank), (1, 3));
    assert_eq!(first.scores.unwrap().prior, Some(0.25));
    assert_eq!(first.reasons[0].text, "c often goes with what u buys");
    assert_eq!(first.reasons[0].evidence[0].item_id, "mug");
}

#[tokio::test]
async fn only_the_top_is_returned_if_asked() {
    let server = Server::of(StubRung::default()).await;
    let request = pb::RerankRequest { top_n: 2, ..rerank() };
    let response = server.grpc().await.rerank(request).await.unwrap().into_inner();
    assert_eq!(items(&response), ["c", "b"]);
}

#[tokio::test]
async fn a_full_slate_with_everything_in_it_is_taken() {
    let server = Server::of(StubRung::default()).await;
    let mut request = slate(2_000);
    request.query = "something warm".into();
    request.top_n = 2_000;
    request.reasons_per_item = 10;
    request.locale = "en-GB".into();
    request.bundle = "test-1".into();
    request.labels = (0..16).map(|i| (format!("arm-{i}"), "b".into())).collect();
    let event = |i: i64| pb::Event {
        item_id: "x".into(),
        time: Some(pbjson_types::Timestamp { seconds: now() - i, nanos: 5 }),
        kind: pb::EventKind::Purchase.into(),
    };
    request.user.as_mut().unwrap().history = (0..500).map(event).collect();
    request.candidates[0].item = Some(pb::Item {
        title: "t".repeat(512),
        category: "c".repeat(512),
        attributes: (0..32).map(|i| (format!("a{i}"), "v".repeat(128))).collect(),
    });
    let response = server.grpc().await.rerank(request).await.unwrap().into_inner();
    assert_eq!(response.results.len(), 2_000);
}

#[tokio::test]
async fn a_stream_begins_with_the_order_given_and_ends_with_the_answer() {
    let server = Server::of(StubRung::taking(20)).await;
    let request = pb::StreamRerankRequest { request: Some(rerank()) };
    let stream = server.grpc().await.stream_rerank(request).await.unwrap().into_inner();
    let grpc: Vec<_> = stream.map(Result::unwrap).collect().await;
    let rankings: Vec<_> = grpc.iter().map(|step| step.ranking.as_ref().unwrap()).collect();
    assert_eq!(grpc.iter().map(|step| step.last).collect::<Vec<_>>(), [false, true]);
    assert_eq!(items(rankings[0]), ["a", "b", "c"]);
    assert_eq!(rankings[0].quality(), pb::Quality::Given);
    assert_eq!(items(rankings[1]), ["c", "b", "a"]);

    let request =
        server.request(Method::POST, "/api/v1/rerank").header("accept", "text/event-stream");
    let events = server.send(request, rerank_json().to_string()).await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    let data = events.text().lines().filter_map(|line| line.strip_prefix("data: "));
    let http: Vec<pb::StreamRerankResponse> =
        data.map(|json| serde_json::from_str(json).unwrap()).collect();
    assert_eq!(grpc, http);
}

#[tokio::test]
async fn the_first_ranking_of_a_stream_does_not_wait_for_the_second() {
    let gate = Gate::closed();
    let server = Server::of(StubRung::behind(&gate)).await;
    let request = patient(pb::StreamRerankRequest { request: Some(rerank()) });
    let mut stream = server.grpc().await.stream_rerank(request).await.unwrap().into_inner();
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.ranking.unwrap().quality(), pb::Quality::Given);
    // The rung is still held, so the second ranking did not exist when the first came.
    gate.reached_by(1).await;
    gate.open();
    let second = stream.next().await.unwrap().unwrap();
    assert_eq!(second.ranking.unwrap().quality(), pb::Quality::Scored);
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn explanations_come_in_the_order_asked_for() {
    let server = Server::of(StubRung::default()).await;
    let request = pb::ExplainRequest {
        request_id: "e-1".into(),
        user: rerank().user,
        item_ids: ["b", "unknown", "a"].map(Into::into).into(),
        ..Default::default()
    };
    let grpc = server.grpc().await.explain(request.clone()).await.unwrap().into_inner();
    let names: Vec<_> =
        grpc.items.iter().map(|item| (item.item_id.as_str(), item.reasons.len())).collect();
    assert_eq!(names, [("b", 1), ("unknown", 0), ("a", 1)]);
    let http = server.post("/api/v1/explain", serde_json::to_vec(&request).unwrap()).await;
    assert_eq!(grpc, serde_json::from_slice(&http.body).unwrap());
}

#[tokio::test]
async fn compressed_calls_are_answered() {
    let server = Server::of(StubRung::default()).await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = server.grpc().await.send_compressed(encoding).accept_compressed(encoding);
        let response = client.rerank(slate(500)).await.unwrap();
        assert!(response.metadata().contains_key("grpc-encoding"));
        assert_eq!(response.into_inner().results.len(), 500);
    }
}

// === Heads ===

#[tokio::test]
async fn a_calls_id_and_timing_are_in_the_headers() {
    let server = Server::of(StubRung::default()).await;
    let request = server
        .request(Method::POST, "/api/v1/rerank")
        .header("x-request-id", "from-head")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let mut unnamed = rerank_json();
    unnamed.as_object_mut().unwrap().remove("requestId");
    let reply = server.send(request, unnamed.to_string()).await;
    assert_eq!(reply.headers["x-request-id"], "from-head");
    assert_eq!(reply.json()["requestId"], "from-head");
    let timing = reply.headers["server-timing"].to_str().unwrap();
    assert!(timing.starts_with("queue;dur=0.020, compute;dur=0.300, total;dur="), "{timing}");

    let mut request = tonic::Request::new(rerank());
    request.metadata_mut().insert("x-request-id", "from-metadata".parse().unwrap());
    let response = server.grpc().await.rerank(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "from-metadata");
    assert_eq!(response.into_inner().request_id, "r-1");

    let made_up = server.post("/api/v1/rerank", unnamed.to_string()).await;
    assert_eq!(made_up.headers["x-request-id"], made_up.json()["requestId"].as_str().unwrap());
}

// === Deadlines ===

#[tokio::test]
async fn a_slow_rung_leaves_the_order_given_in_time() {
    // The gate never opens: there is an answer only because the deadline ends the climb.
    let server = Server::of(StubRung::behind(&Gate::closed())).await;
    let mut request = tonic::Request::new(rerank());
    request.set_timeout(Duration::from_millis(300));
    let response = server.grpc().await.rerank(request).await.unwrap().into_inner();
    assert_eq!(items(&response), ["a", "b", "c"]);
    assert_eq!(response.quality(), pb::Quality::Given);
    assert_eq!(response.shortfalls[0].why(), pb::Why::Late);

    let request =
        server.request(Method::POST, "/api/v1/rerank").header("x-request-timeout-ms", "100");
    let reply = server.send(request, rerank_json().to_string()).await.json();
    assert_eq!(reply["quality"], "QUALITY_GIVEN");
    assert_eq!(reply["shortfalls"][0]["why"], "WHY_TOO_SLOW", "it was late a moment ago");
}

#[tokio::test]
async fn the_default_deadline_holds_where_none_is_given() {
    let server = Server::of(StubRung::behind(&Gate::closed())).await;
    let response = server.grpc().await.rerank(rerank()).await.unwrap().into_inner();
    assert_eq!(response.shortfalls[0].why(), pb::Why::Late);
}

#[tokio::test]
async fn an_expired_deadline_is_reported_as_one() {
    let server = Server::of(StubRung::default()).await;
    // The raw client, because tonic's own would not even send it.
    let request = server
        .request(Method::POST, "/raisonne.v1.RerankService/Rerank")
        .header("content-type", "application/grpc")
        .header("grpc-timeout", "0n");
    let reply = server.send(request, frame(&rerank())).await;
    assert_eq!(reply.headers["grpc-status"], (Code::DeadlineExceeded as i32).to_string().as_str());

    let request =
        server.request(Method::POST, "/api/v1/rerank").header("x-request-timeout-ms", "0");
    let reply = server.send(request, rerank_json().to_string()).await;
    assert_eq!(reply.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(reply.json()["error"]["code"], "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn an_invalid_timeout_is_refused() {
    let server = Server::of(StubRung::default()).await;
    let request =
        server.request(Method::POST, "/api/v1/rerank").header("x-request-timeout-ms", "soon");
    let reply = server.send(request, rerank_json().to_string()).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(reply.json()["error"]["param"], "x-request-timeout-ms");
}

#[tokio::test]
async fn a_body_that_never_comes_does_not_keep_its_permit() {
    let config = config::ApiConfig { requests_max: 1, ..api() };
    let server = Server::with(StubRung::default(), config).await;
    let mut slow = TcpStream::connect(server.address()).await.unwrap();
    let head = "POST /api/v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{\"user\":";
    slow.write_all(head.as_bytes()).await.unwrap();
    let mut reply = vec![0; 64];
    let length = slow.read(&mut reply).await.unwrap();
    let reply = String::from_utf8_lossy(&reply[..length]).into_owned();
    assert!(reply.starts_with("HTTP/1.1 504"), "{reply}");
    assert_eq!(server.post("/api/v1/rerank", rerank_json().to_string()).await.status, 200);
}

// === Overload, shutdown, missing ===

#[tokio::test]
async fn a_full_server_refuses_at_once() {
    let config = config::ApiConfig { requests_max: 1, ..api() };
    let gate = Gate::closed();
    let server = Server::with(StubRung::behind(&gate), config).await;
    let first = in_flight(&server).await;
    gate.reached_by(1).await;

    // The refusals come while the first request is held, so they do not wait for it.
    let status = server.grpc().await.rerank(rerank()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    let reply = server.post("/api/v1/rerank", rerank_json().to_string()).await;
    assert_eq!(reply.status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(reply.headers["retry-after"], "1");
    assert_eq!(reply.json()["error"]["type"], "overloaded");
    assert!(!first.is_finished());

    gate.open();
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.quality(), pb::Quality::Scored);
    assert_eq!(server.post("/api/v1/rerank", rerank_json().to_string()).await.status, 200);
}

#[tokio::test]
async fn sheddable_requests_are_refused_before_the_others() {
    let config = config::ApiConfig { requests_max: 4, ..api() };
    let gate = Gate::closed();
    let server = Server::with(StubRung::behind(&gate), config).await;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(in_flight(&server).await);
    }
    gate.reached_by(3).await;
    let request = |criticality: pb::Criticality| {
        patient(pb::RerankRequest { criticality: criticality.into(), ..rerank() })
    };
    let mut client = server.grpc().await;
    let shed = client.rerank(request(pb::Criticality::Sheddable)).await.unwrap_err();
    assert_eq!(shed.code(), Code::ResourceExhausted);
    let critical = tokio::spawn(async move {
        client.rerank(request(pb::Criticality::Critical)).await.map(tonic::Response::into_inner)
    });
    gate.reached_by(4).await;
    gate.open();
    critical.await.unwrap().unwrap();
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn another_bundle_is_not_found() {
    let server = Server::of(StubRung::default()).await;
    let request = pb::RerankRequest { bundle: "test-0".into(), ..rerank() };
    let status = server.refused(request).await;
    assert_eq!(status.code(), Code::NotFound);
    let resource = status.get_details_resource_info().unwrap();
    assert_eq!(
        (resource.resource_type.as_str(), resource.resource_name.as_str()),
        ("bundle", "test-0")
    );
    let mut request = rerank_json();
    request["bundle"] = "test-0".into();
    let reply = server.post("/api/v1/rerank", request.to_string()).await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_stop_loses_nothing_that_was_begun() {
    let gate = Gate::closed();
    let server = Server::of(StubRung::behind(&gate)).await;
    let mut calls = Vec::new();
    for _ in 0..8 {
        calls.push(in_flight(&server).await);
    }
    let body = rerank_json().to_string();
    let request =
        server.request(Method::POST, "/api/v1/rerank").header("x-request-timeout-ms", "20000");
    let http = server.http.request(request.body(Full::new(body.into())).unwrap());
    let http = tokio::spawn(http);
    gate.reached_by(9).await;
    let address = server.address();
    // The gate opens once the stop waits for the requests in flight.
    let (stopped, ()) = tokio::join!(server.app.stop(), async { gate.open() });
    stopped.unwrap();
    for call in calls {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.quality(), pb::Quality::Scored);
    }
    assert_eq!(http.await.unwrap().unwrap().status(), StatusCode::OK);
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_draining_server_says_so() {
    let gate = Gate::closed();
    let server = Server::of(StubRung::behind(&gate)).await;
    let mut client = server.grpc().await;
    let (mut busy, mut late) = (client.clone(), client.clone());
    client.explain(explain()).await.unwrap();
    let first = tokio::spawn(async move { busy.rerank(patient(rerank())).await });
    gate.reached_by(1).await;
    server.app.readiness().set(ReadinessState::Draining).await;
    // On the open connection, the call is refused, or the connection is closing.
    let status = late.rerank(rerank()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().into_inner().quality(), pb::Quality::Scored);
}

fn explain() -> tonic::Request<pb::ExplainRequest> {
    patient(pb::ExplainRequest {
        user: rerank().user,
        item_ids: vec!["a".into()],
        ..Default::default()
    })
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let config = config::ApiConfig {
        shutdown_grace: config::HumanDuration(Duration::from_millis(100)),
        ..api()
    };
    let gate = Gate::closed();
    let server = Server::with(StubRung::behind(&gate), config).await;
    let call = in_flight(&server).await;
    gate.reached_by(1).await;
    assert!(server.app.stop().await.is_err());
    assert!(!call.is_finished());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = Server::of(StubRung::default()).await;
    let config = config::ApiConfig { listen: server.address(), ..api() };
    let metrics = Arc::new(Metrics::new());
    let services = Services {
        live: live(Ladder::new(vec![], "test-1".into(), metrics.clone()), &metrics),
        canary: Arc::new(|| Box::pin(async { Ok(()) })),
        metrics,
        events: None,
        samples: None,
        items: None,
    };
    let error = App::start(&config, services).await.unwrap_err();
    assert!(matches!(error, BindError::InUse(_)));
    assert!(error.to_string().contains(&server.address().to_string()));
}

// === Wrong requests ===

#[expect(clippy::too_many_lines, reason = "a table of cases")]
#[tokio::test]
async fn wrong_fields_are_named_with_their_limits() {
    let server = Server::of(StubRung::default()).await;
    let future = |ahead| {
        let mut request = rerank();
        request.user.as_mut().unwrap().history = vec![pb::Event {
            item_id: "x".into(),
            time: Some(pbjson_types::Timestamp { seconds: now() + ahead, nanos: 0 }),
            kind: pb::EventKind::Click.into(),
        }];
        request
    };
    let with = |change: fn(&mut pb::RerankRequest)| {
        let mut request = rerank();
        change(&mut request);
        request
    };
    let user = |change: fn(&mut pb::User)| {
        let mut request = rerank();
        change(request.user.as_mut().unwrap());
        request
    };
    let cases = [
        (slate(0), "candidates", "is empty; 1 to 2000"),
        (slate(2_001), "candidates", "has 2001 entries; the limit is 2000"),
        (
            with(|r| r.candidates[2].item_id = "a".into()),
            "candidates[2].item_id",
            "is the same as candidates[0]",
        ),
        (with(|r| r.candidates[1].item_id.clear()), "candidates[1].item_id", "is empty"),
        (
            with(|r| r.candidates[1].item_id = "x".repeat(129)),
            "candidates[1].item_id",
            "is 129 bytes",
        ),
        (
            with(|r| r.candidates[1].prior_score = Some(f32::NAN)),
            "candidates[1].prior_score",
            "is NaN, but must be finite",
        ),
        (
            with(|r| r.candidates[1].prior_score = Some(f32::NEG_INFINITY)),
            "candidates[1].prior_score",
            "is -inf",
        ),
        (
            with(|r| {
                r.candidates[0].item =
                    Some(pb::Item { title: "é".repeat(300), ..Default::default() });
            }),
            "candidates[0].item.title",
            "is 600 bytes",
        ),
        (
            with(|r| {
                let attributes = (0..33).map(|i| (i.to_string(), String::new())).collect();
                r.candidates[0].item = Some(pb::Item { attributes, ..Default::default() });
            }),
            "candidates[0].item.attributes",
            "has 33 entries; the limit is 32",
        ),
        (with(|r| r.top_n = 4), "top_n", "is 4; the limit is 3"),
        (with(|r| r.reasons_per_item = 11), "reasons_per_item", "is 11; the limit is 10"),
        (with(|r| r.query = "x".repeat(4_097)), "query", "is 4097 bytes"),
        (with(|r| r.request_id = "x".repeat(129)), "request_id", "is 129 bytes"),
        (with(|r| r.bundle = "x".repeat(129)), "bundle", "is 129 bytes"),
        (with(|r| r.locale = "x".repeat(36)), "locale", "is 36 bytes"),
        (with(|r| r.effort = 9), "effort", "is 9, which names no value"),
        (with(|r| r.explain = -1), "explain", "is -1, which names no value"),
        (with(|r| r.criticality = 4), "criticality", "is 4, which names no value"),
        (
            with(|r| r.labels = (0..17).map(|i| (i.to_string(), String::new())).collect()),
            "labels",
            "has 17 entries",
        ),
        (
            with(|r| {
                r.labels.insert("arm".into(), "x".repeat(129));
            }),
            "labels[\"arm\"]",
            "is 129 bytes",
        ),
        (with(|r| r.user = None), "user.user_id", "is empty, but required"),
        (user(|u| u.profile = "x".repeat(4_097)), "user.profile", "is 4097 bytes"),
        (
            user(|u| u.history = vec![pb::Event::default(); 501]),
            "user.history",
            "has 501 entries; the limit is 500",
        ),
        (
            user(|u| u.history = vec![pb::Event { kind: 77, ..Default::default() }]),
            "user.history[0].kind",
            "is 77, which names no value",
        ),
        (user(|u| u.history = vec![pb::Event::default()]), "user.history[0].time", "is missing"),
        (future(1_000), "user.history[0].time", "in the future; the limit is 300"),
    ];
    let mut client = server.grpc().await;
    for (request, field, problem) in cases {
        let json = serde_json::to_vec(&request).ok();
        // What survives its JSON form is refused over HTTP as well: NaN and unknown numbers do not.
        let json = json.filter(|json| {
            serde_json::from_slice(json).is_ok_and(|r: pb::RerankRequest| r == request)
        });
        let status = client.rerank(request).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        let listed = fields(&status);
        let named = listed.iter().any(|(f, p)| f == field && p.contains(problem));
        assert!(named, "{field} {problem}: {listed:?}");
        if let Some(json) = json {
            let reply = server.post("/api/v1/rerank", json).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{field}");
        }
    }
    client.rerank(future(200)).await.unwrap();
}

#[tokio::test]
async fn all_violations_are_listed_at_once() {
    let server = Server::of(StubRung::default()).await;
    let request = pb::RerankRequest { top_n: 9, effort: 9, ..slate(1) };
    let status = server.refused(request).await;
    assert_eq!(fields(&status).len(), 2);
    assert_eq!(status.message(), "top_n is 9; the limit is 1; effort is 9, which names no value");
    let many = pb::RerankRequest { candidates: vec![pb::Candidate::default(); 30], ..rerank() };
    let status = server.refused(many).await;
    assert_eq!(fields(&status).len(), 16);
    assert!(status.message().ends_with("and 14 more"), "{}", status.message());
}

#[tokio::test]
async fn a_wrong_stream_request_names_its_nested_fields() {
    let server = Server::of(StubRung::default()).await;
    let request = pb::StreamRerankRequest { request: Some(slate(0)) };
    let status = server.grpc().await.stream_rerank(request).await.unwrap_err();
    assert_eq!(fields(&status)[0].0, "request.candidates");
}

#[tokio::test]
async fn wrong_json_names_the_field() {
    let server = Server::of(StubRung::default()).await;
    let cases: [(&[u8], Option<&str>, &str); 9] = [
        (b"", None, "EOF"),
        (b"{\"user\":{\"userId\":\"u\"", None, "EOF"),
        (b"[1, 2]", None, "expected struct"),
        (b"{\"user\":{\"userId\":\"\xff\"}}", None, "invalid unicode"),
        (b"{\"usr\":{}}", None, "usr"),
        (b"{\"candidates\":[{\"itemId\":7}]}", Some("candidates[0].itemId"), "string"),
        (b"{\"effort\":\"EFFORT_MAXIMAL\"}", Some("effort"), "EFFORT_MAXIMAL"),
        (b"{\"effort\":77}", Some("effort"), "77"),
        (b"{} {}", None, "trailing"),
    ];
    for (body, param, words) in cases {
        let reply = server.post("/api/v1/rerank", body).await;
        let shown = String::from_utf8_lossy(body);
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{shown}");
        let error = &reply.json()["error"];
        assert_eq!(error["code"], "INVALID_ARGUMENT", "{shown}");
        assert_eq!(error["type"], "invalid_request", "{shown}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(words), "{shown}: {message}");
        if let Some(param) = param {
            assert_eq!(error["param"], param, "{shown}: {message}");
        }
    }
    let nan = br#"{"user":{"userId":"u"},"candidates":[{"itemId":"a","priorScore":"NaN"}]}"#;
    let reply = server.post("/api/v1/rerank", &nan[..]).await;
    assert_eq!(reply.json()["error"]["param"], "candidates[0].prior_score");
}

#[tokio::test]
async fn a_body_of_five_megabytes_is_not_read() {
    let server = Server::of(StubRung::default()).await;
    let reply = server.post("/api/v1/rerank", vec![b' '; 5 << 20]).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("4194304"));
    let request = pb::RerankRequest { query: "x".repeat(5 << 20), ..rerank() };
    let status = server.refused(request).await;
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(server.post("/api/v1/rerank", rerank_json().to_string()).await.status, 200);
}

/// A message as gRPC frames it.
fn frame(message: &impl prost::Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = message.len() as u32;
    [&[0][..], &length.to_be_bytes(), &message].concat()
}

#[tokio::test]
async fn broken_frames_are_refused_and_survived() {
    let server = Server::of(StubRung::default()).await;
    let whole = frame(&rerank());
    let mut garbled = whole.clone();
    garbled[5] = 0xff;
    let cases: [&[u8]; 5] =
        [&[], &whole[..3], &whole[..whole.len() - 4], &garbled, b"\x07\0\0\0\x01x"];
    for body in cases {
        let request = server
            .request(Method::POST, "/raisonne.v1.RerankService/Rerank")
            .header("content-type", "application/grpc");
        let reply = server.send(request, body.to_vec()).await;
        let status: i32 = reply.headers["grpc-status"].to_str().unwrap().parse().unwrap();
        assert_ne!(status, 0, "{body:?}");
    }
    let mut noise = TcpStream::connect(server.address()).await.unwrap();
    noise.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff").await.unwrap();
    drop(noise);
    let mut torn = TcpStream::connect(server.address()).await.unwrap();
    torn.write_all(b"POST /api/v1/rerank HTTP/1.1\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    drop(torn);
    server.grpc().await.rerank(rerank()).await.unwrap();
}

#[tokio::test]
async fn unknown_paths_and_methods_are_refused_in_the_callers_protocol() {
    let server = Server::of(StubRung::default()).await;
    let reply = server.get("/nowhere").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(reply.json()["error"]["code"], "NOT_FOUND");
    let reply = server.get("/api/v1/rerank").await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.json()["error"]["code"], "UNIMPLEMENTED");
    for path in ["/nowhere.v1.Service/Call", "/raisonne.v1.RerankService/Nothing"] {
        let request = server.request(Method::POST, path).header("content-type", "application/grpc");
        let reply = server.send(request, "").await;
        assert_eq!(reply.headers["grpc-status"], "12", "{path}");
    }
}

// === Probes, reflection, metrics ===

#[tokio::test]
async fn readiness_follows_the_canary() {
    let server = Server::of(StubRung::default()).await;
    let service = "raisonne.v1.RerankService";
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel().await);
    let mut check = async |service: &str| {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        health.check(request).await.map(|response| response.into_inner().status)
    };
    eventually("readiness", async || server.get("/readyz").await.status == StatusCode::OK).await;
    for path in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(check("").await.unwrap(), 1);
    assert_eq!(check(service).await.unwrap(), 1);
    assert_eq!(check("nothing").await.unwrap_err().code(), Code::NotFound);

    server.healthy.store(false, Ordering::Relaxed);
    eventually("degraded", async || server.get("/readyz").await.status != StatusCode::OK).await;
    assert_eq!(server.get("/readyz").await.text(), "degraded: no heart\n");
    assert_eq!(server.get("/livez").await.status, StatusCode::OK);
    assert_eq!(check(service).await.unwrap(), 2);
    assert_eq!(server.post("/api/v1/rerank", rerank_json().to_string()).await.status, 200);
}

#[tokio::test]
async fn reflection_describes_the_service_in_both_versions() {
    use tonic_reflection::pb::{v1, v1alpha};
    let server = Server::of(StubRung::default()).await;

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::FileContainingSymbol(
            "raisonne.v1.RerankService".into(),
        )),
    };
    let mut client =
        v1::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let mut replies =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(found) = reply
    else {
        panic!("{reply:?}");
    };
    let text = String::from_utf8_lossy(&found.file_descriptor_proto[0]).into_owned();
    assert!(text.contains("StreamRerank"));

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let mut client =
        v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel().await);
    let mut replies =
        client.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    let listed = format!("{reply:?}");
    for service in ["raisonne.v1.RerankService", "grpc.health.v1.Health"] {
        assert!(listed.contains(service), "{listed}");
    }
}

#[tokio::test]
async fn every_request_is_counted_once() {
    let server = Server::of(StubRung::failing(Shortfall::Busy)).await;
    let mut client = server.grpc().await;
    client.rerank(rerank()).await.unwrap();
    client.rerank(slate(0)).await.unwrap_err();
    client.explain(explain()).await.unwrap();
    server.post("/api/v1/rerank", rerank_json().to_string()).await;
    server.post("/api/v1/rerank", "{").await;
    let request = pb::StreamRerankRequest { request: Some(rerank()) };
    let stream = client.stream_rerank(request).await.unwrap().into_inner();
    assert_eq!(stream.count().await, 2);
    // The last call is recorded when the server drops its body, which may be after the client has read it.
    let last = "raisonne_request_seconds_count{method=\"StreamRerank\"";
    eventually("the stream is counted", async || {
        server.get("/metrics").await.text().contains(last)
    })
    .await;
    let reply = server.get("/metrics").await;
    assert!(reply.headers["content-type"].to_str().unwrap().starts_with("text/plain"));
    let count = |method, quality, code, count| {
        let line = format!(
            "raisonne_request_seconds_count{{method=\"{method}\",quality=\"{quality}\",code=\"{code}\"}} {count}"
        );
        assert!(reply.text().contains(&line), "{line}\n{}", reply.text());
    };
    count("Rerank", "given", "OK", 2);
    count("Rerank", "none", "INVALID_ARGUMENT", 2);
    count("Explain", "none", "OK", 1);
    count("StreamRerank", "given", "OK", 1);
    let busy = r#"raisonne_rank_shortfall_total{rung="scored",why="busy"} 3"#;
    assert!(reply.text().contains(busy), "{}", reply.text());
    assert!(reply.text().contains(r#"raisonne_bundle_info{slot="stable",version="test-1"} 1"#));
}

#[tokio::test]
async fn samples_are_ready_to_post() {
    let server = Server::of(StubRung::default()).await;
    let samples = server.get("/api/v1/samples").await.json();
    let reply = server.post("/api/v1/rerank", samples[0].to_string()).await;
    assert_eq!(reply.status, StatusCode::OK);
}
