//! The model on this machine's processor.

use super::step::{Answers, Runner, RunnerError, Shape, Span, Step, What};
use crate::nn::decoder::{Checkpoint, CheckpointError, DecoderConfig};
use crate::nn::packed::{
    Activations, AttentionGroup, BlockTableEntry, KvSlot, ModelMemory, PAGE_TOKENS, PackedDecoder,
    PackedOptions, PagedBatch,
};

/// A decoder with packed weights, and keys and values in pages.
#[derive(Debug)]
pub struct CpuRunner {
    model: PackedDecoder,
    shape: Shape,
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
        step: &Step,
        rows: &Activations,
        out: &mut Answers,
    ) -> Result<(), CheckpointError> {
        out.lay_out(&step.reads, self.shape);
        let reads = || step.reads.iter();
        self.wanted.clear();
        self.wanted.extend(reads().filter(|read| read.what == What::Vocabulary).map(|r| r.row));
        if !self.wanted.is_empty() {
            let table = out.table(self.wanted.len(), self.shape);
            self.model.logits(rows, &self.wanted, table)?;
        }
        self.wanted.clear();
        self.wanted
            .extend(reads().filter(|read| matches!(read.what, What::Chosen(_))).map(|r| r.row));
        if !self.wanted.is_empty() {
            let columns = self.model.columns(rows, &self.wanted, &step.chosen)?;
            let mut row = 0;
            for (index, read) in reads().enumerate() {
                let What::Chosen(tokens) = &read.what else { continue };
                let tokens = &step.chosen[tokens.clone()];
                for (out, token) in out.get_mut(index).iter_mut().zip(tokens) {
                    *out = columns.get(row, *token);
                }
                row += 1;
            }
            self.model.give_columns_back(columns);
        }
        for (index, read) in reads().enumerate() {
            if read.what == What::Hidden {
                out.get_mut(index).copy_from_slice(rows.row(read.row));
            }
        }
        Ok(())
    }
}

impl Runner for CpuRunner {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn forward(&mut self, step: &Step, out: &mut Answers) -> Result<(), RunnerError> {
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
    rows_max: usize,
    context_tokens_max: usize,
) -> Shape {
    Shape {
        pages,
        page_tokens: PAGE_TOKENS,
        vocabulary: config.vocabulary,
        width: config.width,
        context_tokens_max: context_tokens_max.min(config.positions_max),
        rows_max,
        draws: false,
    }
}

/// Lays a step out for the model. Branches get pages from `scratch` on.
pub(super) fn lay_out(step: &Step, mut scratch: u32, pass: &mut PagedBatch) {
    pass.tokens.clone_from(&step.tokens);
    pass.positions.clear();
    pass.slots.clear();
    pass.groups.clear();
    pass.seen.clear();
    for span in &step.spans {
        let Span { rows, pages, past, branch } = span.clone();
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
