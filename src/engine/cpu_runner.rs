//! The model on a CPU.

use super::forward::{
    ForwardBatch, ForwardOutput, OutputKind, RowOutput, Runner, RunnerError, RunnerLimits,
};
use super::paged_batch::{fill_paged_batch, runner_limits};
use crate::nn::decoder::{Checkpoint, CheckpointError};
use crate::nn::packed::{Activations, ModelMemory, PackedDecoder, PackedOptions};

/// A decoder with packed weights and a paged KV cache.
#[derive(Debug)]
pub struct CpuRunner {
    model: PackedDecoder,
    limits: RunnerLimits,
    /// Rows that one kind of output is requested of. The buffer is reused.
    rows: Vec<usize>,
}

// === impl CpuRunner ===

impl CpuRunner {
    /// Loads a checkpoint for sequences of up to `context_tokens_max` tokens.
    pub fn load(
        checkpoint: Checkpoint,
        options: PackedOptions,
        context_tokens_max: usize,
    ) -> Result<Self, CheckpointError> {
        let PackedOptions { kv_pages, max_batched_tokens, .. } = options;
        let config = checkpoint.config();
        let limits = runner_limits(config, kv_pages, max_batched_tokens, context_tokens_max);
        Ok(Self { model: PackedDecoder::load(checkpoint, options)?, limits, rows: Vec::new() })
    }

    /// The memory that the model takes.
    pub fn memory(&self) -> ModelMemory {
        self.model.memory()
    }

    /// Computes the requested outputs from the hidden states of all rows.
    fn write_outputs(
        &mut self,
        batch: &ForwardBatch,
        hidden: &Activations,
        out: &mut ForwardOutput,
    ) -> Result<(), CheckpointError> {
        out.reserve(&batch.outputs, self.limits);
        self.select_rows(&batch.outputs, |kind| *kind == OutputKind::FullLogits);
        if !self.rows.is_empty() {
            let logits = out.full_logits(self.rows.len(), self.limits);
            self.model.logits(hidden, &self.rows, logits)?;
        }
        self.select_rows(&batch.outputs, |kind| matches!(kind, OutputKind::TokenLogits(_)));
        if !self.rows.is_empty() {
            self.write_token_logits(batch, hidden, out)?;
        }
        for (index, output) in batch.outputs.iter().enumerate() {
            if output.kind == OutputKind::HiddenState {
                out.get_mut(index).copy_from_slice(hidden.row(output.row));
            }
        }
        Ok(())
    }

    /// Computes the logits of all tokens in `logit_tokens` for the selected rows, and copies those that each output
    /// requests.
    fn write_token_logits(
        &mut self,
        batch: &ForwardBatch,
        hidden: &Activations,
        out: &mut ForwardOutput,
    ) -> Result<(), CheckpointError> {
        let columns = self.model.selected_logits(hidden, &self.rows, &batch.logit_tokens)?;
        let mut row = 0;
        for (index, output) in batch.outputs.iter().enumerate() {
            let OutputKind::TokenLogits(tokens) = &output.kind else { continue };
            let tokens = &batch.logit_tokens[tokens.clone()];
            for (out, token) in out.get_mut(index).iter_mut().zip(tokens) {
                *out = columns.get(row, *token);
            }
            row += 1;
        }
        self.model.recycle_logits(columns);
        Ok(())
    }

    /// Sets `rows` to the rows of the outputs of one kind.
    fn select_rows(&mut self, outputs: &[RowOutput], is_kind: fn(&OutputKind) -> bool) {
        self.rows.clear();
        let selected = outputs.iter().filter(|output| is_kind(&output.kind));
        self.rows.extend(selected.map(|output| output.row));
    }
}

impl Runner for CpuRunner {
    fn limits(&self) -> RunnerLimits {
        self.limits
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
        fill_paged_batch(batch, scratch, self.model.batch_mut());
        let hidden = self.model.forward()?;
        self.write_outputs(batch, &hidden, out)?;
        self.model.recycle(hidden);
        Ok(())
    }
}

impl From<CheckpointError> for RunnerError {
    fn from(error: CheckpointError) -> Self {
        Self::Failed(error.into())
    }
}
