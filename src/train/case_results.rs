//! Case results: what each rung and each rule made of each test case, so that anybody can apply their own metric.
//!
//! The file is JSON Lines, one case a line, plain or compressed with zstd (a name that ends in `.zst`).

use super::aside_file::AsideFile;
use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

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

/// Writes case results to `path`: whole, or not at all.
pub fn write_cases(path: &Path, cases: &[CaseResult]) -> anyhow::Result<()> {
    let writing = || format!("writing the case results {}", path.display());
    let aside = AsideFile::create(path).with_context(writing)?;
    write_lines(path, aside.handle().with_context(writing)?, cases).with_context(writing)?;
    aside.publish().with_context(writing)
}

/// Reads case results, and checks each.
pub fn read_cases(path: &Path) -> anyhow::Result<Vec<CaseResult>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let reader: Box<dyn Read> =
        if is_zstd(path) { Box::new(zstd::Decoder::new(file)?) } else { Box::new(file) };
    let mut reader = BufReader::new(reader);
    let (mut cases, mut line) = (Vec::new(), Vec::new());
    for number in 1.. {
        let at = || format!("{}:{number}", path.display());
        line.clear();
        let bytes = (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let bytes = bytes.with_context(at)? as u64;
        if bytes == 0 {
            break;
        }
        if bytes == LINE_BYTES_MAX && !line.ends_with(b"\n") {
            bail!("{}: the line is longer than {LINE_BYTES_MAX} bytes", at());
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let case: CaseResult = serde_json::from_slice(&line).with_context(at)?;
        case.check().with_context(at)?;
        cases.push(case);
    }
    Ok(cases)
}

fn write_lines(path: &Path, file: File, cases: &[CaseResult]) -> anyhow::Result<()> {
    let mut plain = BufWriter::new(file);
    if is_zstd(path) {
        let mut packed = zstd::Encoder::new(&mut plain, ZSTD_LEVEL)?;
        lines(&mut packed, cases)?;
        packed.finish()?;
    } else {
        lines(&mut plain, cases)?;
    }
    Ok(plain.flush()?)
}

fn lines(out: &mut impl Write, cases: &[CaseResult]) -> anyhow::Result<()> {
    for case in cases {
        serde_json::to_writer(&mut *out, case)?;
        out.write_all(b"\n")?;
    }
    Ok(())
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
            orders: [("scored".to_owned(), ids(&["c", "a", "b"]))].into(),
            scores: [("scored".to_owned(), vec![0.1, -0.25, -3.0])].into(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cases.jsonl", "cases.jsonl.zst"] {
            let path = folder.path().join(name);
            write_cases(&path, &[case(), case()]).unwrap();
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
