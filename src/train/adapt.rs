//! Adapts a direct path to another ranker's slates: those of the validation time, and what there is of the training time.
//!
//! The validation slates are dealt into folds by shopper. For each fold, the network goes on learning from the slates of
//! the training time and the other folds, and scores the fold. The number of epochs is the one whose scores are best over all folds; it may be 0. Then the network
//! learns that long from all of them. What is chosen afterwards, such as the weight of the order given, is chosen by the
//! scores of networks that did not learn from the slate.
//!
//! Tried and dropped: counting the order given as an offset while the network learns. It was worse out of fold at once.

use super::direct_member::{MemberTraining, Moments, member_seed};
use super::direct_slates::{DirectSlate, DirectTraining, logits};
use super::fusion_fit::TaskLogits;
use super::measure::rounded;
use super::progress::ProgressObserver;
use crate::nn::Weights;
use crate::nn::direct::{DirectShape, FusedDirect};
use anyhow::ensure;
use serde_json::{Value, json};

/// The part of a batch that a step of the adaptation reads, for there are fewer slates.
const BATCH_SHARE: usize = 4;

/// An adapted direct path.
pub(super) struct Adapted {
    /// The weights of each member.
    pub(super) members: Vec<Weights>,
    /// The logits of each validation slate, by networks that did not learn from it.
    pub(super) logits: TaskLogits,
    /// For the stage's report.
    pub(super) report: Value,
}

/// The validation slates in folds.
struct Folds<'a> {
    training: &'a DirectTraining<'a>,
    shape: &'a DirectShape,
    moments: &'a Moments,
    /// The fold of each slate, by task.
    of: Vec<Vec<usize>>,
}

/// Adapts these members. `progress` receives the folds done.
pub(super) fn adapt(
    training: &DirectTraining<'_>,
    shape: &DirectShape,
    moments: &Moments,
    members: &[&Weights],
    count: usize,
    progress: &mut dyn ProgressObserver,
) -> anyhow::Result<Adapted> {
    let fold = |user: u32| user as usize % count;
    let tasks = training.validation.0.iter();
    let of = tasks.map(|(_, cases)| cases.iter().map(|case| fold(case.user)).collect()).collect();
    let folds = Folds { training, shape, moments, of };
    let epochs = training.recipe.epochs;
    let mut sums = vec![folds.zeros(); epochs + 1];
    for (at, &member) in members.iter().enumerate() {
        for fold in 0..count {
            progress.show("adapting", (at * count + fold) as u64, (members.len() * count) as u64);
            folds.score(fold, member, &mut sums[0])?;
            folds.learn(Some(fold), at, member, |epoch, weights| {
                folds.score(fold, &weights, &mut sums[epoch + 1])
            })?;
        }
    }
    let metrics: Vec<f64> = sums.iter().map(|sum| training.validation.fit(sum).0).collect();
    let best =
        (0..metrics.len()).fold(0, |best, at| if metrics[at] > metrics[best] { at } else { best });
    let adapted = members.iter().enumerate().map(|(at, &member)| {
        let mut kept = member.clone();
        if best > 0 {
            folds.learn(None, at, member, |epoch, weights| {
                if epoch + 1 == best {
                    kept = weights;
                }
                Ok(())
            })?;
        }
        Ok(kept)
    });
    let adapted = adapted.collect::<anyhow::Result<_>>()?;
    let report = json!({
        "folds": count,
        "slates_of_the_training_time": training.adapted_to.len(),
        "epochs": best,
        "out_of_fold_ndcg@10": metrics.iter().map(|&metric| rounded(metric)).collect::<Vec<_>>(),
    });
    let mut logits = sums.swap_remove(best);
    let scale = (members.len() as f32).recip();
    logits.iter_mut().flatten().flatten().for_each(|logit| *logit *= scale);
    Ok(Adapted { members: adapted, logits, report })
}

// === impl Folds ===

impl Folds<'_> {
    /// A zero for each candidate of each slate.
    fn zeros(&self) -> TaskLogits {
        let zeros = |slate: &DirectSlate| vec![0.0; slate.taken.len()];
        let of_task = |slates: &Vec<DirectSlate>| slates.iter().map(zeros).collect();
        self.training.validation_slates.iter().map(of_task).collect()
    }

    /// Adds a member's logits of the slates of one fold.
    fn score(&self, fold: usize, member: &Weights, to: &mut TaskLogits) -> anyhow::Result<()> {
        let weights = self.moments.assemble(self.shape, &[member]);
        let network = FusedDirect::new(&weights, self.shape)?;
        for ((slates, folds), to) in self.training.validation_slates.iter().zip(&self.of).zip(to) {
            let held: Vec<usize> = (0..slates.len()).filter(|&at| folds[at] == fold).collect();
            let chosen: Vec<DirectSlate> = held.iter().map(|&at| slates[at].clone()).collect();
            for (&at, logits) in held.iter().zip(logits(&network, &chosen)?) {
                to[at].iter_mut().zip(logits).for_each(|(sum, logit)| *sum += logit);
            }
        }
        Ok(())
    }

    /// Lets a member go on learning from every slate that has something to tell, but for those of one fold. Slates of the
    /// training time are in no fold.
    fn learn(
        &self,
        without: Option<usize>,
        at: usize,
        member: &Weights,
        mut after_epoch: impl FnMut(usize, Weights) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let slates = self.training.validation_slates.iter().flatten();
        let others =
            slates.zip(self.of.iter().flatten()).filter(|(_, fold)| Some(**fold) != without);
        let examples: Vec<&DirectSlate> = others
            .map(|(slate, _)| slate)
            .chain(self.training.adapted_to)
            .filter(|slate| slate.tells_an_order())
            .collect();
        ensure!(!examples.is_empty(), "`direct.adapt_folds` leaves a fold nothing to learn from");
        let training = MemberTraining {
            recipe: self.training.recipe,
            shape: self.shape,
            moments: self.moments,
            examples,
            batch: (self.training.recipe.batch / BATCH_SHARE).max(1),
            seed: member_seed(self.training.seed, at),
            patience: usize::MAX,
        };
        training.run(
            member,
            |epoch, weights| {
                after_epoch(epoch, weights)?;
                Ok(0.0)
            },
            |_, _| {},
        )?;
        Ok(())
    }
}
