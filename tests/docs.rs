//! What the documents name exists: a path that a document puts in backticks or links to is a file or a folder.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Where a path that a document names may begin: the project's root, the sources, the document's own folder.
fn roots(document: &Path) -> [PathBuf; 3] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    [root.into(), root.join("src"), document.parent().unwrap().into()]
}

/// The documents that newcomers read.
fn documents() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = Vec::new();
    for folder in [root.to_path_buf(), root.join("docs")] {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                documents.push(path);
            }
        }
    }
    documents
}

/// The paths that a text names: words in backticks with a slash or a source's ending, and targets of links. Commands,
/// patterns, addresses and files that a user makes are none.
fn paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        let words = line.split('`').skip(1).step_by(2);
        let is_path = |word: &&str| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-./{},".contains(c);
            let ours = [
                "src/",
                "tests/",
                "docs/",
                "kernels/",
                "scripts/",
                "models/demo",
                "loadtest/",
                "deploy/",
                "proto/",
            ];
            let ending = Path::new(word).extension().and_then(|ending| ending.to_str());
            word.chars().all(plain)
                && (matches!(ending, Some("rs" | "h" | "cu"))
                    || ours.iter().any(|start| word.starts_with(start)))
        };
        paths.extend(words.filter(is_path).flat_map(expand));
        for (at, _) in line.match_indices("](") {
            let target = &line[at + 2..];
            let target = &target[..target.find(')').unwrap_or(target.len())];
            let file = target.split('#').next().unwrap();
            if !file.is_empty() && !target.contains("://") {
                paths.push(file.to_owned());
            }
        }
    }
    paths
}

/// `a/{b,c}.rs` is two paths.
fn expand(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((names, after)) = rest.split_once('}') else { return vec![path.to_owned()] };
    names.split(',').map(|name| format!("{before}{name}{after}")).collect()
}

#[test]
fn documents_name_what_exists() {
    let mut missing = Vec::new();
    let documents = documents();
    assert!(documents.len() > 5, "only {} documents were found", documents.len());
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for path in paths(&text) {
            if !roots(&document).iter().any(|root| root.join(&path).exists()) {
                missing.push(format!("{}: `{path}`", document.file_name().unwrap().display()));
            }
        }
    }
    assert!(missing.is_empty(), "no such file:\n{}", missing.join("\n"));
}

#[test]
fn paths_are_told_from_other_words() {
    let text = "See `rank/ladder.rs`, `a/{b,c}.rs`, `cargo test`, [here](docs/x.md#y) and [there](https://x.y).\n```\n`no/path.rs`\n```";
    assert_eq!(paths(text), ["rank/ladder.rs", "a/b.rs", "a/c.rs", "docs/x.md"]);
}
