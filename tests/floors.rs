//! The law of floors: a module may import only from lower floors, and modules on one floor do not
//! know each other.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the ground up.
const FLOORS: &[&[&str]] = &[
    &["domain", "telemetry"],
    &["worker", "store", "bundle", "language", "nn", "shop"],
    &["engine", "scorer", "evidence", "upstream", "simulate"],
    &["reranker"],
    &["rank", "train"],
    &["api"],
    &["app", "bench", "cli", "config", "main", "lib"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The first part of a file's path below `src`: the module that it belongs to.
fn module_of(file: &Path) -> String {
    let first = file.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The top-level modules that a source names as `crate::module`, also in `crate::{a, b}`.
fn named(source: &str) -> Vec<String> {
    let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join("\n");
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let mut modules = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = &group[..group.find("};").unwrap_or(group.len())];
                modules.extend(group.split(',').map(word));
            }
            None => modules.push(word(rest)),
        }
    }
    modules
}

#[test]
fn imports_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "only {} sources were found", files.len());
    let mut broken = Vec::new();
    for path in files {
        let file = path.strip_prefix(&root).unwrap();
        let module = module_of(file);
        let Some(own) = floor(&module) else {
            broken.push(format!("`{}` stands on no floor: give `{module}` one", file.display()));
            continue;
        };
        for other in named(&fs::read_to_string(&path).unwrap()) {
            let Some(theirs) = floor(&other) else { continue };
            let ground = own == FLOORS.len() - 1;
            if other != module && theirs >= own && !ground {
                broken.push(format!(
                    "`{}` (floor {own}) may not use `{other}` (floor {theirs})",
                    file.display()
                ));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn a_path_and_a_group_are_both_seen() {
    assert_eq!(named("use crate::nn::Din;\nlet a = crate::api::wire();"), ["nn", "api"]);
    assert_eq!(named("use crate::{rank::Rung, store};"), ["rank", "store"]);
    assert!(named("/// See crate::api.").is_empty());
}
