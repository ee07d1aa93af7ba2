//! Trains the query path of the scorer: on slates with queries, as what is added to the scores of the rest.

use super::direct_member::{MemberTraining, Moments, member_seed};
use super::direct_recipe::DirectRecipe;
use super::direct_slates::{DirectSlate, logits};
use super::fit;
use super::measure::{self, mean_of, rounded};
use super::progress::ProgressObserver;
use super::query_recipe::QueryRecipe;
use crate::nn::Weights;
use crate::nn::direct::{DirectShape, FusedDirect};
use crate::reranker::order_by_score;
use crate::scorer::QueryFile;
use anyhow::Context as _;
use serde_json::{Value, json};

/// Keeps the seeds of the query path apart from those of the direct path.
const SEED: u64 = 0x9_e57;
/// The cut of the NDCG that epochs and weights are chosen by.
const CUT: usize = 10;

/// The inputs of a training. The scores of the rest of the scorer are the slates' offsets.
pub(super) struct QueryTraining<'a> {
    pub(super) recipe: &'a QueryRecipe,
    pub(super) inputs: Vec<String>,
    pub(super) seed: u64,
    /// Slates of which the query says something.
    pub(super) examples: &'a [DirectSlate],
    /// Slates of the validation time. Those without rows are ordered by their offsets alone.
    pub(super) validation: &'a [DirectSlate],
}

/// A query path that was trained.
pub(super) struct TrainedQuery {
    pub(super) weights: Weights,
    pub(super) file: QueryFile,
    pub(super) report: Value,
}

// === impl QueryTraining ===

impl QueryTraining<'_> {
    /// Trains a network from each seed, averages their logits if validation gains by it, and chooses the weight.
    pub(super) fn run(&self, progress: &mut dyn ProgressObserver) -> anyhow::Result<TrainedQuery> {
        let recipe = self.recipe.training();
        let shape = DirectShape { inputs: self.inputs.len(), hidden: recipe.hidden, members: 1 };
        shape.check()?;
        let moments = Moments::of(shape.inputs, self.examples);
        let members: Vec<(f64, Weights, Vec<fit::Epoch>)> = (0..recipe.seeds)
            .map(|member| self.member(&recipe, &shape, &moments, member, progress))
            .collect::<anyhow::Result<_>>()?;
        let all: Vec<&Weights> = members.iter().map(|(_, weights, _)| weights).collect();
        let alone = mean_of(members.iter().map(|member| member.0)).unwrap_or(0.0);
        let averaged = self.ndcg(&moments.assemble(&shape, &all), &shape, all.len(), 1.0)?;
        let kept = if averaged > alone { all } else { vec![&members[0].1] };
        let weights = moments.assemble(&shape, &kept);
        let mut tried = self.recipe.weights.clone();
        tried.sort_by(f32::total_cmp);
        let tried: Vec<(f32, f64)> = tried
            .into_iter()
            .map(|weight| Ok((weight, self.ndcg(&weights, &shape, kept.len(), weight)?)))
            .collect::<anyhow::Result<_>>()?;
        let better = |best: (f32, f64), next: (f32, f64)| if next.1 > best.1 { next } else { best };
        let (weight, best) = tried.iter().copied().reduce(better).context("no weight is tried")?;
        let report = json!({
            "examples": self.examples.len(),
            "validation_slates": self.validation.len(),
            "without_ndcg@10": rounded(self.ndcg(&weights, &shape, kept.len(), 0.0)?),
            "with_ndcg@10": rounded(best),
            "weight": {
                "chosen": rounded(f64::from(weight)),
                "tried": tried.iter().map(|(weight, ndcg)| {
                    json!({ "weight": rounded(f64::from(*weight)), "ndcg@10": rounded(*ndcg) })
                }).collect::<Vec<_>>(),
            },
            "members": kept.len(),
            "seeds": members.iter().map(|(best, _, epochs)| json!({
                "best_ndcg@10": rounded(*best),
                "epochs": epochs.iter().map(|epoch| json!({
                    "loss": rounded(epoch.loss), "validation_ndcg@10": rounded(epoch.metric),
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "constant_inputs": moments.constant(&self.inputs),
        });
        let (hidden, members) = (shape.hidden, kept.len());
        let file = QueryFile { weight, hidden, members, inputs: self.inputs.clone() };
        Ok(TrainedQuery { weights, file, report })
    }

    /// Trains the network of one seed: its best metric, its weights and its epochs.
    fn member(
        &self,
        recipe: &DirectRecipe,
        shape: &DirectShape,
        moments: &Moments,
        member: usize,
        progress: &mut dyn ProgressObserver,
    ) -> anyhow::Result<(f64, Weights, Vec<fit::Epoch>)> {
        let training = MemberTraining {
            recipe,
            shape,
            moments,
            examples: self.examples.iter().collect(),
            batch: recipe.batch,
            seed: member_seed(self.seed ^ SEED, member),
            patience: recipe.patience,
        };
        let mut best: Option<(f64, Weights)> = None;
        let validate = |_, weights: Weights| -> anyhow::Result<f64> {
            let metric = self.ndcg(&moments.assemble(shape, &[&weights]), shape, 1, 1.0)?;
            if best.as_ref().is_none_or(|best| metric > best.0) {
                best = Some((metric, weights));
            }
            Ok(metric)
        };
        let all_steps = recipe.epochs * training.steps();
        let of = (all_steps * recipe.seeds) as u64;
        let epochs =
            training.run(&shape.random_member(training.seed), validate, |loss, step| {
                let step = (member * all_steps + step) as u64;
                progress.show_losses("query path", step, of, &[("loss", loss)]);
            })?;
        let (metric, weights) = best.context("the recipe allows no epoch")?;
        Ok((metric, weights, epochs))
    }

    /// The mean NDCG@10 of the validation slates, with this weight of the query path's logits.
    fn ndcg(
        &self,
        weights: &Weights,
        shape: &DirectShape,
        members: usize,
        weight: f32,
    ) -> anyhow::Result<f64> {
        let network = FusedDirect::new(weights, &DirectShape { members, ..*shape })?;
        let logits = logits(&network, self.validation)?;
        let each = self.validation.iter().zip(&logits).map(|(slate, logits)| {
            let added = |at: usize| logits.get(at).map_or(0.0, |logit| weight * logit);
            let scores: Vec<f32> =
                slate.offsets.iter().enumerate().map(|(at, score)| score + added(at)).collect();
            let order: Vec<usize> =
                order_by_score(&scores).into_iter().map(|(place, _)| place).collect();
            let taken: Vec<usize> =
                (0..slate.taken.len()).filter(|&place| slate.taken[place]).collect();
            measure::ndcg(&order, &taken, CUT)
        });
        Ok(mean_of(each).unwrap_or(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::NoProgress;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    const SLATE: usize = 10;

    /// Slates whose offsets are noise, and whose taken candidate alone has the query's word, except that a quarter of
    /// the queries say nothing.
    fn slates(count: usize, seed: u64) -> Vec<DirectSlate> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut slate = |at: usize| {
            let taken_at = rng.random_range(0..SLATE);
            let taken: Vec<bool> = (0..SLATE).map(|place| place == taken_at).collect();
            let offsets = (0..SLATE).map(|_| rng.random_range(-1.0..1.0)).collect();
            let row = |&taken: &bool| [f32::from(u8::from(taken)), 0.5];
            let rows = if at % 4 == 3 { Vec::new() } else { taken.iter().flat_map(row).collect() };
            DirectSlate { rows, taken, offsets }
        };
        (0..count).map(&mut slate).collect()
    }

    #[test]
    fn what_the_query_says_is_learned_and_the_rest_keeps_its_order() {
        let recipe = QueryRecipe {
            hidden: 8,
            batch: 16,
            epochs: 12,
            learning_rate: 1e-2,
            seeds: 1,
            ..QueryRecipe::default()
        };
        let (mut examples, validation) = (slates(400, 1), slates(80, 2));
        examples.retain(|slate| !slate.rows.is_empty());
        let training = QueryTraining {
            recipe: &recipe,
            inputs: vec!["query_bm25".into(), "sales".into()],
            seed: 5,
            examples: &examples,
            validation: &validation,
        };
        let trained = training.run(&mut NoProgress).unwrap();
        let of = |key: &str| trained.report[key].as_f64().unwrap();
        let (without, with) = (of("without_ndcg@10"), of("with_ndcg@10"));
        assert!(without < 0.6, "{without}");
        assert!(with > 0.8, "three quarters are certain: {}", trained.report);
        assert!(trained.file.weight > 0.0);
        assert_eq!(trained.report["constant_inputs"], json!(["sales"]));
    }
}
