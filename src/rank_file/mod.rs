//! What would the server answer to a file of requests?
//!
//! The ladder, the decoding and the conversion are those of the server (`api/offline.rs`), so the answers are equal bit by
//! bit. Requests are read, ranked and written as a stream: so many are in flight, and the answers come in the order of the
//! requests.

mod rankings;
mod requests;
mod table;

use crate::api::{ApiError, OfflineAnswer, OfflineRequest, OfflineTerms};
use crate::rank::Ladder;
use crate::train::ProgressObserver;
use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use rankings::{RankingsFile, STDOUT};
use requests::{RequestLine, RequestLines, STDIN};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Requests in flight, unless the user says otherwise.
pub const IN_FLIGHT: usize = 32;
/// Requests in flight, at most.
pub const IN_FLIGHT_MAX: usize = 1_024;
/// Refused lines that are listed. More are only counted.
pub const REJECTS_LISTED_MAX: usize = 100;

/// A file of requests, and the file of their rankings.
#[derive(Clone, Debug)]
pub struct RankFile {
    /// JSON Lines of requests, plain or compressed with zstd or gzip; `-` for stdin.
    pub requests: PathBuf,
    /// The file of rankings: JSON Lines or Parquet by its name; `-` for JSON Lines on stdout.
    pub out: PathBuf,
    /// What holds for every request.
    pub terms: OfflineTerms,
    /// Requests in flight.
    pub in_flight: usize,
    /// Whether wrong lines are listed and left out, instead of ending the run.
    pub skip_rejects: bool,
}

/// What was ranked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RankFileReport {
    /// Requests that were ranked.
    pub requests: u64,
    /// Items of their rankings.
    pub items: u64,
    /// Lines that were refused.
    pub failed: u64,
    /// Requests of which a rung fell short.
    pub fell_short: u64,
    /// Requests by the rung that they reached.
    pub qualities: BTreeMap<String, u64>,
    /// Seconds that it took.
    pub seconds: f64,
    /// The first refused lines: file, line and field.
    pub rejects: Vec<String>,
}

/// A line that was answered, or refused.
struct AnsweredLine {
    number: u64,
    answer: Result<OfflineAnswer, String>,
}

// === impl RankFile ===

impl RankFile {
    /// Ranks the requests. Nothing has the name of the file of rankings before it is whole.
    pub async fn rank(
        &self,
        ladder: &Arc<Ladder>,
        progress: &mut dyn ProgressObserver,
    ) -> anyhow::Result<RankFileReport> {
        self.check()?;
        let begun = Instant::now();
        let lines = RequestLines::open(&self.requests)?;
        let mut out = RankingsFile::create(&self.out)?;
        let (name, bytes, read) = (lines.name.clone(), lines.bytes, lines.lines.read.clone());
        let lines = ReceiverStream::new(lines.read_ahead(self.in_flight)?);
        let answers = lines.map(|line| answer(line, ladder.clone(), self.terms));
        let mut answers = answers.buffered(self.in_flight);
        let mut report = RankFileReport::default();
        while let Some(line) = answers.next().await {
            let AnsweredLine { number, answer } = line?;
            match answer {
                Ok(answer) => {
                    out.write(&answer)
                        .with_context(|| format!("writing {}", self.out.display()))?;
                    report.add(&answer);
                }
                Err(why) if self.skip_rejects => report.reject(format!("{name}:{number}: {why}")),
                Err(why) => bail!("{name}:{number}: {why} ({})", self.hint()),
            }
            let done = report.requests + report.failed;
            let (step, of) =
                if bytes == 0 { (done, done) } else { (read.load(Ordering::Relaxed), bytes) };
            progress.show("ranking", step.min(of), of);
        }
        ensure!(
            report.requests + report.failed > 0,
            "{name} holds no request: nothing was written"
        );
        ensure!(
            report.requests > 0,
            "{}: no line is a valid request, so nothing was written",
            report.list()
        );
        out.finish().with_context(|| format!("writing {}", self.out.display()))?;
        report.seconds = begun.elapsed().as_secs_f64();
        Ok(report)
    }

    /// How to go on after a wrong line.
    fn hint(&self) -> &'static str {
        if self.out == Path::new(STDOUT) {
            return "only the lines before it were ranked; `--skip-rejects` lists wrong lines and ranks the others";
        }
        "nothing was written; `--skip-rejects` lists wrong lines and ranks the others"
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=IN_FLIGHT_MAX).contains(&self.in_flight),
            "{} requests in flight: 1 to {IN_FLIGHT_MAX} are allowed",
            self.in_flight
        );
        let real =
            |path: &Path| (path != Path::new(STDIN)).then(|| path.canonicalize().ok()).flatten();
        let same = real(&self.requests).is_some_and(|requests| Some(requests) == real(&self.out));
        ensure!(
            !same,
            "{} holds the requests: name another file for the rankings",
            self.out.display()
        );
        Ok(())
    }
}

/// Answers a line on a task of its own, so that lines are decoded and ranked in parallel.
async fn answer(
    line: anyhow::Result<RequestLine>,
    ladder: Arc<Ladder>,
    terms: OfflineTerms,
) -> anyhow::Result<AnsweredLine> {
    let RequestLine { number, text } = line?;
    let answering = async move {
        let text = text?;
        let request = OfflineRequest::decode(&text).map_err(|error| refused(&error, &text))?;
        request.answer(ladder, terms, number).await.map_err(|error| error.to_string())
    };
    let answer = tokio::spawn(answering).await;
    Ok(AnsweredLine { number, answer: answer.context("ranking was broken off by a bug")? })
}

/// Why a line can't be decoded. The text is one line, so only columns say where.
fn refused(error: &ApiError, text: &[u8]) -> String {
    let why = error.to_string().replace(" at line 1 column", ", column");
    let is_list = text.trim_ascii().starts_with(b"[");
    let hint = "; write one request on each line, as `jq -c '.[]'` does with a list of them";
    format!("{why}{}", if is_list { hint } else { "" })
}

// === impl RankFileReport ===

impl RankFileReport {
    fn add(&mut self, answer: &OfflineAnswer) {
        let response = &answer.response;
        self.requests += 1;
        self.items += response.results.len() as u64;
        self.fell_short += u64::from(!response.shortfalls.is_empty());
        *self.qualities.entry(table::quality_word(response.quality)).or_default() += 1;
    }

    fn reject(&mut self, why: String) {
        self.failed += 1;
        if self.rejects.len() < REJECTS_LISTED_MAX {
            self.rejects.push(why);
        }
    }

    /// The refused lines, as text.
    pub fn list(&self) -> String {
        let mut lines = self.rejects.clone();
        let more = self.failed - self.rejects.len() as u64;
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        lines.join("\n")
    }
}
