//! What a bundle is made from, and how: one TOML file.

use super::dataset::Cuts;
use super::learner_config::ComputeDtype;
pub use super::teachers::{EndpointRecipe, TeacherRecipe};
use crate::engine::ComputeDevice;
use crate::nn::decoder::{DecoderConfig, RopeScaling};
use crate::nn::{Ablation, rqvae};
use crate::overlay;
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
    pub semantic_ids: rqvae::RqVaeConfig,
    /// The scorer.
    pub reward_model: RewardRecipe,
    /// The language model. A bundle without one is scored and no more.
    #[serde(default)]
    pub language_model: Option<LanguageModelRecipe>,
    /// The Rechead. A bundle without one has no `scores.rechead`.
    #[serde(default)]
    pub rechead: Option<RecheadRecipe>,
    /// The cards.
    #[serde(default)]
    pub cards: CardsRecipe,
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

/// The Rechead.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecheadRecipe {
    /// Whether the language model says which item it expects each shopper to want.
    #[serde(default)]
    pub answers: bool,
    /// Width of a shopper's and of an item's vector.
    pub width: usize,
    /// How much a thought may correct (RPORec's γ).
    pub gamma: f32,
    /// Examples, at most.
    pub examples_max: usize,
    /// Candidates from the slate beside the one that was taken.
    pub candidates: usize,
    /// Candidates from anywhere in the catalogue.
    pub sampled: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Passes over the examples, at most.
    pub epochs: usize,
    /// The highest step of the optimiser; it falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Epochs without a better validation before training stops.
    pub patience: usize,
}

/// The language model, and how it learns the shop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageModelRecipe {
    /// Where it begins.
    pub begin: Begin,
    /// It learns to read and write the shop's items.
    pub midtrain: MidtrainRecipe,
    /// The share of lessons on slates that carry a synthetic query and profile, so that the model learns to
    /// follow a shopper's query. Both are generated from the history and the item taken. Earlier key: `remark_share`.
    #[serde(alias = "remark_share", default = "LanguageModelRecipe::synthetic_query_share")]
    pub synthetic_query_share: f64,
    /// It learns to compare candidates and to think aloud, if it is to do that.
    #[serde(default)]
    pub compare: Option<CompareRecipe>,
    /// It learns to write cards, if it is to do that.
    #[serde(default)]
    pub write: Option<WriterRecipe>,
    /// It learns to weigh candidates.
    pub weigh: WeighRecipe,
    /// What its word counts.
    pub fuse: FuseRecipe,
}

/// Where a language model begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Begin {
    /// From a Hugging Face folder, relative to the recipe.
    Folder(PathBuf),
    /// From nothing: a Qwen3 of this shape.
    Nothing(Sizes),
}

/// The shape of a language model that is made from nothing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sizes {
    /// Tokens that its tokenizer may learn, those of semantic ids not counted.
    pub vocabulary: usize,
    /// Numbers of a row.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of a layer.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_dim: usize,
    /// Numbers within a layer's MLP.
    pub mlp_width: usize,
}

/// What a language model reads to learn a shop's items.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MidtrainRecipe {
    /// Times that each shopper's log is cut into sequences, each time at other places.
    pub sequences: usize,
    /// Times that each item's text is told, both ways.
    pub captions: usize,
    /// Shoppers in words, at most.
    pub personas_max: usize,
    /// Plain texts, at most.
    pub texts_max: usize,
    /// How the rows of new tokens are learned before everything else, where a model is not made from
    /// nothing.
    #[serde(default)]
    pub new_tokens: Option<TrainingRecipe>,
    /// How it learns.
    pub teaching: TrainingRecipe,
}

/// How a language model learns to compare candidates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareRecipe {
    /// Who thinks aloud, for the model to learn from.
    #[serde(default)]
    pub teacher: TeacherRecipe,
    /// Slates that the teacher thinks about, at most.
    pub examples_max: usize,
    /// Whether it is told which one was taken, where it erred.
    #[serde(default)]
    pub targeted: bool,
    /// Whether an order is also learned without a thought before it, for the *reranked* rung.
    #[serde(default = "CompareRecipe::at_once")]
    pub at_once: bool,
    /// What a token of a thought counts (GR2's λ of reasoning).
    pub thought_weight: f32,
    /// What the label of the candidate that was taken counts (GR2's λ of the order).
    pub first_weight: f32,
    /// What the other labels count: their order is the scorer's, not the shopper's.
    pub order_weight: f32,
    /// Lessons that are learned again while the model learns to weigh, so that it does not forget.
    pub rehearsed_max: usize,
    /// How it learns.
    pub teaching: TrainingRecipe,
}

/// How a language model writes cards.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterRecipe {
    /// Purchases that it learns to give reasons for and to foresee tastes from, at most. It does so while it
    /// learns to weigh.
    pub examples_max: usize,
    /// The latest buyers of an item that it gives reasons for, at most.
    pub buyers_max: usize,
    /// Validation cases of each task that its cards are judged on, at most.
    pub judged_max: usize,
}

/// How a language model learns to weigh candidates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeighRecipe {
    /// Candidates of an example: the one taken, and others of its slate.
    pub candidates: usize,
    /// Examples, at most.
    pub examples_max: usize,
    /// How it learns.
    pub teaching: TrainingRecipe,
}

/// What a language model's word counts when it serves.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseRecipe {
    /// Validation cases of each task that the weights are fitted on, at most.
    pub judged_max: usize,
    /// Candidates that are weighed.
    pub weighed_max: usize,
    /// Candidates that are compared, `OFFERED_MAX` at most.
    pub compared_max: usize,
    /// Tokens that a thought may have.
    pub thought_tokens_max: usize,
    /// Whether nothing may be thought but what can be shown.
    #[serde(default)]
    pub grounded: bool,
}

/// How long and how fast a language model learns.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecipe {
    /// Passes over the lessons.
    pub epochs: f64,
    /// Lessons of a step.
    pub batch: usize,
    /// Rows that a thread calculates at a time.
    #[serde(default = "TrainingRecipe::rows_max")]
    pub rows_max: usize,
    /// The highest step of the optimiser; it rises first and then falls along a cosine.
    pub learning_rate: f64,
    /// What a matrix loses in a step, times the learning rate.
    pub weight_decay: f64,
    /// Numbers of the adapters that are trained in place of everything.
    #[serde(default)]
    pub adapter_rank: Option<usize>,
    /// Whether each layer is calculated twice, to keep little in memory.
    #[serde(default)]
    pub recompute: bool,
    /// What a pass multiplies and keeps: `f32`, or `bf16` where memory is short and time is not.
    #[serde(default)]
    pub dtype: ComputeDtype,
    /// Where passes are calculated: `cpu`, or `cuda:N` for adapters in `bf16`.
    #[serde(default)]
    pub device: ComputeDevice,
}

/// The cards that a bundle ships.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardsRecipe {
    /// The moment that they are written as of, such as `2026-06-01T00:00:00Z`: only events before it
    /// are read. Without one, the end of the log.
    #[serde(default)]
    pub as_of: Option<jiff::Timestamp>,
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
    /// The language model, for a stage that can't do without.
    pub fn language_model(&self) -> anyhow::Result<&LanguageModelRecipe> {
        self.language_model.as_ref().context("the recipe has no `language_model`")
    }

    /// How the language model learns to compare candidates, if there is one and it does.
    pub fn compare(&self) -> Option<&CompareRecipe> {
        self.language_model.as_ref()?.compare.as_ref()
    }

    /// Whether the language model says which item it expects each shopper to want.
    pub fn expects_items(&self) -> bool {
        self.rechead.is_some_and(|of| of.answers)
    }

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
            let path: Vec<_> = key.split('.').collect();
            overlay::set(&mut table, &path, value).with_context(|| format!("setting {key}"))?;
        }
        let mut recipe: Self =
            table.try_into().with_context(|| format!("reading the recipe {}", path.display()))?;
        anyhow::ensure!(
            recipe.shop.imported.is_some() != recipe.shop.simulated.is_some(),
            "shop: exactly one of `imported` and `simulated` must be given"
        );
        let home = path.parent().unwrap_or(Path::new("."));
        let (begin, compare) = match &mut recipe.language_model {
            Some(LanguageModelRecipe { begin, compare, .. }) => (Some(begin), compare.as_mut()),
            None => (None, None),
        };
        let begin = match begin {
            Some(Begin::Folder(folder)) => Some(folder),
            _ => None,
        };
        let teacher = compare.and_then(|compare| compare.teacher.path_mut());
        let paths = [recipe.shop.imported.as_mut(), recipe.slates.given.as_mut(), begin, teacher];
        for relative in paths.into_iter().flatten() {
            *relative = home.join(&*relative);
        }
        Ok(recipe)
    }
}

// === impl Sizes ===

impl Sizes {
    /// A Qwen3 of this shape that knows so many tokens, of which `ends` end a text.
    pub fn config(&self, vocabulary: usize, positions_max: usize, ends: Vec<u32>) -> DecoderConfig {
        DecoderConfig {
            vocabulary,
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            mlp_width: self.mlp_width,
            norm_epsilon: 1e-6,
            head_norms: true,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            tied: true,
            rope_theta: 1e4,
            rope_scaling: RopeScaling::None,
            windows: vec![None; self.layers],
            positions_max,
            ends,
        }
    }
}

// === impl LanguageModelRecipe ===

impl LanguageModelRecipe {
    fn synthetic_query_share() -> f64 {
        0.2
    }
}

// === impl TrainingRecipe ===

impl TrainingRecipe {
    fn rows_max() -> usize {
        2048
    }
}

// === impl CompareRecipe ===

impl CompareRecipe {
    fn at_once() -> bool {
        true
    }
}
