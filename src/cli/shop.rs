//! `raisonne simulate` and `raisonne import`: where shops come from.

use super::progress::TerminalProgress;
use crate::shop;
use crate::simulate;
use crate::train::ProgressObserver as _;
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;

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

/// Arguments of `raisonne import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// File of items: item_id, title, category, attributes, price.
    #[arg(long)]
    items: PathBuf,
    /// File of events: user_id, item_id, time, kind.
    #[arg(long)]
    events: PathBuf,
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
    pub(super) fn run(self) -> anyhow::Result<()> {
        let plan = shop::ImportSpec {
            items: self.items,
            events: self.events,
            attributes: self.attributes,
            columns: self.columns,
            skip_rejects: self.skip_rejects,
            rejects_max: self.rejects_max,
            now: now()?,
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

fn pair(text: &str) -> Result<(String, String), String> {
    let (ours, theirs) = text.split_once('=').ok_or("expected OURS=THEIRS, such as item_id=sku")?;
    Ok((ours.into(), theirs.into()))
}

/// The wall clock is read here.
fn now() -> anyhow::Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(since.as_secs() as i64)
}
