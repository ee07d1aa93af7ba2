//! Checkpoints of a training: one safetensors file with the trained weights, the optimiser's moments and the
//! loss of each step. A fingerprint of configuration and data guards against resuming another training.

use super::learner_config::LearnerConfig;
use super::lesson::{Lesson, Reinforce};
use crate::nn::optim::AdamW;
use anyhow::{Context as _, ensure};
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

/// The tensor of the losses so far, one per step.
const LOSSES: &str = "losses";
/// The metadata key of the fingerprint.
const FINGERPRINT: &str = "training";
/// The extension of a file that is being written.
const UNFINISHED: &str = "part";

/// A hash of the data that a training reads. A checkpoint of other data is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFingerprint(String);

/// Identifies a training: a checkpoint of another one is refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Fingerprint {
    /// The configuration as JSON text: not every float survives parsing.
    plan: String,
    /// The hash of the data.
    lessons: String,
}

// === impl DataFingerprint ===

impl DataFingerprint {
    /// The fingerprint of a fixed dataset.
    pub fn of(lessons: &[Lesson]) -> Self {
        let mut hash = blake3::Hasher::new();
        for lesson in lessons {
            add(&mut hash, lesson.tokens.iter().map(|token| token.to_le_bytes()));
            add(&mut hash, lesson.sft_weights.iter().map(|weight| weight.to_le_bytes()));
            if let Some(reinforce) = &lesson.reinforce {
                let Reinforce { advantages, old_logprobs, clip_eps, normaliser } = reinforce;
                let numbers = advantages.iter().chain(old_logprobs).chain(clip_eps).copied();
                let numbers: Vec<f32> = numbers.chain([*normaliser as f32]).collect();
                add(&mut hash, numbers.into_iter().map(f32::to_le_bytes));
            }
            let Some(choose) = &lesson.choose else { continue };
            let choice = [choose.taken as u32, choose.label_token];
            add(&mut hash, choice.map(u32::to_le_bytes).into_iter());
            for branch in &choose.branches {
                add(&mut hash, branch.iter().map(|token| token.to_le_bytes()));
            }
        }
        Self(hash.finalize().to_hex().to_string())
    }

    /// The fingerprint of data without a fixed list of lessons, such as an online training's prompts:
    /// a hash of `source`.
    pub fn of_source(source: &[u8]) -> Self {
        Self(blake3::hash(source).to_hex().to_string())
    }
}

/// Adds the count of some numbers and the numbers to a hash.
fn add(hash: &mut blake3::Hasher, numbers: impl ExactSizeIterator<Item = [u8; 4]>) {
    hash.update(&(numbers.len() as u64).to_le_bytes());
    for number in numbers {
        hash.update(&number);
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    fn new(config: &LearnerConfig, data: &DataFingerprint) -> anyhow::Result<Self> {
        Ok(Self { plan: serde_json::to_string(config)?, lessons: data.0.clone() })
    }
}

/// Writes a checkpoint atomically: through a temporary file and a rename.
pub(super) fn write(
    file: &Path,
    config: &LearnerConfig,
    data: &DataFingerprint,
    optimiser: &AdamW,
    losses: &[f64],
) -> anyhow::Result<()> {
    let fingerprint = Fingerprint::new(config, data)?;
    let mut tensors: BTreeMap<String, Tensor> = optimiser.state();
    tensors.insert(LOSSES.into(), Tensor::new(losses, &Device::Cpu)?);
    for trained in optimiser.trained() {
        tensors.insert(trained.name.clone(), trained.variable.as_tensor().clone());
    }
    let metadata = HashMap::from([(FINGERPRINT.to_owned(), serde_json::to_string(&fingerprint)?)]);
    let unfinished = file.with_extension(UNFINISHED);
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    safetensors::serialize_to_file(tensors.iter(), Some(metadata), &unfinished)?;
    fs::File::open(&unfinished)?.sync_all()?;
    fs::rename(&unfinished, file)?;
    Ok(())
}

/// Reads a checkpoint into the optimiser and its variables, and returns the losses so far. A checkpoint of
/// another configuration or other data is refused.
pub(super) fn read(
    file: &Path,
    config: &LearnerConfig,
    data: &DataFingerprint,
    optimiser: &mut AdamW,
) -> anyhow::Result<Vec<f64>> {
    let expected = Fingerprint::new(config, data)?;
    let bytes = fs::read(file)?;
    let (_, metadata) = SafeTensors::read_metadata(&bytes)?;
    let found = metadata.metadata().as_ref().and_then(|metadata| metadata.get(FINGERPRINT));
    let found: Fingerprint =
        serde_json::from_str(found.context("it is no checkpoint of a training")?)?;
    ensure!(found.plan == expected.plan, "it has another configuration: {}", found.plan);
    ensure!(found.lessons == expected.lessons, "it was trained on other lessons");
    let tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
    for trained in optimiser.trained() {
        let tensor = tensors.get(&trained.name);
        let tensor = tensor.filter(|tensor| tensor.dims() == trained.variable.dims());
        let missing = || format!("it has no fitting `{}`", trained.name);
        trained.variable.set(tensor.with_context(missing)?)?;
    }
    let losses = tensors.get(LOSSES).context("it has no losses")?.to_vec1::<f64>()?;
    optimiser.restore(losses.len() as u64, &tensors)?;
    Ok(losses)
}
