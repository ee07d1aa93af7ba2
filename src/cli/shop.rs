//! `simulate` and `import`: where shops come from.

use super::progress::Bar;
use crate::shop;
use crate::simulate;
use crate::train::ProgressObserver as _;
use clap::Args;
use std::io::Write as _;
use std::path::PathBuf;

/// Writes a small shop from a seed.
#[derive(Args, Debug)]
pub struct Simulate {
    /// The folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Everything random comes from it.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How many shoppers.
    #[arg(long, default_value_t = 6_000)]
    shoppers: u32,
    /// How many products.
    #[arg(long, default_value_t = 3_000)]
    products: u32,
    /// Over how many days.
    #[arg(long, default_value_t = 730)]
    days: u32,
}

/// Reads a shop's items and events.
#[derive(Args, Debug)]
pub struct Import {
    /// The items: id, title, category, attributes, price.
    #[arg(long)]
    items: PathBuf,
    /// The events: user, item, time, kind.
    #[arg(long)]
    events: PathBuf,
    /// The folder to write; it must not exist.
    #[arg(long)]
    out: PathBuf,
    /// Columns of the items to take as attributes (others are left out: figures such as a
    /// product's sales would carry the future into the past).
    #[arg(long, value_delimiter = ',')]
    attributes: Vec<String>,
    /// How a column of ours is called in the files, such as `item_id=sku`.
    #[arg(long = "column", value_name = "OURS=THEIRS", value_parser = pair)]
    columns: Vec<(String, String)>,
    /// Imports the good rows and says which were left out, instead of refusing all.
    #[arg(long)]
    skip_rejects: bool,
    /// Wrong rows to list; the others are counted.
    #[arg(long, default_value_t = 20)]
    rejects_max: usize,
    /// Prints the report as JSON.
    #[arg(long)]
    json: bool,
}

impl Simulate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = simulate::Config {
            seed: self.seed,
            shoppers: self.shoppers,
            products: self.products,
            days: self.days,
            ..simulate::Config::default()
        };
        let mut bar = Bar::new();
        let summary = simulate::simulate(&config, &self.out, &mut |done, of| {
            bar.show("simulating", done, of);
        })?;
        bar.end();
        let mut out = std::io::stdout().lock();
        serde_json::to_writer_pretty(&mut out, &summary)?;
        writeln!(out, "\nwritten to {}", self.out.display())?;
        Ok(())
    }
}

impl Import {
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
        let mut bar = Bar::new();
        let report =
            shop::import(&plan, &self.out, &mut |done, of| bar.show("importing", done, of));
        bar.end();
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
                writeln!(out, "not read in {}: {columns}", ignored.file.display())?;
            }
            write!(out, "{}", report.rejects)?;
            writeln!(out, "written to {}", self.out.display())?;
        }
        Ok(())
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (ours, theirs) = text.split_once('=').ok_or("write it as OURS=THEIRS")?;
    Ok((ours.into(), theirs.into()))
}

/// Wall time enters here.
fn now() -> anyhow::Result<i64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(since.as_secs() as i64)
}
