//! The files of a simulated shop.
//!
//! They are written into a folder beside the final one, which is renamed when it is complete. So a shop
//! is written whole or not at all.

use super::catalogue::SimCatalogue;
use super::goods::CATEGORIES;
use super::persona::Persona;
use super::visit::SimEvent;
use super::words::{BRANDS, Facet};
use super::{SimulationConfig, SimulationSummary};
use crate::domain::EventKind;
use anyhow::{Context, ensure};
use std::fs::{self, File};
use std::io::{BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A level of zstd that takes little time.
const ZSTD_LEVEL: i32 = 3;

/// The columns of the events. Those of the oracle are not among them.
pub const EVENT_COLUMNS: &str = "event_id,user_id,item_id,time,kind,quantity,price,basket";
/// The columns of the oracle.
pub const ORACLE_COLUMNS: &str = "event_id,preference,propensity";

/// Bytes that are buffered before they are compressed: zstd is slow on small blocks.
const BLOCK_BYTES: usize = 128 << 10;

type CsvFile = BufWriter<zstd::Encoder<'static, File>>;

/// A folder that is being written.
#[derive(Debug)]
pub struct OutputFolder {
    /// The folder of the files until they are complete. It is removed if they never are.
    staging: TempDir,
    /// The final folder.
    out: PathBuf,
}

/// The events' file and the oracle's.
pub struct EventLog {
    events: CsvFile,
    oracle: CsvFile,
    /// The counts so far.
    pub summary: SimulationSummary,
}

// === impl OutputFolder ===

impl OutputFolder {
    /// A folder that will become `out`, which must not exist.
    pub fn create(out: &Path) -> anyhow::Result<Self> {
        ensure!(
            !out.exists(),
            "{} exists already: remove it, or name another folder",
            out.display()
        );
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let cannot = || format!("cannot write into {}", parent.display());
        fs::create_dir_all(parent).with_context(cannot)?;
        let staging = tempfile::Builder::new()
            .prefix(".simulate-")
            .tempdir_in(parent)
            .with_context(cannot)?;
        // The temporary folder is private to its owner; the one inside has usual permissions.
        fs::create_dir(staging.path().join("shop")).with_context(cannot)?;
        Ok(Self { staging, out: out.to_owned() })
    }

    /// Renames the folder to the final one.
    pub fn finish(self) -> anyhow::Result<()> {
        fs::rename(self.staging.path().join("shop"), &self.out)
            .with_context(|| format!("cannot move the finished shop to {}", self.out.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.staging.path().join("shop").join(name)
    }

    fn csv_file(&self, name: &str) -> anyhow::Result<CsvFile> {
        let open = || zstd::Encoder::new(File::create(self.path(name))?, ZSTD_LEVEL);
        let encoder = open().with_context(|| format!("cannot create {name}"))?;
        Ok(BufWriter::with_capacity(BLOCK_BYTES, encoder))
    }

    /// Writes `items.csv.zst`.
    pub fn write_items(&self, catalogue: &SimCatalogue) -> anyhow::Result<()> {
        let mut rows = csv::Writer::from_writer(self.csv_file("items.csv.zst")?);
        rows.write_record(
            "item_id,title,category,price,description,color,material,style,occasion,season,brand,\
             brand_tier,product_type"
                .split(','),
        )?;
        for (number, item) in catalogue.items.iter().enumerate() {
            let word = |facet: Facet| facet.value(item.facets[facet as usize]);
            rows.write_record([
                &item_id(number as u32),
                &item.title,
                CATEGORIES[usize::from(item.category)].name,
                &price(item.cents),
                &item.description,
                word(Facet::Color),
                word(Facet::Material),
                word(Facet::Style),
                word(Facet::Occasion),
                item.season.word(),
                word(Facet::Brand),
                BRANDS[usize::from(item.facets[Facet::Brand as usize])].1.word(),
                catalogue.kinds[usize::from(item.kind)].kind.name,
            ])?;
        }
        close(rows.into_inner()?)
    }

    /// Writes `oracle_shoppers.csv.zst`: the shoppers' personas.
    pub fn write_shoppers(&self, config: &SimulationConfig) -> anyhow::Result<()> {
        let mut rows = self.csv_file("oracle_shoppers.csv.zst")?;
        writeln!(
            rows,
            "user_id,joined_day,visits_per_day,means,thrift,pace,curiosity,interests,leanings,life"
        )?;
        for shopper in 0..config.shoppers {
            let persona = Persona::draw(config, shopper);
            write!(rows, "{},{},", user_id(shopper), persona.joined)?;
            write!(rows, "{:.5},{:.3},", persona.visits_per_day, persona.means)?;
            write!(rows, "{:.3},{:.3},", persona.thrift, persona.pace)?;
            writeln!(rows, "{:.3},{}", persona.curiosity, latent(&persona))?;
        }
        close(rows)
    }

    /// Writes `shop.json`.
    pub fn write_summary(
        &self,
        config: &SimulationConfig,
        summary: &SimulationSummary,
    ) -> anyhow::Result<()> {
        let about = serde_json::json!({
            "simulated": true,
            "seed": config.seed,
            "config": config,
            "counts": summary,
        });
        let mut text = serde_json::to_string_pretty(&about)?;
        text.push('\n');
        fs::write(self.path("shop.json"), text).context("cannot write shop.json")
    }

    /// Opens `events.csv.zst` and `oracle.csv.zst`.
    pub fn log(&self, summary: SimulationSummary) -> anyhow::Result<EventLog> {
        let mut log = EventLog {
            events: self.csv_file("events.csv.zst")?,
            oracle: self.csv_file("oracle.csv.zst")?,
            summary,
        };
        writeln!(log.events, "{EVENT_COLUMNS}")?;
        writeln!(log.oracle, "{ORACLE_COLUMNS}")?;
        Ok(log)
    }
}

// === impl EventLog ===

impl EventLog {
    /// Writes an event. Events must come in time order.
    pub fn write(&mut self, event: &SimEvent) -> anyhow::Result<()> {
        self.summary.events += 1;
        match event.kind {
            EventKind::Purchase => self.summary.purchases += 1,
            EventKind::Cart => self.summary.carts += 1,
            _ => self.summary.clicks += 1,
        }
        let number = self.summary.events;
        let SimEvent { time, quantity, cents, preference, propensity, .. } = event;
        write!(self.events, "E{number:09},U{:06},P{:05},", event.shopper, event.item)?;
        write!(self.events, "{time},{},{quantity},", event.kind.as_str())?;
        write!(self.events, "{}.{:02},", cents / 100, cents % 100)?;
        match event.basket {
            Some(basket) => writeln!(self.events, "B{basket:08}")?,
            None => writeln!(self.events)?,
        }
        writeln!(self.oracle, "E{number:09},{preference:.4},{propensity:.4}")?;
        Ok(())
    }

    /// Closes the files.
    pub fn finish(self) -> anyhow::Result<SimulationSummary> {
        close(self.events)?;
        close(self.oracle)?;
        Ok(self.summary)
    }
}

fn close(file: CsvFile) -> anyhow::Result<()> {
    let encoder = file.into_inner().map_err(IntoInnerError::into_error)?;
    encoder.finish().context("cannot finish a file")?;
    Ok(())
}

fn item_id(number: u32) -> String {
    format!("P{number:05}")
}

fn user_id(number: u32) -> String {
    format!("U{number:06}")
}

fn price(cents: u32) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

/// Interests, leanings and life events, as three columns of `name=value|…`.
fn latent(persona: &Persona) -> String {
    let interests = CATEGORIES.iter().zip(persona.interests);
    let interests = interests.map(|(category, gain)| format!("{}={gain:.2}", category.name));
    let leanings = persona.leanings.iter().map(|leaning| {
        let word = match leaning.facet.value(leaning.value) {
            "" => "none",
            word => word,
        };
        format!("{}:{word}={:.2}>{:.2}", leaning.facet.word(), leaning.first, leaning.last)
    });
    let life = persona.life.iter().map(|(event, day)| format!("{}@{day}", event.name));
    [interests.collect::<Vec<_>>(), leanings.collect(), life.collect()]
        .map(|names| names.join("|"))
        .join(",")
}
