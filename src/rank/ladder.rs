//! The climb: from the order given to the best order that the deadline allows.

use super::background_drop::{BackgroundDrop, DropSignal};
use super::{ClimbContext, Receipt, Rung, RungOutcome, RungPace, Shortfall, ThoughtSender};
use crate::bundle::{Catalog, GoldenRequest};
use crate::domain::{Effort, ItemId, Quality, Query, Ranking, Reason, Version};
use crate::reranker::RungSpec;
use crate::telemetry::Metrics;
use async_stream::stream;
use futures_util::Stream;
use std::pin::pin;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// The rungs of one bundle, lowest first.
pub struct Ladder {
    rungs: BackgroundDrop<Vec<TimedRung>>,
    /// The rungs of its bundle that it does without, and why.
    missing: Vec<(Quality, Shortfall)>,
    golden: Option<GoldenRequest>,
    catalog: Option<Arc<Catalog>>,
    version: Version,
    metrics: Arc<Metrics>,
}

/// A rung with its pace: started only if it fits, cut off at the deadline, timed either way.
struct TimedRung {
    rung: Arc<dyn Rung>,
    pace: RungPace,
}

/// The best order so far, its cost, and the rungs that fell short. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClimbAnswer {
    /// The order. Updates of a climb share it while it stays the same.
    pub ranking: Arc<Ranking>,
    /// The rungs that fell short, and why.
    pub shortfalls: Vec<(Quality, Shortfall)>,
    /// Its cost so far.
    pub receipt: Receipt,
    /// Whether the climb ends here.
    pub last: bool,
}

/// One step of a climb, as it is streamed.
#[derive(Clone, Debug)]
pub enum Update {
    /// The next piece of a language model's thought, as it is generated and before any check.
    Thought(Arc<str>),
    /// The best order so far.
    Answer(Box<ClimbAnswer>),
}

// === impl Ladder ===

impl Ladder {
    /// A ladder of `rungs`, lowest first.
    pub fn new(rungs: Vec<Arc<dyn Rung>>, version: Version, metrics: Arc<Metrics>) -> Self {
        let rungs = rungs.into_iter().map(|rung| TimedRung { rung, pace: RungPace::default() });
        let rungs = BackgroundDrop::new(rungs.collect());
        Self { rungs, missing: Vec::new(), golden: None, catalog: None, version, metrics }
    }

    /// The same ladder, which reports a shortfall for each of these rungs that its bundle has and it
    /// has not.
    pub fn with_missing(self, missing: Vec<(Quality, Shortfall)>) -> Self {
        Self { missing, ..self }
    }

    /// The same ladder, with a golden request for its canary.
    pub fn with_golden(self, golden: Option<GoldenRequest>) -> Self {
        Self { golden, ..self }
    }

    /// The same ladder, whose bundle holds these items.
    pub fn with_catalog(self, catalog: Arc<Catalog>) -> Self {
        Self { catalog: Some(catalog), ..self }
    }

    /// Whether its bundle holds this item.
    pub fn holds(&self, item: &ItemId) -> bool {
        self.catalog.as_ref().is_some_and(|catalog| catalog.number(item).is_some())
    }

    /// The version of the bundle behind the rungs.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// A golden request of its bundle, for its canary.
    pub fn golden(&self) -> Option<&GoldenRequest> {
        self.golden.as_ref()
    }

    /// Whether it has every rung of its bundle.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty()
    }

    /// Why it will never reach its top again, in words for operators; `None` while it may.
    pub fn unhealthy(&self) -> Option<&'static str> {
        self.rungs.iter().find_map(|timed| timed.rung.unhealthy())
    }

    /// Signals when the ladder has been dropped, and with it everything that it alone owned.
    pub fn drop_signal(&self) -> DropSignal {
        self.rungs.signal()
    }

    /// The best quality that this ladder can reach.
    pub fn top(&self) -> Quality {
        self.rungs.last().map_or(Quality::Given, |timed| timed.rung.quality())
    }

    /// Better and better rankings, until the deadline. The stream is never empty and never fails. Its
    /// last item is an answer, and only that one has `last` set.
    pub fn climb(self: Arc<Self>, query: Query) -> impl Stream<Item = Update> + Send {
        stream! {
            let mut answer = ClimbAnswer::given(&query, &self.version);
            let climb = ClimbContext::new(query);
            let effort = climb.query().effort;
            for timed in self.rungs.iter().filter(|timed| is_within(timed.rung.quality(), effort)) {
                yield Update::Answer(Box::new(answer.clone()));
                let (sender, mut thoughts) = ThoughtSender::new();
                let outcome = {
                    let mut attempt = pin!(self.attempt(timed, &climb, &answer.ranking, sender));
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
                    Ok(better) => answer.take(timed.rung.quality(), better),
                    Err(shortfall) => answer.shortfalls.push((timed.rung.quality(), shortfall)),
                }
            }
            let missing = self.missing.iter().filter(|(quality, _)| is_within(*quality, effort));
            answer.shortfalls.extend(missing.cloned());
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
    pub async fn explain(&self, query: Query) -> Vec<(ItemId, Arc<[Reason]>)> {
        let climb = ClimbContext::new(query);
        for timed in self.rungs.iter().rev() {
            let reasons = timed.rung.explain(&climb).await;
            if !reasons.is_empty() {
                return reasons;
            }
        }
        Vec::new()
    }

    async fn attempt(
        &self,
        timed: &TimedRung,
        climb: &ClimbContext,
        best: &Ranking,
        thoughts: ThoughtSender,
    ) -> Result<RungOutcome, Shortfall> {
        let begun = Instant::now();
        let deadline = climb.query().deadline;
        let remaining = deadline.remaining(begun);
        let attempt = timed.pace.begin(remaining, begun).ok_or(Shortfall::TooSlow)?;
        let refined = timed.rung.refine(climb, best, &thoughts);
        let outcome = timeout_at(deadline.instant(), refined).await;
        let outcome = outcome.unwrap_or(Err(Shortfall::Late));
        match &outcome {
            Ok(_) => attempt.done(Instant::now()),
            Err(Shortfall::Late) => attempt.cut(Instant::now()),
            // An attempt that was refused, or had no candidates, is no measure of the pace.
            Err(_) => drop(attempt),
        }
        self.metrics.rung(timed.rung.quality().as_str(), begun.elapsed());
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

/// Whether a caller who makes this effort wants to climb there.
fn is_within(quality: Quality, effort: Effort) -> bool {
    RungSpec::of(quality).is_none_or(|rung| rung.is_within(effort))
}

// === impl ClimbAnswer ===

impl ClimbAnswer {
    /// The order given.
    fn given(query: &Query, version: &Version) -> Self {
        let priors = query.candidates.iter().map(|candidate| candidate.prior_score);
        Self {
            ranking: Arc::new(Ranking::given(priors, version.clone())),
            shortfalls: Vec::new(),
            receipt: Receipt::default(),
            last: false,
        }
    }

    /// Takes a better order in place of the one so far.
    fn take(&mut self, quality: Quality, better: RungOutcome) {
        debug_assert!(better.ranking.is_permutation(self.ranking.order.len()));
        self.ranking = Arc::new(better.ranking);
        self.receipt += better.receipt;
        self.shortfalls.extend(better.shortfall.map(|shortfall| (quality, shortfall)));
    }
}
