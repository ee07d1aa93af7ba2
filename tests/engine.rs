//! The engine on a runner that checks its batches: scripted schedules, random scripts, and the engine's thread.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "engine/owner.rs"]
mod owner;
#[path = "engine/random.rs"]
mod random;
#[path = "support/runner.rs"]
mod runner;
#[path = "engine/schedules.rs"]
mod schedules;

use raisonne::domain::{Criticality, Deadline};
use raisonne::engine::sampler::{SamplePosition, Sampler};
use raisonne::engine::scheduler::RequestId;
use raisonne::engine::{
    Allowed, BranchOutput, Constraint, EngineEvent, EngineRequest, FinishReason, ForwardOutput,
    GenerateRequest, Priority, RequestKind, Runner, RunnerLimits, SamplingParams, Scheduler,
    SchedulerConfig, Usage, WeighRequest,
};
use runner::{FakeRunner, hidden, logits};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::time::Instant;

const VOCABULARY: usize = 24;
/// The stop token.
const END: u32 = 0;

fn nonzero(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

fn runner_limits(kv_pages: usize, page_tokens: usize, max_batched_tokens: usize) -> RunnerLimits {
    let context_tokens_max = 4_096;
    RunnerLimits {
        kv_pages,
        page_tokens,
        vocabulary: VOCABULARY,
        width: 3,
        context_tokens_max,
        max_batched_tokens,
        samples_on_device: false,
    }
}

fn config(running_max: usize, waiting_max: usize, prefill_chunk_max: usize) -> SchedulerConfig {
    let [running_max, waiting_max, prefill_chunk_max] =
        [running_max, waiting_max, prefill_chunk_max].map(nonzero);
    SchedulerConfig { running_max, waiting_max, prefill_chunk_max }
}

/// `count` tokens of the sequence number `seed`.
fn tokens(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|at| 1 + (seed * 7 + at * (seed + 3) + at / 5) % 23).collect()
}

fn request(kind: RequestKind) -> EngineRequest {
    EngineRequest { kind, priority: Priority::BACKGROUND }
}

/// A completion of `prompt` with `tokens_max` tokens and no stop token.
fn text(prompt: Vec<u32>, tokens_max: usize) -> GenerateRequest {
    let samples = NonZeroUsize::MIN;
    let (sampling, constraint) = (SamplingParams::untruncated(7), Constraint::Free);
    GenerateRequest { prompt, samples, tokens_max, sampling, constraint, stop_tokens: Vec::new() }
}

fn generate(prompt: Vec<u32>, tokens_max: usize) -> EngineRequest {
    request(RequestKind::Generate(text(prompt, tokens_max)))
}

fn weigh(trunk: Vec<u32>, branches: Vec<Vec<u32>>) -> EngineRequest {
    request(RequestKind::Weigh(WeighRequest {
        trunk,
        branches,
        output: BranchOutput::TokenLogits(vec![3, 5]),
    }))
}

/// The expected events of a request, computed naively: one token at a time, from all tokens before it. The usage
/// leaves out cached tokens.
fn expected(request: &EngineRequest) -> Vec<EngineEvent> {
    match &request.kind {
        RequestKind::Generate(generate) => {
            (0..generate.samples.get()).flat_map(|sample| expected_text(generate, sample)).collect()
        }
        RequestKind::Weigh(weigh) => {
            let weights = weigh.branches.iter().map(|branch| {
                let seen = [&weigh.trunk[..], branch].concat();
                match &weigh.output {
                    BranchOutput::TokenLogits(tokens) => logits(&seen, tokens),
                    BranchOutput::HiddenState => hidden(&seen, 3),
                }
            });
            let usage = Usage {
                prompt_tokens: weigh.trunk.len(),
                generated_tokens: weigh.branches.iter().map(Vec::len).sum(),
                ..Usage::default()
            };
            let done = EngineEvent::Done { sample: 0, finish_reason: FinishReason::Stop, usage };
            vec![EngineEvent::Weighed(weights.collect()), done]
        }
    }
}

fn expected_text(generate: &GenerateRequest, sample: usize) -> Vec<EngineEvent> {
    let (mut known, mut constraint) = (generate.prompt.clone(), generate.constraint.clone());
    let (mut events, mut sampler) = (Vec::new(), Sampler::default());
    let mut usage = Usage { prompt_tokens: known.len(), ..Usage::default() };
    let reason = loop {
        if constraint.is_done() {
            break FinishReason::Stop;
        }
        if usage.generated_tokens == generate.tokens_max {
            break FinishReason::Length;
        }
        let allowed = constraint.allowed();
        let (token, logprob) = if let Some(token) = constraint.forced() {
            usage.forced_tokens += 1;
            (token, 0.0)
        } else {
            let all: Vec<_> = (0..VOCABULARY as u32).collect();
            let tokens = if let Allowed::Only(tokens) = allowed { tokens } else { &all };
            let position = SamplePosition { sample, token: usage.generated_tokens };
            let logits = logits(&known, tokens);
            let sampled = sampler.sample(&logits, allowed, &generate.sampling, position).unwrap();
            (sampled.token, sampled.logprob)
        };
        let stops = constraint.accepts_stop_token() && generate.stop_tokens.contains(&token);
        constraint.advance(token).unwrap();
        known.push(token);
        usage.generated_tokens += 1;
        events.push(EngineEvent::Token { sample, token, logprob });
        if stops {
            break FinishReason::Stop;
        }
    };
    events.push(EngineEvent::Done { sample, finish_reason: reason, usage });
    events
}

/// The events in the order of `expected`: by sample, and without the count of cached tokens.
fn comparable(events: &[EngineEvent]) -> Vec<EngineEvent> {
    let mut events = events.to_vec();
    for event in &mut events {
        if let EngineEvent::Done { usage, .. } = event {
            usage.cached_tokens = 0;
        }
    }
    events.sort_by_key(|event| match event {
        EngineEvent::Token { sample, .. } | EngineEvent::Done { sample, .. } => *sample,
        EngineEvent::Weighed(_) | EngineEvent::Failed(_) => 0,
    });
    events
}

/// A scheduler and a runner, driven step by step.
struct Play {
    scheduler: Scheduler,
    runner: FakeRunner,
    output: ForwardOutput,
    pages: usize,
    now: Instant,
    steps: usize,
    requests: BTreeMap<RequestId, Tracked>,
    log: String,
}

struct Tracked {
    name: String,
    request: EngineRequest,
    arrived: Instant,
    events: Vec<EngineEvent>,
    last_events: usize,
}

impl Play {
    fn new(limits: RunnerLimits, config: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(limits, config).unwrap(),
            runner: FakeRunner::new(limits),
            output: ForwardOutput::default(),
            pages: limits.kv_pages,
            now: Instant::now(),
            steps: 0,
            requests: BTreeMap::new(),
            log: String::new(),
        }
    }

    fn admit(&mut self, name: &str, request: EngineRequest) -> RequestId {
        let id = self.scheduler.admit(request.clone(), self.now).unwrap();
        let (name, arrived) = (name.to_owned(), self.now);
        let tracked = Tracked { name, request, arrived, events: Vec::new(), last_events: 0 };
        self.requests.insert(id, tracked);
        id
    }

    fn deadline(&self, milliseconds: u64) -> Deadline {
        Deadline::after(self.now, Duration::from_millis(milliseconds))
    }

    /// Plans, computes and commits a step. Returns false if there was nothing to compute.
    fn step(&mut self) -> bool {
        let computed = match self.scheduler.plan(self.now) {
            Some(batch) => {
                self.output.clear();
                self.runner.forward(batch, &mut self.output).unwrap();
                true
            }
            None => false,
        };
        if computed {
            self.steps += 1;
            self.log_step();
            self.scheduler.commit(&self.output);
        }
        self.collect_events();
        self.scheduler.assert_invariants();
        assert!(computed || self.scheduler.is_idle(), "the first sequence always makes progress");
        computed
    }

    fn run(&mut self) {
        const STEPS_MAX: usize = 10_000;
        while self.step() {
            assert!(self.steps < STEPS_MAX, "it ends");
        }
        assert!(self.scheduler.is_idle());
    }

    fn collect_events(&mut self) {
        for event in self.scheduler.events() {
            let tracked = self.requests.get_mut(&event.id).unwrap();
            assert_eq!(tracked.last_events, 0, "nothing comes after the last event");
            tracked.events.push(event.event);
            tracked.last_events += usize::from(event.last);
        }
    }

    /// Logs the planned step.
    fn log_step(&mut self) {
        let (mut decodes, mut prefills) = (String::new(), String::new());
        for planned in self.scheduler.planned() {
            let tracked = &self.requests[&planned.id];
            let mut name = format!(" {}", tracked.name);
            if tracked.request.sequences() > 1 {
                write!(name, "{}", planned.sample).unwrap();
            }
            let (tokens, branches) = (planned.tokens, planned.branches);
            if planned.decodes {
                decodes += &name;
                if tokens.len() > 1 {
                    write!(decodes, "x{}", tokens.len()).unwrap();
                }
                continue;
            }
            prefills += &name;
            if !tokens.is_empty() {
                write!(prefills, "[{}..{}]", tokens.start, tokens.end).unwrap();
            }
            if !branches.is_empty() {
                write!(prefills, "({}..{})", branches.start, branches.end).unwrap();
            }
        }
        let mut line = format!("step {:<2}", self.steps);
        for (word, names) in [("decode", decodes), ("prefill", prefills)] {
            if !names.is_empty() {
                write!(line, "  {word}{names}").unwrap();
            }
        }
        let held = self.scheduler.load().pages.held;
        write!(self.log, "{line:<48}  pages {held}/{}", self.pages).unwrap();
        let stats = self.scheduler.stats();
        for (word, count) in [("cached", stats.prefix_hit_tokens), ("preempted", stats.preempted)] {
            if count > 0 {
                write!(self.log, "  {word} {count}").unwrap();
            }
        }
        self.log.push('\n');
    }

    /// Asserts that every request got its expected events.
    fn check(&self) {
        for tracked in self.requests.values() {
            assert_eq!(comparable(&tracked.events), expected(&tracked.request), "{}", tracked.name);
            assert_eq!(tracked.last_events, 1, "{}", tracked.name);
        }
    }
}
