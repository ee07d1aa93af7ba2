//! Judges cards in a language model's words by the scorer that reads them.
//!
//! The cards are written as of the beginning of validation. On the slates after it, the same scorer reads the evidence
//! writer's cards and the model's.

use super::{JUDGED_PATTERNS, JUDGED_REASONS, LmCardWriter};
use crate::reranker::order_by_score;
use crate::train::Workspace;
use crate::train::cases::Case;
use crate::train::dataset::DAY_S;
use crate::train::measure::{Interval, RESAMPLES, compare, ndcg};
use crate::train::offline_scorer::OfflineScorer;
use crate::train::training_data::TrainingData;
use anyhow::Context as _;
use rand::SeedableRng;
use rand::seq::SliceRandom as _;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

/// Cards are judged by NDCG at this cutoff.
const NDCG_CUTOFF: usize = 10;

/// Which of the model's texts go onto cards: those that are not significantly worse.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedTexts {
    /// Items' reasons.
    pub reasons: bool,
    /// Shoppers' patterns.
    pub patterns: bool,
}

impl LmCardWriter<'_> {
    /// Writes cards as of the beginning of validation, and measures the scorer on both kinds.
    pub fn judge(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<(AcceptedTexts, Value)> {
        let recipe = workspace.recipe.clone();
        let split = workspace.dataset(self.catalog)?.split;
        let mut data = TrainingData::open(workspace, split.validate, split.validate + 1)?;
        let scorer = OfflineScorer::read(workspace)?;
        let until = (split.validate + recipe.slates.refresh_days * DAY_S).min(split.test);
        let mut rng = ChaCha8Rng::seed_from_u64(recipe.seed);
        let mut cases = Vec::new();
        for (_, mut of_task) in
            data.last_cases(recipe.slates.size, self.currency, split.validate, until)?
        {
            of_task.shuffle(&mut rng);
            of_task.truncate(self.recipe.judged_max);
            cases.extend(of_task);
        }
        let before = ndcg_by_case(&scorer, &data, &cases)?;
        let gain = |data: &TrainingData, cases: &[Case]| {
            let comparison =
                compare(&before, &ndcg_by_case(&scorer, data, cases)?, RESAMPLES, recipe.seed);
            comparison
                .map(|comparison| comparison.gain)
                .context("there are no validation cases to judge cards on")
        };

        let items = &data.snapshots[0].cards.items;
        let shoppers: Vec<_> = cases.iter().map(Case::shopper).collect();
        let (texts, _) = self.patterns(workspace, JUDGED_PATTERNS, items, &shoppers)?;
        let mut with_patterns = cases.clone();
        for (case, text) in with_patterns.iter_mut().zip(texts) {
            case.pattern = text.map(|text| data.reader.vector(&text));
        }
        let patterns = gain(&data, &with_patterns)?;

        let TrainingData { dataset, snapshots, reader, .. } = &mut data;
        let snapshot = &mut snapshots[0];
        let as_of = snapshot.cards.as_of;
        self.reasons(workspace, JUDGED_REASONS, dataset, &mut snapshot.cards.items, as_of)?;
        snapshot.encode_reasons(reader);
        let (reasons, both) = (gain(&data, &cases)?, gain(&data, &with_patterns)?);
        let accepted =
            AcceptedTexts { reasons: is_acceptable(reasons), patterns: is_acceptable(patterns) };
        let report = json!({
            "cases": cases.len(),
            "ndcg@10": before.iter().sum::<f64>() / before.len() as f64,
            "gain": { "reasons": interval_json(reasons), "patterns": interval_json(patterns), "both": interval_json(both) },
        });
        Ok((accepted, report))
    }
}

/// Whether a gain is not significantly negative.
fn is_acceptable(gain: Interval) -> bool {
    gain.high >= 0.0
}

fn interval_json(gain: Interval) -> Value {
    let rounded = |value: f64| (value * 1e5).round() / 1e5;
    json!({ "mean": rounded(gain.mean), "low": rounded(gain.low), "high": rounded(gain.high) })
}

/// NDCG of the scorer's order, by case.
fn ndcg_by_case(
    scorer: &OfflineScorer,
    data: &TrainingData,
    cases: &[Case],
) -> anyhow::Result<Vec<f64>> {
    let scores = scorer.scores(data, cases)?;
    let figures = cases.iter().zip(&scores).map(|(case, scores)| {
        let order: Vec<u32> =
            order_by_score(scores).into_iter().map(|(index, _)| case.slate[index]).collect();
        ndcg(&order, &case.relevant, NDCG_CUTOFF)
    });
    Ok(figures.collect())
}
