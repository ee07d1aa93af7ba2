//! `raisonne simulate` and `raisonne import`: where shops come from.

use super::progress::TerminalProgress;
use crate::shop;
use crate::simulate;
use crate::train::ProgressObserver as _;
use clap::Args;
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr;

/// Arguments of `raisonne simulate`.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    /// Folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Seed: the same one makes the same shop.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Number of shoppers.
    #[arg(long, default_value_t = 6_000)]
    shoppers: u32,
    /// Number of products.
    #[arg(long, default_value_t = 3_000)]
    products: u32,
    /// Number of days of history.
    #[arg(long, default_value_t = 730)]
    days: u32,
}

/// A value for one table, or for both.
#[derive(Clone, Debug)]
struct OfTable<T> {
    table: Option<Table>,
    value: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Items,
    Events,
}

/// Arguments of `raisonne import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Items: item_id, title, category, attributes, price. A file, a folder of files, a quoted pattern such as
    /// 'items-*.csv', or - for the standard input.
    #[arg(long)]
    items: PathBuf,
    /// Events: user_id, item_id, time, kind. As for the items.
    #[arg(long)]
    events: PathBuf,
    /// Format of files whose names don't end in it: csv, tsv, jsonl or parquet. For one table alone, items=FORMAT or
    /// events=FORMAT.
    #[arg(long = "format", value_name = "[TABLE=]FORMAT", value_parser = of_table::<shop::TableFormat>)]
    formats: Vec<OfTable<shop::TableFormat>>,
    /// Character between the cells of CSV and TSV files, such as ';', '|' or the word tab.
    #[arg(long = "delimiter", value_name = "[TABLE=]CHARACTER", value_parser = of_table::<shop::Delimiter>)]
    delimiters: Vec<OfTable<shop::Delimiter>>,
    /// Character around cells that hold delimiters, or none if quotes are text.
    #[arg(long = "quote", value_name = "[TABLE=]CHARACTER", value_parser = of_table::<shop::Quote>)]
    quotes: Vec<OfTable<shop::Quote>>,
    /// Encoding of text files, such as windows-1252 or utf-16le.
    #[arg(long = "encoding", value_name = "[TABLE=]ENCODING", value_parser = of_table::<shop::TextEncoding>)]
    encodings: Vec<OfTable<shop::TextEncoding>>,
    /// Folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Columns of the items to import as attributes. Others are ignored, because a figure such as sales would leak
    /// the future into the past.
    #[arg(long, value_delimiter = ',')]
    attributes: Vec<String>,
    /// Name of a column in the files, such as `item_id=sku`.
    #[arg(long = "column", value_name = "OURS=THEIRS", value_parser = pair)]
    columns: Vec<(String, String)>,
    /// What bare numbers count since 1970, if it does not show by their size.
    #[arg(long, value_name = "s|ms|us|ns", value_parser = unit, conflicts_with = "time_format")]
    time_unit: Option<shop::TimeUnit>,
    /// How times are written, in letters of strptime such as `%d/%m/%Y %H:%M`; or `excel` for its days since 1900.
    #[arg(long, value_name = "FORMAT")]
    time_format: Option<String>,
    /// The zone of times that name none: a name such as `Europe/London`, or an offset such as `+01:00`. By default UTC.
    #[arg(long, value_name = "ZONE", allow_hyphen_values = true)]
    time_zone: Option<String>,
    /// Prices and quantities have a decimal comma: 6,95 and 1.234,50.
    #[arg(long)]
    decimal_comma: bool,
    /// Import the valid rows and list the others, instead of importing nothing.
    #[arg(long)]
    skip_rejects: bool,
    /// Wrong rows to list; more are only counted.
    #[arg(long, default_value_t = 20)]
    rejects_max: usize,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl SimulateArgs {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = simulate::SimulationConfig {
            seed: self.seed,
            shoppers: self.shoppers,
            products: self.products,
            days: self.days,
            ..simulate::SimulationConfig::default()
        };
        let mut progress = TerminalProgress::new();
        let summary = simulate::simulate(&config, &self.out, &mut |done, of| {
            progress.show("simulating", done, of);
        })?;
        progress.end();
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &summary)?;
        writeln!(out, "\nwritten to {}", self.out.display())?;
        Ok(())
    }
}

impl ImportArgs {
    /// How the files of a table are written.
    fn file_spec(&self, table: Table) -> shop::FileSpec {
        shop::FileSpec {
            format: stated(&self.formats, table),
            delimiter: stated(&self.delimiters, table),
            quote: stated(&self.quotes, table),
            encoding: stated(&self.encodings, table),
        }
    }

    pub(super) fn run(self) -> anyhow::Result<()> {
        let (as_json, out) = (self.json, self.out.clone());
        let imported = self.import()?;
        let mut to = std::io::stdout().lock();
        let report = match &imported {
            Ok(report) => Some(report),
            Err(error) => error.report(),
        };
        let refused = imported.as_ref().err().map(refusal);
        if as_json {
            write_json(&mut to, report, refused.as_deref())?;
        } else if let Some(report) = report {
            write!(to, "{report}")?;
        }
        match refused {
            Some(refused) => anyhow::bail!(refused),
            None if as_json => Ok(()),
            None => Ok(writeln!(to, "\nwritten to {}", out.display())?),
        }
    }

    fn import(self) -> anyhow::Result<Result<shop::ImportReport, shop::ImportError>> {
        let (format, zone) = (self.time_format.as_deref(), self.time_zone.as_deref());
        let time = shop::TimeOptions::new(self.time_unit, format, zone)?;
        let decimal =
            if self.decimal_comma { shop::DecimalMark::Comma } else { shop::DecimalMark::Point };
        let spec = shop::ImportSpec {
            items_spec: self.file_spec(Table::Items),
            events_spec: self.file_spec(Table::Events),
            items: self.items,
            events: self.events,
            attributes: self.attributes,
            columns: self.columns,
            skip_rejects: self.skip_rejects,
            rejects_max: self.rejects_max,
            now: now()?,
            time,
            decimal,
        };
        let mut progress = TerminalProgress::of_bytes();
        let imported =
            shop::import(&spec, &self.out, &mut |done, of| progress.show("importing", done, of));
        progress.end();
        Ok(imported)
    }
}

/// The last value for a table.
fn stated<T: Copy>(values: &[OfTable<T>], table: Table) -> Option<T> {
    let own = |of: &&OfTable<T>| of.table.is_none_or(|named| named == table);
    values.iter().rfind(own).map(|of| of.value)
}

fn of_table<T: FromStr<Err = String>>(text: &str) -> Result<OfTable<T>, String> {
    let items = text.strip_prefix("items=").map(|value| (Some(Table::Items), value));
    let events = || text.strip_prefix("events=").map(|value| (Some(Table::Events), value));
    let (table, value) = items.or_else(events).unwrap_or((None, text));
    Ok(OfTable { table, value: value.parse()? })
}

/// The error without the wrong rows, which the page lists by reason.
fn refusal(error: &shop::ImportError) -> String {
    let text = error.to_string();
    match error {
        shop::ImportError::Rejected(_) => text.lines().next().unwrap_or_default().to_owned(),
        _ => text,
    }
}

/// Writes the report, as far as there is one, and the error.
fn write_json(
    to: &mut impl std::io::Write,
    report: Option<&shop::ImportReport>,
    refused: Option<&str>,
) -> anyhow::Result<()> {
    let mut json = match report {
        Some(report) => serde_json::to_value(report)?,
        None => json!({ "imported": false }),
    };
    if let Some(refused) = refused {
        json["error"] = refused.into();
    }
    serde_json::to_writer_pretty(&mut *to, &json)?;
    Ok(writeln!(to)?)
}

pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    let (ours, theirs) =
        text.split_once('=').ok_or("it must be OURS=THEIRS, such as item_id=sku")?;
    Ok((ours.into(), theirs.into()))
}

pub(super) fn unit(text: &str) -> Result<shop::TimeUnit, String> {
    text.parse()
}

/// The wall clock is read here.
pub(super) fn now() -> anyhow::Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(since.as_secs() as i64)
}
