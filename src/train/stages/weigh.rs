//! Trains a language model to weigh candidates in the layout of serving, and to write cards.

use super::reward_model::examples;
use super::sft;
use crate::bundle::Part;
use crate::reranker::{Prompts, ShopperContext};
use crate::train::cases::Case;
use crate::train::learner_config::TrainScope;
use crate::train::lesson::{Choose, Lesson};
use crate::train::recipe::Recipe;
use crate::train::synthetic_query::SyntheticQuery;
use crate::train::training_data::TrainingData;
use crate::train::{Stage, Workspace, finetune, writer};
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{Rng as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Trains a language model to weigh candidates.
#[derive(Debug)]
pub struct Weigh;

impl Stage for Weigh {
    fn name(&self) -> &'static str {
        "weigh"
    }

    fn about(&self) -> &'static str {
        "Trains a language model to weigh each candidate of a slate alone, in the layout of serving"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text, Part::Midtrained]
    }

    fn may_read(&self) -> &'static [Part] {
        &[Part::SemanticIds, Part::Compared, Part::Traces]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        scorer_sections![
            "language_model.synthetic_query_share",
            "language_model.compare",
            "language_model.write",
            "language_model.weigh"
        ]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::Decoder]
    }

    fn is_enabled(&self, recipe: &Recipe) -> bool {
        recipe.language_model.is_some()
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let recipe = workspace.recipe.clone();
        let of = &recipe.language_model()?.weigh;
        let split = workspace.dataset(&*workspace.catalog()?)?.split;
        let data = TrainingData::open(workspace, split.train, split.test)?;
        let compare = recipe.compare();
        let from = if compare.is_some() { Part::Compared } else { Part::Midtrained };
        let (from, to) = (workspace.path(from), workspace.path(Part::Decoder));
        let prompts = Prompts::open(&from, &data.catalog)?;
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        let mut examples = examples(&data, &recipe)?;
        examples.shuffle(&mut rng);
        examples.truncate(of.examples_max);
        let synthetic_query_share = recipe.language_model()?.synthetic_query_share;
        let mut lessons: Vec<Lesson> = examples
            .iter()
            .map(|case| {
                lesson(&data, case, (of.candidates, synthetic_query_share), &prompts, &mut rng)
            })
            .collect();
        if let Some(write) = &recipe.language_model()?.write {
            let currency = &recipe.shop.currency;
            lessons.extend(writer::lessons(&data, &examples, currency, &prompts, write, &mut rng)?);
        }
        if let Some(compare) = compare {
            lessons.extend(sft::rehearsal(workspace, compare, &prompts, recipe.seed)?);
        }
        let model = finetune::open_model(&from, &prompts, recipe.seed)?;
        let scope = TrainScope::of(of.teaching.adapter_rank);
        let (model, report) =
            finetune::train(workspace, "weigh", model, &of.teaching, scope, &lessons)?;
        finetune::save_model(&model, &prompts, &to)?;

        Ok(json!({
            "examples": examples.len(),
            "lessons": lessons.len(),
            "training": finetune::report_json(&report),
        }))
    }
}

/// The taken item among others of its slate, as branches after the shopper's trunk. A share of the lessons has a synthetic
/// query.
fn lesson(
    data: &TrainingData,
    case: &Case,
    (candidates, synthetic_query_share): (usize, f64),
    prompts: &Prompts,
    rng: &mut ChaCha8Rng,
) -> Lesson {
    let (taken, others): (Vec<u32>, Vec<u32>) =
        case.slate.iter().copied().partition(|item| case.relevant.contains(item));
    let taken = taken.choose(rng).copied();
    let with_query = taken.filter(|_| rng.random_bool(synthetic_query_share));
    let synthetic_query =
        with_query.map(|taken| SyntheticQuery::of(&data.catalog, &case.history, taken, rng));
    let synthetic_query = synthetic_query.unwrap_or_default();
    let others = others.choose_multiple(rng, candidates.saturating_sub(1)).copied();
    let items: Vec<u32> = taken.into_iter().chain(others).collect();
    let offers = case.offers(&data.catalog, &data.snapshots, &items);
    let branches = offers.iter().map(|offer| prompts.branch(offer));
    let choose =
        Choose { branches: branches.collect(), taken: 0, label_token: prompts.score_token() };
    let shopper = ShopperContext { words: synthetic_query.words(), ..case.shopper() };
    Lesson::choice(prompts.trunk(shopper), choose)
}
