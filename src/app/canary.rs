//! Does the ladder still answer?

use crate::bundle::GoldenRequest;
use crate::domain::{Candidate, Criticality, Deadline, Effort, Explain, Query};
use crate::rank::{ClimbAnswer, Ladder, LiveLadder, Shortfall, Update};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a canary request may take.
pub(super) const CANARY_TIMEOUT: Duration = Duration::from_secs(1);
/// Reported if a canary request takes longer.
pub(super) const CANARY_LATE: &str = "a canary request did not reach the top rung in time";

/// Sends a request up the ladder. The error says why it did not reach the top rung.
pub type Canary = Arc<dyn Fn() -> BoxFuture<'static, Result<(), &'static str>> + Send + Sync>;

/// A canary that sends a golden request through the ladder that is live at that moment.
pub(super) fn golden_canary(live: Arc<LiveLadder>) -> Canary {
    Arc::new(move || reaches_top(live.ladder()).boxed())
}

async fn reaches_top(ladder: Arc<Ladder>) -> Result<(), &'static str> {
    if let Some(why) = ladder.unhealthy() {
        return Err(why);
    }
    let golden = ladder.golden().cloned().ok_or("the bundle has no golden request")?;
    let top = ladder.top();
    let climb = ladder.climb(query(golden));
    let last = climb.fold(None, |_, update| async { Some(update) }).await;
    match last {
        Some(Update::Answer(answer)) if is_broken(&answer) => Err("a rung is broken"),
        Some(Update::Answer(answer)) if answer.ranking.quality == top => Ok(()),
        _ => Err(CANARY_LATE),
    }
}

/// Whether a rung is broken. A rung whose language model is still being loaded is only missing: the server stays
/// ready, because that is part of a planned swap.
fn is_broken(answer: &ClimbAnswer) -> bool {
    answer.shortfalls.iter().any(|(_, why)| *why == Shortfall::Broken)
}

fn query(golden: GoldenRequest) -> Query {
    let candidate = |item: String| Candidate { item: item.into(), prior_score: None, inline: None };
    Query {
        request_id: "canary".into(),
        user: golden.user.into(),
        history: None,
        profile: None,
        query_text: None,
        top_n: golden.items.len(),
        candidates: golden.items.into_iter().map(candidate).collect(),
        effort: Effort::Auto,
        explain: Explain::None,
        reasons_per_item: 0,
        criticality: Criticality::Critical,
        bundle: None,
        now: golden.now,
        is_replay: false,
        deadline: Deadline::after(Instant::now(), CANARY_TIMEOUT),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Quality, Ranking};
    use crate::rank::{ClimbContext, Receipt, Rung, RungOutcome, ThoughtSender};
    use crate::telemetry::Metrics;

    /// A rung that answers, or is unhealthy for good.
    struct StubRung(Quality, Option<&'static str>);

    impl Rung for StubRung {
        fn quality(&self) -> Quality {
            self.0
        }

        fn refine<'a>(
            &'a self,
            _climb: &'a ClimbContext,
            best: &'a Ranking,
            _thoughts: &'a ThoughtSender,
        ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
            let ranking = Ranking { quality: self.0, ..best.clone() };
            let refined = RungOutcome { ranking, receipt: Receipt::default(), shortfall: None };
            async move { self.1.map_or(Ok(refined), |_| Err(Shortfall::Broken)) }.boxed()
        }

        fn unhealthy(&self) -> Option<&'static str> {
            self.1
        }
    }

    async fn canary_of(unhealthy: Option<&'static str>) -> Result<(), &'static str> {
        let rungs: Vec<Arc<dyn Rung>> = vec![
            Arc::new(StubRung(Quality::Scored, None)),
            Arc::new(StubRung(Quality::Weighed, unhealthy)),
        ];
        let golden = GoldenRequest {
            user: "u".into(),
            items: vec!["a".into(), "b".into()],
            ..GoldenRequest::default()
        };
        let ladder = Ladder::new(rungs, "one".into(), Arc::new(Metrics::new()));
        reaches_top(Arc::new(ladder.with_golden(Some(golden)))).await
    }

    #[tokio::test]
    async fn an_unhealthy_rung_says_why() {
        assert_eq!(canary_of(None).await, Ok(()));
        assert_eq!(canary_of(Some("it is gone")).await, Err("it is gone"));
    }
}
