//! Writes test cases as qrels, and each of their orders as a run.

use crate::domain::Quality;
use crate::train::case_results::CaseResult;
use anyhow::{Context as _, bail, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The file of judgements.
const QRELS: &str = "qrels.txt";
/// Orders of a case, at most: each has a file that stays open.
const ORDERS_MAX: usize = 200;

/// A folder of TREC files that is being written: it is whole, or not there.
#[derive(Debug)]
pub struct TrecFolder {
    /// The folder that it will be.
    path: PathBuf,
    staging: TempDir,
    qrels: BufWriter<File>,
    /// By the order's name: the file's name and the file.
    runs: BTreeMap<String, (String, BufWriter<File>)>,
}

// === impl TrecFolder ===

impl TrecFolder {
    /// Begins the folder `path`, which must not exist, or be empty.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let writing = || format!("writing the TREC files {}", path.display());
        match fs::read_dir(path) {
            Ok(mut entries) => ensure!(
                entries.next().is_none(),
                "{} holds files already: name a new folder",
                path.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(writing),
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        // The files stand one level deeper, because only its owner may read the staging folder.
        let staging = tempfile::Builder::new().prefix(".trec-").tempdir_in(parent);
        let staging = staging.with_context(writing)?;
        fs::create_dir(draft(&staging)).with_context(writing)?;
        let qrels = File::create(draft(&staging).join(QRELS)).with_context(writing)?;
        let qrels = BufWriter::new(qrels);
        Ok(Self { path: path.to_owned(), staging, qrels, runs: BTreeMap::new() })
    }

    /// Writes the judgements and the orders of a case.
    pub fn write(&mut self, case: &CaseResult) -> anyhow::Result<()> {
        let query = encode(&case.case);
        for item in &case.relevant {
            writeln!(self.qrels, "{query} 0 {} 1", encode(item)).with_context(|| self.writing())?;
        }
        self.write_order(&query, Quality::Given.as_str(), &case.given)?;
        for (name, order) in &case.orders {
            self.write_order(&query, name, order)?;
        }
        Ok(())
    }

    /// Completes the files, and gives the folder its name.
    pub fn finish(mut self) -> anyhow::Result<()> {
        let writing = self.writing();
        let mut finish = || -> io::Result<()> {
            let runs = self.runs.values_mut().map(|(_, file)| file);
            for file in runs.chain([&mut self.qrels]) {
                file.flush()?;
                file.get_ref().sync_all()?;
            }
            fs::rename(draft(&self.staging), &self.path)
        };
        finish().context(writing)
    }

    /// Writes an order as lines of its run. The score is the number of items from here to the end, so that every program
    /// sorts them into this order.
    fn write_order(&mut self, query: &str, name: &str, order: &[String]) -> anyhow::Result<()> {
        if !self.runs.contains_key(name) {
            self.begin_run(name)?;
        }
        let (_, file) = self.runs.get_mut(name).expect("it was begun");
        let tag = encode(name);
        let each = order.iter().zip(1..).zip((1..=order.len()).rev());
        for ((item, rank), score) in each {
            let written = writeln!(file, "{query} Q0 {} {rank} {score} {tag}", encode(item));
            written.with_context(|| format!("writing the TREC files {}", self.path.display()))?;
        }
        Ok(())
    }

    fn begin_run(&mut self, name: &str) -> anyhow::Result<()> {
        ensure!(self.runs.len() < ORDERS_MAX, "there are more than {ORDERS_MAX} orders");
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let file: String = name.chars().map(|c| if plain(c) { c } else { '_' }).collect();
        let file = format!("{}.run", file.trim_start_matches('.'));
        if let Some((other, _)) = self.runs.iter().find(|(_, (taken, _))| *taken == file) {
            bail!("the orders {other:?} and {name:?} would both be written to {file}");
        }
        let run = File::create(draft(&self.staging).join(&file)).with_context(|| self.writing())?;
        self.runs.insert(name.to_owned(), (file, BufWriter::new(run)));
        Ok(())
    }

    fn writing(&self) -> String {
        format!("writing the TREC files {}", self.path.display())
    }
}

fn draft(staging: &TempDir) -> PathBuf {
    staging.path().join("draft")
}

/// An id as one column: blanks, control characters and `%` become `%` and two hexadecimal digits for each byte. Two ids
/// never become one.
pub fn encode(id: &str) -> String {
    let mut encoded = String::with_capacity(id.len());
    for c in id.chars() {
        if c.is_whitespace() || c.is_control() || c == '%' {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                let _ = write!(encoded, "%{byte:02X}");
            }
        } else {
            encoded.push(c);
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::super::{measure_run, read_qrels, read_run};
    use super::*;

    #[test]
    fn ids_are_one_column_and_stay_apart() {
        let table = [
            ("B00-1/x", "B00-1/x"),
            ("red mug", "red%20mug"),
            ("red%20mug", "red%2520mug"),
            ("a\tb\n", "a%09b%0A"),
            ("a\u{a0}b", "a%C2%A0b"),
            ("Größe", "Größe"),
        ];
        for (id, encoded) in table {
            assert_eq!(encode(id), encoded);
        }
    }

    fn case(user: &str) -> CaseResult {
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        CaseResult {
            case: format!("next basket/{user}"),
            relevant: ids(&["b b", "z"]),
            given: ids(&["a", "b b", "c"]),
            orders: [
                ("scored".to_owned(), ids(&["b b", "a", "c"])),
                ("rule:seen before".to_owned(), ids(&["c", "b b", "a"])),
            ]
            .into(),
            ..CaseResult::default()
        }
    }

    #[test]
    fn what_is_written_keeps_its_order_when_it_is_read() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("trec");
        let mut folder = TrecFolder::create(&path).unwrap();
        for user in ["u", "v w"] {
            folder.write(&case(user)).unwrap();
        }
        assert!(!path.exists());
        folder.finish().unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        let qrels = read_qrels(&path.join("qrels.txt")).unwrap();
        let reciprocal = [("given", 0.5), ("scored", 1.0), ("rule_seen_before", 0.5)];
        for (name, mrr) in reciprocal {
            let run = read_run(&path.join(format!("{name}.run"))).unwrap();
            let figures = measure_run(&qrels, &run).unwrap();
            assert_eq!((figures.queries, figures.missing, figures.unjudged), (2, 0, 0));
            assert_eq!((figures.mean["mrr"], figures.mean["R@5"]), (mrr, 0.5), "{name}");
        }
        let run = read_run(&path.join("rule_seen_before.run")).unwrap();
        assert_eq!(run.0["next%20basket/v%20w"], ["c", "b%20b", "a"]);
        let again = TrecFolder::create(&path).unwrap_err().to_string();
        assert!(again.contains("holds files already"), "{again}");
    }

    #[test]
    fn orders_that_would_share_a_file_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let mut folder = TrecFolder::create(&home.path().join("trec")).unwrap();
        let mut case = case("u");
        case.orders.insert("rule_seen_before".into(), case.given.clone());
        let error = folder.write(&case).unwrap_err().to_string();
        assert!(error.contains("would both be written to rule_seen_before.run"), "{error}");
        drop(folder);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
