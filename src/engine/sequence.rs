//! One text that is being computed: the scheduler's working state.
//!
//! ```text
//! known     [ prompt | tokens drawn and tokens written for the model ]
//! computed  [ keys and values lie in the pages of the table | pending ]
//! ```
//!
//! Each step computes some of what is pending. Once nothing is, the last row says what comes next.
//! So a decode is a span of one row, a chunk of a prompt is a span of many, and a token that the
//! constraint leaves no choice about waits for the next span.

use super::constraint::Constraint;
use super::kv_pages::{KvPages, PageHash};
use super::request::{EngineRequest, GenerateRequest, RequestKind, WeighRequest};
use super::response::Usage;
use super::sampler::SamplePosition;
use super::scheduler::{PATIENCE, RequestId};
use crate::domain::{Criticality, Deadline};
use std::cmp::Reverse;
use std::sync::Arc;
use tokio::time::Instant;

/// Who goes first: the smaller. No two sequences are equally urgent, and urgency never changes, so
/// the most urgent one always gets on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SchedulingKey {
    pub criticality: Reverse<Criticality>,
    due: Instant,
    pub id: RequestId,
    pub sample: usize,
}

#[derive(Debug)]
pub(super) struct Sequence {
    pub urgency: SchedulingKey,
    pub ask: Arc<EngineRequest>,
    pub known: Vec<u32>,
    /// Tokens of the prompt or the trunk.
    pub prompt: usize,
    pub computed: usize,
    /// Whether it was computed to its end since it was started: what is pending then is what was
    /// drawn or forced since.
    pub warm: bool,
    pub started: bool,
    pub ended: bool,
    /// Its pages, in order.
    pub table: Vec<u32>,
    /// The names of the full pages of what is known, as far as anybody wanted them.
    names: Vec<PageHash>,
    pub constraint: Constraint,
    pub usage: Usage,
    /// What the branches so far came to.
    pub weights: Vec<Vec<f32>>,
    pub grant: ScheduledTokens,
    /// What it was granted of a step that turned out to be too large, until its own part of that is computed.
    pub postponed: ScheduledTokens,
}

/// What a sequence gets of the step at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ScheduledTokens {
    /// Rows of its own.
    pub rows: usize,
    /// Whole branches.
    pub branches: usize,
    /// The rows of those.
    pub branch_rows: usize,
}

// === impl SchedulingKey ===

impl SchedulingKey {
    /// The urgency of an ask that arrived at `now`.
    pub fn of(ask: &EngineRequest, now: Instant, id: RequestId, sample: usize) -> Self {
        let due = ask.priority.deadline.map_or(now + PATIENCE, Deadline::instant);
        Self { criticality: Reverse(ask.priority.criticality), due, id, sample }
    }
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
    pub fn new(ask: &Arc<EngineRequest>, urgency: SchedulingKey) -> Self {
        let (known, constraint) = match &ask.kind {
            RequestKind::Generate(generate) => {
                let mut known = Vec::with_capacity(generate.prompt.len() + generate.tokens_max);
                known.extend_from_slice(&generate.prompt);
                (known, generate.constraint.clone())
            }
            RequestKind::Weigh(weigh) => (weigh.trunk.clone(), Constraint::Free),
        };
        Self {
            urgency,
            ask: ask.clone(),
            prompt: known.len(),
            usage: Usage { prompt_tokens: known.len(), ..Usage::default() },
            known,
            computed: 0,
            warm: false,
            started: false,
            ended: false,
            table: Vec::new(),
            names: Vec::new(),
            constraint,
            weights: Vec::new(),
            grant: ScheduledTokens::default(),
            postponed: ScheduledTokens::default(),
        }
    }

    pub fn generate(&self) -> Option<&GenerateRequest> {
        match &self.ask.kind {
            RequestKind::Generate(generate) => Some(generate),
            RequestKind::Weigh(_) => None,
        }
    }

    pub fn weigh(&self) -> Option<&WeighRequest> {
        match &self.ask.kind {
            RequestKind::Weigh(weigh) => Some(weigh),
            RequestKind::Generate(_) => None,
        }
    }

    /// Known tokens that neither the pages hold nor the step at hand computes.
    pub fn pending(&self) -> usize {
        self.known.len() - self.computed - self.grant.rows
    }

    /// Whether the step at hand computes its last known token.
    pub fn reads(&self) -> bool {
        self.generate().is_some() && self.grant.rows > 0 && self.pending() == 0
    }

    /// Where the token that it reads next will stand.
    pub fn place(&self) -> SamplePosition {
        SamplePosition { sample: self.urgency.sample, token: self.known.len() - self.prompt }
    }

    /// Rows of its next branch, if it has one that the step at hand does not compute.
    pub fn next_branch(&self) -> Option<usize> {
        let next = self.weights.len() + self.grant.branches;
        self.weigh().and_then(|weigh| weigh.branches.get(next)).map(Vec::len)
    }

    /// Pages that it wants before it is started: for what is known, and for a token to be drawn.
    pub fn pages_wanted(&self, page_tokens: usize) -> usize {
        let drawn = usize::from(self.generate().is_some());
        (self.known.len() + drawn).div_ceil(page_tokens)
    }

    /// Takes the pages that others have computed. The last token of a text that goes on is always
    /// computed anew, because what comes next is read off its row; branches are what is read of a
    /// trunk, so all of a trunk may be found.
    pub fn find(&mut self, pages: &mut KvPages, page_tokens: usize) {
        let last = usize::from(self.generate().is_some());
        let findable = (self.known.len() - last) / page_tokens;
        while self.table.len() < findable {
            let name = self.name(self.table.len(), page_tokens);
            let Some(page) = pages.hold(&name) else { break };
            self.table.push(page);
        }
        self.computed = self.table.len() * page_tokens;
    }

    /// Names the pages that became full when `computed` grew from `before`.
    pub fn name_full(&mut self, before: usize, pages: &mut KvPages, page_tokens: usize) {
        for index in before / page_tokens..self.computed / page_tokens {
            let name = self.name(index, page_tokens);
            pages.name(self.table[index], name);
        }
    }

    /// Gives all pages back, the last ones first, because they are of use to the fewest. What is
    /// known stays known.
    pub fn release(&mut self, pages: &mut KvPages) {
        self.table.drain(..).rev().for_each(|page| pages.give(page));
        self.computed = 0;
        self.warm = false;
        self.grant = ScheduledTokens::default();
    }

    /// The name of a full page. What is known never changes, so a name holds once it is made.
    fn name(&mut self, index: usize, page_tokens: usize) -> PageHash {
        while self.names.len() <= index {
            let from = self.names.len() * page_tokens;
            let tokens = &self.known[from..from + page_tokens];
            self.names.push(PageHash::of(self.names.last(), tokens));
        }
        self.names[index]
    }
}
