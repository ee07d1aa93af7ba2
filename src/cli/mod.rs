//! What can be asked of the binary?
//!
//! Exit codes: 0 done, 1 failed or stopped before the end, 2 misused.

mod bundle;
mod demo;
mod generate;
mod interrupt;
mod model;
mod progress;
mod serve;
mod shop;

use crate::bench;
use crate::engine::ComputeDevice;
use crate::reranker::{RUNGS, RungSpec};
use crate::train::learner_config::{ComputeDtype, LearnerConfig, TrainScope};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

/// Explained re-ranking of recommendation slates, within a deadline.
#[derive(Debug, Parser)]
#[command(name = "raisonne", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves the demo bundle, sends itself real requests and shows what comes back.
    ///
    /// Example: raisonne demo --once
    Demo(demo::Demo),
    /// Serves a bundle over gRPC and HTTP.
    ///
    /// On SIGHUP it opens the bundle's path again. If another version lies there and holds (its
    /// hashes, its golden requests), that one is swapped in, and no request is lost or mixed; if it
    /// does not hold, the one before goes on.
    ///
    /// Example: raisonne serve --config deploy/config/serve.toml
    Serve(serve::Serve),
    /// Checks a configuration and the bundle that it names, without serving.
    ///
    /// Example: raisonne check --config deploy/config/serve.toml
    Check(serve::Check),
    /// Writes a small shop that this program makes up from a seed.
    ///
    /// Example: raisonne simulate --out data/simulated --seed 7
    Simulate(shop::Simulate),
    /// Reads a shop's items and events (CSV, TSV, JSON Lines, Parquet; plain, zstd or gzip).
    ///
    /// Example: raisonne import --items items.csv --events events.parquet --out data/shop
    Import(shop::Import),
    /// Carries out one training stage.
    ///
    /// Example: raisonne stage reward_model --recipe models/demo.toml --work data/demo
    Stage(bundle::Stage),
    /// Writes the examples and cases of a recipe as plain numbers, to try other models on.
    ///
    /// Example: raisonne export --recipe models/demo.toml --work data/work --out examples.safetensors
    Export(bundle::Export),
    /// Makes, verifies and shows bundles.
    ///
    /// Example: raisonne bundle make --recipe models/demo.toml --out models/demo
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Measures a bundle on a shop: the scored order against the order given.
    ///
    /// Example: raisonne eval --data data/shop --bundle models/demo --json
    Eval(bundle::Eval),
    /// Writes on from a prompt with a language model: shows that its folder loads.
    ///
    /// Example: raisonne generate --model models/qwen3 --prompt "A red mug" --greedy
    Generate(generate::Generate),
    /// Measures how fast something is.
    ///
    /// Example: raisonne bench scorer
    #[command(subcommand)]
    Bench(BenchCommand),
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// The scorer's forward pass, on one core.
    Scorer(ScorerBench),
    /// Whole requests to a running server.
    Service(ServiceBench),
    /// A language model on the engine, beside what the machine could do at best.
    Engine(EngineBench),
    /// A language model that learns.
    Learner(LearnerBench),
    /// Not how fast but how right: writes the logits of a text's last rows, read as a prompt and row by row.
    Logits(LogitsBench),
}

#[derive(Args, Debug)]
struct LogitsBench {
    #[command(flatten)]
    model: model::LoadArgs,
    /// Where it runs: cpu, or cuda or cuda:N where this program was built for that.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// A JSON array of the text's tokens.
    #[arg(long)]
    tokens: PathBuf,
    /// Rows at the end of the text of which the logits are written.
    #[arg(long, default_value_t = 64)]
    last: usize,
    /// Rows of a step.
    #[arg(long, default_value_t = 512)]
    rows_max: usize,
    /// The safetensors file: `prefill` and `decode`, each (last, vocabulary).
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
struct LearnerBench {
    /// A Hugging Face folder (config.json, *.safetensors).
    #[arg(long)]
    model: PathBuf,
    /// What it learns: a safetensors file with `tokens`, one row per lesson.
    #[arg(long)]
    lessons: PathBuf,
    /// Steps of the optimiser.
    #[arg(long, default_value_t = 20)]
    steps: usize,
    /// Lessons of a step.
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Rows that a thread calculates at a time, padding included.
    #[arg(long, default_value_t = 2048)]
    rows_max: usize,
    /// Calculates each layer a second time on the way back, to keep little in memory.
    #[arg(long)]
    recompute: bool,
    /// Multiplies and keeps bf16, to keep less in memory.
    #[arg(long)]
    bf16: bool,
    /// Takes lessons for texts that the model wrote itself, and makes every second one likelier and the others less so.
    #[arg(long)]
    reinforce: bool,
    /// Trains adapters of this rank in place of everything.
    #[arg(long)]
    adapter_rank: Option<usize>,
    /// Where it is trained: `cpu`, or `cuda:N`, which trains adapters in bf16.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct EngineBench {
    #[command(flatten)]
    model: model::LoadArgs,
    /// Where it runs: cpu, or cuda or cuda:N where this program was built for that.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// Launches every kernel of a step one by one, without CUDA graphs.
    #[arg(long)]
    eager: bool,
    /// What a GPU reads from its memory, in GB/s.
    #[arg(long)]
    bandwidth: Option<f64>,
    /// What a GPU computes at most, in TFLOP/s.
    #[arg(long)]
    peak: Option<f64>,
    /// Rows of a step.
    #[arg(long, default_value_t = 512)]
    rows_max: usize,
    /// Texts at a time, one measurement each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    batches: Vec<usize>,
    /// Tokens of each prompt.
    #[arg(long, default_value_t = 512)]
    prompt_tokens: usize,
    /// Tokens that each text is written.
    #[arg(long, default_value_t = 32)]
    tokens: usize,
    /// Tokens of the trunk that branches are weighed on; 0 leaves weighing out.
    #[arg(long, default_value_t = 1_000)]
    trunk_tokens: usize,
    /// Branches of a trunk.
    #[arg(long, default_value_t = 100)]
    branches: usize,
    /// Tokens of a branch.
    #[arg(long, default_value_t = 5)]
    branch_tokens: usize,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct ServiceBench {
    /// A running server.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    address: String,
    /// The bundle that it serves.
    #[arg(long, default_value = "models/demo")]
    bundle: PathBuf,
    /// Candidates of a slate.
    #[arg(long, default_value_t = 100)]
    candidates: usize,
    /// The highest rung that each request climbs to.
    #[arg(long, value_parser = rung(), default_value = RUNGS[0].name())]
    effort: &'static RungSpec,
    /// Clients at a time.
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Requests in all.
    #[arg(long, default_value_t = 5_000)]
    requests: usize,
    /// The server's process on this machine (Linux): its processor time is measured as well.
    #[arg(long)]
    server: Option<u32>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Reads the name of a rung.
fn rung() -> impl TypedValueParser<Value = &'static RungSpec> {
    let value = |rung: &'static RungSpec| PossibleValue::new(rung.name()).help(rung.summary);
    PossibleValuesParser::new(RUNGS.iter().map(value))
        .map(|name| RungSpec::named(&name).expect("only names of rungs are possible values"))
}

#[derive(Args, Debug)]
struct ScorerBench {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// A case to read (weights and inputs, as safetensors); a random one without it.
    #[arg(long)]
    case: Option<PathBuf>,
    /// Candidates of a random case.
    #[arg(long, default_value_t = 100)]
    candidates: usize,
    /// Times it on a GPU as well, `cuda` or `cuda:N`: single slates of several sizes, and then what was asked for.
    #[arg(long, default_value_t)]
    device: ComputeDevice,
    /// Slates at a time, on a GPU.
    #[arg(long, default_value_t = 1)]
    slates: usize,
    /// Passes of the serving network.
    #[arg(long, default_value_t = 200)]
    repetitions: usize,
    /// Passes of the training network beside it.
    #[arg(long, default_value_t = 5)]
    candle_repetitions: usize,
}

/// Carries out a command and says how it went.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Demo(demo) => demo.run(),
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Import(import) => import.run(),
        Command::Stage(stage) => stage.run(),
        Command::Export(export) => export.run(),
        Command::Bundle(bundle) => bundle.run(),
        Command::Eval(eval) => eval.run(),
        Command::Generate(generate) => generate.run(),
        Command::Bench(BenchCommand::Scorer(scorer)) => scorer.run(),
        Command::Bench(BenchCommand::Service(service)) => service.run(),
        Command::Bench(BenchCommand::Engine(engine)) => engine.run(),
        Command::Bench(BenchCommand::Learner(learner)) => learner.run(),
        Command::Bench(BenchCommand::Logits(logits)) => logits.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output may stop early: `raisonne … | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
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
        };
        bench::scorer(&options, &mut std::io::stdout().lock())
    }
}

impl LearnerBench {
    fn run(self) -> anyhow::Result<()> {
        let Self { model, lessons, steps, batch, rows_max, recompute, reinforce, json, .. } = self;
        let dtype = if self.bf16 { ComputeDtype::Bf16 } else { ComputeDtype::F32 };
        let plan = LearnerConfig {
            scope: TrainScope::of(self.adapter_rank),
            steps,
            lessons_per_step: batch,
            max_batched_tokens: rows_max,
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
            precision: self.model.precision(),
            cache_precision: self.model.cache_precision(),
            threads: self.model.threads(),
            level: self.model.level(),
            model: self.model.model,
            device: self.device,
            tokens: self.tokens,
            rows_max: self.rows_max,
            last: self.last,
            out: self.out,
        })
    }
}

impl EngineBench {
    fn run(self) -> anyhow::Result<()> {
        let options = bench::EngineOptions {
            model: self.model.model.clone(),
            precision: self.model.precision(),
            cache_precision: self.model.cache_precision(),
            threads: self.model.threads(),
            level: self.model.level(),
            device: self.device,
            graphs: !self.eager,
            bandwidth: self.bandwidth.map(|bandwidth| bandwidth * 1e9),
            peak: self.peak.map(|peak| peak * 1e12),
            rows_max: self.rows_max,
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

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
