//! One forward pass: the batch that the scheduler builds, the runner that computes it, and its output.

use super::sampler::{SampleError, SamplePosition, SampledToken, SamplingParams};
use crate::nn::softmax::SampleSpec;
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

/// Banned tokens of one sample that a runner masks at most. With more, the host samples from the row's logits.
pub const BANNED_MAX: usize = 64;

/// The input of one forward pass. A row is one token at its position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardBatch {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// The spans that the rows belong to, in order and without gaps.
    pub spans: Vec<SequenceSpan>,
    /// The block tables of the spans, one after the other.
    pub block_tables: Vec<u32>,
    /// The outputs requested, in ascending order of rows.
    pub outputs: Vec<RowOutput>,
    /// The tokens of every [`OutputKind::TokenLogits`], one list after the other.
    pub logit_tokens: Vec<u32>,
    /// How each [`OutputKind::Sampled`] is sampled.
    pub sample_specs: Vec<SampleSpec>,
    /// The banned tokens of every sample, one list after the other: [`SampleSpec::banned`] is a range of it.
    pub banned_tokens: Vec<u32>,
}

/// Consecutive tokens of one sequence, or one whole branch.
///
/// Row `i` of a span is at position `past + i`. It attends to the first `past` tokens of its KV pages and to the
/// span's rows up to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceSpan {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its block table, a range of [`ForwardBatch::block_tables`]. A trunk and its branches share one.
    pub block_table: Range<usize>,
    /// Tokens in the KV cache before its first row. Those of earlier spans of the same batch count.
    pub past: usize,
    /// Whether it is a branch, whose keys and values are discarded after the pass. Other spans write theirs to their
    /// KV pages.
    pub branch: bool,
}

/// An output requested of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowOutput {
    /// The row.
    pub row: usize,
    /// The output.
    pub kind: OutputKind,
}

/// The kinds of output of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// The logits of the whole vocabulary.
    FullLogits,
    /// The logits of some tokens: a range of [`ForwardBatch::logit_tokens`].
    TokenLogits(Range<usize>),
    /// The hidden state after the last norm.
    HiddenState,
    /// A token that the runner samples: an index of [`ForwardBatch::sample_specs`]. It requires
    /// [`RunnerLimits::samples_on_device`].
    Sampled(usize),
}

/// A model on a device (`ModelRunner` in vLLM).
pub trait Runner {
    /// The limits of a batch.
    fn limits(&self) -> RunnerLimits;

    /// Computes a batch and replaces `out` with its outputs, in the order of [`ForwardBatch::outputs`].
    fn forward(&mut self, batch: &ForwardBatch, out: &mut ForwardOutput)
    -> Result<(), RunnerError>;

    /// Time to enqueue the last forward pass on the device. Zero on a CPU, which computes synchronously.
    fn enqueue_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// The limits of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Pages of the KV cache.
    pub kv_pages: usize,
    /// Tokens in a KV page (`block_size` in vLLM).
    pub page_tokens: usize,
    /// Tokens in the vocabulary.
    pub vocabulary: usize,
    /// Numbers in a hidden state.
    pub width: usize,
    /// Tokens in a sequence, branches included.
    pub context_tokens_max: usize,
    /// Rows in a batch (`max_num_batched_tokens` in vLLM).
    pub max_batched_tokens: usize,
    /// Whether the runner samples tokens itself, so that rows of logits need not reach the host.
    pub samples_on_device: bool,
}

/// The outputs of a forward pass. Its buffers are reused, so a step allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct ForwardOutput {
    values: Vec<f32>,
    /// The range of each output in `values`.
    ranges: Vec<Range<usize>>,
    /// The end of the values in use.
    end: usize,
    /// The sampled tokens, in the order of [`ForwardBatch::sample_specs`].
    pub sampled: Vec<Result<SampledToken, SampleError>>,
}

/// Why a forward pass failed.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// This batch failed, for instance because the weights could not be read.
    #[error("the forward pass failed")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// The device lacks memory for this batch. A smaller one may fit.
    #[error("the device lacks memory for the batch")]
    Full(#[source] Box<dyn Error + Send + Sync>),
    /// The device is lost: every later pass would fail too.
    #[error("the model's device is lost")]
    Lost(#[source] Box<dyn Error + Send + Sync>),
}

// === impl ForwardBatch ===

impl ForwardBatch {
    pub(super) fn clear(&mut self) {
        let Self {
            tokens,
            spans,
            block_tables,
            outputs,
            logit_tokens,
            sample_specs,
            banned_tokens,
        } = self;
        tokens.clear();
        spans.clear();
        block_tables.clear();
        outputs.clear();
        logit_tokens.clear();
        sample_specs.clear();
        banned_tokens.clear();
    }

    /// Adds a block table, and returns its range.
    pub(super) fn push_block_table(&mut self, pages: &[u32]) -> Range<usize> {
        let start = self.block_tables.len();
        self.block_tables.extend_from_slice(pages);
        start..self.block_tables.len()
    }

    /// Adds a span of these tokens.
    pub(super) fn push_span(
        &mut self,
        tokens: &[u32],
        block_table: Range<usize>,
        past: usize,
        branch: bool,
    ) {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let rows = start..self.tokens.len();
        self.spans.push(SequenceSpan { rows, block_table, past, branch });
    }

    /// The output of the logits of these tokens.
    pub(super) fn token_logits(&mut self, tokens: &[u32]) -> OutputKind {
        let start = self.logit_tokens.len();
        self.logit_tokens.extend_from_slice(tokens);
        OutputKind::TokenLogits(start..self.logit_tokens.len())
    }

    /// The output of a token that the runner samples.
    pub(super) fn sampled(
        &mut self,
        sampling: &SamplingParams,
        position: SamplePosition,
        banned: &[u32],
    ) -> OutputKind {
        let start = self.banned_tokens.len();
        self.banned_tokens.extend_from_slice(banned);
        let temperature = sampling.temperature;
        let chance = sampling.chance(position);
        let banned = start..self.banned_tokens.len();
        self.sample_specs.push(SampleSpec { temperature, chance, banned });
        OutputKind::Sampled(self.sample_specs.len() - 1)
    }

    /// Requests an output of the last row.
    pub(super) fn push_output(&mut self, kind: OutputKind) {
        self.outputs.push(RowOutput { row: self.tokens.len() - 1, kind });
    }
}

// === impl Box<dyn Runner> ===

impl Runner for Box<dyn Runner> {
    fn limits(&self) -> RunnerLimits {
        (**self).limits()
    }

    fn forward(
        &mut self,
        batch: &ForwardBatch,
        out: &mut ForwardOutput,
    ) -> Result<(), RunnerError> {
        (**self).forward(batch, out)
    }

    fn enqueue_time(&self) -> Duration {
        (**self).enqueue_time()
    }
}

// === impl RunnerError ===

impl RunnerError {
    /// The value of the metric's label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failed",
            Self::Full(_) => "full",
            Self::Lost(_) => "lost",
        }
    }
}

// === impl ForwardOutput ===

impl ForwardOutput {
    /// Removes all outputs and keeps the buffers.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.sampled.clear();
        self.end = 0;
    }

    /// Reserves a range for each output, those of full logits first. Their values are undefined until the runner
    /// writes them.
    pub fn reserve(&mut self, outputs: &[RowOutput], limits: RunnerLimits) {
        self.clear();
        let full = outputs.iter().filter(|output| output.kind == OutputKind::FullLogits).count();
        let (mut full_end, mut end) = (0, full * limits.vocabulary);
        self.ranges.extend(outputs.iter().map(|output| {
            let (end, width) = match &output.kind {
                OutputKind::FullLogits => (&mut full_end, limits.vocabulary),
                OutputKind::TokenLogits(tokens) => (&mut end, tokens.len()),
                OutputKind::HiddenState => (&mut end, limits.width),
                OutputKind::Sampled(_) => (&mut end, 0),
            };
            *end += width;
            *end - width..*end
        }));
        self.grow(end);
    }

    /// The values of the first `rows` outputs of full logits: (rows, vocabulary).
    pub fn full_logits(&mut self, rows: usize, limits: RunnerLimits) -> &mut [f32] {
        &mut self.values[..rows * limits.vocabulary]
    }

    /// Appends an output of `width` values, for the caller to write.
    pub fn push(&mut self, width: usize) -> &mut [f32] {
        let range = self.end..self.end + width;
        self.ranges.push(range.clone());
        self.grow(range.end);
        &mut self.values[range]
    }

    /// The values of an output.
    pub fn get(&self, index: usize) -> &[f32] {
        &self.values[self.ranges[index].clone()]
    }

    /// The values of an output, to write.
    pub fn get_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[self.ranges[index].clone()]
    }

    fn grow(&mut self, end: usize) {
        self.end = end;
        self.values.resize(self.values.len().max(end), 0.0);
    }

    /// The number of outputs.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is no output.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}
