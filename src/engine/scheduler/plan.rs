//! How many rows does each sequence get in the next step?
//!
//! 1. Requests whose deadline has passed fail.
//! 2. Every decode gets one row. A sequence with forced tokens gets more, but all decodes together never get more
//!    than `running_max` rows. The rest of `max_batched_tokens` is left for prompts.
//! 3. Prompts, trunks and branches get the rest in the order of [`SchedulingKey`](super::SchedulingKey): more
//!    critical first, then the earlier deadline, then the earlier arrival. First each gets `prefill_chunk_max` rows,
//!    then the remainder is dealt out in the same order. A waiting sequence starts here, if `running_max` and the
//!    free KV pages allow it.
//!
//! When no KV page is free, the last running sequence is preempted: it keeps its tokens, and computes them again
//! later. Keys are a total order that never changes, so the first sequence always makes progress. No sequence starts
//! before a waiting one with a smaller key. A waiting sequence preempts only less critical ones, so sequences of
//! equal criticality never preempt each other by turns.
//!
//! Within one criticality, only requests with earlier deadlines overtake a request, so none starves. A request
//! without a deadline is ordered by an implicit one.

use super::{RequestFailure, RequestId, Scheduler, Sequence, StepStats};
use crate::engine::constraint::Allowed;
use crate::engine::forward::{BANNED_MAX, ForwardBatch, OutputKind, RunnerLimits};
use crate::engine::kv_pages::KvPages;
use crate::engine::request::BranchOutput;
use crate::engine::sequence::ScheduledTokens;
use rustc_hash::FxHashMap;
use std::ops::Range;
use tokio::time::Instant;

/// What the last plan computes of one sequence, for observers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSequence {
    /// Its request.
    pub id: RequestId,
    /// The index of the sample.
    pub sample: usize,
    /// Its tokens to compute.
    pub tokens: Range<usize>,
    /// Its branches to compute.
    pub branches: Range<usize>,
    /// Whether it decodes; otherwise it prefills.
    pub decodes: bool,
}

impl Scheduler {
    /// Plans the next step and builds its batch. `None` if there is nothing to compute.
    pub fn plan(&mut self, now: Instant) -> Option<&ForwardBatch> {
        self.fail_overdue(now);
        self.stats = StepStats::default();
        self.token_budget = self.limits.runner.max_batched_tokens;
        let clear = |sequence: &mut Sequence| sequence.scheduled = ScheduledTokens::default();
        self.running.iter_mut().for_each(clear);
        self.schedule_decodes();
        self.schedule_prefills();
        self.build_batch();
        (!self.batch.spans.is_empty()).then_some(&self.batch)
    }

    /// The sequences of the last plan.
    pub fn planned(&self) -> impl Iterator<Item = PlannedSequence> {
        let in_batch = self.running.iter().filter(|sequence| !sequence.scheduled.is_none());
        in_batch.map(|sequence| {
            let (token, branch) = (sequence.computed, sequence.branch_outputs.len());
            PlannedSequence {
                id: sequence.key.id,
                sample: sequence.key.sample,
                tokens: token..token + sequence.scheduled.rows,
                branches: branch..branch + sequence.scheduled.branches,
                decodes: sequence.prefilled,
            }
        })
    }

    /// Fails the requests whose deadline has passed.
    fn fail_overdue(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.deadlines.first()
            && deadline <= now
        {
            self.fail(id, RequestFailure::DeadlineExceeded);
        }
    }

    /// Gives every decode one row, and more to sequences with forced tokens.
    fn schedule_decodes(&mut self) {
        let decodes = self.running.iter().filter(|sequence| sequence.prefilled).count();
        let mut extra = self.limits.scheduler.running_max.get() - decodes;
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].prefilled {
                let rows = self.running[index].pending().min(1 + extra);
                let rows = self.allocate_pages(index, rows);
                if rows == 0 {
                    // No other sequence can be preempted: it is the last itself.
                    self.preempt_last();
                    break;
                }
                let rows = self.schedule_rows(index, rows);
                extra -= rows - 1;
                self.stats.decode_tokens += rows;
            }
            index += 1;
        }
    }

    /// Deals the remaining rows out to prompts, and starts waiting sequences.
    fn schedule_prefills(&mut self) {
        // After a preemption, the preempted sequence would be the first to take the pages back.
        let mut blocked = self.stats.preempted > 0;
        let mut index = 0;
        while self.token_budget > 0 {
            let waiting = self.waiting.first_key_value().map(|(key, _)| *key);
            let running = self.running.get(index).map(|sequence| sequence.key);
            let first = waiting.is_some_and(|waiting| running.is_none_or(|other| waiting < other));
            if first && !blocked {
                blocked = !self.start_first(index);
                // A started sequence is at `index` now.
                continue;
            }
            if running.is_none() {
                break;
            }
            let before = self.stats.preempted;
            self.schedule_prefill(index, self.limits.scheduler.prefill_chunk_max.get());
            blocked |= self.stats.preempted > before;
            index += 1;
        }
        let mut index = 0;
        while index < self.running.len() && self.token_budget > 0 {
            self.schedule_prefill(index, self.token_budget);
            index += 1;
        }
    }

    /// Schedules up to `chunk` rows of a prompt or a trunk, or of whole branches.
    fn schedule_prefill(&mut self, index: usize, chunk: usize) {
        let sequence = &self.running[index];
        if sequence.prefilled {
            return;
        }
        let rows = sequence.pending().min(chunk).min(self.token_budget);
        let rows = self.allocate_pages(index, rows);
        let rows = self.schedule_rows(index, rows);
        self.stats.prefill_tokens += rows;
        let mut left = chunk - rows;
        let mut first = rows == 0;
        while self.running[index].pending() == 0
            && let Some(rows) = self.running[index].next_branch()
            // A branch longer than a chunk is scheduled without others.
            && (rows <= left || first)
            && rows <= self.token_budget
        {
            let scheduled = &mut self.running[index].scheduled;
            scheduled.branches += 1;
            scheduled.branch_rows += rows;
            self.token_budget -= rows;
            self.stats.prefill_tokens += rows;
            left = left.saturating_sub(rows);
            first = false;
        }
    }

    fn schedule_rows(&mut self, index: usize, rows: usize) -> usize {
        self.running[index].scheduled.rows += rows;
        self.token_budget -= rows;
        rows
    }

    /// Starts the first waiting sequence, and inserts it into `running` at `index`. Returns false if `running_max` or
    /// the KV pages do not allow it.
    fn start_first(&mut self, index: usize) -> bool {
        let Some((_, mut sequence)) = self.waiting.pop_first() else { return false };
        let page_tokens = self.limits.runner.page_tokens;
        sequence.acquire_prefix(&mut self.pages, page_tokens);
        let Some(preemptions) = self.preemptions_to_start(&sequence) else {
            sequence.release(&mut self.pages);
            self.waiting.insert(sequence.key, sequence);
            return false;
        };
        (0..preemptions).for_each(|_| self.preempt_last());
        if !sequence.started {
            // A resumed sequence finds its own pages, which are no hits.
            self.stats.prefix_hit_tokens += sequence.block_table.len() * page_tokens;
            sequence.started = true;
            sequence.usage.cached_tokens = sequence.computed.min(sequence.prompt_len);
        }
        self.running.insert(index, sequence);
        true
    }

    /// The number of running sequences to preempt, so that a sequence can start. It has acquired its prefix already.
    /// `None` if preempting all less critical ones would not be enough.
    fn preemptions_to_start(&self, sequence: &Sequence) -> Option<usize> {
        let page_tokens = self.limits.runner.page_tokens;
        // Pages that a running sequence will still allocate for its tokens.
        let reserved = |other: &Sequence| {
            other.tokens.len().div_ceil(page_tokens).saturating_sub(other.block_table.len())
        };
        let mut needed = sequence.pages_to_start(page_tokens) - sequence.block_table.len();
        needed += self.running.iter().map(reserved).sum::<usize>();
        let mut available = self.pages.available();
        let mut slots = self.limits.scheduler.running_max.get() - self.running.len();
        let mut others = self.running.iter().rev();
        // A shared page becomes available once all its holders are preempted.
        let mut released = FxHashMap::default();
        let mut preemptions = 0;
        while needed > available || slots == 0 {
            let other = others.next()?;
            // Criticality is reversed in a key: the greater is less critical.
            if other.key.criticality <= sequence.key.criticality {
                return None;
            }
            for page in &other.block_table {
                let released = released.entry(*page).or_insert(0);
                *released += 1;
                available += usize::from(*released == self.pages.references(*page));
            }
            needed -= reserved(other);
            slots += 1;
            preemptions += 1;
        }
        Some(preemptions)
    }

    /// Allocates KV pages for more rows of a sequence, and preempts later sequences if necessary. Returns the number
    /// of rows that have pages.
    fn allocate_pages(&mut self, index: usize, rows: usize) -> usize {
        let page_tokens = self.limits.runner.page_tokens;
        loop {
            let sequence = &mut self.running[index];
            let end = sequence.computed + sequence.scheduled.rows;
            let capacity = sequence.block_table.len() * page_tokens;
            if capacity >= end + rows {
                return rows;
            }
            match self.pages.allocate() {
                Some(page) => sequence.block_table.push(page),
                None if index + 1 < self.running.len() => self.preempt_last(),
                None => return capacity - end,
            }
        }
    }

    /// Preempts the last running sequence: it releases its pages and waits.
    fn preempt_last(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        let rows = sequence.scheduled.all_rows();
        self.token_budget += rows;
        if sequence.prefilled {
            self.stats.decode_tokens -= rows;
        } else {
            self.stats.prefill_tokens -= rows;
        }
        self.stats.preempted += 1;
        sequence.release(&mut self.pages);
        self.waiting.insert(sequence.key, sequence);
    }

    /// Builds the batch of all scheduled sequences.
    pub(super) fn build_batch(&mut self) {
        self.batch.clear();
        for sequence in self.running.iter().filter(|sequence| !sequence.scheduled.is_none()) {
            add_to_batch(&mut self.batch, sequence, self.limits.runner, &self.pages);
        }
    }
}

/// Adds the scheduled rows and branches of a sequence to a batch.
fn add_to_batch(
    batch: &mut ForwardBatch,
    sequence: &Sequence,
    limits: RunnerLimits,
    pages: &KvPages,
) {
    let ScheduledTokens { rows, branches, .. } = sequence.scheduled;
    let (start, end) = (sequence.computed, sequence.computed + rows);
    let (first_page, page_end) = (start / limits.page_tokens, end.div_ceil(limits.page_tokens));
    debug_assert!(
        rows == 0 || (first_page..page_end).all(|at| pages.is_writable(sequence.block_table[at])),
        "shared pages are never written"
    );
    let block_table = batch.push_block_table(&sequence.block_table[..page_end]);
    if rows > 0 {
        batch.push_span(&sequence.tokens[start..end], block_table.clone(), start, false);
    }
    if sequence.predicts() {
        let output = next_token_output(batch, sequence, limits);
        batch.push_output(output);
    }
    let Some(weigh) = sequence.weigh().filter(|_| branches > 0) else { return };
    let output = match &weigh.output {
        BranchOutput::TokenLogits(tokens) => batch.token_logits(tokens),
        BranchOutput::HiddenState => OutputKind::HiddenState,
    };
    let next = sequence.branch_outputs.len();
    for branch in &weigh.branches[next..next + branches] {
        batch.push_span(branch, block_table.clone(), end, true);
        batch.push_output(output.clone());
    }
}

/// The output that the next token is sampled from: the logits of the allowed tokens, all logits, or, where the runner
/// can sample it, the token itself.
fn next_token_output(
    batch: &mut ForwardBatch,
    sequence: &Sequence,
    limits: RunnerLimits,
) -> OutputKind {
    match (sequence.constraint.allowed(), sequence.generate()) {
        (Allowed::Only(tokens), _) => batch.token_logits(tokens),
        (Allowed::AllBut(banned), Some(generate))
            if limits.samples_on_device
                && banned.len() <= BANNED_MAX
                && generate.sampling.is_untruncated(limits.vocabulary) =>
        {
            batch.sampled(&generate.sampling, sequence.sample_position(), banned)
        }
        (Allowed::AllBut(_), _) => OutputKind::FullLogits,
    }
}
