//! What does a caller want, and could it ever be done?

use super::constraint::Constraint;
use super::forward::RunnerLimits;
use super::sampler::{SamplingParams, SamplingParamsError};
use crate::domain::{Criticality, Deadline};
use std::num::NonZeroUsize;

/// What a caller wants. It never changes.
#[derive(Clone, Debug)]
pub struct EngineRequest {
    /// The work itself.
    pub kind: RequestKind,
    /// Its precedence in the scheduler.
    pub priority: Priority,
}

/// A request's precedence in the scheduler: criticality first, then deadline.
#[derive(Clone, Copy, Debug)]
pub struct Priority {
    /// More critical requests are scheduled first.
    pub criticality: Criticality,
    /// When the answer becomes useless; `None` for background work.
    pub deadline: Option<Deadline>,
}

/// What is to be computed.
#[derive(Clone, Debug)]
pub enum RequestKind {
    /// Texts that go on where a prompt ends.
    Generate(GenerateRequest),
    /// What is at the end of each of many branches of one trunk.
    Weigh(WeighRequest),
}

/// Texts that go on where a prompt ends.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// Tokens to go on from.
    pub prompt: Vec<u32>,
    /// How many texts. They share the prompt's pages.
    pub samples: NonZeroUsize,
    /// Tokens of each text, those written for the model included.
    pub tokens_max: usize,
    /// How tokens are drawn.
    pub sampling: SamplingParams,
    /// What the texts must look like.
    pub constraint: Constraint,
    /// Tokens that end a text, where the constraint is free. The one that did is its last token.
    pub stop_tokens: Vec<u32>,
}

/// What is at the end of each of many branches of one trunk.
///
/// A branch sees the trunk and itself, never another branch, so what comes of it depends on neither
/// the order nor the company.
#[derive(Clone, Debug)]
pub struct WeighRequest {
    /// What all branches see.
    pub trunk: Vec<u32>,
    /// The branches.
    pub branches: Vec<Vec<u32>>,
    /// What is wanted of the last row of each.
    pub output: BranchOutput,
}

/// What can be wanted of the last row of a branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchOutput {
    /// The logits of these tokens.
    TokenLogits(Vec<u32>),
    /// The row itself, after the last norm.
    HiddenState,
}

/// How much the engine may take on.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerConfig {
    /// Sequences that may be in work at once, each with at least a row in every step.
    pub running_max: NonZeroUsize,
    /// Sequences that may wait beside those.
    pub waiting_max: NonZeroUsize,
    /// Rows of a step that one prompt may take while others want some.
    pub prefill_chunk_max: NonZeroUsize,
}

/// Why an ask is not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// As many sequences are held as may be.
    #[error("the engine is full: it holds {0} sequences")]
    Full(usize),
    /// Something has no tokens, or there is none of it.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// Something is more than could ever be done.
    #[error("{what} is {value}, and `{limit}` is {max}")]
    TooMuch {
        /// What was counted.
        what: &'static str,
        /// How much of it there is.
        value: usize,
        /// The limit.
        limit: &'static str,
        /// Its value.
        max: usize,
    },
    /// The texts could not be finished.
    #[error("the constraint may need {needed} tokens, and `tokens_max` is {tokens_max}")]
    Unfinished {
        /// The most tokens that the constraint may take.
        needed: usize,
        /// How many there may be.
        tokens_max: usize,
    },
    /// The model does not know a token.
    #[error("`{what}` holds token {token}, and the vocabulary has {vocabulary}")]
    Unknown {
        /// Where it was.
        what: &'static str,
        /// The token.
        token: u32,
        /// Tokens that there are.
        vocabulary: usize,
    },
    /// The numbers to sample with are not for sampling.
    #[error(transparent)]
    Sampling(#[from] SamplingParamsError),
}

/// Limits that do not fit the runner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`running_max` is {running_max}, and a step has no more than {max_batched_tokens} rows, which leaves none for prompts"
)]
pub struct SchedulerConfigError {
    /// Sequences that may be in work.
    pub running_max: usize,
    /// Rows in a step.
    pub max_batched_tokens: usize,
}

/// What decides whether an ask could ever be done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admission {
    pub shape: RunnerLimits,
    pub limits: SchedulerConfig,
}

/// Branches of an ask: more than the longest slate has.
const BRANCHES_MAX: usize = 4_096;
/// Tokens whose logits may be wanted of each branch.
const LOGIT_TOKENS_MAX: usize = 256;
/// Tokens that may end a text.
const STOP_TOKENS_MAX: usize = 64;

// === impl Priority ===

impl Priority {
    /// Work of default criticality that nobody waits for.
    pub const BACKGROUND: Self = Self { criticality: Criticality::Default, deadline: None };
}

// === impl EngineRequest ===

impl EngineRequest {
    /// How many sequences it takes.
    pub fn sequences(&self) -> usize {
        match &self.kind {
            RequestKind::Generate(generate) => generate.samples.get(),
            RequestKind::Weigh(_) => 1,
        }
    }

    /// The most events that it can come to.
    pub(super) fn events_max(&self) -> usize {
        match &self.kind {
            // Each token, and the end of each; a failure.
            RequestKind::Generate(generate) => self.sequences() * (generate.tokens_max + 1) + 1,
            // The weights, and the end; a failure.
            RequestKind::Weigh(_) => 3,
        }
    }
}

// === impl SchedulerConfig ===

impl SchedulerConfig {
    /// Sequences that may be held.
    pub fn sequences_max(&self) -> usize {
        self.running_max.get().saturating_add(self.waiting_max.get())
    }
}

// === impl Admission ===

impl Admission {
    pub fn new(shape: RunnerLimits, limits: SchedulerConfig) -> Result<Self, SchedulerConfigError> {
        let (running_max, max_batched_tokens) =
            (limits.running_max.get(), shape.max_batched_tokens);
        if running_max >= max_batched_tokens {
            return Err(SchedulerConfigError { running_max, max_batched_tokens });
        }
        Ok(Self { shape, limits })
    }

    /// Rows of each step that running decodes never take: what a branch, which is computed whole,
    /// can count on.
    fn prompt_rows(&self) -> usize {
        self.shape.max_batched_tokens - self.limits.running_max.get()
    }

    /// Refuses what could never be done.
    pub fn check(&self, ask: &EngineRequest) -> Result<(), Rejection> {
        within("samples", ask.sequences(), "sequences_max", self.limits.sequences_max())?;
        match &ask.kind {
            RequestKind::Generate(generate) => self.check_generate(generate),
            RequestKind::Weigh(weigh) => self.check_weigh(weigh),
        }
    }

    fn check_generate(&self, generate: &GenerateRequest) -> Result<(), Rejection> {
        let GenerateRequest { prompt, samples: _, tokens_max, sampling, constraint, stop_tokens } =
            generate;
        sampling.check()?;
        self.known("prompt", prompt)?;
        if *tokens_max == 0 {
            return Err(Rejection::Empty("tokens_max"));
        }
        let tokens = prompt.len().saturating_add(*tokens_max);
        self.fits("prompt + tokens_max", tokens)?;
        self.known("constraint", &[constraint.highest()])?;
        within("stop_tokens", stop_tokens.len(), "STOP_TOKENS_MAX", STOP_TOKENS_MAX)?;
        stop_tokens.iter().try_for_each(|&token| self.known("stop_tokens", &[token]))?;
        let needed = constraint.tokens_needed();
        if needed > *tokens_max {
            return Err(Rejection::Unfinished { needed, tokens_max: *tokens_max });
        }
        Ok(())
    }

    fn check_weigh(&self, weigh: &WeighRequest) -> Result<(), Rejection> {
        let WeighRequest { trunk, branches, output } = weigh;
        self.known("trunk", trunk)?;
        self.fits("the trunk", trunk.len())?;
        if branches.is_empty() {
            return Err(Rejection::Empty("branches"));
        }
        within("branches", branches.len(), "BRANCHES_MAX", BRANCHES_MAX)?;
        for branch in branches {
            self.known("branches", branch)?;
            let rows = self.prompt_rows();
            within("a branch", branch.len(), "max_batched_tokens - running_max", rows)?;
            let (tokens, context) = (trunk.len() + branch.len(), self.shape.context_tokens_max);
            within("trunk + branch", tokens, "context_tokens_max", context)?;
        }
        match output {
            BranchOutput::TokenLogits(tokens) => {
                within("output", tokens.len(), "LOGIT_TOKENS_MAX", LOGIT_TOKENS_MAX)?;
                self.known("output", tokens)
            }
            BranchOutput::HiddenState => Ok(()),
        }
    }

    /// Refuses tokens that are none, and tokens that the model does not know.
    fn known(&self, what: &'static str, tokens: &[u32]) -> Result<(), Rejection> {
        let vocabulary = self.shape.vocabulary;
        if tokens.is_empty() {
            return Err(Rejection::Empty(what));
        }
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(Rejection::Unknown { what, token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Refuses more tokens than the context, or than all pages together hold.
    fn fits(&self, what: &'static str, tokens: usize) -> Result<(), Rejection> {
        let RunnerLimits { pages, page_tokens, context_tokens_max, .. } = self.shape;
        within(what, tokens, "context_tokens_max", context_tokens_max)?;
        within(what, tokens, "pages * page_tokens", pages * page_tokens)
    }
}

fn within(
    what: &'static str,
    value: usize,
    limit: &'static str,
    max: usize,
) -> Result<(), Rejection> {
    if value > max { Err(Rejection::TooMuch { what, value, limit, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::constraint::Thinking;
    use super::*;

    fn admission() -> Admission {
        let [running_max, waiting_max, prefill_chunk_max] =
            [4, 2, 8].map(|n| NonZeroUsize::new(n).unwrap());
        let limits = SchedulerConfig { running_max, waiting_max, prefill_chunk_max };
        let shape = RunnerLimits {
            pages: 8,
            page_tokens: 4,
            vocabulary: 10,
            width: 1,
            context_tokens_max: 30,
            max_batched_tokens: 16,
            samples_on_device: false,
        };
        Admission::new(shape, limits).unwrap()
    }

    fn refused(kind: RequestKind) -> String {
        let ask = EngineRequest { kind, priority: Priority::BACKGROUND };
        admission().check(&ask).map_or_else(|refused| refused.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn texts_that_could_never_be_done_are_refused() {
        let check = |change: &dyn Fn(&mut GenerateRequest), said: &str| {
            let mut generate = GenerateRequest {
                prompt: vec![1, 2, 3],
                samples: NonZeroUsize::MIN,
                tokens_max: 5,
                sampling: SamplingParams::GREEDY,
                constraint: Constraint::Free,
                stop_tokens: vec![0],
            };
            change(&mut generate);
            assert_eq!(refused(RequestKind::Generate(generate)), said);
        };
        check(&|_| {}, "taken");
        check(&|g| g.prompt.clear(), "`prompt` is empty");
        check(&|g| g.tokens_max = 0, "`tokens_max` is empty");
        check(&|g| g.prompt[1] = 10, "`prompt` holds token 10, and the vocabulary has 10");
        check(
            &|g| g.stop_tokens.push(11),
            "`stop_tokens` holds token 11, and the vocabulary has 10",
        );
        let long = "prompt + tokens_max is 31, and `context_tokens_max` is 30";
        check(&|g| g.tokens_max = 28, long);
        check(&|g| g.tokens_max = usize::MAX, &long.replace("31", &usize::MAX.to_string()));
        let samples = "samples is 7, and `sequences_max` is 6";
        check(&|g| g.samples = NonZeroUsize::new(7).unwrap(), samples);
        let hot = "`temperature` is 99, and must be 0, or 0.001 to 10";
        check(&|g| g.sampling.temperature = 99.0, hot);

        let labels: Vec<_> = (1..5).map(|label| vec![label]).collect();
        let slate = Constraint::permutation(&labels, &[9]).unwrap();
        let short = "the constraint may need 7 tokens, and `tokens_max` is 5";
        check(&|g| g.constraint = slate.clone(), short);
        let thinking =
            Thinking { tokens_max: 1, open: vec![], close: vec![12], stop_tokens: vec![] };
        let thought = Constraint::think(thinking, Constraint::Free).unwrap();
        let unknown = "`constraint` holds token 12, and the vocabulary has 10";
        check(&|g| g.constraint = thought.clone(), unknown);

        check(&|g| g.stop_tokens = vec![0; STOP_TOKENS_MAX], "taken");
        check(
            &|g| g.stop_tokens = vec![0; STOP_TOKENS_MAX + 1],
            "stop_tokens is 65, and `STOP_TOKENS_MAX` is 64",
        );
    }

    #[test]
    fn branches_that_could_never_be_weighed_are_refused() {
        let check = |change: fn(&mut WeighRequest), said: &str| {
            let branches = vec![vec![1], vec![2, 3]];
            let mut weigh =
                WeighRequest { trunk: vec![1; 20], branches, output: BranchOutput::HiddenState };
            change(&mut weigh);
            assert_eq!(refused(RequestKind::Weigh(weigh)), said);
        };
        check(|_| {}, "taken");
        check(|w| w.trunk.clear(), "`trunk` is empty");
        check(|w| w.branches.clear(), "`branches` is empty");
        check(|w| w.branches.push(vec![]), "`branches` is empty");
        check(|w| w.output = BranchOutput::TokenLogits(vec![]), "`output` is empty");
        let long = "a branch is 13, and `max_batched_tokens - running_max` is 12";
        check(|w| w.branches.push(vec![1; 13]), long);
        let deep = "trunk + branch is 31, and `context_tokens_max` is 30";
        check(|w| w.branches.push(vec![1; 11]), deep);
        let unknown = "`output` holds token 10, and the vocabulary has 10";
        check(|w| w.output = BranchOutput::TokenLogits(vec![10]), unknown);

        check(|w| w.branches = vec![vec![1]; BRANCHES_MAX], "taken");
        let wide = "branches is 4097, and `BRANCHES_MAX` is 4096";
        check(|w| w.branches = vec![vec![1]; BRANCHES_MAX + 1], wide);
        check(|w| w.output = BranchOutput::TokenLogits(vec![1; LOGIT_TOKENS_MAX]), "taken");
        let curious = "output is 257, and `LOGIT_TOKENS_MAX` is 256";
        check(|w| w.output = BranchOutput::TokenLogits(vec![1; LOGIT_TOKENS_MAX + 1]), curious);
    }

    #[test]
    fn a_step_must_have_rows_for_prompts() {
        let Admission { shape, limits } = admission();
        let misfit =
            Admission::new(RunnerLimits { max_batched_tokens: 4, ..shape }, limits).unwrap_err();
        let said = "`running_max` is 4, and a step has no more than 4 rows, \
                    which leaves none for prompts";
        assert_eq!(misfit.to_string(), said);
    }
}
