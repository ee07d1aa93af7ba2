//! One step of the engine: what the scheduler chose, laid out for the model.

use super::sampler::{Drawn, SampleError};
use crate::nn::softmax::SampleSpec;
use std::error::Error;
use std::ops::Range;
use std::time::Duration;

/// Tokens that are not allowed of one draw, at most, where the model runs. Whoever bans more draws for himself.
pub const BANNED_MAX: usize = 64;

/// The rows of one forward pass: a row is a token at its position.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Step {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// Whose rows they are, in order, without gaps.
    pub spans: Vec<Span>,
    /// The page tables of the spans, one after the other.
    pub pages: Vec<u32>,
    /// What is wanted of which rows.
    pub reads: Vec<Read>,
    /// The tokens whose logits are wanted by [`What::Chosen`].
    pub chosen: Vec<u32>,
    /// How tokens are drawn for [`What::Drawn`].
    pub draws: Vec<SampleSpec>,
    /// The tokens that are not allowed there: [`SampleSpec::banned`] says which of them.
    pub banned: Vec<u32>,
}

/// Consecutive tokens of one sequence, or one whole branch.
///
/// Row `i` of a span stands at position `past + i`. It sees the first `past` tokens of its pages
/// and the span's rows up to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its rows.
    pub rows: Range<usize>,
    /// Its page table, in [`Step::pages`]. A trunk and its branches share one.
    pub pages: Range<usize>,
    /// Tokens that its pages hold before the step, or will hold after the spans before it.
    pub past: usize,
    /// A branch leaves nothing behind. Other spans write their keys and values to their pages.
    pub branch: bool,
}

/// What is wanted of one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The row.
    pub row: usize,
    /// What of it.
    pub what: What,
}

/// What can be wanted of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// The logits of the whole vocabulary.
    Vocabulary,
    /// The logits of some tokens, in [`Step::chosen`].
    Chosen(Range<usize>),
    /// The row itself, after the last norm.
    Hidden,
    /// A token that is drawn as that place of [`Step::draws`] says. Only of runners that draw: [`Shape::draws`].
    Drawn(usize),
}

/// One forward pass over a step that the scheduler chose.
pub trait Runner {
    /// What the scheduler must keep to.
    fn shape(&self) -> Shape;

    /// Computes a step, and writes what each read wants into `out`, in the order of the reads and in
    /// place of what is there.
    fn forward(&mut self, step: &Step, out: &mut Answers) -> Result<(), RunnerError>;

    /// How long the last step took until it was asked of whatever else computes it: nothing, where nobody else does.
    fn asked_in(&self) -> Duration {
        Duration::ZERO
    }
}

/// The limits of a runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
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
    pub rows_max: usize,
    /// Whether tokens are drawn there: so a row of logits need not come to whoever asks.
    pub draws: bool,
}

/// What a step's reads came to, kept from step to step so that nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    values: Vec<f32>,
    /// Where the answer to each read lies.
    places: Vec<Range<usize>>,
    /// Where the next one may.
    end: usize,
    /// What was drawn, for each of [`Step::draws`].
    pub drawn: Vec<Result<Drawn, SampleError>>,
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

// === impl Answers ===

impl Answers {
    /// Forgets the last step's.
    pub fn clear(&mut self) {
        self.places.clear();
        self.drawn.clear();
        self.end = 0;
    }

    /// Makes room for the answers to some reads. What is in it is left over from earlier: a runner
    /// fills all of it.
    pub fn lay_out(&mut self, reads: &[Read], shape: Shape) {
        self.clear();
        let whole = reads.iter().filter(|read| read.what == What::Vocabulary).count();
        let (mut table, mut end) = (0, whole * shape.vocabulary);
        self.places.extend(reads.iter().map(|read| {
            let (from, width) = match &read.what {
                What::Vocabulary => (&mut table, shape.vocabulary),
                What::Chosen(tokens) => (&mut end, tokens.len()),
                What::Hidden => (&mut end, shape.width),
                What::Drawn(_) => (&mut end, 0),
            };
            *from += width;
            *from - width..*from
        }));
        self.grow(end);
    }

    /// The room for answers about the whole vocabulary, one after the other.
    pub fn table(&mut self, rows: usize, shape: Shape) -> &mut [f32] {
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
