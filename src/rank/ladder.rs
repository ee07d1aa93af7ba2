//! The climb: from the order given to the best order that the deadline allows.

use super::background_drop::{BackgroundDrop, DropSignal};
use super::{Receipt, Rung, RungOutcome, RungPace, Shortfall, ThoughtSender};
use crate::bundle::GoldenRequest;
use crate::domain::{Effort, ItemId, Quality, Query, Ranking, Reason, Version};
use crate::telemetry::Metrics;
use async_stream::stream;
use futures_util::Stream;
use std::pin::pin;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// The rungs of one bundle, lowest first.
pub struct Ladder {
    steps: BackgroundDrop<Vec<TimedRung>>,
    /// The rungs of its bundle that it does without, and why.
    lacks: Vec<(Quality, Shortfall)>,
    golden: Option<GoldenRequest>,
    version: Version,
    metrics: Arc<Metrics>,
}

/// A rung with its pace: begun only if it fits, cut off at the deadline, timed either way.
struct TimedRung {
    rung: Arc<dyn Rung>,
    pace: RungPace,
}

/// The best order so far, and what was met on the way to it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The order.
    pub ranking: Ranking,
    /// The rungs that fell short, and why.
    pub shortfalls: Vec<(Quality, Shortfall)>,
    /// What it cost so far.
    pub receipt: Receipt,
    /// Whether the climb ends here.
    pub last: bool,
}

/// What a climb tells on its way.
#[derive(Clone, Debug)]
pub enum Update {
    /// The next piece of what a language model thinks, as it is written: nobody has checked it yet.
    Thought(Arc<str>),
    /// The best order so far.
    Answer(Box<Answer>),
}

// === impl Ladder ===

impl Ladder {
    /// A ladder of `rungs`, lowest first.
    pub fn new(rungs: Vec<Arc<dyn Rung>>, version: Version, metrics: Arc<Metrics>) -> Self {
        let steps = rungs.into_iter().map(|rung| TimedRung { rung, pace: RungPace::default() });
        let steps = BackgroundDrop::new(steps.collect());
        Self { steps, lacks: Vec::new(), golden: None, version, metrics }
    }

    /// The same ladder, which does without these rungs: whoever wants to climb there is told why not.
    pub fn lacking(self, lacks: Vec<(Quality, Shortfall)>) -> Self {
        Self { lacks, ..self }
    }

    /// The same ladder, with a request that shows whether it holds.
    pub fn with_golden(self, golden: Option<GoldenRequest>) -> Self {
        Self { golden, ..self }
    }

    /// The version of the bundle behind the rungs.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// A request that shows whether it holds.
    pub fn golden(&self) -> Option<&GoldenRequest> {
        self.golden.as_ref()
    }

    /// Whether it has every rung of its bundle.
    pub fn is_whole(&self) -> bool {
        self.lacks.is_empty()
    }

    /// Why it will never reach its top again, in words for operators; `None` while it may.
    pub fn unhealthy(&self) -> Option<&'static str> {
        self.steps.iter().find_map(|step| step.rung.unhealthy())
    }

    /// When it will have been dropped, and with it whatever it alone owns.
    pub fn end(&self) -> DropSignal {
        self.steps.end()
    }

    /// The best that this ladder can reach.
    pub fn top(&self) -> Quality {
        self.steps.last().map_or(Quality::Given, |step| step.rung.quality())
    }

    /// Better and better rankings. The last one before the deadline is the answer. The stream is
    /// never empty and never fails; its last item is an answer, and no other has `last` set.
    pub fn climb(self: Arc<Self>, query: Query) -> impl Stream<Item = Update> + Send {
        stream! {
            let priors = query.candidates.iter().map(|candidate| candidate.prior_score);
            let mut answer = Answer {
                ranking: Ranking::given(priors, self.version.clone()),
                shortfalls: Vec::new(),
                receipt: Receipt::default(),
                last: false,
            };
            for step in self.steps.iter().filter(|step| within(step.rung.quality(), query.effort)) {
                yield Update::Answer(Box::new(answer.clone()));
                let (sender, mut thoughts) = ThoughtSender::new();
                let outcome = {
                    let mut attempt = pin!(self.attempt(step, &query, &answer.ranking, sender));
                    loop {
                        tokio::select! {
                            biased;
                            Some(thought) = thoughts.recv() => yield Update::Thought(thought),
                            outcome = &mut attempt => break outcome,
                        }
                    }
                };
                while let Ok(thought) = thoughts.try_recv() {
                    yield Update::Thought(thought);
                }
                match outcome {
                    Ok(refined) => answer.take(step.rung.quality(), refined),
                    Err(shortfall) => answer.shortfalls.push((step.rung.quality(), shortfall)),
                }
            }
            let lacks = self.lacks.iter().filter(|(quality, _)| within(*quality, query.effort));
            answer.shortfalls.extend(lacks.cloned());
            for (quality, shortfall) in &answer.shortfalls {
                self.metrics.shortfall(quality.as_str(), shortfall.as_str());
            }
            if answer.ranking.quality > Quality::Given && answer.ranking.is_as_given() {
                self.metrics.identity();
            }
            answer.last = true;
            yield Update::Answer(Box::new(answer));
        }
    }

    /// Cached reasons for the query's candidates, without ranking them.
    pub async fn explain(&self, query: &Query) -> Vec<(ItemId, Vec<Reason>)> {
        for step in self.steps.iter().rev() {
            let reasons = step.rung.explain(query).await;
            if !reasons.is_empty() {
                return reasons;
            }
        }
        Vec::new()
    }

    async fn attempt(
        &self,
        step: &TimedRung,
        query: &Query,
        best: &Ranking,
        thoughts: ThoughtSender,
    ) -> Result<RungOutcome, Shortfall> {
        let begun = Instant::now();
        let remaining = query.deadline.remaining(begun);
        let attempt = step.pace.begin(remaining, begun).ok_or(Shortfall::TooSlow)?;
        let outcome =
            timeout_at(query.deadline.instant(), step.rung.refine(query, best, &thoughts)).await;
        let outcome = outcome.unwrap_or(Err(Shortfall::Late));
        match &outcome {
            Ok(_) => attempt.done(Instant::now()),
            Err(Shortfall::Late) => attempt.cut(Instant::now()),
            // Whoever was turned away, or had nothing to work on, says nothing about the pace.
            Err(_) => drop(attempt),
        }
        self.metrics.rung(step.rung.quality().as_str(), begun.elapsed());
        outcome
    }
}

impl std::fmt::Debug for Ladder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ladder")
            .field("version", &self.version)
            .field("top", &self.top())
            .finish_non_exhaustive()
    }
}

/// Whether somebody who makes this effort wants to climb there.
fn within(quality: Quality, effort: Effort) -> bool {
    match effort {
        Effort::Scored => quality <= Quality::Scored,
        Effort::Weighed => quality <= Quality::Weighed,
        Effort::Reranked => quality <= Quality::Reranked,
        Effort::Reasoned | Effort::Auto => true,
    }
}

// === impl Answer ===

impl Answer {
    fn take(&mut self, quality: Quality, refined: RungOutcome) {
        debug_assert!(refined.ranking.is_permutation(self.ranking.order.len()));
        self.ranking = refined.ranking;
        self.receipt += refined.receipt;
        self.shortfalls.extend(refined.shortfall.map(|shortfall| (quality, shortfall)));
    }
}
