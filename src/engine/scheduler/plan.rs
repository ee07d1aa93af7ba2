//! Which rows does each sequence get?
//!
//! 1. Asks whose deadline has passed are dropped.
//! 2. Every text that goes on gets a row. More than one if tokens were forced, but all of them
//!    together never more than `running_max`, so prompts can count on the rest.
//! 3. The rest goes to prompts, trunks and branches, the most urgent first: critical work first,
//!    then by deadline, then by arrival. Each gets `prefill_chunk_max` at first, then what is left over is
//!    dealt out in the same order. Who waits is started on the way, if there is a place, and pages
//!    for everything that is known of it.
//!
//! When pages run out, the least urgent that runs gives up its own: what it knows stays known, and
//! is computed anew once there is room. Urgency is a total order that never changes, so the most
//! urgent always gets on, and nobody is started past somebody more urgent who waits. Those who wait
//! take pages or places only from work of lower criticality, so that equals do not push each other
//! to and fro.
//!
//! Within one criticality, work is overtaken only by earlier deadlines, and so not for ever; work
//! without one has its place among them as if its deadline were some seconds after its arrival.

use super::{RequestFailure, RequestId, Scheduler, Sequence, StepStats};
use crate::engine::constraint::Allowed;
use crate::engine::forward::{BANNED_MAX, ForwardBatch, OutputKind, RowOutput, SequenceSpan};
use crate::engine::request::BranchOutput;
use crate::engine::sampler::{SamplePosition, SamplingParams};
use crate::engine::sequence::ScheduledTokens;
use crate::nn::softmax::SampleSpec;
use rustc_hash::FxHashMap;
use std::ops::Range;
use tokio::time::Instant;

/// What a sequence does in a step, for those who watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedSequence {
    /// Its ask.
    pub id: RequestId,
    /// Which text of it.
    pub sample: usize,
    /// The tokens of it that are computed.
    pub tokens: Range<usize>,
    /// The branches of it that are.
    pub branches: Range<usize>,
    /// Whether it goes on, instead of being read.
    pub decodes: bool,
}

impl Scheduler {
    /// Chooses the next step: `None` if there is nothing to compute.
    pub fn plan(&mut self, now: Instant) -> Option<&ForwardBatch> {
        self.expire(now);
        self.tally = StepStats::default();
        self.rows_left = self.admission.shape.max_batched_tokens;
        self.running.iter_mut().for_each(|sequence| sequence.grant = ScheduledTokens::default());
        self.grant_decodes();
        self.grant_prompts();
        self.lay();
        (!self.step.spans.is_empty()).then_some(&self.step)
    }

    /// Who is in the step that was planned last.
    pub fn planned(&self) -> impl Iterator<Item = PlannedSequence> {
        let in_step = self.running.iter().filter(|sequence| !sequence.grant.is_none());
        in_step.map(|sequence| {
            let (from, branch) = (sequence.computed, sequence.weights.len());
            PlannedSequence {
                id: sequence.urgency.id,
                sample: sequence.urgency.sample,
                tokens: from..from + sequence.grant.rows,
                branches: branch..branch + sequence.grant.branches,
                decodes: sequence.warm,
            }
        })
    }

    /// Drops what nobody can use any more.
    fn expire(&mut self, now: Instant) {
        while let Some(&(deadline, id)) = self.due.first()
            && deadline <= now
        {
            self.fail(id, RequestFailure::DeadlineExceeded);
        }
    }

    /// Gives every text that goes on a row, and more to those with forced tokens.
    fn grant_decodes(&mut self) {
        let decoding = self.running.iter().filter(|sequence| sequence.warm).count();
        let mut extra = self.admission.limits.running_max.get() - decoding;
        let mut index = 0;
        while index < self.running.len() {
            if self.running[index].warm {
                let rows = self.running[index].pending().min(1 + extra);
                let rows = self.make_room(index, rows);
                if rows == 0 {
                    // It is the least urgent itself.
                    self.preempt();
                    break;
                }
                let rows = self.grant_rows(index, rows);
                extra -= rows - 1;
                self.tally.decode_tokens += rows;
            }
            index += 1;
        }
    }

    /// Deals the rest of the rows out, and starts those who wait.
    fn grant_prompts(&mut self) {
        // Who just lost their pages would be the first to want them back.
        let mut blocked = self.tally.preempted > 0;
        let mut index = 0;
        while self.rows_left > 0 {
            let waiting = self.waiting.first_key_value().map(|(urgency, _)| *urgency);
            let running = self.running.get(index).map(|sequence| sequence.urgency);
            let first = waiting.is_some_and(|waiting| running.is_none_or(|other| waiting < other));
            if first && !blocked {
                blocked = !self.start(index);
                // If it was started, it stands at the index now.
                continue;
            }
            if running.is_none() {
                break;
            }
            let before = self.tally.preempted;
            self.grant_prompt(index, self.admission.limits.prefill_chunk_max.get());
            blocked |= self.tally.preempted > before;
            index += 1;
        }
        let mut index = 0;
        while index < self.running.len() && self.rows_left > 0 {
            self.grant_prompt(index, self.rows_left);
            index += 1;
        }
    }

    /// Grants up to `share` rows of a prompt, a trunk, or whole branches.
    fn grant_prompt(&mut self, index: usize, share: usize) {
        let sequence = &self.running[index];
        if sequence.warm {
            return;
        }
        let rows = sequence.pending().min(share).min(self.rows_left);
        let rows = self.make_room(index, rows);
        let rows = self.grant_rows(index, rows);
        self.tally.prefill_tokens += rows;
        let mut left = share - rows;
        let mut whole = rows == 0;
        while self.running[index].pending() == 0
            && let Some(rows) = self.running[index].next_branch()
            // A branch that is longer than a share goes alone.
            && (rows <= left || whole)
            && rows <= self.rows_left
        {
            let grant = &mut self.running[index].grant;
            grant.branches += 1;
            grant.branch_rows += rows;
            self.rows_left -= rows;
            self.tally.prefill_tokens += rows;
            left = left.saturating_sub(rows);
            whole = false;
        }
    }

    fn grant_rows(&mut self, index: usize, rows: usize) -> usize {
        self.running[index].grant.rows += rows;
        self.rows_left -= rows;
        rows
    }

    /// Puts the most urgent of those who wait at `index` among the running, if there is a place and
    /// pages for all that is known of it.
    fn start(&mut self, index: usize) -> bool {
        let Some((_, mut sequence)) = self.waiting.pop_first() else { return false };
        let page_tokens = self.admission.shape.page_tokens;
        sequence.find(&mut self.pages, page_tokens);
        let Some(yielding) = self.yielding(&sequence) else {
            sequence.release(&mut self.pages);
            self.waiting.insert(sequence.urgency, sequence);
            return false;
        };
        (0..yielding).for_each(|_| self.preempt());
        if !sequence.started {
            // What it finds when it is started again was its own.
            self.tally.hit_tokens += sequence.table.len() * page_tokens;
            sequence.started = true;
            sequence.usage.cached_tokens = sequence.computed.min(sequence.prompt);
        }
        self.running.insert(index, sequence);
        true
    }

    /// How many of those that run would have to give up their places and pages for a sequence, which
    /// has taken hold of the pages that there are already. Only work of lower criticality does, and
    /// only if it is enough: otherwise `None`.
    fn yielding(&self, sequence: &Sequence) -> Option<usize> {
        let page_tokens = self.admission.shape.page_tokens;
        let promised = |other: &Sequence| {
            other.known.len().div_ceil(page_tokens).saturating_sub(other.table.len())
        };
        let mut wanted = sequence.pages_wanted(page_tokens) - sequence.table.len();
        wanted += self.running.iter().map(promised).sum::<usize>();
        let mut available = self.pages.available();
        let mut places = self.admission.limits.running_max.get() - self.running.len();
        let mut others = self.running.iter().rev();
        // Pages that several hold are free once all of them have yielded.
        let mut given = FxHashMap::default();
        let mut yielding = 0;
        while wanted > available || places == 0 {
            let other = others.next()?;
            // Criticalities are reversed: the greater yields.
            if other.urgency.criticality <= sequence.urgency.criticality {
                return None;
            }
            for page in &other.table {
                let given = given.entry(*page).or_insert(0);
                *given += 1;
                available += usize::from(*given == self.pages.holders(*page));
            }
            wanted -= promised(other);
            places += 1;
            yielding += 1;
        }
        Some(yielding)
    }

    /// Takes pages for more rows of a sequence, from less urgent ones if need be. Says for how many
    /// rows there are pages.
    fn make_room(&mut self, index: usize, rows: usize) -> usize {
        let page_tokens = self.admission.shape.page_tokens;
        loop {
            let sequence = &mut self.running[index];
            let end = sequence.computed + sequence.grant.rows;
            let held = sequence.table.len() * page_tokens;
            if held >= end + rows {
                return rows;
            }
            match self.pages.take() {
                Some(page) => sequence.table.push(page),
                None if index + 1 < self.running.len() => self.preempt(),
                None => return held - end,
            }
        }
    }

    /// Takes the pages of the least urgent that runs.
    fn preempt(&mut self) {
        let Some(mut sequence) = self.running.pop() else { return };
        let rows = sequence.grant.all_rows();
        self.rows_left += rows;
        if sequence.warm {
            self.tally.decode_tokens -= rows;
        } else {
            self.tally.prefill_tokens -= rows;
        }
        self.tally.preempted += 1;
        sequence.release(&mut self.pages);
        self.waiting.insert(sequence.urgency, sequence);
    }

    /// Lays out what was granted.
    pub(super) fn lay(&mut self) {
        let Self { running, step, admission, pages, .. } = self;
        step.clear();
        for sequence in running.iter().filter(|sequence| !sequence.grant.is_none()) {
            let ScheduledTokens { rows, branches, .. } = sequence.grant;
            let (from, end) = (sequence.computed, sequence.computed + rows);
            let shape = admission.shape;
            let page_tokens = shape.page_tokens;
            debug_assert!(
                rows == 0
                    || (from / page_tokens..end.div_ceil(page_tokens))
                        .all(|at| pages.is_writable(sequence.table[at])),
                "shared pages are never written"
            );
            let table = step.pages.len();
            step.pages.extend_from_slice(&sequence.table[..end.div_ceil(page_tokens)]);
            let table = table..step.pages.len();
            if rows > 0 {
                step.push(&sequence.known[from..end], table.clone(), from, false);
            }
            if sequence.reads() {
                let what = match sequence.constraint.allowed() {
                    Allowed::Only(tokens) => step.choose(tokens),
                    Allowed::AllBut(banned) => {
                        let sampling = sequence.generate().map(|generate| &generate.sampling);
                        let drawn = sampling.filter(|sampling| {
                            shape.samples_on_device
                                && banned.len() <= BANNED_MAX
                                && sampling.is_of_all(shape.vocabulary)
                        });
                        drawn.map_or(OutputKind::FullLogits, |sampling| {
                            step.draw(sampling, sequence.place(), banned)
                        })
                    }
                };
                step.read(what);
            }
            let Some(weigh) = sequence.weigh().filter(|_| branches > 0) else { continue };
            let what = match &weigh.output {
                BranchOutput::TokenLogits(tokens) => step.choose(tokens),
                BranchOutput::HiddenState => OutputKind::HiddenState,
            };
            let next = sequence.weights.len();
            for branch in &weigh.branches[next..next + branches] {
                step.push(branch, table.clone(), end, true);
                step.read(what.clone());
            }
        }
    }
}

// === impl ForwardBatch ===

impl ForwardBatch {
    fn clear(&mut self) {
        let Self { tokens, spans, pages, outputs, logit_tokens, draws, banned } = self;
        tokens.clear();
        spans.clear();
        pages.clear();
        outputs.clear();
        logit_tokens.clear();
        draws.clear();
        banned.clear();
    }

    fn push(&mut self, tokens: &[u32], pages: Range<usize>, past: usize, branch: bool) {
        let from = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.spans.push(SequenceSpan { rows: from..self.tokens.len(), pages, past, branch });
    }

    fn choose(&mut self, tokens: &[u32]) -> OutputKind {
        let from = self.logit_tokens.len();
        self.logit_tokens.extend_from_slice(tokens);
        OutputKind::TokenLogits(from..self.logit_tokens.len())
    }

    /// Asks whoever computes the logits to draw.
    fn draw(
        &mut self,
        sampling: &SamplingParams,
        place: SamplePosition,
        banned: &[u32],
    ) -> OutputKind {
        let from = self.banned.len();
        self.banned.extend_from_slice(banned);
        let temperature = sampling.temperature;
        let chance = if temperature > 0.0 { sampling.chance(place) } else { 0.0 };
        self.draws.push(SampleSpec { temperature, chance, banned: from..self.banned.len() });
        OutputKind::Sampled(self.draws.len() - 1)
    }

    /// Wants something of the last row so far.
    fn read(&mut self, what: OutputKind) {
        self.outputs.push(RowOutput { row: self.tokens.len() - 1, kind: what });
    }
}
