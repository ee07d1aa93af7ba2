//! What clients and dashboards rely on: the contract, its JSON and the names of metrics.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use prost::Message as _;
use raisonne::api::pb;
use raisonne::telemetry::{EngineLoad, EngineStep, Metrics};
use std::fmt::Write as _;
use std::time::Duration;

/// One line for each method, field and enum value of the contract.
fn outline() -> String {
    let set = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
    let file = set.file.iter().find(|file| file.package() == "raisonne.v1").unwrap();
    let mut lines = String::new();
    for service in &file.service {
        for method in &service.method {
            let stream = if method.server_streaming() { "stream " } else { "" };
            let [input, output] = [method.input_type(), method.output_type()].map(short);
            writeln!(
                lines,
                "rpc {}.{}({input}) -> {stream}{output}",
                service.name(),
                method.name()
            )
            .unwrap();
        }
    }
    for message in &file.message_type {
        for field in &message.field {
            let kind = match field.type_name() {
                "" => format!("{:?}", field.r#type()).to_lowercase(),
                name => short(name).to_owned(),
            };
            let label = match field.label() {
                prost_types::field_descriptor_proto::Label::Repeated => "repeated ",
                _ if field.proto3_optional() => "optional ",
                _ => "",
            };
            let (message, name, number) = (message.name(), field.name(), field.number());
            writeln!(lines, "{message}.{name} = {number}: {label}{kind}").unwrap();
        }
    }
    for listed in &file.enum_type {
        for value in &listed.value {
            writeln!(lines, "{} = {}", value.name(), value.number()).unwrap();
        }
    }
    lines
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

#[test]
fn the_contract_on_the_wire_is_the_one_promised() {
    insta::assert_snapshot!(outline());
}

#[test]
fn everything_in_the_contract_has_a_comment() {
    let set = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
    let file = set.file.iter().find(|file| file.package() == "raisonne.v1").unwrap();
    let info = file.source_code_info.as_ref().unwrap();
    let commented = |path: &[i32]| {
        info.location.iter().any(|at| at.path == path && !at.leading_comments().is_empty())
    };
    for (m, message) in (0..).zip(&file.message_type) {
        assert!(commented(&[4, m]), "{}", message.name());
        for (f, field) in (0..).zip(&message.field) {
            assert!(commented(&[4, m, 2, f]), "{}.{}", message.name(), field.name());
        }
    }
    for (e, listed) in (0..).zip(&file.enum_type) {
        assert!(listed.value[0].name().ends_with("_UNSPECIFIED"), "{}", listed.name());
        for (v, value) in (0..).zip(&listed.value) {
            assert!(commented(&[5, e, 2, v]), "{}", value.name());
        }
    }
    for (r, method) in (0..).zip(&file.service[0].method) {
        assert!(commented(&[6, 0, 2, r]), "{}", method.name());
    }
}

#[test]
fn json_is_written_in_camel_case_with_every_field() {
    let response = pb::RerankResponse {
        request_id: "r".into(),
        results: vec![pb::Result {
            item_id: "mug".into(),
            rank: 1,
            input_rank: 3,
            score: 0.0,
            scores: Some(pb::Scores { prior: Some(0.5), ..Default::default() }),
            reasons: vec![pb::Reason {
                text: "Often bought with the kettle".into(),
                source: pb::Source::Evidence.into(),
                evidence: vec![pb::Evidence {
                    kind: pb::EvidenceKind::CoPurchase.into(),
                    item_id: "kettle".into(),
                    count: 12,
                    of: 40,
                    ..Default::default()
                }],
                weight: 0.25,
                bundle: "demo-1".into(),
                written_at: Some(pbjson_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            }],
        }],
        quality: pb::Quality::Scored.into(),
        shortfalls: vec![pb::Shortfall {
            quality: pb::Quality::Scored.into(),
            why: pb::Why::Missing.into(),
            missing: "cards".into(),
        }],
        bundle: "demo-1".into(),
        receipt: Some(pb::Receipt {
            queue: Some(Duration::from_micros(20).into()),
            compute: Some(Duration::from_micros(1_400).into()),
            card_hits: 1,
            prompt_tokens: 250,
            cached_tokens: 240,
            generated_tokens: 200,
            ..Default::default()
        }),
        rationale: String::new(),
    };
    insta::assert_snapshot!(serde_json::to_string_pretty(&response).unwrap());
}

#[test]
fn json_is_read_in_camel_case_and_in_the_contracts_own_names() {
    let camel = r#"{"user":{"userId":"u"},"candidates":[{"itemId":"a","priorScore":0.5}],
        "topN":1,"effort":"EFFORT_SCORED"}"#;
    let own = r#"{"user":{"user_id":"u"},"candidates":[{"item_id":"a","prior_score":0.5}],
        "top_n":1,"effort":2}"#;
    let [camel, own] =
        [camel, own].map(|json| serde_json::from_str::<pb::RerankRequest>(json).unwrap());
    assert_eq!(camel, own);
    assert_eq!(own.effort(), pb::Effort::Scored);
}

#[test]
fn metrics_have_the_names_that_dashboards_read() {
    let metrics = Metrics::new();
    metrics.request("Rerank", "scored", "OK", Duration::from_millis(1));
    metrics.rung("scored", Duration::from_millis(1));
    metrics.shortfall("scored", "late");
    metrics.identity();
    metrics.scored(100, Duration::from_millis(1));
    metrics.cards("memory", 1);
    metrics.bundle("stable", "demo-1", None);
    metrics.swap("swapped");
    metrics.events("taken", 1);
    metrics.events_waiting(0);
    metrics.events_stored(Duration::from_millis(1));
    metrics.engine_step(&EngineStep {
        rows: 3,
        prefill_tokens: 2,
        decode_tokens: 1,
        preempted: 1,
        prefix_hit_tokens: 16,
        took: Duration::from_millis(1),
    });
    metrics.engine_load(&EngineLoad { running: 1, waiting: 0, pages: [1, 2, 3] });
    let text = metrics.render();
    let described = |line: &&str| line.starts_with("# ") || line.contains("le=\"0.0005\"");
    let mut lines: Vec<_> = text.lines().filter(described).collect();
    lines.sort_unstable_by_key(|line| line.trim_start_matches(['#', ' ']).replace("TYPE", "Z"));
    insta::assert_snapshot!(lines.join("\n"));
}
