//! CURec's reward model: a recommender that reads reasons.

use crate::bundle::Part;
use crate::nn::{self, Din, DinShape, Dropout, Weights};
use crate::scorer::{Fusion, PositionPenalty, ScorerFile, network_shape};
use crate::train::batch::Batcher;
use crate::train::cases::{Case, PredictionTask};
use crate::train::fit::{self, Plan};
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

/// What a place in the order given may cost, when the fusion is fitted.
const PRIOR_WEIGHTS: [f32; 12] = [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.5];
/// The figure that the best epoch and the fusion are chosen by: NDCG at this cut.
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

    fn outputs(&self) -> &'static [Part] {
        &[Part::Scorer, Part::ScorerShape]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let recipe = workspace.recipe.clone();
        let examples = examples(&data, &recipe);
        anyhow::ensure!(
            !examples.is_empty(),
            "no slate of the training time holds what was bought"
        );
        let judges =
            data.last_cases(recipe.slates.size, &recipe.shop.currency, split.validate, split.test);
        let shape = shape(&data, &recipe);
        let trained = Training { data: &data, recipe: &recipe, shape: &shape, judges: &judges }
            .run(&examples, workspace)?;
        std::fs::write(workspace.path(Part::Scorer), trained.weights.to_bytes()?)
            .context("writing the scorer")?;
        let file =
            ScorerFile { currency: recipe.shop.currency.clone(), fusion: trained.fusion, shape };
        std::fs::write(workspace.path(Part::ScorerShape), toml::to_string(&file)?)
            .context("writing the scorer's shape")?;
        Ok(json!({
            "examples": examples.len(),
            "validation_cases": judges.iter().map(|(task, cases)| (task.as_str(), cases.len())).collect::<std::collections::BTreeMap<_, _>>(),
            "epochs": trained.epochs.iter().map(|epoch| json!({
                "loss": epoch.loss,
                "validation_ndcg@10": epoch.verdict,
            })).collect::<Vec<_>>(),
            "given_ndcg@10": ndcg(&judges, |case, _| case.slate.clone()),
            "fused_ndcg@10": trained.best,
            "prior_weight": trained.fusion.prior_weight,
            "cold_prior_weight": trained.fusion.cold_prior_weight,
            "steps": trained.steps,
        }))
    }
}

/// Slates of the training time that hold what was bought: the others can't teach an order.
pub fn examples(data: &TrainingData, recipe: &Recipe) -> Vec<Case> {
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
    examples
}

fn shape(data: &TrainingData, recipe: &Recipe) -> DinShape {
    DinShape {
        layers: recipe.reward_model.layers,
        ablation: recipe.reward_model.ablation,
        ..network_shape(data.catalog.len())
    }
}

/// What a training is given.
struct Training<'a> {
    data: &'a TrainingData,
    recipe: &'a Recipe,
    shape: &'a DinShape,
    judges: &'a [(PredictionTask, Vec<Case>)],
}

/// What came of it.
struct Trained {
    weights: Weights,
    fusion: Fusion,
    best: f64,
    epochs: Vec<fit::Epoch>,
    steps: usize,
}

impl Training<'_> {
    fn run(&self, examples: &[Case], workspace: &mut Workspace<'_>) -> anyhow::Result<Trained> {
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
        let plan = Plan {
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
        let judge = |_| -> anyhow::Result<f64> {
            let weights = forget_unseen(Weights::from_varmap(&variables)?, &seen, self.shape);
            let (verdict, fusion) = self.verdict(&weights)?;
            if best.as_ref().is_none_or(|best| verdict > best.0) {
                best = Some((verdict, fusion, weights));
            }
            Ok(verdict)
        };
        let of = (plan.epochs * steps) as u64;
        let epochs = fit::fit(&variables, plan, loss_of, judge, |loss, step| {
            workspace.progress.show_losses("reward model", step as u64, of, &[("loss", loss)]);
        })?;
        let (best, fusion, weights) = best.context("the recipe allows no epoch")?;
        let steps = steps * epochs.len();
        Ok(Trained { weights, fusion, best, epochs, steps })
    }

    /// How good these weights are on validation slates, with the best fusion for them: the mean
    /// over both tasks of NDCG, with the weight that is best for everybody.
    fn verdict(&self, weights: &Weights) -> anyhow::Result<(f64, Fusion)> {
        let mut logits: Vec<Vec<Vec<f32>>> = Vec::new();
        for (_, cases) in self.judges {
            let scores = self.data.score((weights, self.shape), None, cases)?;
            logits.push(scores.into_iter().map(|scores| scores.logits).collect());
        }
        let (verdict, prior) = self.best_prior(&logits, |_| true);
        // Without cold cases every weight is as good as the first, which is none at all.
        let cold = self.judges.iter().flat_map(|(_, cases)| cases).any(Case::is_cold);
        let cold = if cold { self.best_prior(&logits, Case::is_cold).1 } else { prior };
        let fusion = Fusion { prior_weight: prior.weight, cold_prior_weight: cold.weight };
        Ok((verdict, fusion))
    }

    /// The best weight for the cases that are `counted`, and what it gets.
    fn best_prior(
        &self,
        logits: &[Vec<Vec<f32>>],
        counted: fn(&Case) -> bool,
    ) -> (f64, PositionPenalty) {
        let verdicts = PRIOR_WEIGHTS.map(|weight| {
            let prior = PositionPenalty { weight };
            let of_task = |(at, (_, cases)): (usize, &(PredictionTask, Vec<Case>))| {
                let cases = cases.iter().zip(&logits[at]).filter(|(case, _)| counted(case));
                let each = cases.map(|(case, logits)| {
                    let order: Vec<u32> =
                        prior.order(logits).into_iter().map(|place| case.slate[place]).collect();
                    measure::ndcg(&order, &case.relevant, CUT)
                });
                mean(each)
            };
            (mean(self.judges.iter().enumerate().map(of_task)), prior)
        });
        let first = verdicts[0];
        verdicts.into_iter().fold(first, |best, next| if next.0 > best.0 { next } else { best })
    }

    /// Takes the scorer that lies on the workspace as it is, and fits its fusion anew.
    fn refit(&self, workspace: &Workspace<'_>) -> anyhow::Result<Trained> {
        let bytes = std::fs::read(workspace.path(Part::Scorer))
            .context("reading the scorer whose fusion is to be fitted")?;
        let weights = Weights::from_bytes(&bytes)?;
        let (best, fusion) = self.verdict(&weights)?;
        Ok(Trained { weights, fusion, best, epochs: Vec::new(), steps: 0 })
    }
}

fn loss(logits: &Tensor, loss: Loss) -> candle_core::Result<Tensor> {
    let mask = logits.ones_like()?;
    match loss {
        Loss::Softmax => nn::softmax_loss(logits, &mask),
        Loss::Bce => {
            let (slates, candidates) = logits.dims2()?;
            let row: Vec<f32> =
                (0..candidates).map(|place| f32::from(u8::from(place == 0))).collect();
            let labels = Tensor::from_vec(row, (1, candidates), logits.device())?;
            nn::bce_loss(logits, &labels.broadcast_as((slates, candidates))?, &mask)
        }
    }
}

/// Which items stood in a training slate or history: only their ids have learned anything.
fn seen_items(examples: &[Case], items: usize) -> Vec<bool> {
    let mut seen = vec![false; items];
    for case in examples {
        let read = case.history.iter().map(|past| past.item).chain(case.slate.iter().copied());
        read.for_each(|item| seen[item as usize] = true);
    }
    seen
}

/// Gives items that training never saw the row of the unknown item: their own is still noise.
fn forget_unseen(mut weights: Weights, seen: &[bool], shape: &DinShape) -> Weights {
    let Some(rows) = weights.get(nn::ITEM_IDS) else { return weights };
    let mut rows = rows.to_vec();
    let (unknown, known) = rows.split_at_mut(shape.width);
    for (row, _) in known.chunks_mut(shape.width).zip(seen).filter(|(_, seen)| !**seen) {
        row.copy_from_slice(unknown);
    }
    weights.insert(nn::ITEM_IDS, &[shape.items + 1, shape.width], rows);
    weights
}

fn ndcg(judges: &[(PredictionTask, Vec<Case>)], order: impl Fn(&Case, usize) -> Vec<u32>) -> f64 {
    let of_task = |(_, cases): &(PredictionTask, Vec<Case>)| {
        let each = cases
            .iter()
            .enumerate()
            .map(|(at, case)| measure::ndcg(&order(case, at), &case.relevant, CUT));
        mean(each)
    };
    mean(judges.iter().map(of_task))
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    sum / count.max(1) as f64
}
