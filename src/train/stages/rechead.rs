//! The Rechead (RPORec, stage I): texts about a shopper learn to find the item that was taken.
//!
//! What was written is fixed, and the head learns from it with a sampled softmax: the item that was
//! taken against others of its slate and against items from anywhere in the catalogue. The thought is the
//! shopper's pattern; the answer is the item that the language model expects, if the recipe asks it, and
//! what the shop's own counts foresee otherwise. Some answers are hidden while it learns, so that it can
//! do without.

use super::reward_model::examples;
use crate::bundle::Part;
use crate::nn::text::TEXT_WIDTH;
use crate::nn::{Rechead, RecheadBatch, RecheadNetwork, RecheadShape, Weights, softmax_loss};
use crate::reranker::order_by_score;
use crate::scorer::{RecheadFile, history_vector, predicted_next_item};
use crate::train::cases::{Case, PredictionTask};
use crate::train::fit::{self, Plan};
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

/// The share of answers that are hidden while it learns.
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

    fn outputs(&self) -> &'static [Part] {
        &[Part::Rechead, Part::RecheadShape]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.rechead.is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let of = recipe.rechead.context("the recipe has no `rechead`")?;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed ^ 4);
        let mut taught = examples(&data, &recipe);
        taught.shuffle(&mut rng);
        taught.truncate(of.examples_max);
        ensure!(!taught.is_empty(), "no slate of the training time holds what was bought");
        let mut judged =
            data.last_cases(recipe.slates.size, &recipe.shop.currency, split.validate, split.test);
        let mut answers = Value::Null;
        if of.answers {
            let model = OfflineReranker::start(&workspace.path(Part::Decoder), &data.catalog)?;
            let mut ask = |what: &str, cases: &mut [Case]| -> anyhow::Result<f64> {
                let total = cases.len() as u64;
                let show = &mut |done| workspace.progress.show(what, done as u64, total);
                model.expect(cases, show)?;
                Ok(hits(cases))
            };
            let mut told = serde_json::Map::new();
            told.insert("examples".into(), ask("expecting, examples", &mut taught)?.into());
            for (task, cases) in &mut judged {
                let what = format!("expecting, {}", task.as_str());
                told.insert(task.as_str().into(), ask(&what, cases)?.into());
            }
            answers = Value::Object(told);
        }
        let shape = RecheadShape::of(TEXT_WIDTH, of.width, of.gamma);
        let training = Training { data: &data, of: &of, shape: &shape, seed: recipe.seed };
        let trained = training.run(&taught, &judged, workspace)?;

        let fitted = training.weigh(workspace, &trained.network, &judged)?;
        let file = RecheadFile { weight: fitted.weight, shape };
        std::fs::write(workspace.path(Part::Rechead), trained.weights.to_bytes()?)
            .context("writing the Rechead")?;
        std::fs::write(workspace.path(Part::RecheadShape), toml::to_string(&file)?)
            .context("writing the Rechead's shape")?;
        Ok(json!({
            "examples": taught.len(),
            "answers_taken": answers,
            "epochs": trained.epochs.iter().map(|epoch| json!({
                "loss": epoch.loss,
                "validation_ndcg@10": epoch.verdict,
            })).collect::<Vec<_>>(),
            "alone_ndcg@10": trained.best,
            "beside_the_scorer": fitted.to_json("ndcg@10"),
        }))
    }
}

/// How many of the items that were expected were then taken.
fn hits(cases: &[Case]) -> f64 {
    let hit = |case: &&Case| case.expected_item.is_some_and(|item| case.relevant.contains(&item));
    let share = cases.iter().filter(hit).count() as f64 / cases.len().max(1) as f64;
    (share * 1e4).round() / 1e4
}

/// What a training is given.
struct Training<'a> {
    data: &'a TrainingData,
    of: &'a RecheadRecipe,
    shape: &'a RecheadShape,
    seed: u64,
}

/// What came of it.
struct Trained {
    weights: Weights,
    network: Rechead,
    best: f64,
    epochs: Vec<fit::Epoch>,
}

type Judged = [(PredictionTask, Vec<Case>)];

impl Training<'_> {
    fn run(
        &self,
        examples: &[Case],
        judged: &Judged,
        workspace: &mut Workspace<'_>,
    ) -> anyhow::Result<Trained> {
        let of = self.of;
        let variables = self.shape.random(self.seed)?.to_varmap(&Device::Cpu)?;
        let built = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = RecheadNetwork::new(self.shape, &built)?;
        let steps = examples.len().div_ceil(of.batch);
        let plan = Plan {
            epochs: of.epochs,
            steps,
            learning_rate: of.learning_rate,
            weight_decay: of.weight_decay,
            patience: of.patience,
        };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 5);
        let mut best: Option<(f64, Weights, Rechead)> = None;
        let loss_of = |step: usize| -> anyhow::Result<Tensor> {
            let start = step % steps * of.batch;
            let batch =
                self.batch(&examples[start..examples.len().min(start + of.batch)], &mut rng)?;
            let scores = network.forward(&batch)?;
            Ok(softmax_loss(&scores, &scores.ones_like()?)?)
        };
        let judge = |_| -> anyhow::Result<f64> {
            let weights = Weights::from_varmap(&variables)?;
            let served = Rechead::new(&weights, self.shape)?;
            let verdict = self.alone(&served, judged);
            if best.as_ref().is_none_or(|best| verdict > best.0) {
                best = Some((verdict, weights, served));
            }
            Ok(verdict)
        };
        let total = (plan.epochs * steps) as u64;
        let epochs = fit::fit(&variables, plan, loss_of, judge, |loss, step| {
            workspace.progress.show_losses("rechead", step as u64, total, &[("loss", loss)]);
        })?;
        let (best, weights, network) = best.context("the recipe allows no epoch")?;
        Ok(Trained { weights, network, best, epochs })
    }

    /// Texts of some examples, and candidates of which the first was taken.
    fn batch(&self, cases: &[Case], rng: &mut ChaCha8Rng) -> candle_core::Result<RecheadBatch> {
        let (of, texts) = (self.of, self.texts());
        let candidates = 1 + of.candidates + of.sampled;
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

    /// The one taken, others of its slate, and items from anywhere: as many for each case.
    fn candidates(&self, case: &Case, rng: &mut ChaCha8Rng) -> Vec<u32> {
        let (taken, others): (Vec<u32>, Vec<u32>) =
            case.slate.iter().copied().partition(|item| case.relevant.contains(item));
        let mut chosen: Vec<u32> = taken.choose(rng).copied().into_iter().collect();
        chosen.extend(others.choose_multiple(rng, self.of.candidates));
        let items = self.data.catalog.len() as u32;
        while chosen.len() < 1 + self.of.candidates + self.of.sampled {
            let item = rng.random_range(0..items);
            // A shop may have sold all of its few items in one basket.
            if !case.relevant.contains(&item) || case.relevant.len() >= items as usize {
                chosen.push(item);
            }
        }
        chosen
    }

    /// How good its own order is: the mean over tasks of NDCG.
    fn alone(&self, network: &Rechead, judged: &Judged) -> f64 {
        let judge = RecheadJudge::new(network, self.data);
        weight::mean(&sorted_figures(judged, |case| judge.scores(case)))
    }

    /// What it counts beside the scorer.
    fn weigh(
        &self,
        workspace: &Workspace<'_>,
        network: &Rechead,
        judged: &Judged,
    ) -> anyhow::Result<FittedWeight> {
        let scorer = OfflineScorer::without_head(workspace)?;
        let judge = RecheadJudge::new(network, self.data);
        let mut below = Vec::new();
        for (_, cases) in judged {
            below.extend(scorer.scores(self.data, cases)?);
        }
        let beside = |weight: f32| {
            let mut below = below.iter();
            sorted_figures(judged, |case| {
                let scores = below.next().into_iter().flatten().zip(judge.scores(case));
                scores.map(|(score, heard)| score + weight * heard).collect()
            })
        };
        Ok(weight::fit(&beside(0.0), &WEIGHTS.map(beside), self.seed))
    }

    /// (items, e): the texts of all items, which no time changes.
    fn texts(&self) -> &[f32] {
        &self.data.snapshots[0].cards.item_vectors
    }
}

fn text(texts: &[f32], item: u32) -> &[f32] {
    &texts[item as usize * TEXT_WIDTH..][..TEXT_WIDTH]
}

/// The figures of slates that are sorted by these scores.
fn sorted_figures(judged: &Judged, mut scores: impl FnMut(&Case) -> Vec<f32>) -> TaskFigures {
    let of_task = |(_, cases): &(PredictionTask, Vec<Case>)| {
        let orders: Vec<_> = cases.iter().map(|case| order_by_score(&scores(case))).collect();
        ndcg_at_10(cases, &orders)
    };
    judged.iter().map(of_task).collect()
}
