//! What a bundle is made from, and how: one TOML file.

use super::dataset::Cuts;
use crate::nn::{Ablation, rqvae};
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// How one bundle is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name: its version begins with it.
    pub name: String,
    /// Everything random comes from it.
    pub seed: u64,
    /// The shop.
    pub shop: ShopRecipe,
    /// Where time is cut into training, validation and test.
    pub split: Cuts,
    /// The slates that models are trained and measured on.
    pub slates: SlatesRecipe,
    /// The static text encoder.
    pub text_encoder: TextRecipe,
    /// The semantic ids. Bundles that were made before there were any say nothing of them.
    #[serde(default)]
    pub semantic_ids: rqvae::Plan,
    /// The scorer.
    pub reward_model: RewardRecipe,
    /// How it is measured.
    pub evaluate: EvaluateRecipe,
}

/// Where the shop comes from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShopRecipe {
    /// A folder that `raisonne import` made, relative to the recipe.
    #[serde(default)]
    pub imported: Option<PathBuf>,
    /// Or a shop to simulate.
    #[serde(default)]
    pub simulated: Option<Simulated>,
    /// The sign before prices.
    #[serde(default)]
    pub currency: String,
    /// Whether attributes are mined from titles, for catalogues that have none.
    #[serde(default)]
    pub mine_attributes: bool,
}

/// A shop to simulate.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulated {
    /// How many shoppers.
    pub shoppers: u32,
    /// How many products.
    pub products: u32,
    /// Over how many days.
    pub days: u32,
}

/// The slates that models are trained and measured on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlatesRecipe {
    /// Items of a slate that is served.
    pub size: usize,
    /// Items of a slate that is trained on: more, since only slates that hold what was bought
    /// can teach an order.
    pub train_size: usize,
    /// Days after which the retriever and the cards are made anew.
    pub refresh_days: i64,
    /// Slates of another ranker for each user's very last purchase, to be judged on in place of
    /// our stand-in's: lines of `user<TAB>item item …`, relative to the recipe.
    #[serde(default)]
    pub given: Option<PathBuf>,
}

/// The static text encoder.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextRecipe {
    /// Tokens that the tokenizer may learn.
    pub vocabulary: usize,
    /// Passes over the pairs.
    pub epochs: usize,
    /// Pairs of a batch: each is the others' negative.
    pub batch: usize,
    /// The step of the optimiser.
    pub learning_rate: f64,
    /// What cosines are divided by.
    pub temperature: f64,
    /// Pairs to learn from, at most.
    pub pairs_max: usize,
}

/// The scorer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardRecipe {
    /// What is minimised.
    pub loss: Loss,
    /// Candidates per example: the one taken, and others of its slate.
    pub candidates: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Passes over the examples, at most; 0 keeps the scorer that lies in the working folder, and
    /// only fits its fusion anew.
    pub epochs: usize,
    /// The highest step of the optimiser; it falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The share of numbers dropped on the way up.
    pub dropout: f32,
    /// The share of item ids hidden while training, so that the network learns to do without
    /// (cold items have none).
    pub id_dropout: f64,
    /// Examples from one basket, at most.
    pub per_basket: usize,
    /// Examples in all, at most.
    pub examples_max: usize,
    /// Epochs without a better validation before training stops.
    pub patience: usize,
    /// Layers of the Transformer over the history.
    pub layers: usize,
    /// Parts that are switched off, to see what they are worth.
    #[serde(default)]
    pub ablation: Ablation,
    /// Every item gets the reasons of another one, to see what real ones are worth.
    #[serde(default)]
    pub shuffled_reasons: bool,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Cross-entropy of the one taken against the others of its slate.
    Softmax,
    /// Each candidate by itself.
    Bce,
}

/// How the scorer is measured.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateRecipe {
    /// Resamples of the bootstrap.
    pub resamples: usize,
}

// === impl Recipe ===

impl Recipe {
    /// Reads a recipe, with `overrides` such as `reward_model.loss=bce` laid over it. Paths in
    /// it are taken from where it lies.
    pub fn read(path: &Path, overrides: &[String]) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the recipe {}", path.display()))?;
        let mut table: toml::Table =
            text.parse().with_context(|| format!("reading the recipe {}", path.display()))?;
        for setting in overrides {
            let (key, value) =
                setting.split_once('=').with_context(|| format!("{setting:?} is not KEY=VALUE"))?;
            lay(&mut table, key, value)?;
        }
        let mut recipe: Self =
            table.try_into().with_context(|| format!("reading the recipe {}", path.display()))?;
        anyhow::ensure!(
            recipe.shop.imported.is_some() != recipe.shop.simulated.is_some(),
            "shop: exactly one of `imported` and `simulated` must be given"
        );
        let home = path.parent().unwrap_or(Path::new("."));
        for relative in [&mut recipe.shop.imported, &mut recipe.slates.given].into_iter().flatten()
        {
            *relative = home.join(&*relative);
        }
        Ok(recipe)
    }
}

/// Puts a value at a dotted key: a TOML value, or else a string.
fn lay(table: &mut toml::Table, key: &str, value: &str) -> anyhow::Result<()> {
    let mut path = key.split('.');
    let last = path.next_back().unwrap_or(key);
    let mut table = table;
    for step in path {
        table = table
            .entry(step)
            .or_insert_with(|| toml::Value::Table(toml::Table::new()))
            .as_table_mut()
            .with_context(|| format!("{step} in {key} is not a section"))?;
    }
    let value = format!("value = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut parsed| parsed.remove("value"))
        .unwrap_or_else(|| toml::Value::String(value.into()));
    table.insert(last.into(), value);
    Ok(())
}
