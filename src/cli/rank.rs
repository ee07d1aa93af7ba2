//! `raisonne rank`: ranks a file of requests without a server.

use super::progress::TerminalProgress;
use super::serve::ConfigArgs;
use crate::api::{OfflineTerms, parse_time, pb};
use crate::app;
use crate::config::Config;
use crate::domain::Timestamp;
use crate::rank_file::{IN_FLIGHT, RankFile, RankFileReport};
use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Arguments of `raisonne rank`.
#[derive(Args, Debug)]
pub struct RankArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// JSON Lines of requests as the HTTP API takes them, plain or compressed with zstd or gzip; - for stdin. A request may
    /// also say its moment in `time`, such as 2026-06-01T00:00:00Z: then no later event of the history is read.
    #[arg(long, value_name = "FILE")]
    requests: PathBuf,
    /// File of the rankings: .jsonl (then perhaps .zst) with a line for each request, or .parquet with a row for each item;
    /// - for JSON Lines on stdout.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Moment of the requests that don't say their own. By default it is now.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    now: Option<Timestamp>,
    /// Highest rung for requests that say none.
    #[arg(long, value_enum, default_value_t = EffortArg::Auto)]
    effort: EffortArg,
    /// Time limit of each request, ms. By default a request takes as long as it takes.
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout_ms: Option<u64>,
    /// Threads that compute. By default there is one for each core.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// Requests in flight. Each takes memory.
    #[arg(long, default_value_t = IN_FLIGHT)]
    in_flight: usize,
    /// List wrong lines and rank the others, instead of ending at the first.
    #[arg(long)]
    skip_rejects: bool,
    /// Print the summary as JSON.
    #[arg(long)]
    json: bool,
}

/// The highest rung of a request.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum EffortArg {
    /// The highest rung of the bundle.
    Auto,
    /// The small models only.
    Scored,
    /// The language model weighs each candidate alone.
    Weighed,
    /// The language model compares the best candidates.
    Reranked,
    /// The language model writes a thought, then compares.
    Reasoned,
}

impl RankArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = self.threads.unwrap_or(cores);
        let config = self.config(threads)?;
        let runtime = runtime(threads)?;
        // The length of a pipe is not known, so its requests are counted instead.
        let is_pipe = self.requests == Path::new("-");
        let mut progress =
            if is_pipe { TerminalProgress::new() } else { TerminalProgress::of_bytes() };
        let ranked = runtime.block_on(async {
            let (services, _) = app::open_services(&config).await?;
            let (ladder, file) = (services.live.ladder(), self.file());
            tokio::select! {
                ranked = file.rank(&ladder, &mut progress) => ranked,
                stopped = app::shutdown_signal() => {
                    stopped?;
                    bail!("interrupted: {} was not written", self.out.display())
                }
            }
        });
        progress.end();
        // What is still in flight after an error has no reader.
        runtime.shutdown_background();
        self.print(&ranked?)
    }

    /// The server's configuration, with room for the requests in flight.
    fn config(&self, threads: NonZeroUsize) -> anyhow::Result<Config> {
        let mut config = self.config.load()?;
        config.scorer.threads = threads.get();
        config.engine.threads = threads.get();
        let waiting = &mut config.scorer.slates_waiting_max;
        *waiting = self.in_flight.max(*waiting);
        let waiting = &mut config.engine.waiting_max;
        *waiting = self.in_flight.max(*waiting);
        Ok(config)
    }

    fn file(&self) -> RankFile {
        RankFile {
            requests: self.requests.clone(),
            out: self.out.clone(),
            terms: OfflineTerms {
                time: self.now,
                effort: self.effort.into(),
                timeout: self.timeout_ms.map(Duration::from_millis),
                ..OfflineTerms::now()
            },
            in_flight: self.in_flight,
            skip_rejects: self.skip_rejects,
        }
    }

    /// Prints the summary: beside the rankings, where these are on stdout.
    fn print(&self, report: &RankFileReport) -> anyhow::Result<()> {
        let mut errors = std::io::stderr().lock();
        if report.failed > 0 {
            writeln!(errors, "{}", report.list())?;
        }
        let text = if self.json {
            serde_json::to_string_pretty(report)?
        } else {
            summary(report, &self.out)
        };
        if self.out == Path::new("-") {
            return Ok(writeln!(errors, "{text}")?);
        }
        Ok(writeln!(std::io::stdout().lock(), "{text}")?)
    }
}

impl From<EffortArg> for pb::Effort {
    fn from(effort: EffortArg) -> Self {
        match effort {
            EffortArg::Auto => Self::Auto,
            EffortArg::Scored => Self::Scored,
            EffortArg::Weighed => Self::Weighed,
            EffortArg::Reranked => Self::Reranked,
            EffortArg::Reasoned => Self::Reasoned,
        }
    }
}

fn runtime(threads: NonZeroUsize) -> anyhow::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(threads.get()).enable_all().build().context("starting the runtime")
}

fn summary(report: &RankFileReport, out: &Path) -> String {
    let RankFileReport { requests, items, failed, fell_short, qualities, seconds, rejects: _ } =
        report;
    let rungs: Vec<String> =
        qualities.iter().map(|(rung, count)| format!("{count} {rung}")).collect();
    let rate = *requests as f64 / seconds.max(f64::MIN_POSITIVE);
    format!(
        "ranked {requests} requests with {items} items in {seconds:.1} s ({rate:.1} requests/s) to {}: {}; \
         {fell_short} fell short of a rung, {failed} failed",
        out.display(),
        rungs.join(", "),
    )
}
