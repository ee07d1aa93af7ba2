//! The Rechead (RPORec, stage I): texts about a shopper learn to find the item that was taken.
//!
//! The texts are fixed. The head learns by a sampled softmax: the item that was taken against others of
//! its slate and against random items of the catalogue. The thought is the shopper's pattern. The answer
//! is the item that the language model predicts, if the recipe has it predict one, and otherwise the item
//! that the shop's counts predict. Some answers are hidden in training, so that it can do without.

use super::reward_model::examples;
use crate::bundle::Part;
use crate::nn::text::TEXT_WIDTH;
use crate::nn::{Rechead, RecheadBatch, RecheadNetwork, RecheadShape, Weights, softmax_loss};
use crate::reranker::order_by_score;
use crate::scorer::{RecheadFile, history_vector, predicted_next_item};
use crate::train::cases::{Case, PredictionTask};
use crate::train::fit::{self, FitConfig};
use crate::train::offline_ladder::{RecheadJudge, ndcg_at_10};
use crate::train::offline_reranker::OfflineReranker;
use crate::train::offline_scorer::OfflineScorer;
use crate::train::recipe::{RecheadRecipe, Recipe};
use crate::train::training_data::TrainingData;
use crate::train::weight::{self, FittedWeight, TaskFigures, WEIGHTS};
use crate::train::{Stage, Workspace};
use anyhow::{Context as _, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// The share of answers that are hidden in training.
const HIDDEN_SHARE: f64 = 0.3;

/// Trains the Rechead.
#[derive(Debug)]
pub struct RecheadStage;

impl Stage for RecheadStage {
    fn name(&self) -> &'static str {
        "rechead"
    }

    fn about(&self) -> &'static str {
        "Trains the Rechead (RPORec: history, thought and answer as texts, a dot product with every item's text)"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape]
    }

    fn may_read(&self) -> &'static [Part] {
        &[Part::SemanticIds, Part::Direct, Part::Decoder]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop", "split", "slates", "reward_model", "rechead"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Rechead, Part::RecheadShape]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.rechead.is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let rechead = recipe.rechead.context("the recipe has no `rechead`")?;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed ^ 4);
        let mut training_cases = examples(&data, &recipe)?;
        training_cases.shuffle(&mut rng);
        training_cases.truncate(rechead.examples_max);
        ensure!(
            !training_cases.is_empty(),
            "no slate of the training time holds an item that was bought"
        );
        let mut validation =
            data.last_cases(recipe.slates.size, &recipe.shop.currency, split.validate, split.test)?;
        let mut answers = Value::Null;
        if rechead.answers {
            let model = OfflineReranker::start(&workspace.path(Part::Decoder), &data.catalog)?;
            let mut predict = |what: &str, cases: &mut [Case]| -> anyhow::Result<f64> {
                let total = cases.len() as u64;
                let show = &mut |done| workspace.progress.show(what, done as u64, total);
                model.expect(cases, show)?;
                Ok(hits(cases))
            };
            let mut taken = serde_json::Map::new();
            taken.insert(
                "examples".into(),
                predict("expecting, examples", &mut training_cases)?.into(),
            );
            for (task, cases) in &mut validation {
                let what = format!("expecting, {}", task.as_str());
                taken.insert(task.as_str().into(), predict(&what, cases)?.into());
            }
            answers = Value::Object(taken);
        }
        let shape = RecheadShape::of(TEXT_WIDTH, rechead.width, rechead.gamma);
        let training =
            RecheadTraining { data: &data, recipe: &rechead, shape: &shape, seed: recipe.seed };
        let trained = training.run(&training_cases, &validation, workspace)?;

        let fitted = training.fit_weight(workspace, &trained.network, &validation)?;
        let file = RecheadFile { weight: fitted.weight, shape };
        std::fs::write(workspace.path(Part::Rechead), trained.weights.to_bytes()?)
            .context("writing the Rechead")?;
        std::fs::write(workspace.path(Part::RecheadShape), toml::to_string(&file)?)
            .context("writing the Rechead's shape")?;
        Ok(json!({
            "examples": training_cases.len(),
            "answers_taken": answers,
            "epochs": trained.epochs.iter().map(|epoch| json!({
                "loss": epoch.loss,
                "validation_ndcg@10": epoch.metric,
            })).collect::<Vec<_>>(),
            "alone_ndcg@10": trained.best,
            "beside_the_scorer": fitted.to_json("ndcg@10"),
        }))
    }
}

/// The share of cases whose predicted item was then taken.
fn hits(cases: &[Case]) -> f64 {
    let hit = |case: &&Case| case.expected_item.is_some_and(|item| case.relevant.contains(&item));
    let share = cases.iter().filter(hit).count() as f64 / cases.len().max(1) as f64;
    (share * 1e4).round() / 1e4
}

/// The inputs of a training.
struct RecheadTraining<'a> {
    data: &'a TrainingData,
    recipe: &'a RecheadRecipe,
    shape: &'a RecheadShape,
    seed: u64,
}

/// The best weights of a training.
struct TrainedRechead {
    weights: Weights,
    network: Rechead,
    best: f64,
    epochs: Vec<fit::Epoch>,
}

type ValidationCases = [(PredictionTask, Vec<Case>)];

impl RecheadTraining<'_> {
    fn run(
        &self,
        examples: &[Case],
        validation: &ValidationCases,
        workspace: &mut Workspace<'_>,
    ) -> anyhow::Result<TrainedRechead> {
        let recipe = self.recipe;
        let variables = self.shape.random(self.seed)?.to_varmap(&Device::Cpu)?;
        let built = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = RecheadNetwork::new(self.shape, &built)?;
        let steps = examples.len().div_ceil(recipe.batch);
        let config = FitConfig {
            epochs: recipe.epochs,
            steps,
            learning_rate: recipe.learning_rate,
            weight_decay: recipe.weight_decay,
            patience: recipe.patience,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 5);
        let mut best: Option<(f64, Weights, Rechead)> = None;
        let loss_of = |step: usize| -> anyhow::Result<Tensor> {
            let start = step % steps * recipe.batch;
            let batch =
                self.batch(&examples[start..examples.len().min(start + recipe.batch)], &mut rng)?;
            let scores = network.forward(&batch)?;
            Ok(softmax_loss(&scores, &scores.ones_like()?)?)
        };
        let validate = |_| -> anyhow::Result<f64> {
            let weights = Weights::from_varmap(&variables)?;
            let served = Rechead::new(&weights, self.shape)?;
            let metric = self.ndcg_alone(&served, validation);
            if best.as_ref().is_none_or(|best| metric > best.0) {
                best = Some((metric, weights, served));
            }
            Ok(metric)
        };
        let total = (config.epochs * steps) as u64;
        let epochs = fit::fit(&variables, config, loss_of, validate, |loss, step| {
            workspace.progress.show_losses("rechead", step as u64, total, &[("loss", loss)]);
        })?;
        let (best, weights, network) = best.context("the recipe allows no epoch")?;
        Ok(TrainedRechead { weights, network, best, epochs })
    }

    /// A batch of these cases. The first candidate of each was taken.
    fn batch(&self, cases: &[Case], rng: &mut ChaCha8Rng) -> candle_core::Result<RecheadBatch> {
        let (recipe, texts) = (self.recipe, self.texts());
        let candidates = 1 + recipe.candidates + recipe.sampled;
        let (mut history, mut thought) = (Vec::new(), Vec::new());
        let (mut answer, mut answered, mut items) = (Vec::new(), Vec::new(), Vec::new());
        for case in cases {
            history.extend(history_vector(&case.history, texts, TEXT_WIDTH));
            let nothing = || vec![0.0; TEXT_WIDTH];
            thought.extend(case.pattern.clone().unwrap_or_else(nothing));
            let cards = &self.data.snapshots[case.snapshot].cards;
            let expects = case.expected_item.or_else(|| predicted_next_item(&case.history, cards));
            let expects = expects.filter(|_| !rng.random_bool(HIDDEN_SHARE));
            answer.extend(expects.map_or_else(nothing, |item| text(texts, item).to_vec()));
            answered.push(if expects.is_some() { 1.0_f32 } else { 0.0 });
            for item in self.candidates(case, rng) {
                items.extend(text(texts, item));
            }
        }
        let rows =
            |values, columns: usize| Tensor::from_vec(values, (cases.len(), columns), &Device::Cpu);
        Ok(RecheadBatch {
            history: rows(history, TEXT_WIDTH)?,
            thought: rows(thought, TEXT_WIDTH)?,
            answer: rows(answer, TEXT_WIDTH)?,
            answered: Tensor::from_vec(answered, cases.len(), &Device::Cpu)?,
            items: rows(items, candidates * TEXT_WIDTH)?.reshape((cases.len(), candidates, ()))?,
        })
    }

    /// One item taken, others of its slate, and random items: the same number for each case.
    fn candidates(&self, case: &Case, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let (taken, others): (Vec<u32>, Vec<u32>) =
            case.slate.iter().copied().partition(|item| case.relevant.contains(item));
        let mut chosen: Vec<u32> = taken.choose(rng).copied().into_iter().collect();
        chosen.extend(others.choose_multiple(rng, self.recipe.candidates));
        let items = self.data.catalog.len() as u32;
        while chosen.len() < 1 + self.recipe.candidates + self.recipe.sampled {
            let item = rng.random_range(0..items);
            // The basket of a very small shop may hold all its items.
            if !case.relevant.contains(&item) || case.relevant.len() >= items as usize {
                chosen.push(item);
            }
        }
        chosen
    }

    /// The NDCG of the Rechead's own order: the mean over tasks.
    fn ndcg_alone(&self, network: &Rechead, validation: &ValidationCases) -> f64 {
        let judge = RecheadJudge::new(network, self.data);
        weight::mean(&sorted_figures(validation, |case| judge.scores(case)))
    }

    /// Fits the weight of its score in the sum with the scorer's.
    fn fit_weight(
        &self,
        workspace: &Workspace<'_>,
        network: &Rechead,
        validation: &ValidationCases,
    ) -> anyhow::Result<FittedWeight> {
        let scorer = OfflineScorer::without_head(workspace)?;
        let judge = RecheadJudge::new(network, self.data);
        let mut below = Vec::new();
        for (_, cases) in validation {
            below.extend(scorer.scores(self.data, cases)?);
        }
        let fused = |weight: f32| {
            let mut below = below.iter();
            sorted_figures(validation, |case| {
                let scores = below.next().into_iter().flatten().zip(judge.scores(case));
                scores.map(|(score, rechead)| score + weight * rechead).collect()
            })
        };
        Ok(weight::fit(&fused(0.0), &WEIGHTS.map(fused), self.seed))
    }

    /// The vectors of all items' texts: (items, e). They don't depend on time.
    fn texts(&self) -> &[f32] {
        &self.data.snapshots[0].cards.item_vectors
    }
}

fn text(texts: &[f32], item: u32) -> &[f32] {
    &texts[item as usize * TEXT_WIDTH..][..TEXT_WIDTH]
}

/// The figures of slates, each sorted by its scores.
fn sorted_figures(
    validation: &ValidationCases,
    mut scores: impl FnMut(&Case) -> Vec<f32>,
) -> TaskFigures {
    let of_task = |(_, cases): &(PredictionTask, Vec<Case>)| {
        let orders: Vec<_> = cases.iter().map(|case| order_by_score(&scores(case))).collect();
        ndcg_at_10(cases, &orders)
    };
    validation.iter().map(of_task).collect()
}
