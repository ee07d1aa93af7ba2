//! A teacher thinks about slates, and what led to the item that was taken is kept.
//!
//! GR2's rejection sampling (B4): the teacher does not know which one was taken. On a slate on which it
//! errs it may be told, and asked why that one was taken (targeted sampling), if the recipe says so.
//! A slate without a thought still teaches the order. What a teacher answered is put down at once, so
//! that a stage that was cut short asks nobody twice.

use super::reward_model::examples;
use crate::bundle::Part;
use crate::reranker::OFFERED_MAX;
use crate::train::cases::Case;
use crate::train::offline_scorer::OfflineScorer;
use crate::train::recipe::Recipe;
use crate::train::teachers::{self, Answer, Asking, Posed, Question, ask_all};
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

/// What was answered so far, while the stage is at work.
const SO_FAR: &str = "traces.answers.jsonl";

/// Lets a teacher think about slates.
#[derive(Debug)]
pub struct Traces;

impl Stage for Traces {
    fn name(&self) -> &'static str {
        "traces"
    }

    fn about(&self) -> &'static str {
        "Lets a teacher think aloud about slates, and keeps the thoughts that hold and lead to what was taken"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape]
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
        let mut examples = examples(&data, &recipe);
        examples.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.seed ^ 3));
        examples.truncate(of.examples_max);
        let scored = OfflineScorer::without_head(workspace)?.scores(&data, &examples)?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed ^ 5);
        let (orders, posed): (Vec<Vec<u32>>, Vec<Posed<'_>>) = examples
            .iter()
            .zip(&scored)
            .filter_map(|(case, scores)| pose(&data, case, scores, &mut rng))
            .unzip();
        let teacher = teachers::open(&of.teacher, &data.catalog)?;
        let file = workspace.dir.join(SO_FAR);
        let asking = Asking { file: &file, targeted: of.targeted };
        let (answers, known) = ask_all(&*teacher, &posed, asking, workspace.progress)?;
        write(workspace, traces(&data, &orders, &posed, &answers))?;
        fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        let mut all = Answer::default();
        for answer in &answers {
            all += answer;
        }
        Ok(json!({
            "teacher": teacher.about(),
            "slates": answers.len(),
            "thoughts": answers.iter().filter(|answer| answer.thought.is_some()).count(),
            "answered_before": known,
            "asked": all.asked.told(),
            "told": all.told.told(),
        }))
    }
}

/// A slate's best candidates, the one that was taken among them, in the order to be learned; and the
/// question that is asked about them, in another that says nothing.
fn pose<'a>(
    data: &'a TrainingData,
    case: &'a Case,
    scores: &[f32],
    rng: &mut ChaCha8Rng,
) -> Option<(Vec<u32>, Posed<'a>)> {
    let mut places: Vec<usize> = (0..case.slate.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let order = places.into_iter().map(|place| case.slate[place]);
    let (taken, others): (Vec<u32>, Vec<u32>) =
        order.partition(|item| case.relevant.contains(item));
    let taken = *taken.first()?;
    let order: Vec<u32> = std::iter::once(taken).chain(others).take(OFFERED_MAX).collect();
    let mut offered = order.clone();
    offered.shuffle(rng);
    let question = Question {
        case,
        user: &data.dataset.users[case.user as usize],
        catalog: &data.catalog,
        cards: &data.snapshots[case.snapshot].cards,
        offered,
        seed: rng.random::<u32>() >> 1,
    };
    Some((order, Posed { question, taken }))
}

/// What is learned from.
fn traces<'a>(
    data: &'a TrainingData,
    orders: &'a [Vec<u32>],
    posed: &'a [Posed<'a>],
    answers: &'a [Answer],
) -> impl Iterator<Item = Trace> + 'a {
    orders.iter().zip(posed).zip(answers).map(|((order, posed), answer)| {
        let case = posed.question.case;
        let history = case.history.iter();
        let history = history.map(|past| (past.item, past.time, past.kind.as_str().to_owned()));
        Trace {
            history: history.collect(),
            now: case.now,
            order: case.offers(&data.catalog, &data.snapshots, order),
            thought: answer.thought.clone(),
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

/// Reads what the stage wrote.
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
