//! A forward batch in the form that the decoders of `nn` read.

use super::forward::{ForwardBatch, RunnerLimits, SequenceSpan};
use crate::nn::decoder::DecoderConfig;
use crate::nn::packed::{AttentionGroup, BlockTableEntry, KvSlot, PAGE_TOKENS, PagedBatch};

/// The limits of a decoder whose KV cache has `kv_pages` pages.
pub(super) fn runner_limits(
    config: &DecoderConfig,
    kv_pages: usize,
    max_batched_tokens: usize,
    context_tokens_max: usize,
) -> RunnerLimits {
    RunnerLimits {
        kv_pages,
        page_tokens: PAGE_TOKENS,
        vocabulary: config.vocabulary,
        width: config.width,
        context_tokens_max: context_tokens_max.min(config.positions_max),
        max_batched_tokens,
        samples_on_device: false,
    }
}

/// Replaces `paged` with a batch. Branches write their keys and values to scratch pages, numbered from `scratch` on.
pub(super) fn fill_paged_batch(batch: &ForwardBatch, mut scratch: u32, paged: &mut PagedBatch) {
    paged.tokens.clone_from(&batch.tokens);
    paged.positions.clear();
    paged.slots.clear();
    paged.groups.clear();
    paged.block_table.clear();
    for span in &batch.spans {
        let SequenceSpan { rows, block_table, past, branch } = span.clone();
        let (pages, count) = (&batch.block_tables[block_table], rows.len());
        let first_entry = paged.block_table.len();
        let cached = if branch { past } else { past + count };
        push_entries(pages.iter().copied(), 0, cached, &mut paged.block_table);
        if branch {
            push_entries(scratch.., past, count, &mut paged.block_table);
        }
        for row in 0..count {
            let at = if branch { row } else { past + row };
            let page =
                if branch { scratch + (at / PAGE_TOKENS) as u32 } else { pages[at / PAGE_TOKENS] };
            paged.slots.push(KvSlot { page, token: (at % PAGE_TOKENS) as u32 });
            paged.positions.push((past + row) as u32);
        }
        if branch {
            scratch += count.div_ceil(PAGE_TOKENS) as u32;
        }
        paged.groups.push(AttentionGroup {
            rows,
            pages: first_entry..paged.block_table.len(),
            past,
        });
    }
}

/// Appends the pages that hold `tokens` tokens, the first of which is at position `first`.
fn push_entries(
    pages: impl Iterator<Item = u32>,
    first: usize,
    tokens: usize,
    entries: &mut Vec<BlockTableEntry>,
) {
    let starts = (0..tokens).step_by(PAGE_TOKENS);
    entries.extend(starts.zip(pages).map(|(start, page)| BlockTableEntry {
        page,
        first: (first + start) as u32,
        tokens: PAGE_TOKENS.min(tokens - start) as u32,
    }));
}
