//! Another version goes live while requests come: none fails, and each is of one version.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/bundle.rs"]
mod bundle;
#[path = "support/ladder_options.rs"]
mod ladder_options;

use bundle::{copied_bundle, flip};
use futures_util::{FutureExt as _, StreamExt as _};
use raisonne::api::ReadinessState;
use raisonne::api::pb::rerank_service_client::RerankServiceClient;
use raisonne::api::pb::{
    self, ExplainRequest, Quality, RerankRequest, RerankResponse, StreamRerankRequest, Why,
};
use raisonne::app::{App, Canary, open_services};
use raisonne::bundle::{Manifest, Part};
use raisonne::config::{Config, HumanDuration, SwapSetting};
use raisonne::domain::{self, Candidate, Criticality, Deadline, Effort, Explain, Query};
use raisonne::rank::{self, Ladder, LiveLadder, SwapError, SwapOutcome, SwapStrategy, Update};
use raisonne::telemetry::Metrics;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;

/// The demo's upper rungs, and the highest of them.
const UPPER: [Quality; 2] = [Quality::Weighed, TOP];
const TOP: Quality = Quality::Reasoned;
/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);
/// Clients of a load.
const CLIENTS: usize = 4;

/// A server, its ladders, and a client.
struct Served {
    app: App,
    live: Arc<LiveLadder>,
    canary: Canary,
    metrics: Arc<Metrics>,
    client: RerankServiceClient<Channel>,
    samples: Arc<[RerankRequest]>,
}

/// Bundles in a folder of their own.
struct Shelf(TempDir);

// === impl Shelf ===

impl Shelf {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn demo() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
    }

    /// The demo with other contents, and a manifest for them.
    fn add(&self, name: &str, change: impl FnOnce(&Path)) -> PathBuf {
        let dir = copied_bundle(self.0.path(), name);
        change(&dir);
        Manifest::of(&dir, name).unwrap().write(&dir).unwrap();
        dir
    }

    /// A version with other answers: the order given counts twice as much, the language model half. Golden
    /// requests depend on neither.
    fn other(&self) -> PathBuf {
        self.add("other", |dir| {
            set(&dir.join(Part::ScorerShape.file()), "fusion", "prior_weight", 0.7);
            set(&dir.join(Part::Reranker.file()), "weighed", "weight", 0.1);
        })
    }

    /// A version whose golden requests fail.
    fn with_golden(&self, name: &str, what: &str) -> PathBuf {
        self.add(name, |dir| {
            let path = dir.join(Part::Golden.file());
            let mut golden: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            let items = golden[0]["items"].as_array().unwrap().len();
            golden[0][what] = json!(vec![99.0; items]);
            fs::write(&path, golden.to_string()).unwrap();
        })
    }
}

async fn client(address: SocketAddr) -> RerankServiceClient<Channel> {
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    RerankServiceClient::new(channel.connect().await.unwrap())
}

fn samples() -> Arc<[RerankRequest]> {
    let samples = fs::read(Shelf::demo().join(Part::Samples.file())).unwrap();
    serde_json::from_slice::<Vec<_>>(&samples).unwrap().into()
}

fn set(path: &Path, section: &str, key: &str, value: f64) {
    let mut table: toml::Table = fs::read_to_string(path).unwrap().parse().unwrap();
    let old = table[section].as_table_mut().unwrap().insert(key.to_owned(), value.into());
    assert!(old.is_some_and(|old| old != value.into()), "{section}.{key} is to be changed");
    fs::write(path, table.to_string()).unwrap();
}

fn version(dir: &Path) -> String {
    Manifest::read(dir).unwrap().version
}

// === impl Served ===

impl Served {
    /// Serves the demo.
    async fn start(swap: SwapSetting) -> Self {
        let mut config = Config::default();
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.bundle.path = Shelf::demo();
        config.bundle.swap = swap;
        config.api.deadline_default = HumanDuration(PATIENCE);
        let (services, _) = open_services(&config).await.unwrap();
        let (live, canary, metrics) =
            (services.live.clone(), services.canary.clone(), services.metrics.clone());
        let app = App::start(&config.api, services).await.unwrap();
        let client = client(app.address()).await;
        Self { app, live, canary, metrics, client, samples: samples() }
    }

    /// The version that serves now, and its answer to each sample.
    async fn answers(&self) -> (String, Vec<Answer>) {
        let mut client = self.client.clone();
        let mut answers = Vec::new();
        for sample in &*self.samples {
            answers.push(Answer::of(client.rerank(sample.clone()).await.unwrap().into_inner()));
        }
        (self.version(), answers)
    }

    fn version(&self) -> String {
        self.live.ladder().version().to_string()
    }

    async fn swap(&self, dir: &Path) -> Result<SwapOutcome, SwapError> {
        timeout(PATIENCE, self.live.swap(dir)).await.expect("a swap ends")
    }

    fn counts(&self, line: &str) {
        let text = self.metrics.render();
        assert!(text.lines().any(|other| other == line), "{line}\n{text}");
    }

    /// Waits until a canary comes back: on a busy machine, one may be late.
    async fn is_well(&self) {
        let well = async { while (self.canary)().await.is_err() {} };
        timeout(PATIENCE, well).await.expect("a canary comes back");
    }

    async fn stop(self) {
        self.app.stop().await.unwrap();
    }
}

/// The part of an answer that depends on its version.
#[derive(Clone, Debug)]
struct Answer {
    bundle: String,
    quality: Quality,
    scores: Vec<(String, f32)>,
}

impl Answer {
    fn of(response: RerankResponse) -> Self {
        let reasons = response.results.iter().flat_map(|result| &result.reasons);
        reasons.for_each(|reason| assert_eq!(reason.bundle, response.bundle));
        let quality = response.quality();
        let scores = response.results.into_iter().map(|result| (result.item_id, result.score));
        Self { bundle: response.bundle, quality, scores: scores.collect() }
    }

    /// Whether both have the same order and scores. Seconds pass between them, and features
    /// depend on the time, so scores differ a little.
    fn is_like(&self, other: &Self) -> bool {
        let scores = self.scores.iter().zip(&other.scores);
        self.quality == other.quality
            && self.scores.len() == other.scores.len()
            && scores.into_iter().all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-3)
    }
}

/// Clients that send the samples over and over, half of them as streams.
struct Load {
    over: Arc<AtomicBool>,
    clients: JoinSet<Vec<(usize, Answer, Vec<Why>)>>,
}

impl Load {
    fn on(client: &RerankServiceClient<Channel>, samples: &Arc<[RerankRequest]>) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let (over, mut client, samples) = (over.clone(), client.clone(), samples.clone());
            clients.spawn(async move {
                let mut answers = Vec::new();
                for turn in number.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let at = turn % samples.len();
                    let sample = samples[at].clone();
                    let response = match number % 2 {
                        0 => client.rerank(sample).await.unwrap().into_inner(),
                        _ => stream(&mut client, sample).await,
                    };
                    let why = response.shortfalls.iter().map(pb::Shortfall::why).collect();
                    explain(&mut client, &samples[at]).await;
                    answers.push((at, Answer::of(response), why));
                }
                answers
            });
        }
        Self { over, clients }
    }

    /// Stops the clients, and returns their answers.
    async fn stop(self) -> Vec<(usize, Answer, Vec<Why>)> {
        self.over.store(true, Ordering::Relaxed);
        self.clients.join_all().await.concat()
    }
}

/// The last ranking of a stream. All of them are of one version.
async fn stream(
    client: &mut RerankServiceClient<Channel>,
    sample: RerankRequest,
) -> RerankResponse {
    let request = StreamRerankRequest { request: Some(sample) };
    let stream = client.stream_rerank(request).await.unwrap().into_inner();
    let rankings: Vec<_> = stream.filter_map(async |step| step.unwrap().ranking).collect().await;
    let versions: BTreeSet<_> = rankings.iter().map(|ranking| &ranking.bundle).collect();
    assert_eq!(versions.len(), 1, "{versions:?}");
    rankings.into_iter().last().unwrap()
}

/// Requests reasons. All of them are of one version.
async fn explain(client: &mut RerankServiceClient<Channel>, sample: &RerankRequest) {
    let items = sample.candidates.iter().take(5).map(|candidate| candidate.item_id.clone());
    let request = ExplainRequest {
        user: sample.user.clone(),
        item_ids: items.collect(),
        ..ExplainRequest::default()
    };
    let response = client.explain(request).await.unwrap().into_inner();
    let mut reasons = response.items.iter().flat_map(|item| &item.reasons);
    assert!(reasons.all(|reason| reason.bundle == response.bundle));
}

/// Waits until the last owner has dropped this ladder.
async fn is_dropped(ladder: &Weak<Ladder>) {
    let dropped = async {
        while ladder.strong_count() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, dropped).await.expect("an old ladder is dropped");
}

/// A request that this ladder can answer.
fn golden_query(ladder: &Ladder) -> Query {
    let golden = ladder.golden().unwrap();
    let candidate =
        |item: &String| Candidate { item: item.as_str().into(), prior_score: None, inline: None };
    Query {
        request_id: "test".into(),
        user: golden.user.as_str().into(),
        history: None,
        profile: None,
        query_text: None,
        candidates: golden.items.iter().map(candidate).collect(),
        top_n: 5,
        effort: Effort::Auto,
        explain: Explain::Cached,
        reasons_per_item: 2,
        criticality: Criticality::Default,
        bundle: None,
        now: golden.now,
        is_replay: false,
        deadline: Deadline::after(Instant::now(), PATIENCE),
    }
}

// === Side by side ===

#[tokio::test(flavor = "multi_thread")]
async fn under_load_no_request_fails_and_each_answer_is_wholly_of_one_version() {
    let shelf = Shelf::new();
    let served = Served::start(SwapSetting::SideBySide).await;
    let (here, there) = (Shelf::demo(), shelf.other());
    let mut expected = BTreeMap::from([served.answers().await]);
    assert_eq!(served.swap(&there).await.unwrap(), SwapOutcome::Swapped);
    expected.extend([served.answers().await]);
    let [one, two] = [&here, &there].map(|dir| &expected[&version(dir)]);
    assert!(!one.iter().zip(two).any(|(a, b)| a.is_like(b)), "they answer alike");

    let load = Load::on(&served.client, &served.samples);
    let mut old = Vec::new();
    for dir in [&here, &there, &here, &there] {
        old.push(Arc::downgrade(&served.live.ladder()));
        assert_eq!(served.swap(dir).await.unwrap(), SwapOutcome::Swapped);
        assert_eq!(served.version(), version(dir));
        sleep(Duration::from_millis(300)).await;
    }
    let answers = load.stop().await;
    let mut seen = BTreeMap::<_, usize>::new();
    for (at, answer, _) in answers {
        let of_version = &expected[&answer.bundle][at];
        assert!(answer.is_like(of_version), "{answer:?} is not {of_version:?}");
        *seen.entry(answer.bundle).or_default() += 1;
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{seen:?}");
    for ladder in &old {
        is_dropped(ladder).await;
    }
    served.counts(r#"raisonne_bundle_swaps_total{outcome="swapped"} 5"#);
    let info = |dir: &Path, number| {
        let version = version(dir);
        format!(r#"raisonne_bundle_info{{slot="stable",version="{version}"}} {number}"#)
    };
    served.counts(&info(&here, 0));
    served.counts(&info(&there, 1));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_does_not_hold_leaves_the_old_one_serving() {
    let shelf = Shelf::new();
    let served = Served::start(SwapSetting::SideBySide).await;
    let before = served.live.ladder();
    let flipped = shelf.other();
    flip(&flipped.join(Part::CardVectors.file()));
    let cases = [
        (flipped, "cards.safetensors was changed"),
        (shelf.with_golden("scores", "scores"), "not 99"),
        (shelf.with_golden("weighs", "weighed"), "not 99"),
        (shelf.0.path().join("nothing"), "is not a bundle: there is no such folder"),
    ];
    let mut refused = 0;
    for (dir, words) in cases {
        let error = served.swap(&dir).await.unwrap_err();
        assert!(matches!(error, SwapError::Refused(_)), "{error:?}");
        let error = format!("{:#}", anyhow::Error::from(error));
        assert!(error.contains(words), "{error}");
        refused += 1;
        assert!(Arc::ptr_eq(&before, &served.live.ladder()));
        served.counts(&format!(r#"raisonne_bundle_swaps_total{{outcome="refused"}} {refused}"#));
    }
    assert_eq!(served.swap(&Shelf::demo()).await.unwrap(), SwapOutcome::Unchanged);
    assert!(Arc::ptr_eq(&before, &served.live.ladder()), "the same version is not opened again");
    served.counts(r#"raisonne_bundle_swaps_total{outcome="already"} 1"#);
    served.is_well().await;
    let mut client = served.client.clone();
    let answer = client.rerank(served.samples[0].clone()).await.unwrap().into_inner();
    assert_eq!((answer.quality(), answer.bundle), (TOP, version(&Shelf::demo())));
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_ladder_stays_until_its_last_climb_ends_and_then_goes() {
    let shelf = Shelf::new();
    let served = Served::start(SwapSetting::SideBySide).await;
    let mut client = served.client.clone();
    let ladder = served.live.ladder();
    let (old, mut dropped) = (Arc::downgrade(&ladder), ladder.drop_signal());
    let query = golden_query(&ladder);
    let mut climb = Box::pin(ladder.climb(query));
    climb.next().await.unwrap();
    served.swap(&shelf.other()).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert!(old.upgrade().is_some() && !dropped.has_dropped(), "a request still climbs it");

    let pinned = RerankRequest { bundle: version(&Shelf::demo()), ..served.samples[0].clone() };
    let status = client.rerank(pinned).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "a new request finds the new version");

    let last = climb.by_ref().fold(None, |_, update| async { Some(update) }).await;
    let Some(Update::Answer(last)) = last else { panic!("{last:?}") };
    assert_eq!(last.ranking.version.as_str(), version(&Shelf::demo()));
    assert_eq!(last.ranking.quality, domain::Quality::Reasoned);
    drop(climb);
    is_dropped(&old).await;
    timeout(PATIENCE, dropped.dropped()).await.expect("its threads end");
    served.stop().await;
}

// === One at a time ===

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_answers_are_scored_until_the_new_language_model_is_there() {
    let shelf = Shelf::new();
    let served = Served::start(SwapSetting::OneAtATime).await;
    let there = shelf.other();
    let load = Load::on(&served.client, &served.samples);
    // This holds the old language model, as a request in flight does.
    let old = served.live.ladder();
    let (live, dir) = (served.live.clone(), there.clone());
    let swap = tokio::spawn(async move { live.swap(&dir).await });
    let incomplete = async {
        while served.live.ladder().is_whole() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, incomplete).await.unwrap();
    let mut client = served.client.clone();
    for sample in &*served.samples {
        let answer = client.rerank(sample.clone()).await.unwrap().into_inner();
        assert_eq!((answer.quality(), &*answer.bundle), (Quality::Scored, &*version(&there)));
        let shortfalls: Vec<_> = answer.shortfalls.iter().map(|s| (s.quality(), s.why())).collect();
        assert_eq!(shortfalls, UPPER.map(|quality| (quality, Why::Missing)));
        assert!(answer.shortfalls.iter().all(|s| s.missing == "language model"));
    }
    // A planned gap leaves the server ready.
    served.is_well().await;
    assert!(!swap.is_finished() && !old.drop_signal().has_dropped());
    // One other swap may wait meanwhile.
    let mut second = Box::pin(served.live.swap(&there));
    assert!((&mut second).now_or_never().is_none());
    assert!(matches!(served.live.swap(&there).await, Err(SwapError::Busy)));

    let dropped = old.drop_signal();
    drop(old);
    assert_eq!(swap.await.unwrap().unwrap(), SwapOutcome::Swapped);
    assert!(dropped.has_dropped(), "the old model is dropped before the new one is loaded");
    assert_eq!(second.await.unwrap(), SwapOutcome::Unchanged);
    let answer = client.rerank(served.samples[0].clone()).await.unwrap().into_inner();
    assert_eq!((answer.quality(), &*answer.bundle), (TOP, &*version(&there)));
    for (_, answer, why) in load.stop().await {
        let is_scored = answer.quality == Quality::Scored && answer.bundle == version(&there);
        assert!(is_scored || answer.quality == TOP, "{:?}: {why:?}", answer.quality);
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time_a_language_model_that_does_not_hold_leaves_its_ladder_without_it() {
    let shelf = Shelf::new();
    let served = Served::start(SwapSetting::OneAtATime).await;
    let error = served.swap(&shelf.with_golden("scores", "scores")).await.unwrap_err();
    assert!(matches!(error, SwapError::Refused(_)), "all but the language model is checked first");
    assert!(served.live.ladder().is_whole());

    let weighs = shelf.with_golden("weighs", "weighed");
    for outcome in ["lacking", "refused"] {
        // At the second try no old language model has to be dropped first.
        assert_eq!(served.swap(&weighs).await.unwrap_err().as_str(), outcome);
        assert_eq!(served.version(), version(&weighs));
        let mut client = served.client.clone();
        let answer = client.rerank(served.samples[0].clone()).await.unwrap().into_inner();
        assert_eq!(answer.quality(), Quality::Scored);
        assert_eq!(answer.shortfalls[0].why(), Why::Broken);
        assert_eq!((served.canary)().await, Err("a rung is broken"));
    }
    let degraded = async {
        while !matches!(served.app.readiness().state(), ReadinessState::Degraded(_)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, degraded).await.unwrap();
    served.counts(r#"raisonne_bundle_swaps_total{outcome="lacking"} 1"#);

    assert_eq!(served.swap(&Shelf::demo()).await.unwrap(), SwapOutcome::Swapped);
    served.is_well().await;
    served.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_at_a_time_a_swap_does_not_wait_for_ever_and_can_be_tried_again() {
    let shelf = Shelf::new();
    let there = shelf.other();
    let options = ladder_options::ladder_options(Arc::new(Metrics::new()));
    let (ladder, _) = rank::open(&Shelf::demo(), &options).await.unwrap();
    let live = LiveLadder::start(ladder.clone(), options, SwapStrategy::OneAtATime);
    let begun = Instant::now();
    let error = live.swap(&there).await.unwrap_err();
    assert!(matches!(error, SwapError::Held), "{error:?}");
    assert!(begun.elapsed() >= SwapStrategy::DROP_WAIT_MAX);
    let lower = live.ladder();
    assert!(!lower.is_whole() && lower.version().as_str() == version(&there));
    drop((ladder, lower));
    assert_eq!(live.swap(&there).await.unwrap(), SwapOutcome::Swapped);
    assert!(live.ladder().is_whole());
}

// === The real binary ===

/// A process that serves, killed when dropped.
#[cfg(unix)]
struct Process {
    child: std::process::Child,
    address: SocketAddr,
}

#[cfg(unix)]
impl Process {
    /// Serves the bundle at `path`.
    fn start(path: &Path) -> Self {
        use std::io::{BufRead as _, BufReader};
        use std::process::{Command, Stdio};
        let mut command = Command::new(env!("CARGO_BIN_EXE_raisonne"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--bundle"]).arg(path);
        command.env("RAISONNE__BUNDLE__SWAP", "one_at_a_time");
        command.env("RAISONNE__API__DEADLINE_DEFAULT", "60s");
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.by_ref().find_map(|line| {
            let entry: Value = serde_json::from_str(&line.unwrap()).unwrap();
            entry["address"].as_str().map(|address| address.parse().unwrap())
        });
        // Its log has to be read, or it blocks.
        std::thread::Builder::new().spawn(move || lines.for_each(drop)).unwrap();
        Self { child, address: address.expect("it logs its address") }
    }

    fn hang_up(&self) {
        let kill = format!("kill -HUP {}", self.child.id());
        assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// The number of threads of this name: of language models, or of scorers.
    fn owners(&self, name: &str) -> usize {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.child.id())) else { return 1 };
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|other| other.trim() == name).count()
    }

    /// Whether two threads own a language model for longer than a moment. The system lists a thread for a
    /// moment after its end, and an engine's helper by its parent's name at first.
    async fn has_two_engines(&self) -> bool {
        for _ in 0..20 {
            if self.owners("engine") <= 1 {
                return false;
            }
            sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Waits until the metrics have this line. Meanwhile there are never two language models.
    async fn until(&self, line: &str) {
        let found = async {
            while !self.metrics().await.contains(line) {
                for _ in 0..20 {
                    assert!(!self.has_two_engines().await, "two language models at a time");
                    sleep(Duration::from_millis(1)).await;
                }
            }
        };
        timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{line} never comes"));
    }

    /// Waits until the threads of old versions have ended.
    async fn until_alone(&self, name: &str) {
        let alone = async {
            while self.owners(name) != 1 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, alone).await.unwrap_or_else(|_| panic!("more than one {name}"));
    }

    async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.address).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }
}

#[cfg(unix)]
impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Changes a link, in one step.
#[cfg(unix)]
fn point(link: &Path, to: &Path) {
    let new = link.with_extension("new");
    std::os::unix::fs::symlink(to, &new).unwrap();
    fs::rename(new, link).unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn at_a_hang_up_the_real_binary_opens_its_bundle_again() {
    let shelf = Shelf::new();
    let (here, there) = (Shelf::demo(), shelf.other());
    let broken = copied_bundle(shelf.0.path(), "broken");
    flip(&broken.join(Part::Scorer.file()));
    let link = shelf.0.path().join("current");
    point(&link, &here);
    let process = Process::start(&link);
    let client = client(process.address).await;
    let load = Load::on(&client, &samples());
    let swaps =
        |outcome, count| format!("raisonne_bundle_swaps_total{{outcome=\"{outcome}\"}} {count}\n");
    process.hang_up();
    process.until(&swaps("already", 1)).await;
    for (swapped, dir) in [&there, &here, &there].into_iter().enumerate() {
        point(&link, dir);
        process.hang_up();
        process.until(&swaps("swapped", swapped + 1)).await;
        let info = format!("version=\"{}\"}} 1\n", version(dir));
        assert!(process.metrics().await.contains(&info), "{info}");
        process.until_alone("scorer").await;
        process.until_alone("engine").await;
    }
    // One more turn, so that the last version is seen.
    sleep(Duration::from_millis(300)).await;
    point(&link, &broken);
    process.hang_up();
    process.until(&swaps("refused", 1)).await;
    sleep(Duration::from_millis(300)).await;
    let answers = load.stop().await;
    let last = answers.last().map(|(_, answer, _)| answer.clone()).unwrap();
    assert_eq!((last.bundle, last.quality), (version(&there), TOP));
    let seen: BTreeSet<_> = answers.into_iter().map(|(_, answer, _)| answer.bundle).collect();
    assert_eq!(seen, BTreeSet::from([version(&here), version(&there)]));
}
