//! `raisonne simulate` and `raisonne import`: where shops come from.

use super::progress::TerminalProgress;
use crate::shop;
use crate::simulate;
use crate::train::ProgressObserver as _;
use clap::Args;
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
        let (format, zone) = (self.time_format.as_deref(), self.time_zone.as_deref());
        let time = shop::TimeOptions::new(self.time_unit, format, zone)?;
        let decimal =
            if self.decimal_comma { shop::DecimalMark::Comma } else { shop::DecimalMark::Point };
        let plan = shop::ImportSpec {
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
        let mut progress = TerminalProgress::new();
        let report =
            shop::import(&plan, &self.out, &mut |done, of| progress.show("importing", done, of));
        progress.end();
        let report = report?;
        let mut out = std::io::stdout().lock();
        if self.json {
            serde_json::to_writer_pretty(&mut out, &report)?;
            writeln!(out)?;
        } else {
            let (items, users, events) = (report.items, report.users, report.events);
            writeln!(out, "{items} items, {users} users, {events} events")?;
            for ignored in &report.ignored {
                let columns = ignored.columns.join(", ");
                writeln!(out, "ignored columns of {}: {columns}", ignored.file.display())?;
            }
            write!(out, "{}", report.rejects)?;
            writeln!(out, "written to {}", self.out.display())?;
        }
        Ok(())
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

fn pair(text: &str) -> Result<(String, String), String> {
    let (ours, theirs) = text.split_once('=').ok_or("expected OURS=THEIRS, such as item_id=sku")?;
    Ok((ours.into(), theirs.into()))
}

fn unit(text: &str) -> Result<shop::TimeUnit, String> {
    text.parse()
}

/// The wall clock is read here.
fn now() -> anyhow::Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(since.as_secs() as i64)
}
