//! A file of requests gets the answers of the server, bit by bit; a wrong one leaves no half of a file.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[expect(dead_code, reason = "nothing is flipped here")]
#[path = "support/bundle.rs"]
mod bundle;

use bundle::copied_bundle;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{ListAccessor as _, Row, RowAccessor as _};
use raisonne::api::{OfflineTerms, pb};
use raisonne::app::{App, Services, open_services};
use raisonne::bundle::{Bundle, Manifest, Part};
use raisonne::config::{Config, HumanDuration};
use raisonne::rank_file::{RankFile, RankFileReport};
use raisonne::reranker::{ComparedFile, RerankerFile, WeighedFile};
use raisonne::train::NoProgress;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// The moment of every request, later than the demo's log.
const NOW: i64 = 1_900_000_000;
/// Requests that both get.
const REQUESTS: usize = 1_000;
/// One request in so many may climb to the language model.
const CLIMBERS: usize = 40;
/// Requests in flight.
const IN_FLIGHT: usize = 16;
/// Longer than any request here takes on a slow machine.
const PATIENCE: Duration = Duration::from_mins(10);

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

fn config(bundle: &Path) -> Config {
    let mut config = Config::default();
    config.api.listen = "127.0.0.1:0".parse().unwrap();
    config.api.deadline_default = HumanDuration(PATIENCE);
    bundle.clone_into(&mut config.bundle.path);
    config
}

async fn services(bundle: &Path) -> Services {
    open_services(&config(bundle)).await.unwrap().0
}

/// A copy of the demo with every rung.
fn all_rungs(home: &Path) -> PathBuf {
    let dir = copied_bundle(home, "all-rungs");
    let compared = |thought_tokens_max| ComparedFile {
        weight: 0.7,
        rechead_weight: 0.5,
        offered_max: 4,
        thought_tokens_max,
        grounded: true,
    };
    let file = RerankerFile {
        weighed: Some(WeighedFile { weight: 0.8, candidates_max: 5 }),
        reranked: Some(compared(0)),
        reasoned: Some(compared(8)),
    };
    fs::write(dir.join(Part::Reranker.file()), toml::to_string(&file).unwrap()).unwrap();
    Manifest::of(&dir, "all-rungs").unwrap().write(&dir).unwrap();
    dir
}

// === Requests ===

/// Makes requests of every kind that the contract has.
struct Mixer {
    users: Vec<String>,
    items: Vec<String>,
    rng: ChaCha8Rng,
}

impl Mixer {
    fn of(bundle: &Bundle) -> Self {
        let mut users: Vec<String> = bundle.cards.users.keys().map(ToString::to_string).collect();
        users.sort();
        let items = bundle.catalog.items().iter().map(|item| item.id.to_string()).collect();
        Self { users, items, rng: ChaCha8Rng::seed_from_u64(5) }
    }

    fn requests(&mut self, count: usize) -> Vec<pb::RerankRequest> {
        (0..count).map(|number| self.request(number)).collect()
    }

    fn request(&mut self, number: usize) -> pb::RerankRequest {
        let size = *[1, 2, 5, 9, 24].choose(&mut self.rng);
        let climbs = number.is_multiple_of(CLIMBERS);
        let effort = if climbs { [0, 1, 3, 4, 5][number / CLIMBERS % 5] } else { 2 };
        let words = |this: &mut Self, text: &str| {
            if this.rng.random_bool(0.2) { text.to_owned() } else { String::new() }
        };
        pb::RerankRequest {
            request_id: if number.is_multiple_of(7) {
                String::new()
            } else {
                format!("r-{number}")
            },
            user: Some(pb::User { profile: words(self, "buys presents"), ..self.user(number) }),
            query: words(self, "something warm"),
            candidates: self.slate(size),
            top_n: self.rng.random_range(0..=size as u32),
            effort,
            explain: self.rng.random_range(0..4),
            reasons_per_item: self.rng.random_range(0..=10),
            locale: words(self, "en-GB"),
            criticality: self.rng.random_range(0..4),
            labels: [("arm".to_owned(), words(self, "b"))].into(),
            seed: number as u64,
            ..Default::default()
        }
    }

    /// A known shopper, an unknown one, and one whose history comes inline.
    fn user(&mut self, number: usize) -> pb::User {
        let user_id = self.users[number * 37 % self.users.len()].clone();
        match number % 3 {
            0 => pb::User { user_id, ..Default::default() },
            1 => pb::User { user_id: format!("stranger-{number}"), ..Default::default() },
            _ => {
                let events = self.rng.random_range(1..80);
                let history = (0..events).map(|_| self.event()).collect();
                pb::User { user_id, history, ..Default::default() }
            }
        }
    }

    fn event(&mut self) -> pb::Event {
        let seconds = NOW - self.rng.random_range(1..20_000_000);
        let item_id = if self.rng.random_bool(0.1) { "gone".into() } else { self.item() };
        let time = Some(pbjson_types::Timestamp { seconds, nanos: 0 });
        pb::Event { item_id, time, kind: self.rng.random_range(1..=5) }
    }

    fn item(&mut self) -> String {
        self.items[self.rng.random_range(0..self.items.len())].clone()
    }

    /// Known items, unknown ones, and ones with a text; some with the score of the ranker before.
    fn slate(&mut self, size: usize) -> Vec<pb::Candidate> {
        let mut ids: Vec<String> = self.items.clone();
        ids.partial_shuffle(&mut self.rng, size);
        let tail = ids.split_off(ids.len() - size);
        let scored = self.rng.random_bool(0.5);
        let each = tail.into_iter().enumerate();
        each.map(|(place, id)| {
            let (unknown, inline) = (self.rng.random_bool(0.05), self.rng.random_bool(0.05));
            let item = inline.then(|| pb::Item {
                title: format!("Red mug {place}"),
                category: "Kitchen".into(),
                attributes: [("color".to_owned(), "red".to_owned())].into(),
            });
            pb::Candidate {
                item_id: if unknown || inline { format!("new-{place}") } else { id },
                prior_score: scored.then(|| self.rng.random::<f32>()),
                item,
            }
        })
        .collect()
    }
}

trait Choose<T> {
    fn choose(&self, rng: &mut ChaCha8Rng) -> &T;
}

impl<T> Choose<T> for [T] {
    fn choose(&self, rng: &mut ChaCha8Rng) -> &T {
        &self[rng.random_range(0..self.len())]
    }
}

fn lines(requests: &[pb::RerankRequest]) -> String {
    let each = requests.iter().map(|request| serde_json::to_string(request).unwrap());
    each.flat_map(|line| [line, "\n".to_owned()]).collect()
}

// === Two ways to an answer ===

fn rank_file(requests: &Path, out: &Path) -> RankFile {
    RankFile {
        requests: requests.to_owned(),
        out: out.to_owned(),
        terms: OfflineTerms { time: Some(NOW), ..OfflineTerms::now() },
        in_flight: IN_FLIGHT,
        skip_rejects: false,
    }
}

async fn ranked(services: &Services, file: &RankFile) -> anyhow::Result<RankFileReport> {
    file.rank(&services.live.ladder(), &mut NoProgress).await
}

/// Ranks requests through a file, and reads the answers.
async fn by_file(services: &Services, home: &Path, requests: &str) -> Vec<Value> {
    let (from, to) = (home.join("requests.jsonl"), home.join("rankings.jsonl"));
    fs::write(&from, requests).unwrap();
    ranked(services, &rank_file(&from, &to)).await.unwrap();
    let text = fs::read_to_string(&to).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn post(
    client: &Client<HttpConnector, Full<Bytes>>,
    app: &App,
    body: String,
) -> (StatusCode, Bytes) {
    let request = Request::post(format!("http://{}/api/v1/rerank", app.address()));
    let response = client.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes())
}

/// The parts of an answer that must not differ: everything but its cost, and an id that nobody gave.
fn comparable(response: &pb::RerankResponse, request: &pb::RerankRequest) -> pb::RerankResponse {
    let request_id = request.request_id.clone();
    pb::RerankResponse { request_id, receipt: None, ..response.clone() }
}

/// The scores of an answer, bit by bit.
fn bits(response: &pb::RerankResponse) -> Vec<Vec<Option<u32>>> {
    let each = response.results.iter().map(|result| {
        let pb::Scores { prior, scorer, rechead, weighed, reranker } = result.scores.unwrap();
        let parts = [Some(result.score), prior, scorer, rechead, weighed, reranker];
        let weights = result.reasons.iter().map(|reason| Some(reason.weight));
        parts.into_iter().chain(weights).map(|score| score.map(f32::to_bits)).collect()
    });
    each.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_gets_the_answers_of_the_server_bit_by_bit() {
    let home = tempfile::tempdir().unwrap();
    let dir = all_rungs(home.path());
    let requests = Mixer::of(&Bundle::open(&dir).unwrap()).requests(REQUESTS);

    let served = services(&dir).await;
    let app = App::start_with_clock(&config(&dir).api, served, || NOW).await.unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let bodies: Vec<String> = lines(&requests).lines().map(ToOwned::to_owned).collect();
    let answers =
        stream::iter(bodies).map(|body| post(&client, &app, body)).buffered(IN_FLIGHT / 2);
    let answers: Vec<(StatusCode, Bytes)> = answers.collect().await;
    app.stop().await.unwrap();

    let offline = services(&dir).await;
    let rows = by_file(&offline, home.path(), &lines(&requests)).await;
    assert_eq!(rows.len(), REQUESTS);
    let mut qualities = std::collections::BTreeSet::new();
    let (mut moved, mut reasons) = (0, 0);
    for (((status, body), mut row), (number, request)) in
        answers.into_iter().zip(rows).zip(requests.iter().enumerate())
    {
        assert_eq!(status, StatusCode::OK, "{body:?}");
        let server: pb::RerankResponse = serde_json::from_slice(&body).unwrap();
        let fields = row.as_object_mut().unwrap();
        assert_eq!(fields.remove("user").unwrap(), request.user.as_ref().unwrap().user_id);
        let time: pbjson_types::Timestamp =
            serde_json::from_value(fields.remove("time").unwrap()).unwrap();
        assert_eq!(time.seconds, NOW);
        if request.request_id.is_empty() {
            assert_eq!(fields["requestId"], format!("line-{}", number + 1));
        }
        let file: pb::RerankResponse = serde_json::from_value(row).unwrap();
        let (server, file) = (comparable(&server, request), comparable(&file, request));
        assert_eq!(bits(&server), bits(&file), "request {number}");
        assert_eq!(server, file, "request {number}");
        assert!(file.shortfalls.iter().all(|shortfall| shortfall.why() == pb::Why::Missing));
        qualities.insert(file.quality);
        let is_moved = |result: &pb::Result| result.rank != result.input_rank;
        moved += usize::from(file.results.iter().any(is_moved));
        reasons += file.results.iter().map(|result| result.reasons.len()).sum::<usize>();
    }
    assert_eq!(qualities.len(), 5, "every rung was reached: {qualities:?}");
    assert!(moved > REQUESTS / 4 && reasons > REQUESTS, "{moved} moved, {reasons} reasons");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_does_not_depend_on_how_many_requests_are_in_flight() {
    let home = tempfile::tempdir().unwrap();
    let requests = Mixer::of(&Bundle::open(&demo()).unwrap()).requests(24);
    let from = home.path().join("requests.jsonl");
    fs::write(&from, lines(&requests)).unwrap();
    let services = services(&demo()).await;
    let mut files = Vec::new();
    for in_flight in [1, 16] {
        let to = home.path().join(format!("rankings-{in_flight}.jsonl"));
        ranked(&services, &RankFile { in_flight, ..rank_file(&from, &to) }).await.unwrap();
        files.push(fs::read(to).unwrap());
    }
    assert!(files.iter().all(|file| *file == files[0]));
}

// === Replays ===

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_reads_only_what_was_before_its_moment() {
    let home = tempfile::tempdir().unwrap();
    let bundle = Bundle::open(&demo()).unwrap();
    let mut mixer = Mixer::of(&bundle);
    let mut cards: Vec<_> = bundle.cards.users.iter().collect();
    cards.sort_by_key(|(user, card)| (std::cmp::Reverse(card.history.len()), *user));
    let (user, card) = cards[0];
    let past: Vec<pb::Event> = card
        .history
        .iter()
        .map(|event| pb::Event {
            item_id: bundle.catalog.item(event.item).id.to_string(),
            time: Some(pbjson_types::Timestamp { seconds: event.time, nanos: 0 }),
            kind: event.kind as i32 + 1,
        })
        .collect();
    let moment = card.history[card.history.len() / 2].time;
    let before: Vec<pb::Event> = past
        .iter()
        .filter(|event| event.time.as_ref().unwrap().seconds < moment)
        .cloned()
        .collect();
    assert!(!before.is_empty() && before.len() < past.len());
    let candidates = mixer.slate(12);
    let request = |history: &[pb::Event], time: Option<i64>| {
        let message = pb::RerankRequest {
            request_id: "r".into(),
            user: Some(pb::User {
                user_id: user.to_string(),
                history: history.to_vec(),
                ..Default::default()
            }),
            candidates: candidates.clone(),
            effort: pb::Effort::Scored.into(),
            ..Default::default()
        };
        let mut line = serde_json::to_value(&message).unwrap();
        if let Some(seconds) = time {
            line["time"] =
                serde_json::to_value(pbjson_types::Timestamp { seconds, nanos: 0 }).unwrap();
        }
        format!("{line}\n")
    };
    let first = card.history[0].time;
    let text: String = [
        request(&[], Some(moment)),     // 0: the bundle's card, cut
        request(&before, Some(moment)), // 1: inline, nothing to cut
        request(&past, Some(moment)),   // 2: inline, cut
        request(&[], None),             // 3: the whole card
        request(&past, Some(first)),    // 4: nothing was before
        request(&[], Some(first)),      // 5
    ]
    .concat();
    let services = services(&demo()).await;
    let rows = by_file(&services, home.path(), &text).await;
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0], rows[2]);
    assert_ne!(rows[0]["results"], rows[3]["results"]);
    assert_eq!(rows[4], rows[5]);
    // A replay leaves nothing behind in the cache: the same request is answered as before.
    let again = by_file(&services, home.path(), &request(&[], None)).await;
    assert_eq!(again[0], rows[3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_refuses_a_moment() {
    let app = App::start(&config(&demo()).api, services(&demo()).await).await.unwrap();
    let client = Client::builder(TokioExecutor::new()).build_http();
    let body = json!({
        "time": "2024-01-01T00:00:00Z",
        "user": { "userId": "u" },
        "candidates": [{ "itemId": "a" }],
    });
    let (status, body) = post(&client, &app, body.to_string()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(body.contains("unknown field `time`"), "{body}");
    app.stop().await.unwrap();
}

// === Parquet ===

#[tokio::test(flavor = "multi_thread")]
async fn a_table_holds_what_the_lines_hold() {
    let home = tempfile::tempdir().unwrap();
    let requests = Mixer::of(&Bundle::open(&demo()).unwrap()).requests(15);
    let services = services(&demo()).await;
    let lines = by_file(&services, home.path(), &lines(&requests)).await;
    let to = home.path().join("rankings.parquet");
    let file = rank_file(&home.path().join("requests.jsonl"), &to);
    let report = ranked(&services, &file).await.unwrap();
    let table = SerializedFileReader::new(fs::File::open(&to).unwrap()).unwrap();
    let rows: Vec<Row> = table.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    let items = lines.iter().flat_map(|line| {
        let results = line["results"].as_array().unwrap();
        results.iter().map(move |result| (line, result))
    });
    let items: Vec<_> = items.collect();
    assert_eq!((rows.len() as u64, items.len() as u64), (report.items, report.items));
    for (row, (line, result)) in rows.iter().zip(items) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        assert_eq!(row.get_string(0).unwrap(), &text(&line["requestId"]));
        assert_eq!(row.get_string(1).unwrap(), &text(&line["user"]));
        assert_eq!(row.get_timestamp_millis(2).unwrap(), NOW * 1_000);
        let quality = text(&line["quality"]).replace("QUALITY_", "").to_lowercase();
        assert_eq!(row.get_string(3).unwrap(), &quality);
        assert_eq!(row.get_string(4).unwrap(), &text(&line["bundle"]));
        assert_eq!(row.get_string(5).unwrap(), &text(&result["itemId"]));
        assert_eq!(u64::from(row.get_uint(6).unwrap()), result["inputRank"].as_u64().unwrap());
        assert_eq!(u64::from(row.get_uint(7).unwrap()), result["rank"].as_u64().unwrap());
        let number = |value: &Value| value.as_f64().map(|value| (value as f32).to_bits());
        assert_eq!(row.get_float(8).unwrap().to_bits(), number(&result["score"]).unwrap_or(0));
        for (column, part) in (9..).zip(["prior", "scorer", "rechead", "weighed", "reranker"]) {
            let cell = row.get_float(column).ok().map(f32::to_bits);
            assert_eq!(cell, number(&result["scores"][part]), "{part}");
        }
        let reasons: Vec<Value> = result["reasons"].as_array().cloned().unwrap_or_default();
        let list = row.get_list(14).unwrap();
        assert_eq!(list.len(), reasons.len());
        for (nth, reason) in reasons.iter().enumerate() {
            let group = list.get_group(nth).unwrap();
            assert_eq!(group.get_string(0).unwrap(), &text(&reason["text"]));
            let evidence = reason["evidence"].as_array().unwrap();
            let claims = group.get_list(3).unwrap();
            assert_eq!(claims.len(), evidence.len());
            for (nth, evidence) in evidence.iter().enumerate() {
                let claim = claims.get_group(nth).unwrap();
                let kind = text(&evidence["kind"]).replace("EVIDENCE_KIND_", "").to_lowercase();
                assert_eq!(claim.get_string(0).unwrap(), &kind);
                assert_eq!(claim.get_string(1).unwrap(), &text(&evidence["itemId"]));
                let count = evidence["count"].as_u64().unwrap_or_default();
                assert_eq!(u64::from(claim.get_uint(4).unwrap()), count);
            }
        }
        let shortfalls = line["shortfalls"].as_array().map_or(0, Vec::len);
        assert_eq!(row.get_list(15).unwrap().len(), shortfalls);
    }
}

// === Bad input ===

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_line_is_named_and_leaves_no_file() {
    let good = r#"{"user":{"userId":"u"},"candidates":[{"itemId":"a"}]}"#;
    let table = [
        (r#"{"user":{"userId":"u"},"candidates":[]}"#, "candidates is empty"),
        (r#"{"candidates":[{"itemId":"a"}]}"#, "user.user_id is empty, but required"),
        (
            r#"{"user":{"userId":"u"},"candidates":[{"itemId":"a"},{"itemId":"a"}]}"#,
            "candidates[1].item_id is the same as candidates[0]",
        ),
        (
            r#"{"user":{"userId":"u"},"candidates":[{"itemId":"a","priorScore":"NaN"}]}"#,
            "candidates[0].prior_score is NaN, but must be finite",
        ),
        (r#"{"user":{"userId":7}}"#, "user.userId cannot be decoded"),
        (r#"{"slate":[]}"#, "cannot be decoded: unknown field `slate`"),
        (r#"{"time":"soon"}"#, "time cannot be decoded"),
        (
            r#"{"user":{"userId":"u"},"candidates":[{"itemId":"a"}],"bundle":"other-1"}"#,
            "there is no bundle `other-1` here",
        ),
        (r#"[{"user":{"userId":"u"}}]"#, "jq -c '.[]'"),
        ("not json", "cannot be decoded"),
    ];
    let home = tempfile::tempdir().unwrap();
    let (from, folder) = (home.path().join("requests.jsonl"), home.path().join("out"));
    fs::create_dir(&folder).unwrap();
    let services = services(&demo()).await;
    for name in ["rankings.jsonl", "rankings.jsonl.zst", "rankings.parquet"] {
        for (line, why) in table {
            fs::write(&from, format!("{good}\n{good}\n\n{line}\n{good}\n")).unwrap();
            let to = folder.join(name);
            fs::write(&to, "old").unwrap();
            let error = ranked(&services, &rank_file(&from, &to)).await.unwrap_err().to_string();
            assert!(error.contains("requests.jsonl:4: ") && error.contains(why), "{line}: {error}");
            assert!(error.contains("--skip-rejects"), "{error}");
            assert_eq!(fs::read(&to).unwrap(), b"old");
            assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "only the old file is there");

            let file = RankFile { skip_rejects: true, ..rank_file(&from, &to) };
            let report = ranked(&services, &file).await.unwrap();
            assert_eq!((report.requests, report.failed), (3, 1));
            assert!(report.rejects[0].contains("requests.jsonl:4: "), "{report:?}");
            assert!(report.rejects[0].contains(why), "{report:?}");
            assert_ne!(fs::read(&to).unwrap(), b"old");
            fs::remove_file(to).unwrap();
        }
    }
}

#[test]
fn the_command_says_what_is_wrong_before_it_ranks() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name).display().to_string();
    let good = r#"{"user":{"userId":"u"},"candidates":[{"itemId":"a"}]}"#;
    fs::write(path("good.jsonl"), good).unwrap();
    fs::write(path("empty.jsonl"), "\n\n").unwrap();
    fs::write(path("wrong.jsonl"), "{}\n[]\n").unwrap();
    let table = [
        (["no.jsonl", "out.jsonl"], vec![], "opening the requests"),
        (["good.jsonl", "out.csv"], vec![], "must end in .jsonl, .ndjson"),
        (["good.jsonl", "no/folder/out.jsonl"], vec![], "writing"),
        (["good.jsonl", "good.jsonl"], vec![], "holds the requests"),
        (["good.jsonl", "out.jsonl"], vec!["--in-flight", "0"], "1 to 1024 are allowed"),
        (["good.jsonl", "out.jsonl"], vec!["--now", "soon"], "2026-06-01T00:00:00Z"),
        (["good.jsonl", "out.jsonl"], vec!["--timeout-ms", "0"], "--timeout-ms"),
        (["empty.jsonl", "out.jsonl"], vec![], "holds no request"),
        (["wrong.jsonl", "out.jsonl"], vec!["--skip-rejects"], "no line is a valid request"),
        (["", "out.jsonl"], vec![], "is a folder"),
    ];
    for ([from, to], flags, why) in table {
        let out = run(&path(from), &path(to), &flags, "");
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && errors.contains(why), "{from} {to} {flags:?}: {errors}");
        assert_eq!(fs::read(path("good.jsonl")).unwrap(), good.as_bytes());
        assert!(!home.path().join("out.jsonl").exists());
    }

    // A pipe in, a pipe out.
    let out = run("-", "-", &["--effort", "scored"], &format!("{good}\n{good}\n"));
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let answers = String::from_utf8(out.stdout).unwrap();
    let answers: Vec<Value> =
        answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[1]["requestId"], "line-2");
    assert!(answers[1].get("time").is_none(), "it is no replay");
    assert!(String::from_utf8_lossy(&out.stderr).contains("ranked 2 requests"));
}

fn run(requests: &str, out: &str, flags: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raisonne"));
    command.arg("rank").arg("--bundle").arg(demo());
    command.args(["--requests", requests, "--out", out]).args(flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}
