//! Who is in the next step?
//!
//! The scheduler knows tokens, pages and deadlines, and neither tensors nor clocks: `now` is handed
//! in. Whoever drives it calls [`plan`](Scheduler::plan), has the step computed, and calls
//! [`commit`](Scheduler::commit); what became of the asks lies in [`outputs`](Scheduler::outputs).
//!
//! What it chooses decides when an answer comes, never what the answer is.

mod plan;

use super::forward::{ForwardBatch, ForwardOutput, OutputKind, RunnerLimits};
use super::kv_pages::{KvPageCounts, KvPages};
use super::request::{Admission, EngineRequest, Rejection, SchedulerConfig, SchedulerConfigError};
use super::response::{EngineEvent, FinishReason, RequestFailure};
use super::sampler::{SampleError, Sampler};
use super::sequence::{ScheduledTokens, SchedulingKey, Sequence};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use std::vec;
use tokio::time::Instant;

pub use plan::PlannedSequence;

/// Work without a deadline goes before work whose deadline is further off than this, so it too is
/// overtaken only for so long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An ask that was admitted, numbered by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something that became of an ask.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestEvent {
    /// The ask.
    pub id: RequestId,
    /// What became of it.
    pub event: EngineEvent,
    /// Whether nothing more will.
    pub last: bool,
}

/// The work at hand.
#[derive(Debug)]
pub struct Scheduler {
    admission: Admission,
    pages: KvPages,
    asks: FxHashMap<RequestId, ActiveRequest>,
    /// Asks that have a deadline.
    due: BTreeSet<(Instant, RequestId)>,
    /// Sequences that hold no page.
    waiting: BTreeMap<SchedulingKey, Sequence>,
    /// Sequences that hold pages, the most urgent first.
    running: Vec<Sequence>,
    sampler: Sampler,
    step: ForwardBatch,
    rows_left: usize,
    /// Sequences that a step may have, after it turned out that more are too many.
    at_once: usize,
    tally: StepStats,
    outputs: Vec<RequestEvent>,
    failing: Vec<(RequestId, SampleError)>,
    next_id: u64,
    /// Sequences that are held.
    held: usize,
}

#[derive(Debug)]
struct ActiveRequest {
    ask: Arc<EngineRequest>,
    /// Sequences that are not done.
    open: usize,
    /// Samples that wait for the eldest to compute the prompt that they share.
    younger: Vec<Sequence>,
}

/// How much is at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerLoad {
    /// Sequences that hold pages.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// Pages by state.
    pub pages: KvPageCounts,
}

/// What the last plan came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepStats {
    /// Rows of prompts, trunks and branches.
    pub prefill_tokens: usize,
    /// Rows of texts that go on.
    pub decode_tokens: usize,
    /// Tokens that were found in pages instead.
    pub hit_tokens: usize,
    /// Sequences that lost their pages to more urgent ones.
    pub preempted: usize,
}

// === impl Scheduler ===

impl Scheduler {
    /// A scheduler for a runner of this shape.
    pub fn new(shape: RunnerLimits, limits: SchedulerConfig) -> Result<Self, SchedulerConfigError> {
        Ok(Self {
            admission: Admission::new(shape, limits)?,
            pages: KvPages::new(shape.pages),
            asks: FxHashMap::default(),
            due: BTreeSet::new(),
            waiting: BTreeMap::new(),
            running: Vec::with_capacity(limits.running_max.get()),
            sampler: Sampler::default(),
            step: ForwardBatch::default(),
            rows_left: 0,
            at_once: usize::MAX,
            tally: StepStats::default(),
            outputs: Vec::new(),
            failing: Vec::new(),
            next_id: 0,
            held: 0,
        })
    }

    /// What is taken on.
    pub(super) fn admission(&self) -> Admission {
        self.admission
    }

    /// Takes an ask on that arrived at `now`, unless it could never be done or there is no room.
    pub fn admit(&mut self, ask: EngineRequest, now: Instant) -> Result<RequestId, Rejection> {
        self.admission.check(&ask)?;
        let (sequences, max) = (ask.sequences(), self.admission.limits.sequences_max());
        if self.held + sequences > max {
            return Err(Rejection::Full(max));
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.held += sequences;
        if let Some(deadline) = ask.priority.deadline {
            self.due.insert((deadline.instant(), id));
        }
        let ask = Arc::new(ask);
        let asked = ActiveRequest { ask: ask.clone(), open: sequences, younger: Vec::new() };
        self.asks.insert(id, asked);
        let mut younger = Vec::new();
        for sample in 0..sequences {
            let mut sequence = Sequence::new(&ask, SchedulingKey::of(&ask, now, id, sample));
            match self.write_forced(&mut sequence) {
                Some(why) => self.finish(&sequence, why),
                None if sample == 0 => drop(self.waiting.insert(sequence.urgency, sequence)),
                None => younger.push(sequence),
            }
        }
        if let Some(asked) = self.asks.get_mut(&id) {
            asked.younger = younger;
        }
        Ok(id)
    }

    /// Stops work on an ask, and says nothing more about it.
    pub fn abort(&mut self, id: RequestId) {
        let Some(asked) = self.asks.remove(&id) else { return };
        self.held -= asked.open;
        if let Some(deadline) = asked.ask.priority.deadline {
            self.due.remove(&(deadline.instant(), id));
        }
        self.waiting.retain(|urgency, _| urgency.id != id);
        let Self { running, pages, .. } = self;
        running.retain_mut(|sequence| {
            let stays = sequence.urgency.id != id;
            if !stays {
                sequence.release(pages);
            }
            stays
        });
        self.outputs.retain(|output| output.id != id);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.asks.is_empty()
    }

    /// Whether a sequence of an ask runs.
    pub fn is_running(&self, id: RequestId) -> bool {
        self.running.iter().any(|sequence| sequence.urgency.id == id)
    }

    /// What became of asks since this was last called.
    pub fn outputs(&mut self) -> vec::Drain<'_, RequestEvent> {
        self.outputs.drain(..)
    }

    /// How much is at hand.
    pub fn load(&self) -> SchedulerLoad {
        let running = self.running.len();
        SchedulerLoad { running, waiting: self.held - running, pages: self.pages.counts() }
    }

    /// What the last plan came to.
    pub fn tally(&self) -> StepStats {
        self.tally
    }

    /// The step at hand.
    pub fn step(&self) -> &ForwardBatch {
        &self.step
    }

    /// Puts the less urgent half of the sequences in the step off, and lays the other one out. Says whether there
    /// was more than one: if not, all stays as it is.
    pub fn halve(&mut self) -> bool {
        let in_step = |sequence: &Sequence| !sequence.grant.is_none();
        let count = self.running.iter().filter(|sequence| in_step(sequence)).count();
        if count < 2 {
            return false;
        }
        let half =
            self.running.iter_mut().filter(|sequence| in_step(sequence)).skip(count.div_ceil(2));
        half.for_each(|sequence| sequence.postponed = mem::take(&mut sequence.grant));
        self.at_once = count.div_ceil(2);
        self.lay();
        true
    }

    /// Lays out the most urgent of those that were put off, as many as the step before had at most. Says
    /// whether there are any.
    pub fn resume(&mut self) -> bool {
        let postponed = self.running.iter_mut().filter(|sequence| !sequence.postponed.is_none());
        let next = postponed.take(self.at_once);
        next.for_each(|sequence| sequence.grant = mem::take(&mut sequence.postponed));
        self.lay();
        !self.step.spans.is_empty()
    }

    /// Takes in what the model answered to the step at hand.
    pub fn commit(&mut self, answers: &ForwardOutput) {
        assert_eq!(answers.len(), self.step.outputs.len(), "the model answers every read");
        let mut running = mem::take(&mut self.running);
        let mut read = 0;
        for sequence in &mut running {
            if !sequence.grant.is_none() {
                let reads = sequence.reads();
                self.commit_rows(sequence);
                if sequence.weigh().is_some() {
                    self.commit_branches(sequence, answers, &mut read);
                } else if reads {
                    self.commit_token(sequence, answers, read);
                    read += 1;
                }
                sequence.grant = ScheduledTokens::default();
            }
        }
        running.retain(|sequence| !sequence.ended);
        self.running = running;
        while let Some((id, error)) = self.failing.pop() {
            self.fail(id, RequestFailure::Sample(error));
        }
    }

    /// Ends every ask of the step at hand, because the model could not be run.
    pub fn fail_step(&mut self, failure: &RequestFailure) {
        let in_step = self.running.iter().filter(|sequence| !sequence.grant.is_none());
        let mut ids: Vec<_> = in_step.map(|sequence| sequence.urgency.id).collect();
        ids.dedup();
        for id in ids {
            self.fail(id, failure.clone());
        }
    }

    /// Ends every ask, because the model will never be run again.
    pub fn fail_all(&mut self, failure: &RequestFailure) {
        let mut ids: Vec<_> = self.asks.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.fail(id, failure.clone());
        }
    }

    /// Asserts what holds between steps.
    pub fn settle(&self) {
        let younger: usize = self.asks.values().map(|asked| asked.younger.len()).sum();
        let found = self.running.len() + self.waiting.len() + younger;
        assert_eq!(found, self.held, "every sequence is somewhere");
        if self.is_idle() {
            assert_eq!(self.pages.counts().held, 0, "idle, and nobody holds a page");
        }
        if cfg!(debug_assertions) {
            let tables = self.running.iter().flat_map(|sequence| &sequence.table);
            self.pages.audit(tables.copied());
            assert!(self.running.is_sorted_by(|a, b| a.urgency < b.urgency));
            assert!(self.waiting.values().all(|sequence| sequence.table.is_empty()));
        }
    }

    /// Counts the rows that were computed, names the pages that they filled, and lets the other
    /// samples of a prompt begin once it is computed.
    fn commit_rows(&mut self, sequence: &mut Sequence) {
        let before = sequence.computed;
        sequence.computed += mem::take(&mut sequence.grant.rows);
        sequence.name_full(before, &mut self.pages, self.admission.shape.page_tokens);
        if sequence.generate().is_some() && !sequence.warm && sequence.pending() == 0 {
            sequence.warm = true;
            let asked = self.asks.get_mut(&sequence.urgency.id);
            let younger = asked.into_iter().flat_map(|asked| asked.younger.drain(..));
            self.waiting.extend(younger.map(|younger| (younger.urgency, younger)));
        }
    }

    /// Draws the next token, unless that is done, and ends the text if it was the last.
    fn commit_token(&mut self, sequence: &mut Sequence, answers: &ForwardOutput, read: usize) {
        let Some(generate) = sequence.generate() else { return };
        let drawn = if let OutputKind::Sampled(draw) = self.step.outputs[read].kind {
            answers.sampled[draw]
        } else {
            let (logits, allowed) = (answers.get(read), sequence.constraint.allowed());
            self.sampler.draw(logits, allowed, &generate.sampling, sequence.place())
        };
        let drawn = match drawn {
            Ok(drawn) => drawn,
            Err(error) => return self.failing.push((sequence.urgency.id, error)),
        };
        let ends = sequence.constraint.is_free() && generate.stop_tokens.contains(&drawn.token);
        self.append(sequence, drawn.token, drawn.logprob);
        let why = if ends { Some(FinishReason::Stop) } else { self.write_forced(sequence) };
        if let Some(why) = why {
            self.end(sequence, why);
        }
    }

    /// Takes in the branches, and ends the ask after the last.
    fn commit_branches(
        &mut self,
        sequence: &mut Sequence,
        answers: &ForwardOutput,
        read: &mut usize,
    ) {
        for _ in 0..sequence.grant.branches {
            sequence.weights.push(answers.get(*read).to_vec());
            *read += 1;
        }
        sequence.usage.generated_tokens += sequence.grant.branch_rows;
        sequence.grant.branches = 0;
        if sequence.next_branch().is_none() {
            let weights = mem::take(&mut sequence.weights);
            let id = sequence.urgency.id;
            self.outputs.push(RequestEvent {
                id,
                event: EngineEvent::Weighed(weights),
                last: false,
            });
            self.end(sequence, FinishReason::Stop);
        }
    }

    /// Writes the tokens that the constraint leaves no choice about. Says why the text is done, if
    /// it is.
    fn write_forced(&mut self, sequence: &mut Sequence) -> Option<FinishReason> {
        let tokens_max = sequence.generate()?.tokens_max;
        loop {
            if sequence.constraint.is_done() {
                return Some(FinishReason::Stop);
            }
            if sequence.known.len() - sequence.prompt == tokens_max {
                return Some(FinishReason::Length);
            }
            let token = sequence.constraint.forced()?;
            sequence.usage.forced_tokens += 1;
            self.append(sequence, token, 0.0);
        }
    }

    fn append(&mut self, sequence: &mut Sequence, token: u32, logprob: f32) {
        sequence.constraint.advance(token).expect("only what is allowed is drawn or forced");
        sequence.known.push(token);
        sequence.usage.generated_tokens += 1;
        let SchedulingKey { id, sample, .. } = sequence.urgency;
        let event = EngineEvent::Token { sample, token, logprob };
        self.outputs.push(RequestEvent { id, event, last: false });
    }

    /// Ends a sequence that runs.
    fn end(&mut self, sequence: &mut Sequence, why: FinishReason) {
        sequence.release(&mut self.pages);
        sequence.ended = true;
        self.finish(sequence, why);
    }

    /// Says that a sequence is done, and closes its ask if it was the last.
    fn finish(&mut self, sequence: &Sequence, why: FinishReason) {
        let SchedulingKey { id, sample, .. } = sequence.urgency;
        let asked = self.asks.get_mut(&id).expect("a sequence ends before its ask does");
        asked.open -= 1;
        self.held -= 1;
        let last = asked.open == 0;
        if last {
            if let Some(deadline) = asked.ask.priority.deadline {
                self.due.remove(&(deadline.instant(), id));
            }
            self.asks.remove(&id);
        }
        let event = EngineEvent::Done { sample, finish_reason: why, usage: sequence.usage };
        self.outputs.push(RequestEvent { id, event, last });
    }

    /// Ends an ask that cannot be done. What was said about it stays said.
    fn fail(&mut self, id: RequestId, failure: RequestFailure) {
        if self.asks.contains_key(&id) {
            let said = mem::take(&mut self.outputs);
            self.abort(id);
            self.outputs = said;
            self.outputs.push(RequestEvent { id, event: EngineEvent::Failed(failure), last: true });
        }
    }
}
