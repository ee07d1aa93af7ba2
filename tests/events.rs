//! Events that are recorded while the demo bundle serves: over both protocols, across restarts and kills.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "a test of kills says how many there were")]
#![expect(clippy::disallowed_methods, reason = "a thread of a test drains a server's output")]

#[expect(dead_code, reason = "nothing is flipped here")]
#[path = "support/bundle.rs"]
mod bundle;
#[path = "support/server.rs"]
mod server;

use bundle::copied_bundle;
use http::StatusCode;
use raisonne::api::pb::rerank_service_client::RerankServiceClient;
use raisonne::api::{ReadinessState, pb};
use raisonne::bundle::{Manifest, Part};
use raisonne::domain::{ItemId, ItemText, Timestamp, UserId};
use raisonne::events::{CountsBase, EventRecorder, EventsOptions};
use raisonne::statistics::{ItemGroups, ShopperPast, Statistics};
use raisonne::store::EmbeddedStore;
use raisonne::telemetry::Metrics;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use server::{NOON, PATIENCE, Server};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The demo bundle with the small models alone, which opens fast.
fn small_models(home: &Path) -> PathBuf {
    let dir = copied_bundle(home, "scored");
    fs::remove_dir_all(dir.join(Part::Decoder.file())).unwrap();
    fs::remove_file(dir.join(Part::Reranker.file())).unwrap();
    Manifest::of(&dir, "scored").unwrap().write(&dir).unwrap();
    dir
}

impl Server {
    async fn record(
        &self,
        request: pb::RecordEventsRequest,
    ) -> Result<pb::RecordEventsResponse, Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(PATIENCE);
        Ok(self.grpc.clone().record_events(request).await?.into_inner())
    }

    async fn rerank(&self, history: Vec<pb::Event>, user: &str) -> pb::RerankResponse {
        let user = Some(pb::User { user_id: user.into(), history, ..Default::default() });
        let candidates = ITEMS
            .iter()
            .map(|item| pb::Candidate { item_id: (*item).into(), ..Default::default() });
        let request = pb::RerankRequest {
            request_id: "r".into(),
            user,
            candidates: candidates.collect(),
            effort: pb::Effort::Scored.into(),
            ..Default::default()
        };
        self.grpc.clone().rerank(request).await.unwrap().into_inner()
    }
}

/// Items of the demo's catalogue.
const ITEMS: [&str; 6] = ["P00001", "P00002", "P00003", "P00004", "P00005", "P00006"];

fn event(id: &str, user: &str, item: &str) -> pb::ShopperEvent {
    pb::ShopperEvent {
        event_id: id.into(),
        user_id: user.into(),
        item_id: item.into(),
        time: Some(pbjson_types::Timestamp { seconds: NOON, nanos: 0 }),
        kind: pb::EventKind::Purchase.into(),
    }
}

fn call(events: Vec<pb::ShopperEvent>) -> pb::RecordEventsRequest {
    pb::RecordEventsRequest { request_id: "e".into(), events, take_valid: false }
}

fn fields(status: &Status) -> Vec<(String, String)> {
    let violations = status.get_details_bad_request().unwrap().field_violations;
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_shopper_did_a_moment_ago_is_in_the_next_answer() {
    let home = tempfile::tempdir().unwrap();
    let (bundle, store) = (small_models(home.path()), home.path().join("facts.redb"));
    let server = Server::start(&bundle, Some(store.clone())).await;
    let unknown = server.rerank(vec![], "new here").await;
    let taken = server.record(call(vec![event("1", "new here", ITEMS[3])])).await.unwrap();
    assert_eq!((taken.taken, taken.known, taken.request_id.as_str()), (1, 0, "e"));
    let after = server.rerank(vec![], "new here").await;
    assert_ne!(scores(&unknown), scores(&after));
    // As if the request had brought the event itself, to the bit.
    let inline = pb::Event {
        item_id: ITEMS[3].into(),
        time: Some(pbjson_types::Timestamp { seconds: NOON, nanos: 0 }),
        kind: pb::EventKind::Purchase.into(),
    };
    assert_eq!(scores(&server.rerank(vec![inline], "new here").await), scores(&after));
    // HTTP says the same, and knows the event.
    let body = serde_json::to_vec(&call(vec![event("1", "new here", ITEMS[3])])).unwrap();
    let (status, json) = server.post("/api/v1/events", body).await;
    assert_eq!(status, StatusCode::OK);
    let same = (&json["requestId"], &json["taken"], &json["known"]);
    assert_eq!(same, (&json!("e"), &json!(0), &json!(1)));
    // After a restart as well.
    server.app.stop().await.unwrap();
    let server = Server::start(&bundle, Some(store)).await;
    assert_eq!(scores(&server.rerank(vec![], "new here").await), scores(&after));
    let again = server.record(call(vec![event("1", "new here", ITEMS[3])])).await.unwrap();
    assert_eq!((again.taken, again.known), (0, 1));
}

fn scores(response: &pb::RerankResponse) -> Vec<(String, Option<f32>)> {
    let mut scores: Vec<_> = response
        .results
        .iter()
        .map(|result| (result.item_id.clone(), result.scores.and_then(|scores| scores.scorer)))
        .collect();
    scores.sort_by(|a, b| a.0.cmp(&b.0));
    scores
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_events_are_named_by_index_field_limit_and_value() {
    let home = tempfile::tempdir().unwrap();
    let bundle = small_models(home.path());
    let server = Server::start(&bundle, Some(home.path().join("facts.redb"))).await;
    let good = || event("good", "ann", ITEMS[0]);
    let with = |change: fn(&mut pb::ShopperEvent)| {
        let mut wrong = event("wrong", "ann", ITEMS[0]);
        change(&mut wrong);
        vec![good(), wrong]
    };
    let cases: [(Vec<pb::ShopperEvent>, &str, &str); 14] = [
        (vec![], "events", "is empty; 1 to 5000 are allowed"),
        (vec![good(); 5_001], "events", "has 5001 entries; the limit is 5000"),
        (vec![good(); 10_000], "events", "has 10000 entries; the limit is 5000"),
        (with(|event| event.event_id.clear()), "events[1].event_id", "is empty, but required"),
        (with(|event| event.user_id.clear()), "events[1].user_id", "is empty, but required"),
        (with(|event| event.item_id.clear()), "events[1].item_id", "is empty, but required"),
        (with(|event| event.event_id = "x".repeat(129)), "events[1].event_id", "the limit is 128"),
        (with(|event| event.time = None), "events[1].time", "is missing, but required"),
        (with(|event| event.kind = 0), "events[1].kind", "is missing, but required"),
        (with(|event| event.kind = 9), "events[1].kind", "is 9, which names no value"),
        (
            with(|event| event.time.as_mut().unwrap().seconds += 301),
            "events[1].time",
            "is 301 s in the future; the limit is 300",
        ),
        (
            with(|event| event.time.as_mut().unwrap().seconds = 0),
            "events[1].time",
            "is 1970-01-01T00:00:00Z; the earliest is 1995-01-01T00:00:00Z",
        ),
        (
            with(|event| event.time.as_mut().unwrap().seconds -= 500 * 86_400),
            "events[1].time",
            "is 500 days ago; the limit is 400",
        ),
        (
            vec![event("x", "ann", ITEMS[0]), event("x", "ann", ITEMS[1])],
            "events[1].event_id",
            "was taken before with another content: purchase of `P00001`",
        ),
    ];
    for (events, field, problem) in cases {
        let wrong = events.get(1).cloned();
        let listed = events.len() == 2;
        let status = server.record(call(events.clone())).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let found = fields(&status);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].0 == field && found[0].1.contains(problem), "{found:?}");
        let (status, json) = server
            .post("/api/v1/events", serde_json::to_vec(&call(events.clone())).unwrap_or_default())
            .await;
        // An unknown number of a kind has no JSON.
        if wrong.is_none_or(|wrong| wrong.kind != 9) {
            assert_eq!(status, StatusCode::BAD_REQUEST);
            assert_eq!(json["error"]["param"], field, "{json}");
        }
        if listed {
            let partial = pb::RecordEventsRequest { take_valid: true, ..call(events) };
            let reply = server.record(partial).await.unwrap();
            assert_eq!(reply.taken + reply.known, 1, "{reply:?}");
            let refused = &reply.refused[0];
            assert_eq!((refused.index, refused.field.as_str()), (1, field));
            assert!(refused.problem.contains(problem), "{refused:?}");
        }
    }
    let kind = json!({ "events": [{ "eventId": "1", "userId": "u", "itemId": "i", "time": "2026-11-05T12:00:00Z", "kind": "SOLD" }] });
    let (status, json) = server.post("/api/v1/events", kind.to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(json["error"]["param"], "events[0].kind", "{json}");
    let full: Vec<_> =
        (0..5_000).map(|n| event(&n.to_string(), &format!("u{}", n % 50), ITEMS[n % 6])).collect();
    assert_eq!(server.record(call(full)).await.unwrap().taken, 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_another_shop_are_kept_and_not_counted() {
    let home = tempfile::tempdir().unwrap();
    let (bundle, store) = (small_models(home.path()), home.path().join("facts.redb"));
    for taken in [1, 0] {
        let server = Server::start(&bundle, Some(store.clone())).await;
        let reply = server.record(call(vec![event("1", "ann", "of another shop")])).await.unwrap();
        assert_eq!((reply.taken, reply.known), (taken, 1 - taken));
        if taken == 1 {
            let uncounted = reply.uncounted[0];
            assert_eq!((uncounted.index, uncounted.why()), (0, pb::WhyUncounted::UnknownItem));
        }
        assert_eq!(server.rerank(vec![], "ann").await.quality(), pb::Quality::Scored);
        server.app.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_a_store_and_one_that_leaves_refuse() {
    let home = tempfile::tempdir().unwrap();
    let bundle = small_models(home.path());
    let server = Server::start(&bundle, None).await;
    let status = server.record(call(vec![event("1", "ann", ITEMS[0])])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("store.path"), "{status:?}");
    let body = serde_json::to_vec(&call(vec![event("1", "ann", ITEMS[0])])).unwrap();
    let (status, _) = server.post("/api/v1/events", body.clone()).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);

    let server = Server::start(&bundle, Some(home.path().join("facts.redb"))).await;
    let channel = server.grpc.clone();
    server.record(call(vec![event("1", "ann", ITEMS[0])])).await.unwrap();
    server.app.readiness().set(ReadinessState::Draining).await;
    let mut request = tonic::Request::new(call(vec![event("2", "ann", ITEMS[0])]));
    request.set_timeout(PATIENCE);
    // The connection may be closed before the answer.
    let status = channel.clone().record_events(request).await.unwrap_err();
    let is_closed = status.code() == Code::Internal && status.message().contains("http2 error");
    assert!(is_closed || matches!(status.code(), Code::Unavailable | Code::Unknown), "{status:?}");
}

// === The real binary ===

fn raisonne(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raisonne"));
    command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    command
}

/// A server in the background. It is killed (by SIGKILL) when dropped.
struct ServerProcess {
    child: Child,
    url: String,
}

impl ServerProcess {
    fn start(bundle: &Path, store: &Path) -> Self {
        let bundle = bundle.to_str().unwrap();
        let mut command = raisonne(&["serve", "--listen", "127.0.0.1:0", "--bundle", bundle]);
        command.env("RAISONNE__STORE__PATH", store);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let (mut line, mut all) = (String::new(), String::new());
        while !line.contains("serving gRPC and HTTP") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "ended before it served: {all}");
            all.push_str(&line);
        }
        let log: Value = serde_json::from_str(&line).unwrap();
        let address = log["address"].as_str().unwrap();
        let url = format!("http://{address}");
        std::thread::spawn(move || {
            let mut rest = Vec::new();
            let _ = lines.read_to_end(&mut rest);
        });
        Self { child, url }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_file_is_pushed_once_and_its_wrong_rows_are_named() {
    let home = tempfile::tempdir().unwrap();
    let bundle = small_models(home.path());
    let server = ServerProcess::start(&bundle, &home.path().join("facts.redb"));
    let now = jiff::Timestamp::now().as_second();
    let mut rows = vec!["user_id,item_id,time,kind,event_id".to_owned()];
    rows.extend((0..250).map(|n| format!("u{},P{:05},{},click,e{n}", n % 9, n % 40 + 1, now - n)));
    rows.push(format!("u1,P00001,{now},sold,wrong"));
    rows.push(format!("u0,P00002,{now},click,e0"));
    let file = home.path().join("events.csv");
    fs::write(&file, rows.join("\n")).unwrap();
    let push = |arguments: &[&str]| {
        let file = file.to_str().unwrap();
        let fixed = ["events", "push", file, "--url", &server.url, "--batch", "100"];
        raisonne(&[&fixed[..], arguments].concat()).output().unwrap()
    };
    let pushed = push(&[]);
    let error = String::from_utf8_lossy(&pushed.stderr).into_owned();
    assert_eq!(pushed.status.code(), Some(1), "{error}");
    assert!(stdout(&pushed).contains("250 taken, 0 known before, "), "{}", stdout(&pushed));
    assert!(error.contains("events.csv:252: kind: found \"sold\""), "{error}");
    assert!(stdout(&pushed).contains("events.csv:253: event_id was taken before"), "{pushed:?}");
    let again: Value = serde_json::from_str(&stdout(&push(&["--json"]))).unwrap();
    assert_eq!((&again["taken"], &again["known"]), (&json!(0), &json!(250)));
    // Corrected, it is done.
    fs::write(&file, rows[..251].join("\n")).unwrap();
    let corrected = push(&["--in-flight", "3"]);
    assert!(corrected.status.success(), "{corrected:?}");
    let url = server.url.clone();
    drop(server);
    let away =
        raisonne(&["events", "push", file.to_str().unwrap(), "--url", &url]).output().unwrap();
    assert_eq!(away.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&away.stderr).contains("connecting to"), "{away:?}");
}

/// Counts every item as one.
#[derive(Debug)]
struct AnyItem;

impl CountsBase for AnyItem {
    fn as_of(&self) -> Timestamp {
        0
    }

    fn number(&self, _: &ItemId) -> Option<u32> {
        Some(0)
    }

    fn past(&self, _: &UserId) -> ShopperPast {
        ShopperPast::default()
    }

    fn groups(&self, _: &ItemText) -> (Option<u32>, Vec<u32>) {
        (None, Vec::new())
    }
}

async fn client(url: String) -> RerankServiceClient<Channel> {
    let channel = Channel::from_shared(url).unwrap();
    RerankServiceClient::new(channel.connect().await.unwrap())
}

/// How many events a store holds, as a server counts them at its start.
fn stored(store: &Path) -> u32 {
    let store = Arc::new(EmbeddedStore::open(store).unwrap());
    let options = EventsOptions {
        keep_days: 400,
        calls_waiting_max: NonZeroUsize::new(1).unwrap(),
        cache_bytes: 1 << 20,
    };
    let recorder = EventRecorder::open(store, options, Arc::new(Metrics::new())).unwrap();
    let mut groups = ItemGroups::new(0, 0).unwrap();
    groups.push(None, &[]).unwrap();
    let live = recorder.follow(Statistics::new(groups), Arc::new(AnyItem), &[]).unwrap();
    live.load().item(0, jiff::Timestamp::now().as_second()).sales_ever
}

/// Kills a server at random moments while events come. Each acknowledged one is stored, and each that is sent again is
/// taken once.
fn kill_at_random_moments(kills: u64) {
    const WRITERS: u64 = 3;
    let home = tempfile::tempdir().unwrap();
    let (bundle, store) = (small_models(home.path()), home.path().join("facts.redb"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let now = jiff::Timestamp::now().as_second();
    let batch = move |number: u64| -> Vec<pb::ShopperEvent> {
        let event = |n: usize| pb::ShopperEvent {
            event_id: format!("{number}-{n}"),
            user_id: format!("u{}", n % 5),
            item_id: ITEMS[n % 6].into(),
            time: Some(pbjson_types::Timestamp { seconds: now, nanos: 0 }),
            kind: pb::EventKind::Purchase.into(),
        };
        (0..20).map(event).collect()
    };
    let next = Arc::new(AtomicU64::new(0));
    let (mut acknowledged, mut unanswered) = (Vec::new(), 0);
    for kill in 0..kills {
        let server = ServerProcess::start(&bundle, &store);
        let mut writers = Vec::new();
        for _ in 0..WRITERS {
            let mut client = runtime.block_on(client(server.url.clone()));
            let next = next.clone();
            writers.push(runtime.spawn(async move {
                let mut done = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    match client.record_events(call(batch(number))).await {
                        Ok(reply) => {
                            let reply = reply.into_inner();
                            assert_eq!((reply.taken, reply.known), (20, 0));
                            done.push(number);
                        }
                        Err(_) => return done,
                    }
                }
            }));
        }
        std::thread::sleep(Duration::from_micros(rng.random_range(1_000..400_000)));
        drop(server);
        for writer in writers {
            acknowledged.extend(runtime.block_on(writer).unwrap());
        }
        unanswered = next.load(Ordering::SeqCst) as usize - acknowledged.len();
        assert!(unanswered as u64 <= (kill + 1) * WRITERS);
    }
    let stored_now = stored(&store) as usize;
    let (least, most) = (acknowledged.len() * 20, (acknowledged.len() + unanswered) * 20);
    assert!((least..=most).contains(&stored_now), "{least} to {most}, found {stored_now}");
    // Everything is sent again: what was acknowledged is known.
    let server = ServerProcess::start(&bundle, &store);
    let mut client = runtime.block_on(client(server.url.clone()));
    for number in 0..next.load(Ordering::SeqCst) {
        let reply = runtime.block_on(client.record_events(call(batch(number)))).unwrap();
        let reply = reply.into_inner();
        if acknowledged.contains(&number) {
            assert_eq!((reply.taken, reply.known), (0, 20), "batch {number} was lost");
        } else {
            assert!(matches!((reply.taken, reply.known), (20, 0) | (0, 20)), "half of a batch");
        }
    }
    drop(server);
    assert_eq!(stored(&store) as usize, most, "each event is counted once");
    println!("{kills} kills: {} batches acknowledged, {unanswered} not", acknowledged.len());
}

#[test]
fn a_kill_loses_no_acknowledged_event() {
    kill_at_random_moments(3);
}

/// `cargo test --release --test events fifty -- --ignored --nocapture`
#[test]
#[ignore = "takes minutes"]
fn fifty_kills_lose_no_acknowledged_event() {
    kill_at_random_moments(50);
}
