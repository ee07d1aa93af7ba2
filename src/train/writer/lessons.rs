//! Lessons in writing cards: from purchases and the histories before them.

use super::{ReasonWording, distinct_likes, wordings};
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

/// Lessons in choosing reasons and liked attributes, from the first examples.
pub fn lessons(
    data: &TrainingData,
    examples: &[Case],
    currency: &str,
    prompts: &Prompts,
    recipe: &WriterRecipe,
    rng: &mut ChaCha8Rng,
) -> anyhow::Result<Vec<Lesson>> {
    let mut lessons = Vec::new();
    for case in examples.iter().take(recipe.examples_max) {
        lessons.extend(likes_lesson(&data.catalog, case, prompts));
        lessons.extend(reason_lesson(data, case, currency, prompts, rng)?);
    }
    Ok(lessons)
}

/// The target is the reason on the taken item's card that the history backs most, or the first one, in a random phrasing.
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
    let index = card.reasons.iter().position(|reason| reason.backing == backed).unwrap_or(0);
    let all = wordings(&data.catalog, currency, prompts, item, card)?;
    let phrasings: Vec<&ReasonWording> =
        all.iter().filter(|wording| wording.reason == index).collect();
    let Some(wording) = phrasings.choose(rng) else { return Ok(None) };
    Ok(Some(completion_lesson(&prompts.reason_prompt(case.shopper(), item), &wording.tokens)))
}

/// The target is the attributes that the shopper's items have in common, first those of the item taken next.
fn likes_lesson(catalog: &Catalog, case: &Case, prompts: &Prompts) -> Option<Lesson> {
    let mut likes = distinct_likes(catalog, prompts, &case.history);
    let taken_with = |attribute: &u32| {
        let taken = case.relevant.iter();
        taken.filter(|item| catalog.item(**item).attributes.contains(attribute)).count()
    };
    likes.sort_by_key(|attribute| Reverse(taken_with(attribute)));
    likes.truncate(PATTERN_LIKES_MAX);
    let target: Vec<u32> =
        likes.iter().flat_map(|&attribute| prompts.encode_taste(attribute)).collect();
    (!target.is_empty()).then(|| completion_lesson(&prompts.taste_prompt(case.shopper()), &target))
}

/// A lesson with weight on the completion only.
fn completion_lesson(prompt: &[u32], completion: &[u32]) -> Lesson {
    let mut sft_weights = vec![0.0; prompt.len()];
    let tokens = [prompt, completion].concat();
    sft_weights.resize(tokens.len(), 1.0);
    Lesson { tokens, sft_weights, ..Lesson::default() }
}
