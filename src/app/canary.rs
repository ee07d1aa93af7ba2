//! Does it still answer as it should?

use crate::bundle::GoldenRequest;
use crate::domain::{Candidate, Criticality, Deadline, Effort, Explain, Query};
use crate::rank::{Answer, Ladder, LiveLadder, Shortfall, Update};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a canary may take.
pub(super) const CANARY_TIMEOUT: Duration = Duration::from_secs(1);
/// What is said of one that takes longer.
pub(super) const LATE: &str = "a canary slate did not reach the top in time";

/// Sends a slate through every rung that is switched on, and says why it did not come back from the
/// top one, if it did not.
pub type Canary = Arc<dyn Fn() -> BoxFuture<'static, Result<(), &'static str>> + Send + Sync>;

/// Sends a golden request through the whole of the ladder that is live then.
pub(super) fn canary(live: Arc<LiveLadder>) -> Canary {
    Arc::new(move || comes_back(live.ladder()).boxed())
}

async fn comes_back(ladder: Arc<Ladder>) -> Result<(), &'static str> {
    if let Some(why) = ladder.unhealthy() {
        return Err(why);
    }
    let golden = ladder.golden().cloned().ok_or("the bundle has no golden request")?;
    let top = ladder.top();
    let climb = ladder.climb(query(golden));
    let last = climb.fold(None, |_, update| async { Some(update) }).await;
    match last {
        Some(Update::Answer(answer)) if is_broken(&answer) => Err("a rung is out of order"),
        Some(Update::Answer(answer)) if answer.ranking.quality == top => Ok(()),
        _ => Err(LATE),
    }
}

/// Whether a rung is out of order for good. One whose language model is still to be loaded is
/// merely missing: that was planned, and is no reason to send nobody here.
fn is_broken(answer: &Answer) -> bool {
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
    struct Stub(Quality, Option<&'static str>);

    impl Rung for Stub {
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
            Arc::new(Stub(Quality::Scored, None)),
            Arc::new(Stub(Quality::Weighed, unhealthy)),
        ];
        let golden = GoldenRequest {
            user: "u".into(),
            items: vec!["a".into(), "b".into()],
            ..GoldenRequest::default()
        };
        let ladder = Ladder::new(rungs, "one".into(), Arc::new(Metrics::new()));
        comes_back(Arc::new(ladder.with_golden(Some(golden)))).await
    }

    #[tokio::test]
    async fn what_ails_a_rung_is_told_in_words() {
        assert_eq!(canary_of(None).await, Ok(()));
        assert_eq!(canary_of(Some("it is gone")).await, Err("it is gone"));
    }
}
