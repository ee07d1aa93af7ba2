//! What a language model's word counts beside that of the rung below: fitted on validation slates.

use crate::bundle::Part;
use crate::reranker::{
    ComparedAnswer, ComparedFile, OFFERED_MAX, RerankerFile, ScoredOrder, Thought, WeighedFile,
};
use crate::train::cases::Case;
use crate::train::measure;
use crate::train::offline_ladder::{
    RecheadJudge, compare, logits_of_first, ndcg_at_10, order_by_score, scored,
};
use crate::train::offline_reranker::OfflineReranker;
use crate::train::offline_scorer::OfflineScorer;
use crate::train::recipe::{FuseRecipe, Recipe};
use crate::train::training_data::TrainingData;
use crate::train::weight::{self, FittedWeight, TaskFigures, WEIGHTS, rounded};
use crate::train::{Stage, Workspace};
use anyhow::Context as _;
use rand::SeedableRng;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// The share of thoughts that have to hold, for a rung that thinks to be shipped for what it says.
const HOLD_MIN: f64 = 0.5;
/// Thoughts that the report shows.
const THOUGHTS_SHOWN: usize = 5;

/// Fits what the language model's word counts.
#[derive(Debug)]
pub struct Fuse;

impl Stage for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn about(&self) -> &'static str {
        "Fits what the language model's word counts beside the scorer's on validation slates; a rung that does not pay is left out"
    }

    fn inputs(&self) -> &'static [Part] {
        &[
            Part::Catalog,
            Part::Tokenizer,
            Part::Text,
            Part::Scorer,
            Part::ScorerShape,
            Part::Decoder,
        ]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Reranker]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.language_model.is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let of = recipe.language_model()?.fuse;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.validate, split.test)?;
        let scorer = OfflineScorer::read(workspace)?;
        let model = OfflineReranker::start(&workspace.path(Part::Decoder), &data.catalog)?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        let mut judged = Vec::new();
        for (task, mut cases) in
            data.last_cases(recipe.slates.size, &recipe.shop.currency, split.validate, split.test)
        {
            cases.shuffle(&mut rng);
            cases.truncate(of.judged_max);
            if recipe.expects() && scorer.head().is_some() {
                model.expect(&mut cases, &mut |_| {})?;
            }
            let orders = scored(&scorer, &data, &cases)?;
            judged.push(Judged { task: task.as_str(), cases, orders });
        }
        let mut report = Map::new();
        report.insert("scored".into(), json!({ "ndcg@10": rounded(ndcg(&judged)) }));
        let judge = scorer.head().map(|network| RecheadJudge::new(network, &data));
        let mut fitting =
            Fitting { workspace, model: &model, judge, data: &data, judged, seed: recipe.seed };
        let mut file = RerankerFile::default();

        let (weight, told) = fitting.weighed(of)?;
        report.insert("weighed".into(), told);
        file.weighed =
            (weight > 0.0).then_some(WeighedFile { weight, candidates_max: of.weighed_max });
        if let Some(compare) = recipe.compare() {
            let compared = |thought_tokens_max| ComparedFile {
                weight: 0.0,
                rechead_weight: 0.0,
                offered_max: of.compared_max.min(OFFERED_MAX),
                thought_tokens_max,
                grounded: of.grounded,
            };
            if compare.at_once {
                let (reranked, told) = fitting.compared("reranked", compared(0))?;
                report.insert("reranked".into(), told);
                file.reranked = Some(reranked).filter(|file| file.weight > 0.0);
            }
            let (reasoned, told) = fitting.compared("reasoned", compared(of.thought_tokens_max))?;
            // What is thought is worth reading even where it changes no order, if it mostly holds.
            let holds = told["thoughts"]["hold"].as_f64().is_some_and(|hold| hold >= HOLD_MIN);
            let pays = |file: &ComparedFile| file.weight > 0.0 || file.rechead_weight > 0.0;
            file.reasoned = Some(reasoned).filter(|file| pays(file) || holds);
            report.insert("reasoned".into(), told);
        }
        let Fitting { workspace, judged, .. } = fitting;
        std::fs::write(workspace.path(Part::Reranker), toml::to_string(&file)?)
            .context("writing how the language model is fused")?;
        report.insert("cases".into(), cases(&judged));
        Ok(Value::Object(report))
    }
}

/// Validation cases of a task, and the orders of the highest rung so far.
struct Judged {
    task: &'static str,
    cases: Vec<Case>,
    orders: Vec<ScoredOrder>,
}

/// Rungs that are fitted one upon the other.
struct Fitting<'a, 'p> {
    workspace: &'a mut Workspace<'p>,
    model: &'a OfflineReranker,
    /// The Rechead, if there is one.
    judge: Option<RecheadJudge<'a>>,
    data: &'a TrainingData,
    judged: Vec<Judged>,
    seed: u64,
}

impl Fitting<'_, '_> {
    /// Fits what logits count, and leaves the judged with the orders that come of it.
    fn weighed(&mut self, of: FuseRecipe) -> anyhow::Result<(f32, Value)> {
        let mut logits = Vec::new();
        for judged in &self.judged {
            let show = &mut showing(self.workspace, "weighing", judged);
            logits.push(self.model.weigh(&judged.cases, &self.data.snapshots, show)?);
        }
        let fuse = |weight: f32, task: usize, at: usize, order: &mut ScoredOrder| {
            let file = WeighedFile { weight, candidates_max: of.weighed_max };
            let logits = logits_of_first(order, &logits[task][at], of.weighed_max);
            file.fuse(order, &logits);
        };
        let fitted = fit(&mut self.judged, self.seed, fuse);
        let alone: Vec<Vec<ScoredOrder>> = logits
            .iter()
            .map(|task| task.iter().map(|logits| order_by_score(logits)).collect())
            .collect();
        let told = json!({
            "fitted": fitted.told("ndcg@10"),
            "ndcg@10": rounded(ndcg(&self.judged)),
            "alone_ndcg@10": rounded(weight::mean(&of_orders(&self.judged, &alone))),
        });
        Ok((fitted.weight, told))
    }

    /// Fits what places in answers cost, and leaves the judged with the orders that come of it.
    fn compared(
        &mut self,
        name: &str,
        file: ComparedFile,
    ) -> anyhow::Result<(ComparedFile, Value)> {
        let mut answers = Vec::new();
        let (mut kept, mut first) = (0, 0);
        for judged in &self.judged {
            let mut show = showing(self.workspace, name, judged);
            let Judged { cases, orders, .. } = judged;
            let heard = compare(self.model, cases, &self.data.snapshots, orders, file, &mut show)?;
            let orders = || heard.iter().map(|(order, _)| order).filter(|order| order.len() > 1);
            kept += orders().filter(|order| order.is_sorted()).count();
            first += orders().filter(|order| order[0] == 0).count();
            answers.push(heard);
        }
        let below: Vec<Vec<ScoredOrder>> =
            self.judged.iter().map(|judged| judged.orders.clone()).collect();
        let fuse = |weight: f32, task: usize, at: usize, order: &mut ScoredOrder| {
            ComparedFile { weight, ..file }.fuse(order, &answers[task][at].0, &[]);
        };
        let fitted = fit(&mut self.judged, self.seed, fuse);
        let file = ComparedFile { weight: fitted.weight, ..file };
        let (file, heard) = self.heard(file, &answers, &below);
        let all = answers.iter().flatten().filter(|(order, _)| order.len() > 1).count().max(1);
        let share = |count: usize| rounded(count as f64 / all as f64);
        let thoughts = (file.thought_tokens_max > 0).then(|| self.thoughts(&answers));
        let told = json!({
            "fitted": fitted.told("ndcg@10"),
            "ndcg@10": rounded(ndcg(&self.judged)),
            "rechead": heard,
            "order_kept": share(kept),
            "first_kept": share(first),
            "thoughts": thoughts,
        });
        Ok((file, told))
    }

    /// Fits what the Rechead's word counts, once it has read what was thought, upon orders to which the
    /// answers' places were fused already; `below` are those to which nothing was.
    fn heard(
        &mut self,
        file: ComparedFile,
        answers: &[Vec<(Vec<usize>, ComparedAnswer)>],
        below: &[Vec<ScoredOrder>],
    ) -> (ComparedFile, Value) {
        let Some(judge) = self.judge.as_ref().filter(|_| file.thought_tokens_max > 0) else {
            return (file, Value::Null);
        };
        let heard: Vec<Vec<Vec<f32>>> = self
            .judged
            .iter()
            .zip(answers)
            .map(|(judged, answers)| {
                let cases = judged.cases.iter().zip(answers);
                cases.map(|(case, (_, answer))| judge.answered(case, answer)).collect()
            })
            .collect();
        let fuse = |rechead_weight: f32, task: usize, at: usize, order: &mut ScoredOrder| {
            order.clone_from(&below[task][at]);
            let file = ComparedFile { rechead_weight, ..file };
            file.fuse(order, &answers[task][at].0, &heard[task][at]);
        };
        let fitted = fit(&mut self.judged, self.seed, fuse);
        (ComparedFile { rechead_weight: fitted.weight, ..file }, fitted.told("ndcg@10"))
    }

    /// How many thoughts hold, and how much they repeat each other: generic ones would show.
    fn thoughts(&self, answers: &[Vec<(Vec<usize>, ComparedAnswer)>]) -> Value {
        let (mut all, mut read, mut hold) = (Vec::new(), 0, 0);
        for (judged, answers) in self.judged.iter().zip(answers) {
            for (case, (_, answer)) in judged.cases.iter().zip(answers) {
                if answer.order.is_empty() {
                    continue;
                }
                all.push(answer.thought.as_str());
                let Some(thought) = Thought::read(&answer.thought) else { continue };
                read += 1;
                let cards = &self.data.snapshots[case.snapshot].cards.items;
                let catalog = &self.data.catalog;
                let proof = thought.prove(catalog, cards, &case.history, &answer.order);
                hold += usize::from(proof.is_some());
            }
        }
        let share = |count: usize| rounded(count as f64 / all.len().max(1) as f64);
        json!({
            "all": all.len(),
            "read": share(read),
            "hold": share(hold),
            "distinct_2": rounded(measure::distinct_2(&all)),
            "overlap": rounded(measure::overlap(&all)),
            "some": all.iter().take(THOUGHTS_SHOWN).collect::<Vec<_>>(),
        })
    }
}

/// Fits a weight, and leaves the judged with the orders that come of it.
fn fit(
    judged: &mut [Judged],
    seed: u64,
    fuse: impl Fn(f32, usize, usize, &mut ScoredOrder),
) -> FittedWeight {
    let fused = |judged: &[Judged], weight: f32| -> Vec<Vec<ScoredOrder>> {
        let mut fused: Vec<_> = judged.iter().map(|judged| judged.orders.clone()).collect();
        for (task, orders) in fused.iter_mut().enumerate() {
            for (at, order) in orders.iter_mut().enumerate() {
                fuse(weight, task, at, order);
            }
        }
        fused
    };
    let with = WEIGHTS.map(|weight| of_orders(judged, &fused(judged, weight)));
    let fitted = weight::fit(&figures_of(judged), &with, seed);
    if fitted.weight > 0.0 {
        let fused = fused(judged, fitted.weight);
        judged.iter_mut().zip(fused).for_each(|(judged, orders)| judged.orders = orders);
    }
    fitted
}

/// The figures of the orders that the judged have.
fn figures_of(judged: &[Judged]) -> TaskFigures {
    judged.iter().map(|judged| ndcg_at_10(&judged.cases, &judged.orders)).collect()
}

/// The figures with these orders of each task.
fn of_orders(judged: &[Judged], orders: &[Vec<ScoredOrder>]) -> TaskFigures {
    judged.iter().zip(orders).map(|(judged, orders)| ndcg_at_10(&judged.cases, orders)).collect()
}

/// The mean over tasks of NDCG.
fn ndcg(judged: &[Judged]) -> f64 {
    weight::mean(&figures_of(judged))
}

fn showing<'b, 'p>(
    workspace: &'b mut Workspace<'p>,
    what: &str,
    judged: &Judged,
) -> impl FnMut(usize) + use<'b, 'p> {
    let (what, of) = (format!("{what} {}", judged.task), judged.cases.len() as u64);
    let progress = &mut *workspace.progress;
    move |done| progress.show(&what, done as u64, of)
}

fn cases(judged: &[Judged]) -> Value {
    let counts = judged.iter().map(|judged| (judged.task.to_owned(), judged.cases.len().into()));
    Value::Object(counts.collect())
}
