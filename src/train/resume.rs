//! Where a training was put down: one file with the weights that are trained, what the optimiser
//! knows about them, and how far it came.

use super::learner::LearnerConfig;
use super::lesson::{Lesson, Reinforce};
use crate::nn::optim::AdamW;
use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// The tensor that holds the loss of each step so far.
const LOSSES: &str = "losses";
/// The entry of the file's description.
const MARK: &str = "training";
/// The ending of a file that is still being written.
const UNFINISHED: &str = "part";

/// What a training is: another one is not taken up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    /// How it is trained, as JSON: numbers would not all survive being read.
    plan: String,
    /// A hash of what is learned.
    lessons: String,
}

// === impl Fingerprint ===

impl Fingerprint {
    pub(super) fn new(plan: &LearnerConfig, lessons: &[Lesson]) -> anyhow::Result<Self> {
        let mut hash = blake3::Hasher::new();
        for lesson in lessons {
            add(&mut hash, lesson.tokens.iter().map(|token| token.to_le_bytes()));
            add(&mut hash, lesson.sft_weights.iter().map(|weight| weight.to_le_bytes()));
            if let Some(Reinforce { advantages, old_logprobs, clip_eps, normaliser }) =
                &lesson.reinforce
            {
                let numbers = advantages.iter().chain(old_logprobs).chain(clip_eps).copied();
                let numbers: Vec<f32> = numbers.chain([*normaliser as f32]).collect();
                add(&mut hash, numbers.into_iter().map(f32::to_le_bytes));
            }
            let Some(choose) = &lesson.choose else { continue };
            add(
                &mut hash,
                [choose.taken as u32, choose.label_token].map(u32::to_le_bytes).into_iter(),
            );
            for branch in &choose.branches {
                add(&mut hash, branch.iter().map(|token| token.to_le_bytes()));
            }
        }
        let lessons = hash.finalize().to_hex().to_string();
        Ok(Self { plan: serde_json::to_string(plan)?, lessons })
    }
}

/// Adds numbers to a hash, and how many they are.
fn add(hash: &mut blake3::Hasher, numbers: impl ExactSizeIterator<Item = [u8; 4]>) {
    hash.update(&(numbers.len() as u64).to_le_bytes());
    for number in numbers {
        hash.update(&number);
    }
}

/// Writes a file whole or not at all.
pub(super) fn write(
    file: &Path,
    mark: &Fingerprint,
    optimiser: &AdamW,
    losses: &[f64],
) -> anyhow::Result<()> {
    let mut tensors: BTreeMap<String, Tensor> = optimiser.state();
    tensors.insert(LOSSES.into(), Tensor::new(losses, &Device::Cpu)?);
    for trained in optimiser.trained() {
        tensors.insert(trained.name.clone(), trained.variable.as_tensor().clone());
    }
    let about = HashMap::from([(MARK.to_owned(), serde_json::to_string(mark)?)]);
    let unfinished = file.with_extension(UNFINISHED);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    safetensors::serialize_to_file(tensors.iter(), Some(about), &unfinished)?;
    fs::File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, file)?;
    Ok(())
}

/// Reads a file into variables and optimiser, and gives the losses so far. `expected` is the
/// training that goes on: another one is refused.
pub(super) fn read(
    file: &Path,
    expected: &Fingerprint,
    optimiser: &mut AdamW,
) -> anyhow::Result<Vec<f64>> {
    let bytes = fs::read(file)?;
    let (_, about) = SafeTensors::read_metadata(&bytes)?;
    let about = about.metadata().as_ref().and_then(|about| about.get(MARK));
    let mark: Fingerprint = serde_json::from_str(about.context("it is no training of ours")?)?;
    ensure!(mark.plan == expected.plan, "its plan is another: {}", mark.plan);
    ensure!(mark.lessons == expected.lessons, "it learns other lessons");
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
    for trained in optimiser.trained() {
        let found = tensors.get(&trained.name);
        let found = found.filter(|found| found.dims() == trained.variable.dims());
        let missing = || format!("it has no fitting `{}`", trained.name);
        trained.variable.set(found.with_context(missing)?)?;
    }
    let losses = tensors.get(LOSSES).context("it has no losses")?.to_vec1::<f64>()?;
    optimiser.restore(losses.len() as u64, &tensors)?;
    Ok(losses)
}
