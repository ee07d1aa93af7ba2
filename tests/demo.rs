//! The demo bundle behind real sockets: slates with reasons, also for unknown shoppers and items.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::print_stdout, reason = "some tests measure as well")]

use raisonne::api::pb::rerank_service_client::RerankServiceClient;
use raisonne::api::pb::{self, EvidenceKind, Quality, RerankRequest, RerankResponse};
use raisonne::app::{App, open_services};
use raisonne::bundle::{Bundle, Part};
use raisonne::config::Config;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;
use tonic::transport::Channel;

struct Demo {
    app: App,
    /// The top rung of the bundle's ladder.
    top: Quality,
    client: RerankServiceClient<Channel>,
    samples: Vec<RerankRequest>,
}

fn demo_bundle() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo")
}

impl Demo {
    async fn start() -> Self {
        let mut config = Config::default();
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.bundle.path = demo_bundle();
        // Tests run in parallel on slow machines, and none of them checks speed.
        config.api.deadline_default =
            raisonne::config::HumanDuration(std::time::Duration::from_secs(20));
        let (services, _) = open_services(&config).await.unwrap();
        let top = services.live.ladder().top().into();
        let app = App::start(&config.api, services).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", app.address())).unwrap();
        let client = RerankServiceClient::new(channel.connect().await.unwrap());
        let samples = std::fs::read(demo_bundle().join(Part::Samples.file())).unwrap();
        Self { app, top, client, samples: serde_json::from_slice(&samples).unwrap() }
    }

    async fn rerank(&mut self, request: &RerankRequest) -> RerankResponse {
        self.client.rerank(request.clone()).await.unwrap().into_inner()
    }
}

fn order(response: &RerankResponse) -> Vec<&str> {
    response.results.iter().map(|result| result.item_id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_scored_and_explained_from_evidence() {
    let mut demo = Demo::start().await;
    let bundle = Bundle::open(&demo_bundle()).unwrap();
    let (mut explained, mut personal) = (0, 0);
    for sample in demo.samples.clone() {
        let response = demo.rerank(&sample).await;
        assert_eq!(response.quality(), demo.top, "{:?}", response.shortfalls);
        assert_eq!(response.results.len(), sample.top_n as usize);
        let user = sample.user.as_ref().unwrap().user_id.as_str().into();
        let history: BTreeSet<u32> =
            bundle.cards.users[&user].history.iter().map(|past| past.item).collect();
        for result in &response.results {
            explained += usize::from(!result.reasons.is_empty());
            for reason in &result.reasons {
                assert!(!reason.evidence.is_empty() && reason.weight > 0.0, "{reason:?}");
                assert_eq!(reason.bundle, response.bundle);
                for evidence in &reason.evidence {
                    if evidence.kind() == EvidenceKind::CoPurchase {
                        let other = bundle.catalog.number(&evidence.item_id.as_str().into());
                        let other = other.expect("evidence cites items of the catalogue");
                        assert!(reason.text.contains(&*bundle.catalog.item(other).title));
                        personal += usize::from(history.contains(&other));
                    }
                }
            }
        }
    }
    assert!(explained >= demo.samples.len() * 4, "{explained} of the shown items have reasons");
    assert!(personal > 0, "no reason cites an item that the shopper bought");
    demo.app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scorers_logit_depends_on_neither_order_nor_batch() {
    let mut demo = Demo::start().await;
    let sample = RerankRequest { top_n: 0, ..demo.samples[0].clone() };
    let logits = |response: &RerankResponse| {
        let each = response.results.iter().map(|result| {
            (result.item_id.clone(), result.scores.and_then(|scores| scores.scorer).unwrap())
        });
        let mut all: Vec<_> = each.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let mut reversed = sample.clone();
    reversed.candidates.reverse();
    let mut alone = sample.clone();
    alone.candidates.truncate(1);
    // Scores depend on the age of events in seconds, so all three requests must fall into one second.
    let second = || UNIX_EPOCH.elapsed().unwrap().as_secs();
    let mut answers = None;
    for _ in 0..20 {
        let start = second();
        let three = (
            logits(&demo.rerank(&sample).await),
            logits(&demo.rerank(&reversed).await),
            logits(&demo.rerank(&alone).await),
        );
        if second() == start {
            answers = Some(three);
            break;
        }
    }
    let (all, reversed, alone) = answers.expect("one of twenty attempts stays within a second");
    assert_eq!(reversed, all);
    assert!(all.contains(&alone[0]));
}

/// A query whose words stand beside each other in an item's material is answered first, and none of its words is
/// echoed. What a query refuses is no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_answers_the_query_comes_first() {
    let mut demo = Demo::start().await;
    let bundle = Bundle::open(&demo_bundle()).unwrap();
    let catalog = &bundle.catalog;
    let material = |id: &str| {
        let item = catalog.item(catalog.number(&id.into()).unwrap());
        let mut all = catalog.attributes_of(item);
        all.find(|(name, _)| &***name == "material").map(|(_, value)| value.to_string())
    };
    let sample = demo.samples[0].clone();
    let ids: Vec<String> = sample.candidates.iter().map(|of| of.item_id.clone()).collect();
    let wanted = ids.iter().find_map(|id| material(id)).unwrap();
    let ask = |text: String| RerankRequest {
        query: text,
        top_n: 0,
        effort: pb::Effort::Scored.into(),
        reasons_per_item: 2,
        ..sample.clone()
    };
    let answer = demo.rerank(&ask(format!("QXZZY {} qxzzy", wanted.to_uppercase()))).await;
    let mut answered = 0;
    for result in &answer.results {
        let first = result.reasons.first();
        let asked = first.filter(|reason| reason.evidence[0].kind() == EvidenceKind::Asked);
        assert_eq!(
            asked.is_some(),
            material(&result.item_id).as_ref() == Some(&wanted),
            "{result:?}"
        );
        if let Some(reason) = asked {
            let evidence = &reason.evidence[0];
            assert_eq!((&*evidence.attribute, &evidence.value), ("material", &wanted));
            assert!(reason.text.ends_with(", as you asked.") && !reason.text.contains("QXZZY"));
            answered += 1;
        }
        assert!(result.reasons.len() <= 2);
        let rest = result.reasons.iter().skip(1);
        assert!(rest.flat_map(|reason| &reason.evidence).all(|e| e.kind() != EvidenceKind::Asked));
    }
    assert!(answered > 0);
    for refused in [format!("no {wanted}"), String::new(), "🎁".into(), "โต๊ะไม้".into()]
    {
        let answer = demo.rerank(&ask(refused.clone())).await;
        let reasons = answer.results.iter().flat_map(|result| &result.reasons);
        let mut evidence = reasons.flat_map(|reason| &reason.evidence);
        assert!(evidence.all(|evidence| evidence.kind() != EvidenceKind::Asked), "{refused}");
    }
    demo.app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_give_two_orders_and_other_reasons() {
    let mut demo = Demo::start().await;
    let slate = RerankRequest { top_n: 10, ..demo.samples[0].clone() };
    let mut answers = BTreeSet::new();
    for sample in demo.samples.clone() {
        let response = demo.rerank(&RerankRequest { user: sample.user, ..slate.clone() }).await;
        let reasons = response.results.iter().flat_map(|result| &result.reasons);
        let texts: Vec<String> = reasons.map(|reason| reason.text.clone()).collect();
        answers.insert((order(&response).join(" "), texts));
    }
    assert_eq!(answers.len(), demo.samples.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_shoppers_are_served_too() {
    let mut demo = Demo::start().await;
    let mut request = RerankRequest { top_n: 0, ..demo.samples[0].clone() };
    request.user = Some(pb::User { user_id: "nobody-knows-me".into(), ..pb::User::default() });
    let response = demo.rerank(&request).await;
    assert_eq!(response.quality(), demo.top);
    assert!(response.shortfalls.is_empty());
    assert_eq!(response.results.len(), request.candidates.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn history_given_inline_wins_over_the_stored_one() {
    let mut demo = Demo::start().await;
    let known = RerankRequest { top_n: 0, ..demo.samples[0].clone() };
    let bundle = Bundle::open(&demo_bundle()).unwrap();
    let mut inline = known.clone();
    let other = demo.samples[1].user.as_ref().unwrap().user_id.as_str().into();
    let history = bundle.cards.users[&other].history.iter().map(|past| pb::Event {
        item_id: bundle.catalog.item(past.item).id.as_str().into(),
        time: Some(pbjson_types::Timestamp { seconds: past.time, nanos: 0 }),
        kind: pb::EventKind::Purchase.into(),
    });
    inline.user.as_mut().unwrap().history = history.collect();
    let (known, inline) = (demo.rerank(&known).await, demo.rerank(&inline).await);
    assert_eq!(inline.quality(), demo.top);
    assert_ne!(order(&known), order(&inline));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_items_keep_their_order_and_inline_items_are_scored() {
    let mut demo = Demo::start().await;
    let mut request = RerankRequest { top_n: 0, ..demo.samples[0].clone() };
    let unknown = |id: &str| pb::Candidate { item_id: id.into(), ..pb::Candidate::default() };
    request.candidates.insert(0, unknown("no-such-item-1"));
    request.candidates.insert(5, unknown("no-such-item-2"));
    let item = pb::Item {
        title: "Walnut Serving Board".into(),
        category: "kitchen".into(),
        ..pb::Item::default()
    };
    request.candidates.insert(
        9,
        pb::Candidate { item_id: "brand-new".into(), prior_score: None, item: Some(item) },
    );
    let response = demo.rerank(&request).await;
    assert_eq!(response.quality(), demo.top);
    assert_eq!(response.shortfalls.len(), 1);
    assert_eq!(response.shortfalls[0].why(), pb::Why::Missing);
    let order = order(&response);
    assert_eq!(order[order.len() - 2..], ["no-such-item-1", "no-such-item-2"]);
    let inline = response.results.iter().find(|result| result.item_id == "brand-new").unwrap();
    assert!(inline.scores.and_then(|scores| scores.scorer).is_some());

    request.candidates = vec![unknown("no-such-item-2"), unknown("no-such-item-1")];
    let response = demo.rerank(&request).await;
    assert_eq!(response.quality(), Quality::Given);
    assert_eq!(self::order(&response), ["no-such-item-2", "no-such-item-1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn live_reasons_name_only_what_there_is() {
    check_live_reasons(80).await;
}

/// `cargo test --release --test demo thousand -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn live_reasons_of_a_thousand_shoppers_name_only_what_there_is() {
    check_live_reasons(5).await;
}

/// A sentence of the language model becomes a reason only if the shop's data proves it. Checks every `apart`-th shopper.
async fn check_live_reasons(apart: usize) {
    let mut demo = Demo::start().await;
    let bundle = Bundle::open(&demo_bundle()).unwrap();
    let catalog = &bundle.catalog;
    let mut users: Vec<_> = bundle.cards.users.iter().collect();
    users.sort_by(|a, b| a.0.cmp(b.0));
    let (mut requests, mut live, mut thoughts) = (0, 0, 0);
    for (at, (user, card)) in users.into_iter().step_by(apart).enumerate() {
        let sample = demo.samples[at % demo.samples.len()].clone();
        let response = demo
            .rerank(&RerankRequest {
                user: Some(pb::User { user_id: user.to_string(), ..pb::User::default() }),
                explain: pb::Explain::Live.into(),
                top_n: 0,
                ..sample
            })
            .await;
        requests += 1;
        thoughts += usize::from(!response.rationale.is_empty());
        let had = |title: &str| card.history.iter().any(|p| *catalog.item(p.item).title == *title);
        for result in &response.results {
            let title =
                &*catalog.item(catalog.number(&result.item_id.as_str().into()).unwrap()).title;
            let written = result.reasons.iter().filter(|r| r.source() == pb::Source::Live);
            for reason in written {
                live += 1;
                assert!(response.rationale.ends_with(&reason.text), "{reason:?}");
                assert!(reason.text.starts_with(title), "{reason:?} is not of {title}");
                let [evidence] = &reason.evidence[..] else { panic!("{reason:?}") };
                match evidence.kind() {
                    EvidenceKind::CoPurchase => {
                        let other = catalog.number(&evidence.item_id.as_str().into()).unwrap();
                        let other = &*catalog.item(other).title;
                        assert_eq!(reason.text, format!("{title} goes with {other}."));
                        assert!(had(other), "{other} is not in the history");
                    }
                    EvidenceKind::Attribute => {
                        assert_eq!(reason.text, format!("{title} is {}.", evidence.value));
                    }
                    kind => panic!("{kind:?} is no evidence for {:?}", reason.text),
                }
            }
        }
    }
    println!("{requests} requests, {live} live reasons, {thoughts} proved thoughts");
    assert!(demo.top < Quality::Reasoned || live > 0, "no thought is proved");
}
