//! The command line.
//!
//! Exit codes: 0 done, 1 failed or interrupted, 2 wrong usage.

mod bench;
mod bundle;
mod demo;
mod eval;
mod events;
mod generate;
mod interrupt;
mod model;
mod progress;
mod rank;
mod serve;
mod shop;
mod shopping;

use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::process::ExitCode;

/// Re-rank recommendation slates within a deadline, and explain the order.
#[derive(Debug, Parser)]
#[command(name = "raisonne", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the demo bundle, send it a few requests, and show the answers.
    ///
    /// Takes the same configuration as `serve`, but listens on 127.0.0.1:8080 and serves the demo bundle by default.
    ///
    /// With `--shopping`, simulated shoppers go on shopping while it serves, and a product begins to trend.
    ///
    /// Example: raisonne demo --once
    Demo(demo::DemoArgs),
    /// Serve a bundle over gRPC and HTTP.
    ///
    /// On SIGHUP, the server opens the bundle's path again. It verifies the hashes and the golden requests of the
    /// version it finds there, and swaps that version in. If the version does not verify, the old one stays. A swap loses
    /// no request.
    ///
    /// Example: raisonne serve --config deploy/config/serve.toml
    Serve(serve::ServeArgs),
    /// Check a configuration and its bundle, without serving.
    ///
    /// Example: raisonne check --config deploy/config/serve.toml
    Check(serve::CheckArgs),
    /// Write a small simulated shop.
    ///
    /// Example: raisonne simulate --out data/simulated --seed 7
    Simulate(shop::SimulateArgs),
    /// Import a shop's items and events from CSV, TSV, JSON Lines or Parquet files.
    ///
    /// The files may be compressed with zstd or gzip. If rows are wrong, the command lists them and writes nothing.
    ///
    /// Example: raisonne import --items items.csv --events events.parquet --out data/shop
    Import(shop::ImportArgs),
    /// Rank a file of requests without a server.
    ///
    /// The order, the scores and the reasons are those of a server with the same configuration, bit by bit.
    ///
    /// Example: raisonne rank --bundle models/demo --requests requests.jsonl --out rankings.parquet
    Rank(rank::RankArgs),
    /// Run one training stage.
    ///
    /// Example: raisonne stage reward_model --recipe models/demo.toml --work data/demo
    Stage(bundle::StageArgs),
    /// Write the training examples and the evaluation cases of a recipe as tensors, to try other models on.
    ///
    /// Example: raisonne export --recipe models/demo.toml --work data/work --out examples.safetensors
    Export(bundle::ExportArgs),
    /// Make or verify a bundle.
    ///
    /// Example: raisonne bundle make --recipe models/demo.toml --out models/demo
    #[command(subcommand)]
    Bundle(bundle::BundleCommand),
    /// Evaluate each rung of a bundle on a shop's test slates, or measure TREC runs.
    ///
    /// Example: raisonne eval --data data/shop --bundle models/demo --json
    Eval(eval::EvalArgs),
    /// Send events of shoppers to a running server.
    ///
    /// Example: raisonne events push events.csv --url http://127.0.0.1:8080
    #[command(subcommand)]
    Events(events::EventsCommand),
    /// Generate text from a prompt, to check that a language model loads.
    ///
    /// Example: raisonne generate --model models/qwen3 --prompt "A red mug" --greedy
    Generate(generate::GenerateArgs),
    /// Measure the speed of a part, or of a running server.
    ///
    /// Example: raisonne bench scorer
    #[command(subcommand)]
    Bench(bench::BenchCommand),
}

/// Runs a command. Errors go to stderr.
pub fn run(cli: Cli) -> ExitCode {
    let done = match cli.command {
        Command::Demo(demo) => demo.run(),
        Command::Serve(serve) => serve.run(),
        Command::Check(check) => check.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Import(import) => import.run(),
        Command::Rank(rank) => rank.run(),
        Command::Stage(stage) => stage.run(),
        Command::Export(export) => export.run(),
        Command::Bundle(bundle) => bundle.run(),
        Command::Eval(eval) => eval.run(),
        Command::Events(events) => events.run(),
        Command::Generate(generate) => generate.run(),
        Command::Bench(bench) => bench.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // A reader may stop early: `raisonne … | head` is not a failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {}", told(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one line, or more if a cause shows a part of a file. What was said is not said again: some
/// errors repeat their causes.
fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause = cause.trim_end();
        if text.contains(cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(cause);
    }
    text
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &(dyn std::error::Error + 'static)| {
        let json =
            cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind);
        json.or_else(|| Some(cause.downcast_ref::<std::io::Error>()?.kind()))
    };
    error.chain().filter_map(kind).any(|kind| kind == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_is_told_once() {
        for (error, expected) in [
            (anyhow!("no"), "no"),
            (anyhow!("no\n\n"), "no"),
            (anyhow!("a is lost").context("reading b"), "reading b: a is lost"),
            (anyhow!("a is lost").context("b: a is lost").context("c"), "c: b: a is lost"),
            (anyhow!("line 1\n  ^\n").context("b"), "b: line 1\n  ^"),
        ] {
            assert_eq!(told(&error), expected);
        }
    }

    #[test]
    fn a_reader_that_leaves_is_no_failure() {
        let left = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert!(is_broken_pipe(&anyhow::Error::from(left()).context("writing")));
        assert!(is_broken_pipe(&serde_json::Error::io(left()).into()));
        assert!(!is_broken_pipe(&std::io::Error::from(std::io::ErrorKind::NotFound).into()));
        assert!(!is_broken_pipe(&anyhow!("broken pipe")));
    }
}
