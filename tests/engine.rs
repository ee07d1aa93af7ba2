//! The engine on a model that checks whoever drives it: scripts, random scripts, and the owner.

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
/// Ends a text.
const END: u32 = 0;

fn nonzero(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap()
}

fn shape(pages: usize, page_tokens: usize, max_batched_tokens: usize) -> RunnerLimits {
    let context_tokens_max = 4_096;
    RunnerLimits {
        pages,
        page_tokens,
        vocabulary: VOCABULARY,
        width: 3,
        context_tokens_max,
        max_batched_tokens,
        samples_on_device: false,
    }
}

fn limits(running_max: usize, waiting_max: usize, prefill_chunk_max: usize) -> SchedulerConfig {
    let [running_max, waiting_max, prefill_chunk_max] =
        [running_max, waiting_max, prefill_chunk_max].map(nonzero);
    SchedulerConfig { running_max, waiting_max, prefill_chunk_max }
}

/// `count` tokens that no other `seed` has.
fn tokens(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|at| 1 + (seed * 7 + at * (seed + 3) + at / 5) % 23).collect()
}

fn work(kind: RequestKind) -> EngineRequest {
    EngineRequest { kind, priority: Priority::BACKGROUND }
}

/// A text after `prompt`, `tokens_max` long and with no end before.
fn text(prompt: Vec<u32>, tokens_max: usize) -> GenerateRequest {
    let samples = NonZeroUsize::MIN;
    let (sampling, constraint) = (SamplingParams::plain(7), Constraint::Free);
    GenerateRequest { prompt, samples, tokens_max, sampling, constraint, stop_tokens: Vec::new() }
}

fn generate(prompt: Vec<u32>, tokens_max: usize) -> EngineRequest {
    work(RequestKind::Generate(text(prompt, tokens_max)))
}

fn weigh(trunk: Vec<u32>, branches: Vec<Vec<u32>>) -> EngineRequest {
    work(RequestKind::Weigh(WeighRequest {
        trunk,
        branches,
        output: BranchOutput::TokenLogits(vec![3, 5]),
    }))
}

/// What must become of an ask, worked out in the plainest way: one token after the other, from the
/// whole history. Of the usage, cached tokens are left out.
fn expected(ask: &EngineRequest) -> Vec<EngineEvent> {
    match &ask.kind {
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
    let why = loop {
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
            let wanted = if let Allowed::Only(tokens) = allowed { tokens } else { &all };
            let place = SamplePosition { sample, token: usage.generated_tokens };
            let logits = logits(&known, wanted);
            let drawn = sampler.draw(&logits, allowed, &generate.sampling, place).unwrap();
            (drawn.token, drawn.logprob)
        };
        let ends = constraint.is_free() && generate.stop_tokens.contains(&token);
        constraint.advance(token).unwrap();
        known.push(token);
        usage.generated_tokens += 1;
        events.push(EngineEvent::Token { sample, token, logprob });
        if ends {
            break FinishReason::Stop;
        }
    };
    events.push(EngineEvent::Done { sample, finish_reason: why, usage });
    events
}

/// Events in the order of `expected`: by sample, and without what the cache saved.
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

/// A scheduler and a model, step by step.
struct Play {
    scheduler: Scheduler,
    runner: FakeRunner,
    answers: ForwardOutput,
    pages: usize,
    now: Instant,
    steps: usize,
    asks: BTreeMap<RequestId, Asked>,
    log: String,
}

struct Asked {
    name: String,
    ask: EngineRequest,
    arrived: Instant,
    events: Vec<EngineEvent>,
    ends: usize,
}

impl Play {
    fn new(shape: RunnerLimits, limits: SchedulerConfig) -> Self {
        Self {
            scheduler: Scheduler::new(shape, limits).unwrap(),
            runner: FakeRunner::new(shape),
            answers: ForwardOutput::default(),
            pages: shape.pages,
            now: Instant::now(),
            steps: 0,
            asks: BTreeMap::new(),
            log: String::new(),
        }
    }

    fn ask(&mut self, name: &str, ask: EngineRequest) -> RequestId {
        let id = self.scheduler.admit(ask.clone(), self.now).unwrap();
        let (name, arrived) = (name.to_owned(), self.now);
        let asked = Asked { name, ask, arrived, events: Vec::new(), ends: 0 };
        self.asks.insert(id, asked);
        id
    }

    fn deadline(&self, milliseconds: u64) -> Deadline {
        Deadline::after(self.now, Duration::from_millis(milliseconds))
    }

    /// Plans, computes and commits a step: says whether there was one.
    fn step(&mut self) -> bool {
        let computed = match self.scheduler.plan(self.now) {
            Some(step) => {
                self.answers.clear();
                self.runner.forward(step, &mut self.answers).unwrap();
                true
            }
            None => false,
        };
        if computed {
            self.steps += 1;
            self.note();
            self.scheduler.commit(&self.answers);
        }
        self.listen();
        self.scheduler.settle();
        assert!(computed || self.scheduler.is_idle(), "the most urgent always gets on");
        computed
    }

    fn run(&mut self) {
        const STEPS_MAX: usize = 10_000;
        while self.step() {
            assert!(self.steps < STEPS_MAX, "it comes to an end");
        }
        assert!(self.scheduler.is_idle());
    }

    fn listen(&mut self) {
        for output in self.scheduler.outputs() {
            let asked = self.asks.get_mut(&output.id).unwrap();
            assert_eq!(asked.ends, 0, "nothing comes after the last event");
            asked.events.push(output.event);
            asked.ends += usize::from(output.last);
        }
    }

    /// Writes the step down.
    fn note(&mut self) {
        let (mut decodes, mut prefills) = (String::new(), String::new());
        for planned in self.scheduler.planned() {
            let asked = &self.asks[&planned.id];
            let mut name = format!(" {}", asked.name);
            if asked.ask.sequences() > 1 {
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
        for (word, who) in [("decode", decodes), ("prefill", prefills)] {
            if !who.is_empty() {
                write!(line, "  {word}{who}").unwrap();
            }
        }
        let held = self.scheduler.load().pages.held;
        write!(self.log, "{line:<48}  pages {held}/{}", self.pages).unwrap();
        let tally = self.scheduler.tally();
        for (word, count) in [("cached", tally.hit_tokens), ("preempted", tally.preempted)] {
            if count > 0 {
                write!(self.log, "  {word} {count}").unwrap();
            }
        }
        self.log.push('\n');
    }

    /// Asserts that everything came as it must.
    fn check(&self) {
        for asked in self.asks.values() {
            assert_eq!(comparable(&asked.events), expected(&asked.ask), "{}", asked.name);
            assert_eq!(asked.ends, 1, "{}", asked.name);
        }
    }
}
