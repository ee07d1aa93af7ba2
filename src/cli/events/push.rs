//! `raisonne events push`: reads a file, and sends it in batches.

use super::super::progress::TerminalProgress;
use super::super::serve::runtime;
use super::super::shop::now;
use super::sender::{PushReport, PushedEvent, Sender, SenderOptions};
use crate::api::pb;
use crate::domain::limits::EVENTS_MAX;
use crate::shop::{self, EventRow, EventRows, ImportSpec};
use crate::train::ProgressObserver as _;
use anyhow::{Context as _, bail};
use clap::Args;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// Batches that are read ahead of those that are sent.
const BATCHES_AHEAD: usize = 4;
/// Bytes of the hash that names an event without an id.
const ID_BYTES: usize = 16;

/// Arguments of `raisonne events push`.
#[derive(Args, Debug)]
pub struct PushArgs {
    /// Events: user_id, item_id, time, kind, event_id. A file, a folder of files, a quoted pattern such as 'events-*.csv',
    /// or - for the standard input.
    file: PathBuf,
    /// The server.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Events of one call.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=EVENTS_MAX as i64))]
    batch: u32,
    /// Calls in flight. With more than one, events may arrive in another order than that of the file.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    in_flight: u32,
    /// Events that are sent in a second, at most.
    #[arg(long)]
    rate: Option<f64>,
    /// How often a call is tried again while the server is full, away or shutting down.
    #[arg(long, default_value_t = 10)]
    retries: u32,
    /// Format of files whose names don't end in it: csv, tsv, jsonl or parquet.
    #[arg(long)]
    format: Option<shop::TableFormat>,
    /// Name of a column in the files, such as `item_id=sku`.
    #[arg(long = "column", value_name = "OURS=THEIRS", value_parser = super::super::shop::pair)]
    columns: Vec<(String, String)>,
    /// What bare numbers count since 1970, if it does not show by their size.
    #[arg(long, value_name = "s|ms|us|ns", value_parser = super::super::shop::unit)]
    time_unit: Option<shop::TimeUnit>,
    /// The zone of times that name none: a name such as `Europe/London`, or an offset such as `+01:00`. By default UTC.
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true)]
    time_zone: Option<String>,
    /// Wrong rows and refused events to list; more are only counted.
    #[arg(long, default_value_t = 20)]
    rejects_max: usize,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl PushArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let spec = self.spec()?;
        let (rows, report) = runtime()?.block_on(self.push(spec))?;
        let mut out = std::io::stdout().lock();
        if self.json {
            let mut json = serde_json::to_value(&report)?;
            json["rows"] = rows.rows.into();
            json["wrong_rows"] = serde_json::to_value(&rows.wrong)?;
            serde_json::to_writer_pretty(&mut out, &json)?;
            writeln!(out)?;
        } else {
            write!(out, "{report}")?;
        }
        let (wrong, refused) = (rows.wrong.total(), report.refused);
        if wrong + refused == 0 {
            return Ok(());
        }
        let mut why =
            format!("of {} rows, {wrong} are wrong and {refused} were refused", rows.rows);
        if !rows.wrong.is_empty() && !self.json {
            why = format!("{why}\n{}", rows.wrong);
        }
        bail!("{why}; correct them and push the file again")
    }

    fn spec(&self) -> anyhow::Result<ImportSpec> {
        let time = shop::TimeOptions::new(self.time_unit, None, self.time_zone.as_deref())?;
        let events_spec = shop::FileSpec { format: self.format, ..shop::FileSpec::default() };
        let spec = ImportSpec::new(PathBuf::new(), self.file.clone(), now()?);
        let (columns, rejects_max) = (self.columns.clone(), self.rejects_max);
        Ok(ImportSpec { events_spec, columns, rejects_max, time, ..spec })
    }

    /// Reads the file on a thread of its own, while its events are sent.
    async fn push(&self, spec: ImportSpec) -> anyhow::Result<(EventRows, PushReport)> {
        let options = SenderOptions {
            url: self.url.clone(),
            in_flight: self.in_flight as usize,
            rate: self.rate.filter(|rate| *rate > 0.0),
            retries: self.retries,
            refused_max: self.rejects_max,
        };
        let sender = Sender::connect(options).await?;
        let (batches, waiting) = mpsc::channel(BATCHES_AHEAD);
        let size = self.batch as usize;
        let reading = tokio::task::spawn_blocking(move || read(&spec, size, &batches));
        let report = sender.send(waiting).await?;
        let rows = reading.await.context("reading the file")??;
        Ok((rows, report))
    }
}

/// Reads the rows of a file into batches. Ends early if nobody takes them.
fn read(
    spec: &ImportSpec,
    size: usize,
    batches: &mpsc::Sender<Vec<PushedEvent>>,
) -> Result<EventRows, shop::ImportError> {
    let mut progress = TerminalProgress::of_bytes();
    let mut batch: Vec<PushedEvent> = Vec::with_capacity(size);
    let mut file: Arc<Path> = Path::new("").into();
    let mut take = |row: EventRow<'_>| {
        if *file != *row.file {
            file = row.file.into();
        }
        batch.push(PushedEvent { file: file.clone(), line: row.line, event: message(&row) });
        if batch.len() == size {
            let full = std::mem::replace(&mut batch, Vec::with_capacity(size));
            // If nobody takes it, the sender has failed, and says why.
            let _ = batches.blocking_send(full);
        }
    };
    let read = shop::read_events(spec, &mut take, &mut |done, of| {
        progress.show("pushing", done, of);
    });
    progress.end();
    if !batch.is_empty() {
        let _ = batches.blocking_send(batch);
    }
    read
}

/// The message of a row.
fn message(row: &EventRow<'_>) -> pb::ShopperEvent {
    let EventRow { user, item, time, kind, event, .. } = *row;
    pb::ShopperEvent {
        event_id: event.map_or_else(|| content_id(row), str::to_owned),
        user_id: user.to_owned(),
        item_id: item.to_owned(),
        time: Some(pbjson_types::Timestamp { seconds: time, nanos: 0 }),
        kind: pb::EventKind::from(kind).into(),
    }
}

/// The id of an event that has none: a hash of its content.
fn content_id(row: &EventRow<'_>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [row.user, row.item, row.kind.as_str()] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&row.time.to_le_bytes());
    hasher.finalize().to_hex()[..2 * ID_BYTES].to_owned()
}
