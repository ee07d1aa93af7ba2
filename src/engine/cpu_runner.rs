//! The model on this machine's processor.

use super::forward::{
    ForwardBatch, ForwardOutput, OutputKind, Runner, RunnerError, RunnerLimits, SequenceSpan,
};
use crate::nn::decoder::{Checkpoint, CheckpointError, DecoderConfig};
use crate::nn::packed::{
    Activations, AttentionGroup, BlockTableEntry, KvSlot, ModelMemory, PAGE_TOKENS, PackedDecoder,
    PackedOptions, PagedBatch,
};

/// A decoder with packed weights, and keys and values in pages.
#[derive(Debug)]
pub struct CpuRunner {
    model: PackedDecoder,
    shape: RunnerLimits,
    /// Rows of which something is wanted, kept from step to step.
    wanted: Vec<usize>,
}

// === impl CpuRunner ===

impl CpuRunner {
    /// Loads a checkpoint for sequences of up to `context_tokens_max` tokens.
    pub fn load(
        checkpoint: Checkpoint,
        options: PackedOptions,
        context_tokens_max: usize,
    ) -> Result<Self, CheckpointError> {
        let PackedOptions { kv_pages: pages, max_batched_tokens: rows_max, .. } = options;
        let shape = shape_of(checkpoint.config(), pages, rows_max, context_tokens_max);
        Ok(Self { model: PackedDecoder::load(checkpoint, options)?, shape, wanted: Vec::new() })
    }

    /// The bytes that the model takes.
    pub fn memory(&self) -> ModelMemory {
        self.model.memory()
    }

    fn answer(
        &mut self,
        step: &ForwardBatch,
        rows: &Activations,
        out: &mut ForwardOutput,
    ) -> Result<(), CheckpointError> {
        out.lay_out(&step.outputs, self.shape);
        let reads = || step.outputs.iter();
        self.wanted.clear();
        self.wanted
            .extend(reads().filter(|read| read.kind == OutputKind::FullLogits).map(|r| r.row));
        if !self.wanted.is_empty() {
            let table = out.table(self.wanted.len(), self.shape);
            self.model.logits(rows, &self.wanted, table)?;
        }
        self.wanted.clear();
        self.wanted.extend(
            reads().filter(|read| matches!(read.kind, OutputKind::TokenLogits(_))).map(|r| r.row),
        );
        if !self.wanted.is_empty() {
            let columns = self.model.columns(rows, &self.wanted, &step.logit_tokens)?;
            let mut row = 0;
            for (index, read) in reads().enumerate() {
                let OutputKind::TokenLogits(tokens) = &read.kind else { continue };
                let tokens = &step.logit_tokens[tokens.clone()];
                for (out, token) in out.get_mut(index).iter_mut().zip(tokens) {
                    *out = columns.get(row, *token);
                }
                row += 1;
            }
            self.model.give_columns_back(columns);
        }
        for (index, read) in reads().enumerate() {
            if read.kind == OutputKind::HiddenState {
                out.get_mut(index).copy_from_slice(rows.row(read.row));
            }
        }
        Ok(())
    }
}

impl Runner for CpuRunner {
    fn limits(&self) -> RunnerLimits {
        self.shape
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        out.clear();
        if step.tokens.is_empty() {
            return Ok(());
        }
        let pages = self.model.pages();
        lay_out(step, pages as u32, self.model.pass());
        let rows = self.model.forward()?;
        self.answer(step, &rows, out)?;
        self.model.give_back(rows);
        Ok(())
    }
}

impl From<CheckpointError> for RunnerError {
    fn from(error: CheckpointError) -> Self {
        Self::Failed(error.into())
    }
}

/// The limits of a model with so many pages.
pub(super) fn shape_of(
    config: &DecoderConfig,
    pages: usize,
    max_batched_tokens: usize,
    context_tokens_max: usize,
) -> RunnerLimits {
    RunnerLimits {
        pages,
        page_tokens: PAGE_TOKENS,
        vocabulary: config.vocabulary,
        width: config.width,
        context_tokens_max: context_tokens_max.min(config.positions_max),
        max_batched_tokens,
        samples_on_device: false,
    }
}

/// Lays a step out for the model. Branches get pages from `scratch` on.
pub(super) fn lay_out(step: &ForwardBatch, mut scratch: u32, pass: &mut PagedBatch) {
    pass.tokens.clone_from(&step.tokens);
    pass.positions.clear();
    pass.slots.clear();
    pass.groups.clear();
    pass.seen.clear();
    for span in &step.spans {
        let SequenceSpan { rows, pages, past, branch } = span.clone();
        let (pages, count) = (&step.pages[pages], rows.len());
        let from = pass.seen.len();
        let lasting = if branch { past } else { past + count };
        see(pages.iter().copied(), 0, lasting, &mut pass.seen);
        if branch {
            see(scratch.., past, count, &mut pass.seen);
        }
        for row in 0..count {
            let at = if branch { row } else { past + row };
            let page =
                if branch { scratch + (at / PAGE_TOKENS) as u32 } else { pages[at / PAGE_TOKENS] };
            pass.slots.push(KvSlot { page, token: (at % PAGE_TOKENS) as u32 });
            pass.positions.push((past + row) as u32);
        }
        if branch {
            scratch += count.div_ceil(PAGE_TOKENS) as u32;
        }
        pass.groups.push(AttentionGroup { rows, pages: from..pass.seen.len(), past });
    }
}

/// Adds the pages that hold `tokens` tokens from position `first` on.
fn see(
    pages: impl Iterator<Item = u32>,
    first: usize,
    tokens: usize,
    seen: &mut Vec<BlockTableEntry>,
) {
    let starts = (0..tokens).step_by(PAGE_TOKENS);
    seen.extend(starts.zip(pages).map(|(start, page)| BlockTableEntry {
        page,
        first: (first + start) as u32,
        tokens: PAGE_TOKENS.min(tokens - start) as u32,
    }));
}
