//! A recipe so small that a whole training takes seconds.

use raisonne::train::Recipe;
use std::fs;
use std::path::Path;

/// Writes the demo's recipe to `home`, and reads it with small values and the overrides in `set`.
pub fn recipe(home: &Path, set: &[String]) -> Recipe {
    try_recipe(home, set).unwrap()
}

/// The same, or why it is refused.
pub fn try_recipe(home: &Path, set: &[String]) -> anyhow::Result<Recipe> {
    let path = home.join("recipe.toml");
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.toml");
    fs::copy(demo, &path).unwrap();
    let small = SMALL.iter().map(|&setting| setting.to_owned());
    let set: Vec<String> = small.chain(set.iter().cloned()).collect();
    Recipe::read(&path, &set)
}

const SMALL: [&str; 38] = [
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
    "language_model.begin.nothing={ vocabulary = 400, width = 32, layers = 1, heads = 2, kv_heads = 1, head_dim = 16, mlp_width = 48 }",
    "language_model.midtrain.sequences=1",
    "language_model.midtrain.captions=1",
    "language_model.midtrain.personas_max=40",
    "language_model.midtrain.texts_max=40",
    "language_model.midtrain.teaching.epochs=0.5",
    "language_model.compare.at_once=true",
    "language_model.compare.examples_max=60",
    "language_model.compare.rehearsed_max=20",
    "language_model.write.examples_max=40",
    "language_model.write.judged_max=30",
    "language_model.weigh.examples_max=100",
    "language_model.fuse.judged_max=30",
    "language_model.fuse.thought_tokens_max=8",
    "rechead.answers=true",
    "rechead.width=16",
    "rechead.examples_max=200",
    "rechead.sampled=8",
    "rechead.epochs=1",
    "evaluate.resamples=100",
    "evaluate.reason_cases=10",
];
