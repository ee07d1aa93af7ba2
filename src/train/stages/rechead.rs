//! The Rechead (RPORec, stage I): texts about a shopper learn to find the item that was taken.
//!
//! The head learns by a sampled softmax: the item that was taken against others of its slate and against random items
//! of the catalogue. The thought is the shopper's pattern. The answer is the item that the language model predicts, if
//! the recipe has it predict one, and otherwise the item that the shop's counts predict. In the paper's wiring, some
//! answers are hidden in training, so that it can do without.
//!
//! Where the direct path is to read its score, it is trained before the scorer, on the beginning of the training time
//! ([`EarlyRechead`]). Otherwise it is trained after the scorer, and its score joins the scorer's in a sum.

use super::reward_model;
use crate::bundle::Part;
use crate::domain::Timestamp;
use crate::nn::text::TEXT_WIDTH;
use crate::nn::{
    Rechead, RecheadBatch, RecheadNetwork, RecheadShape, RecheadWiring, Weights, softmax_loss,
};
use crate::reranker::order_by_score;
use crate::scorer::{RecheadFile, history_vector, predicted_next_item};
use crate::train::cases::{Case, PredictionTask};
use crate::train::fit;
use crate::train::offline_ladder::{RecheadJudge, ndcg_at_10};
use crate::train::offline_reranker::OfflineReranker;
use crate::train::offline_scorer::OfflineScorer;
use crate::train::rechead_checks;
use crate::train::rechead_fit::{ITEM_LENGTH, PublishedTraining, TrainedRechead};
use crate::train::rechead_recipe::RecheadRecipe;
use crate::train::recipe::Recipe;
use crate::train::training_data::TrainingData;
use crate::train::weight::{self, FittedWeight, TaskFigures, WEIGHTS};
use crate::train::{Stage, Workspace};
use anyhow::{Context as _, ensure};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};

/// The share of answers that are hidden in training.
const HIDDEN_SHARE: f64 = 0.3;

/// Trains the Rechead after the scorer.
#[derive(Debug)]
pub struct RecheadStage;

/// Trains the Rechead before the scorer, which reads its score.
#[derive(Debug)]
pub struct EarlyRechead;

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
        scorer_sections!["rechead"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Rechead, Part::RecheadShape]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.rechead.is_some_and(|rechead| rechead.before_scorer.is_none())
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let rechead = recipe.rechead.context("the recipe has no `rechead`")?;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let mut examples = match rechead.wiring {
            RecheadWiring::Paper => reward_model::examples(&data, &recipe)?,
            RecheadWiring::Published => moments(&data, &recipe, split.validate)?,
        };
        let mut training = RecheadTraining::new(&data, &recipe, &rechead, &mut examples)?;
        let mut answers = Value::Null;
        if rechead.answers {
            answers = training.predict(workspace, &mut examples)?;
        }
        let trained = training.run(&examples, workspace)?;
        let fitted = training.fit_weight(workspace, &trained.network)?;
        training.write(workspace, &trained, fitted.weight)?;
        let mut report = training.report(&examples, &trained);
        report["answers_taken"] = answers;
        report["beside_the_scorer"] = fitted.to_json("ndcg@10");
        Ok(report)
    }
}

impl Stage for EarlyRechead {
    fn name(&self) -> &'static str {
        "rechead_early"
    }

    fn about(&self) -> &'static str {
        "Trains the Rechead on the beginning of the training time, so that the scorer can read its score"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text]
    }

    fn may_read(&self) -> &'static [Part] {
        &[Part::SemanticIds]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        RecheadStage.recipe_sections()
    }

    fn outputs(&self) -> &'static [Part] {
        RecheadStage.outputs()
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.rechead.is_some_and(|rechead| rechead.before_scorer.is_some())
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let rechead = recipe.rechead.context("the recipe has no `rechead`")?;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let until = reward_model::scorer_begins(&data, &recipe);
        let mut examples = match rechead.wiring {
            RecheadWiring::Paper => {
                reward_model::examples_between(&data, &recipe, split.train, until)?
            }
            RecheadWiring::Published => moments(&data, &recipe, until)?,
        };
        let training = RecheadTraining::new(&data, &recipe, &rechead, &mut examples)?;
        let trained = training.run(&examples, workspace)?;
        training.write(workspace, &trained, 0.0)?;
        let mut report = training.report(&examples, &trained);
        report["scorer_begins"] = json!(until);
        Ok(report)
    }
}

/// Baskets of the training time before a moment, for a Rechead that learns from items of the whole catalogue. Unlike the
/// scorer's examples, they count whether or not the slate holds what was taken.
fn moments(data: &TrainingData, recipe: &Recipe, until: Timestamp) -> anyhow::Result<Vec<Case>> {
    let rechead = recipe.rechead.context("the recipe has no `rechead`")?;
    // Without candidates of the slate, it may be as small as it can be.
    let size = if rechead.candidates > 0 { recipe.slates.train_size } else { 1 };
    let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
    let (begin, most) = (data.dataset.split.train, recipe.reward_model.per_basket);
    let mut cases = data.cases(size, &recipe.shop.currency).many(begin, until, most, &mut rng);
    cases.retain(|case| !case.history.is_empty());
    Ok(cases)
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
    shape: RecheadShape,
    seed: u64,
    validation: Vec<(PredictionTask, Vec<Case>)>,
}

impl<'a> RecheadTraining<'a> {
    /// Shuffles and cuts the examples.
    fn new(
        data: &'a TrainingData,
        recipe: &Recipe,
        rechead: &'a RecheadRecipe,
        examples: &mut Vec<Case>,
    ) -> anyhow::Result<Self> {
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed ^ 4);
        examples.shuffle(&mut rng);
        examples.truncate(rechead.examples_max);
        ensure!(
            !examples.is_empty(),
            "no slate of the training time holds an item that was bought"
        );
        let (split, reader) = (data.dataset.split, &data.reader);
        let currency = &recipe.shop.currency;
        let validation =
            data.last_cases(recipe.slates.size, currency, split.validate, split.test)?;
        let widths = [TEXT_WIDTH, reader.width()];
        let shape = rechead.shape(reader.vocabulary(), widths, ITEM_LENGTH)?;
        shape.check()?;
        Ok(Self { data, recipe: rechead, shape, seed: recipe.seed, validation })
    }
}

impl RecheadTraining<'_> {
    /// Lets the language model predict the items of all cases. Gives the shares of predictions that were then taken.
    fn predict(
        &mut self,
        workspace: &mut Workspace<'_>,
        examples: &mut [Case],
    ) -> anyhow::Result<Value> {
        let model = OfflineReranker::start(&workspace.path(Part::Decoder), &self.data.catalog)?;
        let mut predict = |what: &str, cases: &mut [Case]| -> anyhow::Result<f64> {
            let total = cases.len() as u64;
            let show = &mut |done| workspace.progress.show(what, done as u64, total);
            model.expect(cases, show)?;
            Ok(hits(cases))
        };
        let mut taken = serde_json::Map::new();
        taken.insert("examples".into(), predict("expecting, examples", examples)?.into());
        for (task, cases) in &mut self.validation {
            let what = format!("expecting, {}", task.as_str());
            taken.insert(task.as_str().into(), predict(&what, cases)?.into());
        }
        Ok(Value::Object(taken))
    }

    fn run(
        &self,
        examples: &[Case],
        workspace: &mut Workspace<'_>,
    ) -> anyhow::Result<TrainedRechead> {
        if self.shape.wiring == RecheadWiring::Paper {
            return self.run_paper(examples, workspace);
        }
        let Self { data, recipe, shape, seed, .. } = self;
        // Drawn once, as published.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 5);
        let drawn = examples.iter().map(|case| self.candidates(case, &mut rng)).collect();
        let training = PublishedTraining { data, recipe, shape, seed: *seed };
        training.run(examples, drawn, |network| self.ndcg_alone(network), workspace)
    }

    fn run_paper(
        &self,
        examples: &[Case],
        workspace: &mut Workspace<'_>,
    ) -> anyhow::Result<TrainedRechead> {
        let recipe = self.recipe;
        let variables = self.shape.random(self.seed)?.to_varmap(&Device::Cpu)?;
        let built = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = RecheadNetwork::new(&self.shape, &built)?;
        let steps = examples.len().div_ceil(recipe.batch);
        let config = recipe.fit_config(steps);
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
            let served = Rechead::new(&weights, &self.shape)?;
            let metric = self.ndcg_alone(&served);
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
        let candidates = recipe.candidates_of_example();
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
        // A slate need not hold what was taken.
        let taken = taken.choose(rng).or_else(|| case.relevant.choose(rng));
        let mut chosen: Vec<u32> = taken.copied().into_iter().collect();
        chosen.extend(others.choose_multiple(rng, self.recipe.candidates));
        let items = self.data.catalog.len() as u32;
        while chosen.len() < self.recipe.candidates_of_example() {
            let item = rng.random_range(0..items);
            // The basket of a very small shop may hold all its items.
            if !case.relevant.contains(&item) || case.relevant.len() >= items as usize {
                chosen.push(item);
            }
        }
        chosen
    }

    /// The NDCG of the Rechead's own order: the mean over tasks.
    fn ndcg_alone(&self, network: &Rechead) -> f64 {
        weight::mean(&self.sorted_figures(|_, _, scores| scores.clone(), &self.scores(network)))
    }

    /// The Rechead's score of each candidate of each validation case, task after task.
    fn scores(&self, network: &Rechead) -> Vec<Vec<f32>> {
        let judge = RecheadJudge::new(network, self.data);
        let cases: Vec<&Case> = self.validation.iter().flat_map(|(_, cases)| cases).collect();
        cases.into_par_iter().map(|case| judge.scores(case)).collect()
    }

    /// Fits the weight of its score in the sum with the scorer's.
    fn fit_weight(
        &self,
        workspace: &Workspace<'_>,
        network: &Rechead,
    ) -> anyhow::Result<FittedWeight> {
        let scorer = OfflineScorer::without_head(workspace)?;
        let mut below = Vec::new();
        for (_, cases) in &self.validation {
            below.extend(scorer.scores(self.data, cases)?);
        }
        let scores = self.scores(network);
        let fused = |weight: f32| {
            let sum = |at: usize, _: &Case, scores: &Vec<f32>| -> Vec<f32> {
                let both = below[at].iter().zip(scores);
                both.map(|(score, rechead)| score + weight * rechead).collect()
            };
            self.sorted_figures(sum, &scores)
        };
        Ok(weight::fit(&fused(0.0), &WEIGHTS.map(fused), self.seed))
    }

    /// The figures of the validation slates, each sorted by what `of` makes of the Rechead's scores.
    fn sorted_figures(
        &self,
        of: impl Fn(usize, &Case, &Vec<f32>) -> Vec<f32>,
        scores: &[Vec<f32>],
    ) -> TaskFigures {
        let mut at = 0;
        let mut figures = TaskFigures::new();
        for (_, cases) in &self.validation {
            let mut orders = Vec::with_capacity(cases.len());
            for case in cases {
                orders.push(order_by_score(&of(at, case, &scores[at])));
                at += 1;
            }
            figures.push(ndcg_at_10(cases, &orders));
        }
        figures
    }

    fn write(
        &self,
        workspace: &Workspace<'_>,
        trained: &TrainedRechead,
        weight: f32,
    ) -> anyhow::Result<()> {
        let file = RecheadFile { weight, shape: self.shape.clone() };
        std::fs::write(workspace.path(Part::Rechead), trained.weights.to_bytes()?)
            .context("writing the Rechead")?;
        std::fs::write(workspace.path(Part::RecheadShape), toml::to_string(&file)?)
            .context("writing the Rechead's shape")
    }

    fn report(&self, examples: &[Case], trained: &TrainedRechead) -> Value {
        let mut report = json!({
            "examples": examples.len(),
            "epochs": trained.epochs.iter().map(|epoch| json!({
                "loss": epoch.loss,
                "validation_ndcg@10": epoch.metric,
            })).collect::<Vec<_>>(),
            "alone_ndcg@10": trained.best,
        });
        if self.recipe.checks {
            report["checks"] =
                rechead_checks::report(&trained.network, self.data, &self.validation, self.seed);
        }
        report
    }

    /// The vectors of all items' texts: (items, e). They don't depend on time.
    fn texts(&self) -> &[f32] {
        &self.data.snapshots[0].cards.item_vectors
    }
}

fn text(texts: &[f32], item: u32) -> &[f32] {
    &texts[item as usize * TEXT_WIDTH..][..TEXT_WIDTH]
}
