//! `raisonne demo`: serves the demo bundle and shows what it does.

use super::serve::{ConfigArgs, runtime};
use super::shopping::{Shopping, TREND_AFTER};
use crate::api::pb::rerank_service_client::RerankServiceClient;
use crate::api::pb::{
    Explain, Quality, RerankRequest, RerankResponse, Source, StreamRerankRequest,
};
use crate::api::requests_of;
use crate::app::{self, App};
use crate::bundle::{Catalog, Part};
use crate::config::Config;
use crate::regular_file::{self, Links};
use crate::reranker::{RUNGS, RungSpec};
use crate::scorer::OpenedScorer;
use anyhow::Context as _;
use clap::Args;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::Instant;
use toml::Table;
use tonic::transport::Channel;

/// Where the demo listens, if nothing else is configured.
const LISTEN_DEFAULT: &str = "127.0.0.1:8080";
/// Requests that the demo sends itself and prints.
const REQUESTS_SHOWN: usize = 4;
/// Candidates of the given order that are printed.
const CANDIDATES_SHOWN: usize = 5;
/// Items of a history that are printed.
const HISTORY_SHOWN: usize = 4;
/// Requests before those that are timed, because connections and caches are made on first use.
const WARM_UPS: usize = 3;

/// Deadline of a request: long enough for the whole climb on a slow machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Arguments of `raisonne demo`.
#[derive(Args, Debug)]
pub struct DemoArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on; overrides the configuration, whose default is 127.0.0.1:8080 here.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Exit after the requests, instead of serving on.
    #[arg(long)]
    once: bool,
    /// Let simulated shoppers go on shopping while the demo serves, until a product begins to trend.
    #[arg(long, conflicts_with = "once")]
    shopping: bool,
}

impl DemoArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        runtime()?.block_on(self.show())
    }

    async fn show(self) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut config = self.config.load_over(demo_defaults())?;
        config.api.listen = self.listen.unwrap_or(config.api.listen);
        // Dropped last: it removes the folder.
        let home = if self.once { None } else { Some(temporary_store(&mut config)?) };
        let (mut services, opened) = app::open_services(&config).await?;
        let samples = samples(&config.bundle.path)?;
        services.samples = Some(serde_json::to_value(&samples)?);
        let app = App::start(&config.api, services).await?;
        let endpoint = format!("http://{}", app.address());
        let channel = Channel::from_shared(endpoint.clone())?.connect().await?;
        let mut client = RerankServiceClient::new(channel);
        let mut out = std::io::stdout();
        writeln!(
            out,
            "Raisonné re-ranks slates of a simulated shop: {} products, {} shoppers, none of them real.",
            opened.model.catalog.len(),
            opened.model.cards.users.len(),
        )?;
        for sample in samples.iter().cycle().take(WARM_UPS) {
            climb(&mut client, sample).await?;
        }
        for (number, sample) in samples.iter().take(REQUESTS_SHOWN).enumerate() {
            let climb = climb(&mut client, sample).await?;
            print_climb(&mut out, &opened, sample, &climb)?;
            if number == 0 {
                let since = start.elapsed().as_secs_f64();
                writeln!(out, "  (the first answer came {since:.2} s after the start)")?;
            }
        }
        if self.once {
            return Ok(app.stop().await?);
        }
        let mut shoppers = JoinSet::new();
        if self.shopping {
            let users = opened.model.cards.users.keys().map(ToString::to_string);
            let shopping = Shopping::prepare(client.clone(), &samples, users).await?;
            print_shopping(&mut out, &opened, &shopping, &endpoint)?;
            shoppers.spawn(shopping.run());
        }
        writeln!(out, "\nServing until Ctrl-C:")?;
        writeln!(out, "  gRPC     {} (raisonne.v1.RerankService, with reflection)", app.address())?;
        writeln!(out, "  HTTP     POST {endpoint}/api/v1/rerank")?;
        writeln!(out, "  events   POST {endpoint}/api/v1/events, and new items to /api/v1/items")?;
        writeln!(out, "  samples  GET  {endpoint}/api/v1/samples")?;
        writeln!(out, "  metrics  GET  {endpoint}/metrics")?;
        writeln!(
            out,
            "Try: curl -s {endpoint}/api/v1/samples | jq '.[0]' | curl -s {endpoint}/api/v1/rerank -d @-"
        )?;
        app::shutdown_signal().await?;
        shoppers.shutdown().await;
        let stopped = app.stop().await;
        drop(home);
        Ok(stopped?)
    }
}

/// Names a store in a new temporary folder, unless one is configured: a demo that serves on takes events.
fn temporary_store(config: &mut Config) -> anyhow::Result<TempDir> {
    let home = tempfile::tempdir().context("creating a folder for the store")?;
    config.store.path.get_or_insert_with(|| home.path().join("facts.redb"));
    Ok(home)
}

fn print_shopping(
    out: &mut impl Write,
    opened: &OpenedScorer,
    shopping: &Shopping,
    endpoint: &str,
) -> anyhow::Result<()> {
    let trending = shopping.trending();
    let (title, after) = (title(&opened.model.catalog, trending), TREND_AFTER.as_secs());
    writeln!(out, "\nShoppers go on shopping. In {after} s, {trending} begins to trend: {title}")?;
    writeln!(
        out,
        "Watch its rank: curl -s {endpoint}/api/v1/samples | jq '.[0] + {{topN: 0, effort: \"EFFORT_SCORED\"}}' \
         | curl -s {endpoint}/api/v1/rerank -d @- \
         | jq '.results[] | select(.itemId == \"{trending}\") | {{rank, reasons: [.reasons[].text]}}'"
    )?;
    Ok(())
}

/// The defaults that differ from those of `serve`: this machine only, and the demo bundle.
fn demo_defaults() -> Table {
    let section = |key: &str, value: String| Table::from_iter([(key.to_owned(), value.into())]);
    let bundle = demo_bundle().display().to_string();
    Table::from_iter([
        ("api".to_owned(), section("listen", LISTEN_DEFAULT.to_owned()).into()),
        ("bundle".to_owned(), section("path", bundle).into()),
    ])
}

/// The demo bundle: below the working directory, or where this program was built.
fn demo_bundle() -> PathBuf {
    let here = PathBuf::from("models/demo");
    if here.exists() { here } else { Path::new(env!("CARGO_MANIFEST_DIR")).join(here) }
}

fn samples(bundle: &Path) -> anyhow::Result<Vec<RerankRequest>> {
    let path = bundle.join(Part::Samples.file());
    let text = regular_file::read(&path, Links::Refused, Part::Samples.bytes_max())
        .with_context(|| format!("reading {}", path.display()))?;
    requests_of(&text).with_context(|| format!("reading {}", path.display()))
}

/// The stream that answered a request.
#[derive(Default)]
struct ReceivedClimb {
    /// The last ranking.
    answer: RerankResponse,
    /// Each rung that was reached, and when.
    steps: Vec<(Quality, Duration)>,
    /// The thought of the language model.
    thought: String,
}

async fn climb(
    client: &mut RerankServiceClient<Channel>,
    sample: &RerankRequest,
) -> anyhow::Result<ReceivedClimb> {
    let live = RerankRequest { explain: Explain::Live.into(), ..sample.clone() };
    let mut request = tonic::Request::new(StreamRerankRequest { request: Some(live) });
    request.set_timeout(TIMEOUT);
    let start = Instant::now();
    let mut stream = client.stream_rerank(request).await?.into_inner();
    let mut climb = ReceivedClimb::default();
    while let Some(step) = stream.message().await? {
        climb.thought.push_str(&step.thought);
        let Some(answer) = step.ranking else { continue };
        if climb.steps.last().is_none_or(|(quality, _)| *quality != answer.quality()) {
            climb.steps.push((answer.quality(), start.elapsed()));
        }
        climb.answer = answer;
    }
    Ok(climb)
}

fn print_climb(
    out: &mut impl Write,
    opened: &OpenedScorer,
    sample: &RerankRequest,
    climb: &ReceivedClimb,
) -> anyhow::Result<()> {
    let ReceivedClimb { answer, steps, thought } = climb;
    let catalog = &opened.model.catalog;
    let user = sample.user.as_ref().map(|user| user.user_id.as_str()).unwrap_or_default();
    writeln!(out, "\nShopper {user} bought, latest first:")?;
    if let Some(card) = opened.model.cards.users.get(&user.into()) {
        for past in card.history.iter().rev().take(HISTORY_SHOWN) {
            writeln!(out, "      {}", catalog.item(past.item).title)?;
        }
    }
    writeln!(out, "  The shop would show {} items, first of all:", sample.candidates.len())?;
    for (position, candidate) in sample.candidates.iter().take(CANDIDATES_SHOWN).enumerate() {
        writeln!(out, "  {:>3}. {}", position + 1, title(catalog, &candidate.item_id))?;
    }
    let step = |(quality, took): &(Quality, Duration)| {
        format!("{} in {:.1} ms", rung_name(*quality), took.as_secs_f64() * 1e3)
    };
    let steps = steps.iter().map(step).collect::<Vec<_>>().join(", ");
    if !thought.is_empty() {
        let verdict = if answer.rationale.is_empty() { "not proved" } else { "proved" };
        writeln!(out, "  The language model thought:{thought} ({verdict})")?;
    }
    writeln!(out, "  Raisonné shows ({steps}, over gRPC):")?;
    for result in &answer.results {
        let (rank, was) = (result.rank, result.input_rank);
        writeln!(out, "  {rank:>3}. {} (was {was})", title(catalog, &result.item_id))?;
        for reason in &result.reasons {
            writeln!(out, "         – {}{}", reason.text, author(reason.source()))?;
        }
    }
    Ok(())
}

/// Who wrote a reason, if it was not the evidence writer.
fn author(source: Source) -> &'static str {
    match source {
        Source::Unspecified | Source::Evidence => "",
        Source::Cached => " (the language model's words)",
        Source::Live => " (the language model, just now)",
    }
}

/// The name of the rung that reached this quality.
fn rung_name(quality: Quality) -> &'static str {
    let rung = RUNGS.iter().find(|rung| Quality::from(rung.quality) == quality);
    rung.map_or("as given", RungSpec::name)
}

fn title<'a>(catalog: &'a Catalog, id: &'a str) -> &'a str {
    catalog.number(&id.into()).map_or(id, |number| &catalog.item(number).title)
}
