//! What does a caller request, and is it within the limits?

use super::constraint::Constraint;
use super::forward::RunnerLimits;
use super::priority::Priority;
use super::sampler::{SamplingParams, SamplingParamsError};
use std::num::NonZeroUsize;

/// A request to the engine. It is immutable.
#[derive(Clone, Debug)]
pub struct EngineRequest {
    /// The work itself.
    pub kind: RequestKind,
    /// Its precedence in the scheduler.
    pub priority: Priority,
}

/// The work of a request.
#[derive(Clone, Debug)]
pub enum RequestKind {
    /// Completes a prompt.
    Generate(GenerateRequest),
    /// Computes the output at the end of each branch of a trunk.
    Weigh(WeighRequest),
}

/// Completes a prompt with one or more samples.
#[derive(Clone, Debug)]
pub struct GenerateRequest {
    /// The prompt's tokens.
    pub prompt: Vec<u32>,
    /// Completions to sample (`n` in vLLM). They share the prompt's KV pages.
    pub samples: NonZeroUsize,
    /// Tokens of each completion at most, forced tokens included.
    pub tokens_max: usize,
    /// How tokens are sampled.
    pub sampling: SamplingParams,
    /// The grammar of each completion.
    pub constraint: Constraint,
    /// Tokens that end a completion wherever its constraint allows free text. The completion includes the one that
    /// ended it.
    pub stop_tokens: Vec<u32>,
}

/// Computes the output at the end of each branch of a trunk.
///
/// A branch attends to the trunk and to itself, never to another branch. So its output depends neither on the order
/// of the branches nor on the rest of the batch.
#[derive(Clone, Debug)]
pub struct WeighRequest {
    /// The prefix that all branches share.
    pub trunk: Vec<u32>,
    /// The tokens of each branch.
    pub branches: Vec<Vec<u32>>,
    /// The output of each branch's last row.
    pub output: BranchOutput,
}

/// The output of a branch's last row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BranchOutput {
    /// The logits of these tokens.
    TokenLogits(Vec<u32>),
    /// The hidden state after the last norm.
    HiddenState,
}

/// Limits of the scheduler.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerConfig {
    /// Sequences that may hold KV pages at once. Each takes at least one row of every batch (`max_num_seqs` in vLLM).
    pub running_max: NonZeroUsize,
    /// Sequences that may wait beside those.
    pub waiting_max: NonZeroUsize,
    /// Prompt tokens that one sequence may compute in a step while others have tokens left to compute.
    pub prefill_chunk_max: NonZeroUsize,
}

/// Why the engine rejects a request.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Rejection {
    /// The engine holds as many sequences as its limits allow.
    #[error("the engine is full: `running_max + waiting_max` allows {0} sequences")]
    Full(usize),
    /// A field has no tokens or no elements.
    #[error("`{0}` is empty")]
    Empty(&'static str),
    /// A count is 0.
    #[error("`{0}` is 0, and must be at least 1")]
    Zero(&'static str),
    /// A count exceeds its limit.
    #[error("`{field}` is {value}, and `{limit}` allows {max} at most")]
    LimitExceeded {
        /// The field, or the sum of fields, that was counted.
        field: &'static str,
        /// Its count.
        value: usize,
        /// The name of the limit.
        limit: &'static str,
        /// The limit.
        max: usize,
    },
    /// The constraint's longest completion does not fit.
    #[error("`constraint` may need {needed} tokens, and `tokens_max` is {tokens_max}")]
    ConstraintTooLong {
        /// Tokens of the constraint's longest completion.
        needed: usize,
        /// Tokens that the request allows.
        tokens_max: usize,
    },
    /// A token is not in the vocabulary.
    #[error("`{field}` holds token {token}, and the vocabulary has {vocabulary}")]
    UnknownToken {
        /// The field that holds it.
        field: &'static str,
        /// The token.
        token: u32,
        /// Tokens in the vocabulary.
        vocabulary: usize,
    },
    /// A sampling parameter is out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingParamsError),
}

/// The scheduler's limits do not fit the runner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`running_max` is {running_max}, and must be less than `max_batched_tokens`, which is {max_batched_tokens}: \
     otherwise decodes leave no rows for prompts"
)]
pub struct SchedulerConfigError {
    /// Sequences that may run at once.
    pub running_max: usize,
    /// Rows of a batch.
    pub max_batched_tokens: usize,
}

/// The limits that decide whether a request can ever be computed.
#[derive(Clone, Copy, Debug)]
pub(super) struct AdmissionLimits {
    pub runner: RunnerLimits,
    pub scheduler: SchedulerConfig,
}

/// Branches of one request.
const BRANCHES_MAX: usize = 4096;
/// Tokens whose logits one request may read from each branch.
const LOGIT_TOKENS_MAX: usize = 256;
/// Stop tokens of one request.
const STOP_TOKENS_MAX: usize = 64;

// === impl EngineRequest ===

impl EngineRequest {
    /// The number of sequences that it occupies.
    pub fn sequences(&self) -> usize {
        match &self.kind {
            RequestKind::Generate(generate) => generate.samples.get(),
            RequestKind::Weigh(_) => 1,
        }
    }

    /// The most events that it can cause.
    pub(super) fn events_max(&self) -> usize {
        match &self.kind {
            // Each token and the end of each sample; a failure.
            RequestKind::Generate(generate) => self.sequences() * (generate.tokens_max + 1) + 1,
            // The branch outputs and the end; a failure.
            RequestKind::Weigh(_) => 3,
        }
    }
}

// === impl SchedulerConfig ===

impl SchedulerConfig {
    /// Sequences that may run or wait.
    pub fn sequences_max(&self) -> usize {
        self.running_max.get().saturating_add(self.waiting_max.get())
    }
}

// === impl AdmissionLimits ===

impl AdmissionLimits {
    pub fn new(
        runner: RunnerLimits,
        scheduler: SchedulerConfig,
    ) -> Result<Self, SchedulerConfigError> {
        let running_max = scheduler.running_max.get();
        let max_batched_tokens = runner.max_batched_tokens;
        if running_max >= max_batched_tokens {
            return Err(SchedulerConfigError { running_max, max_batched_tokens });
        }
        Ok(Self { runner, scheduler })
    }

    /// Rows of each batch that decodes never take. A branch is computed in one step, so it must fit into these.
    fn prefill_rows(&self) -> usize {
        self.runner.max_batched_tokens - self.scheduler.running_max.get()
    }

    /// Rejects a request that could never be computed.
    pub fn check(&self, request: &EngineRequest) -> Result<(), Rejection> {
        let max = self.scheduler.sequences_max();
        check_limit("samples", request.sequences(), "running_max + waiting_max", max)?;
        match &request.kind {
            RequestKind::Generate(generate) => self.check_generate(generate),
            RequestKind::Weigh(weigh) => self.check_weigh(weigh),
        }
    }

    fn check_generate(&self, generate: &GenerateRequest) -> Result<(), Rejection> {
        let GenerateRequest { prompt, samples: _, tokens_max, sampling, constraint, stop_tokens } =
            generate;
        sampling.check()?;
        self.check_tokens("prompt", prompt)?;
        if *tokens_max == 0 {
            return Err(Rejection::Zero("tokens_max"));
        }
        let tokens = prompt.len().saturating_add(*tokens_max);
        self.check_length("prompt + tokens_max", tokens)?;
        self.check_tokens("constraint", &[constraint.highest_token()])?;
        check_limit("stop_tokens", stop_tokens.len(), "STOP_TOKENS_MAX", STOP_TOKENS_MAX)?;
        stop_tokens.iter().try_for_each(|&token| self.check_tokens("stop_tokens", &[token]))?;
        let needed = constraint.tokens_needed();
        if needed > *tokens_max {
            return Err(Rejection::ConstraintTooLong { needed, tokens_max: *tokens_max });
        }
        Ok(())
    }

    fn check_weigh(&self, weigh: &WeighRequest) -> Result<(), Rejection> {
        let WeighRequest { trunk, branches, output } = weigh;
        self.check_tokens("trunk", trunk)?;
        self.check_length("trunk", trunk.len())?;
        if branches.is_empty() {
            return Err(Rejection::Empty("branches"));
        }
        check_limit("branches", branches.len(), "BRANCHES_MAX", BRANCHES_MAX)?;
        for branch in branches {
            self.check_tokens("branches", branch)?;
            let rows = self.prefill_rows();
            check_limit("branch", branch.len(), "max_batched_tokens - running_max", rows)?;
            let (tokens, context) = (trunk.len() + branch.len(), self.runner.context_tokens_max);
            check_limit("trunk + branch", tokens, "context_tokens_max", context)?;
        }
        match output {
            BranchOutput::TokenLogits(tokens) => {
                check_limit("output", tokens.len(), "LOGIT_TOKENS_MAX", LOGIT_TOKENS_MAX)?;
                self.check_tokens("output", tokens)
            }
            BranchOutput::HiddenState => Ok(()),
        }
    }

    /// Rejects an empty list of tokens, and tokens that are not in the vocabulary.
    fn check_tokens(&self, field: &'static str, tokens: &[u32]) -> Result<(), Rejection> {
        let vocabulary = self.runner.vocabulary;
        if tokens.is_empty() {
            return Err(Rejection::Empty(field));
        }
        match tokens.iter().find(|&&token| token as usize >= vocabulary) {
            Some(&token) => Err(Rejection::UnknownToken { field, token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Rejects more tokens than the context allows, or than all KV pages together hold.
    fn check_length(&self, field: &'static str, tokens: usize) -> Result<(), Rejection> {
        let RunnerLimits { kv_pages, page_tokens, context_tokens_max, .. } = self.runner;
        check_limit(field, tokens, "context_tokens_max", context_tokens_max)?;
        check_limit(field, tokens, "kv_pages * page_tokens", kv_pages * page_tokens)
    }
}

fn check_limit(
    field: &'static str,
    value: usize,
    limit: &'static str,
    max: usize,
) -> Result<(), Rejection> {
    if value > max { Err(Rejection::LimitExceeded { field, value, limit, max }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::super::constraint::Thinking;
    use super::*;

    fn limits() -> AdmissionLimits {
        let [running_max, waiting_max, prefill_chunk_max] =
            [4, 2, 8].map(|n| NonZeroUsize::new(n).unwrap());
        let scheduler = SchedulerConfig { running_max, waiting_max, prefill_chunk_max };
        let runner = RunnerLimits {
            kv_pages: 8,
            page_tokens: 4,
            vocabulary: 10,
            width: 1,
            context_tokens_max: 30,
            max_batched_tokens: 16,
            samples_on_device: false,
        };
        AdmissionLimits::new(runner, scheduler).unwrap()
    }

    fn verdict(kind: RequestKind) -> String {
        let request = EngineRequest { kind, priority: Priority::BACKGROUND };
        limits()
            .check(&request)
            .map_or_else(|rejection| rejection.to_string(), |()| "admitted".to_owned())
    }

    #[test]
    fn completions_beyond_the_limits_are_rejected() {
        let check = |change: &dyn Fn(&mut GenerateRequest), expected: &str| {
            let mut generate = GenerateRequest {
                prompt: vec![1, 2, 3],
                samples: NonZeroUsize::MIN,
                tokens_max: 5,
                sampling: SamplingParams::GREEDY,
                constraint: Constraint::Free,
                stop_tokens: vec![0],
            };
            change(&mut generate);
            assert_eq!(verdict(RequestKind::Generate(generate)), expected);
        };
        check(&|_| {}, "admitted");
        check(&|g| g.prompt.clear(), "`prompt` is empty");
        check(&|g| g.tokens_max = 0, "`tokens_max` is 0, and must be at least 1");
        check(&|g| g.prompt[1] = 10, "`prompt` holds token 10, and the vocabulary has 10");
        check(
            &|g| g.stop_tokens.push(11),
            "`stop_tokens` holds token 11, and the vocabulary has 10",
        );
        let long = "`prompt + tokens_max` is 31, and `context_tokens_max` allows 30 at most";
        check(&|g| g.tokens_max = 28, long);
        check(&|g| g.tokens_max = usize::MAX, &long.replace("31", &usize::MAX.to_string()));
        let samples = "`samples` is 7, and `running_max + waiting_max` allows 6 at most";
        check(&|g| g.samples = NonZeroUsize::new(7).unwrap(), samples);
        let hot = "`temperature` is 99, and must be 0, or 0.001 to 10";
        check(&|g| g.sampling.temperature = 99.0, hot);

        let labels: Vec<_> = (1..5).map(|label| vec![label]).collect();
        let slate = Constraint::permutation(&labels, &[9]).unwrap();
        let short = "`constraint` may need 7 tokens, and `tokens_max` is 5";
        check(&|g| g.constraint = slate.clone(), short);
        let thinking =
            Thinking { tokens_max: 1, open: vec![], close: vec![12], stop_tokens: vec![] };
        let thought = Constraint::think(thinking, Constraint::Free).unwrap();
        let unknown = "`constraint` holds token 12, and the vocabulary has 10";
        check(&|g| g.constraint = thought.clone(), unknown);

        check(&|g| g.stop_tokens = vec![0; STOP_TOKENS_MAX], "admitted");
        check(
            &|g| g.stop_tokens = vec![0; STOP_TOKENS_MAX + 1],
            "`stop_tokens` is 65, and `STOP_TOKENS_MAX` allows 64 at most",
        );
    }

    #[test]
    fn branches_beyond_the_limits_are_rejected() {
        let check = |change: fn(&mut WeighRequest), expected: &str| {
            let branches = vec![vec![1], vec![2, 3]];
            let mut weigh =
                WeighRequest { trunk: vec![1; 20], branches, output: BranchOutput::HiddenState };
            change(&mut weigh);
            assert_eq!(verdict(RequestKind::Weigh(weigh)), expected);
        };
        check(|_| {}, "admitted");
        check(|w| w.trunk.clear(), "`trunk` is empty");
        check(|w| w.branches.clear(), "`branches` is empty");
        check(|w| w.branches.push(vec![]), "`branches` is empty");
        check(|w| w.output = BranchOutput::TokenLogits(vec![]), "`output` is empty");
        let long = "`branch` is 13, and `max_batched_tokens - running_max` allows 12 at most";
        check(|w| w.branches.push(vec![1; 13]), long);
        let deep = "`trunk + branch` is 31, and `context_tokens_max` allows 30 at most";
        check(|w| w.branches.push(vec![1; 11]), deep);
        let unknown = "`output` holds token 10, and the vocabulary has 10";
        check(|w| w.output = BranchOutput::TokenLogits(vec![10]), unknown);

        check(|w| w.branches = vec![vec![1]; BRANCHES_MAX], "admitted");
        let wide = "`branches` is 4097, and `BRANCHES_MAX` allows 4096 at most";
        check(|w| w.branches = vec![vec![1]; BRANCHES_MAX + 1], wide);
        check(|w| w.output = BranchOutput::TokenLogits(vec![1; LOGIT_TOKENS_MAX]), "admitted");
        let curious = "`output` is 257, and `LOGIT_TOKENS_MAX` allows 256 at most";
        check(|w| w.output = BranchOutput::TokenLogits(vec![1; LOGIT_TOKENS_MAX + 1]), curious);
    }

    #[test]
    fn a_batch_must_have_rows_for_prompts() {
        let AdmissionLimits { runner, scheduler } = limits();
        let runner = RunnerLimits { max_batched_tokens: 4, ..runner };
        let error = AdmissionLimits::new(runner, scheduler).unwrap_err();
        let text = "`running_max` is 4, and must be less than `max_batched_tokens`, which is 4: \
                    otherwise decodes leave no rows for prompts";
        assert_eq!(error.to_string(), text);
    }
}
