//! The bundle's scorer: a direct path over the features, if the recipe has one, and CURec's reward model, a recommender
//! that reads reasons. The reward model learns what the direct path leaves over.

use crate::bundle::Part;
use crate::domain::Timestamp;
use crate::nn::direct::FusedDirect;
use crate::nn::{self, Ablation, Din, DinShape, Dropout, Weights};
use crate::scorer::{DirectColumns, DirectFile, Fusion, ScorerFile, network_shape};
use crate::train::batch::Batcher;
use crate::train::cases::{Case, PredictionTask};
use crate::train::direct::TrainedDirect;
use crate::train::direct_recipe::DirectRecipe;
use crate::train::direct_slates::{self, DirectTraining};
use crate::train::fit::{self, FitConfig};
use crate::train::fusion_fit::{TaskLogits, ValidationCases};
use crate::train::measure::rounded;
use crate::train::offline_ladder::RecheadJudge;
use crate::train::offline_scorer;
use crate::train::recipe::{Loss, Recipe};
use crate::train::training_data::{ScorerParts, TrainingData};
use crate::train::{Stage, Workspace};
use anyhow::Context as _;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};

/// What the report says of a deep network that validation gives no weight.
const NO_DEEP: &str = "the deep network adds nothing on validation: its logit has weight 0, and it is served for its \
                       attention over the reasons alone";

/// What the report says of a deep network that could get no weight.
const NO_WEIGHTS: &str = "every weight in `direct.deep_weights` is 0: the deep network was not trained, and reasons are \
                          told by their backing";
/// What the report says of a deep network that no epoch trained.
const NO_EPOCHS: &str = "`reward_model.epochs` is 0, and the workspace holds no trained network: the deep network has \
                         weight 0, and reasons are told by their backing";

/// Trains the scorer.
#[derive(Debug)]
pub struct RewardModel;

impl Stage for RewardModel {
    fn name(&self) -> &'static str {
        "reward_model"
    }

    fn about(&self) -> &'static str {
        "Trains the scorer (a direct path over features, and CURec's reward model: reasons, history, target attention, ids) on slates of the shop's ranker"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        scorer_sections!["direct"]
    }

    fn reads_by(&self, recipe: &Recipe) -> &'static [Part] {
        let is_early = recipe.rechead.is_some_and(|rechead| rechead.before_scorer.is_some());
        if is_early { &[Part::Rechead, Part::RecheadShape] } else { &[] }
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Scorer, Part::ScorerShape, Part::Direct]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let recipe = workspace.recipe.clone();
        let begin = scorer_begins(&data, &recipe);
        let mut examples = examples_between(&data, &recipe, begin, split.validate)?;
        anyhow::ensure!(
            !examples.is_empty(),
            "no slate of the training time holds an item that was bought"
        );
        let mut validation =
            data.last_cases(recipe.slates.size, &recipe.shop.currency, split.validate, split.test)?;
        if !self.reads_by(&recipe).is_empty() {
            let cases = validation.iter_mut().flat_map(|(_, cases)| cases).chain(&mut examples);
            read_rechead(workspace, &data, cases)?;
        }
        let shape = shape(&data, &recipe);
        let validation = ValidationCases(&validation);
        let base = match &recipe.direct {
            Some(direct) => Some(direct_path(&data, direct, &examples, validation, workspace)?),
            None => None,
        };
        let training = ScorerTraining {
            data: &data,
            recipe: &recipe,
            shape: &shape,
            validation,
            base: base.as_ref(),
        };
        let trained = training.run(&examples, workspace)?;
        let (fusion, deep_weight) = (trained.fusion, trained.deep_weight);
        let direct = base.as_ref().map(|base| DirectFile { deep_weight, ..base.path.file.clone() });
        std::fs::write(workspace.path(Part::Scorer), trained.weights.to_bytes()?)
            .context("writing the scorer")?;
        write_direct(workspace, base.as_ref())?;
        let (shape, currency) = (trained.shape, recipe.shop.currency.clone());
        let file = ScorerFile { currency, fusion, shape, direct };
        std::fs::write(workspace.path(Part::ScorerShape), toml::to_string(&file)?)
            .context("writing the scorer's shape")?;
        let mut report = json!({
            "examples": examples.len(),
            "validation_cases": validation.0.iter().map(|(task, cases)| (task.as_str(), cases.len())).collect::<std::collections::BTreeMap<_, _>>(),
            "epochs": trained.epochs.iter().map(|epoch| json!({
                "loss": epoch.loss,
                "validation_ndcg@10": epoch.metric,
            })).collect::<Vec<_>>(),
            "given_ndcg@10": validation.given(),
            "fused_ndcg@10": trained.best,
            "prior_weight": fusion.prior_weight,
            "cold_prior_weight": fusion.cold_prior_weight,
            "steps": trained.steps,
        });
        if let Some(base) = &base {
            report["direct"] = base.path.report.clone();
            report["deep_weight"] = json!({
                "chosen": rounded(f64::from(deep_weight)),
                "tried": trained.tried,
                "note": trained.untrained.or((deep_weight == 0.0).then_some(NO_DEEP)),
            });
        }
        Ok(report)
    }
}

/// The direct path, and its logits, which the deep network adds to.
struct DirectBase {
    path: TrainedDirect,
    /// The logits of each example's whole slate.
    examples: Vec<Vec<f32>>,
    validation: TaskLogits,
}

/// Trains the direct path, or keeps that of the workspace, and computes its logits.
fn direct_path(
    data: &TrainingData,
    recipe: &DirectRecipe,
    examples: &[Case],
    validation: ValidationCases<'_>,
    workspace: &mut Workspace<'_>,
) -> anyhow::Result<DirectBase> {
    let kept = (recipe.epochs == 0).then(|| offline_scorer::direct(workspace)).transpose()?;
    let names = match &kept {
        Some((_, file)) => file.inputs.clone(),
        None => recipe.names()?,
    };
    let columns = DirectColumns::of(&names)?;
    let slates = direct_slates::slates(data, &columns, examples);
    let validation_slates = direct_slates::slates_by_task(data, &columns, validation.0);
    let path = if let Some((weights, file)) = kept {
        TrainedDirect { weights, file, report: json!("kept"), out_of_fold: None }
    } else {
        let earlier = data.given_cases(&workspace.recipe.shop.currency)?;
        let adapted_to = direct_slates::slates(data, &columns, &earlier);
        let training = DirectTraining {
            recipe,
            seed: workspace.recipe.seed,
            examples: &slates,
            adapted_to: &adapted_to,
            validation,
            validation_slates: &validation_slates,
        };
        training.run(workspace.progress)?
    };
    let network = FusedDirect::new(&path.weights, &path.file.shape())?;
    Ok(DirectBase {
        examples: direct_slates::logits(&network, &slates)?,
        validation: match &path.out_of_fold {
            Some(logits) => logits.clone(),
            None => direct_slates::logits_by_task(&network, &validation_slates)?,
        },
        path,
    })
}

/// Writes the direct path's weights, or removes those of an earlier recipe.
fn write_direct(workspace: &Workspace<'_>, base: Option<&DirectBase>) -> anyhow::Result<()> {
    let path = workspace.path(Part::Direct);
    if let Some(base) = base {
        return std::fs::write(path, base.path.weights.to_bytes()?)
            .context("writing the direct path");
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).context("removing the direct path of an earlier recipe")
        }
        _ => Ok(()),
    }
}

/// The moment from which on slates teach the scorer: the beginning of the training time, or where the Rechead's part of
/// it ends. So no slate that the scorer learns from has taught the Rechead.
pub fn scorer_begins(data: &TrainingData, recipe: &Recipe) -> Timestamp {
    let split = data.dataset.split;
    let share = recipe.rechead.and_then(|rechead| rechead.before_scorer).unwrap_or(0.0);
    split.train + ((split.validate - split.train) as f64 * share) as Timestamp
}

/// Scores the slates of cases by the workspace's Rechead, for the direct path to read.
fn read_rechead<'a>(
    workspace: &Workspace<'_>,
    data: &TrainingData,
    cases: impl Iterator<Item = &'a mut Case>,
) -> anyhow::Result<()> {
    let rechead = offline_scorer::rechead(workspace)?;
    let (network, _) = rechead.context("the direct path reads a Rechead that is not there")?;
    let judge = RecheadJudge::new(&network, data);
    let cases: Vec<&mut Case> = cases.collect();
    cases.into_par_iter().for_each(|case| case.rechead = judge.scores(case));
    Ok(())
}

/// Slates of the training time with an item that was taken and one that was not. Others teach no order.
pub fn examples(data: &TrainingData, recipe: &Recipe) -> anyhow::Result<Vec<Case>> {
    let split = data.dataset.split;
    examples_between(data, recipe, split.train, split.validate)
}

/// The same of a part of the training time.
pub fn examples_between(
    data: &TrainingData,
    recipe: &Recipe,
    from: Timestamp,
    until: Timestamp,
) -> anyhow::Result<Vec<Case>> {
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
    let mut examples = data.cases(recipe.slates.train_size, &recipe.shop.currency).many(
        from,
        until,
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

/// The shape of a network that was not trained: it reads nothing, so that the reasons are told by their backing.
fn untrained_shape(items: usize) -> DinShape {
    DinShape { layers: 0, ablation: Ablation::ALL_OFF, ..network_shape(items) }
}

/// Whether the workspace holds a scorer whose deep network was trained.
fn holds_trained(workspace: &Workspace<'_>) -> anyhow::Result<bool> {
    if ![Part::Scorer, Part::ScorerShape].iter().all(|part| workspace.path(*part).exists()) {
        return Ok(false);
    }
    let shape = offline_scorer::file(workspace)?.shape;
    Ok(shape != untrained_shape(shape.items))
}

/// The inputs of a training.
struct ScorerTraining<'a> {
    data: &'a TrainingData,
    recipe: &'a Recipe,
    shape: &'a DinShape,
    validation: ValidationCases<'a>,
    /// The direct path, if the recipe has one. The network learns what it leaves over.
    base: Option<&'a DirectBase>,
}

/// The best weights of a training, and the fusion for them.
struct TrainedScorer {
    weights: Weights,
    shape: DinShape,
    /// Why the network was not trained, if it was not.
    untrained: Option<&'static str>,
    fusion: Fusion,
    /// The weight of its logits beside those of the direct path; 1 without one.
    deep_weight: f32,
    /// The weights that were tried, for the report.
    tried: Vec<Value>,
    best: f64,
    epochs: Vec<fit::Epoch>,
    steps: usize,
}

/// The best weight of the deep network, with its metric and fusion.
struct DeepWeight {
    weight: f32,
    best: f64,
    fusion: Fusion,
    tried: Vec<Value>,
}

impl ScorerTraining<'_> {
    fn run(
        &self,
        examples: &[Case],
        workspace: &mut Workspace<'_>,
    ) -> anyhow::Result<TrainedScorer> {
        let recipe = &self.recipe.reward_model;
        if let (Some(base), Some(why)) = (self.base, self.why_untrained(workspace)?) {
            return self.untrained(base, why);
        }
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
        let mut best: Option<(f64, Weights)> = None;
        let seen = seen_items(examples, self.data.catalog.len());
        let loss_of = |step: usize| -> anyhow::Result<Tensor> {
            let start = step % steps * recipe.batch;
            let chosen = start..examples.len().min(start + recipe.batch);
            let cases: Vec<&Case> = examples[chosen.clone()].iter().collect();
            let (batch, shown) = batcher.batch(&cases, &mut rng)?;
            let mut logits = network.forward_train(&batch, &mut dropout)?.logits;
            if let Some(base) = self.base {
                logits = (logits + base_logits(&cases, &base.examples[chosen], &shown)?)?;
            }
            Ok(loss(&logits, recipe.loss)?)
        };
        let validate = |_| -> anyhow::Result<f64> {
            let weights = replace_untrained(Weights::from_varmap(&variables)?, &seen, self.shape);
            let metric = self.validate(&weights)?;
            if best.as_ref().is_none_or(|best| metric > best.0) {
                best = Some((metric, weights));
            }
            Ok(metric)
        };
        let of = (config.epochs * steps) as u64;
        let epochs = fit::fit(&variables, config, loss_of, validate, |loss, step| {
            workspace.progress.show_losses("reward model", step as u64, of, &[("loss", loss)]);
        })?;
        let (_, weights) = best.context("the recipe allows no epoch")?;
        let steps = steps * epochs.len();
        self.finish(weights, epochs, steps)
    }

    /// Why the deep network is not trained, if nothing asks for it. Without a direct path, it is all that scores.
    fn why_untrained(&self, workspace: &Workspace<'_>) -> anyhow::Result<Option<&'static str>> {
        let Some(direct) = &self.recipe.direct else { return Ok(None) };
        if self.recipe.reward_model.epochs == 0 {
            return Ok((!holds_trained(workspace)?).then_some(NO_EPOCHS));
        }
        Ok(direct.deep_weights.iter().all(|weight| *weight == 0.0).then_some(NO_WEIGHTS))
    }

    /// A network of zeros with weight 0 beside the direct path.
    fn untrained(&self, base: &DirectBase, why: &'static str) -> anyhow::Result<TrainedScorer> {
        let shape = untrained_shape(self.shape.items);
        let (best, fusion) = self.validation.fit(&base.validation);
        Ok(TrainedScorer {
            weights: Weights::zeros(&shape)?,
            shape,
            untrained: Some(why),
            fusion,
            deep_weight: 0.0,
            tried: Vec::new(),
            best,
            epochs: Vec::new(),
            steps: 0,
        })
    }

    /// Keeps the weights of the scorer in the workspace, and only fits its fusion.
    fn refit(&self, workspace: &Workspace<'_>) -> anyhow::Result<TrainedScorer> {
        let bytes = std::fs::read(workspace.path(Part::Scorer))
            .context("reading the scorer whose fusion is to be fitted")?;
        self.finish(Weights::from_bytes(&bytes)?, Vec::new(), 0)
    }

    /// Chooses the weight of the trained network, and its fusion.
    fn finish(
        &self,
        weights: Weights,
        epochs: Vec<fit::Epoch>,
        steps: usize,
    ) -> anyhow::Result<TrainedScorer> {
        let chosen = self.deep_weight(&weights)?;
        let DeepWeight { weight: deep_weight, best, fusion, tried } = chosen;
        let (shape, untrained) = (self.shape.clone(), None);
        Ok(TrainedScorer {
            weights,
            shape,
            untrained,
            fusion,
            deep_weight,
            tried,
            best,
            epochs,
            steps,
        })
    }

    /// The NDCG of these weights on validation slates, as the mean over both tasks.
    fn validate(&self, weights: &Weights) -> anyhow::Result<f64> {
        let deep = self.deep_logits(weights)?;
        let logits = self.base.map_or_else(|| deep.clone(), |base| joined(base, &deep, 1.0));
        Ok(self.validation.fit(&logits).0)
    }

    /// The weight of these weights' logits that is best on validation slates; the lowest of those that are equal.
    fn deep_weight(&self, weights: &Weights) -> anyhow::Result<DeepWeight> {
        let deep = self.deep_logits(weights)?;
        let direct = self.recipe.direct.as_ref();
        let (Some(base), Some(recipe)) = (self.base, direct) else {
            let (best, fusion) = self.validation.fit(&deep);
            return Ok(DeepWeight { weight: 1.0, best, fusion, tried: Vec::new() });
        };
        let mut weights = recipe.deep_weights.clone();
        weights.sort_by(f32::total_cmp);
        let fits = weights.iter().map(|&weight| {
            let (best, fusion) = self.validation.fit(&joined(base, &deep, weight));
            (weight, best, fusion)
        });
        let fits: Vec<(f32, f64, Fusion)> = fits.collect();
        let tried = fits.iter().map(|(weight, ndcg, _)| {
            json!({ "weight": rounded(f64::from(*weight)), "ndcg@10": rounded(*ndcg) })
        });
        let tried = tried.collect();
        let best = fits.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best });
        let (weight, best, fusion) = best.context("`direct.deep_weights` is empty")?;
        Ok(DeepWeight { weight, best, fusion, tried })
    }

    /// The network's own logits on validation slates.
    fn deep_logits(&self, weights: &Weights) -> anyhow::Result<TaskLogits> {
        let parts =
            ScorerParts { deep: (weights, self.shape), direct: None, query: None, head: None };
        let of_task = |(_, cases): &(PredictionTask, Vec<Case>)| {
            let scores = self.data.score(&parts, cases)?;
            anyhow::Ok(scores.into_iter().map(|scores| scores.logits).collect())
        };
        self.validation.0.iter().map(of_task).collect()
    }
}

/// The direct path's logits and the deep network's with this weight, on validation slates.
fn joined(base: &DirectBase, deep: &TaskLogits, weight: f32) -> TaskLogits {
    let case = |(direct, deep): (&Vec<f32>, &Vec<f32>)| -> Vec<f32> {
        direct.iter().zip(deep).map(|(direct, deep)| direct + weight * deep).collect()
    };
    let tasks = base.validation.iter().zip(deep);
    tasks.map(|(direct, deep)| direct.iter().zip(deep).map(case).collect()).collect()
}

/// The direct path's logits of the items that were shown, (B, N), from those of the whole slates.
fn base_logits(
    cases: &[&Case],
    logits: &[Vec<f32>],
    shown: &[Vec<u32>],
) -> candle_core::Result<Tensor> {
    let mut values = Vec::new();
    for ((case, logits), shown) in cases.iter().zip(logits).zip(shown) {
        values.extend(shown.iter().map(|item| {
            let place = case.slate.iter().position(|other| other == item);
            place.map_or(0.0, |place| logits[place])
        }));
    }
    let candidates = values.len() / cases.len().max(1);
    Tensor::from_vec(values, (cases.len(), candidates), &Device::Cpu)
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
