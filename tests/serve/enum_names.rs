//! Every enum of every request, in every form that JSON may write it, and `null` in every field.

use super::{Server, StubRung};
use http::StatusCode;
use prost::Message as _;
use prost_types::FileDescriptorProto;
use prost_types::field_descriptor_proto::{Label, Type};
use raisonne::api::pb;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Reads a message, and writes it again.
type ReadAgain = fn(&Value) -> Value;

/// The requests that HTTP takes: path, message, and how it is read.
const REQUESTS: [(&str, &str, ReadAgain); 4] = [
    ("/api/v1/rerank", "RerankRequest", read_again::<pb::RerankRequest>),
    ("/api/v1/explain", "ExplainRequest", read_again::<pb::ExplainRequest>),
    ("/api/v1/items", "PutItemsRequest", read_again::<pb::PutItemsRequest>),
    ("/api/v1/events", "RecordEventsRequest", read_again::<pb::RecordEventsRequest>),
];

fn read_again<M: DeserializeOwned + Serialize>(message: &Value) -> Value {
    let read: M = serde_json::from_value(message.clone()).unwrap();
    serde_json::to_value(read).unwrap()
}

/// Where a message has an enum.
#[derive(Clone)]
struct Place {
    /// The fields that lead there, and whether each is a list.
    fields: Vec<(String, bool)>,
    listed: String,
}

impl Place {
    /// A message with this value there.
    fn message(&self, value: Value) -> Value {
        self.fields.iter().rev().fold(
            value,
            |inner, (name, is_list)| json!({ name: if *is_list { json!([inner]) } else { inner } }),
        )
    }

    /// The path as an error names it: `user.history[0].kind`.
    fn path(&self) -> String {
        let fields = self.fields.iter();
        let fields = fields.map(|(name, list)| format!("{name}{}", if *list { "[0]" } else { "" }));
        fields.collect::<Vec<_>>().join(".")
    }
}

fn contract() -> FileDescriptorProto {
    let set = prost_types::FileDescriptorSet::decode(pb::DESCRIPTORS).unwrap();
    set.file.into_iter().find(|file| file.package() == "raisonne.v1").unwrap()
}

/// All places of enums in a message. The contract's requests are not recursive.
fn places(contract: &FileDescriptorProto, message: &str) -> Vec<Place> {
    let message = contract.message_type.iter().find(|listed| listed.name() == message);
    let mut places = Vec::new();
    for field in message.map(|message| message.field.as_slice()).unwrap_or_default() {
        let step = (field.name().to_owned(), field.label() == Label::Repeated);
        let listed = field.type_name().rsplit('.').next().unwrap().to_owned();
        match field.r#type() {
            Type::Enum => places.push(Place { fields: vec![step], listed }),
            Type::Message => places.extend(self::places(contract, &listed).into_iter().map(
                |Place { fields, listed }| Place {
                    fields: [vec![step.clone()], fields].concat(),
                    listed,
                },
            )),
            _ => {}
        }
    }
    places
}

/// Names and numbers of an enum's values, and the prefix of the names.
fn values(contract: &FileDescriptorProto, listed: &str) -> (Vec<(String, i32)>, String) {
    let listed = contract.enum_type.iter().find(|known| known.name() == listed).unwrap();
    let values = listed.value.iter().map(|value| (value.name().to_owned(), value.number()));
    let prefix = listed.value[0].name().strip_suffix("UNSPECIFIED").unwrap().to_owned();
    (values.collect(), prefix)
}

#[tokio::test]
async fn enums_are_read_with_and_without_their_prefix_in_any_case() {
    let (server, contract) = (Server::of(StubRung::default()).await, contract());
    let mut seen = 0;
    for (path, message, read_again) in REQUESTS {
        for place in places(&contract, message) {
            let (values, prefix) = values(&contract, &place.listed);
            for (name, number) in &values {
                let bare = name.strip_prefix(&prefix).unwrap();
                let mixed = format!("{}{}", &bare[..1], bare[1..].to_lowercase());
                let lower = name.to_lowercase();
                let forms: [&str; 5] = [name, bare, &lower, &bare.to_lowercase(), &mixed];
                let mut forms: Vec<Value> = forms.map(Value::from).into();
                forms.push((*number).into());
                if *number == 0 {
                    forms.push(Value::Null);
                }
                let wanted = read_again(&place.message(name.as_str().into()));
                for form in forms {
                    let body = place.message(form);
                    assert_eq!(read_again(&body), wanted, "{body}");
                    let reply = server.post(path, body.to_string()).await;
                    assert!(!reply.text().contains("decoded"), "{body}: {}", reply.text());
                    seen += 1;
                }
            }
        }
    }
    // Effort, explain and criticality, and the kind of an event in three requests.
    assert!(seen >= 6 * (6 + 4 + 4 + 3 * 6), "{seen}");
}

#[tokio::test]
async fn an_unknown_enum_value_is_refused_with_its_field_and_the_names() {
    let (server, contract) = (Server::of(StubRung::default()).await, contract());
    for (path, message, _) in REQUESTS {
        for place in places(&contract, message) {
            let (values, prefix) = values(&contract, &place.listed);
            let twice = format!("{prefix}{}", values[1].0);
            let wrong = [
                (json!("bought"), "`bought`"),
                (json!(""), "``"),
                (json!(prefix), prefix.as_str()),
                (json!(twice), twice.as_str()),
                (json!("é".repeat(100)), "éé…`"),
                (json!(99), "`99`"),
                (json!(-1), "`-1`"),
                (json!(u64::MAX), "18446744073709551615"),
                (json!(1.5), "1.5"),
                (json!(true), "true"),
                (json!(["click"]), "sequence"),
                (json!({}), "map"),
            ];
            for (value, shown) in wrong {
                let body = place.message(value);
                let reply = server.post(path, body.to_string()).await;
                assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{body}");
                let error = &reply.json()["error"];
                assert_eq!(error["param"], place.path(), "{body}");
                let message = error["message"].as_str().unwrap();
                assert!(message.contains(shown), "{body}: {message}");
                for (name, _) in &values {
                    let name = format!("`{}`", name.strip_prefix(&prefix).unwrap());
                    assert!(message.contains(&name), "{body}: {message}");
                }
            }
        }
    }
}

#[test]
fn null_is_an_absent_field() {
    let contract = contract();
    let messages: [(&str, ReadAgain); 6] = [
        ("User", read_again::<pb::User>),
        ("Event", read_again::<pb::Event>),
        ("Candidate", read_again::<pb::Candidate>),
        ("Item", read_again::<pb::Item>),
        ("NewItem", read_again::<pb::NewItem>),
        ("ShopperEvent", read_again::<pb::ShopperEvent>),
    ];
    let requests = REQUESTS.map(|(_, message, read_again)| (message, read_again));
    for (message, read_again) in messages.into_iter().chain(requests) {
        let listed = contract.message_type.iter().find(|listed| listed.name() == message).unwrap();
        for field in &listed.field {
            for name in [field.name(), field.json_name()] {
                let body = json!({ name: null });
                assert_eq!(read_again(&body), read_again(&json!({})), "{message}: {body}");
            }
        }
    }
}
