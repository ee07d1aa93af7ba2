//! TREC files: our figures beside those of `ir_measures`, and files that would be measured differently elsewhere.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use raisonne::train::trec::{RunFigures, STANDARD_FIGURES, measure_run, read_qrels, read_run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// How far a figure may be from that of another program.
const TOLERANCE: f64 = 1e-6;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/trec").join(name)
}

fn measured(qrels: &str, run: &str) -> RunFigures {
    let qrels = read_qrels(&fixture(&format!("{qrels}.qrels"))).unwrap();
    measure_run(&qrels, &read_run(&fixture(&format!("{run}.run"))).unwrap()).unwrap()
}

#[test]
fn figures_are_those_of_ir_measures() {
    let text = fs::read(fixture("figures.json")).unwrap();
    let theirs: Value = serde_json::from_slice(&text).unwrap();
    let mut compared = 0;
    for (pair, theirs) in theirs.as_object().unwrap() {
        let (qrels, run) = pair.split_once(' ').unwrap();
        let ours = measured(qrels, run);
        let mut close = |name: &str, ours: f64, theirs: &Value| {
            let theirs = theirs.as_f64().unwrap();
            assert!((ours - theirs).abs() <= TOLERANCE, "{pair} {name}: {ours}, not {theirs}");
            compared += 1;
        };
        for (name, _) in STANDARD_FIGURES {
            close(name, ours.mean[name], &theirs["mean"][name]);
            for (query, figures) in theirs["queries_each"].as_object().unwrap() {
                let name_of = format!("{query} {name}");
                close(&name_of, ours.queries_each[query][name], &figures[name]);
            }
        }
    }
    assert!(compared > 4 * 12 * 12, "{compared} figures were compared");
}

#[test]
fn our_figures_are_standard_ones_where_the_documents_say_so() {
    let mut differs = false;
    for (qrels, run) in [("binary", "plain"), ("binary", "tied"), ("graded", "plain")] {
        for (query, figures) in &measured(qrels, run).queries_each {
            let close = |ours: &str, theirs: f64| {
                assert!((figures[ours] - theirs).abs() < TOLERANCE, "{query} {ours}: {theirs}");
            };
            for k in [1, 5, 10] {
                let [precision, recall] = ["P", "R"].map(|name| figures[&*format!("{name}@{k}")]);
                close(&format!("recall@{k}"), precision.max(recall));
                differs |= precision > recall;
            }
            close("mrr", figures["RR"]);
            if qrels == "binary" {
                close("ndcg@5", figures["nDCG@5"]);
                close("ndcg@10", figures["nDCG@10"]);
            }
        }
    }
    assert!(differs, "in some query, more are relevant than fit");
}

#[test]
fn what_others_would_measure_differently_is_refused_by_line() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("file");
    let long = "x".repeat(70_000);
    let qrels = [
        ("q 0 a", "has 3 columns, expected 4"),
        ("q 0 a 1 2", "has 5 columns, expected 4"),
        ("q 0 a yes", "the grade is \"yes\", expected a whole number"),
        ("q 0 a 0.5", "the grade is \"0.5\", expected a whole number"),
        ("q 0 b 0", "query \"q\" grades document \"b\" twice"),
        (&long, "longer than 65536 bytes"),
    ];
    for (line, why) in qrels {
        fs::write(&path, format!("q 0 b 1\n{line}\n")).unwrap();
        let error = format!("{:#}", read_qrels(&path).unwrap_err());
        assert!(error.contains("file:2") && error.contains(why), "{error}");
    }
    let runs = [
        ("q Q0 a 1 0.5", "has 5 columns, expected 6"),
        ("q Q0 red mug 1 0.5 t", "has 7 columns, expected 6"),
        ("q Q0 a 1 high t", "the score is \"high\", expected a finite number"),
        ("q Q0 a 1 NaN t", "the score is \"NaN\", expected a finite number"),
        ("q Q0 a 1 1e300 t", "the score is \"1e300\", expected a finite number"),
        ("q Q0 b 9 0.1 t", "query \"q\" ranks document \"b\" twice"),
    ];
    for (line, why) in runs {
        fs::write(&path, format!("q Q0 b 1 1 t\n{line}\n")).unwrap();
        let error = format!("{:#}", read_run(&path).unwrap_err());
        assert!(error.contains("file:2") && error.contains(why), "{error}");
    }
    fs::write(&path, "\n").unwrap();
    assert!(read_qrels(&path).unwrap_err().to_string().contains("no judgement"));
    assert!(read_run(&path).unwrap_err().to_string().contains("no document"));
    fs::write(&path, "elsewhere Q0 b 1 1 t\n").unwrap();
    let error =
        measure_run(&read_qrels(&fixture("binary.qrels")).unwrap(), &read_run(&path).unwrap());
    assert!(error.unwrap_err().to_string().contains("none of the 1 queries"));
}

fn eval(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_raisonne")).arg("eval").args(arguments).output().unwrap()
}

#[test]
fn the_command_measures_runs_without_a_bundle() {
    let [qrels, plain, tied] = ["binary.qrels", "plain.run", "tied.run"]
        .map(|name| fixture(name).to_str().unwrap().to_owned());
    let out = eval(&["--qrels", &qrels, "--run", &plain, "--run", &tied]);
    assert!(out.status.success(), "{out:?}");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(text.contains("plain.run: 13 queries, 1 of them missing"), "{text}");
    assert!(text.contains("1 more without judgements"), "{text}");
    let figures = measured("binary", "tied");
    assert!(text.contains(&format!("mrr {:.4}", figures.mean["mrr"])), "{text}");

    let out = eval(&["--qrels", &qrels, "--run", &tied, "--json"]);
    let json: Value = serde_json::from_slice(&out.stdout).unwrap();
    let query = &json["runs"][0]["figures"]["queries_each"]["next%20basket/a"];
    assert_eq!(query["RR"], figures.queries_each["next%20basket/a"]["RR"]);

    let table: [(&[&str], &str); 4] = [
        (&["--qrels", &qrels], "--run"),
        (&["--run", &tied], "--qrels"),
        (&["--qrels", &qrels, "--run", &tied, "--cases", "x"], "cannot be used with"),
        (&["--qrels", &qrels, "--run", &qrels], "has 4 columns, expected 6"),
    ];
    for (arguments, why) in table {
        let out = eval(arguments);
        let errors = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && errors.contains(why), "{arguments:?}: {errors}");
    }
}
