//! The recipe of a bundle: one TOML file.

use super::dataset::SplitShares;
use super::direct_recipe::DirectRecipe;
use super::learner_config::ComputeDtype;
use super::query_recipe::QueryRecipe;
use super::rechead_recipe::RecheadRecipe;
pub use super::teachers::{EndpointRecipe, TeacherRecipe};
pub use super::text_recipe::{DistilRecipe, TextEncoderRecipe, TrainedTextRecipe};
use crate::bundle::Part;
use crate::engine::ComputeDevice;
use crate::nn::decoder::{DecoderConfig, RopeScaling};
use crate::nn::{Ablation, rqvae};
use crate::overlay;
use crate::regular_file::{self, Links, SETTINGS_BYTES_MAX};
use crate::upstream::BlendWeights;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The recipe of one bundle.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The bundle's name: its version begins with it.
    pub name: String,
    /// The seed of everything random.
    pub seed: u64,
    /// The shop.
    pub shop: ShopRecipe,
    /// The split of time into training, validation and test.
    pub split: SplitShares,
    /// The slates that models are trained and evaluated on.
    pub slates: SlatesRecipe,
    /// The text encoder.
    pub text_encoder: TextEncoderRecipe,
    /// The semantic ids. Recipes of bundles older than semantic ids lack this section.
    #[serde(default)]
    pub semantic_ids: rqvae::RqVaeConfig,
    /// The scorer.
    pub reward_model: RewardRecipe,
    /// The direct path of the scorer. A bundle without one has the logits of the deep network alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectRecipe>,
    /// The query path of the scorer. A bundle without one ranks alike with and without a query where it only scores.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<QueryRecipe>,
    /// The language model. A bundle without one has the scored rung only.
    #[serde(default)]
    pub language_model: Option<LanguageModelRecipe>,
    /// The Rechead. A bundle without one has no `scores.rechead`.
    #[serde(default)]
    pub rechead: Option<RecheadRecipe>,
    /// The cards.
    #[serde(default)]
    pub cards: CardsRecipe,
    /// The evaluation.
    pub evaluate: EvaluateRecipe,
}

/// The source of the shop.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShopRecipe {
    /// A folder that `raisonne import` wrote, relative to the recipe.
    #[serde(default)]
    pub imported: Option<PathBuf>,
    /// A shop to simulate instead.
    #[serde(default)]
    pub simulated: Option<Simulated>,
    /// The currency sign, which is written before prices.
    #[serde(default)]
    pub currency: String,
    /// Whether attributes are mined from titles by the lexicon of household goods: colour, material, motif and type.
    /// Without this key, a shop whose items have fewer than two attributes in the mean gets the words that titles share as
    /// attributes. `false` leaves the catalogue as it is.
    #[serde(default)]
    pub mine_attributes: Option<bool>,
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

/// The slates that models are trained and evaluated on.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlatesRecipe {
    /// Items of an evaluated slate, as many as are served.
    pub size: usize,
    /// Items of a training slate. It is longer, since only a slate with a bought item teaches an order.
    pub train_size: usize,
    /// Days between two snapshots of the retriever and the cards.
    pub refresh_days: i64,
    /// A file with slates of another ranker for each user's very last purchase, relative to the recipe:
    /// lines of `user<TAB>item item …`. Models are evaluated on these slates instead of the retriever's.
    #[serde(default)]
    pub given: Option<PathBuf>,
    /// The retriever that stands for the shop's ranker, in training and evaluation alike.
    #[serde(default)]
    pub retriever: RetrieverKind,
    /// How much each list of the blended retriever counts, if not the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blend: Option<BlendWeights>,
}

/// A retriever that stands for the shop's own ranker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetrieverKind {
    /// Co-purchase neighbours, filled up with popular items, as of the latest snapshot.
    #[default]
    ItemKnn,
    /// Co-purchases, recent popularity, alike titles and earlier purchases, merged by reciprocal rank, with counts of
    /// the day before.
    Blended,
}

/// The scorer.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardRecipe {
    /// The loss.
    pub loss: Loss,
    /// Candidates of an example: the one taken, and others of its slate.
    pub candidates: usize,
    /// Examples of a batch.
    pub batch: usize,
    /// Epochs, at most. 0 keeps the weights of the scorer in the workspace, and only fits its fusion.
    pub epochs: usize,
    /// The highest learning rate; it falls along a cosine.
    pub learning_rate: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The dropout rate.
    pub dropout: f32,
    /// The share of item ids that are hidden in training, so that the network learns to rank cold items,
    /// which have none.
    pub id_dropout: f64,
    /// Examples from one basket, at most.
    pub per_basket: usize,
    /// Examples in all, at most.
    pub examples_max: usize,
    /// Epochs without a better validation metric after which training stops.
    pub patience: usize,
    /// Transformer layers over the history.
    pub layers: usize,
    /// Parts of the network that are switched off, for an ablation.
    #[serde(default)]
    pub ablation: Ablation,
    /// Whether every item gets the reasons of another one, for an ablation.
    #[serde(default)]
    pub shuffled_reasons: bool,
}

/// The loss of the scorer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// Softmax cross-entropy of the item taken against the others of its slate.
    Softmax,
    /// Binary cross-entropy of each candidate.
    Bce,
}

/// The language model, and its training.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LanguageModelRecipe {
    /// The model to start from.
    pub begin: BaseModel,
    /// Mid-training: it learns to read and write the shop's items.
    pub midtrain: MidtrainRecipe,
    /// The share of lessons on slates that carry a synthetic query and profile, so that the model learns to
    /// follow a shopper's query. Both are generated from the history and the item taken. Earlier key: `remark_share`.
    #[serde(alias = "remark_share", default = "LanguageModelRecipe::synthetic_query_share")]
    pub synthetic_query_share: f64,
    /// It learns to compare candidates and to write thoughts, unless this is missing.
    #[serde(default)]
    pub compare: Option<CompareRecipe>,
    /// It learns to write cards, unless this is missing.
    #[serde(default)]
    pub write: Option<WriterRecipe>,
    /// It learns to weigh candidates.
    pub weigh: WeighRecipe,
    /// The fusion of its scores.
    pub fuse: FuseRecipe,
}

/// The model that a language model's training starts from.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BaseModel {
    /// A Hugging Face folder, relative to the recipe.
    Folder(PathBuf),
    /// A Qwen3 of this shape with random weights.
    #[serde(rename = "nothing")]
    Scratch(DecoderSizes),
}

/// The shape of a language model with random weights.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderSizes {
    /// The vocabulary size of its tokenizer, without the tokens of semantic ids.
    pub vocabulary: usize,
    /// The hidden size.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Attention heads of a layer.
    pub heads: usize,
    /// Key and value heads of a layer.
    pub kv_heads: usize,
    /// The size of a head.
    pub head_dim: usize,
    /// The inner size of a layer's MLP.
    pub mlp_width: usize,
}

/// The mid-training of a language model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MidtrainRecipe {
    /// Times that each shopper's log is cut into sequences, each time at other positions.
    pub sequences: usize,
    /// Lessons of each item's text, in both directions: id to text, and text to id.
    pub captions: usize,
    /// Texts about shoppers, at most.
    pub personas_max: usize,
    /// Plain texts, at most.
    pub texts_max: usize,
    /// The training of the new tokens' rows alone, before everything else, if the model starts from a
    /// folder.
    #[serde(default)]
    pub new_tokens: Option<TrainingRecipe>,
    /// The training.
    pub teaching: TrainingRecipe,
}

/// Supervised fine-tuning to compare candidates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompareRecipe {
    /// The teacher that writes the thoughts to learn from.
    #[serde(default)]
    pub teacher: TeacherRecipe,
    /// Slates that the teacher receives, at most.
    pub examples_max: usize,
    /// Whether the teacher receives the item that was taken, if its first answer was wrong.
    #[serde(default)]
    pub targeted: bool,
    /// Whether the model also learns to order without a thought, for the *reranked* rung.
    #[serde(default = "CompareRecipe::at_once")]
    pub at_once: bool,
    /// The weight of a thought's tokens (GR2's λ of reasoning).
    pub thought_weight: f32,
    /// The weight of the label of the candidate that was taken (GR2's λ of the order).
    pub first_weight: f32,
    /// The weight of the other labels. Their order is the scorer's, not the shopper's.
    pub order_weight: f32,
    /// Lessons that are repeated in the training to weigh, so that the model does not forget them.
    pub rehearsed_max: usize,
    /// The training.
    pub teaching: TrainingRecipe,
}

/// The training to write cards, and the writing.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriterRecipe {
    /// Purchases to learn reasons and tastes from, at most. Their lessons are part of the training to
    /// weigh.
    pub examples_max: usize,
    /// The latest buyers of an item to write reasons for, at most.
    pub buyers_max: usize,
    /// Validation cases of each task that its cards are evaluated on, at most.
    pub judged_max: usize,
}

/// The training to weigh candidates.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeighRecipe {
    /// Candidates of an example: the one taken, and others of its slate.
    pub candidates: usize,
    /// Examples, at most.
    pub examples_max: usize,
    /// The training.
    pub teaching: TrainingRecipe,
}

/// The fusion of the language model's scores, and the sizes of its rungs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FuseRecipe {
    /// Validation cases of each task that the weights are fitted on, at most.
    pub judged_max: usize,
    /// Candidates that are weighed.
    pub weighed_max: usize,
    /// Candidates that are compared, `OFFERED_MAX` at most.
    pub compared_max: usize,
    /// Tokens of a thought, at most.
    pub thought_tokens_max: usize,
    /// Whether a thought is constrained to what the cards and the history show.
    #[serde(default)]
    pub grounded: bool,
}

/// The hyperparameters of one training of a language model.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRecipe {
    /// Epochs over the lessons.
    pub epochs: f64,
    /// Lessons of a step.
    pub batch: usize,
    /// Rows (tokens) that a thread computes at a time, at most.
    #[serde(alias = "rows_max", default = "TrainingRecipe::max_batched_tokens")]
    pub max_batched_tokens: usize,
    /// The highest learning rate. It rises first, then falls along a cosine.
    pub learning_rate: f64,
    /// The weight decay of matrices.
    pub weight_decay: f64,
    /// The rank of LoRA adapters. Without it, all parameters are trained.
    #[serde(default)]
    pub adapter_rank: Option<usize>,
    /// Whether each layer is computed again in the backward pass, to save memory (gradient checkpointing).
    #[serde(default)]
    pub recompute: bool,
    /// The dtype of products and activations: `f32`, or `bf16`, which saves memory and costs time.
    #[serde(default)]
    pub dtype: ComputeDtype,
    /// The device: `cpu`, or `cuda:N` for adapters in `bf16`.
    #[serde(default)]
    pub device: ComputeDevice,
}

/// The cards of a bundle.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardsRecipe {
    /// The as-of time of the cards, such as `2026-06-01T00:00:00Z`: only earlier events are read. By
    /// default it is the end of the log.
    #[serde(default)]
    pub as_of: Option<jiff::Timestamp>,
}

/// The evaluation.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateRecipe {
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Whether the bundle keeps the shop, so that `raisonne eval` needs no other data. Off by default: histories of
    /// shoppers are personal data.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_test: bool,
    /// Hours by which live counts lag behind each case, to see how the order suffers. 0 by default: as served.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub counts_age_hours: f64,
    /// Cases of each task whose told reasons are judged, at most; [`REASON_CASES`] by default.
    #[serde(default = "reason_cases", skip_serializing_if = "is_default_of_reasons")]
    pub reason_cases: usize,
}

/// Cases whose told reasons are judged, if a recipe does not say how many.
pub const REASON_CASES: usize = 500;

fn reason_cases() -> usize {
    REASON_CASES
}

/// Whether a number of cases is the default, so that it need not be written.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_default_of_reasons(cases: &usize) -> bool {
    *cases == REASON_CASES
}

/// Whether a number is zero, so that it need not be written.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

// === impl Recipe ===

impl Recipe {
    /// The language model's section. An error if there is none.
    pub fn language_model(&self) -> anyhow::Result<&LanguageModelRecipe> {
        self.language_model.as_ref().context("the recipe has no `language_model`")
    }

    /// The section on comparing, if the recipe has one.
    pub fn compare(&self) -> Option<&CompareRecipe> {
        self.language_model.as_ref()?.compare.as_ref()
    }

    /// Whether a bundle of this recipe may hold a part, or is made with it. A workspace may hold others,
    /// which an earlier run with another recipe left.
    pub fn asks_for(&self, part: Part) -> bool {
        match part {
            Part::Direct => self.direct.is_some(),
            Part::Query | Part::QueryShape => self.query.is_some(),
            Part::Rechead | Part::RecheadShape => self.rechead.is_some(),
            Part::Midtrained | Part::Decoder | Part::Reranker => self.language_model.is_some(),
            Part::Traces | Part::Compared => self.compare().is_some(),
            Part::Test => self.evaluate.keep_test,
            Part::TextBert => matches!(self.text_encoder, TextEncoderRecipe::Bert(_)),
            Part::ItemVectors => !self.text_encoder.is_trained(),
            _ => true,
        }
    }

    /// Whether the language model predicts an item for each shopper.
    pub fn expects_items(&self) -> bool {
        self.rechead.is_some_and(|of| of.answers)
    }

    /// Reads a recipe, and applies `overrides` such as `reward_model.loss=bce`. Paths in it are relative
    /// to its folder.
    pub fn read(path: &Path, overrides: &[String]) -> anyhow::Result<Self> {
        let text = regular_file::read_to_string(path, Links::Followed, SETTINGS_BYTES_MAX)
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
        if let Some(direct) = &recipe.direct {
            direct.check()?;
        }
        if let Some(rechead) = &recipe.rechead {
            rechead.check(recipe.direct.as_ref())?;
        } else if let Some(direct) = &recipe.direct {
            RecheadRecipe::check_absent(direct)?;
        }
        if let Some(query) = &recipe.query {
            query.check()?;
        }
        recipe.text_encoder.check()?;
        let home = path.parent().unwrap_or(Path::new("."));
        let (begin, compare) = match &mut recipe.language_model {
            Some(LanguageModelRecipe { begin, compare, .. }) => (Some(begin), compare.as_mut()),
            None => (None, None),
        };
        let begin = match begin {
            Some(BaseModel::Folder(folder)) => Some(folder),
            _ => None,
        };
        let teacher = compare.and_then(|compare| compare.teacher.path_mut());
        let paths = [recipe.shop.imported.as_mut(), recipe.slates.given.as_mut(), begin, teacher];
        let encoders = recipe.text_encoder.folders_mut();
        for relative in paths.into_iter().flatten().chain(encoders) {
            *relative = home.join(&*relative);
        }
        Ok(recipe)
    }
}

// === impl DecoderSizes ===

impl DecoderSizes {
    /// The configuration of a Qwen3 of this shape. The tokens `ends` end a text.
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
    fn max_batched_tokens() -> usize {
        2048
    }
}

// === impl CompareRecipe ===

impl CompareRecipe {
    fn at_once() -> bool {
        true
    }
}
