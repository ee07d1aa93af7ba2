//! A teacher thinks about slates, and thoughts that lead to the taken item become traces.
//!
//! GR2's rejection sampling (B4): the teacher does not know the label. On a slate where it is wrong, it may be given the
//! label and explain it (targeted sampling), if the recipe says so. A slate without an accepted thought still teaches the
//! order. Every answer is logged at once, so an interrupted stage asks no question twice.

use super::reward_model::examples;
use crate::bundle::Part;
use crate::reranker::OFFERED_MAX;
use crate::train::cases::Case;
use crate::train::offline_scorer::OfflineScorer;
use crate::train::recipe::Recipe;
use crate::train::teachers::{
    self, LabelledQuestion, QuestionOutcome, RejectionSampling, SlateQuestion, sample_all,
};
use crate::train::trace::Trace;
use crate::train::training_data::TrainingData;
use crate::train::{Stage, Workspace};
use anyhow::Context as _;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;

/// The answer log, while the stage runs.
const ANSWER_LOG: &str = "traces.answers.jsonl";

/// Collects a teacher's thoughts about slates.
#[derive(Debug)]
pub struct Traces;

impl Stage for Traces {
    fn name(&self) -> &'static str {
        "traces"
    }

    fn about(&self) -> &'static str {
        "Collects a teacher's thoughts about slates, and accepts those that hold and lead to the taken item"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape]
    }

    fn may_read(&self) -> &'static [Part] {
        &[Part::Direct]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        scorer_sections!["language_model.compare"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Traces]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.compare().is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let of = recipe.compare().context("the recipe has no `language_model.compare`")?;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let mut examples = examples(&data, &recipe)?;
        examples.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.seed ^ 3));
        examples.truncate(of.examples_max);
        let scored = OfflineScorer::without_head(workspace)?.scores(&data, &examples)?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed ^ 5);
        let (orders, questions): (Vec<Vec<u32>>, Vec<LabelledQuestion<'_>>) = examples
            .iter()
            .zip(&scored)
            .filter_map(|(case, scores)| question(&data, case, scores, &mut rng))
            .unzip();
        let teacher = teachers::open(&of.teacher, &data.catalog)?;
        let file = workspace.dir.join(ANSWER_LOG);
        let sampling = RejectionSampling { log: &file, targeted: of.targeted };
        let (outcomes, known) = sample_all(&*teacher, &questions, sampling, workspace.progress)?;
        write(workspace, traces(&data, &orders, &questions, &outcomes))?;
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        let mut all = QuestionOutcome::default();
        for outcome in &outcomes {
            all += outcome;
        }
        Ok(json!({
            "teacher": teacher.description(),
            "slates": outcomes.len(),
            "thoughts": outcomes.iter().filter(|outcome| outcome.thought.is_some()).count(),
            "answered_before": known,
            "asked": all.blind.report_json(),
            "told": all.targeted.report_json(),
        }))
    }
}

/// A slate's best candidates in the order to learn, the taken one first, and the question about them in a shuffled order.
fn question<'a>(
    data: &'a TrainingData,
    case: &'a Case,
    scores: &[f32],
    rng: &mut ChaCha8Rng,
) -> Option<(Vec<u32>, LabelledQuestion<'a>)> {
    let mut indices: Vec<usize> = (0..case.slate.len()).collect();
    indices.sort_unstable_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let order = indices.into_iter().map(|index| case.slate[index]);
    let (taken, others): (Vec<u32>, Vec<u32>) =
        order.partition(|item| case.relevant.contains(item));
    let taken = *taken.first()?;
    let order: Vec<u32> = std::iter::once(taken).chain(others).take(OFFERED_MAX).collect();
    let mut offered = order.clone();
    offered.shuffle(rng);
    let question = SlateQuestion {
        case,
        user: &data.dataset.users[case.user as usize],
        catalog: &data.catalog,
        cards: &data.snapshots[case.snapshot].cards,
        offered,
        seed: rng.random::<u32>() >> 1,
    };
    Some((order, LabelledQuestion { question, taken }))
}

/// The traces, in the order of the questions.
fn traces<'a>(
    data: &'a TrainingData,
    orders: &'a [Vec<u32>],
    questions: &'a [LabelledQuestion<'a>],
    outcomes: &'a [QuestionOutcome],
) -> impl Iterator<Item = Trace> + 'a {
    orders.iter().zip(questions).zip(outcomes).map(|((order, labelled), outcome)| {
        let case = labelled.question.case;
        let history = case.history.iter();
        let history = history.map(|event| (event.item, event.time, event.kind.as_str().to_owned()));
        Trace {
            history: history.collect(),
            now: case.now,
            order: case.offers(&data.catalog, &data.snapshots, order),
            thought: outcome.thought.clone(),
        }
    })
}

fn write(workspace: &Workspace<'_>, traces: impl Iterator<Item = Trace>) -> anyhow::Result<()> {
    let path = workspace.path(Part::Traces);
    let writing = || format!("writing {}", path.display());
    let file = fs::File::create(&path).with_context(writing)?;
    let mut file = std::io::BufWriter::new(file);
    for trace in traces {
        serde_json::to_writer(&mut file, &trace)?;
        writeln!(file).with_context(writing)?;
    }
    file.flush().with_context(writing)
}

/// Reads the traces that the stage wrote.
pub fn read(workspace: &Workspace<'_>) -> anyhow::Result<Vec<Trace>> {
    let path = workspace.path(Part::Traces);
    let text = fs::read_to_string(&path);
    let text = text.with_context(|| format!("reading {}", path.display()))?;
    let traces = text.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("reading {}:{}", path.display(), number + 1))
    });
    traces.collect()
}
