//! Which sequences does the next step compute?
//!
//! The scheduler knows tokens, KV pages and deadlines, but neither tensors nor clocks: the caller passes `now`. The
//! caller calls [`plan`](Scheduler::plan), computes the batch, and passes its output to
//! [`commit`](Scheduler::commit). [`events`](Scheduler::events) then returns the events for the callers.
//!
//! A plan decides when an answer comes, never what the answer is.

mod plan;

use super::forward::{ForwardBatch, ForwardOutput, OutputKind, RunnerLimits};
use super::kv_pages::{KvPageCounts, KvPages};
use super::priority::SchedulingKey;
use super::request::{
    AdmissionLimits, EngineRequest, Rejection, SchedulerConfig, SchedulerConfigError,
};
use super::response::{EngineEvent, FinishReason, RequestFailure};
use super::sampler::{SampleError, Sampler};
use super::sequence::{ScheduledTokens, Sequence};
use rustc_hash::FxHashMap;
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::vec;
use tokio::time::Instant;

pub use super::priority::{IMPLICIT_DEADLINE, RequestId};
pub use plan::PlannedSequence;

/// An event of one request.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestEvent {
    /// The request.
    pub id: RequestId,
    /// The event.
    pub event: EngineEvent,
    /// Whether it is the request's last.
    pub last: bool,
}

/// The admitted requests, their sequences and their KV pages.
#[derive(Debug)]
pub struct Scheduler {
    limits: AdmissionLimits,
    pages: KvPages,
    requests: FxHashMap<RequestId, ActiveRequest>,
    /// Requests with a deadline, the earliest first.
    deadlines: BTreeSet<(Instant, RequestId)>,
    /// Sequences without KV pages.
    waiting: BTreeMap<SchedulingKey, Sequence>,
    /// Sequences with KV pages, in the order of their keys.
    running: Vec<Sequence>,
    sampler: Sampler,
    batch: ForwardBatch,
    /// Rows of the batch that are not scheduled yet.
    token_budget: usize,
    /// Sequences of a batch at most, after a larger batch of this step lacked memory.
    split_max: usize,
    stats: StepStats,
    events: Vec<RequestEvent>,
    sample_errors: Vec<(RequestId, SampleError)>,
    next_id: u64,
    /// Sequences that are not finished.
    sequences: usize,
}

#[derive(Debug)]
struct ActiveRequest {
    request: Arc<EngineRequest>,
    /// Sequences that are not finished.
    unfinished: usize,
    /// Samples that wait until the first has computed the prompt, to find it in the prefix cache.
    waiting_samples: Vec<Sequence>,
}

/// The scheduler's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerLoad {
    /// Sequences that hold KV pages.
    pub running: usize,
    /// Sequences that wait.
    pub waiting: usize,
    /// KV pages by state.
    pub pages: KvPageCounts,
}

/// Counts of the last plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepStats {
    /// Rows of prompts, trunks and branches.
    pub prefill_tokens: usize,
    /// Rows of decodes.
    pub decode_tokens: usize,
    /// Tokens that the prefix cache held.
    pub prefix_hit_tokens: usize,
    /// Preempted sequences.
    pub preempted: usize,
}

// === impl Scheduler ===

impl Scheduler {
    /// A scheduler for a runner with these limits.
    pub fn new(
        runner: RunnerLimits,
        config: SchedulerConfig,
    ) -> Result<Self, SchedulerConfigError> {
        Ok(Self {
            limits: AdmissionLimits::new(runner, config)?,
            pages: KvPages::new(runner.kv_pages),
            requests: FxHashMap::default(),
            deadlines: BTreeSet::new(),
            waiting: BTreeMap::new(),
            running: Vec::with_capacity(config.running_max.get()),
            sampler: Sampler::default(),
            batch: ForwardBatch::default(),
            token_budget: 0,
            split_max: usize::MAX,
            stats: StepStats::default(),
            events: Vec::new(),
            sample_errors: Vec::new(),
            next_id: 0,
            sequences: 0,
        })
    }

    /// The limits that requests are checked against.
    pub(super) fn limits(&self) -> AdmissionLimits {
        self.limits
    }

    /// Admits a request that arrived at `now`, or rejects it: it is beyond the limits, or the scheduler is full.
    pub fn admit(&mut self, request: EngineRequest, now: Instant) -> Result<RequestId, Rejection> {
        self.limits.check(&request)?;
        let (sequences, max) = (request.sequences(), self.limits.scheduler.sequences_max());
        if self.sequences + sequences > max {
            return Err(Rejection::Full(max));
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        self.sequences += sequences;
        if let Some(deadline) = request.priority.deadline {
            self.deadlines.insert((deadline.instant(), id));
        }
        let request = Arc::new(request);
        let active = ActiveRequest {
            request: request.clone(),
            unfinished: sequences,
            waiting_samples: Vec::new(),
        };
        self.requests.insert(id, active);
        let mut waiting_samples = Vec::new();
        for sample in 0..sequences {
            let key = SchedulingKey::new(request.priority, now, id, sample);
            let mut sequence = Sequence::new(&request, key);
            match self.append_forced(&mut sequence) {
                Some(reason) => self.send_done(&sequence, reason),
                None if sample == 0 => drop(self.waiting.insert(key, sequence)),
                None => waiting_samples.push(sequence),
            }
        }
        if let Some(active) = self.requests.get_mut(&id) {
            active.waiting_samples = waiting_samples;
        }
        Ok(id)
    }

    /// Aborts a request. It causes no further event.
    pub fn abort(&mut self, id: RequestId) {
        let Some(active) = self.requests.remove(&id) else { return };
        self.sequences -= active.unfinished;
        if let Some(deadline) = active.request.priority.deadline {
            self.deadlines.remove(&(deadline.instant(), id));
        }
        self.waiting.retain(|key, _| key.id != id);
        let Self { running, pages, .. } = self;
        running.retain_mut(|sequence| {
            let stays = sequence.key.id != id;
            if !stays {
                sequence.release(pages);
            }
            stays
        });
        self.events.retain(|event| event.id != id);
    }

    /// Whether there is no request.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty()
    }

    /// Whether a sequence of a request is running.
    pub fn is_running(&self, id: RequestId) -> bool {
        self.running.iter().any(|sequence| sequence.key.id == id)
    }

    /// The events since the last call.
    pub fn events(&mut self) -> vec::Drain<'_, RequestEvent> {
        self.events.drain(..)
    }

    /// The load.
    pub fn load(&self) -> SchedulerLoad {
        let running = self.running.len();
        SchedulerLoad { running, waiting: self.sequences - running, pages: self.pages.counts() }
    }

    /// The counts of the last plan.
    pub fn stats(&self) -> StepStats {
        self.stats
    }

    /// The batch to compute.
    pub fn batch(&self) -> &ForwardBatch {
        &self.batch
    }

    /// Postpones the second half of the batch's sequences, and builds a batch of the first. Returns false, and
    /// changes nothing, if the batch has only one sequence.
    pub fn split_batch(&mut self) -> bool {
        let in_batch = |sequence: &Sequence| !sequence.scheduled.is_none();
        let count = self.running.iter().filter(|sequence| in_batch(sequence)).count();
        if count < 2 {
            return false;
        }
        let half =
            self.running.iter_mut().filter(|sequence| in_batch(sequence)).skip(count.div_ceil(2));
        half.for_each(|sequence| sequence.postponed = mem::take(&mut sequence.scheduled));
        self.split_max = count.div_ceil(2);
        self.build_batch();
        true
    }

    /// Builds a batch of the next postponed sequences, as many as the last split allows. Returns false if there is
    /// none.
    pub fn next_split(&mut self) -> bool {
        let postponed = self.running.iter_mut().filter(|sequence| !sequence.postponed.is_none());
        let next = postponed.take(self.split_max);
        next.for_each(|sequence| sequence.scheduled = mem::take(&mut sequence.postponed));
        self.build_batch();
        !self.batch.spans.is_empty()
    }

    /// Applies the output of the batch.
    pub fn commit(&mut self, output: &ForwardOutput) {
        assert_eq!(output.len(), self.batch.outputs.len(), "the runner computes every output");
        let mut running = mem::take(&mut self.running);
        let mut next = 0;
        for sequence in &mut running {
            if !sequence.scheduled.is_none() {
                let predicts = sequence.predicts();
                self.commit_rows(sequence);
                if sequence.weigh().is_some() {
                    self.commit_branches(sequence, output, &mut next);
                } else if predicts {
                    self.commit_token(sequence, output, next);
                    next += 1;
                }
                sequence.scheduled = ScheduledTokens::default();
            }
        }
        running.retain(|sequence| !sequence.finished);
        self.running = running;
        while let Some((id, error)) = self.sample_errors.pop() {
            self.fail(id, RequestFailure::Sample(error));
        }
    }

    /// Fails every request of the batch, after its forward pass failed.
    pub fn fail_batch(&mut self, failure: &RequestFailure) {
        let in_batch = self.running.iter().filter(|sequence| !sequence.scheduled.is_none());
        let mut ids: Vec<_> = in_batch.map(|sequence| sequence.key.id).collect();
        ids.dedup();
        for id in ids {
            self.fail(id, failure.clone());
        }
    }

    /// Fails every request, after the device was lost.
    pub fn fail_all(&mut self, failure: &RequestFailure) {
        let mut ids: Vec<_> = self.requests.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.fail(id, failure.clone());
        }
    }

    /// Asserts the invariants that hold between steps.
    pub fn assert_invariants(&self) {
        let samples: usize = self.requests.values().map(|r| r.waiting_samples.len()).sum();
        let found = self.running.len() + self.waiting.len() + samples;
        assert_eq!(found, self.sequences, "no sequence is lost");
        if self.is_idle() {
            assert_eq!(self.pages.counts().held, 0, "an idle scheduler holds no page");
        }
        if cfg!(debug_assertions) {
            let tables = self.running.iter().flat_map(|sequence| &sequence.block_table);
            self.pages.audit(tables.copied());
            assert!(self.running.is_sorted_by(|a, b| a.key < b.key));
            assert!(self.waiting.values().all(|sequence| sequence.block_table.is_empty()));
        }
    }

    /// Counts the computed rows, publishes the pages that they filled, and lets the other samples of a prompt start
    /// once it is computed.
    fn commit_rows(&mut self, sequence: &mut Sequence) {
        let before = sequence.computed;
        sequence.computed += mem::take(&mut sequence.scheduled.rows);
        sequence.publish_full_pages(before, &mut self.pages, self.limits.runner.page_tokens);
        if sequence.generate().is_some() && !sequence.prefilled && sequence.pending() == 0 {
            sequence.prefilled = true;
            let active = self.requests.get_mut(&sequence.key.id);
            let samples = active.into_iter().flat_map(|active| active.waiting_samples.drain(..));
            self.waiting.extend(samples.map(|sample| (sample.key, sample)));
        }
    }

    /// Samples the next token unless the runner has, appends it, and ends the sequence if it was the last.
    fn commit_token(&mut self, sequence: &mut Sequence, output: &ForwardOutput, index: usize) {
        let Some(generate) = sequence.generate() else { return };
        let sampled = if let OutputKind::Sampled(sample) = self.batch.outputs[index].kind {
            output.sampled[sample]
        } else {
            let (logits, allowed) = (output.get(index), sequence.constraint.allowed());
            self.sampler.sample(logits, allowed, &generate.sampling, sequence.sample_position())
        };
        let sampled = match sampled {
            Ok(sampled) => sampled,
            Err(error) => return self.sample_errors.push((sequence.key.id, error)),
        };
        let stops = sequence.constraint.accepts_stop_token()
            && generate.stop_tokens.contains(&sampled.token);
        self.append(sequence, sampled.token, sampled.logprob);
        let reason = if stops { Some(FinishReason::Stop) } else { self.append_forced(sequence) };
        if let Some(reason) = reason {
            self.finish(sequence, reason);
        }
    }

    /// Takes the outputs of the computed branches, and ends the request after the last.
    fn commit_branches(
        &mut self,
        sequence: &mut Sequence,
        output: &ForwardOutput,
        next: &mut usize,
    ) {
        for _ in 0..sequence.scheduled.branches {
            sequence.branch_outputs.push(output.get(*next).to_vec());
            *next += 1;
        }
        sequence.usage.generated_tokens += sequence.scheduled.branch_rows;
        sequence.scheduled.branches = 0;
        if sequence.next_branch().is_none() {
            let event = EngineEvent::Weighed(mem::take(&mut sequence.branch_outputs));
            self.events.push(RequestEvent { id: sequence.key.id, event, last: false });
            self.finish(sequence, FinishReason::Stop);
        }
    }

    /// Appends the tokens that the constraint forces. Returns the reason if the sequence is complete.
    fn append_forced(&mut self, sequence: &mut Sequence) -> Option<FinishReason> {
        let tokens_max = sequence.generate()?.tokens_max;
        loop {
            if sequence.constraint.is_done() {
                return Some(FinishReason::Stop);
            }
            if sequence.generated() == tokens_max {
                return Some(FinishReason::Length);
            }
            let token = sequence.constraint.forced()?;
            sequence.usage.forced_tokens += 1;
            self.append(sequence, token, 0.0);
        }
    }

    fn append(&mut self, sequence: &mut Sequence, token: u32, logprob: f32) {
        sequence.constraint.advance(token).expect("sampled and forced tokens are allowed");
        sequence.tokens.push(token);
        sequence.usage.generated_tokens += 1;
        let SchedulingKey { id, sample, .. } = sequence.key;
        let event = EngineEvent::Token { sample, token, logprob };
        self.events.push(RequestEvent { id, event, last: false });
    }

    /// Ends a running sequence.
    fn finish(&mut self, sequence: &mut Sequence, reason: FinishReason) {
        sequence.release(&mut self.pages);
        sequence.finished = true;
        self.send_done(sequence, reason);
    }

    /// Reports the end of a sequence, and removes its request if it was the last.
    fn send_done(&mut self, sequence: &Sequence, finish_reason: FinishReason) {
        let SchedulingKey { id, sample, .. } = sequence.key;
        let active = self.requests.get_mut(&id).expect("a request outlives its sequences");
        active.unfinished -= 1;
        self.sequences -= 1;
        let last = active.unfinished == 0;
        if last {
            if let Some(deadline) = active.request.priority.deadline {
                self.deadlines.remove(&(deadline.instant(), id));
            }
            self.requests.remove(&id);
        }
        let event = EngineEvent::Done { sample, finish_reason, usage: sequence.usage };
        self.events.push(RequestEvent { id, event, last });
    }

    /// Fails a request. Its earlier events are kept.
    fn fail(&mut self, id: RequestId, failure: RequestFailure) {
        if self.requests.contains_key(&id) {
            let earlier = mem::take(&mut self.events);
            self.abort(id);
            self.events = earlier;
            self.events.push(RequestEvent { id, event: EngineEvent::Failed(failure), last: true });
        }
    }
}
