//! What a model learns to write from: what was taken, and what was known before.

use super::{Saying, sayings, tastes};
use crate::bundle::{Backing, Catalog};
use crate::evidence::PATTERN_LIKES_MAX;
use crate::reranker::Prompts;
use crate::train::cases::Case;
use crate::train::lesson::Lesson;
use crate::train::recipe::WriterRecipe;
use crate::train::training_data::TrainingData;
use rand::seq::IndexedRandom as _;
use rand_chacha::ChaCha8Rng;
use std::cmp::Reverse;

/// What teaches a model to write: why what was taken was taken, and what mattered.
pub fn lessons(
    data: &TrainingData,
    examples: &[Case],
    currency: &str,
    prompts: &Prompts,
    of: &WriterRecipe,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<Vec<Lesson>> {
    let mut lessons = Vec::new();
    for case in examples.iter().take(of.examples_max) {
        lessons.extend(tastes_lesson(&data.catalog, case, prompts));
        lessons.extend(reason_lesson(data, case, currency, prompts, rng)?);
    }
    Ok(lessons)
}

/// Why an item was taken: the reason on its card that the history backs most, or the first, in one of the
/// ways in which it can be said.
fn reason_lesson(
    data: &TrainingData,
    case: &Case,
    currency: &str,
    prompts: &Prompts,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<Option<Lesson>> {
    let taken = case.slate.iter().copied().find(|item| case.relevant.contains(item));
    let Some(item) = taken else { return Ok(None) };
    let card = &data.snapshots[case.snapshot].cards.items[item as usize];
    let offers = case.offers(&data.catalog, &data.snapshots, &[item]);
    let backed = offers.first().map_or(Backing::Nothing, |offer| offer.because);
    let place = card.reasons.iter().position(|reason| reason.backing == backed).unwrap_or(0);
    let all = sayings(&data.catalog, currency, prompts, item, card)?;
    let of_it: Vec<&Saying> = all.iter().filter(|saying| saying.reason == place).collect();
    let Some(saying) = of_it.choose(rng) else { return Ok(None) };
    Ok(Some(after(&prompts.why(case.shopper(), item), &saying.tokens)))
}

/// What mattered: of what the shopper's things had in common, that which what they took then has as well
/// comes first.
fn tastes_lesson(catalog: &Catalog, case: &Case, prompts: &Prompts) -> Option<Lesson> {
    let mut tastes = tastes(catalog, prompts, &case.history);
    let mattered = |attribute: &u32| {
        let taken = case.relevant.iter();
        taken.filter(|item| catalog.item(**item).attributes.contains(attribute)).count()
    };
    tastes.sort_by_key(|attribute| Reverse(mattered(attribute)));
    tastes.truncate(PATTERN_LIKES_MAX);
    let told: Vec<u32> = tastes.iter().flat_map(|&attribute| prompts.taste(attribute)).collect();
    (!told.is_empty()).then(|| after(&prompts.tastes(case.shopper()), &told))
}

/// A lesson of which only what comes after the prompt counts.
fn after(prompt: &[u32], told: &[u32]) -> Lesson {
    let mut sft_weights = vec![0.0; prompt.len()];
    let tokens = [prompt, told].concat();
    sft_weights.resize(tokens.len(), 1.0);
    Lesson { tokens, sft_weights, ..Lesson::default() }
}
