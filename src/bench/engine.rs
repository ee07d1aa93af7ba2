//! How many tokens does the engine read, write and weigh, and how many could this machine?

use super::process::memory_bytes;
use crate::engine::{
    BranchOutput, ComputeDevice, Constraint, CpuRunner, Engine, EngineEvent, EngineRequest,
    ForwardBatch, ForwardOutput, GenerateRequest, Priority, RequestKind, ResponseStream, Runner,
    RunnerError, RunnerLimits, SamplingParams, SchedulerConfig, WeighRequest,
};
use crate::nn::decoder::{Checkpoint, DecoderConfig, LinearId};
use crate::nn::packed::{
    KvDtype, ModelMemory, PAGE_TOKENS, PackedOptions, SimdLevel, WeightDtype, peak_flops,
    read_bandwidth,
};
use crate::telemetry::Metrics;
use anyhow::{Result, bail, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::io::Write;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Tokens that are drawn at random: a model's first are letters, and it has more than these.
const TOKENS: u32 = 256;

/// What `raisonne bench engine` measures.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The model.
    pub model: PathBuf,
    /// How its weights are kept; as they are stored, without it.
    pub precision: Option<WeightDtype>,
    /// How keys and values are; as their place does by itself, without it.
    pub cache_precision: Option<WeightDtype>,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// The processor's instructions.
    pub level: SimdLevel,
    /// Where it runs.
    pub device: ComputeDevice,
    /// Whether a GPU replays steps of texts that go on as CUDA graphs.
    pub graphs: bool,
    /// What that reads a second, in bytes, and computes, in operations; measured of a processor, without them.
    pub bandwidth: Option<f64>,
    /// See `bandwidth`.
    pub peak: Option<f64>,
    /// Rows of a step.
    pub rows_max: usize,
    /// Texts at a time, one measurement each.
    pub batches: Vec<usize>,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens that each text is written.
    pub tokens: usize,
    /// Tokens of the trunk that branches are weighed on; none leaves weighing out.
    pub trunk_tokens: usize,
    /// Branches of a trunk.
    pub branches: usize,
    /// Tokens of a branch.
    pub branch_tokens: usize,
    /// JSON in place of lines.
    pub json: bool,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    device: String,
    precision: &'static str,
    level: &'static str,
    threads: usize,
    /// Bytes of weights, and of keys and values.
    weights_bytes: usize,
    cache_bytes: usize,
    /// What both must take: their numbers, each as wide as it is kept.
    computed_bytes: f64,
    /// What the process took in memory from before it loaded the model to the end, where the
    /// system tells (Linux). Files that it maps are not counted.
    resident_bytes: Option<u64>,
    /// Bytes per second that all threads read from memory, or that a GPU was said to.
    bandwidth: f64,
    /// Operations per second of the kernel, on weights that stay in the cache, or that a GPU was said to do.
    peak: f64,
    batches: Vec<Batch>,
    weighing: Option<Weighing>,
}

/// Prompts read and texts written at a time, in tokens per second.
#[derive(Debug, Serialize)]
struct Batch {
    texts: usize,
    prefill: f64,
    /// What `peak` alone would allow.
    prefill_roof: f64,
    decode: f64,
    /// What `bandwidth` and `peak` would allow, whichever is less.
    decode_roof: f64,
    /// Of a step while texts were written, in seconds and at the median: what the engine does between two, until the
    /// model is asked for the next.
    host: f64,
}

/// A runner that is watched: how long each step takes from the end of the one before until it is asked of what computes
/// it.
struct Watched {
    runner: Box<dyn Runner>,
    ended: Option<Instant>,
    between: Arc<Mutex<Vec<f64>>>,
}

/// Branches weighed, in seconds for all of them.
#[derive(Debug, Serialize)]
struct Weighing {
    trunk_tokens: usize,
    branches: usize,
    branch_tokens: usize,
    cold: f64,
    warm: f64,
    /// What `peak` alone would allow.
    cold_floor: f64,
    warm_floor: f64,
}

/// Measures a model on the engine.
pub fn engine(options: &EngineOptions, out: &mut dyn Write) -> Result<()> {
    ensure!(options.tokens > 1, "`tokens` is {}, and must be at least 2", options.tokens);
    ensure!(options.rows_max > 0, "`rows_max` is 0, and must be at least 1");
    ensure!(!options.batches.contains(&0), "`batches` holds 0, and each must be at least 1");
    let checkpoint = Checkpoint::open(&options.model)?;
    let config = checkpoint.config().clone();
    let precision = match options.precision {
        Some(precision) => precision,
        None => WeightDtype::of(&checkpoint)?,
    };
    let precision = options.device.weight_dtype(precision)?;
    let kept = options.device.kv_dtype(options.cache_precision)?;
    let unknown = "what a GPU reads and computes in a second is not measured: `bandwidth` and `peak` have to be given";
    ensure!(
        options.device == ComputeDevice::Cpu
            || options.bandwidth.is_some() && options.peak.is_some(),
        unknown
    );
    let bandwidth = match options.bandwidth {
        Some(bandwidth) => bandwidth,
        None => read_bandwidth(options.threads, options.level)?,
    };
    let peak = match options.peak {
        Some(peak) => peak,
        None => peak_flops(precision, options.threads, options.level)?,
    };
    let before = memory_bytes();
    let between = Arc::default();
    let (engine, memory) = start(checkpoint, (precision, kept), options, &between)?;
    let pages = pages(options);
    let computed = computed(&config, (precision, kept), pages);
    let memory = memory.unwrap_or(computed);
    let machine = Machine { bandwidth, peak, memory, config: &config, precision, kept };
    let mut bench = Bench { engine, rng: ChaCha8Rng::seed_from_u64(0), options, between };
    let batches = options.batches.iter().map(|texts| bench.batch(*texts, &machine));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let weighing = if options.trunk_tokens > 0 { Some(bench.weigh(&machine)?) } else { None };
    let report = Report {
        device: options.device.to_string(),
        precision: precision.as_str(),
        level: options.level.as_str(),
        threads: options.threads.get(),
        weights_bytes: machine.memory.weights,
        cache_bytes: machine.memory.cache,
        computed_bytes: (computed.weights + computed.cache) as f64,
        resident_bytes: memory_bytes().zip(before).map(|(after, before)| after - before),
        bandwidth,
        peak,
        batches,
        weighing,
    };
    if options.json {
        writeln!(out, "{}", serde_json::to_string(&report)?)?;
    } else {
        report.lines(out)?;
    }
    Ok(())
}

/// Texts at a time, at most.
fn most(options: &EngineOptions) -> usize {
    options.batches.iter().copied().max().unwrap_or(1).max(1)
}

/// Pages that all texts, or a trunk and the next, need.
fn pages(options: &EngineOptions) -> usize {
    let text = (options.prompt_tokens + options.tokens).div_ceil(PAGE_TOKENS) + 1;
    let trunk = options.trunk_tokens.div_ceil(PAGE_TOKENS) + 1;
    (text * most(options)).max(2 * trunk)
}

/// Starts the engine, and says what the model takes, where that can be seen.
fn start(
    checkpoint: Checkpoint,
    (precision, kept): (WeightDtype, KvDtype),
    options: &EngineOptions,
    between: &Arc<Mutex<Vec<f64>>>,
) -> Result<(Engine, Option<ModelMemory>)> {
    let context =
        (options.prompt_tokens + options.tokens).max(options.trunk_tokens + options.branch_tokens);
    let load = PackedOptions {
        weight_dtype: precision,
        kv_dtype: kept,
        threads: options.threads,
        level: options.level,
        kv_pages: pages(options),
        max_batched_tokens: options.rows_max,
    };
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let place = options.device;
    let decodes_max = if options.graphs { most(options) } else { 0 };
    let between = between.clone();
    let build = move || -> Result<Watched, RunnerError> {
        let runner: Box<dyn Runner> = if place == ComputeDevice::Cpu {
            let runner = CpuRunner::load(checkpoint, load, context)?;
            // Whoever starts the engine waits for this.
            let _ = tell.send(runner.memory());
            Box::new(runner)
        } else {
            place.load(checkpoint, load, context, decodes_max)?
        };
        Ok(Watched { runner, ended: None, between })
    };
    let nonzero = |n: usize| NonZeroUsize::MIN.saturating_add(n.saturating_sub(1));
    let limits = SchedulerConfig {
        running_max: nonzero(most(options)),
        waiting_max: nonzero(most(options)),
        prefill_chunk_max: nonzero(options.rows_max),
    };
    let engine = Engine::start(build, limits, &Arc::new(Metrics::new()))?;
    Ok((engine, told.try_recv().ok()))
}

/// What the machine could do at best.
struct Machine<'a> {
    bandwidth: f64,
    peak: f64,
    memory: ModelMemory,
    config: &'a DecoderConfig,
    precision: WeightDtype,
    kept: KvDtype,
}

/// Bytes of keys and values of one token.
fn token_bytes(config: &DecoderConfig, precision: WeightDtype, kept: KvDtype) -> f64 {
    let number = match kept {
        KvDtype::Float8 => 1,
        KvDtype::Model if precision == WeightDtype::F32 => 4,
        KvDtype::Model => 2,
    };
    (2 * config.layers * config.kv_heads * config.head_dim * number) as f64
}

/// What a model must take: all weights, and keys and values of all pages that last.
fn computed(
    config: &DecoderConfig,
    (precision, kept): (WeightDtype, KvDtype),
    pages: usize,
) -> ModelMemory {
    let linears = (0..config.layers).flat_map(LinearId::of_layer).chain([LinearId::Unembed]);
    let numbers: usize = linears
        .map(|linear| {
            let (outputs, inputs) = linear.dims(config);
            outputs * inputs
        })
        .sum();
    let cache = (pages * PAGE_TOKENS) as f64 * token_bytes(config, precision, kept);
    let weights = numbers as f64 * precision.bits() / 8.0;
    ModelMemory { weights: weights as usize, cache: cache as usize }
}

impl Machine<'_> {
    /// Operations of one row that sees `context` tokens, with or without its logits.
    fn operations(&self, context: usize, logits: bool) -> f64 {
        let config = self.config;
        let layer = config.width * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
            + 3 * config.width * config.mlp_width
            + 2 * context * config.heads * config.head_dim;
        let unembed = if logits { config.width * config.vocabulary } else { 0 };
        2.0 * (layer * config.layers + unembed) as f64
    }

    /// Seconds of a step of single rows.
    fn step(&self, texts: usize, context: usize) -> f64 {
        let of_token = token_bytes(self.config, self.precision, self.kept);
        let kept = texts as f64 * context as f64 * of_token;
        let bytes = (self.memory.weights as f64 + kept) / self.bandwidth;
        bytes.max(texts as f64 * self.operations(context, true) / self.peak)
    }
}

struct Bench<'a> {
    engine: Engine,
    rng: ChaCha8Rng,
    options: &'a EngineOptions,
    between: Arc<Mutex<Vec<f64>>>,
}

impl Runner for Watched {
    fn limits(&self) -> RunnerLimits {
        self.runner.limits()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        let before = self.ended.map_or(Duration::ZERO, |ended| ended.elapsed());
        let done = self.runner.forward(step, out);
        let host = before + self.runner.enqueue_time();
        self.between.lock().unwrap_or_else(PoisonError::into_inner).push(host.as_secs_f64());
        self.ended = Some(Instant::now());
        done
    }
}

impl Bench<'_> {
    fn text(&mut self, tokens: usize) -> Vec<u32> {
        (0..tokens).map(|_| self.rng.random_range(0..TOKENS)).collect()
    }

    /// Reads some prompts at a time, and then writes on from all of them.
    ///
    /// The prompts are read first and for themselves. When they are asked for again they lie in the
    /// cache, so that all texts begin together and no reading is in the time of writing. Writing is
    /// timed from the first text's first token, so a token is never counted without its time.
    fn batch(&mut self, texts: usize, machine: &Machine<'_>) -> Result<Batch> {
        let EngineOptions { prompt_tokens, tokens, .. } = *self.options;
        let prompts: Vec<_> = (0..texts).map(|_| self.text(prompt_tokens)).collect();
        let begun = Instant::now();
        for reply in &mut self.write(&prompts, 1)? {
            next(reply)?;
        }
        let prefill = (texts * prompt_tokens) as f64 / begun.elapsed().as_secs_f64();
        let mut replies = self.write(&prompts, tokens)?;
        next(&mut replies[0])?;
        self.between.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let begun = Instant::now();
        for reply in &mut replies {
            while let Some(event) = reply.blocking_next() {
                if let EngineEvent::Failed(failure) = event {
                    bail!(failure);
                }
            }
        }
        let decode = (texts * (tokens - 1)) as f64 / begun.elapsed().as_secs_f64();
        let mut hosts = self.between.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.sort_unstable_by(f64::total_cmp);
        let host = hosts.get(hosts.len() / 2).copied().unwrap_or_default();
        Ok(Batch {
            texts,
            prefill,
            prefill_roof: machine.peak / machine.operations(prompt_tokens / 2, false),
            decode,
            decode_roof: texts as f64 / machine.step(texts, prompt_tokens + tokens / 2),
            host,
        })
    }

    /// Asks for a text of so many tokens after each prompt.
    fn write(&self, prompts: &[Vec<u32>], tokens_max: usize) -> Result<Vec<ResponseStream>> {
        let asks = prompts.iter().map(|prompt| {
            request(RequestKind::Generate(GenerateRequest {
                prompt: prompt.clone(),
                samples: NonZeroUsize::MIN,
                tokens_max,
                sampling: SamplingParams::GREEDY,
                constraint: Constraint::Free,
                stop_tokens: Vec::new(),
            }))
        });
        asks.map(|ask| Ok(self.engine.submit(ask)?)).collect()
    }

    /// Weighs branches on a fresh trunk, and again on the same.
    fn weigh(&mut self, machine: &Machine<'_>) -> Result<Weighing> {
        let EngineOptions { trunk_tokens, branches, branch_tokens, .. } = *self.options;
        let trunk = self.text(trunk_tokens);
        let mut times = [0.0; 2];
        for time in &mut times {
            let branches = (0..branches).map(|_| self.text(branch_tokens)).collect();
            let wanted = BranchOutput::TokenLogits(vec![1, 2]);
            let work =
                RequestKind::Weigh(WeighRequest { trunk: trunk.clone(), branches, output: wanted });
            let begun = Instant::now();
            let mut reply = self.engine.submit(request(work))?;
            next(&mut reply)?;
            *time = begun.elapsed().as_secs_f64();
        }
        let branch = machine.operations(trunk_tokens + branch_tokens / 2, false);
        let warm_floor = (branches * branch_tokens) as f64 * branch / machine.peak;
        let trunk = trunk_tokens as f64 * machine.operations(trunk_tokens / 2, false);
        Ok(Weighing {
            trunk_tokens,
            branches,
            branch_tokens,
            cold: times[0],
            warm: times[1],
            cold_floor: trunk / machine.peak + warm_floor,
            warm_floor,
        })
    }
}

fn request(kind: RequestKind) -> EngineRequest {
    EngineRequest { kind, priority: Priority::BACKGROUND }
}

/// The next event, which is no failure.
fn next(reply: &mut ResponseStream) -> Result<EngineEvent> {
    match reply.blocking_next() {
        Some(EngineEvent::Failed(failure)) => bail!(failure),
        Some(event) => Ok(event),
        None => bail!("the engine said nothing"),
    }
}

impl Report {
    fn lines(&self, out: &mut dyn Write) -> Result<()> {
        let Self { device, precision, level, threads, weights_bytes, bandwidth, peak, .. } = self;
        let (computed, resident) = (self.computed_bytes, self.resident_bytes);
        writeln!(
            out,
            "{precision} on {device}, {level}, {threads} threads: weights {:.0} MB, memory {:.1} GB/s, kernel {:.0} GFLOP/s",
            *weights_bytes as f64 / 1e6,
            bandwidth / 1e9,
            peak / 1e9,
        )?;
        writeln!(
            out,
            "weights and cache {:.0} MB, computed {:.0} MB",
            (weights_bytes + self.cache_bytes) as f64 / 1e6,
            computed / 1e6,
        )?;
        if let Some(resident) = resident {
            writeln!(out, "resident {:.0} MB", resident as f64 / 1e6)?;
        }
        for batch in &self.batches {
            writeln!(
                out,
                "{:>3} texts: prefill {:.0} tokens/s ({:.0} % of the roof), decode {:.1} tokens/s ({:.0} %), host {:.0} us a step",
                batch.texts,
                batch.prefill,
                100.0 * batch.prefill / batch.prefill_roof,
                batch.decode,
                100.0 * batch.decode / batch.decode_roof,
                batch.host * 1e6,
            )?;
        }
        if let Some(weighing) = &self.weighing {
            writeln!(
                out,
                "{} branches of {} tokens on a trunk of {}: cold {:.0} ms ({:.0} % of the roof), warm {:.0} ms ({:.0} %)",
                weighing.branches,
                weighing.branch_tokens,
                weighing.trunk_tokens,
                weighing.cold * 1e3,
                100.0 * weighing.cold_floor / weighing.cold,
                weighing.warm * 1e3,
                100.0 * weighing.warm_floor / weighing.warm,
            )?;
        }
        Ok(())
    }
}
