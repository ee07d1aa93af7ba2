//! How many titles a second does a text encoder read?

use crate::bundle::Part;
use crate::language::TextTokenizer;
use crate::nn::text::TextEncoder;
use crate::regular_file::{self, DATA_BYTES_MAX, Links};
use crate::scorer::{TextReader, open_pretrained};
use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use std::hint::black_box;
use std::io::Write;
use std::path::{Path, PathBuf};
use tokio::time::Instant;

/// Titles that are read one by one on one core, at most: a BERT takes milliseconds for each.
const ALONE_MAX: usize = 2_000;
/// Seconds that reading one by one takes, at most.
const ALONE_SECONDS_MAX: f64 = 10.0;

/// What `raisonne bench text` measures.
#[derive(Debug, Clone)]
pub struct TextOptions {
    /// The folder of an encoder: a pretrained one, a bundle or a workspace.
    pub encoder: PathBuf,
    /// A file with a title in each line.
    pub titles: PathBuf,
    /// Titles to read, at most.
    pub titles_max: usize,
    /// Prints JSON instead of lines.
    pub json: bool,
}

/// The measurements.
#[derive(Debug, Serialize)]
struct TextReport {
    titles: usize,
    tokens_a_title: f64,
    width: usize,
    threads: usize,
    /// All titles at once, on all threads.
    titles_per_second: f64,
    /// One after the other, on one thread.
    alone_us: f64,
}

/// Times an encoder.
pub fn text(options: &TextOptions, out: &mut dyn Write) -> Result<()> {
    let reader = open(&options.encoder)?;
    let file = regular_file::read_to_string(&options.titles, Links::Followed, DATA_BYTES_MAX)
        .with_context(|| format!("reading {}", options.titles.display()))?;
    let titles: Vec<&str> = file.lines().take(options.titles_max).collect();
    ensure!(!titles.is_empty(), "{} holds no titles", options.titles.display());
    let tokens: usize = titles.iter().map(|title| reader.tokens(title).len()).sum();
    // The first titles warm up the caches of the tokenizer and of the processor.
    black_box(reader.wides(&titles[..titles.len().min(64)]));
    let begun = Instant::now();
    black_box(reader.wides(&titles));
    let seconds = begun.elapsed().as_secs_f64();
    let report = TextReport {
        titles: titles.len(),
        tokens_a_title: tokens as f64 / titles.len() as f64,
        width: reader.width(),
        threads: rayon::current_num_threads(),
        titles_per_second: titles.len() as f64 / seconds,
        alone_us: alone_us(&reader, &titles)?,
    };
    if options.json {
        return Ok(writeln!(out, "{}", serde_json::to_string(&report)?)?);
    }
    report.print(out)
}

/// An encoder of its own folder, or that of a bundle or a workspace.
fn open(folder: &Path) -> Result<TextReader> {
    let part = |part: Part| folder.join(part.file());
    if !part(Part::Text).is_file() {
        return Ok(open_pretrained(folder)?);
    }
    let tokens = TextTokenizer::load(&part(Part::Tokenizer))?;
    let encoder = TextEncoder::load(&part(Part::Text), &part(Part::TextBert))?;
    Ok(TextReader::new(tokens, encoder)?)
}

/// Microseconds of a title that is read alone, on a thread that no other helps.
fn alone_us(reader: &TextReader, titles: &[&str]) -> Result<f64> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    pool.install(|| {
        let begun = Instant::now();
        let mut read = 0;
        for title in titles.iter().take(ALONE_MAX) {
            black_box(reader.wide(title));
            read += 1;
            if begun.elapsed().as_secs_f64() > ALONE_SECONDS_MAX {
                break;
            }
        }
        Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(read))
    })
}

// === impl TextReport ===

impl TextReport {
    fn print(&self, out: &mut dyn Write) -> Result<()> {
        write!(out, "{} titles of {:.1} tokens, ", self.titles, self.tokens_a_title)?;
        writeln!(out, "{} numbers a vector", self.width)?;
        writeln!(out, "{:.0} titles/s on {} threads", self.titles_per_second, self.threads)?;
        Ok(writeln!(out, "{:.1} us a title alone on one core", self.alone_us)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_folder_is_timed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let home = tempfile::tempdir().unwrap();
        let titles = home.path().join("titles.txt");
        std::fs::write(&titles, "red walnut box\ncake stand\n\nmug\n").unwrap();
        for (encoder, width) in [
            ("tests/fixtures/text/bert_mean", 32),
            ("tests/fixtures/text/static_table", 24),
            ("models/demo", 64),
        ] {
            let mut options = TextOptions {
                encoder: root.join(encoder),
                titles: titles.clone(),
                titles_max: 3,
                json: true,
            };
            let mut printed = Vec::new();
            text(&options, &mut printed).unwrap();
            let report: serde_json::Value = serde_json::from_slice(&printed).unwrap();
            assert_eq!(
                (report["titles"].as_u64(), report["width"].as_u64()),
                (Some(3), Some(width))
            );
            options.json = false;
            text(&options, &mut printed).unwrap();
            assert!(String::from_utf8(printed).unwrap().contains("titles/s"));
        }
        std::fs::write(&titles, "").unwrap();
        let encoder = root.join("models/demo");
        let options = TextOptions { encoder, titles, titles_max: 3, json: true };
        let error = text(&options, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("holds no titles"), "{error}");
    }
}
