//! Ctrl-C during a training: it stops after the current step, is saved, and continues to the same bits.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/small.rs"]
mod small;

use raisonne::bundle::Part;
use raisonne::train::{NoProgress, STAGES, Workspace, run};
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// The model that a stage wrote.
fn weights(work: &Path) -> Vec<u8> {
    fs::read(work.join(Part::Midtrained.file()).join("model.safetensors")).unwrap()
}

#[test]
fn an_interrupted_stage_is_saved_and_continues_to_the_same_bits() {
    let home = tempfile::tempdir().unwrap();
    let longer = "language_model.midtrain.teaching.epochs=4".to_owned();
    let recipe = small::recipe(home.path(), &[longer]);
    let file = home.path().join("whole.toml");
    fs::write(&file, toml::to_string(&recipe).unwrap()).unwrap();
    let (work, straight) = (home.path().join("work"), home.path().join("straight"));
    for work in [&work, &straight] {
        let mut progress = NoProgress;
        let mut workspace = Workspace::new(work, recipe.clone(), &mut progress).unwrap();
        let enabled = STAGES.iter().filter(|stage| stage.is_enabled(&recipe));
        let before = enabled.take_while(|stage| stage.name() != "reward_model");
        before.for_each(|stage| drop(run(*stage, &mut workspace).unwrap()));
    }
    let stage = |work: &Path| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_raisonne"));
        command.args(["stage", "midtrain", "--json", "--recipe"]).arg(&file);
        command.arg("--work").arg(work).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(Stdio::piped()).spawn().unwrap()
    };

    let mut child = stage(&work);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let update: Value = loop {
        line.clear();
        assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended before a step");
        let update: Value = serde_json::from_str(&line).unwrap();
        if update["task"] == "midtrain" {
            break update;
        }
    };
    assert!(update["losses"]["loss"].as_f64().unwrap() > 0.0, "{update}");
    assert!(update["metrics"]["learning_rate"].as_f64().unwrap() > 0.0, "{update}");
    assert!(update["eta_seconds"].as_f64().unwrap() > 0.0, "{update}");
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut rest = String::new();
    stderr.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("stopping after the current step"), "{rest}");
    let error = rest.lines().last().unwrap();
    assert!(error.starts_with("error: stage midtrain: midtrain stopped after step "), "{rest}");
    assert!(error.ends_with("To continue, run the same command again"), "{rest}");
    let checkpoint = work.join("midtrain.training.safetensors");
    assert!(checkpoint.exists() && !work.join(Part::Midtrained.file()).exists());

    for work in [&work, &straight] {
        let output = stage(work).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!checkpoint.exists());
    assert!(weights(&work) == weights(&straight), "the interruption changed the model");
}
