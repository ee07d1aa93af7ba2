//! Trains the direct path of the scorer: on whole slates, from several seeds.

use super::adapt::{Adapted, adapt};
use super::batch::read_candidate;
use super::cases::{Case, PredictionTask};
use super::direct_recipe::DirectRecipe;
use super::fit::{self, FitConfig};
use super::fusion_fit::{TaskLogits, ValidationCases};
use super::measure::rounded;
use super::progress::ProgressObserver;
use super::training_data::TrainingData;
use crate::bundle::month;
use crate::nn::direct::{DirectNetwork, DirectScratch, DirectShape, FusedDirect, Standardiser};
use crate::nn::{Dropout, Weights, listwise_loss};
use crate::scorer::features::{FeatureContext, LiveVector};
use crate::scorer::{DirectColumns, DirectFile};
use anyhow::Context as _;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde_json::{Value, json};

/// Keeps the seeds of the direct path apart from those of the deep network.
const SEED: u64 = 0xd12e_c700;

/// A slate as the direct path reads it.
#[derive(Clone, Debug)]
pub struct DirectSlate {
    /// Features row by row, (N, F).
    pub rows: Vec<f32>,
    /// Whether each candidate was taken.
    pub taken: Vec<bool>,
}

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

/// The inputs of a training.
#[derive(Debug)]
pub struct DirectTraining<'a> {
    /// The settings.
    pub recipe: &'a DirectRecipe,
    /// The seed of everything random.
    pub seed: u64,
    /// The slates to learn from. Each has a candidate that was taken.
    pub examples: &'a [DirectSlate],
    /// The cases of the validation time.
    pub validation: ValidationCases<'a>,
    /// Their slates, by task.
    pub validation_slates: &'a [Vec<DirectSlate>],
}

/// One run of a member's training.
pub(super) struct MemberTraining<'a> {
    pub(super) recipe: &'a DirectRecipe,
    /// The shape of one member.
    pub(super) shape: &'a DirectShape,
    pub(super) moments: &'a Moments,
    pub(super) examples: Vec<&'a DirectSlate>,
    /// Slates of a batch.
    pub(super) batch: usize,
    pub(super) seed: u64,
    /// Epochs without a better metric after which it stops.
    pub(super) patience: usize,
}

/// One member after its best epoch.
struct Member {
    weights: Weights,
    best: f64,
    epochs: Vec<fit::Epoch>,
}

/// Reads the slates of cases.
pub fn slates(data: &TrainingData, columns: &DirectColumns, cases: &[Case]) -> Vec<DirectSlate> {
    cases.par_iter().map(|case| slate(data, columns, case)).collect()
}

fn slate(data: &TrainingData, columns: &DirectColumns, case: &Case) -> DirectSlate {
    let cards = &data.snapshots[case.snapshot].cards;
    let month = month(case.now);
    let context = FeatureContext::new(&data.catalog, cards, &case.history, case.now, month);
    let mut rows = Vec::with_capacity(case.slate.len() * columns.len());
    let unknown = LiveVector::default();
    for (at, &item) in case.slate.iter().enumerate() {
        let (_, features) = read_candidate(&context, item, &cards.items[item as usize]);
        columns.push_row(&features, case.live.get(at).unwrap_or(&unknown), &mut rows);
    }
    let taken = case.slate.iter().map(|item| case.relevant.contains(item)).collect();
    DirectSlate { rows, taken }
}

/// The slates of the cases of each task.
pub fn slates_by_task(
    data: &TrainingData,
    columns: &DirectColumns,
    cases: &[(PredictionTask, Vec<Case>)],
) -> Vec<Vec<DirectSlate>> {
    cases.iter().map(|(_, cases)| slates(data, columns, cases)).collect()
}

/// The logits of each slate, by the serving path.
pub fn logits(network: &FusedDirect, slates: &[DirectSlate]) -> anyhow::Result<Vec<Vec<f32>>> {
    let score = |scratch: &mut DirectScratch, slate: &DirectSlate| {
        let (mut logits, rows) = (Vec::new(), scratch.rows_mut());
        rows.clear();
        rows.extend_from_slice(&slate.rows);
        network.score(scratch, &mut logits)?;
        anyhow::Ok(logits)
    };
    slates.par_iter().map_init(DirectScratch::default, score).collect()
}

/// The logits of the slates of each task.
pub fn logits_by_task(
    network: &FusedDirect,
    slates: &[Vec<DirectSlate>],
) -> anyhow::Result<TaskLogits> {
    slates.iter().map(|slates| logits(network, slates)).collect()
}

// === impl DirectTraining ===

impl DirectTraining<'_> {
    /// Trains a network from each seed, and averages their logits if that is better on validation than the best
    /// one alone.
    pub fn run(&self, progress: &mut dyn ProgressObserver) -> anyhow::Result<TrainedDirect> {
        let inputs = self.recipe.names()?;
        let shape = DirectShape { inputs: inputs.len(), hidden: self.recipe.hidden, members: 1 };
        shape.check()?;
        let rows = self.examples.iter().map(|slate| &*slate.rows);
        let (mean, deviation) = Standardiser::fit(shape.inputs, rows);
        let moments = Moments { mean, deviation };
        let members: Vec<Member> = (0..self.recipe.seeds)
            .map(|member| self.member(&shape, &moments, member, progress))
            .collect::<anyhow::Result<_>>()?;
        let all: Vec<&Weights> = members.iter().map(|member| &member.weights).collect();
        let alone = members
            .iter()
            .fold(&members[0], |best, member| if member.best > best.best { member } else { best });
        let averaged = self.metric(&moments.assemble(&shape, &all), all.len(), &shape)?;
        let kept = if averaged > alone.best { all } else { vec![&alone.weights] };
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

/// The seed of a member.
pub(super) fn member_seed(seed: u64, member: usize) -> u64 {
    seed ^ SEED ^ ((member as u64) << 32)
}

// === impl MemberTraining ===

impl MemberTraining<'_> {
    /// Steps of an epoch.
    pub(super) fn steps(&self) -> usize {
        self.examples.len().div_ceil(self.batch)
    }

    /// Trains from these weights on. `validate` gets the number of each epoch, from 0, and its weights.
    pub(super) fn run(
        &self,
        begin: &Weights,
        mut validate: impl FnMut(usize, Weights) -> anyhow::Result<f64>,
        progress: impl FnMut(f64, usize),
    ) -> anyhow::Result<Vec<fit::Epoch>> {
        let (recipe, steps) = (self.recipe, self.steps());
        let variables = begin.to_varmap(&Device::Cpu)?;
        let built = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
        let network = DirectNetwork::new(self.shape, &built)?;
        let standardiser = Standardiser::new(&self.moments.mean, &self.moments.deviation);
        let mut dropout =
            Dropout { rate: recipe.dropout, rng: ChaCha8Rng::seed_from_u64(self.seed ^ 2) };
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ 1);
        let mut order: Vec<usize> = (0..self.examples.len()).collect();
        let config = FitConfig {
            epochs: recipe.epochs,
            steps,
            learning_rate: recipe.learning_rate,
            weight_decay: recipe.weight_decay,
            patience: self.patience,
        };
        let loss_of = |step: usize| -> anyhow::Result<Tensor> {
            if step.is_multiple_of(steps) {
                order.shuffle(&mut rng);
            }
            let start = step % steps * self.batch;
            let chosen = &order[start..order.len().min(start + self.batch)];
            let slates: Vec<&DirectSlate> = chosen.iter().map(|&at| self.examples[at]).collect();
            let batch = SlateBatch::of(&standardiser, &slates)?;
            let logits = network.forward_train(&batch.inputs, &mut dropout)?;
            let logits = logits.reshape(batch.mask.shape())?;
            Ok(listwise_loss(&logits, &batch.targets, &batch.mask)?)
        };
        let validate = |epoch| validate(epoch, Weights::from_varmap(&variables)?);
        fit::fit(&variables, config, loss_of, validate, progress)
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

/// Means and deviations of the features of the training slates.
pub(super) struct Moments {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Moments {
    /// One direct path of several members.
    pub(super) fn assemble(&self, shape: &DirectShape, members: &[&Weights]) -> Weights {
        let mut all = Weights::default();
        all.insert("mean", &[shape.inputs], self.mean.clone());
        all.insert("deviation", &[shape.inputs], self.deviation.clone());
        for (at, weights) in members.iter().enumerate() {
            all.insert_all(&DirectShape::member(at), weights);
        }
        all
    }

    /// The names of the features that never vary.
    fn constant<'a>(&self, names: &'a [String]) -> Vec<&'a str> {
        let constant = names.iter().zip(&self.deviation).filter(|(_, spread)| **spread <= 0.0);
        constant.map(|(name, _)| name.as_str()).collect()
    }
}

/// Whole slates, padded to the longest: B slates of N candidates.
struct SlateBatch {
    /// (B · N, 2F)
    inputs: Tensor,
    /// (B, N): the candidates that were taken share 1 equally.
    targets: Tensor,
    /// (B, N), 1 where there is a candidate.
    mask: Tensor,
}

impl SlateBatch {
    fn of(standardiser: &Standardiser, slates: &[&DirectSlate]) -> candle_core::Result<Self> {
        let width = 2 * standardiser.inputs();
        let longest = slates.iter().map(|slate| slate.taken.len()).max().unwrap_or(0);
        let (b, n) = (slates.len(), longest);
        let mut inputs = vec![0.0_f32; b * n * width];
        inputs.par_chunks_mut((n * width).max(1)).zip(slates).for_each(|(inputs, slate)| {
            let u = standardiser.slate(&slate.rows);
            inputs[..u.len()].copy_from_slice(&u);
        });
        let (mut targets, mut mask) = (vec![0.0_f32; b * n], vec![0.0_f32; b * n]);
        for (at, slate) in slates.iter().enumerate() {
            let count = slate.taken.iter().filter(|taken| **taken).count().max(1);
            for (column, &taken) in slate.taken.iter().enumerate() {
                mask[at * n + column] = 1.0;
                targets[at * n + column] = if taken { (count as f32).recip() } else { 0.0 };
            }
        }
        let cpu = &Device::Cpu;
        Ok(Self {
            inputs: Tensor::from_vec(inputs, (b * n, width), cpu)?,
            targets: Tensor::from_vec(targets, (b, n), cpu)?,
            mask: Tensor::from_vec(mask, (b, n), cpu)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::NoProgress;
    use crate::train::synthetic_query::SyntheticQuery;
    use rand::Rng as _;

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
            DirectSlate { rows, taken }
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
            synthetic_query: SyntheticQuery::default(),
            expected_item: None,
            slate: (0..slate.taken.len() as u32).collect(),
            relevant: (0..)
                .zip(&slate.taken)
                .filter(|(_, taken)| **taken)
                .map(|(at, _)| at)
                .collect(),
            live: Vec::new(),
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

    #[test]
    fn a_batch_pads_short_slates_and_shares_one_among_those_taken() {
        let standardiser = Standardiser::new(&[0.0; 2], &[1.0; 2]);
        let slates = [
            DirectSlate { rows: vec![1.0, 2.0], taken: vec![true] },
            DirectSlate {
                rows: vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0],
                taken: vec![true, false, true],
            },
        ];
        let batch = SlateBatch::of(&standardiser, &slates.iter().collect::<Vec<_>>()).unwrap();
        assert_eq!(batch.inputs.dims(), [6, 4]);
        assert_eq!(batch.mask.to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0], [1.0; 3]]);
        assert_eq!(batch.targets.to_vec2::<f32>().unwrap(), [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]]);
        let inputs = batch.inputs.to_vec2::<f32>().unwrap();
        assert_eq!(inputs[0], [1.0, 2.0, 0.0, 0.0]);
        assert_eq!(inputs[1..3], [[0.0; 4], [0.0; 4]]);
        assert_eq!(inputs[4][..2], [2.0, 3.0]);
    }
}
