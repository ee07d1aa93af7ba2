//! CURec's reward model: a recommender that reads reasons. It is the bundle's scorer.

use crate::bundle::Part;
use crate::nn::{self, Din, DinShape, Dropout, Weights};
use crate::scorer::{Fusion, PositionPenalty, ScorerFile, network_shape};
use crate::train::batch::Batcher;
use crate::train::cases::{Case, PredictionTask};
use crate::train::fit::{self, FitConfig};
use crate::train::measure;
use crate::train::recipe::{Loss, Recipe};
use crate::train::training_data::TrainingData;
use crate::train::{Stage, Workspace};
use anyhow::Context as _;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Weights of the position penalty that are tried when the fusion is fitted.
const PRIOR_WEIGHTS: [f32; 12] = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5];
/// The cut of the NDCG that the best epoch and the fusion are chosen by.
const CUT: usize = 10;

/// Trains the scorer.
#[derive(Debug)]
pub struct RewardModel;

impl Stage for RewardModel {
    fn name(&self) -> &'static str {
        "reward_model"
    }

    fn about(&self) -> &'static str {
        "Trains the scorer (CURec's reward model: reasons, history, target attention, ids) on slates of the shop's ranker"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop", "split", "slates", "reward_model"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Scorer, Part::ScorerShape]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let recipe = workspace.recipe.clone();
        let examples = examples(&data, &recipe)?;
        anyhow::ensure!(
            !examples.is_empty(),
            "no slate of the training time holds an item that was bought"
        );
        let validation =
            data.last_cases(recipe.slates.size, &recipe.shop.currency, split.validate, split.test)?;
        let shape = shape(&data, &recipe);
        let trained =
            ScorerTraining { data: &data, recipe: &recipe, shape: &shape, validation: &validation }
                .run(&examples, workspace)?;
        std::fs::write(workspace.path(Part::Scorer), trained.weights.to_bytes()?)
            .context("writing the scorer")?;
        let file =
            ScorerFile { currency: recipe.shop.currency.clone(), fusion: trained.fusion, shape };
        std::fs::write(workspace.path(Part::ScorerShape), toml::to_string(&file)?)
            .context("writing the scorer's shape")?;
        Ok(json!({
            "examples": examples.len(),
            "validation_cases": validation.iter().map(|(task, cases)| (task.as_str(), cases.len())).collect::<std::collections::BTreeMap<_, _>>(),
            "epochs": trained.epochs.iter().map(|epoch| json!({
                "loss": epoch.loss,
                "validation_ndcg@10": epoch.metric,
            })).collect::<Vec<_>>(),
            "given_ndcg@10": ndcg(&validation, |case, _| case.slate.clone()),
            "fused_ndcg@10": trained.best,
            "prior_weight": trained.fusion.prior_weight,
            "cold_prior_weight": trained.fusion.cold_prior_weight,
            "steps": trained.steps,
        }))
    }
}

/// Slates of the training time with an item that was taken and one that was not. Others teach no order.
pub fn examples(data: &TrainingData, recipe: &Recipe) -> anyhow::Result<Vec<Case>> {
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
    let split = data.dataset.split;
    let mut examples = data.cases(recipe.slates.train_size, &recipe.shop.currency).many(
        split.train,
        split.validate,
        recipe.reward_model.per_basket,
        &mut rng,
    );
    examples.retain(|case| {
        let taken = case.slate.iter().filter(|item| case.relevant.contains(item)).count();
        taken > 0 && taken < case.slate.len()
    });
    examples.truncate(recipe.reward_model.examples_max);
    data.count_live(&mut examples)?;
    Ok(examples)
}

fn shape(data: &TrainingData, recipe: &Recipe) -> DinShape {
    DinShape {
        layers: recipe.reward_model.layers,
        ablation: recipe.reward_model.ablation,
        ..network_shape(data.catalog.len())
    }
}

/// The inputs of a training.
struct ScorerTraining<'a> {
    data: &'a TrainingData,
    recipe: &'a Recipe,
    shape: &'a DinShape,
    validation: &'a [(PredictionTask, Vec<Case>)],
}

/// The best weights of a training, and the fusion for them.
struct TrainedScorer {
    weights: Weights,
    fusion: Fusion,
    best: f64,
    epochs: Vec<fit::Epoch>,
    steps: usize,
}

impl ScorerTraining<'_> {
    fn run(
        &self,
        examples: &[Case],
        workspace: &mut Workspace<'_>,
    ) -> anyhow::Result<TrainedScorer> {
        let recipe = &self.recipe.reward_model;
        if recipe.epochs == 0 {
            return self.refit(workspace);
        }
        let variables = Weights::random(self.shape, self.recipe.seed)?.to_varmap(&Device::Cpu)?;
        let built = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = Din::new(self.shape, &built)?;
        let rng = ChaCha8Rng::seed_from_u64(self.recipe.seed ^ 2);
        let mut dropout = Dropout { rate: recipe.dropout, rng };
        let batcher = Batcher {
            catalog: &self.data.catalog,
            users: &self.data.dataset.users,
            snapshots: &self.data.snapshots,
            shape: self.shape.clone(),
            candidates: recipe.candidates,
            id_dropout: recipe.id_dropout,
        };
        let steps = examples.len().div_ceil(recipe.batch);
        let config = FitConfig {
            epochs: recipe.epochs,
            steps,
            learning_rate: recipe.learning_rate,
            weight_decay: recipe.weight_decay,
            patience: recipe.patience,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.seed ^ 1);
        let mut best: Option<(f64, Fusion, Weights)> = None;
        let seen = seen_items(examples, self.data.catalog.len());
        let loss_of = |step: usize| -> anyhow::Result<Tensor> {
            let start = step % steps * recipe.batch;
            let cases: Vec<&Case> =
                examples[start..examples.len().min(start + recipe.batch)].iter().collect();
            let batch = batcher.batch(&cases, &mut rng)?;
            let logits = network.forward_train(&batch, &mut dropout)?.logits;
            Ok(loss(&logits, recipe.loss)?)
        };
        let validate = |_| -> anyhow::Result<f64> {
            let weights = replace_untrained(Weights::from_varmap(&variables)?, &seen, self.shape);
            let (metric, fusion) = self.validate(&weights)?;
            if best.as_ref().is_none_or(|best| metric > best.0) {
                best = Some((metric, fusion, weights));
            }
            Ok(metric)
        };
        let of = (config.epochs * steps) as u64;
        let epochs = fit::fit(&variables, config, loss_of, validate, |loss, step| {
            workspace.progress.show_losses("reward model", step as u64, of, &[("loss", loss)]);
        })?;
        let (best, fusion, weights) = best.context("the recipe allows no epoch")?;
        let steps = steps * epochs.len();
        Ok(TrainedScorer { weights, fusion, best, epochs, steps })
    }

    /// The NDCG of these weights on validation slates, as the mean over both tasks, with the position
    /// penalty that is best for all shoppers; and the best fusion.
    fn validate(&self, weights: &Weights) -> anyhow::Result<(f64, Fusion)> {
        let mut logits: Vec<Vec<Vec<f32>>> = Vec::new();
        for (_, cases) in self.validation {
            let scores = self.data.score((weights, self.shape), None, cases)?;
            logits.push(scores.into_iter().map(|scores| scores.logits).collect());
        }
        let (ndcg, prior) = self.best_prior(&logits, |_| true);
        // Without cold cases, every weight is equally good, and the first one is 0.
        let cold = self.validation.iter().flat_map(|(_, cases)| cases).any(Case::is_cold);
        let cold = if cold { self.best_prior(&logits, Case::is_cold).1 } else { prior };
        let fusion = Fusion { prior_weight: prior.weight, cold_prior_weight: cold.weight };
        Ok((ndcg, fusion))
    }

    /// The best position penalty for the cases that `counts` selects, and its NDCG.
    fn best_prior(
        &self,
        logits: &[Vec<Vec<f32>>],
        counts: fn(&Case) -> bool,
    ) -> (f64, PositionPenalty) {
        let scored = PRIOR_WEIGHTS.map(|weight| {
            let prior = PositionPenalty { weight };
            let of_task = |(at, (_, cases)): (usize, &(PredictionTask, Vec<Case>))| {
                let cases = cases.iter().zip(&logits[at]).filter(|(case, _)| counts(case));
                let each = cases.map(|(case, logits)| {
                    let order: Vec<u32> =
                        prior.order(logits).into_iter().map(|index| case.slate[index]).collect();
                    measure::ndcg(&order, &case.relevant, CUT)
                });
                mean(each)
            };
            (mean(self.validation.iter().enumerate().map(of_task)), prior)
        });
        let first = scored[0];
        scored.into_iter().fold(first, |best, next| if next.0 > best.0 { next } else { best })
    }

    /// Keeps the weights of the scorer in the workspace, and only fits its fusion.
    fn refit(&self, workspace: &Workspace<'_>) -> anyhow::Result<TrainedScorer> {
        let bytes = std::fs::read(workspace.path(Part::Scorer))
            .context("reading the scorer whose fusion is to be fitted")?;
        let weights = Weights::from_bytes(&bytes)?;
        let (best, fusion) = self.validate(&weights)?;
        Ok(TrainedScorer { weights, fusion, best, epochs: Vec::new(), steps: 0 })
    }
}

fn loss(logits: &Tensor, loss: Loss) -> candle_core::Result<Tensor> {
    let mask = logits.ones_like()?;
    match loss {
        Loss::Softmax => nn::softmax_loss(logits, &mask),
        Loss::Bce => {
            let (slates, candidates) = logits.dims2()?;
            let row: Vec<f32> =
                (0..candidates).map(|index| f32::from(u8::from(index == 0))).collect();
            let labels = Tensor::from_vec(row, (1, candidates), logits.device())?;
            nn::bce_loss(logits, &labels.broadcast_as((slates, candidates))?, &mask)
        }
    }
}

/// Whether each item is in a training slate or history. Only those have trained id embeddings.
fn seen_items(examples: &[Case], items: usize) -> Vec<bool> {
    let mut seen = vec![false; items];
    for case in examples {
        let read = case.history.iter().map(|event| event.item).chain(case.slate.iter().copied());
        read.for_each(|item| seen[item as usize] = true);
    }
    seen
}

/// Replaces the id embeddings of untrained items, which are still random, by the unknown item's.
fn replace_untrained(mut weights: Weights, seen: &[bool], shape: &DinShape) -> Weights {
    let Some(rows) = weights.get(nn::ITEM_IDS) else { return weights };
    let mut rows = rows.to_vec();
    let (unknown, known) = rows.split_at_mut(shape.width);
    for (row, _) in known.chunks_mut(shape.width).zip(seen).filter(|(_, seen)| !**seen) {
        row.copy_from_slice(unknown);
    }
    weights.insert(nn::ITEM_IDS, &[shape.items + 1, shape.width], rows);
    weights
}

fn ndcg(
    validation: &[(PredictionTask, Vec<Case>)],
    order: impl Fn(&Case, usize) -> Vec<u32>,
) -> f64 {
    let of_task = |(_, cases): &(PredictionTask, Vec<Case>)| {
        let each = cases
            .iter()
            .enumerate()
            .map(|(at, case)| measure::ndcg(&order(case, at), &case.relevant, CUT));
        mean(each)
    };
    mean(validation.iter().map(of_task))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    sum / count.max(1) as f64
}
