//! `raisonne bench`: how fast the parts are on this machine.

use super::model::LoadArgs;
use crate::bench;
use crate::engine::ComputeDevice;
use crate::reranker::{RUNGS, RungSpec};
use crate::train::learner_config::{ComputeDtype, LearnerConfig, TrainScope};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// Measure the scorer's forward pass on one core, or on a GPU.
    ///
    /// Example: raisonne bench scorer --candidates 200
    Scorer(ScorerBench),
    /// Measure whole requests to a running server.
    ///
    /// Example: raisonne bench service --address http://127.0.0.1:8080 --clients 4
    Service(ServiceBench),
    /// Measure a language model on the engine, relative to the limits of the machine.
    ///
    /// Example: raisonne bench engine --model models/qwen3 --quantize q8_0 --batches 1,4,16
    Engine(EngineBench),
    /// Measure the training of a language model.
    ///
    /// Example: raisonne bench learner --model models/qwen3 --lessons lessons.safetensors
    Learner(LearnerBench),
    /// Write the logits of a text's last tokens, computed by prefill and by decode, to compare implementations.
    ///
    /// Example: raisonne bench logits --model models/qwen3 --tokens tokens.json --out logits.safetensors
    Logits(LogitsBench),
    /// Measure the catalogue's counts: memory, time to load, events per second on one core.
    ///
    /// Example: raisonne bench statistics --items 300000 --pairs 10000000
    Statistics(StatisticsBench),
    /// Measure a text encoder: titles per second on all cores, and the time of one title on one core.
    ///
    /// Example: raisonne bench text --encoder models/demo --titles titles.txt
    Text(TextBench),
}

#[derive(Args, Debug)]
pub(super) struct TextBench {
    /// Folder of the encoder: a pretrained one, a bundle or a workspace.
    #[arg(long)]
    encoder: PathBuf,
    /// File with a title in each line.
    #[arg(long)]
    titles: PathBuf,
    /// Titles to read, at most.
    #[arg(long, default_value_t = 5_000)]
    titles_max: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct StatisticsBench {
    /// Items of the random catalogue.
    #[arg(long, default_value_t = 300_000)]
    items: usize,
    /// Pairs of items that are kept before anything is measured.
    #[arg(long, default_value_t = 10_000_000)]
    pairs: usize,
    /// Events that are applied to measure their rate.
    #[arg(long, default_value_t = 1_000_000)]
    events: usize,
    /// Events after which the counts are published.
    #[arg(long, default_value_t = 100)]
    turn: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct LogitsBench {
    #[command(flatten)]
    model: LoadArgs,
    /// Device: cpu, or cuda or cuda:N in a build with the feature `cuda`.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// JSON file with an array of the text's tokens.
    #[arg(long)]
    tokens: PathBuf,
    /// Number of last tokens whose logits are written.
    #[arg(long, default_value_t = 64)]
    last: usize,
    /// Tokens of one forward pass.
    #[arg(long, alias = "rows-max", default_value_t = 512)]
    max_batched_tokens: usize,
    /// Safetensors file to write: `prefill` and `decode`, each (last, vocabulary).
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch on the command line")]
pub(super) struct LearnerBench {
    /// Hugging Face folder (config.json, *.safetensors).
    #[arg(long)]
    model: PathBuf,
    /// Safetensors file with `tokens`, one row per lesson.
    #[arg(long)]
    lessons: PathBuf,
    /// Steps of the optimiser.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Lessons per step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Tokens of one forward pass on each thread, padding included.
    #[arg(long, alias = "rows-max", default_value_t = 2048)]
    max_batched_tokens: usize,
    /// Recompute each layer in the backward pass (gradient checkpointing), to save memory.
    #[arg(long)]
    recompute: bool,
    /// Compute in bf16, to save memory.
    #[arg(long)]
    bf16: bool,
    /// Train by policy gradient: treat the lessons as generated, with advantages of +1 and -1 in turn.
    #[arg(long)]
    reinforce: bool,
    /// Train LoRA adapters of this rank instead of all weights.
    #[arg(long)]
    adapter_rank: Option<usize>,
    /// Device: cpu, or cuda or cuda:N, which trains adapters in bf16.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct EngineBench {
    #[command(flatten)]
    model: LoadArgs,
    /// Device: cpu, or cuda or cuda:N in a build with the feature `cuda`.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// Launch each kernel, without CUDA graphs.
    #[arg(long)]
    eager: bool,
    /// Memory bandwidth of the GPU, in GB/s, as the limit to compare with.
    #[arg(long)]
    bandwidth: Option<f64>,
    /// Peak of the GPU, in TFLOP/s, as the limit to compare with.
    #[arg(long)]
    peak: Option<f64>,
    /// Tokens of one forward pass.
    #[arg(long, alias = "rows-max", default_value_t = 512)]
    max_batched_tokens: usize,
    /// Sequences at a time; one measurement each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    batches: Vec<usize>,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens that each sequence generates.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Tokens of the trunk that branches share; 0 skips weighing.
    #[arg(long, default_value_t = 1_000)]
    trunk_tokens: usize,
    /// Branches of a trunk.
    #[arg(long, default_value_t = 100)]
    branches: usize,
    /// Tokens of a branch.
    #[arg(long, default_value_t = 5)]
    branch_tokens: usize,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct ServiceBench {
    /// URL of a running server.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    address: String,
    /// Bundle that the server serves; its sample requests are sent.
    #[arg(long, default_value = "models/demo")]
    bundle: PathBuf,
    /// Candidates per slate.
    #[arg(long, default_value_t = 100)]
    candidates: usize,
    /// Highest rung that each request may reach.
    #[arg(long, value_parser = rung(), default_value = RUNGS[0].name())]
    effort: &'static RungSpec,
    /// Concurrent clients.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Requests in all.
    #[arg(long, default_value_t = 5_000)]
    requests: usize,
    /// Process id of the server on this machine, to measure its CPU time (Linux).
    #[arg(long)]
    server: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Parses the name of a rung.
fn rung() -> impl TypedValueParser<Value = &'static RungSpec> {
    let value = |rung: &'static RungSpec| PossibleValue::new(rung.name()).help(rung.summary);
    PossibleValuesParser::new(RUNGS.iter().map(value))
        .map(|name| RungSpec::named(&name).expect("only names of rungs are possible values"))
}

#[derive(Args, Debug)]
pub(super) struct ScorerBench {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Safetensors file with weights and inputs; random ones by default.
    #[arg(long)]
    case: Option<PathBuf>,
    /// Candidates of the random slate.
    #[arg(long, default_value_t = 100)]
    candidates: usize,
    /// Device. With cuda or cuda:N, it measures the GPU beside the CPU: single slates of several sizes, and then `--slates`.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// Slates of a batch on a GPU.
    #[arg(long, default_value_t = 1)]
    slates: usize,
    /// Repetitions of the network for serving.
    #[arg(long, default_value_t = 200)]
    repetitions: usize,
    /// Repetitions of the network for training.
    #[arg(long, default_value_t = 5)]
    candle_repetitions: usize,
    /// Folder of a bundle with a query path: times its scorer with and without a query instead.
    #[arg(long)]
    bundle: Option<PathBuf>,
}

impl BenchCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Scorer(scorer) => scorer.run(),
            Self::Service(service) => service.run(),
            Self::Engine(engine) => engine.run(),
            Self::Learner(learner) => learner.run(),
            Self::Logits(logits) => logits.run(),
            Self::Statistics(statistics) => statistics.run(),
            Self::Text(text) => text.run(),
        }
    }
}

impl StatisticsBench {
    fn run(self) -> anyhow::Result<()> {
        let Self { items, pairs, events, turn, json } = self;
        let options = bench::StatisticsOptions { items, pairs, events, turn, json };
        bench::statistics(&options, &mut std::io::stdout().lock())
    }
}

impl TextBench {
    fn run(self) -> anyhow::Result<()> {
        let Self { encoder, titles, titles_max, json } = self;
        let options = bench::TextOptions { encoder, titles, titles_max, json };
        bench::text(&options, &mut std::io::stdout().lock())
    }
}

impl ScorerBench {
    fn run(self) -> anyhow::Result<()> {
        let options = bench::ScorerOptions {
            case: self.case,
            candidates: self.candidates,
            device: self.device,
            slates: self.slates,
            fused: self.repetitions,
            candle: self.candle_repetitions,
            json: self.json,
            bundle: self.bundle,
        };
        bench::scorer(&options, &mut std::io::stdout().lock())
    }
}

impl LearnerBench {
    fn run(self) -> anyhow::Result<()> {
        let Self { model, lessons, steps, batch, max_batched_tokens, .. } = self;
        let Self { recompute, reinforce, json, .. } = self;
        let dtype = if self.bf16 { ComputeDtype::Bf16 } else { ComputeDtype::F32 };
        let plan = LearnerConfig {
            scope: TrainScope::of(self.adapter_rank),
            steps,
            lessons_per_step: batch,
            max_batched_tokens,
            gradient_checkpointing: recompute,
            dtype,
            device: self.device,
            warmup_steps: 5,
            ..LearnerConfig::default()
        };
        let options = bench::LearnerOptions { model, lessons, plan, reinforce, json };
        bench::learner(&options, &mut std::io::stdout().lock())
    }
}

impl ServiceBench {
    fn run(self) -> anyhow::Result<()> {
        let Self { address, bundle, candidates, effort, clients, requests, server, json } = self;
        let options = bench::ServiceOptions {
            address,
            bundle,
            candidates,
            clients,
            rung: effort,
            requests,
            server,
            json,
        };
        bench::service(&options, &mut std::io::stdout().lock())
    }
}

impl LogitsBench {
    fn run(self) -> anyhow::Result<()> {
        bench::logits(&bench::LogitsOptions {
            precision: self.model.weight_dtype(),
            kv_cache_dtype: self.model.kv_dtype(),
            threads: self.model.threads(),
            level: self.model.level(),
            model: self.model.model,
            device: self.device,
            tokens: self.tokens,
            max_batched_tokens: self.max_batched_tokens,
            last: self.last,
            out: self.out,
        })
    }
}

impl EngineBench {
    fn run(self) -> anyhow::Result<()> {
        let options = bench::EngineOptions {
            model: self.model.model.clone(),
            precision: self.model.weight_dtype(),
            kv_cache_dtype: self.model.kv_dtype(),
            threads: self.model.threads(),
            level: self.model.level(),
            device: self.device,
            graphs: !self.eager,
            bandwidth: self.bandwidth.map(|bandwidth| bandwidth * 1e9),
            peak: self.peak.map(|peak| peak * 1e12),
            max_batched_tokens: self.max_batched_tokens,
            batches: self.batches,
            prompt_tokens: self.prompt_tokens,
            tokens: self.tokens,
            trunk_tokens: self.trunk_tokens,
            branches: self.branches,
            branch_tokens: self.branch_tokens,
            json: self.json,
        };
        bench::engine(&options, &mut std::io::stdout().lock())
    }
}
