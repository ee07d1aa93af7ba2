//! A language model learns to compare the best candidates, and to think aloud before it does.
//!
//! GR2's supervised fine-tuning (B5): cross-entropy with a weight of its own for thoughts and for
//! orders. Those traces with a thought teach an order that is thought about first; and every trace may teach
//! one that is answered at once.

use super::traces;
use crate::bundle::Part;
use crate::reranker::{Prompts, ShopperContext, Thought};
use crate::train::learner_config::TrainScope;
use crate::train::lesson::Lesson;
use crate::train::recipe::{CompareRecipe, Recipe};
use crate::train::synthetic_query::SyntheticQuery;
use crate::train::trace::Trace;
use crate::train::{Stage, Workspace, finetune};
use anyhow::Context as _;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Teaches a language model to compare candidates.
#[derive(Debug)]
pub struct Sft;

impl Stage for Sft {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn about(&self) -> &'static str {
        "Teaches a language model to compare the best candidates, and to think aloud first, from the traces"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::SemanticIds, Part::Midtrained, Part::Traces]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Compared]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.compare().is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let of = recipe.compare().context("the recipe has no `language_model.compare`")?;
        let (from, to) = (workspace.path(Part::Midtrained), workspace.path(Part::Compared));
        let prompts = Prompts::open(&from, &*workspace.catalog()?)?;
        let traces = traces::read(workspace)?;
        let lessons = lessons(workspace, &traces, of, &prompts)?;
        let model = finetune::open_model(&from, &prompts, workspace.recipe.seed)?;
        let scope = TrainScope::of(of.teaching.adapter_rank);
        let (model, report) =
            finetune::train(workspace, "sft", model, &of.teaching, scope, &lessons)?;
        finetune::save_model(&model, &prompts, &to)?;
        Ok(json!({
            "traces": traces.len(),
            "thoughts": traces.iter().filter(|trace| trace.thought.is_some()).count(),
            "lessons": lessons.len(),
            "training": finetune::report_json(&report),
        }))
    }
}

/// What the traces teach. In a share of the lessons something is said of the shopper in words.
fn lessons(
    workspace: &Workspace<'_>,
    traces: &[Trace],
    of: &CompareRecipe,
    prompts: &Prompts,
) -> anyhow::Result<Vec<Lesson>> {
    let (catalog, share) =
        (workspace.catalog()?, workspace.recipe.language_model()?.synthetic_query_share);
    let mut rng = ChaCha8Rng::seed_from_u64(workspace.recipe.seed);
    let mut lessons = Vec::new();
    for trace in traces {
        let history = trace.history();
        let taken = trace.order.first().filter(|_| rng.random_bool(share));
        let synthetic_query =
            taken.map(|taken| SyntheticQuery::of(&catalog, &history, taken.item, &mut rng));
        let synthetic_query = synthetic_query.unwrap_or_default();
        let shopper = ShopperContext {
            words: synthetic_query.words(),
            ..ShopperContext::of(&history, trace.now)
        };
        if of.at_once {
            lessons.push(lesson(shopper, trace, None, of, prompts)?);
        }
        let thought = trace.thought.as_deref().and_then(Thought::read);
        let Some(thought) = thought else { continue };
        if let Some(thought) = prompts.written(&thought, &trace.order, &history)? {
            lessons.push(lesson(shopper, trace, Some(&thought), of, prompts)?);
        }
    }
    Ok(lessons)
}

fn lesson(
    shopper: ShopperContext<'_>,
    trace: &Trace,
    thought: Option<&[u32]>,
    of: &CompareRecipe,
    prompts: &Prompts,
) -> anyhow::Result<Lesson> {
    let mut offered = trace.order.clone();
    prompts.offer_order(&mut offered);
    let mut tokens = prompts.trunk(shopper);
    tokens.extend(prompts.offer(&offered));
    let mut sft_weights = vec![0.0; tokens.len()];
    let mut write = |part: &[u32], weight: f32| {
        tokens.extend(part);
        sft_weights.resize(tokens.len(), weight);
    };
    if let Some(thought) = thought {
        write(prompts.think(), 0.0);
        write(thought, of.thought_weight);
        // That a thought is over has to be learned; how an answer begins, where none was thought,
        // is written for the model.
        write(prompts.answer(), of.thought_weight);
    } else {
        write(prompts.answer(), 0.0);
    }
    for (place, offer) in trace.order.iter().enumerate() {
        let label = offered.iter().position(|other| other == offer);
        let label = label.context("what was taken was offered")?;
        let weight = if place == 0 { of.first_weight } else { of.order_weight };
        write(&prompts.labels()[label], weight);
    }
    Ok(Lesson { tokens, sft_weights, ..Lesson::default() })
}

/// Some of the lessons again, for a stage that teaches something else and is not to undo this.
pub fn rehearsal(
    workspace: &Workspace<'_>,
    of: &CompareRecipe,
    prompts: &Prompts,
    seed: u64,
) -> anyhow::Result<Vec<Lesson>> {
    let mut lessons = lessons(workspace, &traces::read(workspace)?, of, prompts)?;
    lessons.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    lessons.truncate(of.rehearsed_max);
    Ok(lessons)
}
