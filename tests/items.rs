//! Items that are put while the demo bundle serves, over both protocols, and reasons from live counts.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/server.rs"]
mod server;

use http::StatusCode;
use raisonne::api::pb;
use server::{NOON, Server};
use std::path::{Path, PathBuf};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Serves the demo bundle with this store.
async fn demo_server(store: Option<PathBuf>) -> Server {
    Server::start(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo"), store).await
}

impl Server {
    async fn put(&mut self, items: Vec<pb::NewItem>) -> Result<Vec<pb::PutOutcome>, Status> {
        let request = pb::PutItemsRequest { request_id: "p-1".into(), items };
        let response = self.grpc.put_items(request).await?.into_inner();
        assert_eq!(response.request_id, "p-1");
        Ok(response.items.iter().map(pb::ItemPut::outcome).collect())
    }

    /// The scorer's answer for some candidates of a shopper.
    async fn rerank(&mut self, candidates: Vec<pb::Candidate>) -> pb::RerankResponse {
        let request = pb::RerankRequest {
            user: Some(pb::User { user_id: "U005552".into(), ..Default::default() }),
            candidates,
            effort: pb::Effort::Scored.into(),
            ..Default::default()
        };
        self.grpc.rerank(request).await.unwrap().into_inner()
    }
}

fn board(title: &str) -> pb::Item {
    pb::Item {
        title: title.into(),
        category: "kitchen".into(),
        attributes: [("material".to_owned(), "walnut".to_owned())].into(),
    }
}

fn without_price(id: &str, title: &str) -> pb::NewItem {
    pb::NewItem { price: None, ..new_item(id, title) }
}

fn new_item(id: &str, title: &str) -> pb::NewItem {
    pb::NewItem { item_id: id.into(), item: Some(board(title)), price: Some(24.5) }
}

fn bare(id: &str) -> pb::Candidate {
    pb::Candidate { item_id: id.into(), ..Default::default() }
}

fn slate(first: pb::Candidate) -> Vec<pb::Candidate> {
    vec![first, bare("P00295"), bare("P02168")]
}

/// The score of an item by the small models.
fn score(response: &pb::RerankResponse, id: &str) -> Option<f32> {
    let result = response.results.iter().find(|result| result.item_id == id).unwrap();
    result.scores.and_then(|scores| scores.scorer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_was_put_is_scored_by_its_text_also_after_a_restart() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("facts.redb");
    let mut server = demo_server(Some(path.clone())).await;
    let unknown = server.rerank(slate(bare("board"))).await;
    assert_eq!(score(&unknown, "board"), None);
    assert_eq!(unknown.shortfalls[0].missing, "items");

    let first = server.put(vec![without_price("board", "Walnut Board")]).await.unwrap();
    assert_eq!(first, [pb::PutOutcome::New]);
    let second = server.put(vec![without_price("board", "Walnut Serving Board")]).await.unwrap();
    assert_eq!(second, [pb::PutOutcome::Replaced]);
    let mut scores = Vec::new();
    for title in ["Walnut Board", "Walnut Serving Board"] {
        let inline = pb::Candidate { item: Some(board(title)), ..bare("inline") };
        scores.push(score(&server.rerank(slate(inline)).await, "inline").unwrap());
    }
    assert_ne!(scores[0].to_bits(), scores[1].to_bits(), "the titles are told apart");
    let put = server.rerank(slate(bare("board"))).await;
    assert_eq!(score(&put, "board"), Some(scores[1]), "the later title is read");
    assert!(put.shortfalls.is_empty());
    let found = put.results.iter().find(|result| result.item_id == "board").unwrap();
    let reason = &found.reasons[0];
    assert_eq!(reason.text, "New since today.");
    assert_eq!(
        (reason.evidence[0].kind(), &*reason.evidence[0].value),
        (pb::EvidenceKind::NewSince, "2026-11-05")
    );
    let inline = pb::Candidate { item: Some(board("Walnut Board")), ..bare("board") };
    let given = server.rerank(slate(inline)).await;
    assert_eq!(score(&given, "board"), Some(scores[0]), "a request's own text wins");
    let only = server.rerank(vec![bare("board")]).await;
    assert_eq!(only.quality(), pb::Quality::Scored);

    server.app.stop().await.unwrap();
    let mut server = demo_server(Some(path)).await;
    assert_eq!(score(&server.rerank(slate(bare("board"))).await, "board"), Some(scores[1]));
    server.app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_was_put_is_scored_by_its_price() {
    let home = tempfile::tempdir().unwrap();
    let mut server = demo_server(Some(home.path().join("facts.redb"))).await;
    let prices = [None, Some(0.0), Some(2.0), Some(24.5), Some(f32::MAX)];
    let id = |n: usize| format!("board {n}");
    let items = prices
        .iter()
        .enumerate()
        .map(|(n, &price)| pb::NewItem { price, ..new_item(&id(n), "Walnut Board") });
    server.put(items.collect()).await.unwrap();
    let slate = (0..prices.len()).map(|n| bare(&id(n)));
    let put = server.rerank(slate.collect()).await;
    let scores: Vec<f32> = (0..prices.len()).map(|n| score(&put, &id(n)).unwrap()).collect();
    assert!(scores.iter().all(|score| score.is_finite()), "{scores:?}");
    for (n, score) in scores.iter().enumerate() {
        assert!(!scores[..n].contains(score), "{prices:?} give {scores:?}");
    }
    // The price is read beside a request's own text as well.
    let inline = |n: usize| pb::Candidate { item: Some(board("Walnut Board")), ..bare(&id(n)) };
    let given = server.rerank((0..prices.len()).map(inline).collect()).await;
    let of_given: Vec<f32> = (0..prices.len()).map(|n| score(&given, &id(n)).unwrap()).collect();
    assert_eq!(of_given, scores);
    server.app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bundle_holds_wins_over_what_was_put() {
    let home = tempfile::tempdir().unwrap();
    let mut server = demo_server(Some(home.path().join("facts.redb"))).await;
    let before = server.rerank(slate(bare("P02570"))).await;
    let items = vec![new_item("P02570", "Something Else"), new_item("board", "Walnut Board")];
    let outcomes = server.put(items).await.unwrap();
    assert_eq!(outcomes, [pb::PutOutcome::InBundle, pb::PutOutcome::New]);
    let after = server.rerank(slate(bare("P02570"))).await;
    assert_eq!(before.results, after.results);
    server.app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_items_are_named_with_their_limits_and_none_is_put() {
    let home = tempfile::tempdir().unwrap();
    let mut server = demo_server(Some(home.path().join("facts.redb"))).await;
    let whole = || new_item("board", "Walnut Board");
    let with = |change: fn(&mut pb::NewItem)| {
        let mut item = new_item("other", "Oak Board");
        change(&mut item);
        vec![whole(), item]
    };
    let many = |count: usize| (0..count).map(|n| new_item(&n.to_string(), "Mug")).collect();
    let text = |change: fn(&mut pb::Item)| {
        let mut item = new_item("other", "Oak Board");
        change(item.item.as_mut().unwrap());
        vec![whole(), item]
    };
    let cases: Vec<(Vec<pb::NewItem>, &str, &str)> = vec![
        (vec![], "items", "is empty; 1 to 1000 are allowed"),
        (many(1_001), "items", "has 1001 entries; the limit is 1000"),
        (with(|i| i.item_id = "board".into()), "items[1].item_id", "is the same as items[0]"),
        (with(|i| i.item_id.clear()), "items[1].item_id", "is empty, but required"),
        (with(|i| i.item_id = "x".repeat(129)), "items[1].item_id", "is 129 bytes"),
        (with(|i| i.item = None), "items[1].item.title", "is empty, but required"),
        (text(|t| t.title.clear()), "items[1].item.title", "is empty, but required"),
        (text(|t| t.title = "é".repeat(300)), "items[1].item.title", "is 600 bytes"),
        (text(|t| t.category = "x".repeat(513)), "items[1].item.category", "the limit is 512"),
        (
            text(|t| t.attributes = (0..33).map(|n| (n.to_string(), String::new())).collect()),
            "items[1].item.attributes",
            "has 33 entries; the limit is 32",
        ),
        (
            text(|t| t.attributes = [("colour".into(), "x".repeat(129))].into()),
            "items[1].item.attributes[\"colour\"]",
            "is 129 bytes",
        ),
        (with(|i| i.price = Some(-0.5)), "items[1].price", "is -0.5, but must not be negative"),
        (with(|i| i.price = Some(f32::NAN)), "items[1].price", "is NaN, but must be finite"),
        (with(|i| i.price = Some(f32::INFINITY)), "items[1].price", "is inf"),
    ];
    for (items, field, problem) in cases {
        let request = pb::PutItemsRequest { items: items.clone(), ..Default::default() };
        let json = serde_json::to_vec(&request).ok();
        let json = json.filter(|json| {
            serde_json::from_slice(json).is_ok_and(|again: pb::PutItemsRequest| again == request)
        });
        let status = server.put(items).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}");
        let listed = status.get_details_bad_request().unwrap().field_violations;
        let named = listed.iter().any(|v| v.field == field && v.description.contains(problem));
        assert!(named, "{field} {problem}: {listed:?}");
        if let Some(json) = json {
            let (status, body) = server.post("/api/v1/items", json).await;
            assert_eq!((status, &body["error"]["param"]), (StatusCode::BAD_REQUEST, &field.into()));
        }
    }
    let all = server.rerank(slate(bare("board"))).await;
    assert_eq!(score(&all, "board"), None, "nothing of a refused put is kept");
    assert_eq!(server.put(many(1_000)).await.unwrap().len(), 1_000);
    server.app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn items_are_put_as_json_too() {
    let home = tempfile::tempdir().unwrap();
    let mut server = demo_server(Some(home.path().join("facts.redb"))).await;
    let body = r#"{"requestId":"p-2","items":[
        {"itemId":"board","item":{"title":"Walnut Board","category":"kitchen"},"price":24.5}]}"#;
    let (status, answer) = server.post("/api/v1/items", body).await;
    assert_eq!((status, answer["requestId"].as_str()), (StatusCode::OK, Some("p-2")));
    assert_eq!(answer["items"][0]["itemId"], "board");
    assert_eq!(answer["items"][0]["outcome"], "PUT_OUTCOME_NEW");
    assert!(score(&server.rerank(slate(bare("board"))).await, "board").is_some());
    let (status, answer) = server.post("/api/v1/items", r#"{"items":[{"id":"board"}]}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{answer}");
    server.app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_store_puts_nothing() {
    let mut server = demo_server(None).await;
    let status = server.put(vec![new_item("board", "Walnut Board")]).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(status.message().contains("store.path"), "{}", status.message());
    let (status, answer) = server.post("/api/v1/items", r#"{"items":[]}"#).await;
    assert_eq!((status, &answer["error"]["param"]), (StatusCode::BAD_REQUEST, &"items".into()));
    let whole = r#"{"items":[{"itemId":"b","item":{"title":"Board"}}]}"#;
    let (status, answer) = server.post("/api/v1/items", whole).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(answer["error"]["code"], "UNIMPLEMENTED");
    server.app.stop().await.unwrap();
}

// === Reasons from live counts ===

const DAY: i64 = 86_400;
/// The first second of the day of [`NOON`].
const MIDNIGHT: i64 = NOON - DAY / 2;

/// So many events of a kind at a moment, each of another shopper.
type Sales = (u32, pb::EventKind, i64);

/// The events of one item, with ids of their own.
fn events(item: &str, sales: &[Sales]) -> Vec<pb::ShopperEvent> {
    let each = sales.iter().flat_map(|&(count, kind, time)| (0..count).map(move |_| (kind, time)));
    each.enumerate()
        .map(|(n, (kind, time))| pb::ShopperEvent {
            event_id: format!("{item}-{n}"),
            user_id: format!("buyer-{n}"),
            item_id: item.into(),
            time: Some(pbjson_types::Timestamp { seconds: time, nanos: 0 }),
            kind: kind.into(),
        })
        .collect()
}

/// The purchases yesterday and today, counted anew in the plainest way.
fn recount(events: &[pb::ShopperEvent]) -> u32 {
    let counts = |event: &&pb::ShopperEvent| {
        event.kind() == pb::EventKind::Purchase && event.time.unwrap().seconds >= MIDNIGHT - DAY
    };
    events.iter().filter(counts).count() as u32
}

impl Server {
    async fn record(&mut self, events: &[pb::ShopperEvent]) {
        let events = events.to_vec();
        let request = pb::RecordEventsRequest { events, ..Default::default() };
        self.grpc.record_events(request).await.unwrap();
    }

    /// The reasons of an item, at most so many.
    async fn reasons(&mut self, item: &str, most: u32) -> Vec<pb::Reason> {
        let request = pb::ExplainRequest {
            user: Some(pb::User { user_id: "U005552".into(), ..Default::default() }),
            item_ids: vec![item.into()],
            reasons_per_item: most,
            ..Default::default()
        };
        let mut answer = self.grpc.explain(request).await.unwrap().into_inner();
        answer.items.remove(0).reasons
    }
}

fn sold(reasons: &[pb::Reason]) -> Option<&pb::Reason> {
    reasons.iter().find(|reason| reason.evidence[0].kind() == pb::EvidenceKind::SoldSince)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sold_since_yesterday_is_told_as_it_is_counted() {
    use pb::EventKind::{Click, Purchase};
    let home = tempfile::tempdir().unwrap();
    let mut server = demo_server(Some(home.path().join("facts.redb"))).await;
    server.put(vec![new_item("board", "Walnut Board")]).await.unwrap();
    let cases: [(&str, &[Sales], Option<u32>); 10] = [
        ("P00295", &[(9, Purchase, NOON)], None),
        ("P02168", &[(10, Purchase, NOON)], Some(10)),
        ("P02570", &[(4, Purchase, NOON - DAY), (7, Purchase, NOON)], Some(11)),
        ("P00001", &[(40, Purchase, NOON - 2 * DAY), (9, Purchase, NOON)], None),
        ("P00002", &[(9, Purchase, NOON), (40, Click, NOON)], None),
        ("P00003", &[(10, Purchase, MIDNIGHT - DAY)], Some(10)),
        ("P00004", &[(10, Purchase, MIDNIGHT - DAY - 1)], None),
        ("P00005", &[(1, Purchase, NOON), (12, Purchase, NOON - DAY)], Some(13)),
        ("P00006", &[(14, Purchase, NOON + 300)], Some(14)),
        // Purchases from before the put may be missing in the counts of an item that was put today.
        ("board", &[(3, Click, NOON), (12, Purchase, NOON)], None),
    ];
    for (item, sales, told) in cases {
        let events = events(item, sales);
        server.record(&events).await;
        // Sent again, they are not counted again.
        server.record(&events).await;
        let reasons = server.reasons(item, 3).await;
        assert!(reasons.len() <= 3);
        let found = sold(&reasons);
        assert_eq!(found.map(|reason| reason.evidence[0].count), told, "{item}: {reasons:?}");
        let Some(reason) = found else { continue };
        let evidence = &reason.evidence[0];
        assert_eq!(evidence.count, recount(&events), "{item}");
        assert_eq!(reason.text, format!("Sold {} times since yesterday.", evidence.count));
        assert_eq!((&*evidence.value, evidence.of, reason.weight), ("2026-11-04", 2, 0.0));
        assert_eq!(reason.written_at.unwrap().seconds, NOON);
        let cached = reasons.iter().filter(|reason| reason.weight > 0.0).count();
        let alone = server.reasons(item, 1).await;
        assert_eq!(sold(&alone).is_some(), cached == 0, "a card's reason is not displaced: {item}");
    }
    let board = server.reasons("board", 3).await;
    let texts: Vec<_> = board.iter().map(|reason| reason.text.as_str()).collect();
    assert_eq!(texts, ["New since today."]);
    let ranked = server.rerank(slate(bare("board"))).await;
    let found = ranked.results.iter().find(|result| result.item_id == "board").unwrap();
    assert_eq!(found.reasons, board, "a ranking tells the same");
    server.app.stop().await.unwrap();
}
