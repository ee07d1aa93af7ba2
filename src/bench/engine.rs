//! How many tokens does the engine prefill, decode and weigh in a second, and how many could this machine?

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

/// Random tokens are below this. Every vocabulary has as many.
const TOKENS: u32 = 256;

/// The options of `raisonne bench engine`.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// The model.
    pub model: PathBuf,
    /// The type of its weights in memory. `None` keeps the checkpoint's.
    pub precision: Option<WeightDtype>,
    /// The type of the KV cache. `None` leaves it to the device.
    pub kv_cache_dtype: Option<WeightDtype>,
    /// Threads of a CPU's forward passes.
    pub threads: NonZeroUsize,
    /// The CPU's instructions.
    pub level: SimdLevel,
    /// The device of the forward passes.
    pub device: ComputeDevice,
    /// Whether a GPU replays decode batches as CUDA graphs.
    pub graphs: bool,
    /// The device's memory bandwidth in bytes per second. `None` measures it on a CPU.
    pub bandwidth: Option<f64>,
    /// The device's peak in operations per second. `None` measures it on a CPU.
    pub peak: Option<f64>,
    /// Tokens in one forward pass.
    pub max_batched_tokens: usize,
    /// Batch sizes in sequences, one measurement each.
    pub batches: Vec<usize>,
    /// Tokens of each prompt.
    pub prompt_tokens: usize,
    /// Tokens to generate per sequence.
    pub tokens: usize,
    /// Tokens of the trunk that branches are weighed on; 0 skips this measurement.
    pub trunk_tokens: usize,
    /// Branches of a trunk.
    pub branches: usize,
    /// Tokens of a branch.
    pub branch_tokens: usize,
    /// Prints JSON instead of lines.
    pub json: bool,
}

/// The measurements.
#[derive(Debug, Serialize)]
struct EngineReport {
    device: String,
    precision: &'static str,
    level: &'static str,
    threads: usize,
    /// Bytes of the weights in memory.
    weights_bytes: usize,
    /// Bytes of the KV cache in memory.
    cache_bytes: usize,
    /// Bytes of both by their numbers and types.
    computed_bytes: f64,
    /// Growth of the process's resident memory since before the model was loaded, without mapped files. Linux only.
    resident_bytes: Option<u64>,
    /// Memory bandwidth in bytes per second.
    bandwidth: f64,
    /// Peak operations per second, on weights in the cache.
    peak: f64,
    batches: Vec<BatchTiming>,
    weighing: Option<WeighTiming>,
}

/// Prefill and decode of one batch size, in tokens per second.
#[derive(Debug, Serialize)]
struct BatchTiming {
    texts: usize,
    prefill: f64,
    /// The roofline from `peak`.
    prefill_roof: f64,
    decode: f64,
    /// The roofline from `bandwidth` and `peak`.
    decode_roof: f64,
    /// Median host time of a decode step in seconds: from the end of a forward pass until the next is enqueued.
    host: f64,
}

/// A runner that records the host time of each step: from the end of a forward pass until the next is enqueued.
struct TimedRunner {
    runner: Box<dyn Runner>,
    ended: Option<Instant>,
    host_times: Arc<Mutex<Vec<f64>>>,
}

/// Weighing of all branches, in seconds.
#[derive(Debug, Serialize)]
struct WeighTiming {
    trunk_tokens: usize,
    branches: usize,
    branch_tokens: usize,
    cold: f64,
    warm: f64,
    /// The roofline from `peak`.
    cold_floor: f64,
    warm_floor: f64,
}

/// Measures a model on the engine.
pub fn engine(options: &EngineOptions, out: &mut dyn Write) -> Result<()> {
    ensure!(options.tokens > 1, "`tokens` is {}, and must be at least 2", options.tokens);
    ensure!(options.max_batched_tokens > 0, "`max_batched_tokens` is 0, and must be at least 1");
    ensure!(!options.batches.contains(&0), "`batches` holds 0, and each must be at least 1");
    let checkpoint = Checkpoint::open(&options.model)?;
    let config = checkpoint.config().clone();
    let precision = match options.precision {
        Some(precision) => precision,
        None => WeightDtype::of(&checkpoint)?,
    };
    let precision = options.device.weight_dtype(precision)?;
    let kv_dtype = options.device.kv_dtype(options.kv_cache_dtype)?;
    let unknown =
        "the bandwidth and peak of a GPU are not measured: give `--bandwidth` and `--peak`";
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
    let host_times = Arc::default();
    let (engine, memory) = start(checkpoint, (precision, kv_dtype), options, &host_times)?;
    let pages = pages(options);
    let model_bytes = model_bytes(&config, (precision, kv_dtype), pages);
    let memory = memory.unwrap_or(model_bytes);
    let roofline = Roofline { bandwidth, peak, memory, config: &config, precision, kv_dtype };
    let mut bench = EngineRun { engine, rng: ChaCha8Rng::seed_from_u64(0), options, host_times };
    let batches = options.batches.iter().map(|texts| bench.batch(*texts, &roofline));
    let batches = batches.collect::<Result<Vec<_>>>()?;
    let weighing = if options.trunk_tokens > 0 { Some(bench.weigh(&roofline)?) } else { None };
    let report = EngineReport {
        device: options.device.to_string(),
        precision: precision.as_str(),
        level: options.level.as_str(),
        threads: options.threads.get(),
        weights_bytes: roofline.memory.weights,
        cache_bytes: roofline.memory.cache,
        computed_bytes: (model_bytes.weights + model_bytes.cache) as f64,
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

/// The largest batch size.
fn batch_max(options: &EngineOptions) -> usize {
    options.batches.iter().copied().max().unwrap_or(1).max(1)
}

/// KV pages for the largest batch, or for two trunks.
fn pages(options: &EngineOptions) -> usize {
    let per_sequence = (options.prompt_tokens + options.tokens).div_ceil(PAGE_TOKENS) + 1;
    let trunk = options.trunk_tokens.div_ceil(PAGE_TOKENS) + 1;
    (per_sequence * batch_max(options)).max(2 * trunk)
}

/// Starts the engine. Also returns the model's memory on a CPU.
fn start(
    checkpoint: Checkpoint,
    (precision, kv_dtype): (WeightDtype, KvDtype),
    options: &EngineOptions,
    host_times: &Arc<Mutex<Vec<f64>>>,
) -> Result<(Engine, Option<ModelMemory>)> {
    let context =
        (options.prompt_tokens + options.tokens).max(options.trunk_tokens + options.branch_tokens);
    let load = PackedOptions {
        weight_dtype: precision,
        kv_dtype,
        threads: options.threads,
        level: options.level,
        kv_pages: pages(options),
        max_batched_tokens: options.max_batched_tokens,
    };
    let (memory_sender, memory) = std::sync::mpsc::sync_channel(1);
    let device = options.device;
    let decodes_max = if options.graphs { batch_max(options) } else { 0 };
    let host_times = host_times.clone();
    let build = move || -> Result<TimedRunner, RunnerError> {
        let runner: Box<dyn Runner> = if device == ComputeDevice::Cpu {
            let runner = CpuRunner::load(checkpoint, load, context)?;
            // `Engine::start` waits for this.
            let _ = memory_sender.send(runner.memory());
            Box::new(runner)
        } else {
            device.load(checkpoint, load, context, decodes_max)?
        };
        Ok(TimedRunner { runner, ended: None, host_times })
    };
    let nonzero = |n: usize| NonZeroUsize::MIN.saturating_add(n.saturating_sub(1));
    let limits = SchedulerConfig {
        running_max: nonzero(batch_max(options)),
        waiting_max: nonzero(batch_max(options)),
        prefill_chunk_max: nonzero(options.max_batched_tokens),
    };
    let engine = Engine::start(build, limits, &Arc::new(Metrics::new()))?;
    Ok((engine, memory.try_recv().ok()))
}

/// The roofline of the machine.
struct Roofline<'a> {
    bandwidth: f64,
    peak: f64,
    memory: ModelMemory,
    config: &'a DecoderConfig,
    precision: WeightDtype,
    kv_dtype: KvDtype,
}

/// Bytes in the KV cache per token.
fn token_bytes(config: &DecoderConfig, precision: WeightDtype, kv_dtype: KvDtype) -> f64 {
    let number = match kv_dtype {
        KvDtype::Float8 => 1,
        KvDtype::Model if precision == WeightDtype::F32 => 4,
        KvDtype::Model => 2,
    };
    (2 * config.layers * config.kv_heads * config.head_dim * number) as f64
}

/// The bytes of all weights and of the KV cache, by their numbers and types.
fn model_bytes(
    config: &DecoderConfig,
    (precision, kv_dtype): (WeightDtype, KvDtype),
    pages: usize,
) -> ModelMemory {
    let linears = (0..config.layers).flat_map(LinearId::of_layer).chain([LinearId::Unembed]);
    let numbers: usize = linears
        .map(|linear| {
            let (outputs, inputs) = linear.dims(config);
            outputs * inputs
        })
        .sum();
    let cache = (pages * PAGE_TOKENS) as f64 * token_bytes(config, precision, kv_dtype);
    let weights = numbers as f64 * precision.bits() / 8.0;
    ModelMemory { weights: weights as usize, cache: cache as usize }
}

impl Roofline<'_> {
    /// Operations of one row that attends to `context` tokens, with or without its logits.
    fn operations(&self, context: usize, logits: bool) -> f64 {
        let config = self.config;
        let layer = config.width * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
            + 3 * config.width * config.mlp_width
            + 2 * context * config.heads * config.head_dim;
        let unembed = if logits { config.width * config.vocabulary } else { 0 };
        2.0 * (layer * config.layers + unembed) as f64
    }

    /// Seconds of a decode step at the roofline.
    fn step(&self, texts: usize, context: usize) -> f64 {
        let of_token = token_bytes(self.config, self.precision, self.kv_dtype);
        let kv_bytes = texts as f64 * context as f64 * of_token;
        let bytes = (self.memory.weights as f64 + kv_bytes) / self.bandwidth;
        bytes.max(texts as f64 * self.operations(context, true) / self.peak)
    }
}

struct EngineRun<'a> {
    engine: Engine,
    rng: ChaCha8Rng,
    options: &'a EngineOptions,
    host_times: Arc<Mutex<Vec<f64>>>,
}

impl Runner for TimedRunner {
    fn limits(&self) -> RunnerLimits {
        self.runner.limits()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        let before = self.ended.map_or(Duration::ZERO, |ended| ended.elapsed());
        let done = self.runner.forward(step, out);
        let host = before + self.runner.enqueue_time();
        self.host_times.lock().unwrap_or_else(PoisonError::into_inner).push(host.as_secs_f64());
        self.ended = Some(Instant::now());
        done
    }
}

impl EngineRun<'_> {
    fn random_tokens(&mut self, tokens: usize) -> Vec<u32> {
        (0..tokens).map(|_| self.rng.random_range(0..TOKENS)).collect()
    }

    /// Times the prefill of a batch of prompts, and then their decodes.
    ///
    /// The second requests find their prompts in the prefix cache, so all decodes start together. Decode time runs from
    /// the first token of the first sequence.
    fn batch(&mut self, texts: usize, roofline: &Roofline<'_>) -> Result<BatchTiming> {
        let EngineOptions { prompt_tokens, tokens, .. } = *self.options;
        let prompts: Vec<_> = (0..texts).map(|_| self.random_tokens(prompt_tokens)).collect();
        let begun = Instant::now();
        for response in &mut self.submit_all(&prompts, 1)? {
            next(response)?;
        }
        let prefill = (texts * prompt_tokens) as f64 / begun.elapsed().as_secs_f64();
        let mut responses = self.submit_all(&prompts, tokens)?;
        next(&mut responses[0])?;
        self.host_times.lock().unwrap_or_else(PoisonError::into_inner).clear();
        let begun = Instant::now();
        for response in &mut responses {
            while let Some(event) = response.blocking_next() {
                if let EngineEvent::Failed(failure) = event {
                    bail!(failure);
                }
            }
        }
        let decode = (texts * (tokens - 1)) as f64 / begun.elapsed().as_secs_f64();
        let mut hosts = self.host_times.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.sort_unstable_by(f64::total_cmp);
        let host = hosts.get(hosts.len() / 2).copied().unwrap_or_default();
        Ok(BatchTiming {
            texts,
            prefill,
            prefill_roof: roofline.peak / roofline.operations(prompt_tokens / 2, false),
            decode,
            decode_roof: texts as f64 / roofline.step(texts, prompt_tokens + tokens / 2),
            host,
        })
    }

    /// Submits a request for `tokens_max` tokens after each prompt.
    fn submit_all(&self, prompts: &[Vec<u32>], tokens_max: usize) -> Result<Vec<ResponseStream>> {
        let requests = prompts.iter().map(|prompt| {
            request(RequestKind::Generate(GenerateRequest {
                prompt: prompt.clone(),
                samples: NonZeroUsize::MIN,
                tokens_max,
                sampling: SamplingParams::GREEDY,
                constraint: Constraint::Free,
                stop_tokens: Vec::new(),
            }))
        });
        requests.map(|request| Ok(self.engine.submit(request)?)).collect()
    }

    /// Weighs branches on a trunk that is not cached, and other branches on the cached trunk.
    fn weigh(&mut self, roofline: &Roofline<'_>) -> Result<WeighTiming> {
        let EngineOptions { trunk_tokens, branches, branch_tokens, .. } = *self.options;
        let trunk = self.random_tokens(trunk_tokens);
        let mut times = [0.0; 2];
        for time in &mut times {
            let branches = (0..branches).map(|_| self.random_tokens(branch_tokens)).collect();
            let output = BranchOutput::TokenLogits(vec![1, 2]);
            let work = RequestKind::Weigh(WeighRequest { trunk: trunk.clone(), branches, output });
            let begun = Instant::now();
            let mut response = self.engine.submit(request(work))?;
            next(&mut response)?;
            *time = begun.elapsed().as_secs_f64();
        }
        let branch = roofline.operations(trunk_tokens + branch_tokens / 2, false);
        let warm_floor = (branches * branch_tokens) as f64 * branch / roofline.peak;
        let trunk = trunk_tokens as f64 * roofline.operations(trunk_tokens / 2, false);
        Ok(WeighTiming {
            trunk_tokens,
            branches,
            branch_tokens,
            cold: times[0],
            warm: times[1],
            cold_floor: trunk / roofline.peak + warm_floor,
            warm_floor,
        })
    }
}

fn request(kind: RequestKind) -> EngineRequest {
    EngineRequest { kind, priority: Priority::BACKGROUND }
}

/// The next event; a failure is an error.
fn next(response: &mut ResponseStream) -> Result<EngineEvent> {
    match response.blocking_next() {
        Some(EngineEvent::Failed(failure)) => bail!(failure),
        Some(event) => Ok(event),
        None => bail!("the response has no event"),
    }
}

impl EngineReport {
    fn lines(&self, out: &mut dyn Write) -> Result<()> {
        let Self { device, precision, level, threads, weights_bytes, bandwidth, peak, .. } = self;
        let (model_bytes, resident) = (self.computed_bytes, self.resident_bytes);
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
            model_bytes / 1e6,
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
