//! Latency and throughput of whole requests to a running server.

use super::process::cpu_s;
use crate::api::pb::rerank_service_client::RerankServiceClient;
use crate::api::pb::{Candidate, Effort, Quality, RerankRequest};
use crate::api::requests_of;
use crate::bundle::Part;
use crate::regular_file::{self, Links};
use crate::reranker::RungSpec;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

/// The options of `raisonne bench service`.
#[derive(Debug, Clone)]
pub struct ServiceOptions {
    /// A running server, such as `http://127.0.0.1:8080`.
    pub address: String,
    /// The bundle that it serves, whose sample requests are sent.
    pub bundle: PathBuf,
    /// Candidates of a slate.
    pub candidates: usize,
    /// Concurrent clients, each with one connection and one request in flight.
    pub clients: usize,
    /// The highest rung that each request climbs to.
    pub rung: &'static RungSpec,
    /// Requests in all, after one warm-up for each client and sample.
    pub requests: usize,
    /// The id of the server's process on this machine, whose processor time is measured.
    pub server: Option<u32>,
    /// Prints JSON in place of a line.
    pub json: bool,
}

/// One answered request.
#[derive(Clone, Copy, Debug)]
struct TimedAnswer {
    latency: Duration,
    compute: Duration,
    /// Whether the requested rung was reached; an answer of a lower rung costs less.
    reached: bool,
}

/// Sends requests in a closed loop, and reports their latency and the models' part of it.
pub fn service(options: &ServiceOptions, out: &mut dyn Write) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (answered, elapsed, cpu) = runtime.block_on(load(options))?;
    let rate = answered.len() as f64 / elapsed.as_secs_f64();
    let reached = answered.iter().filter(|a| a.reached).count();
    let reached = reached as f64 / answered.len().max(1) as f64;
    let [client_cpu, server_cpu] = cpu.map(|s| s.map(|s| s * 1e3 / answered.len().max(1) as f64));
    let latency = quantiles(answered.iter().map(|a| a.latency));
    let compute = quantiles(answered.iter().map(|a| a.compute));
    let over = quantiles(answered.iter().map(|a| a.latency.saturating_sub(a.compute)));
    if options.json {
        let report = json!({
            "clients": options.clients, "candidates": options.candidates,
            "requests_per_second": rate, "effort": options.rung.name(), "reached_share": reached,
            "client_cpu_ms": client_cpu, "server_cpu_ms": server_cpu,
            "latency_ms": latency, "models_ms": compute, "overhead_ms": over,
        });
        writeln!(out, "{report}")?;
    } else {
        writeln!(
            out,
            "{} clients, {} candidates: {rate:.0} requests/s, {:.1} % {}; ms at p50/p95/p99: whole {}, models {}, overhead {}",
            options.clients,
            options.candidates,
            reached * 100.0,
            options.rung.name(),
            percentiles_text(latency),
            percentiles_text(compute),
            percentiles_text(over),
        )?;
        for (process, cpu) in [("client", client_cpu), ("server", server_cpu)] {
            if let Some(cpu) = cpu {
                writeln!(out, "{process}: {cpu:.3} ms of processor time a request")?;
            }
        }
    }
    Ok(())
}

/// The answers, the elapsed time, and the processor seconds of client and server.
async fn load(options: &ServiceOptions) -> Result<(Vec<TimedAnswer>, Duration, [Option<f64>; 2])> {
    let (requests, quality) = (requests(options)?, Quality::from(options.rung.quality));
    let mut clients = Vec::new();
    for _ in 0..options.clients {
        let channel = Channel::from_shared(options.address.clone())?.connect().await;
        let channel = channel.with_context(|| format!("connecting to {}", options.address))?;
        let mut client = RerankServiceClient::new(channel);
        for request in &requests {
            client.rerank(request.clone()).await?;
        }
        clients.push(client);
    }
    let processes = [Some(std::process::id()), options.server];
    let before = processes.map(|process| cpu_s(process?));
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    let share = options.requests / options.clients.max(1);
    for (turn, mut client) in clients.into_iter().enumerate() {
        let requests = requests.clone();
        tasks.spawn(async move {
            let mut answered = Vec::with_capacity(share);
            for at in 0..share {
                let request = requests[(turn + at) % requests.len()].clone();
                let started = Instant::now();
                let answer = client.rerank(request).await?.into_inner();
                let latency = started.elapsed();
                let reached = answer.quality() == quality;
                let compute = answer.receipt.and_then(|receipt| receipt.compute);
                let compute = compute.map_or(0, |c| c.seconds * 1_000_000_000 + i64::from(c.nanos));
                let compute = Duration::from_nanos(compute as u64);
                answered.push(TimedAnswer { latency, compute, reached });
            }
            Ok::<_, anyhow::Error>(answered)
        });
    }
    let mut all = Vec::new();
    while let Some(answered) = tasks.join_next().await {
        all.extend(answered??);
    }
    let elapsed = started.elapsed();
    let mut cpu = processes.map(|process| cpu_s(process?));
    for (after, before) in cpu.iter_mut().zip(before) {
        *after = after.zip(before).map(|(after, before)| after - before);
    }
    Ok((all, elapsed, cpu))
}

/// The bundle's sample requests, each filled up with the candidates of the others.
fn requests(options: &ServiceOptions) -> Result<Vec<RerankRequest>> {
    let path = options.bundle.join(Part::Samples.file());
    let text = regular_file::read(&path, Links::Refused, Part::Samples.bytes_max())
        .with_context(|| format!("reading {}", path.display()))?;
    let samples = requests_of(&text)?;
    anyhow::ensure!(!samples.is_empty(), "the bundle has no samples");
    let others: Vec<Candidate> = samples.iter().flat_map(|s| s.candidates.clone()).collect();
    let fill = |sample: &RerankRequest| {
        let mut known = BTreeSet::new();
        let mut request = RerankRequest {
            top_n: 10,
            effort: Effort::from(options.rung.effort).into(),
            ..sample.clone()
        };
        request.candidates.extend(others.iter().cloned());
        request.candidates.retain(|candidate| known.insert(candidate.item_id.clone()));
        request.candidates.truncate(options.candidates);
        request
    };
    Ok(samples.iter().map(fill).collect())
}

/// Milliseconds at the 50th, 95th and 99th percentile.
fn quantiles(times: impl Iterator<Item = Duration>) -> [f64; 3] {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    [0.50, 0.95, 0.99].map(|share| {
        let place = (times.len() as f64 * share) as usize;
        times.get(place.min(times.len().saturating_sub(1))).map_or(0.0, |t| t.as_secs_f64() * 1e3)
    })
}

fn percentiles_text(ms: [f64; 3]) -> String {
    format!("{:.2}/{:.2}/{:.2}", ms[0], ms[1], ms[2])
}
