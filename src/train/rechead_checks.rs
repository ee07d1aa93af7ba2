//! Checks of a trained Rechead: does it read its texts, and each as what it is?
//!
//! - With the **true answer**, the text of the item that is then taken, it has to come close to the best order that the
//!   slates allow, far above everything else. Otherwise the head is broken, whatever its texts are worth.
//! - With the answers and thoughts of **other shoppers** it has to order worse.
//! - With its texts **swapped**, so that each is read as if it were the next one, it shows how much they differ.

use super::cases::{Case, PredictionTask};
use super::measure::{self, RESAMPLES};
use super::offline_ladder::{RecheadJudge, ndcg_at_10};
use super::training_data::TrainingData;
use super::weight::rounded;
use crate::nn::Rechead;
use crate::reranker::order_by_score;
use crate::scorer::{ShopperTexts, predicted_next_item};
use rand::SeedableRng as _;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};

/// The checks on the cases of each task.
pub fn report(
    network: &Rechead,
    data: &TrainingData,
    validation: &[(PredictionTask, Vec<Case>)],
    seed: u64,
) -> Value {
    let of_task = |(task, cases): &(PredictionTask, Vec<Case>)| {
        (task.as_str().to_owned(), of_cases(network, data, cases, seed))
    };
    Value::Object(validation.iter().map(of_task).collect())
}

fn of_cases(network: &Rechead, data: &TrainingData, cases: &[Case], seed: u64) -> Value {
    let judge = RecheadJudge::new(network, data);
    let plain = figures(&judge, cases, |_, case| case.written());
    let others = Shuffled::of(data, cases, seed);
    let checks = [
        ("true_answer", figures(&judge, cases, |_, case| true_answer(case))),
        ("other_shoppers_texts", figures(&judge, cases, |at, case| others.texts(cases, at, case))),
        ("swapped_texts", figures(&judge.with_texts_swapped(), cases, |_, case| case.written())),
    ];
    let mut report = json!({
        "cases": cases.len(),
        "as_trained": { "ndcg@10": mean(&plain) },
        "best_order_of_the_slates": { "ndcg@10": mean(&best_order(cases)) },
    });
    for (name, figures) in checks {
        let compared = measure::compare(&plain, &figures, RESAMPLES, seed);
        let change = compared.map(|compared| {
            let gain = compared.gain;
            json!({
                "mean": rounded(gain.mean), "low": rounded(gain.low), "high": rounded(gain.high),
            })
        });
        report[name] = json!({ "ndcg@10": mean(&figures), "change": change });
    }
    report
}

/// NDCG@10 of each case with these texts.
fn figures<'a>(
    judge: &RecheadJudge<'_>,
    cases: &'a [Case],
    texts: impl Fn(usize, &'a Case) -> ShopperTexts<'a> + Sync,
) -> Vec<f64> {
    let order =
        |(at, case): (usize, &'a Case)| order_by_score(&judge.scores_of(case, texts(at, case)));
    let orders: Vec<_> = cases.par_iter().enumerate().map(order).collect();
    ndcg_at_10(cases, &orders)
}

/// NDCG@10 of each case with every item of its slate that was taken at the top: a slate may lack what was taken.
fn best_order(cases: &[Case]) -> Vec<f64> {
    let order = |case: &Case| {
        let taken = case.slate.iter().map(|item| f32::from(u8::from(case.relevant.contains(item))));
        order_by_score(&taken.collect::<Vec<f32>>())
    };
    let orders: Vec<_> = cases.iter().map(order).collect();
    ndcg_at_10(cases, &orders)
}

/// A case's texts with the text of an item that is then taken as the answer: of the slate, where it has one.
fn true_answer(case: &Case) -> ShopperTexts<'_> {
    let taken = case.slate.iter().find(|item| case.relevant.contains(item));
    ShopperTexts { answer: taken.or(case.relevant.first()).copied(), ..case.written() }
}

/// Thoughts and answers, dealt anew among the shoppers.
struct Shuffled {
    /// The case whose thought a case gets.
    thoughts: Vec<usize>,
    /// The answer that a case gets: of another one that has some.
    answers: Vec<Option<u32>>,
}

impl Shuffled {
    fn of(data: &TrainingData, cases: &[Case], seed: u64) -> Self {
        let own = |case: &Case| {
            let cards = &data.snapshots[case.snapshot].cards;
            case.expected_item.or_else(|| predicted_next_item(&case.history, cards))
        };
        let mut answers: Vec<Option<u32>> = cases.iter().map(own).collect();
        // Whoever has no answer stays without one, so the shares of both kinds are as before.
        let answered = (0..cases.len()).filter(|&at| answers[at].is_some()).collect();
        let dealt: Vec<(usize, Option<u32>)> =
            passed_on(answered, seed).into_iter().map(|(to, from)| (to, answers[from])).collect();
        for (to, answer) in dealt {
            answers[to] = answer;
        }
        let mut thoughts = vec![0; cases.len()];
        for (to, from) in passed_on((0..cases.len()).collect(), seed ^ 1) {
            thoughts[to] = from;
        }
        Self { thoughts, answers }
    }

    fn texts<'a>(&self, cases: &'a [Case], at: usize, case: &'a Case) -> ShopperTexts<'a> {
        let ShopperTexts { thought, thought_text, .. } = cases[self.thoughts[at]].written();
        ShopperTexts { thought, thought_text, answer: self.answers[at], ..case.written() }
    }
}

/// (to, from) of each: in a random circle, each passes on to the next, so nobody keeps their own.
fn passed_on(mut circle: Vec<usize>, seed: u64) -> Vec<(usize, usize)> {
    circle.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let from = circle.iter().skip(1).chain(circle.first());
    circle.iter().copied().zip(from.copied()).collect()
}

fn mean(figures: &[f64]) -> f64 {
    rounded(figures.iter().sum::<f64>() / figures.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_keeps_their_own() {
        for count in 2..30 {
            let dealt = passed_on((0..count).collect(), 5);
            assert!(dealt.iter().all(|(to, from)| to != from), "{dealt:?}");
            let mut from: Vec<usize> = dealt.iter().map(|&(_, from)| from).collect();
            from.sort_unstable();
            assert_eq!(from, (0..count).collect::<Vec<_>>());
        }
    }
}
