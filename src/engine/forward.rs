//! One step of the engine: what the scheduler chose, laid out for the model.

use super::sampler::{SampleError, SampledToken};
use crate::nn::softmax::SampleSpec;
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

/// Tokens that are not allowed of one draw, at most, where the model runs. Whoever bans more draws for himself.
pub const BANNED_MAX: usize = 64;

/// The rows of one forward pass: a row is a token at its position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ForwardBatch {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// Whose rows they are, in order, without gaps.
    pub spans: Vec<SequenceSpan>,
    /// The page tables of the spans, one after the other.
    pub pages: Vec<u32>,
    /// What is wanted of which rows.
    pub outputs: Vec<RowOutput>,
    /// The tokens whose logits are wanted by [`OutputKind::TokenLogits`].
    pub logit_tokens: Vec<u32>,
    /// How tokens are drawn for [`OutputKind::Sampled`].
    pub draws: Vec<SampleSpec>,
    /// The tokens that are not allowed there: [`SampleSpec::banned`] says which of them.
    pub banned: Vec<u32>,
}

/// Consecutive tokens of one sequence, or one whole branch.
///
/// Row `i` of a span stands at position `past + i`. It sees the first `past` tokens of its pages
/// and the span's rows up to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceSpan {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its page table, in [`ForwardBatch::pages`]. A trunk and its branches share one.
    pub pages: Range<usize>,
    /// Tokens that its pages hold before the step, or will hold after the spans before it.
    pub past: usize,
    /// A branch leaves nothing behind. Other spans write their keys and values to their pages.
    pub branch: bool,
}

/// What is wanted of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowOutput {
    /// The row.
    pub row: usize,
    /// What of it.
    pub kind: OutputKind,
}

/// What can be wanted of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputKind {
    /// The logits of the whole vocabulary.
    FullLogits,
    /// The logits of some tokens, in [`ForwardBatch::logit_tokens`].
    TokenLogits(Range<usize>),
    /// The row itself, after the last norm.
    HiddenState,
    /// A token that is drawn as that place of [`ForwardBatch::draws`] says. Only of runners that draw: [`RunnerLimits::samples_on_device`].
    Sampled(usize),
}

/// One forward pass over a step that the scheduler chose.
pub trait Runner {
    /// What the scheduler must keep to.
    fn limits(&self) -> RunnerLimits;

    /// Computes a step, and writes what each read wants into `out`, in the order of the reads and in
    /// place of what is there.
    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError>;

    /// How long the last step took until it was asked of whatever else computes it: nothing, where nobody else does.
    fn enqueue_time(&self) -> Duration {
        Duration::ZERO
    }
}

/// The limits of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Pages of keys and values.
    pub pages: usize,
    /// Tokens in a page.
    pub page_tokens: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Numbers in a hidden row.
    pub width: usize,
    /// Tokens in a sequence, branches included.
    pub context_tokens_max: usize,
    /// Rows in a step.
    pub max_batched_tokens: usize,
    /// Whether tokens are drawn there: so a row of logits need not come to whoever asks.
    pub samples_on_device: bool,
}

/// What a step's reads came to, kept from step to step so that nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct ForwardOutput {
    values: Vec<f32>,
    /// Where the answer to each read lies.
    places: Vec<Range<usize>>,
    /// Where the next one may.
    end: usize,
    /// What was drawn, for each of [`ForwardBatch::draws`].
    pub sampled: Vec<Result<SampledToken, SampleError>>,
}

/// Why a forward pass failed.
#[derive(Debug, thiserror::Error)]
pub enum RunnerError {
    /// The weights' files gave out, or something else that concerns this step.
    #[error("the model could not be run")]
    Failed(#[source] Box<dyn Error + Send + Sync>),
    /// There is no memory for this step. There may be for a smaller one.
    #[error("the model has no memory for a step")]
    Full(#[source] Box<dyn Error + Send + Sync>),
    /// What the model runs on is lost, and no step will ever be computed there again.
    #[error("the device that the model runs on is lost")]
    Lost(#[source] Box<dyn Error + Send + Sync>),
}

// === impl RunnerError ===

impl RunnerError {
    /// The word for metric labels.
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
    /// Forgets the last step's.
    pub fn clear(&mut self) {
        self.places.clear();
        self.sampled.clear();
        self.end = 0;
    }

    /// Makes room for the answers to some reads. What is in it is left over from earlier: a runner
    /// fills all of it.
    pub fn lay_out(&mut self, reads: &[RowOutput], shape: RunnerLimits) {
        self.clear();
        let whole = reads.iter().filter(|read| read.kind == OutputKind::FullLogits).count();
        let (mut table, mut end) = (0, whole * shape.vocabulary);
        self.places.extend(reads.iter().map(|read| {
            let (from, width) = match &read.kind {
                OutputKind::FullLogits => (&mut table, shape.vocabulary),
                OutputKind::TokenLogits(tokens) => (&mut end, tokens.len()),
                OutputKind::HiddenState => (&mut end, shape.width),
                OutputKind::Sampled(_) => (&mut end, 0),
            };
            *from += width;
            *from - width..*from
        }));
        self.grow(end);
    }

    /// The room for answers about the whole vocabulary, one after the other.
    pub fn table(&mut self, rows: usize, shape: RunnerLimits) -> &mut [f32] {
        &mut self.values[..rows * shape.vocabulary]
    }

    /// Adds the answer to the next read: `width` numbers, which the caller fills.
    pub fn push(&mut self, width: usize) -> &mut [f32] {
        let place = self.end..self.end + width;
        self.places.push(place.clone());
        self.grow(place.end);
        &mut self.values[place]
    }

    /// The answer to read `index`.
    pub fn get(&self, index: usize) -> &[f32] {
        &self.values[self.places[index].clone()]
    }

    /// The answer to read `index`, to be filled.
    pub fn get_mut(&mut self, index: usize) -> &mut [f32] {
        &mut self.values[self.places[index].clone()]
    }

    fn grow(&mut self, end: usize) {
        self.end = end;
        self.values.resize(self.values.len().max(end), 0.0);
    }

    /// How many reads were answered.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether none was.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
