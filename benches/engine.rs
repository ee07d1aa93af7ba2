//! Times what the engine adds to the model in a step: `cargo bench --bench engine -- [RUNNING]`.
//!
//! Every sequence decodes after a prompt of 1 000 tokens, from made-up logits. `plan` includes building the batch.
//! `commit` mostly samples a token per sequence, from a vocabulary of 1 024. Then single samples are timed from a
//! vocabulary of realistic size, with each kind of truncation.

use raisonne::engine::sampler::{SamplePosition, Sampler};
use raisonne::engine::{
    Allowed, Constraint, EngineRequest, ForwardOutput, GenerateRequest, Priority, RequestKind,
    RunnerLimits, SamplingParams, Scheduler, SchedulerConfig,
};
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Normal};
use std::io::{Write as _, stdout};
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::time::Instant;

const STEPS: usize = 400;
const PROMPT_TOKENS: usize = 1_000;
const VOCABULARY: usize = 1_024;
/// Tokens of a vocabulary of realistic size.
const VOCABULARY_REAL: usize = 150_000;
/// The standard deviation of its logits. A few tokens stand out, and top-p still keeps thousands.
const SPREAD: f32 = 3.0;
const SAMPLES: usize = 200;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let running = args.next().map_or(Ok(256), |arg| arg.parse())?;
    let mut scheduler = filled(running)?;
    let mut output = ForwardOutput::default();
    let (mut planning, mut committing) = (Vec::new(), Vec::new());
    while planning.len() < STEPS {
        let begun = Instant::now();
        let outputs = scheduler.plan(begun).map_or(0, |step| step.outputs.len());
        let planned = begun.elapsed();
        output.clear();
        for index in 0..outputs {
            let logits = output.push(VOCABULARY);
            logits.iter_mut().zip(index..).for_each(|(logit, at)| *logit = (at % 7) as f32);
        }
        let begun = Instant::now();
        scheduler.commit(&output);
        let committed = begun.elapsed();
        scheduler.events().for_each(drop);
        // Steps with prefills are not timed.
        if scheduler.stats().decode_tokens == running {
            planning.push(planned);
            committing.push(committed);
        }
    }
    let (planning, committing) = (median(planning), median(committing));
    writeln!(stdout(), "{running} running: plan {planning:?}, commit {committing:?} (medians)")?;
    time_samples()
}

/// Times samples from normally distributed logits.
fn time_samples() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let logits: Vec<f32> =
        Normal::new(0.0, SPREAD)?.sample_iter(&mut rng).take(VOCABULARY_REAL).collect();
    let untruncated = SamplingParams::untruncated(0);
    let mut sampler = Sampler::default();
    for (name, sampling) in [
        ("greedy", SamplingParams::GREEDY),
        ("temperature 0.7", SamplingParams { temperature: 0.7, ..untruncated }),
        ("top-k 40", SamplingParams { top_k: 40, ..untruncated }),
        ("top-p 0.9", SamplingParams { top_p: 0.9, ..untruncated }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..untruncated }),
    ] {
        let mut times = Vec::new();
        for token in 0..SAMPLES {
            let begun = Instant::now();
            let position = SamplePosition { sample: 0, token };
            let sampled = sampler.sample(&logits, Allowed::AllBut(&[]), &sampling, position)?;
            times.push(begun.elapsed());
            // Without it, the compiler could remove the call.
            std::hint::black_box(sampled);
        }
        let time = median(times);
        writeln!(stdout(), "a sample from {VOCABULARY_REAL}, {name}: {time:?} (median)")?;
    }
    Ok(())
}

/// A scheduler with so many sequences, none of which ends before all steps are timed.
fn filled(running: usize) -> anyhow::Result<Scheduler> {
    let (page_tokens, tokens_max) = (16, 2 * STEPS);
    let runner_limits = RunnerLimits {
        kv_pages: running * (PROMPT_TOKENS + tokens_max).div_ceil(page_tokens),
        page_tokens,
        vocabulary: VOCABULARY,
        width: 1,
        context_tokens_max: PROMPT_TOKENS + tokens_max,
        max_batched_tokens: running + 8_192,
        samples_on_device: false,
    };
    let [running_max, prefill_chunk_max] = [running, PROMPT_TOKENS].map(|number| {
        NonZeroUsize::new(number).ok_or_else(|| anyhow::anyhow!("RUNNING must be at least 1"))
    });
    let (running_max, prefill_chunk_max) = (running_max?, prefill_chunk_max?);
    let config = SchedulerConfig { running_max, waiting_max: running_max, prefill_chunk_max };
    let mut scheduler = Scheduler::new(runner_limits, config)?;
    for sequence in 0..running {
        let token = |at: usize| ((sequence + at) % VOCABULARY) as u32;
        let generate = GenerateRequest {
            prompt: (0..PROMPT_TOKENS).map(token).collect(),
            samples: NonZeroUsize::MIN,
            tokens_max,
            sampling: SamplingParams::untruncated(sequence as u64),
            constraint: Constraint::Free,
            stop_tokens: Vec::new(),
        };
        let request =
            EngineRequest { kind: RequestKind::Generate(generate), priority: Priority::BACKGROUND };
        scheduler.admit(request, Instant::now())?;
    }
    Ok(scheduler)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
