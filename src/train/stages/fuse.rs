//! The weights of the language model's answers beside the scores of the rung below, fitted on validation
//! slates.

use crate::bundle::Part;
use crate::domain::Quality;
use crate::reranker::{
    ComparedFile, OFFERED_MAX, RUNGS, RerankerFile, RungKind, RungSpec, ScoredOrder, Thought,
    WeighedFile, order_by_score,
};
use crate::train::cases::Case;
use crate::train::measure;
use crate::train::offline_ladder::{CaseAnswer, RecheadJudge, compare, fuse_logits, ndcg_at_10};
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

/// The share of thoughts that have to hold for a rung to be shipped for its thoughts alone.
const HOLD_MIN: f64 = 0.5;
/// Thoughts that the report shows.
const THOUGHTS_SHOWN: usize = 5;

/// Fits the weights of the language model's answers.
#[derive(Debug)]
pub struct Fuse;

impl Stage for Fuse {
    fn name(&self) -> &'static str {
        "fuse"
    }

    fn about(&self) -> &'static str {
        "Fits the weights of the language model's rungs on validation slates, and leaves out a rung that does not pay"
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

    fn may_read(&self) -> &'static [Part] {
        &[Part::SemanticIds, Part::Direct, Part::Rechead, Part::RecheadShape]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        scorer_sections!["language_model.compare", "language_model.fuse", "rechead"]
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
        let scorer = OfflineScorer::read(workspace)?;
        let data = TrainingData::open(workspace, split.validate, split.test)?;
        let data = data.with_cards_as_kept(scorer.head());
        let model = OfflineReranker::start(&workspace.path(Part::Decoder), &data.catalog)?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        let mut judged = Vec::new();
        for (task, mut cases) in
            data.last_cases(recipe.slates.size, &recipe.shop.currency, split.validate, split.test)?
        {
            cases.shuffle(&mut rng);
            cases.truncate(of.judged_max);
            if recipe.expects_items() && scorer.head().is_some() {
                model.expect(&mut cases, &mut |_| {})?;
            }
            let orders = scorer.orders(&data, &cases)?;
            judged.push(JudgedTask { task: task.as_str(), cases, orders });
        }
        let mut report = Map::new();
        let scored = json!({ "ndcg@10": rounded(ndcg(&judged)) });
        report.insert(Quality::Scored.as_str().into(), scored);
        let judge = scorer.head().map(|network| RecheadJudge::new(network, &data));
        let mut fitting =
            Fitting { workspace, model: &model, judge, data: &data, judged, seed: recipe.seed };
        let fused = fitting.rungs(&recipe, of, &mut report)?;
        let Fitting { workspace, judged, .. } = fitting;
        std::fs::write(workspace.path(Part::Reranker), toml::to_string(&fused)?)
            .context("writing how the language model is fused")?;
        report.insert("cases".into(), cases(&judged));
        Ok(Value::Object(report))
    }
}

/// The settings of the weighed rung before its weight is fitted.
fn weighed_file(of: FuseRecipe) -> WeighedFile {
    WeighedFile { weight: 0.0, candidates_max: of.weighed_max }
}

/// The settings of a rung that compares before its weights are fitted.
fn compared_file(of: FuseRecipe, thinks: bool) -> ComparedFile {
    ComparedFile {
        weight: 0.0,
        rechead_weight: 0.0,
        offered_max: of.compared_max.min(OFFERED_MAX),
        thought_tokens_max: if thinks { of.thought_tokens_max } else { 0 },
        grounded: of.grounded,
    }
}

/// Validation cases of a task, and the orders of the highest rung so far.
struct JudgedTask {
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
    judged: Vec<JudgedTask>,
    seed: u64,
}

impl Fitting<'_, '_> {
    /// Fits every rung that the recipe has, each upon the one below. A rung that does not pay is absent
    /// from the file.
    fn rungs(
        &mut self,
        recipe: &Recipe,
        of: FuseRecipe,
        report: &mut Map<String, Value>,
    ) -> anyhow::Result<RerankerFile> {
        let mut fused = RerankerFile::default();
        for rung in RUNGS {
            let measured = match rung.kind {
                RungKind::Scored => continue,
                RungKind::Weighed { file } => {
                    let (fitted, measured) = self.weighed(rung, weighed_file(of))?;
                    *file(&mut fused) = Some(fitted).filter(|fitted| fitted.weight > 0.0);
                    measured
                }
                RungKind::Compared { thinks, file } => {
                    let Some(compare) = recipe.compare() else { continue };
                    if !thinks && !compare.at_once {
                        continue;
                    }
                    let (fitted, measured) = self.compared(rung, compared_file(of, thinks))?;
                    // A thought is worth reading even where it changes no order, if most hold.
                    let holds = measured["thoughts"]["hold"].as_f64();
                    let holds = holds.is_some_and(|hold| hold >= HOLD_MIN);
                    let pays = fitted.weight > 0.0 || fitted.rechead_weight > 0.0;
                    *file(&mut fused) = Some(fitted).filter(|_| pays || holds);
                    measured
                }
            };
            report.insert(rung.name().into(), measured);
        }
        Ok(fused)
    }

    /// Fits the weight of logits, and leaves the tasks with the orders that come of it.
    fn weighed(
        &mut self,
        rung: &RungSpec,
        file: WeighedFile,
    ) -> anyhow::Result<(WeighedFile, Value)> {
        let mut logits = Vec::new();
        for judged in &self.judged {
            let show = &mut showing(self.workspace, rung.name(), judged);
            logits.push(self.model.weigh(&judged.cases, &self.data.snapshots, show)?);
        }
        let fuse = |weight: f32, case: CaseOf<'_>, order: &mut ScoredOrder| {
            fuse_logits(
                WeighedFile { weight, ..file },
                order,
                case.case,
                &logits[case.task][case.at],
            );
        };
        let fitted = fit(&mut self.judged, self.seed, fuse);
        let alone: Vec<Vec<ScoredOrder>> = logits
            .iter()
            .map(|task| task.iter().map(|logits| order_by_score(logits)).collect())
            .collect();
        let measured = json!({
            "fitted": fitted.to_json("ndcg@10"),
            "ndcg@10": rounded(ndcg(&self.judged)),
            "alone_ndcg@10": rounded(weight::mean(&figures_with(&self.judged, &alone))),
        });
        Ok((WeighedFile { weight: fitted.weight, ..file }, measured))
    }

    /// Fits the cost of ranks in answers, and leaves the tasks with the orders that come of it.
    fn compared(
        &mut self,
        rung: &RungSpec,
        file: ComparedFile,
    ) -> anyhow::Result<(ComparedFile, Value)> {
        let mut answers = Vec::new();
        let (mut kept, mut first) = (0, 0);
        for judged in &self.judged {
            let show = &mut showing(self.workspace, rung.name(), judged);
            let JudgedTask { cases, orders, .. } = judged;
            let answered = compare(self.model, cases, &self.data.snapshots, orders, file, show)?;
            let places =
                || answered.iter().map(|answer| &answer.places).filter(|all| all.len() > 1);
            kept += places().filter(|places| places.is_sorted()).count();
            first += places().filter(|places| places[0] == 0).count();
            answers.push(answered);
        }
        let below: Vec<Vec<ScoredOrder>> =
            self.judged.iter().map(|judged| judged.orders.clone()).collect();
        let fuse = |weight: f32, case: CaseOf<'_>, order: &mut ScoredOrder| {
            let answer = &answers[case.task][case.at];
            ComparedFile { weight, ..file }.fuse(order, &answer.places, &[]);
        };
        let fitted = fit(&mut self.judged, self.seed, fuse);
        let file = ComparedFile { weight: fitted.weight, ..file };
        let (file, rechead) = self.rechead(file, &answers, &below);
        let all = answers.iter().flatten().filter(|answer| answer.places.len() > 1).count().max(1);
        let share = |count: usize| rounded(count as f64 / all as f64);
        let thoughts = (file.thought_tokens_max > 0).then(|| self.thoughts(&answers));
        let measured = json!({
            "fitted": fitted.to_json("ndcg@10"),
            "ndcg@10": rounded(ndcg(&self.judged)),
            "rechead": rechead,
            "order_kept": share(kept),
            "first_kept": share(first),
            "thoughts": thoughts,
        });
        Ok((file, measured))
    }

    /// Fits the weight of the Rechead's scores after thoughts. The judged orders have the answers'
    /// ranks fused in already; those of `below` have not.
    fn rechead(
        &mut self,
        file: ComparedFile,
        answers: &[Vec<CaseAnswer>],
        below: &[Vec<ScoredOrder>],
    ) -> (ComparedFile, Value) {
        let Some(judge) = self.judge.as_ref().filter(|_| file.thought_tokens_max > 0) else {
            return (file, Value::Null);
        };
        let scores: Vec<Vec<Vec<f32>>> = self
            .judged
            .iter()
            .zip(answers)
            .map(|(judged, answers)| {
                let cases = judged.cases.iter().zip(answers);
                cases.map(|(case, answer)| judge.answered(case, &answer.answer)).collect()
            })
            .collect();
        let fuse = |rechead_weight: f32, case: CaseOf<'_>, order: &mut ScoredOrder| {
            let CaseOf { task, at, .. } = case;
            order.clone_from(&below[task][at]);
            let file = ComparedFile { rechead_weight, ..file };
            file.fuse(order, &answers[task][at].places, &scores[task][at]);
        };
        let fitted = fit(&mut self.judged, self.seed, fuse);
        (ComparedFile { rechead_weight: fitted.weight, ..file }, fitted.to_json("ndcg@10"))
    }

    /// How many thoughts hold, and how much they repeat each other, which shows generic ones.
    fn thoughts(&self, answers: &[Vec<CaseAnswer>]) -> Value {
        let (mut all, mut read, mut hold) = (Vec::new(), 0, 0);
        for (judged, answers) in self.judged.iter().zip(answers) {
            for (case, CaseAnswer { answer, .. }) in judged.cases.iter().zip(answers) {
                if answer.order.is_empty() {
                    continue;
                }
                all.push(answer.thought.as_str());
                let Some(thought) = Thought::parse(&answer.thought) else { continue };
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

/// One case of a task, by their positions.
#[derive(Clone, Copy)]
struct CaseOf<'a> {
    task: usize,
    at: usize,
    case: &'a Case,
}

/// Fits a weight, and leaves the tasks with the orders that come of it. `fuse` fuses the order of a
/// case with the language model's answer at a weight.
fn fit(
    judged: &mut [JudgedTask],
    seed: u64,
    fuse: impl Fn(f32, CaseOf<'_>, &mut ScoredOrder),
) -> FittedWeight {
    let fused = |judged: &[JudgedTask], weight: f32| -> Vec<Vec<ScoredOrder>> {
        let tasks = judged.iter().enumerate().map(|(task, judged)| {
            let mut orders = judged.orders.clone();
            for (at, (order, case)) in orders.iter_mut().zip(&judged.cases).enumerate() {
                fuse(weight, CaseOf { task, at, case }, order);
            }
            orders
        });
        tasks.collect()
    };
    let with = WEIGHTS.map(|weight| figures_with(judged, &fused(judged, weight)));
    let fitted = weight::fit(&figures(judged), &with, seed);
    if fitted.weight > 0.0 {
        let fused = fused(judged, fitted.weight);
        judged.iter_mut().zip(fused).for_each(|(judged, orders)| judged.orders = orders);
    }
    fitted
}

/// The figures of the current orders.
fn figures(judged: &[JudgedTask]) -> TaskFigures {
    judged.iter().map(|judged| ndcg_at_10(&judged.cases, &judged.orders)).collect()
}

/// The figures of other orders of the same cases.
fn figures_with(judged: &[JudgedTask], orders: &[Vec<ScoredOrder>]) -> TaskFigures {
    judged.iter().zip(orders).map(|(judged, orders)| ndcg_at_10(&judged.cases, orders)).collect()
}

/// The mean over tasks of NDCG@10.
fn ndcg(judged: &[JudgedTask]) -> f64 {
    weight::mean(&figures(judged))
}

fn showing<'b, 'p>(
    workspace: &'b mut Workspace<'p>,
    what: &str,
    judged: &JudgedTask,
) -> impl FnMut(usize) + use<'b, 'p> {
    let (what, of) = (format!("{what} {}", judged.task), judged.cases.len() as u64);
    let progress = &mut *workspace.progress;
    move |done| progress.show(&what, done as u64, of)
}

fn cases(judged: &[JudgedTask]) -> Value {
    let counts = judged.iter().map(|judged| (judged.task.to_owned(), judged.cases.len().into()));
    Value::Object(counts.collect())
}
