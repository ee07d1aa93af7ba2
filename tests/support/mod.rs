//! Stub rungs, for tests of the ladder and of the service.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use raisonne::domain::{
    Evidence, EvidenceKind, ItemId, Quality, Query, Ranked, Ranking, Reason, ReasonSource,
};
use raisonne::rank::{ClimbContext, Receipt, Rung, RungOutcome, Shortfall, ThoughtSender};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Holds the climbs that come to a rung until a test opens it.
#[derive(Clone, Debug)]
pub struct Gate {
    /// Climbs that have come.
    pub waiting: watch::Sender<usize>,
    pub is_open: watch::Sender<bool>,
}

impl Gate {
    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
    }
}

/// A rung that reverses the slate after a while, or falls short.
#[derive(Clone, Debug, Default)]
pub struct StubRung {
    pub takes: Duration,
    pub gate: Option<Gate>,
    pub fails: Option<Shortfall>,
    pub reports: Option<Shortfall>,
    pub keeps_order: bool,
    pub thought: Vec<&'static str>,
}

impl StubRung {
    pub fn rung(self) -> Arc<dyn Rung> {
        Arc::new(self)
    }

    pub fn taking(ms: u64) -> Self {
        Self { takes: Duration::from_millis(ms), ..Self::default() }
    }

    pub fn failing(shortfall: Shortfall) -> Self {
        Self { fails: Some(shortfall), ..Self::default() }
    }
}

impl Rung for StubRung {
    fn quality(&self) -> Quality {
        Quality::Scored
    }

    fn refine<'a>(
        &'a self,
        climb: &'a ClimbContext,
        best: &'a Ranking,
        thoughts: &'a ThoughtSender,
    ) -> BoxFuture<'a, Result<RungOutcome, Shortfall>> {
        async move {
            let query = climb.query();
            self.thought.iter().for_each(|piece| thoughts.send(piece));
            if !self.takes.is_zero() {
                tokio::time::sleep(self.takes).await;
            }
            if let Some(gate) = &self.gate {
                gate.pass().await;
            }
            if let Some(shortfall) = &self.fails {
                return Err(shortfall.clone());
            }
            let last = query.candidates.len() - 1;
            let order = best.order.iter().map(|ranked| {
                let input = if self.keeps_order { ranked.input } else { last - ranked.input };
                let mut scores = ranked.scores;
                scores.prior = query.candidates[input].prior_score;
                scores.scorer = Some(ranked.score);
                Ranked {
                    input,
                    score: ranked.score,
                    scores,
                    reasons: [reason(query, input)].into(),
                }
            });
            Ok(RungOutcome {
                ranking: Ranking {
                    order: order.collect(),
                    quality: Quality::Scored,
                    version: best.version.clone(),
                    rationale: None,
                },
                receipt: Receipt {
                    queue: Duration::from_micros(20),
                    compute: Duration::from_micros(300),
                    card_hits: query.candidates.len() as u32,
                    ..Receipt::default()
                },
                shortfall: self.reports.clone(),
            })
        }
        .boxed()
    }

    fn explain<'a>(
        &'a self,
        climb: &'a ClimbContext,
    ) -> BoxFuture<'a, Vec<(ItemId, Arc<[Reason]>)>> {
        async move {
            let query = climb.query();
            tokio::time::sleep(self.takes).await;
            let known = query.candidates.iter().enumerate();
            let known = known.filter(|(_, candidate)| candidate.item.as_str() != "unknown");
            known
                .map(|(i, candidate)| (candidate.item.clone(), [reason(query, i)].into()))
                .collect()
        }
        .boxed()
    }
}

fn reason(query: &Query, input: usize) -> Reason {
    let item = &query.candidates[input].item;
    Reason {
        text: format!("{} often goes with what {} buys", item, query.user).into(),
        source: ReasonSource::Evidence,
        evidence: [Evidence {
            kind: EvidenceKind::CoPurchase,
            item: Some("mug".into()),
            attribute: "".into(),
            value: "".into(),
            count: 12,
            of: 40,
        }]
        .into(),
        weight: 0.5,
        bundle: "test-1".into(),
        written_at: 1_700_000_000,
    }
}
