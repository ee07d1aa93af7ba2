//! The file of rankings: JSON Lines or Parquet by its name, written aside and renamed at the end.

use super::table::RankingTable;
use crate::api::{OfflineAnswer, pb};
use crate::train::aside_file::AsideFile;
use anyhow::{Context as _, bail};
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The name of stdout.
pub(super) const STDOUT: &str = "-";
/// The zstd level of compressed JSON Lines.
const ZSTD_LEVEL: i32 = 3;

/// A file of rankings that is being written.
pub(super) struct RankingsFile {
    /// None for stdout.
    aside: Option<AsideFile>,
    writer: RankingsWriter,
}

enum RankingsWriter {
    Stdout(io::Stdout),
    Lines(BufWriter<File>),
    PackedLines(BufWriter<zstd::Encoder<'static, File>>),
    Table(Box<RankingTable>),
}

/// A line: an answer as a call gets it, and whom it is for.
#[derive(Serialize)]
struct RankingLine<'a> {
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<pbjson_types::Timestamp>,
    #[serde(flatten)]
    response: &'a pb::RerankResponse,
}

// === impl RankingsFile ===

impl RankingsFile {
    /// Begins a file. Its name gives its format. Until it is finished, there is no file of that name.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new(STDOUT) {
            return Ok(Self { aside: None, writer: RankingsWriter::Stdout(io::stdout()) });
        }
        let writing = || format!("writing {}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let open: fn(File) -> anyhow::Result<RankingsWriter> = match ending(&name) {
            ("jsonl" | "ndjson", false) => |file| Ok(RankingsWriter::Lines(BufWriter::new(file))),
            ("jsonl" | "ndjson", true) => |file| {
                let packed = zstd::Encoder::new(file, ZSTD_LEVEL)?;
                Ok(RankingsWriter::PackedLines(BufWriter::new(packed)))
            },
            ("parquet", false) => {
                |file| Ok(RankingsWriter::Table(Box::new(RankingTable::new(file)?)))
            }
            _ => bail!(
                "{} is no kind of file that rankings are written to: its name must end in .jsonl, .ndjson (then \
                 perhaps .zst) or .parquet, or be - for stdout",
                path.display()
            ),
        };
        let aside = AsideFile::create(path).with_context(writing)?;
        let writer = open(aside.handle().with_context(writing)?).with_context(writing)?;
        Ok(Self { aside: Some(aside), writer })
    }

    /// Writes the ranking of one request.
    pub(super) fn write(&mut self, answer: &OfflineAnswer) -> anyhow::Result<()> {
        match &mut self.writer {
            // Whoever reads a pipe may wait for this answer.
            RankingsWriter::Stdout(out) => {
                let mut out = out.lock();
                write_line(&mut out, answer)?;
                out.flush()?;
            }
            RankingsWriter::Lines(out) => write_line(out, answer)?,
            RankingsWriter::PackedLines(out) => write_line(out, answer)?,
            RankingsWriter::Table(table) => table.write(answer)?,
        }
        Ok(())
    }

    /// Completes the file, and gives it its name.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self.writer {
            RankingsWriter::Stdout(out) => out.lock().flush()?,
            RankingsWriter::Lines(mut out) => out.flush()?,
            RankingsWriter::PackedLines(out) => {
                out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()?;
            }
            RankingsWriter::Table(table) => table.finish()?,
        }
        self.aside.map_or(Ok(()), AsideFile::publish)?;
        Ok(())
    }
}

/// The ending of a name without that of its compression, and whether it names one.
fn ending(name: &str) -> (&str, bool) {
    let packed = [".zst", ".zstd"].iter().find_map(|ending| name.strip_suffix(ending));
    let stem = packed.unwrap_or(name);
    (stem.rsplit_once('.').map_or("", |(_, ending)| ending), packed.is_some())
}

fn write_line(out: &mut impl Write, answer: &OfflineAnswer) -> io::Result<()> {
    let OfflineAnswer { user, time, response } = answer;
    let time = time.map(|seconds| pbjson_types::Timestamp { seconds, nanos: 0 });
    // The cost differs from run to run. Without it, equal requests give equal files.
    let response = &pb::RerankResponse { receipt: None, ..response.clone() };
    serde_json::to_writer(&mut *out, &RankingLine { user, time, response })?;
    out.write_all(b"\n")
}
