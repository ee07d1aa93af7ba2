//! The model on an NVIDIA GPU.

use super::cpu_runner::{lay_out, shape_of};
use super::forward::{ForwardBatch, ForwardOutput, OutputKind, Runner, RunnerError, RunnerLimits};
use super::sampler::{SampleError, SampledToken};
use crate::nn::cuda::{CudaDecoder, CudaError, CudaOptions, CudaOutput, CudaOutputSpec, LoadError};
use crate::nn::decoder::Checkpoint;
use std::time::Duration;

/// A decoder on a GPU, with keys and values in pages there.
#[derive(Debug)]
pub struct CudaRunner {
    model: CudaDecoder,
    shape: RunnerLimits,
    /// Rows of which something is wanted, and which logits of them, kept from step to step.
    rows: Vec<u32>,
    pairs: Vec<[u32; 2]>,
    found: CudaOutput,
}

// === impl CudaRunner ===

impl CudaRunner {
    /// Loads a checkpoint.
    pub fn load(checkpoint: &Checkpoint, options: CudaOptions) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let context_tokens_max = options.context_tokens_max.min(config.positions_max);
        let model = CudaDecoder::load(checkpoint, CudaOptions { context_tokens_max, ..options })?;
        let shape = shape_of(config, model.pages(), options.max_batched_tokens, context_tokens_max);
        let shape = RunnerLimits { samples_on_device: true, ..shape };
        let (rows, pairs, found) = (Vec::new(), Vec::new(), CudaOutput::default());
        Ok(Self { model, shape, rows, pairs, found })
    }

    /// Lists what is wanted: rows that want all logits first, then those of which a token is drawn, then those that want
    /// some logits, then those that are wanted themselves. Says how many the first are.
    fn want(&mut self, step: &ForwardBatch) -> usize {
        self.rows.clear();
        self.pairs.clear();
        let of = |kind: fn(&OutputKind) -> bool| {
            step.outputs.iter().filter(move |read| kind(&read.kind))
        };
        self.rows.extend(of(|what| *what == OutputKind::FullLogits).map(|read| read.row as u32));
        let read = self.rows.len();
        self.rows
            .extend(of(|what| matches!(what, OutputKind::Sampled(_))).map(|read| read.row as u32));
        for read in of(|what| matches!(what, OutputKind::TokenLogits(_))) {
            let OutputKind::TokenLogits(tokens) = &read.kind else { continue };
            let place = self.rows.len() as u32;
            self.pairs
                .extend(step.logit_tokens[tokens.clone()].iter().map(|&token| [place, token]));
            self.rows.push(read.row as u32);
        }
        self.rows.extend(of(|what| *what == OutputKind::HiddenState).map(|read| read.row as u32));
        read
    }

    /// What it means for the engine that a pass failed. What cuBLAS says of a device that is lost may be anything, so
    /// the device is asked as well.
    fn failed(&self, error: CudaError) -> RunnerError {
        if error.is_full() {
            return RunnerError::Full(error.into());
        }
        match self.model.wait() {
            Err(lost) if lost.is_lost() => RunnerError::Lost(lost.into()),
            _ if error.is_lost() => RunnerError::Lost(error.into()),
            _ => RunnerError::Failed(error.into()),
        }
    }
}

impl Runner for CudaRunner {
    fn limits(&self) -> RunnerLimits {
        self.shape
    }

    fn enqueue_time(&self) -> Duration {
        self.model.asked_in()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        out.clear();
        if step.tokens.is_empty() {
            return Ok(());
        }
        let scratch = self.model.pages() as u32;
        lay_out(step, scratch, &mut self.model.pass);
        let read = self.want(step);
        out.lay_out(&step.outputs, self.shape);
        let hidden =
            step.outputs.iter().filter(|read| read.kind == OutputKind::HiddenState).count();
        let wanted = CudaOutputSpec {
            rows: &self.rows,
            full_logits: read + step.draws.len(),
            chosen: &self.pairs,
            draws: &step.draws,
            banned: &step.banned,
            hidden: hidden > 0,
        };
        let done = self.model.forward(wanted, out.table(read, self.shape), &mut self.found);
        done.map_err(|error| self.failed(error))?;
        out.sampled.extend(self.found.drawn.iter().copied().map(drawn));
        let (mut logits, mut rows) = (self.found.chosen.as_slice(), self.found.hidden.as_slice());
        rows = rows.get((self.rows.len() - hidden) * self.shape.width..).unwrap_or_default();
        for (index, read) in step.outputs.iter().enumerate() {
            let found = match read.kind {
                OutputKind::FullLogits | OutputKind::Sampled(_) => continue,
                OutputKind::TokenLogits(_) => &mut logits,
                OutputKind::HiddenState => &mut rows,
            };
            let to = out.get_mut(index);
            let (these, others) = found.split_at(to.len());
            to.copy_from_slice(these);
            *found = others;
        }
        Ok(())
    }
}

/// What a device says of a draw.
fn drawn([token, logprob]: [u32; 2]) -> Result<SampledToken, SampleError> {
    let logprob = f32::from_bits(logprob);
    match token {
        _ if !logprob.is_nan() => Ok(SampledToken { token, logprob }),
        u32::MAX => Err(SampleError::Impossible),
        token => Err(SampleError::NotFinite(token)),
    }
}
