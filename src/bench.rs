//! How fast are the parts on this machine?

mod case;
mod engine;
#[cfg(feature = "cuda")]
mod gpu;
mod learner;
mod logits;
mod process;
mod query;
mod service;
mod statistics;
mod text;

pub use case::{BenchCase, PreparedRows, PreparedSlate, SlateFill};
pub use engine::{EngineOptions, engine};
pub use learner::{LearnerOptions, learner};
pub use logits::{LogitsOptions, logits};
pub use process::memory_bytes;
pub use service::{ServiceOptions, service};
pub use statistics::{StatisticsOptions, statistics};
pub use text::{TextOptions, text};

use crate::engine::ComputeDevice;
#[cfg(not(feature = "cuda"))]
use crate::engine::ComputeDeviceError;
use crate::nn::direct::{DirectScratch, DirectShape, FusedDirect};
use crate::nn::{
    Din, DinBatch, DinShape, Dropout, FusedDin, FusedScores, FusedSlate, softmax_loss,
};
use crate::regular_file::{self, DATA_BYTES_MAX, Links};
use crate::scorer::features::DIRECT_INPUTS;
use crate::scorer::network_shape;
use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use tokio::time::Instant;

/// Passes before the first that is timed, which fill caches and page tables.
const WARM_UPS: usize = 3;
/// The direct path's hidden width and members, as a recipe trains them by default.
const DIRECT_HIDDEN: usize = 64;
const DIRECT_MEMBERS: usize = 3;
/// Items of a random case's catalogue.
const ITEMS: usize = 5_000;

/// What `raisonne bench scorer` measures.
#[derive(Debug, Clone)]
pub struct ScorerOptions {
    /// A case to read; a random one when there is none.
    pub case: Option<PathBuf>,
    /// Candidates of a random case.
    pub candidates: usize,
    /// A GPU that is timed beside the processor, on random slates of several sizes.
    pub device: ComputeDevice,
    /// Slates of one batch on a GPU.
    pub slates: usize,
    /// Passes of the network as it is served; 0 leaves it out.
    pub fused: usize,
    /// Passes of the network as it is trained; 0 leaves it out.
    pub candle: usize,
    /// Prints JSON, with the outputs, in place of a line per network.
    pub json: bool,
    /// A bundle with a query path, whose scorer is timed with and without a query instead.
    pub bundle: Option<PathBuf>,
}

/// The median time of one slate, and its outputs.
#[derive(Debug, Serialize)]
struct Timed {
    median_us: f64,
    logits: Vec<f32>,
    attention: Vec<f32>,
}

/// Times the scorer's network, as served and as trained, on the first slate of a case. A random case has the
/// sizes of the network that is served.
pub fn scorer(options: &ScorerOptions, out: &mut dyn Write) -> Result<()> {
    if let Some(bundle) = &options.bundle {
        return query::query(bundle, options.candidates, options.fused, out);
    }
    if let ComputeDevice::Gpu(ordinal) = options.device {
        return compare_with_gpu(options, ordinal, out);
    }
    let case = if let Some(path) = &options.case {
        let bytes = regular_file::read(path, Links::Followed, DATA_BYTES_MAX)
            .with_context(|| path.display().to_string())?;
        BenchCase::read(&bytes).with_context(|| path.display().to_string())?
    } else {
        let shape = network_shape(ITEMS);
        BenchCase::random(&shape, 0, (1, options.candidates), SlateFill::Full)?
    };
    let mut report = BTreeMap::new();
    if options.fused > 0 {
        report.insert("fused", fused(&case, options.fused, true)?);
        report.insert("fused without history", fused(&case, options.fused, false)?);
    }
    if options.candle > 0 {
        report.insert("candle", candle(&case, options.candle)?);
    }
    if options.fused > 0 && options.case.is_none() {
        report.insert("direct", direct(options.candidates, options.fused)?);
    }
    if options.json {
        serde_json::to_writer(&mut *out, &report)?;
        writeln!(out)?;
        return Ok(());
    }
    let (DinShape { features, reasons, history, .. }, (_, candidates)) =
        (&case.shape, case.sizes());
    if let Some(timed) = report.remove("direct") {
        let us = timed.median_us;
        let sizes =
            format!("{DIRECT_INPUTS} features, {DIRECT_MEMBERS} members of {DIRECT_HIDDEN}");
        writeln!(out, "direct: {candidates} candidates in {us:.0} us ({sizes})")?;
    }
    for (name, timed) in report {
        writeln!(
            out,
            "{name}: {candidates} candidates in {:.0} us ({features} features, {reasons} reasons, {history} events)",
            timed.median_us
        )?;
    }
    Ok(())
}

#[cfg(feature = "cuda")]
use gpu::compare_with_gpu;

#[cfg(not(feature = "cuda"))]
fn compare_with_gpu(_options: &ScorerOptions, _ordinal: usize, _out: &mut dyn Write) -> Result<()> {
    Err(ComputeDeviceError::NotBuilt.into())
}

/// Times the network as it is served. A network that is kept for its attention over the reasons alone does not read the
/// history.
fn fused(case: &BenchCase, repetitions: usize, reads_history: bool) -> Result<Timed> {
    let fused = FusedDin::new(&case.weights, &case.shape)?;
    let (mut scratch, mut scores) = (fused.scratch(), FusedScores::default());
    let median_us = case.prepare(&fused, 0)?.with_slate(|slate| {
        let history = if reads_history { slate.history } else { &[] };
        let slate = FusedSlate { history, ..*slate };
        median_us(repetitions, || Ok(fused.score(&slate, &mut scratch, &mut scores)?))
    })?;
    let FusedScores { logits, attention } = scores;
    Ok(Timed { median_us, logits, attention })
}

/// Times the direct path in the sizes that are served, on random features and initial weights.
fn direct(candidates: usize, repetitions: usize) -> Result<Timed> {
    let shape =
        DirectShape { inputs: DIRECT_INPUTS, hidden: DIRECT_HIDDEN, members: DIRECT_MEMBERS };
    let fused = FusedDirect::new(&shape.random(0), &shape)?;
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let rows: Vec<f32> = (0..candidates * DIRECT_INPUTS).map(|_| rng.random()).collect();
    let (mut scratch, mut logits) = (DirectScratch::default(), Vec::new());
    let median_us = median_us(repetitions, || {
        let buffer = scratch.rows_mut();
        buffer.clear();
        buffer.extend_from_slice(&rows);
        Ok(fused.score(&mut scratch, &mut logits)?)
    })?;
    Ok(Timed { median_us, logits, attention: Vec::new() })
}

fn candle(case: &BenchCase, repetitions: usize) -> Result<Timed> {
    let weights = case.weights.to_tensors(&Device::Cpu)?;
    let din = Din::new(&case.shape, &VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu))?;
    let batch = case.batch()?;
    let scored = din.forward(&batch)?;
    Ok(Timed {
        median_us: median_us(repetitions, || Ok(din.forward(&batch).map(drop)?))?,
        logits: scored.logits.flatten_all()?.to_vec1()?,
        attention: scored.attention.flatten_all()?.to_vec1()?,
    })
}

/// The sizes of the network in a random case, which are those that are served, as JSON: other programs that are
/// compared build the same network.
pub fn scorer_shape(out: &mut dyn Write) -> Result<()> {
    serde_json::to_writer(&mut *out, &network_shape(ITEMS))?;
    Ok(writeln!(out)?)
}

/// Times one training step, forward and backward, of `slates` × `candidates`.
pub fn training(
    (slates, candidates): (usize, usize),
    repetitions: usize,
    out: &mut dyn Write,
) -> Result<()> {
    let shape = network_shape(ITEMS);
    let case = BenchCase::random(&shape, 0, (slates, candidates), SlateFill::Full)?;
    let vars = case.weights.to_varmap(&Device::Cpu)?;
    let din = Din::new(&shape, &VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu))?;
    let mask = Tensor::ones((slates, candidates), DType::F32, &Device::Cpu)?;
    let batch: DinBatch = case.batch()?;
    let mut dropout = Dropout { rate: 0.1, rng: ChaCha8Rng::seed_from_u64(0) };
    let forward =
        median_us(repetitions, || Ok(din.forward_train(&batch, &mut dropout).map(drop)?))?;
    let both = median_us(repetitions, || {
        let scored = din.forward_train(&batch, &mut dropout)?;
        softmax_loss(&scored.logits, &mask)?.backward()?;
        Ok(())
    })?;
    writeln!(
        out,
        "{slates} slates x {candidates}: forward {:.1} ms, forward and backward {:.1} ms",
        forward / 1e3,
        both / 1e3
    )?;
    Ok(())
}

/// Median microseconds of `repetitions` runs after the warm-ups.
fn median_us(repetitions: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    for _ in 0..WARM_UPS {
        run()?;
    }
    let mut times = Vec::with_capacity(repetitions);
    for _ in 0..repetitions.max(1) {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    Ok(times[times.len() / 2].as_secs_f64() * 1e6)
}
