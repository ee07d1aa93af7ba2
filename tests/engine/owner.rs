//! The owner's thread: what callers see.

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

/// What a step does beside computing.
type Before = Box<dyn FnMut() -> Result<(), RunnerError> + Send>;

/// A model that does something before each step.
struct Acting {
    runner: FakeRunner,
    before: Before,
}

impl Runner for Acting {
    fn limits(&self) -> RunnerLimits {
        self.runner.limits()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        (self.before)()?;
        self.runner.forward(step, out)
    }
}

fn engine(shape: RunnerLimits, limits: SchedulerConfig, before: Before) -> (Engine, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let build = move || Ok(Acting { runner: FakeRunner::new(shape), before });
    (Engine::start(build, limits, &metrics).unwrap(), metrics)
}

fn plain(pages: usize) -> Engine {
    engine(shape(pages, 4, 24), limits(8, 64, 8), Box::new(|| Ok(()))).0
}

/// An owner that computes a step for each message through the gate, and counts its steps.
fn gated(limits: SchedulerConfig) -> (Engine, Arc<Metrics>, mpsc::Sender<()>, Arc<AtomicUsize>) {
    let (gate, opened) = mpsc::channel();
    let steps = Arc::new(AtomicUsize::new(0));
    let counted = steps.clone();
    let before = move || {
        opened.recv().ok();
        counted.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    let (engine, metrics) = engine(shape(16, 4, 24), limits, Box::new(before));
    (engine, metrics, gate, steps)
}

fn all(mut reply: ResponseStream) -> Vec<EngineEvent> {
    std::iter::from_fn(|| reply.blocking_next()).collect()
}

/// Waits for something that another thread is about to do.
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
        work(RequestKind::Generate(ranked)),
        work(RequestKind::Generate(GenerateRequest { samples, ..text(tokens(5, 10), 7) })),
        generate(tokens(6, 40), 12),
        generate(tokens(7, 3), 20),
    ]
}

#[test]
fn company_never_changes_an_answer() {
    let asks = mixed();
    let alone: Vec<_> =
        asks.iter().map(|ask| comparable(&all(plain(64).submit(ask.clone()).unwrap()))).collect();
    for (ask, alone) in asks.iter().zip(&alone) {
        assert_eq!(*alone, expected(ask));
    }
    // Room for all, and so little room that they push each other out; the second round of each
    // finds the first one's pages.
    for pages in [64, 14] {
        let engine = plain(pages);
        for round in 0..20 {
            let order = (0..asks.len()).map(|at| (at * 3 + round) % asks.len());
            let replies: Vec<_> =
                order.map(|at| (at, engine.submit(asks[at].clone()).unwrap())).collect();
            for (at, reply) in replies {
                assert_eq!(comparable(&all(reply)), alone[at], "round {round}, ask {at}");
            }
        }
    }
}

#[test]
fn dropping_the_reply_frees_its_pages_within_a_step() {
    let (engine, metrics, gate, steps) = gated(limits(2, 2, 8));
    let mut reply = engine.submit(generate(tokens(1, 8), 40)).unwrap();
    gate.send(()).unwrap();
    assert!(matches!(reply.blocking_next(), Some(EngineEvent::Token { .. })));
    drop(reply);
    gate.send(()).unwrap();
    until(|| metrics.render().contains("raisonne_engine_pages{state=\"held\"} 0"));
    assert!(steps.load(Ordering::SeqCst) <= 2);
    let text = metrics.render();
    assert!(text.contains("raisonne_engine_running 0"), "{text}");
    assert!(text.contains("raisonne_engine_prefill_tokens_total 8"), "{text}");
    // It rests, and goes on when it is asked.
    (0..9).for_each(|_| gate.send(()).unwrap());
    let ask = generate(tokens(1, 8), 3);
    assert_eq!(comparable(&all(engine.submit(ask.clone()).unwrap())), expected(&ask));
    let text = metrics.render();
    assert!(text.contains("raisonne_engine_prefix_hit_tokens_total 4"), "{text}");
}

#[test]
fn a_full_engine_says_so_at_once() {
    let (engine, _, gate, _) = gated(limits(1, 2, 8));
    let ask = || engine.submit(generate(tokens(1, 8), 2));
    let replies = [ask(), ask(), ask()].map(Result::unwrap);
    let refused = ask().unwrap_err();
    assert!(matches!(refused, EngineError::Rejected(Rejection::Full(3))), "{refused}");
    (0..6).for_each(|_| gate.send(()).unwrap());
    for reply in replies {
        assert!(matches!(
            all(reply)[..],
            [.., EngineEvent::Done { finish_reason: FinishReason::Length, .. }]
        ));
    }
    // The room comes back after the last event.
    until(|| ask().is_ok());
    drop(gate);
}

#[test]
fn what_could_never_be_done_is_refused_at_once() {
    let refused = plain(4).submit(generate(tokens(1, 8), 40)).unwrap_err();
    let said = "prompt + tokens_max is 48, and `pages * page_tokens` is 16";
    assert_eq!(refused.to_string(), said);
}

#[test]
fn a_step_that_fails_fails_its_asks_and_no_others() {
    let mut steps = 0;
    let before = move || {
        steps += 1;
        let full = || CheckpointError::Memory {
            what: "keys and values",
            source: io::ErrorKind::OutOfMemory.into(),
        };
        if steps == 2 { Err(full().into()) } else { Ok(()) }
    };
    let (engine, _) = engine(shape(16, 4, 24), limits(2, 2, 8), Box::new(before));
    let failed = all(engine.submit(generate(tokens(1, 8), 5)).unwrap());
    let said = "the model could not be run: the system has no memory for the model's keys and \
                values: out of memory";
    assert_eq!(failed[1..], [EngineEvent::Failed(RequestFailure::Runner(said.into()))]);
    let ask = generate(tokens(1, 8), 5);
    assert_eq!(comparable(&all(engine.submit(ask.clone()).unwrap())), expected(&ask));
}

/// A model with memory for a few sequences at a time, and for none that says the word.
struct Cramped {
    runner: FakeRunner,
    sequences_max: usize,
}

/// The word: the highest token.
const TOO_MUCH: u32 = 23;

impl Runner for Cramped {
    fn limits(&self) -> RunnerLimits {
        self.runner.limits()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        // A trunk and its branches read one table of pages.
        let mut tables: Vec<_> = step.spans.iter().map(|span| span.pages.clone()).collect();
        tables.dedup();
        if tables.len() > self.sequences_max || step.tokens.contains(&TOO_MUCH) {
            return Err(RunnerError::Full("no memory".into()));
        }
        self.runner.forward(step, out)
    }
}

#[test]
fn a_step_without_memory_is_computed_in_parts() {
    let asks: Vec<_> = (1..8)
        .map(|seed| {
            generate(tokens(seed, 9).into_iter().map(|token| token % TOO_MUCH).collect(), 6)
        })
        .chain([weigh(vec![1, 2, 3, 4, 5], (1..6).map(|at| vec![at, at + 1]).collect())])
        .collect();
    for sequences_max in 1..4 {
        let metrics = Arc::new(Metrics::new());
        let runner =
            move || Ok(Cramped { runner: FakeRunner::new(shape(64, 4, 24)), sequences_max });
        let engine = Engine::start(runner, limits(8, 64, 8), &metrics).unwrap();
        let replies: Vec<_> = asks.iter().map(|ask| engine.submit(ask.clone()).unwrap()).collect();
        let alone = engine.submit(generate(vec![1, TOO_MUCH], 4)).unwrap();
        let after = engine.submit(asks[0].clone()).unwrap();
        for (ask, reply) in asks.iter().chain([&asks[0]]).zip(replies.into_iter().chain([after])) {
            let heard = comparable(&all(reply));
            // A text may come to the word by itself, and then ends there.
            let expected = expected(ask);
            let until = expected
                .iter()
                .position(|event| matches!(event, EngineEvent::Token { token: TOO_MUCH, .. }));
            match until {
                None => assert_eq!(heard, expected),
                Some(at) => assert_eq!(heard[..=at], expected[..=at]),
            }
        }
        let failed = RequestFailure::Runner("the model has no memory for a step: no memory".into());
        assert_eq!(all(alone), [EngineEvent::Failed(failed)]);
        let text = metrics.render();
        assert!(text.contains(r#"raisonne_engine_failed_total{why="full"}"#), "{text}");
        assert!(engine.is_alive());
    }
}

#[test]
fn a_lost_device_ends_the_engine_and_all_that_waits_for_it() {
    let (gate, opened) = mpsc::channel::<()>();
    let mut steps = 0;
    let before = move || {
        opened.recv().ok();
        steps += 1;
        if steps < 3 { Ok(()) } else { Err(RunnerError::Lost("error 719".into())) }
    };
    let (engine, metrics) = engine(shape(16, 4, 24), limits(2, 8, 8), Box::new(before));
    // Some run, some wait, and samples wait for their eldest.
    let samples = work(RequestKind::Generate(GenerateRequest {
        samples: nonzero(3),
        ..text(tokens(5, 10), 7)
    }));
    let asks = [generate(tokens(1, 8), 20), samples, generate(tokens(2, 9), 20)];
    let replies = asks.map(|ask| engine.submit(ask).unwrap());
    drop(gate);
    let said = "the device that the model runs on is lost: error 719";
    for reply in replies {
        assert_eq!(
            all(reply).pop(),
            Some(EngineEvent::Failed(RequestFailure::Runner(said.into())))
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
    let (engine, _) = engine(shape(16, 4, 24), limits(2, 2, 8), Box::new(before));
    assert!(engine.is_alive());
    let reply = engine.submit(generate(tokens(1, 8), 5)).unwrap();
    assert_eq!(all(reply), [EngineEvent::Failed(RequestFailure::Gone)]);
    until(|| !engine.is_alive());
    assert!(matches!(engine.submit(generate(tokens(1, 8), 5)), Err(EngineError::Gone)));
}

#[test]
fn an_engine_that_cannot_start_says_why() {
    let metrics = Arc::new(Metrics::new());
    let build = || Err::<FakeRunner, _>(RunnerError::Failed("no weights".into()));
    let error = Engine::start(build, limits(1, 1, 1), &metrics).unwrap_err();
    assert_eq!(error.to_string(), "the model could not be run");
    assert_eq!(error.source().unwrap().to_string(), "no weights");
    let build = || Ok(FakeRunner::new(shape(16, 4, 4)));
    let error = Engine::start(build, limits(4, 1, 1), &metrics).unwrap_err();
    assert!(matches!(error, EngineError::Config(_)), "{error}");
}

#[tokio::test]
async fn a_task_hears_a_text_as_it_is_written() {
    let engine = plain(16);
    let ask = generate(tokens(1, 8), 5);
    let mut reply = engine.submit(ask.clone()).unwrap();
    let mut events = Vec::new();
    while let Some(event) = reply.next().await {
        events.push(event);
    }
    assert_eq!(comparable(&events), expected(&ask));
}
