//! The rules of `ARCHITECTURE.md` that text alone can check: who imports whom, and where the exceptions stand.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "floors/circles.rs"]
mod circles;
#[path = "floors/source_tree.rs"]
mod source_tree;

use circles::SiblingImports;
use source_tree::{SourceTree, sources, without_comments, without_tests};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The floors, from the ground up. A module imports only from lower floors, and modules on one floor do not know each
/// other. The top floor is the exception: there, everything is put together.
const FLOORS: &[&[&str]] = &[
    &["domain", "overlay", "regular_file", "telemetry"],
    &["worker", "store", "bundle", "language", "nn", "shop", "statistics"],
    &["items"],
    &["engine", "scorer", "evidence", "upstream", "simulate", "events"],
    &["reranker"],
    &["rank", "train"],
    &["api"],
    &["app", "bench", "cli", "config", "main", "lib", "rank_file"],
];

/// Where `unsafe` may stand: folders and files below `src`.
const UNSAFE_SITES: &[&str] =
    &["nn/simd/", "nn/packed/", "nn/cuda/", "nn/decoder/checkpoint.rs", "main.rs"];

/// The files that may hold `cfg(feature = …)`: each chooses between two implementations.
const FEATURE_SITES: &[&str] = &[
    "bench.rs",
    "engine/compute_device.rs",
    "engine/mod.rs",
    "nn/fused/mod.rs",
    "nn/fused/kernels.rs",
    "nn/mod.rs",
    "scorer/mod.rs",
    "train/gpu.rs",
];

fn src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// The first part of a file's path below `src`: the module that it belongs to.
fn module_of(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The top-level modules that a source names as `crate::module`, also in `crate::{a, b}` and in tests.
fn named(source: &str) -> Vec<String> {
    let code = without_comments(source);
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
    let files = sources(&src());
    assert!(files.len() > 40, "only {} sources were found", files.len());
    let mut broken = Vec::new();
    for (file, text) in files {
        let module = module_of(&file);
        let Some(own) = floor(module) else {
            broken.push(format!("`{file}` stands on no floor: give `{module}` one"));
            continue;
        };
        for other in named(&text) {
            let Some(theirs) = floor(&other) else { continue };
            let top = own == FLOORS.len() - 1;
            if other != module && theirs >= own && !top {
                broken
                    .push(format!("`{file}` (floor {own}) may not use `{other}` (floor {theirs})"));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn modules_with_one_parent_import_each_other_in_no_circle() {
    let circles = SiblingImports::of(&SourceTree::read(&src())).circles();
    let circles: Vec<_> = circles.iter().map(|circle| format!("  {circle}")).collect();
    assert!(circles.is_empty(), "there are circles:\n{}", circles.join("\n"));
}

/// Limits, times and deadlines don't count: they are numbers and moments, which nothing converts.
#[test]
fn only_the_wire_knows_both_protobuf_and_the_domain() {
    let knows_both = |text: &str| {
        let mut code = without_tests(&without_comments(text));
        for plain in [
            "crate::domain::limits",
            "crate::domain::Timestamp",
            "crate::domain::{Deadline, Timestamp}",
        ] {
            code = code.replace(plain, "");
        }
        let protobuf = ["super::pb", "api::pb", "api::{pb", " pb}", "pb::"];
        protobuf.iter().any(|name| code.contains(name)) && code.contains("crate::domain")
    };
    assert!(knows_both("use super::pb;\nuse crate::domain::Query;"));
    assert!(!knows_both("use super::pb;\nuse crate::domain::limits::ID_BYTES_MAX;"));
    let both = sources(&src()).into_iter().filter(|(_, text)| knows_both(text));
    let both: Vec<_> = both.map(|(file, _)| file).collect();
    let in_wire = |file: &&String| *file == "api/wire.rs" || file.starts_with("api/wire/");
    let elsewhere: Vec<_> = both.iter().filter(|file| !in_wire(file)).collect();
    assert!(elsewhere.is_empty() && both.contains(&"api/wire.rs".into()), "{both:?}");
}

#[test]
fn unsafe_and_features_stand_where_they_are_listed() {
    let with = |mark: fn(&str) -> bool| -> BTreeSet<String> {
        let files = sources(&src()).into_iter();
        files.filter(|(_, text)| mark(&without_comments(text))).map(|(file, _)| file).collect()
    };
    let is_unsafe = with(|code| {
        ["unsafe {", "unsafe fn", "unsafe impl"].iter().any(|mark| code.contains(mark))
    });
    for file in &is_unsafe {
        assert!(
            UNSAFE_SITES.iter().any(|site| file.starts_with(site)),
            "`{file}` may not be unsafe"
        );
    }
    for site in UNSAFE_SITES {
        assert!(
            is_unsafe.iter().any(|file| file.starts_with(site)),
            "`{site}` is not unsafe any more"
        );
    }
    let features = with(|code| code.contains("cfg(feature") || code.contains("cfg(not(feature"));
    assert_eq!(features, FEATURE_SITES.iter().map(|file| (*file).to_owned()).collect());
}

#[test]
fn a_path_and_a_group_are_both_seen() {
    assert_eq!(named("use crate::nn::Din;\nlet a = crate::api::wire();"), ["nn", "api"]);
    assert_eq!(named("use crate::{rank::Rung, store};"), ["rank", "store"]);
    assert!(named("/// See crate::api.").is_empty());
}
