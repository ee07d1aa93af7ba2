//! The stage `text_encoder` with each encoder: what it writes, what it says, and what changed weights do.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/small.rs"]
mod small;

use raisonne::bundle::Part;
use raisonne::nn::text::TEXT_WIDTH;
use raisonne::train::{NoProgress, STAGES, Workspace, check_lineage, run};
use serde_json::Value;
use std::fs;
use std::path::Path;

/// Copies a fixture's folder into `home`, so that its weights may be changed.
fn fixture(home: &Path, name: &str) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name);
    copy(&from, &home.join(name));
}

fn copy(from: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = into.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, target).unwrap();
        }
    }
}

fn stage(name: &str, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
    let stage = STAGES.iter().find(|stage| stage.name() == name).unwrap();
    run(*stage, workspace)
}

#[test]
fn every_encoder_gives_items_vectors_of_its_own_space() {
    let home = tempfile::tempdir().unwrap();
    for name in ["bert_mean", "static_table"] {
        fixture(home.path(), name);
    }
    let distil = "{ distil = { teacher = \"bert_mean\", width = 24, rival = \"static_table\" } }";
    let encoders = [
        ("{ static = \"static_table\" }", 24, "static_table"),
        ("{ bert = \"bert_mean\" }", 32, "bert_mean"),
        (distil, 24, "bert_mean"),
    ];
    let mut progress = NoProgress;
    let recipe = small::recipe(home.path(), &[]);
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    stage("prepare", &mut workspace).unwrap();
    for (encoder, width, folder) in encoders {
        workspace.recipe = small::recipe(home.path(), &[format!("text_encoder={encoder}")]);
        stage("text_encoder", &mut workspace).unwrap();
        let parts = [Part::Tokenizer, Part::Text, Part::ItemVectors];
        check_lineage(&workspace, &parts).unwrap();
        assert_eq!(
            workspace.path(Part::TextBert).exists(),
            encoder.contains("{ bert"),
            "{encoder}"
        );
        let (catalog, reader) = (workspace.catalog().unwrap(), workspace.reader().unwrap());
        let vectors = workspace.item_vectors(&catalog, &reader).unwrap();
        // Distillation keeps the best table, and a rival may be as wide.
        assert!(vectors.width() == width || encoder == distil, "{encoder}");
        assert_eq!((vectors.len(), vectors.width()), (catalog.len(), reader.width()));
        for item in [0, 7, 30] {
            let text = catalog.text(item);
            let near = vectors.dot(item, &reader.wide(&text));
            assert!((near - 1.0).abs() < 0.02, "{encoder}: {text} has {near} with itself");
            assert_eq!(reader.vector(&text).len(), TEXT_WIDTH);
        }
        // Weights that changed since are noticed.
        let weights = home.path().join(folder).join("model.safetensors");
        let before = fs::read(&weights).unwrap();
        let mut changed = before.clone();
        *changed.last_mut().unwrap() ^= 1;
        fs::write(&weights, changed).unwrap();
        let error = check_lineage(&workspace, &parts).unwrap_err().to_string();
        assert!(error.contains("settings of text_encoder differ"), "{encoder}: {error}");
        fs::write(&weights, before).unwrap();
        check_lineage(&workspace, &parts).unwrap();
    }
    workspace.recipe = small::recipe(home.path(), &[]);
    stage("text_encoder", &mut workspace).unwrap();
    for part in [Part::TextBert, Part::ItemVectors] {
        assert!(!part.is_in(&workspace.dir), "what another encoder left is removed");
    }
}

#[test]
fn a_folder_that_is_wrong_ends_the_stage_with_its_name() {
    let home = tempfile::tempdir().unwrap();
    fixture(home.path(), "bert_mean");
    let mut progress = NoProgress;
    let recipe = small::recipe(home.path(), &[]);
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    stage("prepare", &mut workspace).unwrap();
    for (encoder, expected) in [
        ("{ static = \"nowhere\" }", "nowhere"),
        ("{ static = \"bert_mean\" }", "none is `embeddings` or `embedding.weight`"),
        ("{ bert = \"nowhere\" }", "nowhere"),
        ("{ distil = { teacher = \"bert_mean\", width = 33 } }", "text_encoder.distil.width is 33"),
        ("{ distil = { teacher = \"bert_mean\", width = 16, rival = \"nowhere\" } }", "nowhere"),
    ] {
        workspace.recipe = small::recipe(home.path(), &[format!("text_encoder={encoder}")]);
        let error = format!("{:#}", stage("text_encoder", &mut workspace).unwrap_err());
        assert!(error.contains(expected), "{encoder}: {error} lacks {expected}");
    }
}
