//! The engine's thread, as callers see it.

use super::*;
use raisonne::engine::{
    Engine, EngineError, ForwardBatch, Rejection, RequestFailure, ResponseStream, RunnerError,
};
use raisonne::nn::decoder::CheckpointError;
use raisonne::telemetry::Metrics;
use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// Runs before each step.
type BeforeStep = Box<dyn FnMut() -> Result<(), RunnerError> + Send>;

/// A runner with a hook before each step.
struct HookedRunner {
    runner: FakeRunner,
    before: BeforeStep,
}

impl Runner for HookedRunner {
    fn limits(&self) -> RunnerLimits {
        self.runner.limits()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        (self.before)()?;
        self.runner.forward(step, out)
    }
}

fn engine(
    runner_limits: RunnerLimits,
    config: SchedulerConfig,
    before: BeforeStep,
) -> (Engine, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let build = move || Ok(HookedRunner { runner: FakeRunner::new(runner_limits), before });
    (Engine::start(build, config, &metrics).unwrap(), metrics)
}

fn plain(pages: usize) -> Engine {
    engine(runner_limits(pages, 4, 24), config(8, 64, 8), Box::new(|| Ok(()))).0
}

/// An engine that computes a step for each message through the gate, and counts its steps.
fn gated(config: SchedulerConfig) -> (Engine, Arc<Metrics>, mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (gate, opened) = mpsc::channel();
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = steps.clone();
    let before = move || {
        opened.recv().ok();
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let (engine, metrics) = engine(runner_limits(16, 4, 24), config, Box::new(before));
    (engine, metrics, gate, steps)
}

fn all(mut response: ResponseStream) -> Vec<EngineEvent> {
    std::iter::from_fn(|| response.blocking_next()).collect()
}

/// Waits for a condition that another thread is about to meet.
fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it takes too long");
        thread::yield_now();
    }
}

fn mixed() -> Vec<EngineRequest> {
    let labels: Vec<_> = (1..6).map(|label| vec![label, 9]).collect();
    let constraint = Constraint::permutation(&labels, &[]).unwrap();
    let ranked = GenerateRequest { constraint, ..text(tokens(4, 21), 12) };
    let samples = nonzero(3);
    vec![
        generate(tokens(1, 17), 9),
        generate(tokens(1, 25), 6),
        weigh(tokens(1, 19), (0..6).map(|at| tokens(at, 4)).collect()),
        request(RequestKind::Generate(ranked)),
        request(RequestKind::Generate(GenerateRequest { samples, ..text(tokens(5, 10), 7) })),
        generate(tokens(6, 40), 12),
        generate(tokens(7, 3), 20),
    ]
}

#[test]
fn the_rest_of_the_batch_never_changes_an_answer() {
    let requests = mixed();
    let alone: Vec<_> = requests
        .iter()
        .map(|request| comparable(&all(plain(64).submit(request.clone()).unwrap())))
        .collect();
    for (request, alone) in requests.iter().zip(&alone) {
        assert_eq!(*alone, expected(request));
    }
    // With KV pages for all requests, and with so few that they preempt each other. Later rounds find the pages of the
    // first.
    for pages in [64, 14] {
        let engine = plain(pages);
        for round in 0..20 {
            let order = (0..requests.len()).map(|at| (at * 3 + round) % requests.len());
            let responses: Vec<_> =
                order.map(|at| (at, engine.submit(requests[at].clone()).unwrap())).collect();
            for (at, response) in responses {
                assert_eq!(comparable(&all(response)), alone[at], "round {round}, ask {at}");
            }
        }
    }
}

#[test]
fn dropping_the_stream_frees_its_pages_within_a_step() {
    let (engine, metrics, gate, steps) = gated(config(2, 2, 8));
    let mut response = engine.submit(generate(tokens(1, 8), 40)).unwrap();
    gate.send(()).unwrap();
    assert!(matches!(response.blocking_next(), Some(EngineEvent::Token { .. })));
    drop(response);
    gate.send(()).unwrap();
    until(|| metrics.render().contains("raisonne_engine_pages{state=\"held\"} 0"));
    assert!(steps.load(Ordering::SeqCst) <= 2);
    let text = metrics.render();
    assert!(text.contains("raisonne_engine_running 0"), "{text}");
    assert!(text.contains("raisonne_engine_prefill_tokens_total 8"), "{text}");
    // The idle engine continues with the next request.
    (0..9).for_each(|_| gate.send(()).unwrap());
    let request = generate(tokens(1, 8), 3);
    assert_eq!(comparable(&all(engine.submit(request.clone()).unwrap())), expected(&request));
    let text = metrics.render();
    assert!(text.contains("raisonne_engine_prefix_hit_tokens_total 4"), "{text}");
}

#[test]
fn a_full_engine_rejects_at_once() {
    let (engine, _, gate, _) = gated(config(1, 2, 8));
    let request = || engine.submit(generate(tokens(1, 8), 2));
    let responses = [request(), request(), request()].map(Result::unwrap);
    let error = request().unwrap_err();
    assert!(matches!(error, EngineError::Rejected(Rejection::Full(3))), "{error}");
    (0..6).for_each(|_| gate.send(()).unwrap());
    for response in responses {
        assert!(matches!(
            all(response)[..],
            [.., EngineEvent::Done { finish_reason: FinishReason::Length, .. }]
        ));
    }
    // The permit is free after the last event.
    until(|| request().is_ok());
    drop(gate);
}

#[test]
fn a_request_beyond_the_limits_is_rejected_at_once() {
    let error = plain(4).submit(generate(tokens(1, 8), 40)).unwrap_err();
    let text = "`prompt + tokens_max` is 48, and `kv_pages * page_tokens` allows 16 at most";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_step_that_fails_fails_its_requests_and_no_others() {
    let mut steps = 0;
    let before = move || {
        steps += 1;
        let full = || CheckpointError::Memory {
            what: "keys and values",
            source: io::ErrorKind::OutOfMemory.into(),
        };
        if steps == 2 { Err(full().into()) } else { Ok(()) }
    };
    let (engine, _) = engine(runner_limits(16, 4, 24), config(2, 2, 8), Box::new(before));
    let failed = all(engine.submit(generate(tokens(1, 8), 5)).unwrap());
    let text = "the forward pass failed: the system has no memory for the model's keys and \
                values: out of memory";
    assert_eq!(failed[1..], [EngineEvent::Failed(RequestFailure::Runner(text.into()))]);
    let request = generate(tokens(1, 8), 5);
    assert_eq!(comparable(&all(engine.submit(request.clone()).unwrap())), expected(&request));
}

/// A runner with memory for a few sequences at a time, and for none that holds the token [`TOO_MUCH`].
struct SmallMemoryRunner {
    runner: FakeRunner,
    sequences_max: usize,
}

/// The highest token.
const TOO_MUCH: u32 = 23;

impl Runner for SmallMemoryRunner {
    fn limits(&self) -> RunnerLimits {
        self.runner.limits()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        // A trunk and its branches share one block table.
        let mut tables: Vec<_> = step.spans.iter().map(|span| span.block_table.clone()).collect();
        tables.dedup();
        if tables.len() > self.sequences_max || step.tokens.contains(&TOO_MUCH) {
            return Err(RunnerError::Full("no memory".into()));
        }
        self.runner.forward(step, out)
    }
}

#[test]
fn a_batch_without_memory_is_split() {
    let requests: Vec<_> = (1..8)
        .map(|seed| {
            generate(tokens(seed, 9).into_iter().map(|token| token % TOO_MUCH).collect(), 6)
        })
        .chain([weigh(vec![1, 2, 3, 4, 5], (1..6).map(|at| vec![at, at + 1]).collect())])
        .collect();
    for sequences_max in 1..4 {
        let metrics = Arc::new(Metrics::new());
        let runner = move || {
            Ok(SmallMemoryRunner {
                runner: FakeRunner::new(runner_limits(64, 4, 24)),
                sequences_max,
            })
        };
        let engine = Engine::start(runner, config(8, 64, 8), &metrics).unwrap();
        let responses: Vec<_> =
            requests.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        let alone = engine.submit(generate(vec![1, TOO_MUCH], 4)).unwrap();
        let after = engine.submit(requests[0].clone()).unwrap();
        for (request, response) in
            requests.iter().chain([&requests[0]]).zip(responses.into_iter().chain([after]))
        {
            let received = comparable(&all(response));
            // A sequence may sample the token itself, and then fails there.
            let expected = expected(request);
            let until = expected
                .iter()
                .position(|event| matches!(event, EngineEvent::Token { token: TOO_MUCH, .. }));
            match until {
                None => assert_eq!(received, expected),
                Some(at) => assert_eq!(received[..=at], expected[..=at]),
            }
        }
        let failed =
            RequestFailure::Runner("the device lacks memory for the batch: no memory".into());
        assert_eq!(all(alone), [EngineEvent::Failed(failed)]);
        let text = metrics.render();
        assert!(text.contains(r#"raisonne_engine_failed_total{why="full"}"#), "{text}");
        assert!(engine.is_alive());
    }
}

#[test]
fn a_lost_device_stops_the_engine_and_fails_every_request() {
    let (gate, opened) = mpsc::channel::<()>();
    let mut steps = 0;
    let before = move || {
        opened.recv().ok();
        steps += 1;
        if steps < 3 { Ok(()) } else { Err(RunnerError::Lost("error 719".into())) }
    };
    let (engine, metrics) = engine(runner_limits(16, 4, 24), config(2, 8, 8), Box::new(before));
    // Some run, some wait, and some samples wait for the first of their request.
    let samples = request(RequestKind::Generate(GenerateRequest {
        samples: nonzero(3),
        ..text(tokens(5, 10), 7)
    }));
    let requests = [generate(tokens(1, 8), 20), samples, generate(tokens(2, 9), 20)];
    let responses = requests.map(|request| engine.submit(request).unwrap());
    drop(gate);
    let text = "the model's device is lost: error 719";
    for response in responses {
        assert_eq!(
            all(response).pop(),
            Some(EngineEvent::Failed(RequestFailure::Runner(text.into())))
        );
    }
    until(|| !engine.is_alive());
    assert!(matches!(engine.submit(generate(tokens(1, 8), 5)), Err(EngineError::Gone)));
    let text = metrics.render();
    assert!(text.contains(r#"raisonne_engine_failed_total{why="lost"} 1"#), "{text}");
    assert!(text.contains("raisonne_engine_running 0"), "{text}");
}

#[test]
fn a_panic_closes_the_inbox() {
    let before = || panic!("as the test wants");
    let (engine, _) = engine(runner_limits(16, 4, 24), config(2, 2, 8), Box::new(before));
    assert!(engine.is_alive());
    let response = engine.submit(generate(tokens(1, 8), 5)).unwrap();
    assert_eq!(all(response), [EngineEvent::Failed(RequestFailure::Gone)]);
    until(|| !engine.is_alive());
    assert!(matches!(engine.submit(generate(tokens(1, 8), 5)), Err(EngineError::Gone)));
}

#[test]
fn an_engine_that_cannot_start_says_why() {
    let metrics = Arc::new(Metrics::new());
    let build = || Err::<FakeRunner, _>(RunnerError::Failed("no weights".into()));
    let error = Engine::start(build, config(1, 1, 1), &metrics).unwrap_err();
    assert_eq!(error.to_string(), "the forward pass failed");
    assert_eq!(error.source().unwrap().to_string(), "no weights");
    let build = || Ok(FakeRunner::new(runner_limits(16, 4, 4)));
    let error = Engine::start(build, config(4, 1, 1), &metrics).unwrap_err();
    assert!(matches!(error, EngineError::Config(_)), "{error}");
}

#[tokio::test]
async fn a_task_receives_tokens_as_they_are_generated() {
    let engine = plain(16);
    let request = generate(tokens(1, 8), 5);
    let mut response = engine.submit(request.clone()).unwrap();
    let mut events = Vec::new();
    while let Some(event) = response.next().await {
        events.push(event);
    }
    assert_eq!(comparable(&events), expected(&request));
}
