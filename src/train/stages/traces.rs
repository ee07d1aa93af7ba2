//! A teacher thinks about slates, and what led to the item that was taken is kept.
//!
//! GR2's rejection sampling (B4): the teacher does not know which one was taken. On a slate on which it
//! errs it may be told, and asked why that one was taken (targeted sampling), if the recipe says so.
//! A slate without a thought still teaches the order.

use super::reward_model::examples;
use crate::bundle::Part;
use crate::reranker::OFFERED_MAX;
use crate::train::cases::Case;
use crate::train::recipe::Recipe;
use crate::train::scored::Scorer;
use crate::train::trace::{EvidenceTeacher, Teacher, Trace};
use crate::train::world::World;
use crate::train::{Bench, Stage};
use anyhow::Context as _;
use rand::SeedableRng;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io::Write as _;

/// Lets a teacher think about slates.
#[derive(Debug)]
pub struct Traces;

impl Stage for Traces {
    fn name(&self) -> &'static str {
        "traces"
    }

    fn about(&self) -> &'static str {
        "Lets the evidence writer think aloud about slates, and keeps the thoughts that lead to what was taken"
    }

    fn needs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Scorer, Part::ScorerShape]
    }

    fn makes(&self) -> &'static [Part] {
        &[Part::Traces]
    }

    fn is_wanted(&self, recipe: &Recipe) -> bool {
        recipe.compare().is_some()
    }

    fn run(&self, bench: &mut Bench<'_>) -> anyhow::Result<Value> {
        let recipe = bench.recipe.clone();
        let of = recipe.compare().context("the recipe has no `language_model.compare`")?;
        let split = bench.dataset(&*bench.catalog()?)?.split;
        let world = World::open(bench, split.train, split.test)?;
        let mut examples = examples(&world, &recipe);
        examples.shuffle(&mut ChaCha8Rng::seed_from_u64(recipe.seed ^ 3));
        examples.truncate(of.examples_max);
        let scored = Scorer::without_head(bench)?.scores(&world, &examples)?;
        let traces: Vec<(Trace, Attempt)> = examples
            .par_iter()
            .zip(&scored)
            .filter_map(|(case, scores)| trace(&world, case, scores, of.targeted))
            .collect();
        write(bench, traces.iter().map(|(trace, _)| trace))?;
        let count = |attempt| traces.iter().filter(|(_, of_it)| *of_it == attempt).count();
        let (right, wrong) = (count(Attempt::Right), count(Attempt::Wrong));
        let told = traces.iter().filter(|(trace, _)| trace.thought.is_some()).count() - right;
        Ok(json!({
            "teacher": "evidence",
            "slates": traces.len(),
            "attempts": right + wrong,
            "kept": right,
            "acceptance": (right as f64 / (right + wrong).max(1) as f64 * 1e4).round() / 1e4,
            "kept_when_told": told,
            "dropped_wrong": wrong + count(Attempt::None) - told,
            "without_evidence": count(Attempt::None),
        }))
    }
}

/// What a teacher did that was not told which one was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// It had nothing to say.
    None,
    /// It took another one.
    Wrong,
    /// It took that one.
    Right,
}

/// The best candidates of a slate, the one that was taken among them, in the order to be learned;
/// and how the teacher did.
fn trace(world: &World, case: &Case, scores: &[f32], targeted: bool) -> Option<(Trace, Attempt)> {
    let mut places: Vec<usize> = (0..case.slate.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
    let order = places.into_iter().map(|place| case.slate[place]);
    let (taken, others): (Vec<u32>, Vec<u32>) =
        order.partition(|item| case.relevant.contains(item));
    let taken = *taken.first()?;
    let order: Vec<u32> = std::iter::once(taken).chain(others).take(OFFERED_MAX).collect();
    let cards = &world.snapshots[case.snapshot].cards.items;
    let teacher = EvidenceTeacher { catalog: &world.catalog, cards };
    let (attempt, thought) = match teacher.attempt(case, &order) {
        Some((item, thought)) if item == taken => (Attempt::Right, Some(thought)),
        attempt => {
            let attempt = if attempt.is_some() { Attempt::Wrong } else { Attempt::None };
            (attempt, targeted.then(|| teacher.explain(case, taken)).flatten())
        }
    };
    let thought = thought.map(|thought| thought.to_string());
    let history = case.history.iter();
    let history = history.map(|past| (past.item, past.time, past.kind.as_str().to_owned()));
    let order = case.offers(&world.catalog, &world.snapshots, &order);
    Some((Trace { history: history.collect(), now: case.now, order, thought }, attempt))
}

fn write<'a>(bench: &Bench<'_>, traces: impl Iterator<Item = &'a Trace>) -> anyhow::Result<()> {
    let path = bench.path(Part::Traces);
    let writing = || format!("writing {}", path.display());
    let file = std::fs::File::create(&path).with_context(writing)?;
    let mut file = std::io::BufWriter::new(file);
    for trace in traces {
        serde_json::to_writer(&mut file, trace)?;
        writeln!(file).with_context(writing)?;
    }
    file.flush().with_context(writing)
}

/// Reads what the stage wrote.
pub fn read(bench: &Bench<'_>) -> anyhow::Result<Vec<Trace>> {
    let path = bench.path(Part::Traces);
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("reading {}", path.display()))?;
    let traces = text.lines().enumerate().map(|(number, line)| {
        serde_json::from_str(line)
            .with_context(|| format!("reading {}:{}", path.display(), number + 1))
    });
    traces.collect()
}
