//! A small pipeline from a shop to a bundle, and the invariants of every stage.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/small.rs"]
mod small;

use raisonne::bundle::{Bundle, BundleError, Manifest, Part};
use raisonne::language::LmTokenizer;
use raisonne::nn::Ablation;
use raisonne::nn::decoder::TrainableDecoder;
use raisonne::nn::rqvae::Quantizer;
use raisonne::reranker::{ComparedFile, Prompts, RerankerFile, WeighedFile};
use raisonne::scorer::{OpenedScorer, ScorerFile, SlateItem, score_golden};
use raisonne::train::case_results::CaseResult;
use raisonne::train::cases::{Case, PredictionTask};
use raisonne::train::evaluation::{Evaluation, evaluate, table};
use raisonne::train::measure::ndcg;
use raisonne::train::recipe::DecoderSizes;
use raisonne::train::rules::{FittedRules, SalesLog};
use raisonne::train::stages::assign;
use raisonne::train::training_data::TrainingData;
use raisonne::train::{NoProgress, Recipe, STAGES, Workspace, publish, run};
use rand::SeedableRng as _;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn recipe(home: &Path, set: &[&str]) -> Recipe {
    let set: Vec<String> = set.iter().map(|&setting| setting.to_owned()).collect();
    small::recipe(home, &set)
}

/// Runs every stage, and publishes the bundle.
fn build(home: &TempDir, set: &[&str]) -> (PathBuf, Manifest) {
    let recipe = recipe(home.path(), set);
    let text = toml::to_string(&recipe).unwrap();
    let mut progress = NoProgress;
    let work = home.path().join("work");
    let mut workspace = Workspace::new(&work, recipe.clone(), &mut progress).unwrap();
    for stage in STAGES.iter().filter(|stage| stage.is_enabled(&recipe)) {
        run(*stage, &mut workspace).unwrap();
        for part in stage.outputs() {
            let is_asked = workspace.recipe.asks_for(*part);
            assert!(workspace.has(*part) || !is_asked, "{} writes {part:?}", stage.name());
        }
        assert!(home.path().join("work").join(format!("{}.report.json", stage.name())).exists());
    }
    let out = home.path().join("bundle");
    let manifest = publish::publish(&workspace, &text, &out).unwrap();
    (out, manifest)
}

#[test]
fn a_shop_becomes_a_bundle_that_opens_and_is_the_same_again() {
    let home = tempfile::tempdir().unwrap();
    let (out, manifest) = build(&home, &[]);
    let opened = OpenedScorer::of(Bundle::open(&out).unwrap()).unwrap();
    opened.check_golden().unwrap();
    assert!(opened.version.starts_with("small-"));
    assert!(!opened.golden().is_empty());
    let report: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join(Part::Report.file())).unwrap()).unwrap();
    let figure = &report["next_basket"]["all"]["figures"]["ndcg@10"];
    assert!(figure["scored"]["mean"].as_f64().unwrap() > 0.0, "{report:#}");
    holds_rivals(&report);

    // Vectors of another Rechead are refused.
    let mut bundle = Bundle::open(&out).unwrap();
    let cards = &mut bundle.cards;
    assert!(!cards.rechead_vectors.is_empty());
    assert!(cards.users.values().all(|card| !card.rechead_vector.is_empty()));
    cards.rechead_vectors = cards.rechead_vectors.iter().map(|value| -value).collect();
    let error = OpenedScorer::of(bundle).unwrap().check_golden().unwrap_err().to_string();
    assert!(error.contains("made by another Rechead"), "{error}");

    // Every rung has figures.
    let mut progress = NoProgress;
    let recipe = recipe(home.path(), &[]);
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    let compared = |thought_tokens_max| ComparedFile {
        weight: 1.0,
        rechead_weight: 1.0,
        offered_max: 5,
        thought_tokens_max,
        grounded: false,
    };
    let file = RerankerFile {
        weighed: Some(WeighedFile { weight: 1.0, candidates_max: 10 }),
        reranked: Some(compared(0)),
        reasoned: Some(compared(6)),
    };
    fs::write(workspace.path(Part::Reranker), toml::to_string(&file).unwrap()).unwrap();
    let evaluation = evaluate(&mut workspace).unwrap();
    let figure = &evaluation.report["next_basket"]["all"]["figures"]["ndcg@10"];
    let rungs = ["given", "scored", "weighed", "reranked", "reasoned"];
    for rung in rungs.into_iter().chain([
        "without_rechead",
        "rechead_alone",
        "weighed_alone",
        "weighed_asked",
    ]) {
        let mean = figure[rung]["mean"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&mean), "{rung}: {figure}");
    }
    assert!(figure["reasoned_gain"]["low"].as_f64() <= figure["reasoned_gain"]["high"].as_f64());
    holds_rivals(&evaluation.report);
    figures_come_from_the_cases(&evaluation);
    rules_are_fitted_on_validation(&mut workspace, &evaluation.report["rules"]);

    // The same seed gives the same models: the version is a hash of everything in a bundle.
    let again = tempfile::tempdir().unwrap();
    assert_eq!(build(&again, &[]).1.version, manifest.version);
    let other = tempfile::tempdir().unwrap();
    assert_ne!(build(&other, &["seed=8"]).1.version, manifest.version);
}

/// Checks that every table of a report has the plain rules beside the rungs, and what is left beside the
/// best of them.
fn holds_rivals(report: &Value) {
    for task in ["first_purchase", "next_basket"] {
        let fitted = &report["rules"][task];
        let best = fitted["best_rule"].as_str().unwrap();
        let figure = |rule: &Value| rule["validation_ndcg@10"].as_f64().unwrap();
        let all = fitted["fitted"].as_object().unwrap();
        assert_eq!(all.len(), 14, "{fitted:#}");
        assert!(all.values().all(|rule| figure(rule) <= figure(&all[best])), "{fitted:#}");
        let slices = report[task].as_object().unwrap();
        let names: Vec<_> = slices.keys().map(String::as_str).collect();
        assert_eq!(names, ["all", "cold_items", "cold_shoppers", "conditional"]);
        for (name, slice) in slices.iter().filter(|(_, slice)| slice["cases"] != 0) {
            assert_eq!(slice["best_rule"], best, "{task} {name}: one choice for all slices");
            for row in slice["figures"].as_object().unwrap().values() {
                let mean = |of: &Value| of["mean"].as_f64().unwrap();
                let top = slice["top_rung"].as_str().unwrap();
                assert_eq!(row["rules"][best], row["best_rule"]);
                let difference = |a: &Value, b: &Value, gain: &Value| {
                    let found = mean(a) - mean(b);
                    assert!((found - mean(gain)).abs() < 2.1e-5, "{task} {name}: {row:#}");
                };
                difference(&row["scored"], &row["given"], &row["gain"]);
                difference(&row["scored"], &row["best_rule"], &row["over_best_rule"]["scored"]);
                difference(&row[top], &row["best_rule"], &row["over_best_rule"][top]);
                difference(&row[top], &row["given"], &row["over_given"][top]);
                if task == "next_basket" {
                    let repeats = &row["rules"]["bought_before_first"];
                    difference(repeats, &row["given"], &row["split"]["repeats_first"]);
                    difference(&row[top], repeats, &row["split"]["rest"][top]);
                }
            }
            for order in ["given", "best_rule", "scored"] {
                let beyond = &slice["beyond_accuracy@10"][order];
                for share in ["coverage", "gini", "repeats"] {
                    let value = beyond[share].as_f64().unwrap();
                    assert!((0.0..=1.0).contains(&value), "{task} {name} {order}: {beyond}");
                }
                assert!(beyond["novelty"].as_f64().unwrap() > 0.0, "{beyond}");
            }
            let repeats = &slice["beyond_accuracy@10"]["given"]["repeats"];
            match (task, name.as_str()) {
                ("first_purchase", _) => assert_eq!(repeats, 0.0, "{task} {name}"),
                (_, "all") => assert_ne!(repeats, 0.0, "{task} {name}"),
                _ => {}
            }
        }
    }
    let text = table(report);
    assert!(text.starts_with("What is left beside the best plain rule, NDCG@10: "), "{text}");
    assert!(!text.contains("-0.0000") && !text.contains("NaN"), "{text}");
    let blocks = text.lines().filter(|line| line.contains(", ceiling of Recall@10 ")).count();
    assert_eq!(blocks, 8, "{text}");
}

/// Checks that the orders of each case give the figures of the report.
fn figures_come_from_the_cases(evaluation: &Evaluation) {
    for task in ["first_purchase", "next_basket"] {
        let slice = &evaluation.report[task]["all"];
        let cases: Vec<CaseResult> = evaluation.cases().filter(|case| case.task == task).collect();
        assert_eq!(slice["cases"], cases.len());
        for case in &cases {
            case.check().unwrap();
            assert_eq!(case.case, format!("{task}/{}", case.user));
            assert!(case.scores["scored"].is_sorted_by(|a, b| a >= b));
        }
        let row = &slice["figures"]["ndcg@10"];
        let check = |name: &str, expected: &Value| {
            let order = |case: &CaseResult| match name {
                "given" => ndcg(&case.given, &case.relevant, 10),
                _ => ndcg(&case.orders[name], &case.relevant, 10),
            };
            let mean = cases.iter().map(order).sum::<f64>() / cases.len() as f64;
            let expected = expected["mean"].as_f64().unwrap();
            assert!((mean - expected).abs() < 1e-5, "{task} {name}: {mean} is not {expected}");
        };
        for name in ["given", "scored", "weighed", "reranked", "reasoned", "rechead_alone"] {
            check(name, &row[name]);
        }
        for (rule, of) in row["rules"].as_object().unwrap() {
            check(&format!("rule:{rule}"), of);
        }
    }
}

/// Checks that weights and the best rule are those of the validation time, which the test time would not give.
fn rules_are_fitted_on_validation(workspace: &mut Workspace<'_>, reported: &Value) {
    let split = workspace.dataset(&workspace.catalog().unwrap()).unwrap().split;
    let mut fitted = |from, until| -> Value {
        let data = TrainingData::open(workspace, from, until).unwrap();
        let log = SalesLog::new(&data.dataset, data.catalog.len());
        let recipe = &workspace.recipe;
        let cases =
            data.last_cases(recipe.slates.size, &recipe.shop.currency, from, until).unwrap();
        let of_task = |(task, cases): &(PredictionTask, Vec<Case>)| {
            (task.as_str().to_owned(), FittedRules::fit(&log, cases).to_json())
        };
        Value::Object(cases.iter().map(of_task).collect())
    };
    assert_eq!(fitted(split.validate, split.test), *reported);
    assert_ne!(fitted(split.test, split.end), *reported);
}

/// A small recipe with the small models alone.
fn small_models(home: &Path, set: &[&str]) -> Recipe {
    Recipe { language_model: None, rechead: None, ..recipe(home, set) }
}

/// Runs the stage of the scorer, and gives its measurements.
fn train_scorer(home: &TempDir, set: &[&str]) -> Value {
    let mut progress = NoProgress;
    let recipe = small_models(home.path(), set);
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    let stage = STAGES.iter().find(|stage| stage.name() == "reward_model").unwrap();
    run(*stage, &mut workspace).unwrap()["measured"].clone()
}

const DIRECT: [&str; 4] =
    ["direct.seeds=2", "direct.epochs=2", "direct.hidden=8", "direct.without=[\"sales\"]"];

#[test]
fn a_direct_path_is_trained_published_and_kept() {
    let home = tempfile::tempdir().unwrap();
    let recipe = small_models(home.path(), &DIRECT);
    let text = toml::to_string(&recipe).unwrap();
    let mut progress = NoProgress;
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    for stage in STAGES {
        if stage.is_enabled(&workspace.recipe) {
            run(*stage, &mut workspace).unwrap();
        }
    }
    let out = home.path().join("bundle");
    publish::publish(&workspace, &text, &out).unwrap();
    let opened = OpenedScorer::of(Bundle::open(&out).unwrap()).unwrap();
    opened.check_golden().unwrap();
    let file = opened.file.direct.clone().unwrap();
    assert!(!file.inputs.contains(&"sales".to_owned()) && file.hidden == 8);
    assert_eq!(opened.model.direct().unwrap().deep_weight().to_bits(), file.deep_weight.to_bits());

    // What is published is what the stage chose.
    let report: Value =
        serde_json::from_slice(&fs::read(workspace.dir.join("reward_model.report.json")).unwrap())
            .unwrap();
    let (direct, deep) = (&report["measured"]["direct"], &report["measured"]["deep_weight"]);
    assert_eq!(direct["members"], file.members);
    assert_eq!(direct["seeds"].as_array().unwrap().len(), 2);
    assert!((deep["chosen"].as_f64().unwrap() - f64::from(file.deep_weight)).abs() < 1e-6);
    let figure = |tried: &Value| tried["ndcg@10"].as_f64().unwrap();
    let best = deep["tried"].as_array().unwrap().iter().map(figure).fold(0.0, f64::max);
    let chosen = report["measured"]["fused_ndcg@10"].as_f64().unwrap();
    assert!((best - chosen).abs() < 1e-5, "{report:#}");

    // The same seed trains the same weights, and without an epoch they are kept.
    let weights = |part: Part| fs::read(home.path().join("work").join(part.file())).unwrap();
    let before = [Part::Direct, Part::Scorer, Part::ScorerShape].map(weights);
    train_scorer(&home, &DIRECT);
    assert!([Part::Direct, Part::Scorer, Part::ScorerShape].map(weights) == before);
    let kept = [&DIRECT[..], &["direct.epochs=0", "reward_model.epochs=0"]].concat();

    // A deep network without weight is named, and one that must have weight gets it.
    for (weight, note) in [("0.0", true), ("1.0", false)] {
        let only = format!("direct.deep_weights=[{weight}]");
        let set = [&kept[..], &[only.as_str()]].concat();
        let measured = train_scorer(&home, &set);
        assert_eq!(measured["direct"], "kept");
        assert!([Part::Direct, Part::Scorer].map(weights)[..] == before[..2]);
        let deep = &measured["deep_weight"];
        assert_eq!(deep["note"].is_string(), note, "{deep}");
        assert_eq!(deep["chosen"].as_f64().unwrap().to_string(), weight.trim_end_matches(".0"));
    }

    // A recipe without the section leaves nothing of it behind.
    let measured = train_scorer(&home, &[]);
    assert!(measured.get("direct").is_none() && measured.get("deep_weight").is_none());
    assert!(!home.path().join("work").join(Part::Direct.file()).exists());
    let shape = String::from_utf8(weights(Part::ScorerShape)).unwrap();
    assert!(!shape.contains("direct"), "{shape}");
}

const PUBLISHED_RECHEAD: [&str; 16] = [
    "rechead.answers=false",
    "rechead.wiring=published",
    "rechead.width=0",
    "rechead.gamma=0.1",
    "rechead.layers=2",
    "rechead.heads=4",
    "rechead.ffn=32",
    "rechead.before_scorer=0.6",
    "rechead.checks=true",
    "rechead.candidates=0",
    "rechead.examples_max=400",
    "rechead.epochs=2",
    "direct.also=[\"rechead\"]",
    "direct.seeds=1",
    "direct.epochs=1",
    "direct.hidden=8",
];

#[test]
fn a_published_rechead_reads_its_texts_and_the_direct_path_reads_its_score() {
    let home = tempfile::tempdir().unwrap();
    let recipe = Recipe { language_model: None, ..recipe(home.path(), &PUBLISHED_RECHEAD) };
    let text = toml::to_string(&recipe).unwrap();
    let mut progress = NoProgress;
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    for stage in STAGES {
        if stage.is_enabled(&workspace.recipe) {
            run(*stage, &mut workspace).unwrap();
        }
    }
    let report = fs::read(workspace.dir.join("rechead_early.report.json")).unwrap();
    let report: Value = serde_json::from_slice(&report).unwrap();
    let split = workspace.dataset(&workspace.catalog().unwrap()).unwrap().split;
    let begins = report["measured"]["scorer_begins"].as_i64().unwrap();
    assert!(split.train < begins && begins < split.validate, "{report:#}");
    // A basket may hold several items, and the answer is one of them.
    for (task, share) in [("first_purchase", 0.8), ("next_basket", 0.5)] {
        let checks = &report["measured"]["checks"][task];
        let ndcg = |check: &str| checks[check]["ndcg@10"].as_f64().unwrap();
        let change = |check: &str, end: &str| checks[check]["change"][end].as_f64().unwrap();
        let best = ndcg("best_order_of_the_slates");
        assert!(ndcg("true_answer") > share * best && best > ndcg("as_trained"), "{checks:#}");
        assert!(change("true_answer", "low") > 0.1, "{checks:#}");
        assert!(change("other_shoppers_texts", "high") < 0.0, "{checks:#}");
        assert!(ndcg("swapped_texts") < ndcg("true_answer"), "{checks:#}");
    }

    let out = home.path().join("bundle");
    publish::publish(&workspace, &text, &out).unwrap();
    let opened = OpenedScorer::of(Bundle::open(&out).unwrap()).unwrap();
    opened.check_golden().unwrap();
    assert!(opened.golden().iter().all(|golden| !golden.rechead.is_empty()));
    assert!(opened.model.direct().unwrap().reads_rechead());
    assert!(opened.model.cards.rechead_vectors.is_empty(), "items are the encoder's own");
    let rechead = opened.model.rechead().unwrap();
    assert_eq!(rechead.weight().to_bits(), 0.0_f32.to_bits(), "the score counts once");
}

#[test]
fn a_recipe_whose_rechead_and_scorer_do_not_fit_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let refused = |changes: &[&str]| {
        let set: Vec<String> =
            [&PUBLISHED_RECHEAD[..], changes].concat().iter().map(ToString::to_string).collect();
        small::try_recipe(home.path(), &set).unwrap_err().to_string()
    };
    for (changes, says) in [
        (
            &["direct.also=[]"][..],
            "`rechead.before_scorer` is 0.6, and the direct path does not read `rechead`: add it to `direct.also`",
        ),
        (
            &["rechead.answers=true"],
            "`rechead.before_scorer` and `rechead.answers` exclude each other: the language model is trained after the \
             scorer",
        ),
        (&["rechead.before_scorer=0.0"], "`rechead.before_scorer` is 0, expected 0.05 to 0.95"),
        (&["rechead.before_scorer=1.0"], "`rechead.before_scorer` is 1, expected 0.05 to 0.95"),
        (&["rechead.dropout=1.0"], "`rechead.dropout` is 1, expected 0 to below 1"),
        (
            &["rechead.sampled=0"],
            "`rechead.candidates` and `rechead.sampled` are 0 together, expected 1 to 4096",
        ),
        (
            &["rechead.sampled=5000"],
            "`rechead.candidates` and `rechead.sampled` are 5000 together, expected 1 to 4096",
        ),
        (&["rechead.layers=0"], "`rechead.layers` is 0, expected 1 to 32"),
        (&["rechead.ffn=20000"], "`rechead.ffn` is 20000, expected 1 to 16384"),
        (
            &["rechead.wiring=paper"],
            "`rechead.width` is 0, expected at least 1 in the paper's wiring",
        ),
    ] {
        assert_eq!(refused(changes), says);
    }
}

#[test]
fn without_a_trained_deep_network_the_direct_path_scores_and_reasons_follow_their_backing() {
    let home = tempfile::tempdir().unwrap();
    let work = home.path().join("work");
    let untrained = [&DIRECT[..], &["reward_model.epochs=0"]].concat();
    let recipe = small_models(home.path(), &untrained);
    let text = toml::to_string(&recipe).unwrap();
    let mut progress = NoProgress;
    let mut workspace = Workspace::new(&work, recipe, &mut progress).unwrap();
    for stage in STAGES {
        if stage.is_enabled(&workspace.recipe) {
            run(*stage, &mut workspace).unwrap();
        }
    }
    let out = home.path().join("bundle");
    publish::publish(&workspace, &text, &out).unwrap();
    let opened = OpenedScorer::of(Bundle::open(&out).unwrap()).unwrap();
    opened.check_golden().unwrap();
    let deep_weight = opened.file.direct.as_ref().unwrap().deep_weight;
    assert_eq!((deep_weight, opened.file.shape.layers), (0.0, 0));

    // Every item with reasons has some to tell, and their attention sums to 1.
    let mut told = 0;
    for golden in opened.golden() {
        let scores = score_golden(&opened.model, golden, &mut opened.model.scratch()).unwrap();
        for (row, item) in golden.items.iter().enumerate() {
            let number = opened.model.catalog.number(&item.as_str().into()).unwrap();
            let sum: f32 = scores.attention(row).iter().sum();
            let reasons = opened.model.reasons(&SlateItem::Known(number)).len();
            assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-5, "{sum}");
            assert!(reasons > 0 || sum == 0.0, "{item}");
            told += usize::from(sum > 0.0);
        }
    }
    assert!(told > 0);

    // Weights that are all 0 skip the training as well, over whatever was there.
    let weights = |part: Part| fs::read(work.join(part.file())).unwrap();
    let parts = [Part::Direct, Part::Scorer, Part::ScorerShape];
    let before = parts.map(weights);
    let no_weight = [&DIRECT[..], &["direct.deep_weights=[0.0]"]].concat();
    for set in [&untrained, &no_weight] {
        let measured = train_scorer(&home, set);
        assert!(parts.map(weights) == before);
        assert!(measured["deep_weight"]["note"].as_str().unwrap().contains("backing"));
        assert_eq!(measured["steps"], 0);
    }

    // A network that is trained later takes its place, with each of its inputs off and without layers.
    let few = ["direct.epochs=0", "direct.deep_weights=[1.0]", "reward_model.examples_max=32"];
    let with = [&DIRECT[..], &few].concat();
    let inputs = ["ids", "history", "reasons", "transformer", "features"];
    let off = inputs.map(|input| format!("reward_model.ablation={{ {input} = false }}"));
    for set in off.iter().map(String::as_str).chain(["reward_model.layers=0"]) {
        let measured = train_scorer(&home, &[&with[..], &[set]].concat());
        assert_eq!(measured["deep_weight"]["chosen"], 1.0, "{set}");
        let shape = toml::from_slice::<ScorerFile>(&weights(Part::ScorerShape)).unwrap().shape;
        let expected = match set.split_once("{ ") {
            Some((_, off)) => {
                let off: Ablation = toml::from_str(off.trim_end_matches(" }")).unwrap();
                assert_ne!(off, Ablation::default());
                (1, off)
            }
            None => (0, Ablation::default()),
        };
        assert_eq!((shape.layers, shape.ablation), expected, "{set}");
    }
}

#[test]
fn a_bundle_that_was_changed_or_lacks_a_file_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (out, _) = build(&home, &["reward_model.loss=bce"]);
    for name in Part::ALL.iter().flat_map(|part| part.files(&out).unwrap()) {
        let path = out.join(&name);
        if !path.exists() {
            continue;
        }
        let bytes = fs::read(&path).unwrap();

        let mut flipped = bytes.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(&path, &flipped).unwrap();
        match Bundle::open(&out) {
            Err(BundleError::Changed { file, .. }) => assert_eq!(file, name),
            other => panic!("{name} with one flipped bit: {other:?}"),
        }

        fs::remove_file(&path).unwrap();
        match Bundle::open(&out) {
            Err(BundleError::Missing { file, .. }) => assert_eq!(file, name),
            other => panic!("without {name}: {other:?}"),
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(Bundle::open(&out).unwrap().catalog.semantic_ids().is_some());

    // A bundle may lack semantic ids, but all that it holds are in its manifest.
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
    let mut progress = NoProgress;
    let recipe = recipe(home.path(), &["semantic_ids.epochs=60"]);
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    let mut report = serde_json::Value::Null;
    for stage in STAGES.iter().take_while(|stage| stage.name() != "rechead_early") {
        report = run(*stage, &mut workspace).unwrap();
    }
    let (catalog, reader) = (workspace.catalog().unwrap(), workspace.reader().unwrap());
    let quantizer = Quantizer::load(&workspace.path(Part::Quantizer)).unwrap();
    let ids = catalog.semantic_ids().unwrap();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), catalog.len());
    let alike: BTreeSet<_> = ids.iter().map(|id| &id[..3]).collect();
    let share = alike.len() as f64 / catalog.len() as f64;
    let reported = report["measured"]["unique"].as_f64().unwrap();
    assert!((reported - share).abs() < 1e-4 && share > 0.8, "{reported} {share}");
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

    workspace.recipe.semantic_ids.codes = 1;
    let stage = STAGES.iter().find(|stage| stage.name() == "semantic_ids").unwrap();
    let error = format!("{:#}", run(*stage, &mut workspace).unwrap_err());
    assert!(error.contains("200 items have ids that begin with [0, 0, 0]"), "{error}");
}

#[test]
fn a_language_model_from_elsewhere_learns_new_tokens_first_and_adapters_after() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("elsewhere");
    let vocabulary = LmTokenizer::fit(Prompts::texts().chain(Prompts::texts()), 300).unwrap();
    let known = vocabulary.len();
    let sizes = DecoderSizes {
        vocabulary: 300,
        width: 16,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 8,
        mlp_width: 24,
    };
    let config = sizes.config(known, 1024, Vec::new());
    TrainableDecoder::random(config, 5).unwrap().save(&folder, Path::new("")).unwrap();
    vocabulary.save(&folder).unwrap();
    let begin = format!("language_model.begin={{ folder = {:?} }}", folder.to_str().unwrap());
    let teaching = "{ epochs = 0.1, batch = 8, learning_rate = 0.01, weight_decay = 0.0";
    let new_tokens = format!("language_model.midtrain.new_tokens={teaching} }}");
    let adapters = format!("language_model.midtrain.teaching={teaching}, adapter_rank = 2 }}");
    let recipe = recipe(home.path(), &[&begin, &new_tokens, &adapters]);
    let mut progress = NoProgress;
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    for name in ["prepare", "text_encoder", "semantic_ids", "midtrain"] {
        let stage = STAGES.iter().find(|stage| stage.name() == name).unwrap();
        run(*stage, &mut workspace).unwrap();
    }
    let (old, new) = [folder, workspace.path(Part::Midtrained)]
        .map(|folder| TrainableDecoder::open(&folder).unwrap())
        .into();
    let rows = |model: &TrainableDecoder, name: &str| -> Vec<Vec<f32>> {
        model.parameters.get(name).unwrap().to_vec2().unwrap()
    };
    let embedding = "model.embed_tokens.weight";
    let (before, after) = (rows(&old, embedding), rows(&new, embedding));
    assert!(after.len() > known);
    assert_eq!(before, after[..known], "what it knew, it still knows");
    let query = "model.layers.0.self_attn.q_proj.weight";
    assert_ne!(rows(&old, query), rows(&new, query), "the adapters are part of it");
    let prompts =
        Prompts::open(&workspace.path(Part::Midtrained), &workspace.catalog().unwrap()).unwrap();
    prompts.check_vocabulary(new.config.vocabulary).unwrap();
}

#[test]
fn golden_scores_that_do_not_come_out_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let (out, manifest) = build(&home, &[]);
    let path = out.join(Part::Golden.file());
    let mut golden: Vec<raisonne::bundle::GoldenRequest> =
        serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    golden[0].scores[3] += 0.1;
    fs::write(&path, serde_json::to_vec(&golden).unwrap()).unwrap();
    assert_eq!(manifest.version.split('-').next(), Some("small"));
    Manifest::of(&out, "small").unwrap().write(&out).unwrap();
    let opened = OpenedScorer::of(Bundle::open(&out).unwrap()).unwrap();
    let error = opened.check_golden().unwrap_err().to_string();
    assert!(error.contains("golden"), "{error}");
}

#[test]
fn a_stage_without_its_inputs_says_what_is_missing() {
    let home = tempfile::tempdir().unwrap();
    let recipe = recipe(home.path(), &[]);
    let mut progress = NoProgress;
    let mut workspace = Workspace::new(&home.path().join("work"), recipe, &mut progress).unwrap();
    let last = STAGES.last().unwrap();
    let error = run(*last, &mut workspace).unwrap_err().to_string();
    assert!(error.contains("evaluate needs catalog.jsonl.zst"), "{error}");
}

#[test]
fn stages_have_unique_names_and_descriptions() {
    let names: BTreeSet<_> = STAGES.iter().map(|stage| stage.name()).collect();
    assert_eq!(names.len(), STAGES.len());
    assert!(STAGES.iter().all(|stage| stage.about().len() > 20 && !stage.outputs().is_empty()));
    let written: BTreeSet<_> = STAGES.iter().flat_map(|stage| stage.outputs()).copied().collect();
    let mut so_far: BTreeSet<Part> = BTreeSet::new();
    for stage in STAGES {
        let read = stage.inputs().iter().chain(stage.may_read());
        assert!(read.into_iter().all(|part| so_far.contains(part)), "{}", stage.name());
        so_far.extend(stage.outputs());
    }
    let published = [Part::Golden, Part::Recipe, Part::Test];
    assert!(Part::ALL.iter().all(|part| written.contains(part) || published.contains(part)));
}
