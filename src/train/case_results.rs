//! Case results: what each rung and each rule made of each test case, so that anybody can apply their own metric.
//!
//! The file is JSON Lines, one case a line, plain or compressed with zstd (a name that ends in `.zst`).

use super::aside_file::AsideFile;
use super::packed_lines::{PackedLine, PackedLines};
use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Bytes of the longest line that is read: a slate of 2,000 items in some hundred orders.
pub const LINE_BYTES_MAX: u64 = 64 << 20;
/// The zstd level of a compressed file.
const ZSTD_LEVEL: i32 = 9;

/// One test case, and the orders of its slate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseResult {
    /// The case's name, unique in its file: `first_purchase/USER`.
    pub case: String,
    /// The task: `first_purchase` or `next_basket`.
    pub task: String,
    /// The user's id.
    pub user: String,
    /// The moment of the case, in Unix seconds.
    pub time: i64,
    /// The ids of the items that were then bought.
    pub relevant: Vec<String>,
    /// The slate's ids, in the order given.
    pub given: Vec<String>,
    /// The slices of the report that the case belongs to, besides the whole: `conditional`, `cold_shoppers`, `cold_items`.
    #[serde(default)]
    pub slices: Vec<String>,
    /// The slate's ids in each other order, best first, by the order's name: `scored`, `rule:seen_before_last`.
    #[serde(default)]
    pub orders: BTreeMap<String, Vec<String>>,
    /// The scores of an order's items, in that order, where the order has scores.
    #[serde(default)]
    pub scores: BTreeMap<String, Vec<f32>>,
}

// === impl CaseResult ===

impl CaseResult {
    /// Checks that each order holds items of the slate alone, each at most once, and each list of scores is of an order.
    pub fn check(&self) -> anyhow::Result<()> {
        distinct("given", &self.given)?;
        distinct("relevant", &self.relevant)?;
        for (name, order) in &self.orders {
            let field = format!("orders.{name}");
            distinct(&field, order)?;
            let slate: std::collections::HashSet<&String> = self.given.iter().collect();
            if let Some(foreign) = order.iter().find(|id| !slate.contains(id)) {
                bail!("`{field}` holds {foreign:?}, which `given` does not hold");
            }
        }
        for (name, scores) in &self.scores {
            let order = if name == "given" { Some(&self.given) } else { self.orders.get(name) };
            let Some(order) = order else { bail!("`scores.{name}` is of no order of that name") };
            ensure!(
                scores.len() == order.len(),
                "`scores.{name}` has {} numbers, and its order has {} items",
                scores.len(),
                order.len()
            );
        }
        Ok(())
    }
}

/// A file of case results that is being written: it is whole, or not there.
pub struct CaseFile {
    aside: AsideFile,
    writer: CaseWriter,
    path: PathBuf,
}

enum CaseWriter {
    Plain(BufWriter<File>),
    Packed(BufWriter<zstd::Encoder<'static, File>>),
}

// === impl CaseFile ===

impl CaseFile {
    /// Begins the file `path`.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let begin = || -> std::io::Result<Self> {
            let aside = AsideFile::create(path)?;
            let file = aside.handle()?;
            let writer = if is_zstd(path) {
                CaseWriter::Packed(BufWriter::new(zstd::Encoder::new(file, ZSTD_LEVEL)?))
            } else {
                CaseWriter::Plain(BufWriter::new(file))
            };
            Ok(Self { aside, writer, path: path.to_owned() })
        };
        begin().with_context(|| format!("writing the case results {}", path.display()))
    }

    /// Writes one case.
    pub fn write(&mut self, case: &CaseResult) -> anyhow::Result<()> {
        let written = match &mut self.writer {
            CaseWriter::Plain(out) => write_line(out, case),
            CaseWriter::Packed(out) => write_line(out, case),
        };
        written.with_context(|| format!("writing the case results {}", self.path.display()))
    }

    /// Completes the file, and gives it its name.
    pub fn finish(self) -> anyhow::Result<()> {
        let Self { aside, writer, path } = self;
        let finish = || -> std::io::Result<()> {
            match writer {
                CaseWriter::Plain(mut out) => out.flush()?,
                CaseWriter::Packed(out) => {
                    out.into_inner().map_err(std::io::IntoInnerError::into_error)?.finish()?;
                }
            }
            aside.publish()
        };
        finish().with_context(|| format!("writing the case results {}", path.display()))
    }
}

impl std::fmt::Debug for CaseFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CaseFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads case results, and checks each.
pub fn read_cases(path: &Path) -> anyhow::Result<Vec<CaseResult>> {
    let reading = || format!("reading the case results {}", path.display());
    let mut lines = PackedLines::open(path, LINE_BYTES_MAX).with_context(reading)?;
    let mut cases = Vec::new();
    while let Some(PackedLine { number, text }) = lines.next_line().with_context(reading)? {
        let at = || format!("{}:{number}", path.display());
        let Some(text) = text else { bail!("{}: {}", at(), lines.too_long()) };
        let case: CaseResult = serde_json::from_slice(&text).with_context(at)?;
        case.check().with_context(at)?;
        cases.push(case);
    }
    Ok(cases)
}

fn write_line(out: &mut impl Write, case: &CaseResult) -> std::io::Result<()> {
    serde_json::to_writer(&mut *out, case)?;
    out.write_all(b"\n")
}

fn is_zstd(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "zst" || ending == "zstd")
}

fn distinct(field: &str, ids: &[String]) -> anyhow::Result<()> {
    let mut seen = std::collections::HashSet::new();
    match ids.iter().find(|id| !seen.insert(id.as_str())) {
        Some(twice) => bail!("`{field}` holds {twice:?} twice"),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> CaseResult {
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        CaseResult {
            case: "first_purchase/u".into(),
            task: "first_purchase".into(),
            user: "u".into(),
            time: 1_700_000_000,
            relevant: ids(&["c", "elsewhere"]),
            given: ids(&["a", "b", "c"]),
            slices: ids(&["conditional"]),
            orders: [("scored".to_owned(), ids(&["c", "a", "b"]))].into(),
            scores: [("scored".to_owned(), vec![0.1, -0.25, -3.0])].into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cases.jsonl", "cases.jsonl.zst"] {
            let path = folder.path().join(name);
            let mut file = CaseFile::create(&path).unwrap();
            file.write(&case()).unwrap();
            file.write(&case()).unwrap();
            assert!(!path.exists(), "it is not there before it is whole");
            file.finish().unwrap();
            assert_eq!(read_cases(&path).unwrap(), [case(), case()]);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_wrong_case_is_named_by_its_line_and_field() {
        let text = |case: &CaseResult| serde_json::to_string(case).unwrap();
        let wrong = |change: fn(&mut CaseResult)| {
            let mut case = case();
            change(&mut case);
            text(&case)
        };
        let table = [
            (wrong(|case| case.given.push("a".into())), r#"`given` holds "a" twice"#),
            (wrong(|case| case.relevant.push("c".into())), r#"`relevant` holds "c" twice"#),
            (
                wrong(|case| case.orders.get_mut("scored").unwrap()[0] = "x".into()),
                r#"`orders.scored` holds "x", which `given` does not hold"#,
            ),
            (
                wrong(|case| case.scores.get_mut("scored").unwrap().truncate(1)),
                "`scores.scored` has 1 numbers, and its order has 3 items",
            ),
            (
                wrong(|case| case.scores.insert("odd".into(), vec![]).map_or((), drop)),
                "`scores.odd` is of no order of that name",
            ),
            (r#"{"case":"a"}"#.into(), "missing field `task`"),
            ("[1]".into(), "invalid type"),
            ("{".into(), "EOF"),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cases.jsonl");
        for (line, why) in table {
            std::fs::write(&path, format!("{}\n\n{line}\n", text(&case()))).unwrap();
            let error = format!("{:#}", read_cases(&path).unwrap_err());
            assert!(error.contains("cases.jsonl:3"), "{error}");
            assert!(error.contains(why), "{error}");
        }
    }
}
