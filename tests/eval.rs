//! `raisonne eval` on bundles: where the shop comes from, and what is written beside the report.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/small.rs"]
mod small;

use raisonne::bundle::{Manifest, Part};
use raisonne::train::case_results::{CaseResult, read_cases};
use raisonne::train::trec::{measure_run, read_qrels, read_run};
use raisonne::train::{NoProgress, STAGES, Workspace, measure, publish, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A bundle without a language model that keeps its shop, and that shop.
fn build(home: &Path) -> (PathBuf, PathBuf) {
    let mut recipe = small::recipe(home, &["evaluate.keep_test=true".to_owned()]);
    recipe.language_model = None;
    recipe.rechead = None;
    let text = toml::to_string(&recipe).unwrap();
    let mut progress = NoProgress;
    let mut workspace = Workspace::new(&home.join("work"), recipe.clone(), &mut progress).unwrap();
    for stage in STAGES.iter().filter(|stage| stage.is_enabled(&recipe)) {
        run(*stage, &mut workspace).unwrap();
    }
    let out = home.join("bundle");
    publish::publish(&workspace, &text, &out).unwrap();
    (out, workspace.shop_dir())
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &to);
        } else {
            drop(fs::copy(entry.path(), to));
        }
    }
}

/// The same bundle without its shop, and made from a folder that is gone.
fn without_shop(bundle: &Path, to: &Path, keep_lineage: bool) {
    copied(bundle, to);
    fs::remove_dir_all(to.join(Part::Test.file())).unwrap();
    let path = to.join(Part::Recipe.file());
    let mut recipe: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
    let shop = recipe["shop"].as_table_mut().unwrap();
    shop.remove("simulated");
    shop.insert("imported".into(), "/gone/shop".into());
    fs::write(&path, recipe.to_string()).unwrap();
    let lineage = Manifest::read(bundle).unwrap().lineage;
    assert!(!lineage.is_empty());
    let lineage = if keep_lineage { lineage } else { Vec::new() };
    Manifest::of(to, "small").unwrap().with_lineage(lineage).write(to).unwrap();
}

fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.insert(path.clone(), fs::read(path).unwrap());
        }
    }
    found
}

fn eval(bundle: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raisonne"));
    command.arg("eval").arg("--bundle").arg(bundle).args(arguments).output().unwrap()
}

fn report(bundle: &Path, arguments: &[&str]) -> Value {
    let out = eval(bundle, &[arguments, &["--json"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn refused(bundle: &Path, arguments: &[&str], why: &[&str]) {
    let out = eval(bundle, arguments);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "{arguments:?}");
    for why in why {
        assert!(errors.contains(why), "{arguments:?}: {errors}");
    }
}

fn mean(cases: &[&CaseResult], figure: impl Fn(&CaseResult) -> f64) -> f64 {
    cases.iter().map(|case| figure(case)).sum::<f64>() / cases.len() as f64
}

#[test]
fn a_bundle_is_evaluated_on_its_own_shop_or_not_at_all() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    let (bundle, shop) = build(home.path());
    let before = files(&bundle);
    assert!(before.contains_key(&bundle.join("shop/shop.json")));

    // The bundle keeps its shop, so nothing else is needed.
    let (cases_file, trec) = (text("cases.jsonl.zst"), text("trec"));
    let kept = report(&bundle, &["--cases", &cases_file, "--trec", &trec]);
    assert_eq!(before, files(&bundle), "the bundle was written to");

    // Case results give the report's figures, and so do the TREC files.
    let cases = read_cases(Path::new(&cases_file)).unwrap();
    let qrels = read_qrels(&path("trec/qrels.txt")).unwrap();
    assert_eq!(qrels.0.len(), cases.len());
    for task in ["first_purchase", "next_basket"] {
        let of_task: Vec<&CaseResult> = cases.iter().filter(|case| case.task == task).collect();
        let table = &kept[task]["all"];
        assert_eq!(table["cases"].as_u64().unwrap() as usize, of_task.len());
        for name in ["given", "scored"] {
            let order = |case: &CaseResult| match name {
                "given" => case.given.clone(),
                _ => case.orders[name].clone(),
            };
            let ndcg = mean(&of_task, |case| measure::ndcg(&order(case), &case.relevant, 10));
            let expected = table["figures"]["ndcg@10"][name]["mean"].as_f64().unwrap();
            assert!((ndcg - expected).abs() < 1e-5, "{task} {name}: {ndcg}, not {expected}");
        }
    }
    let all: Vec<&CaseResult> = cases.iter().collect();
    for name in all[0].orders.keys() {
        let file = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != '_', "_");
        let run = read_run(&path(&format!("trec/{file}.run"))).unwrap();
        let ours = mean(&all, |case| measure::ndcg(&case.orders[name], &case.relevant, 10));
        let theirs = measure_run(&qrels, &run).unwrap().mean["nDCG@10"];
        assert!((ours - theirs).abs() < 1e-9, "{name}: {ours}, not {theirs}");
    }

    // Without a shop, the way on is named. A folder that was moved is found, another shop is refused.
    let (with, without) = (path("with-lineage"), path("without-lineage"));
    without_shop(&bundle, &with, true);
    without_shop(&bundle, &without, false);
    for bundle in [&with, &without] {
        let ways = ["/gone/shop", "--data DIR", "evaluate.keep_test=true"];
        refused(bundle, &[], &ways);
    }
    fs::rename(&shop, path("moved")).unwrap();
    assert_eq!(report(&with, &["--data", &text("moved")]), kept);
    copied(&path("moved"), &path("renamed"));
    let manifest = fs::read_to_string(path("renamed/shop.json")).unwrap();
    fs::write(path("renamed/shop.json"), manifest.replace("\"name\": \"", "\"name\": \"other-"))
        .unwrap();
    let another = "is not the shop that the bundle was made from";
    refused(&with, &["--data", &text("renamed")], &[another, "data snapshot"]);
    assert_eq!(report(&without, &["--data", &text("renamed")]), kept);

    // What can't be written is said first.
    refused(&bundle, &["--trec", &trec], &["holds files already"]);
    refused(&bundle, &["--cases", &text("no/folder/x")], &["writing the case results"]);
    refused(&bundle, &["--slates", "x"], &["names no slates"]);
    refused(&with, &["--data", &text("gone")], &["gone"]);
}
