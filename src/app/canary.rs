//! Does it still answer as it should?

use crate::bundle::Golden;
use crate::domain::{Candidate, Criticality, Deadline, Effort, Explain, Query};
use crate::rank::{Answer, Ladder, Live, Shortfall, Update};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a canary may take.
pub(super) const CANARY_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends a slate through every rung that is switched on, and says whether it came back from the
/// top one.
pub type Canary = Arc<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>;

/// Sends a golden request through the whole of the ladder that is live then.
pub(super) fn canary(live: Arc<Live>) -> Canary {
    Arc::new(move || comes_back(live.ladder()).boxed())
}

async fn comes_back(ladder: Arc<Ladder>) -> bool {
    let Some(golden) = ladder.golden().cloned() else { return false };
    let top = ladder.top();
    let climb = ladder.climb(query(golden));
    let last = climb.fold(None, |_, update| async { Some(update) }).await;
    matches!(last, Some(Update::Answer(answer)) if answer.ranking.quality == top && !is_broken(&answer))
}

/// Whether a rung is out of order for good. One whose language model is still to be loaded is
/// merely missing: that was planned, and is no reason to send nobody here.
fn is_broken(answer: &Answer) -> bool {
    answer.shortfalls.iter().any(|(_, why)| *why == Shortfall::Broken)
}

fn query(golden: Golden) -> Query {
    let candidate = |item: String| Candidate { item: item.into(), prior_score: None, inline: None };
    Query {
        request_id: "canary".into(),
        user: golden.user.into(),
        history: None,
        profile: None,
        request: None,
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
