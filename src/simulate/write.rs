//! The files of a simulated shop.
//!
//! They are written into a folder beside the final one and moved there when complete, so a shop
//! is there as a whole or not at all.

use super::catalogue::Catalogue;
use super::goods::CATEGORIES;
use super::persona::Persona;
use super::visit::Happening;
use super::words::{BRANDS, Facet};
use super::{Config, Summary};
use crate::domain::EventKind;
use anyhow::{Context, ensure};
use std::fs::{self, File};
use std::io::{BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A level of zstd that costs little more time than none.
const ZSTD_LEVEL: i32 = 3;

/// Names of the events' columns. What only the oracle knows is not among them.
pub const EVENT_COLUMNS: &str = "event_id,user_id,item_id,time,kind,quantity,price,basket";
/// Names of the oracle's columns.
pub const ORACLE_COLUMNS: &str = "event_id,preference,propensity";

/// Bytes that are gathered before they are compressed: zstd is slow on a few at a time.
const BLOCK_BYTES: usize = 128 << 10;

type Sheet = BufWriter<zstd::Encoder<'static, File>>;

/// A folder in the making.
#[derive(Debug)]
pub struct Folder {
    /// Where the files lie until they are complete; removed with all it holds if they never are.
    nursery: TempDir,
    /// Where they are to lie.
    out: PathBuf,
}

/// The events' file and the oracle's, written side by side.
pub struct Log {
    events: Sheet,
    oracle: Sheet,
    /// What was written.
    pub summary: Summary,
}

// === impl Folder ===

impl Folder {
    /// A folder that will become `out`, which must not exist.
    pub fn create(out: &Path) -> anyhow::Result<Self> {
        ensure!(!out.exists(), "{} already exists", out.display());
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let cannot = || format!("cannot write into {}", parent.display());
        fs::create_dir_all(parent).with_context(cannot)?;
        let nursery = tempfile::Builder::new()
            .prefix(".simulate-")
            .tempdir_in(parent)
            .with_context(cannot)?;
        // The temporary folder is private to its owner; the one inside has usual permissions.
        fs::create_dir(nursery.path().join("shop")).with_context(cannot)?;
        Ok(Self { nursery, out: out.to_owned() })
    }

    /// Moves the folder to its place.
    pub fn finish(self) -> anyhow::Result<()> {
        fs::rename(self.nursery.path().join("shop"), &self.out)
            .with_context(|| format!("cannot move the finished shop to {}", self.out.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.nursery.path().join("shop").join(name)
    }

    fn sheet(&self, name: &str) -> anyhow::Result<Sheet> {
        let open = || zstd::Encoder::new(File::create(self.path(name))?, ZSTD_LEVEL);
        let encoder = open().with_context(|| format!("cannot create {name}"))?;
        Ok(BufWriter::with_capacity(BLOCK_BYTES, encoder))
    }

    /// Writes `items.csv.zst`.
    pub fn write_items(&self, catalogue: &Catalogue) -> anyhow::Result<()> {
        let mut rows = csv::Writer::from_writer(self.sheet("items.csv.zst")?);
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

    /// Writes `oracle_shoppers.csv.zst`: who the shoppers truly are.
    pub fn write_shoppers(&self, config: &Config) -> anyhow::Result<()> {
        let mut rows = self.sheet("oracle_shoppers.csv.zst")?;
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
    pub fn write_summary(&self, config: &Config, summary: &Summary) -> anyhow::Result<()> {
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
    pub fn log(&self, summary: Summary) -> anyhow::Result<Log> {
        let mut log = Log {
            events: self.sheet("events.csv.zst")?,
            oracle: self.sheet("oracle.csv.zst")?,
            summary,
        };
        writeln!(log.events, "{EVENT_COLUMNS}")?;
        writeln!(log.oracle, "{ORACLE_COLUMNS}")?;
        Ok(log)
    }
}

// === impl Log ===

impl Log {
    /// Writes an event; the next must not be earlier.
    pub fn write(&mut self, happening: &Happening) -> anyhow::Result<()> {
        self.summary.events += 1;
        match happening.kind {
            EventKind::Purchase => self.summary.purchases += 1,
            EventKind::Cart => self.summary.carts += 1,
            _ => self.summary.clicks += 1,
        }
        let number = self.summary.events;
        let Happening { time, quantity, cents, preference, propensity, .. } = happening;
        write!(self.events, "E{number:09},U{:06},P{:05},", happening.shopper, happening.item)?;
        write!(self.events, "{time},{},{quantity},", happening.kind.as_str())?;
        write!(self.events, "{}.{:02},", cents / 100, cents % 100)?;
        match happening.basket {
            Some(basket) => writeln!(self.events, "B{basket:08}")?,
            None => writeln!(self.events)?,
        }
        writeln!(self.oracle, "E{number:09},{preference:.4},{propensity:.4}")?;
        Ok(())
    }

    /// Closes the files.
    pub fn finish(self) -> anyhow::Result<Summary> {
        close(self.events)?;
        close(self.oracle)?;
        Ok(self.summary)
    }
}

fn close(sheet: Sheet) -> anyhow::Result<()> {
    let encoder = sheet.into_inner().map_err(IntoInnerError::into_error)?;
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
