//! Teachers of thoughts: a fake endpoint that replies well and badly, and a bundle.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/small.rs"]
mod small;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use raisonne::bundle::{Catalog, Manifest, Part};
use raisonne::reranker::{ComparedFile, RerankerFile, WeighedFile};
use raisonne::train::{NoProgress, Recipe, STAGES, Workspace, publish, run};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Questions to each teacher.
const SLATES: usize = 26;
/// An environment variable that cargo sets for every test, used as the API key.
const KEY_ENV: &str = "CARGO_PKG_NAME";
/// An attribute value that no item has.
const NOTHING: &str = "unobtainable";

/// A workspace in which every stage has run, with the evidence writer as the teacher, and its bundle.
static MADE: LazyLock<TempDir> = LazyLock::new(|| {
    let home = tempfile::tempdir().unwrap();
    let recipe = recipe(home.path(), &["language_model.compare.targeted=true".to_owned()]);
    let text = toml::to_string(&recipe).unwrap();
    let mut progress = NoProgress;
    let work = home.path().join("work");
    let mut workspace = Workspace::new(&work, recipe.clone(), &mut progress).unwrap();
    for stage in STAGES.iter().filter(|stage| stage.is_enabled(&recipe)) {
        run(*stage, &mut workspace).unwrap();
    }
    publish::publish(&workspace, &text, &home.path().join("bundle")).unwrap();
    home
});

fn recipe(home: &Path, set: &[String]) -> Recipe {
    let own = [
        "language_model.compare.targeted=false".to_owned(),
        format!("language_model.compare.examples_max={SLATES}"),
    ];
    small::recipe(home, &[&own, set].concat())
}

/// A workspace of its own with every input of the `traces` stage.
struct Classroom {
    home: TempDir,
}

impl Classroom {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let work = home.path().join("work");
        copy(&MADE.path().join("work"), &work);
        fs::remove_file(work.join(Part::Traces.file())).unwrap();
        Self { home }
    }

    /// Runs the stage, and returns its figures.
    fn traces(&self, set: &[String]) -> anyhow::Result<Value> {
        let recipe = recipe(self.home.path(), set);
        let stage = STAGES.iter().find(|stage| stage.name() == "traces").unwrap();
        let mut progress = NoProgress;
        let mut workspace = Workspace::new(&self.home.path().join("work"), recipe, &mut progress)?;
        Ok(run(*stage, &mut workspace)?["measured"].take())
    }

    fn work(&self, file: &str) -> std::path::PathBuf {
        self.home.path().join("work").join(file)
    }

    fn written(&self) -> Vec<Value> {
        lines(&self.work(Part::Traces.file()))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The behaviour of a fake endpoint on one call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    Right,
    Wrong,
    /// It chooses the right candidate for a false reason.
    Lies,
    Garbles,
    SaysNothing,
    IsBusy,
    /// It is busy, with a `Retry-After`.
    IsBusyFor(u64),
    Breaks,
    Hangs,
    Refuses,
}

/// A slate: the titles of the history, and the sorted titles of the candidates.
type Slate = (Vec<String>, Vec<String>);
/// A fake endpoint's behaviour by the index of the slate, the number of earlier calls on it, and whether the prompt has the
/// label.
type Script = fn(usize, usize, bool) -> Does;

struct Fake {
    /// By slate: the title of the taken candidate, and a thought that holds, if there is one.
    right: HashMap<Slate, (String, Option<String>)>,
    script: Script,
    recorded: Mutex<Recorded>,
}

#[derive(Default)]
struct Recorded {
    slates: Vec<Slate>,
    calls: Vec<usize>,
    requests: Vec<(HeaderMap, Value)>,
    /// When it last sent `Retry-After`, and the pauses that followed.
    retry_after_since: Option<Instant>,
    pauses: Vec<Duration>,
    /// The expected verdicts of its replies.
    given: BTreeMap<&'static str, u64>,
}

impl Fake {
    /// An endpoint that knows the evidence writer's thoughts.
    fn new(script: Script) -> Arc<Self> {
        let work = MADE.path().join("work");
        let catalog = raisonne::bundle::read_catalog(&work).unwrap();
        let traces = lines(&work.join(Part::Traces.file()));
        let right = traces.iter().map(|trace| {
            let slate = slate_of(&catalog, trace);
            let thought = trace["thought"].as_str().map(|thought| thought.trim().to_owned());
            (slate, (title(&catalog, &trace["order"][0]["item"]), thought))
        });
        let right: HashMap<_, _> = right.collect();
        assert_eq!(right.len(), SLATES, "slates are distinct");
        Arc::new(Self { right, script, recorded: Mutex::default() })
    }

    /// Serves, and returns its base URL.
    fn serve(self: &Arc<Self>, runtime: &Runtime) -> String {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let router =
            Router::new().route("/v1/chat/completions", post(complete)).with_state(self.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/v1")
    }

    fn recorded(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap()
    }

    /// Records a call, and chooses the reply.
    fn decide(&self, headers: HeaderMap, request: &Value) -> (Does, String) {
        let content = request["messages"][1]["content"].as_str().unwrap();
        let (slate, labels, told) = slate_of_prompt(content);
        let mut recorded = self.recorded();
        recorded.requests.push((headers, request.clone()));
        let pauses = recorded.retry_after_since.take().map(|since| since.elapsed());
        recorded.pauses.extend(pauses);
        let place = recorded.slates.iter().position(|other| *other == slate);
        let place = place.unwrap_or(recorded.slates.len());
        if place == recorded.slates.len() {
            recorded.slates.push(slate.clone());
            recorded.calls.push(0);
        }
        let does = (self.script)(place, recorded.calls[place], told.is_some());
        recorded.calls[place] += 1;
        let (taken, thought) = &self.right[&slate];
        let label = &labels[taken];
        let other = labels.values().find(|other| *other != label).unwrap();
        assert!(told.is_none_or(|told| told == *label));
        let (text, verdict) = match (does, thought) {
            (Does::Right, Some(thought)) => (answer(thought, label), "kept"),
            (Does::Wrong, _) => (answer(&format!("{taken} is {NOTHING}."), other), "wrong"),
            (Does::Right, None) | (Does::Lies, _) => {
                (answer(&format!("{taken} is {NOTHING}."), label), "unprovable")
            }
            (Does::Garbles, _) => ("I would go for the mug!".to_owned(), "unreadable"),
            (Does::SaysNothing, _) => (String::new(), "no_answer"),
            (Does::Hangs | Does::Breaks, _) => (String::new(), "failed_calls"),
            (Does::IsBusy | Does::IsBusyFor(_) | Does::Refuses, _) => (String::new(), "none"),
        };
        *recorded.given.entry(verdict).or_default() += 1;
        recorded.retry_after_since = matches!(does, Does::IsBusyFor(_)).then(Instant::now);
        (does, text)
    }
}

fn answer(thought: &str, label: &str) -> String {
    let think = "<think>Some like <answer>A</answer>.</think>";
    format!("{think}\n<thought>{thought}</thought>\n<answer>{label}</answer>\n")
}

async fn complete(
    State(fake): State<Arc<Fake>>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Response {
    let (does, content) = fake.decide(headers, &request);
    match does {
        Does::IsBusy => StatusCode::TOO_MANY_REQUESTS.into_response(),
        Does::IsBusyFor(seconds) => {
            let patience = [("retry-after", seconds.to_string())];
            (StatusCode::SERVICE_UNAVAILABLE, patience).into_response()
        }
        Does::Refuses => (StatusCode::UNAUTHORIZED, "no such key").into_response(),
        Does::Breaks => (StatusCode::BAD_REQUEST, "too long").into_response(),
        does => {
            if does == Does::Hangs {
                tokio::time::sleep(Duration::from_mins(1)).await;
            }
            let message = json!({ "role": "assistant", "content": content });
            let choice = json!({ "index": 0, "message": message, "finish_reason": "stop" });
            Json(json!({ "object": "chat.completion", "choices": [choice] })).into_response()
        }
    }
}

fn title(catalog: &Catalog, item: &Value) -> String {
    catalog.item(item.as_u64().unwrap() as u32).title.to_string()
}

/// The slate of a trace.
fn slate_of(catalog: &Catalog, trace: &Value) -> Slate {
    let history = trace["history"].as_array().unwrap();
    let history = &history[history.len().saturating_sub(32)..];
    let history = history.iter().map(|past| title(catalog, &past[0])).collect();
    let offered = trace["order"].as_array().unwrap().iter();
    let mut offered: Vec<_> = offered.map(|offer| title(catalog, &offer["item"])).collect();
    offered.sort();
    (history, offered)
}

/// The slate of a prompt, the labels of its titles, and the taken candidate's label, if the prompt has it.
fn slate_of_prompt(content: &str) -> (Slate, BTreeMap<String, String>, Option<String>) {
    let title = |line: &str| line.split(" | ").next().unwrap().to_owned();
    let (mut history, mut labels, mut told) = (Vec::new(), BTreeMap::new(), None);
    for line in content.lines() {
        if let Some((_, rest)) = line.split_once(" days ago ") {
            history.push(title(rest.split_once(": ").unwrap().1));
        } else if line.as_bytes().get(1) == Some(&b':') {
            labels.insert(title(&line[3..]), line[..1].to_owned());
        } else if let Some(rest) = line.strip_prefix("The shopper took ") {
            told = Some(rest[..1].to_owned());
        }
    }
    ((history, labels.keys().cloned().collect()), labels, told)
}

fn endpoint(url: &str, more: &str) -> String {
    format!(
        "language_model.compare.teacher={{ endpoint = {{ url = {url:?}, model = \"wise\", key_env = {KEY_ENV:?}, {more} }} }}"
    )
}

#[test]
fn a_reply_is_accepted_if_its_thought_holds_and_counted_if_not() {
    let script: Script = |slate, call, _| match (slate % 8, call) {
        (1, _) => Does::Wrong,
        (2, _) => Does::Lies,
        (3, _) => Does::Garbles,
        (4, _) => Does::SaysNothing,
        (5, 0) if slate == 5 => Does::IsBusyFor(2),
        (5, 0) => Does::IsBusy,
        (6, _) => Does::Breaks,
        (7, _) if slate == 7 => Does::Hangs,
        _ => Does::Right,
    };
    let (runtime, fake, room) = (Runtime::new().unwrap(), Fake::new(script), Classroom::new());
    let url = fake.serve(&runtime);
    let more = "attempts = 1, concurrency = 1, timeout_s = 1, tokens_max = 300, temperature = 0.25";
    let report = room.traces(&[endpoint(&url, more)]).unwrap();
    runtime.shutdown_background();
    let recorded = fake.recorded();

    let asked = &report["asked"];
    let given = |verdict: &str| json!(recorded.given.get(verdict).copied().unwrap_or_default());
    assert_eq!(asked["attempts"], SLATES, "{report:#}");
    assert_eq!(asked["kept"], given("kept"));
    for verdict in ["wrong", "unreadable", "unprovable", "no_answer", "failed_calls"] {
        assert_eq!(asked["dropped"][verdict], given(verdict), "{verdict}: {report:#}");
        assert_ne!(given(verdict), 0, "{verdict}");
    }
    let kept = asked["kept"].as_f64().unwrap();
    assert!(kept > 5.0);
    assert!((asked["acceptance"].as_f64().unwrap() - kept / SLATES as f64).abs() < 1e-4);
    assert_eq!((&report["thoughts"], &report["told"]["attempts"]), (&asked["kept"], &json!(0)));
    assert_eq!(recorded.given["none"], 3, "busy calls were retried");
    let [pauses] = recorded.pauses[..] else { panic!("{:?}", recorded.pauses) };
    assert!(pauses >= Duration::from_secs(2), "{pauses:?}");

    // Accepted thoughts became traces word for word, and every slate teaches its order.
    let traces = room.written();
    let evidence = lines(&MADE.path().join("work").join(Part::Traces.file()));
    assert_eq!(traces.len(), SLATES);
    let thoughts = traces.iter().filter(|trace| trace["thought"].is_string());
    assert_eq!(thoughts.count(), kept as usize);
    for (trace, known) in traces.iter().zip(&evidence) {
        assert_eq!((&trace["order"], &trace["history"]), (&known["order"], &known["history"]));
        assert!(trace["thought"].is_null() || trace["thought"] == known["thought"]);
    }

    // Requests have the form that such an endpoint expects. The key is in their header and nowhere else.
    let key = std::env::var(KEY_ENV).unwrap();
    for (headers, request) in &recorded.requests {
        assert_eq!(headers["authorization"], format!("Bearer {key}"));
        assert_eq!(headers["content-type"], "application/json");
        let request = request.as_object().unwrap();
        let fields: Vec<_> = request.keys().map(String::as_str).collect();
        assert_eq!(fields, ["max_tokens", "messages", "model", "seed", "temperature"]);
        assert_eq!((&request["model"], &request["max_tokens"]), (&json!("wise"), &json!(300)));
        assert_eq!(request["temperature"], 0.25);
        assert!(request["seed"].is_u64());
        let roles = [&request["messages"][0]["role"], &request["messages"][1]["role"]];
        assert_eq!(roles, ["system", "user"]);
    }
    // A bundle's recipe names the teacher in the same words.
    let recipe = recipe(room.home.path(), &[endpoint(&url, more)]);
    let text = toml::to_string(&recipe).unwrap();
    let again: Recipe = toml::from_str(&text).unwrap();
    assert_eq!(toml::to_string(&again).unwrap(), text);
    assert!(text.contains(&url) && text.contains(KEY_ENV) && !text.contains(&format!("{key:?}")));

    let told = report.to_string();
    assert!(told.contains(&url) && told.contains("wise") && !told.contains(&key), "{told}");
}

#[test]
fn a_wrong_reply_is_sampled_again_and_then_explained_with_the_label() {
    let script: Script = |slate, call, told| match (slate % 3, call) {
        (1, 0) | (2, _) if !told => Does::Wrong,
        _ => Does::Right,
    };
    let (runtime, fake, room) = (Runtime::new().unwrap(), Fake::new(script), Classroom::new());
    let url = fake.serve(&runtime);
    let more = "attempts = 3, concurrency = 4";
    let targeted = "language_model.compare.targeted=true".to_owned();
    let report = room.traces(&[endpoint(&url, more), targeted]).unwrap();
    runtime.shutdown_background();
    let recorded = fake.recorded();

    let (asked, told) = (&report["asked"], &report["told"]);
    let sum = |what: &str| asked[what].as_u64().unwrap() + told[what].as_u64().unwrap();
    assert_eq!(sum("attempts"), recorded.requests.len() as u64, "{report:#}");
    assert_eq!(sum("kept"), recorded.given["kept"]);
    assert_eq!(report["thoughts"], sum("kept"));
    assert!(told["kept"].as_u64() > Some(0) && asked["kept"].as_u64() > Some(0), "{report:#}");
    // In the end, every slate with an evidence thought has it.
    let evidence = lines(&MADE.path().join("work").join(Part::Traces.file()));
    assert_eq!(room.written(), evidence);

    let mut drawn: BTreeMap<&str, Vec<(f64, u64)>> = BTreeMap::new();
    for (_, request) in &recorded.requests {
        let content = request["messages"][1]["content"].as_str().unwrap();
        let draw = (request["temperature"].as_f64().unwrap(), request["seed"].as_u64().unwrap());
        drawn.entry(content).or_default().push(draw);
    }
    for draws in drawn.values() {
        let (first, seed) = draws[0];
        assert!(first.abs() < f64::EPSILON && draws.len() <= 3);
        for (number, (temperature, other)) in (1..).zip(&draws[1..]) {
            assert!((temperature - 1.0).abs() < f64::EPSILON);
            assert_eq!(*other, seed + number);
        }
    }
    assert!(drawn.values().any(|draws| draws.len() == 3));
}

#[test]
fn an_endpoint_that_is_unreachable_or_refuses_is_an_error() {
    let room = Classroom::new();
    let runtime = Runtime::new().unwrap();
    let closed = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}/v1", closed.local_addr().unwrap());
    drop(closed);
    let error = format!("{:#}", room.traces(&[endpoint(&url, "retries = 1")]).unwrap_err());
    assert!(error.contains(&url) && error.contains("refused"), "{error}");

    let fake = Fake::new(|_, _, _| Does::Refuses);
    let room = Classroom::new();
    let url = fake.serve(&runtime);
    let error = format!("{:#}", room.traces(&[endpoint(&url, "concurrency = 1")]).unwrap_err());
    assert!(
        error.contains(&url) && error.contains("401") && error.contains("no such key"),
        "{error}"
    );
    let key = std::env::var(KEY_ENV).unwrap();
    assert!(!error.contains(&key));
    assert_eq!(fake.recorded().requests.len(), 1, "a refused call is not retried");

    let nowhere = "language_model.compare.teacher.endpoint.key_env=RAISONNE_NO_SUCH_KEY".to_owned();
    let error = format!("{:#}", room.traces(&[endpoint(&url, ""), nowhere]).unwrap_err());
    assert!(error.contains("RAISONNE_NO_SUCH_KEY"), "{error}");

    let broken = Fake::new(|_, _, _| Does::Breaks);
    let more = "attempts = 4, concurrency = 1";
    let room = Classroom::new();
    let error = room.traces(&[endpoint(&broken.serve(&runtime), more)]).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("50 calls") && error.contains("too long"), "{error}");
    assert_eq!(broken.recorded().requests.len(), 50);
    runtime.shutdown_background();
}

#[test]
fn earlier_keys_of_a_recipe_are_read() {
    let home = tempfile::tempdir().unwrap();
    let share = |set: &str| {
        let recipe = recipe(home.path(), &[set.to_owned()]);
        recipe.language_model.unwrap().synthetic_query_share
    };
    assert!((share("language_model.remark_share=0.125") - 0.125).abs() < 1e-12);
    assert!((share("language_model.synthetic_query_share=0.25") - 0.25).abs() < 1e-12);
    let tokens = |set: &str| {
        let recipe = recipe(home.path(), &[set.to_owned()]);
        recipe.language_model.unwrap().midtrain.teaching.max_batched_tokens
    };
    assert_eq!(tokens("language_model.midtrain.teaching.rows_max=512"), 512);
    assert_eq!(tokens("language_model.midtrain.teaching.max_batched_tokens=1024"), 1024);
}

#[test]
fn answers_before_a_crash_are_not_asked_again() {
    /// Replies before the endpoint refuses.
    const BEFORE: usize = 15;
    let script: Script = |slate, _, _| if slate < BEFORE { Does::Right } else { Does::Refuses };
    let (runtime, room) = (Runtime::new().unwrap(), Classroom::new());
    let first = Fake::new(script);
    let url = first.serve(&runtime);
    let more = "attempts = 1, concurrency = 1";
    room.traces(&[endpoint(&url, more)]).unwrap_err();
    assert_eq!(first.recorded().requests.len(), BEFORE + 1);
    assert!(!room.work(Part::Traces.file()).exists());

    // A log of another teacher or of other questions is refused.
    let so_far = room.work("traces.answers.jsonl");
    let another = "language_model.compare.teacher.endpoint.model=wiser".to_owned();
    let error = format!("{:#}", room.traces(&[endpoint(&url, more), another]).unwrap_err());
    assert!(error.contains("traces.answers.jsonl") && error.contains("wise"), "{error}");
    let fewer = "language_model.compare.examples_max=19".to_owned();
    let error = format!("{:#}", room.traces(&[endpoint(&url, more), fewer]).unwrap_err());
    assert!(error.contains("other questions"), "{error}");

    // The crash came in the middle of a line. Time limit and retries are no part of the log's key.
    let mut text = fs::read_to_string(&so_far).unwrap();
    assert_eq!(text.lines().count(), 1 + BEFORE);
    let key = std::env::var(KEY_ENV).unwrap();
    assert!(!text.contains(&format!("{key:?}")), "{text}");
    text.push_str("{\"question\":15,\"thou");
    fs::write(&so_far, text).unwrap();
    let mut recorded = first.recorded();
    recorded.slates.clear();
    recorded.requests.clear();
    drop(recorded);
    let second = Fake::new(|_, _, _| Does::Right);
    let other = second.serve(&runtime);
    let text = fs::read_to_string(&so_far).unwrap().replace(&url, &other);
    fs::write(&so_far, text).unwrap();
    let more = "attempts = 1, concurrency = 3, timeout_s = 20, retries = 0";
    let report = room.traces(&[endpoint(&other, more)]).unwrap();
    assert_eq!(second.recorded().requests.len(), SLATES - BEFORE);
    assert_eq!(report["answered_before"], BEFORE);
    assert_eq!(report["asked"]["attempts"], SLATES);
    assert!(!so_far.exists());
    runtime.shutdown_background();
    let evidence = lines(&MADE.path().join("work").join(Part::Traces.file()));
    assert_eq!(room.written(), evidence);
}

#[test]
fn a_bundle_teaches_as_it_serves() {
    let room = Classroom::new();
    let folder = room.home.path().join("teacher");
    copy(&MADE.path().join("bundle"), &folder);
    // A language model this small gains on no rung, so the bundle was published without it.
    let decoder = Part::Decoder.file();
    copy(&MADE.path().join("work").join(decoder), &folder.join(decoder));
    let teacher = format!("language_model.compare.teacher={{ bundle = {:?} }}", "teacher");
    let compared = ComparedFile {
        weight: 0.0,
        rechead_weight: 0.0,
        offered_max: 10,
        thought_tokens_max: 12,
        grounded: false,
    };
    let publish = |file: RerankerFile| {
        fs::write(folder.join(Part::Reranker.file()), toml::to_string(&file).unwrap()).unwrap();
        Manifest::of(&folder, "teacher").unwrap().write(&folder).unwrap();
    };
    let weighed = Some(WeighedFile { weight: 1.0, candidates_max: 10 });
    publish(RerankerFile { weighed, ..RerankerFile::default() });
    let targeted = "language_model.compare.targeted=true".to_owned();
    let set = [teacher, targeted];
    let error = format!("{:#}", room.traces(&set).unwrap_err());
    assert!(error.contains("does not climb to reasoned"), "{error}");

    // A hardly trained model mostly generates no thought that can be parsed.
    publish(RerankerFile { reasoned: Some(compared), ..RerankerFile::default() });
    let report = room.traces(&set).unwrap();
    let (asked, told) = (&report["asked"], &report["told"]);
    assert_eq!(asked["attempts"], SLATES, "{report:#}");
    assert_eq!(asked["dropped"]["no_answer"], 0, "it has every candidate");
    assert_eq!(told["attempts"], 0, "it cannot explain");
    let version = Manifest::read(&folder).unwrap().version;
    assert_eq!(report["teacher"], json!({ "bundle": version }));
    let traces = room.written();
    assert_eq!(traces.len(), SLATES);
    let again = Classroom::new();
    copy(&folder, &again.home.path().join("teacher"));
    assert_eq!(again.traces(&set).unwrap(), report);
    assert_eq!(again.written(), traces);

    // A language model from elsewhere is no bundle.
    let decoder = folder.join(Part::Decoder.file());
    let folder = format!("language_model.compare.teacher={{ bundle = {decoder:?} }}");
    let error = format!("{:#}", again.traces(&[folder]).unwrap_err());
    assert!(error.contains("must be a bundle") && error.contains("endpoint"), "{error}");
}
