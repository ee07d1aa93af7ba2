//! The pipeline from a shop to a bundle, small; and what must hold of every stage.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use raisonne::bundle::{Bundle, BundleError, Manifest, Part};
use raisonne::nn::rqvae::Quantizer;
use raisonne::scorer::Opened;
use raisonne::train::stages::assign;
use raisonne::train::{Bench, Recipe, STAGES, Silence, publish, run};
use rand::SeedableRng as _;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A recipe for a shop so small that a whole training takes seconds.
fn recipe(home: &Path, set: &[&str]) -> Recipe {
    let path = home.join("recipe.toml");
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.toml"));
    fs::write(&path, text.unwrap()).unwrap();
    let small = [
        "name=small",
        "shop.simulated={ shoppers = 400, products = 200, days = 730 }",
        "slates.size=20",
        "slates.train_size=30",
        "slates.refresh_days=120",
        "text_encoder.vocabulary=600",
        "text_encoder.pairs_max=1500",
        "text_encoder.epochs=1",
        "text_encoder.batch=64",
        "semantic_ids.epochs=20",
        "semantic_ids.codes=32",
        "semantic_ids.reset_after=20",
        "reward_model.epochs=1",
        "reward_model.batch=16",
        "reward_model.candidates=6",
        "reward_model.examples_max=320",
        "reward_model.layers=1",
        "evaluate.resamples=100",
    ];
    let set: Vec<String> = small.iter().chain(set).map(|&setting| setting.to_owned()).collect();
    Recipe::read(&path, &set).unwrap()
}

/// Carries out every stage and publishes.
fn make(home: &TempDir, set: &[&str]) -> (PathBuf, Manifest) {
    let recipe = recipe(home.path(), set);
    let text = toml::to_string(&recipe).unwrap();
    let mut silence = Silence;
    let mut bench = Bench::new(&home.path().join("work"), recipe, &mut silence).unwrap();
    for stage in STAGES {
        run(*stage, &mut bench).unwrap();
        for part in stage.makes() {
            assert!(bench.path(*part).exists(), "{} makes {part:?}", stage.name());
        }
        assert!(home.path().join("work").join(format!("{}.report.json", stage.name())).exists());
    }
    let out = home.path().join("bundle");
    let manifest = publish::publish(&bench, &text, &out).unwrap();
    (out, manifest)
}

#[test]
fn a_shop_becomes_a_bundle_that_opens_and_is_the_same_again() {
    let home = tempfile::tempdir().unwrap();
    let (out, manifest) = make(&home, &[]);
    let opened = Opened::of(Bundle::open(&out).unwrap()).unwrap();
    opened.check_golden().unwrap();
    assert!(opened.version.starts_with("small-"));
    assert!(!opened.golden().is_empty());
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join(Part::Report.file())).unwrap()).unwrap();
    let figure = &report["next_basket"]["all"]["figures"]["ndcg@10"];
    assert!(figure["scored"]["mean"].as_f64().unwrap() > 0.0, "{report:#}");

    // The same seed gives the same models: the version is a hash of everything in a bundle.
    let again = tempfile::tempdir().unwrap();
    assert_eq!(make(&again, &[]).1.version, manifest.version);
    let other = tempfile::tempdir().unwrap();
    assert_ne!(make(&other, &["seed=8"]).1.version, manifest.version);
}

#[test]
fn a_bundle_that_was_changed_or_lacks_a_file_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (out, _) = make(&home, &["reward_model.loss=bce"]);
    for part in Part::ALL {
        let path = out.join(part.file());
        let bytes = fs::read(&path).unwrap();

        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(&path, &flipped).unwrap();
        match Bundle::open(&out) {
            Err(BundleError::Changed { file, .. }) => assert_eq!(file, part.file()),
            other => panic!("{part:?} with one flipped bit: {other:?}"),
        }

        fs::remove_file(&path).unwrap();
        match Bundle::open(&out) {
            Err(BundleError::Missing { file, .. }) => assert_eq!(file, part.file()),
            other => panic!("without {part:?}: {other:?}"),
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(Bundle::open(&out).unwrap().catalog.semantic_ids().is_some());

    // A bundle may do without semantic ids, but holds none that its manifest does not vouch for.
    let parts = [Part::Quantizer, Part::SemanticIds].map(|part| out.join(part.file()));
    let ids = fs::read(&parts[1]).unwrap();
    for path in &parts {
        fs::remove_file(path).unwrap();
    }
    Manifest::of(&out, "small").unwrap().write(&out).unwrap();
    assert!(Bundle::open(&out).unwrap().catalog.semantic_ids().is_none());
    fs::write(&parts[1], ids).unwrap();
    let error = Bundle::open(&out).unwrap_err().to_string();
    assert!(error.contains("it lacks semantic_ids.safetensors"), "{error}");
}

#[test]
fn every_item_gets_an_id_of_its_own_and_so_does_one_that_comes_later() {
    let home = tempfile::tempdir().unwrap();
    let mut silence = Silence;
    let recipe = recipe(home.path(), &["semantic_ids.epochs=60"]);
    let mut bench = Bench::new(&home.path().join("work"), recipe, &mut silence).unwrap();
    let mut report = serde_json::Value::Null;
    for stage in STAGES.iter().take_while(|stage| stage.name() != "reward_model") {
        report = run(*stage, &mut bench).unwrap();
    }
    let (catalog, reader) = (bench.catalog().unwrap(), bench.reader().unwrap());
    let quantizer = Quantizer::load(&bench.path(Part::Quantizer)).unwrap();
    let ids = catalog.semantic_ids().unwrap();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), catalog.len());
    let alike: BTreeSet<_> = ids.iter().map(|id| &id[..3]).collect();
    let share = alike.len() as f64 / catalog.len() as f64;
    let told = report["measured"]["unique"].as_f64().unwrap();
    assert!((told - share).abs() < 1e-4 && share > 0.8, "{told} {share}");
    for (item, id) in (0..).zip(ids.iter()) {
        assert_eq!(quantizer.encode(&reader.vector(&catalog.text(item))), id[..3]);
        assert_eq!(ids.item(id), Some(item));
    }

    let mut more = ids.clone();
    let mut rng = rand_chacha::ChaCha8Rng::from_seed([1; 32]);
    let text = reader.vector(&catalog.text(0));
    let new = assign(&quantizer, &mut more, &text, &mut rng).unwrap();
    assert_eq!(new[..3], ids.of(0)[..3], "it means the same");
    assert_eq!((ids.item(&new), more.item(&new)), (None, Some(catalog.len() as u32)));

    bench.recipe.semantic_ids.codes = 1;
    let stage = STAGES.iter().find(|stage| stage.name() == "semantic_ids").unwrap();
    let error = format!("{:#}", run(*stage, &mut bench).unwrap_err());
    assert!(error.contains("200 items have ids that begin with [0, 0, 0]"), "{error}");
}

#[test]
fn golden_scores_that_do_not_come_out_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (out, manifest) = make(&home, &[]);
    let path = out.join(Part::Golden.file());
    let mut golden: Vec<raisonne::bundle::Golden> =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    golden[0].scores[3] += 0.1;
    fs::write(&path, serde_json::to_vec(&golden).unwrap()).unwrap();
    assert_eq!(manifest.version.split('-').next(), Some("small"));
    Manifest::of(&out, "small").unwrap().write(&out).unwrap();
    let opened = Opened::of(Bundle::open(&out).unwrap()).unwrap();
    let error = opened.check_golden().unwrap_err().to_string();
    assert!(error.contains("golden"), "{error}");
}

#[test]
fn a_stage_without_its_inputs_says_what_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let recipe = recipe(home.path(), &[]);
    let mut silence = Silence;
    let mut bench = Bench::new(&home.path().join("work"), recipe, &mut silence).unwrap();
    let last = STAGES.last().unwrap();
    let error = run(*last, &mut bench).unwrap_err().to_string();
    assert!(error.contains("evaluate needs catalog.jsonl.zst"), "{error}");
}

#[test]
fn stages_have_names_of_their_own_and_say_what_they_do() {
    let names: BTreeSet<_> = STAGES.iter().map(|stage| stage.name()).collect();
    assert_eq!(names.len(), STAGES.len());
    assert!(STAGES.iter().all(|stage| stage.about().len() > 20 && !stage.makes().is_empty()));
    let made: BTreeSet<_> = STAGES.iter().flat_map(|stage| stage.makes()).copied().collect();
    let mut so_far: BTreeSet<Part> = BTreeSet::new();
    for stage in STAGES {
        assert!(stage.needs().iter().all(|part| so_far.contains(part)), "{}", stage.name());
        so_far.extend(stage.makes());
    }
    let published = [Part::Golden, Part::Recipe];
    assert!(Part::ALL.iter().all(|part| made.contains(part) || published.contains(part)));
}
