//! Times what the engine adds to the model in a step: `cargo bench --bench engine -- [RUNNING]`.
//!
//! Texts go on after prompts of 1 000 tokens; the model's answers are made up beforehand. Planning
//! is choosing the step and laying it out. Committing is mostly drawing each text's next token from
//! the logits of a vocabulary of 1 024. Then single draws are timed from a vocabulary of real size,
//! with each cut by itself.

use raisonne::domain::Criticality;
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
/// Tokens of a vocabulary of real size.
const VOCABULARY_REAL: usize = 150_000;
/// The spread of its logits: the likeliest stand out, and what top-p keeps is still thousands.
const SPREAD: f32 = 3.0;
const DRAWS: usize = 200;

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let running = args.next().map_or(Ok(256), |arg| arg.parse())?;
    let mut scheduler = filled(running)?;
    let mut answers = ForwardOutput::default();
    let (mut planning, mut committing) = (Vec::new(), Vec::new());
    while planning.len() < STEPS {
        let begun = Instant::now();
        let reads = scheduler.plan(begun).map_or(0, |step| step.outputs.len());
        let planned = begun.elapsed();
        answers.clear();
        for read in 0..reads {
            let logits = answers.push(VOCABULARY);
            logits.iter_mut().zip(read..).for_each(|(logit, at)| *logit = (at % 7) as f32);
        }
        let begun = Instant::now();
        scheduler.commit(&answers);
        let committed = begun.elapsed();
        scheduler.outputs().for_each(drop);
        // While prompts are read there is less to choose.
        if scheduler.tally().decode_tokens == running {
            planning.push(planned);
            committing.push(committed);
        }
    }
    let (planning, committing) = (median(planning), median(committing));
    writeln!(stdout(), "{running} running: plan {planning:?}, commit {committing:?} (medians)")?;
    draws()
}

/// Times draws from logits of a normal distribution.
fn draws() -> anyhow::Result<()> {
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let logits: Vec<f32> =
        Normal::new(0.0, SPREAD)?.sample_iter(&mut rng).take(VOCABULARY_REAL).collect();
    let plain = SamplingParams::plain(0);
    let mut sampler = Sampler::default();
    for (name, sampling) in [
        ("greedy", SamplingParams::GREEDY),
        ("temperature 0.7", SamplingParams { temperature: 0.7, ..plain }),
        ("top-k 40", SamplingParams { top_k: 40, ..plain }),
        ("top-p 0.9", SamplingParams { top_p: 0.9, ..plain }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..plain }),
    ] {
        let mut times = Vec::new();
        for token in 0..DRAWS {
            let begun = Instant::now();
            let place = SamplePosition { sample: 0, token };
            let drawn = sampler.draw(&logits, Allowed::AllBut(&[]), &sampling, place)?;
            times.push(begun.elapsed());
            // What nobody looks at need not be drawn.
            std::hint::black_box(drawn);
        }
        let time = median(times);
        writeln!(stdout(), "a draw from {VOCABULARY_REAL}, {name}: {time:?} (median)")?;
    }
    Ok(())
}

/// A scheduler with so many texts, none of which ends before all steps are timed.
fn filled(running: usize) -> anyhow::Result<Scheduler> {
    let (page_tokens, tokens_max) = (16, 2 * STEPS);
    let shape = RunnerLimits {
        pages: running * (PROMPT_TOKENS + tokens_max).div_ceil(page_tokens),
        page_tokens,
        vocabulary: VOCABULARY,
        width: 1,
        context_tokens_max: PROMPT_TOKENS + tokens_max,
        max_batched_tokens: running + 8_192,
        samples_on_device: false,
    };
    let [running_max, prefill_chunk_max] = [running, PROMPT_TOKENS].map(|number| {
        NonZeroUsize::new(number).ok_or_else(|| anyhow::anyhow!("at least one must run"))
    });
    let (running_max, prefill_chunk_max) = (running_max?, prefill_chunk_max?);
    let limits = SchedulerConfig { running_max, waiting_max: running_max, prefill_chunk_max };
    let mut scheduler = Scheduler::new(shape, limits)?;
    for text in 0..running {
        let token = |at: usize| ((text + at) % VOCABULARY) as u32;
        let generate = GenerateRequest {
            prompt: (0..PROMPT_TOKENS).map(token).collect(),
            samples: NonZeroUsize::MIN,
            tokens_max,
            sampling: SamplingParams::plain(text as u64),
            constraint: Constraint::Free,
            stop_tokens: Vec::new(),
        };
        let (criticality, deadline) = (Criticality::Default, None);
        let ask = EngineRequest {
            kind: RequestKind::Generate(generate),
            priority: Priority { criticality, deadline },
        };
        scheduler.admit(ask, Instant::now())?;
    }
    Ok(scheduler)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
