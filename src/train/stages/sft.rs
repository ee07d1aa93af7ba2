//! Trains a language model to compare the best candidates, with and without a thought before.
//!
//! GR2's supervised fine-tuning (B5): cross-entropy with separate weights for thoughts and orders. A trace with a thought
//! becomes a lesson of thought and order. Every trace may also become a lesson of the order alone.

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

/// Trains a language model to compare candidates.
#[derive(Debug)]
pub struct Sft;

impl Stage for Sft {
    fn name(&self) -> &'static str {
        "sft"
    }

    fn about(&self) -> &'static str {
        "Trains a language model on the traces to compare the best candidates, with a thought first"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::SemanticIds, Part::Midtrained, Part::Traces]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        &["seed", "shop", "language_model.synthetic_query_share", "language_model.compare"]
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

/// The lessons of the traces. A share of them has a synthetic query.
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
        let with_query = trace.order.first().filter(|_| rng.random_bool(share));
        let synthetic_query =
            with_query.map(|taken| SyntheticQuery::of(&catalog, &history, taken.item, &mut rng));
        let synthetic_query = synthetic_query.unwrap_or_default();
        let shopper = ShopperContext {
            words: synthetic_query.words(),
            ..ShopperContext::of(&history, trace.now)
        };
        if of.at_once {
            lessons.push(lesson(shopper, trace, None, of, prompts)?);
        }
        let thought = trace.thought.as_deref().and_then(Thought::parse);
        let Some(thought) = thought else { continue };
        if let Some(thought) = prompts.encode_thought(&thought, &trace.order, &history)? {
            lessons.push(lesson(shopper, trace, Some(&thought), of, prompts)?);
        }
    }
    Ok(lessons)
}

/// A lesson of one trace. Without a thought, it teaches the order at once.
fn lesson(
    shopper: ShopperContext<'_>,
    trace: &Trace,
    thought: Option<&[u32]>,
    of: &CompareRecipe,
    prompts: &Prompts,
) -> anyhow::Result<Lesson> {
    let mut offered = trace.order.clone();
    prompts.sort_offers(&mut offered);
    let mut tokens = prompts.trunk(shopper);
    tokens.extend(prompts.offers(&offered));
    let mut sft_weights = vec![0.0; tokens.len()];
    let mut write = |part: &[u32], weight: f32| {
        tokens.extend(part);
        sft_weights.resize(tokens.len(), weight);
    };
    if let Some(thought) = thought {
        write(prompts.thought_prefix(), 0.0);
        write(thought, of.thought_weight);
        // The model generates the end of a thought itself, so it is trained. Without a thought, the answer's first tokens are
        // part of the prompt.
        write(prompts.answer_prefix(), of.thought_weight);
    } else {
        write(prompts.answer_prefix(), 0.0);
    }
    for (rank, offer) in trace.order.iter().enumerate() {
        let label = offered.iter().position(|other| other == offer);
        let label = label.context("a trace's item is not among its candidates")?;
        let weight = if rank == 0 { of.first_weight } else { of.order_weight };
        write(&prompts.labels()[label], weight);
    }
    Ok(Lesson { tokens, sft_weights, ..Lesson::default() })
}

/// A sample of the lessons, for a later stage to rehearse against forgetting.
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
