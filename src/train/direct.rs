//! Trains the direct path of the scorer: on whole slates, from several seeds.

use super::adapt::{Adapted, adapt};
use super::direct_member::{MemberTraining, Moments, member_seed};
use super::direct_slates::{DirectTraining, logits_by_task};
use super::fit;
use super::fusion_fit::TaskLogits;
use super::measure::rounded;
use super::progress::ProgressObserver;
use crate::nn::Weights;
use crate::nn::direct::{DirectShape, FusedDirect};
use crate::scorer::DirectFile;
use anyhow::Context as _;
use serde_json::{Value, json};

/// A direct path that was trained.
#[derive(Debug)]
pub struct TrainedDirect {
    /// Its weights.
    pub weights: Weights,
    /// Its section of the scorer's file, with the weight of the deep network still to be chosen.
    pub file: DirectFile,
    /// For the stage's report.
    pub report: Value,
    /// Where it was adapted to the validation slates: the logits of each, by a network that did not learn from it.
    pub out_of_fold: Option<TaskLogits>,
}

/// One member after its best epoch.
struct Member {
    weights: Weights,
    best: f64,
    epochs: Vec<fit::Epoch>,
}

// === impl DirectTraining ===

impl DirectTraining<'_> {
    /// Trains a network from each seed, and averages their logits if that is better on validation than one of them is
    /// on average.
    pub fn run(&self, progress: &mut dyn ProgressObserver) -> anyhow::Result<TrainedDirect> {
        let inputs = self.recipe.names()?;
        let shape = DirectShape { inputs: inputs.len(), hidden: self.recipe.hidden, members: 1 };
        shape.check()?;
        let moments = Moments::of(shape.inputs, self.examples);
        let members: Vec<Member> = (0..self.recipe.seeds)
            .map(|member| self.member(&shape, &moments, member, progress))
            .collect::<anyhow::Result<_>>()?;
        let all: Vec<&Weights> = members.iter().map(|member| &member.weights).collect();
        let alone = members.iter().map(|member| member.best).sum::<f64>() / members.len() as f64;
        let averaged = self.metric(&moments.assemble(&shape, &all), all.len(), &shape)?;
        // The best of several seeds looks better on validation than it is, so the average is held against a usual one.
        let kept = if averaged > alone { all } else { vec![&members[0].weights] };
        let adapted = match self.recipe.adapt_folds {
            0 => None,
            folds => Some(adapt(self, &shape, &moments, &kept, folds, progress)?),
        };
        let report = json!({
            "inputs": inputs.len(),
            "constant_inputs": moments.constant(&inputs),
            "seeds": members.iter().map(Member::to_json).collect::<Vec<_>>(),
            "averaged_ndcg@10": rounded(averaged),
            "members": kept.len(),
            "adapted": adapted.as_ref().map(|adapted| adapted.report.clone()),
        });
        let (hidden, members) = (shape.hidden, kept.len());
        let (own, out_of_fold) = match adapted {
            Some(Adapted { members, logits, .. }) => (members, Some(logits)),
            None => (kept.into_iter().cloned().collect(), None),
        };
        let weights = moments.assemble(&shape, &own.iter().collect::<Vec<_>>());
        let file = DirectFile { deep_weight: 1.0, hidden, members, inputs };
        Ok(TrainedDirect { weights, file, report, out_of_fold })
    }

    /// Trains the network of one seed.
    fn member(
        &self,
        shape: &DirectShape,
        moments: &Moments,
        member: usize,
        progress: &mut dyn ProgressObserver,
    ) -> anyhow::Result<Member> {
        let recipe = self.recipe;
        let training = MemberTraining {
            recipe,
            shape,
            moments,
            examples: self.examples.iter().collect(),
            batch: recipe.batch,
            seed: member_seed(self.seed, member),
            patience: recipe.patience,
        };
        let mut best: Option<(f64, Weights)> = None;
        let validate = |_, weights: Weights| -> anyhow::Result<f64> {
            let metric = self.metric(&moments.assemble(shape, &[&weights]), 1, shape)?;
            if best.as_ref().is_none_or(|best| metric > best.0) {
                best = Some((metric, weights));
            }
            Ok(metric)
        };
        let all_steps = recipe.epochs * training.steps();
        let of = (all_steps * recipe.seeds) as u64;
        let begin = shape.random_member(training.seed);
        let epochs = training.run(&begin, validate, |loss, step| {
            let step = (member * all_steps + step) as u64;
            progress.show_losses("direct path", step, of, &[("loss", loss)]);
        })?;
        let (best, weights) = best.context("the recipe allows no epoch")?;
        Ok(Member { weights, best, epochs })
    }

    /// The NDCG on validation with the best position penalty.
    fn metric(
        &self,
        weights: &Weights,
        members: usize,
        shape: &DirectShape,
    ) -> anyhow::Result<f64> {
        let network = FusedDirect::new(weights, &DirectShape { members, ..*shape })?;
        Ok(self.validation.fit(&logits_by_task(&network, self.validation_slates)?).0)
    }
}

// === impl Member ===

impl Member {
    fn to_json(&self) -> Value {
        let epoch = |epoch: &fit::Epoch| json!({ "loss": rounded(epoch.loss), "validation_ndcg@10": rounded(epoch.metric) });
        json!({
            "best_ndcg@10": rounded(self.best),
            "epochs": self.epochs.iter().map(epoch).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::NoProgress;
    use crate::train::cases::{Case, PredictionTask};
    use crate::train::direct_recipe::DirectRecipe;
    use crate::train::direct_slates::{DirectSlate, logits};
    use crate::train::fusion_fit::ValidationCases;
    use crate::train::synthetic_query::SyntheticQuery;
    use rand::{Rng as _, SeedableRng as _};
    use rand_chacha::ChaCha8Rng;

    const SLATE: usize = 12;
    const NAMES: [&str; 3] = ["sales", "trend", "price_rank"];

    /// Slates whose taken candidate has the most of the first feature within its slate. A slate's level hides that from
    /// whoever looks at one candidate alone.
    fn learnable(count: usize, seed: u64) -> Vec<DirectSlate> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut slate = || {
            let level = rng.random_range(-20.0_f32..20.0);
            let values: Vec<f32> = (0..SLATE).map(|_| level + rng.random_range(0.0..1.0)).collect();
            let most = values.iter().copied().fold(f32::MIN, f32::max);
            let taken = values.iter().map(|&value| value >= most).collect();
            let rows = values.iter().flat_map(|&value| [value, rng.random(), 7.0]).collect();
            DirectSlate { rows, taken, offsets: Vec::new() }
        };
        (0..count).map(|_| slate()).collect()
    }

    /// A case for each slate, whose items are numbered by their places.
    fn cases(slates: &[DirectSlate]) -> Vec<Case> {
        let case = |slate: &DirectSlate| Case {
            user: 0,
            task: PredictionTask::NextBasket,
            now: 0,
            history: Vec::new(),
            pattern: None,
            pattern_text: String::new(),
            synthetic_query: SyntheticQuery::default(),
            expected_item: None,
            slate: (0..slate.taken.len() as u32).collect(),
            relevant: (0..)
                .zip(&slate.taken)
                .filter(|(_, taken)| **taken)
                .map(|(at, _)| at)
                .collect(),
            live: Vec::new(),
            rechead: Vec::new(),
            line: 0,
            snapshot: 0,
        };
        slates.iter().map(case).collect()
    }

    fn recipe() -> DirectRecipe {
        DirectRecipe {
            inputs: NAMES.map(str::to_owned).to_vec(),
            hidden: 16,
            batch: 16,
            epochs: 6,
            learning_rate: 1e-2,
            seeds: 2,
            ..DirectRecipe::default()
        }
    }

    /// The trained path, and the NDCG of the orders given.
    fn train(seed: u64, recipe: &DirectRecipe) -> (TrainedDirect, f64) {
        let (examples, held_out) = (learnable(320, 1), learnable(100, 2));
        let cases = [(PredictionTask::NextBasket, cases(&held_out))];
        let validation = ValidationCases(&cases);
        let training = DirectTraining {
            recipe,
            seed,
            examples: &examples,
            adapted_to: &[],
            validation,
            validation_slates: &[held_out],
        };
        (training.run(&mut NoProgress).unwrap(), validation.given())
    }

    #[test]
    fn an_order_within_the_slate_is_learned() {
        let (trained, given) = train(1, &recipe());
        let best = trained.report["averaged_ndcg@10"].as_f64().unwrap();
        assert!(given < 0.5 && best > 0.9, "{given} given, {}", trained.report);
        assert_eq!(trained.report["constant_inputs"], json!(["price_rank"]));
        assert_eq!(trained.file.inputs, NAMES);
        let network = FusedDirect::new(&trained.weights, &trained.file.shape()).unwrap();
        for slate in learnable(5, 3) {
            let logits = &logits(&network, &[slate]).unwrap()[0];
            assert!(logits.iter().all(|logit| logit.is_finite()));
        }
    }

    #[test]
    fn the_seed_decides_the_weights() {
        let short = DirectRecipe { epochs: 1, seeds: 1, ..recipe() };
        let weights = |seed| train(seed, &short).0.weights.to_bytes().unwrap();
        assert_eq!(weights(1), weights(1));
        assert_ne!(weights(1), weights(2));
    }
}
