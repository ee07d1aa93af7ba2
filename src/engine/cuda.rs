//! The model on an NVIDIA GPU.

use super::runner::{lay_out, shape_of};
use super::sampler::{Drawn, SampleError};
use super::step::{Answers, Runner, RunnerError, Shape, Step, What};
use crate::nn::cuda::{CudaDecoder, CudaError, CudaOptions, CudaOutput, CudaOutputSpec, LoadError};
use crate::nn::decoder::Checkpoint;
use std::time::Duration;

/// A decoder on a GPU, with keys and values in pages there.
#[derive(Debug)]
pub struct CudaRunner {
    model: CudaDecoder,
    shape: Shape,
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
        let shape = Shape { draws: true, ..shape };
        let (rows, pairs, found) = (Vec::new(), Vec::new(), CudaOutput::default());
        Ok(Self { model, shape, rows, pairs, found })
    }

    /// Lists what is wanted: rows that want all logits first, then those of which a token is drawn, then those that want
    /// some logits, then those that are wanted themselves. Says how many the first are.
    fn want(&mut self, step: &Step) -> usize {
        self.rows.clear();
        self.pairs.clear();
        let of = |kind: fn(&What) -> bool| step.reads.iter().filter(move |read| kind(&read.what));
        self.rows.extend(of(|what| *what == What::Vocabulary).map(|read| read.row as u32));
        let read = self.rows.len();
        self.rows.extend(of(|what| matches!(what, What::Drawn(_))).map(|read| read.row as u32));
        for read in of(|what| matches!(what, What::Chosen(_))) {
            let What::Chosen(tokens) = &read.what else { continue };
            let place = self.rows.len() as u32;
            self.pairs.extend(step.chosen[tokens.clone()].iter().map(|&token| [place, token]));
            self.rows.push(read.row as u32);
        }
        self.rows.extend(of(|what| *what == What::Hidden).map(|read| read.row as u32));
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
    fn shape(&self) -> Shape {
        self.shape
    }

    fn asked_in(&self) -> Duration {
        self.model.asked_in()
    }

    fn forward(&mut self, step: &Step, out: &mut Answers) -> Result<(), RunnerError> {
        out.clear();
        if step.tokens.is_empty() {
            return Ok(());
        }
        let scratch = self.model.pages() as u32;
        lay_out(step, scratch, &mut self.model.pass);
        let read = self.want(step);
        out.lay_out(&step.reads, self.shape);
        let hidden = step.reads.iter().filter(|read| read.what == What::Hidden).count();
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
        out.drawn.extend(self.found.drawn.iter().copied().map(drawn));
        let (mut logits, mut rows) = (self.found.chosen.as_slice(), self.found.hidden.as_slice());
        rows = rows.get((self.rows.len() - hidden) * self.shape.width..).unwrap_or_default();
        for (index, read) in step.reads.iter().enumerate() {
            let found = match read.what {
                What::Vocabulary | What::Drawn(_) => continue,
                What::Chosen(_) => &mut logits,
                What::Hidden => &mut rows,
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
fn drawn([token, logprob]: [u32; 2]) -> Result<Drawn, SampleError> {
    let logprob = f32::from_bits(logprob);
    match token {
        _ if !logprob.is_nan() => Ok(Drawn { token, logprob }),
        u32::MAX => Err(SampleError::Impossible),
        token => Err(SampleError::NotFinite(token)),
    }
}
