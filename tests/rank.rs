//! The ladder, with stub rungs and paused time.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use futures_util::StreamExt as _;
use raisonne::domain::{
    Candidate, Criticality, Deadline, Effort, Explain, Quality, Query, Ranking,
};
use raisonne::rank::{ClimbAnswer, Ladder, Shortfall, Update};
use raisonne::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use support::StubRung;
use tokio::time::Instant;

fn query(budget_ms: u64) -> Query {
    let candidate = |item: &str| Candidate { item: item.into(), prior_score: None, inline: None };
    Query {
        request_id: "r".into(),
        user: "u".into(),
        history: None,
        profile: None,
        query_text: None,
        candidates: ["a", "b", "c"].map(candidate).into(),
        top_n: 3,
        effort: Effort::Auto,
        explain: Explain::Cached,
        reasons_per_item: 3,
        criticality: Criticality::Default,
        bundle: None,
        now: 1_800_000_000,
        is_replay: false,
        deadline: Deadline::after(Instant::now(), Duration::from_millis(budget_ms)),
    }
}

fn ladder(rungs: Vec<StubRung>) -> (Arc<Ladder>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new());
    let rungs = rungs.into_iter().map(StubRung::rung).collect();
    (Arc::new(Ladder::new(rungs, "test-1".into(), metrics.clone())), metrics)
}

async fn climb(ladder: &Arc<Ladder>, query: Query) -> Vec<ClimbAnswer> {
    let updates: Vec<_> = ladder.clone().climb(query).collect().await;
    let answers = updates.into_iter().filter_map(|update| match update {
        Update::Answer(answer) => Some(*answer),
        Update::Thought(_) => None,
    });
    let answers: Vec<_> = answers.collect();
    let (last, before) = answers.split_last().expect("a climb is never empty");
    assert!(last.last && before.iter().all(|answer| !answer.last));
    assert!(answers.iter().all(|answer| answer.ranking.is_permutation(3)));
    answers
}

fn order(ranking: &Ranking) -> Vec<usize> {
    ranking.order.iter().map(|ranked| ranked.input).collect()
}

#[tokio::test(start_paused = true)]
async fn the_climb_goes_from_the_order_given_to_the_best() {
    let (ladder, _) = ladder(vec![StubRung::taking(10)]);
    let answers = climb(&ladder, query(100)).await;
    assert_eq!(order(&answers[0].ranking), [0, 1, 2]);
    assert_eq!(answers[0].ranking.quality, Quality::Given);
    assert_eq!(order(&answers[1].ranking), [2, 1, 0]);
    assert_eq!(answers[1].ranking.quality, Quality::Scored);
    assert_eq!(answers[1].receipt.card_hits, 3);
}

#[tokio::test(start_paused = true)]
async fn without_rungs_the_order_given_is_the_answer() {
    let (ladder, _) = ladder(vec![]);
    let answers = climb(&ladder, query(100)).await;
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].ranking.quality, Quality::Given);
    assert_eq!(ladder.top(), Quality::Given);
}

#[tokio::test(start_paused = true)]
async fn a_late_rung_is_cut_off_at_the_deadline() {
    let (ladder, metrics) = ladder(vec![StubRung::taking(500)]);
    let begun = Instant::now();
    let answers = climb(&ladder, query(100)).await;
    assert_eq!(begun.elapsed(), Duration::from_millis(100));
    assert_eq!(answers[1].ranking.quality, Quality::Given);
    assert_eq!(answers[1].shortfalls, [(Quality::Scored, Shortfall::Late)]);
    assert!(metrics.render().contains(r#"shortfall_total{rung="scored",why="late"} 1"#));
}

#[tokio::test(start_paused = true)]
async fn a_rung_that_was_late_is_not_begun_until_that_is_forgotten() {
    let (ladder, _) = ladder(vec![StubRung::taking(500)]);
    climb(&ladder, query(100)).await;
    let begun = Instant::now();
    let answers = climb(&ladder, query(100)).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(answers[1].shortfalls, [(Quality::Scored, Shortfall::TooSlow)]);
    tokio::time::advance(Duration::from_mins(1)).await;
    let answers = climb(&ladder, query(600)).await;
    assert_eq!(answers[1].ranking.quality, Quality::Scored);
}

#[tokio::test(start_paused = true)]
async fn a_rung_that_falls_short_leaves_the_best_so_far() {
    for shortfall in [Shortfall::Busy, Shortfall::Missing("cards"), Shortfall::Broken] {
        let (ladder, _) = ladder(vec![StubRung::taking(1), StubRung::failing(shortfall.clone())]);
        let answers = climb(&ladder, query(100)).await;
        let answer = answers.last().unwrap();
        assert_eq!(order(&answer.ranking), [2, 1, 0]);
        assert_eq!(answer.shortfalls, [(Quality::Scored, shortfall)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shortfall_may_come_with_an_order() {
    let partial = StubRung { reports: Some(Shortfall::Missing("cards")), ..StubRung::default() };
    let (ladder, _) = ladder(vec![partial]);
    let answers = climb(&ladder, query(100)).await;
    assert_eq!(answers[1].ranking.quality, Quality::Scored);
    assert_eq!(answers[1].shortfalls, [(Quality::Scored, Shortfall::Missing("cards"))]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_still_gets_the_order_given() {
    let (ladder, _) = ladder(vec![StubRung::default()]);
    let answers = climb(&ladder, query(0)).await;
    assert_eq!(answers.last().unwrap().shortfalls, [(Quality::Scored, Shortfall::TooSlow)]);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_stays_as_given_is_counted() {
    let (ladder, metrics) = ladder(vec![StubRung { keeps_order: true, ..StubRung::default() }]);
    climb(&ladder, query(100)).await;
    assert!(metrics.render().contains("raisonne_order_identity_total 1"));
    let (ladder, metrics) = self::ladder(vec![StubRung::default()]);
    climb(&ladder, query(100)).await;
    assert!(!metrics.render().contains("raisonne_order_identity_total"));
}

#[tokio::test(start_paused = true)]
async fn thoughts_are_sent_while_the_rung_works_and_before_its_order() {
    let thought = vec!["Likes ", "", "red."];
    let (ladder, _) = ladder(vec![StubRung { thought, ..StubRung::taking(10) }]);
    let mut updates = Vec::new();
    let mut climb = std::pin::pin!(ladder.climb(query(100)));
    while let Some(update) = climb.next().await {
        updates.push(match update {
            Update::Thought(piece) => piece.to_string(),
            Update::Answer(answer) => answer.ranking.quality.as_str().to_owned(),
        });
    }
    assert_eq!(updates, ["given", "Likes ", "red.", "scored"]);
}
