//! Reads qrels and runs. Whatever would be measured differently by another program is refused by name.

use crate::train::packed_lines::{PackedLine, PackedLines};
use anyhow::{Context as _, bail, ensure};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

/// Bytes of a line, at most.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// The grades of documents, by query. A document with a grade of one or more is relevant.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Qrels(pub BTreeMap<String, HashMap<String, i32>>);

/// The documents of each query, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run(pub BTreeMap<String, Vec<String>>);

/// Reads judgements.
pub fn read_qrels(path: &Path) -> anyhow::Result<Qrels> {
    let mut qrels = Qrels::default();
    let form = "`query iteration document grade`";
    for_each_line(path, form, |[query, _, document, grade]: [&str; 4]| {
        let grade = grade
            .parse()
            .ok()
            .with_context(|| format!("the grade is {grade:?}, expected a whole number"))?;
        let of_query = qrels.0.entry(query.to_owned()).or_default();
        let before = of_query.insert(document.to_owned(), grade);
        ensure!(before.is_none(), "query {query:?} grades document {document:?} twice");
        Ok(())
    })?;
    ensure!(!qrels.0.is_empty(), "{} holds no judgement", path.display());
    Ok(qrels)
}

/// Reads a run, and sorts each query's documents.
pub fn read_run(path: &Path) -> anyhow::Result<Run> {
    let mut scored: BTreeMap<String, Vec<(f32, String)>> = BTreeMap::new();
    let mut seen: HashMap<String, HashSet<String>> = HashMap::new();
    let form = "`query Q0 document rank score tag`";
    for_each_line(path, form, |[query, _, document, _, score, _]: [&str; 6]| {
        let finite = |score: &f64| (*score as f32).is_finite();
        let score = score.parse().ok().filter(finite).with_context(|| {
            format!("the score is {score:?}, expected a finite number of 32 bits")
        })?;
        let is_new = seen.entry(query.to_owned()).or_default().insert(document.to_owned());
        ensure!(is_new, "query {query:?} ranks document {document:?} twice");
        scored.entry(query.to_owned()).or_default().push((score as f32, document.to_owned()));
        Ok(())
    })?;
    ensure!(!scored.is_empty(), "{} ranks no document", path.display());
    let sorted = scored.into_iter().map(|(query, mut documents)| {
        documents.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| b.1.cmp(&a.1)));
        (query, documents.into_iter().map(|(_, document)| document).collect())
    });
    Ok(Run(sorted.collect()))
}

/// Calls `take` with the columns of each line. An error names the file and the line.
fn for_each_line<const N: usize>(
    path: &Path,
    form: &str,
    mut take: impl FnMut([&str; N]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let reading = || format!("reading {}", path.display());
    let mut lines = PackedLines::open(path, LINE_BYTES_MAX).with_context(reading)?;
    while let Some(PackedLine { number, text }) = lines.next_line().with_context(reading)? {
        let at = || format!("{}:{number}", path.display());
        let Some(text) = text else { bail!("{}: {}", at(), lines.too_long()) };
        let text = std::str::from_utf8(&text).with_context(at)?;
        let columns: Vec<&str> = text.split_whitespace().collect();
        let found = columns.len();
        let columns: [&str; N] = columns.try_into().ok().with_context(|| {
            format!("{}: the line has {found} columns, expected {N}: {form}", at())
        })?;
        take(columns).with_context(at)?;
    }
    Ok(())
}
