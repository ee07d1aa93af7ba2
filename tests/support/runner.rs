//! A fake model that checks the batches it gets.
//!
//! For every slot of every KV page, it stores the token and the position that were written there. Its outputs are a hash of
//! all tokens that a row attends to, read from the pages. So a wrong page, a stale page or a missing row changes every
//! later output.

use raisonne::engine::sampler::Sampler;
use raisonne::engine::{
    Allowed, ForwardBatch, ForwardOutput, OutputKind, Runner, RunnerError, RunnerLimits,
    SampleSpec, SamplingParams, SequenceSpan,
};
use std::collections::HashMap;

/// The fake model.
#[derive(Debug)]
pub struct FakeRunner {
    limits: RunnerLimits,
    slots: Vec<Option<WrittenSlot>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WrittenSlot {
    token: u32,
    position: usize,
}

// === impl FakeRunner ===

impl FakeRunner {
    pub fn new(limits: RunnerLimits) -> Self {
        Self { limits, slots: vec![None; limits.kv_pages * limits.page_tokens] }
    }

    fn slot(&self, step: &ForwardBatch, span: &SequenceSpan, position: usize) -> usize {
        let pages = &step.block_tables[span.block_table.clone()];
        pages[position / self.limits.page_tokens] as usize * self.limits.page_tokens
            + position % self.limits.page_tokens
    }

    /// Asserts that rows, spans and outputs are laid out as the engine promises.
    fn check_layout(&self, step: &ForwardBatch) {
        assert!(step.tokens.len() <= self.limits.max_batched_tokens, "{} rows", step.tokens.len());
        let mut row = 0;
        for span in &step.spans {
            assert!(span.rows.start == row && !span.rows.is_empty(), "rows have no gaps");
            row = span.rows.end;
            let end = span.past + span.rows.len();
            assert!(end <= self.limits.context_tokens_max, "{end} tokens");
        }
        assert_eq!(row, step.tokens.len(), "every row belongs to a span");
        assert!(step.outputs.is_sorted_by(|a, b| a.row < b.row), "outputs are in order");
    }

    /// Asserts that a page that is written is in no other sequence's block table.
    fn check_writers(&self, step: &ForwardBatch) {
        let mut writers = HashMap::new();
        for span in step.spans.iter().filter(|span| !span.branch) {
            let (first, end) = (span.past, span.past + span.rows.len());
            let pages = first / self.limits.page_tokens..end.div_ceil(self.limits.page_tokens);
            for page in &step.block_tables[span.block_table.clone()][pages] {
                assert_eq!(
                    writers.insert(*page, &span.block_table),
                    None,
                    "page {page} has two writers"
                );
            }
        }
        for span in &step.spans {
            for page in &step.block_tables[span.block_table.clone()] {
                let writer = writers.get(page);
                assert!(
                    writer.is_none_or(|w| **w == span.block_table),
                    "page {page} is written and read"
                );
            }
        }
    }

    /// All writes happen before all reads, as in a layer of a real model.
    fn write(&mut self, step: &ForwardBatch) {
        for span in step.spans.iter().filter(|span| !span.branch) {
            for (nth, row) in span.rows.clone().enumerate() {
                let position = span.past + nth;
                let at = self.slot(step, span, position);
                self.slots[at] = Some(WrittenSlot { token: step.tokens[row], position });
            }
        }
    }

    /// The tokens that a row attends to, its own included.
    fn context(&self, step: &ForwardBatch, row: usize) -> Vec<u32> {
        let span = step.spans.iter().find(|span| span.rows.contains(&row)).unwrap();
        let past = (0..span.past).map(|position| {
            let slot = self.slots[self.slot(step, span, position)];
            let slot = slot.expect("earlier tokens were computed");
            assert_eq!(slot.position, position, "a page is at its position");
            slot.token
        });
        past.chain(step.tokens[span.rows.start..=row].iter().copied()).collect()
    }
}

impl Runner for FakeRunner {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        out.clear();
        self.check_layout(step);
        self.check_writers(step);
        self.write(step);
        for read in &step.outputs {
            let seen = self.context(step, read.row);
            match &read.kind {
                OutputKind::FullLogits => {
                    let all: Vec<_> = (0..self.limits.vocabulary as u32).collect();
                    out.push(all.len()).copy_from_slice(&logits(&seen, &all));
                }
                OutputKind::TokenLogits(chosen) => {
                    let tokens = &step.logit_tokens[chosen.clone()];
                    out.push(tokens.len()).copy_from_slice(&logits(&seen, tokens));
                }
                OutputKind::Sampled(draw) => {
                    assert!(
                        self.limits.samples_on_device,
                        "a runner that does not sample gets no sample specs"
                    );
                    let SampleSpec { temperature, chance, banned } =
                        step.sample_specs[*draw].clone();
                    let all: Vec<_> = (0..self.limits.vocabulary as u32).collect();
                    let allowed = Allowed::AllBut(&step.banned_tokens[banned]);
                    let sampling = SamplingParams { temperature, ..SamplingParams::GREEDY };
                    let logits = logits(&seen, &all);
                    let drawn = Sampler::default().sample_with(&logits, allowed, &sampling, chance);
                    out.push(0);
                    out.sampled.push(drawn);
                }
                OutputKind::HiddenState => {
                    let width = self.limits.width;
                    out.push(width).copy_from_slice(&hidden(&seen, width));
                }
            }
        }
        Ok(())
    }
}

/// The model's logits of `tokens` after the context `seen`.
pub fn logits(seen: &[u32], tokens: &[u32]) -> Vec<f32> {
    let hash = seen.iter().fold(1, |hash, &token| mix(hash ^ u64::from(token)));
    tokens.iter().map(|&token| unit(mix(hash ^ (u64::from(token) << 32))) * 6.0).collect()
}

/// The model's last hidden state after the context `seen`.
pub fn hidden(seen: &[u32], width: usize) -> Vec<f32> {
    let columns: Vec<_> = (0..width as u32).map(|column| 1_000 + column).collect();
    logits(seen, &columns)
}

fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 31)).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    (number ^ (number >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

fn unit(number: u64) -> f32 {
    (number >> 40) as f32 / (1 << 24) as f32
}
