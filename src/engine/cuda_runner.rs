//! The model on an NVIDIA GPU.

use super::forward::{ForwardBatch, ForwardOutput, OutputKind, Runner, RunnerError, RunnerLimits};
use super::paged_batch::{fill_paged_batch, runner_limits};
use super::sampler::{SampleError, SampledToken};
use crate::nn::cuda::{CudaDecoder, CudaError, CudaOptions, CudaOutput, CudaOutputSpec, LoadError};
use crate::nn::decoder::Checkpoint;
use std::time::Duration;

/// A decoder on a GPU, with its KV cache there.
#[derive(Debug)]
pub struct CudaRunner {
    model: CudaDecoder,
    limits: RunnerLimits,
    /// The rows that outputs are requested of. The buffer is reused.
    rows: Vec<u32>,
    /// The logits requested: an index of `rows` and a token each. The buffer is reused.
    logits: Vec<[u32; 2]>,
    output: CudaOutput,
}

// === impl CudaRunner ===

impl CudaRunner {
    /// Loads a checkpoint.
    pub fn load(checkpoint: &Checkpoint, options: CudaOptions) -> Result<Self, LoadError> {
        let config = checkpoint.config();
        let context_tokens_max = options.context_tokens_max.min(config.positions_max);
        let model = CudaDecoder::load(checkpoint, CudaOptions { context_tokens_max, ..options })?;
        let (kv_pages, rows_max) = (model.pages(), options.max_batched_tokens);
        let limits = runner_limits(config, kv_pages, rows_max, context_tokens_max);
        let limits = RunnerLimits { samples_on_device: true, ..limits };
        let (rows, logits, output) = (Vec::new(), Vec::new(), CudaOutput::default());
        Ok(Self { model, limits, rows, logits, output })
    }

    /// Lists the rows by the kind of their output: full logits, sampled tokens, logits of some tokens, hidden states.
    /// Returns the number of rows with full logits.
    fn list_rows(&mut self, batch: &ForwardBatch) -> usize {
        self.rows.clear();
        self.logits.clear();
        let of = |is_kind: fn(&OutputKind) -> bool| {
            batch.outputs.iter().filter(move |output| is_kind(&output.kind))
        };
        let full_logits = of(|kind| *kind == OutputKind::FullLogits);
        self.rows.extend(full_logits.map(|output| output.row as u32));
        let full_rows = self.rows.len();
        let sampled = of(|kind| matches!(kind, OutputKind::Sampled(_)));
        self.rows.extend(sampled.map(|output| output.row as u32));
        for output in of(|kind| matches!(kind, OutputKind::TokenLogits(_))) {
            let OutputKind::TokenLogits(tokens) = &output.kind else { continue };
            let index = self.rows.len() as u32;
            let tokens = &batch.logit_tokens[tokens.clone()];
            self.logits.extend(tokens.iter().map(|&token| [index, token]));
            self.rows.push(output.row as u32);
        }
        let hidden = of(|kind| *kind == OutputKind::HiddenState);
        self.rows.extend(hidden.map(|output| output.row as u32));
        full_rows
    }

    /// Classifies the error of a forward pass. cuBLAS may report any error on a lost device, so this asks the device
    /// itself as well.
    fn classify(&self, error: CudaError) -> RunnerError {
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
        self.limits
    }

    fn enqueue_time(&self) -> Duration {
        self.model.enqueue_time()
    }

    fn forward(
        &mut self,
        batch: &ForwardBatch,
        out: &mut ForwardOutput,
    ) -> Result<(), RunnerError> {
        out.clear();
        if batch.tokens.is_empty() {
            return Ok(());
        }
        let scratch = self.model.pages() as u32;
        fill_paged_batch(batch, scratch, &mut self.model.pass);
        let full_rows = self.list_rows(batch);
        out.reserve(&batch.outputs, self.limits);
        let is_hidden =
            |output: &&super::forward::RowOutput| output.kind == OutputKind::HiddenState;
        let hidden_rows = batch.outputs.iter().filter(is_hidden).count();
        let spec = CudaOutputSpec {
            rows: &self.rows,
            full_logits: full_rows + batch.sample_specs.len(),
            chosen: &self.logits,
            draws: &batch.sample_specs,
            banned: &batch.banned_tokens,
            hidden: hidden_rows > 0,
        };
        let full_logits = out.full_logits(full_rows, self.limits);
        let result = self.model.forward(spec, full_logits, &mut self.output);
        result.map_err(|error| self.classify(error))?;
        out.sampled.extend(self.output.drawn.iter().copied().map(sampled_token));
        let (mut logits, mut hidden) =
            (self.output.chosen.as_slice(), self.output.hidden.as_slice());
        let first_hidden = (self.rows.len() - hidden_rows) * self.limits.width;
        hidden = hidden.get(first_hidden..).unwrap_or_default();
        for (index, output) in batch.outputs.iter().enumerate() {
            let source = match output.kind {
                OutputKind::FullLogits | OutputKind::Sampled(_) => continue,
                OutputKind::TokenLogits(_) => &mut logits,
                OutputKind::HiddenState => &mut hidden,
            };
            let values = out.get_mut(index);
            let (first, rest) = source.split_at(values.len());
            values.copy_from_slice(first);
            *source = rest;
        }
        Ok(())
    }
}

/// Decodes a sampled token from the device. A log-probability that is no number marks an error: of all tokens, or of
/// the logit of one.
fn sampled_token([token, logprob]: [u32; 2]) -> Result<SampledToken, SampleError> {
    let logprob = f32::from_bits(logprob);
    match token {
        _ if !logprob.is_nan() => Ok(SampledToken { token, logprob }),
        u32::MAX => Err(SampleError::Impossible),
        token => Err(SampleError::NotFinite(token)),
    }
}
