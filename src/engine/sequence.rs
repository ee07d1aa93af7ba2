//! One sequence: a sample of a prompt, or a trunk with its branches.
//!
//! ```text
//! tokens    [ prompt | sampled and forced tokens ]
//! computed  [ in the KV cache | pending          ]
//! ```
//!
//! Each step computes some pending tokens. Once none is pending, the last row predicts the next token. So a decode is
//! a span of one row, a prefill chunk is a span of many, and a forced token is pending until the next span.

use super::constraint::Constraint;
use super::kv_pages::{KvPages, PageHash};
use super::priority::SchedulingKey;
use super::request::{EngineRequest, GenerateRequest, RequestKind, WeighRequest};
use super::response::Usage;
use super::sampler::SamplePosition;
use std::sync::Arc;

/// The scheduler's state of one sequence.
#[derive(Debug)]
pub(super) struct Sequence {
    pub key: SchedulingKey,
    pub request: Arc<EngineRequest>,
    /// The prompt or the trunk, then the generated tokens.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt or the trunk.
    pub prompt_len: usize,
    /// Tokens in the KV cache.
    pub computed: usize,
    /// Whether it has computed all its tokens since it was started or resumed. Later spans are decodes.
    pub prefilled: bool,
    /// Whether it has run before. A preempted sequence that is resumed finds its own pages in the prefix cache.
    pub started: bool,
    pub finished: bool,
    /// Its KV pages, in order.
    pub block_table: Vec<u32>,
    /// The hashes of its full pages, as far as they were needed.
    page_hashes: Vec<PageHash>,
    pub constraint: Constraint,
    pub usage: Usage,
    /// The outputs of the branches computed so far.
    pub branch_outputs: Vec<Vec<f32>>,
    /// The part of the planned step that is its own.
    pub scheduled: ScheduledTokens,
    /// Its part of a step that was split, until that part is computed.
    pub postponed: ScheduledTokens,
}

/// What a step computes of one sequence (`num_scheduled_tokens` in vLLM).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScheduledTokens {
    /// Rows of its own tokens.
    pub rows: usize,
    /// Whole branches.
    pub branches: usize,
    /// The rows of those branches.
    pub branch_rows: usize,
}

// === impl ScheduledTokens ===

impl ScheduledTokens {
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    pub fn all_rows(self) -> usize {
        self.rows + self.branch_rows
    }
}

// === impl Sequence ===

impl Sequence {
    pub fn new(request: &Arc<EngineRequest>, key: SchedulingKey) -> Self {
        let (tokens, constraint) = match &request.kind {
            RequestKind::Generate(generate) => {
                let mut tokens = Vec::with_capacity(generate.prompt.len() + generate.tokens_max);
                tokens.extend_from_slice(&generate.prompt);
                (tokens, generate.constraint.clone())
            }
            RequestKind::Weigh(weigh) => (weigh.trunk.clone(), Constraint::Free),
        };
        Self {
            key,
            request: request.clone(),
            prompt_len: tokens.len(),
            usage: Usage { prompt_tokens: tokens.len(), ..Usage::default() },
            tokens,
            computed: 0,
            prefilled: false,
            started: false,
            finished: false,
            block_table: Vec::new(),
            page_hashes: Vec::new(),
            constraint,
            branch_outputs: Vec::new(),
            scheduled: ScheduledTokens::default(),
            postponed: ScheduledTokens::default(),
        }
    }

    pub fn generate(&self) -> Option<&GenerateRequest> {
        match &self.request.kind {
            RequestKind::Generate(generate) => Some(generate),
            RequestKind::Weigh(_) => None,
        }
    }

    pub fn weigh(&self) -> Option<&WeighRequest> {
        match &self.request.kind {
            RequestKind::Weigh(weigh) => Some(weigh),
            RequestKind::Generate(_) => None,
        }
    }

    /// Tokens that are neither in the KV cache nor scheduled.
    pub fn pending(&self) -> usize {
        self.tokens.len() - self.computed - self.scheduled.rows
    }

    /// Tokens after the prompt.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Whether the planned step predicts its next token.
    pub fn predicts(&self) -> bool {
        self.generate().is_some() && self.scheduled.rows > 0 && self.pending() == 0
    }

    /// The position of the next sampled token.
    pub fn sample_position(&self) -> SamplePosition {
        SamplePosition { sample: self.key.sample, token: self.generated() }
    }

    /// Rows of the next branch that is neither computed nor scheduled.
    pub fn next_branch(&self) -> Option<usize> {
        let next = self.branch_outputs.len() + self.scheduled.branches;
        self.weigh().and_then(|weigh| weigh.branches.get(next)).map(Vec::len)
    }

    /// Pages that it needs to start: for its tokens, and for one sampled token.
    pub fn pages_to_start(&self, page_tokens: usize) -> usize {
        let sampled = usize::from(self.generate().is_some());
        (self.tokens.len() + sampled).div_ceil(page_tokens)
    }

    /// Acquires its pages from the prefix cache.
    ///
    /// The last token of a prompt is always computed again, because its row predicts the next token. A trunk may be
    /// found whole: only its branches have outputs.
    pub fn acquire_prefix(&mut self, pages: &mut KvPages, page_tokens: usize) {
        let last = usize::from(self.generate().is_some());
        let full_pages = (self.tokens.len() - last) / page_tokens;
        while self.block_table.len() < full_pages {
            let hash = self.page_hash(self.block_table.len(), page_tokens);
            let Some(page) = pages.acquire(&hash) else { break };
            self.block_table.push(page);
        }
        self.computed = self.block_table.len() * page_tokens;
    }

    /// Publishes the pages that became full since `computed` was `before`.
    pub fn publish_full_pages(&mut self, before: usize, pages: &mut KvPages, page_tokens: usize) {
        for index in before / page_tokens..self.computed / page_tokens {
            let hash = self.page_hash(index, page_tokens);
            pages.publish(self.block_table[index], hash);
        }
    }

    /// Releases all pages and keeps the tokens. The last pages go first, so that the prefix that most sequences share
    /// is evicted last.
    pub fn release(&mut self, pages: &mut KvPages) {
        self.block_table.drain(..).rev().for_each(|page| pages.release(page));
        self.computed = 0;
        self.prefilled = false;
        self.scheduled = ScheduledTokens::default();
    }

    /// The hash of a full page. Tokens never change, so it is computed once.
    fn page_hash(&mut self, index: usize, page_tokens: usize) -> PageHash {
        while self.page_hashes.len() <= index {
            let start = self.page_hashes.len() * page_tokens;
            let tokens = &self.tokens[start..start + page_tokens];
            self.page_hashes.push(PageHash::of(self.page_hashes.last(), tokens));
        }
        self.page_hashes[index]
    }
}
