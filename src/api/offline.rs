//! Requests from a file: the messages and the conversion of a call, without a server around them.
//!
//! A request from a file may say its own moment, `time`. It is then answered as of that moment: of every history, only the
//! events before it are read. A call can't say that: there, `time` is an unknown field.

use super::error::ApiError;
use super::handler::{last_answer, wall_clock};
use super::http::decode_json;
use super::pb;
use super::wire::{self, RequestContext, ResponseContext, TIME_MIN};
use crate::domain::{Deadline, Timestamp};
use crate::rank::Ladder;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error as _, IntoDeserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The field with a request's own moment.
const TIME: &str = "time";
/// The last second of the year 9999, the latest that a protobuf timestamp can express.
const TIME_MAX: Timestamp = 253_402_300_799;
/// The time that a request gets if nothing limits it: a year.
const UNLIMITED: Duration = Duration::from_hours(365 * 24);

/// A request from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct OfflineRequest {
    /// The message, as a call carries it.
    pub message: pb::RerankRequest,
    /// Its moment, in Unix seconds, if it says one.
    pub time: Option<Timestamp>,
}

/// What holds for every request of a file.
#[derive(Clone, Copy, Debug)]
pub struct OfflineTerms {
    /// When the run began, by the wall clock.
    pub begun: Timestamp,
    /// The moment of all requests that don't say their own.
    pub time: Option<Timestamp>,
    /// The highest rung for requests that say none.
    pub effort: pb::Effort,
    /// How long a request may take; without it, as long as it takes.
    pub timeout: Option<Duration>,
}

/// An answered request from a file.
#[derive(Clone, Debug, PartialEq)]
pub struct OfflineAnswer {
    /// The shopper's id.
    pub user: String,
    /// The moment that it was answered as of, if it is not the present.
    pub time: Option<Timestamp>,
    /// The answer, as a call gets it.
    pub response: pb::RerankResponse,
}

// === impl OfflineTerms ===

impl OfflineTerms {
    /// A run that begins now, with the defaults of a call and without a limit of time.
    pub fn now() -> Self {
        Self { begun: wall_clock(), time: None, effort: pb::Effort::Unspecified, timeout: None }
    }
}

// === impl OfflineRequest ===

impl OfflineRequest {
    /// Decodes a request from proto3 JSON. An error names the path of the field that is wrong.
    pub fn decode(json: &[u8]) -> Result<Self, ApiError> {
        let request: Self = decode_json(json)?;
        match request.time {
            Some(time) => {
                check_time(time).map(|()| request).map_err(|why| ApiError::field(TIME, why))
            }
            None => Ok(request),
        }
    }

    /// Its answer by a ladder. `number` is its line in the file, which names it if it has no id.
    pub async fn answer(
        self,
        ladder: Arc<Ladder>,
        terms: OfflineTerms,
        number: u64,
    ) -> Result<OfflineAnswer, ApiError> {
        let Self { mut message, time } = self;
        let time = time.or(terms.time);
        if message.effort == pb::Effort::Unspecified as i32 {
            message.effort = terms.effort.into();
        }
        let user = message.user.as_ref().map(|user| user.user_id.clone()).unwrap_or_default();
        let context = RequestContext {
            request_id: format!("line-{number}").into(),
            now: time.unwrap_or(terms.begun),
            is_replay: time.is_some(),
            deadline: Deadline::after(Instant::now(), terms.timeout.unwrap_or(UNLIMITED)),
        };
        let query = wire::rerank_query(message, context)?;
        if let Some(other) = query.bundle.as_ref().filter(|version| *version != ladder.version()) {
            return Err(ApiError::not_found("bundle", other.as_str()));
        }
        let context = ResponseContext::of(&query);
        let answer = last_answer(ladder.climb(query)).await;
        Ok(OfflineAnswer { user, time, response: context.response(answer) })
    }
}

/// Decodes the requests of a JSON list, as a call's are decoded.
pub fn requests_of(json: &[u8]) -> Result<Vec<pb::RerankRequest>, ApiError> {
    decode_json(json)
}

/// Parses a moment as a request writes it: `2026-06-01T00:00:00Z`.
pub fn parse_time(text: &str) -> Result<Timestamp, String> {
    let time = pbjson_types::Timestamp::deserialize(text.into_deserializer());
    let time = time.map_err(|error: serde::de::value::Error| {
        format!("{error}; a moment is written like 2026-06-01T00:00:00Z")
    })?;
    check_time(time.seconds).map(|()| time.seconds)
}

/// Checks that a moment is one that a protobuf timestamp can express.
fn check_time(time: Timestamp) -> Result<(), String> {
    if (TIME_MIN..=TIME_MAX).contains(&time) {
        return Ok(());
    }
    Err(format!("is {time} s, outside of the years 1 to 9999"))
}

impl<'de> Deserialize<'de> for OfflineRequest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OfflineVisitor)
    }
}

struct OfflineVisitor;

impl<'de> Visitor<'de> for OfflineVisitor {
    type Value = OfflineRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("struct raisonne.v1.RerankRequest")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OfflineRequest, A::Error> {
        let mut moment = SaidMoment::default();
        let rest = WithoutTime { map, moment: &mut moment };
        let message = pb::RerankRequest::deserialize(MapAccessDeserializer::new(rest))?;
        let time = moment.time.map(|time| time.seconds);
        Ok(OfflineRequest { message, time })
    }
}

/// The fields of a request, without its moment, which is kept apart.
struct WithoutTime<'t, A> {
    map: A,
    moment: &'t mut SaidMoment,
}

/// The moment of a request, and whether its field was there.
#[derive(Default)]
struct SaidMoment {
    is_said: bool,
    time: Option<pbjson_types::Timestamp>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutTime<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.map.next_key::<String>()? {
            if name != TIME {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            if self.moment.is_said {
                return Err(A::Error::duplicate_field(TIME));
            }
            *self.moment = SaidMoment { is_said: true, time: self.map.next_value()? };
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = r#""user":{"userId":"u"},"candidates":[{"itemId":"a"}]"#;

    #[test]
    fn a_line_is_the_message_of_a_call_with_perhaps_a_moment() {
        let table = [
            (String::new(), None),
            (r#""time":"2024-03-01T00:00:00Z","#.into(), Some(1_709_251_200)),
            (r#""time":"2024-03-01T02:00:00+02:00","#.into(), Some(1_709_251_200)),
            (r#""time":"2024-03-01T00:00:00.75Z","#.into(), Some(1_709_251_200)),
            (r#""time":null,"#.into(), None),
        ];
        let plain: pb::RerankRequest = serde_json::from_str(&format!("{{{REST}}}")).unwrap();
        for (field, time) in table {
            let request = OfflineRequest::decode(format!("{{{field}{REST}}}").as_bytes()).unwrap();
            assert_eq!(request, OfflineRequest { message: plain.clone(), time }, "{field}");
        }
    }

    #[test]
    fn what_a_call_refuses_is_refused_in_the_same_words() {
        let table = [
            r#"{"user":{"userId":7}}"#,
            r#"{"candidates":[{"itemId":"a","priorScore":"x"}]}"#,
            r#"{"candidates":{}}"#,
            r#"{"nonsense":1}"#,
            r#"{"user":{"userId":"u"},"user":{"userId":"u"}}"#,
            r#"{"effort":"EFFORT_HUGE"}"#,
            "[1]",
            "7",
            "{} {}",
            "{",
            "",
            "\u{feff}{}",
        ];
        for json in table {
            let offline = OfflineRequest::decode(json.as_bytes()).unwrap_err();
            let call = decode_json::<pb::RerankRequest>(json.as_bytes()).unwrap_err().to_string();
            // A file's unknown field is named once, a call's twice.
            let call = call.strip_prefix("nonsense ").unwrap_or(&call);
            let words = |text: &str| text.split(" at line ").next().unwrap().to_owned();
            assert_eq!(words(&offline.to_string()), words(call), "{json}");
        }
    }

    #[test]
    fn a_moment_is_a_time_that_is_said_once_and_only_in_a_file() {
        let table = [
            (r#"{"time":"yesterday"}"#, "time cannot be decoded"),
            (r#"{"time":1700000000}"#, "time cannot be decoded"),
            (r#"{"time":"2024-03-01"}"#, "time cannot be decoded"),
            (
                r#"{"time":"2024-03-01T00:00:00Z","time":"2024-03-01T00:00:00Z"}"#,
                "duplicate field `time`",
            ),
            (r#"{"time":"+12024-03-01T00:00:00Z"}"#, "time cannot be decoded"),
        ];
        for (json, why) in table {
            let error = OfflineRequest::decode(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{json}: {error}");
        }
        let json = format!(r#"{{"time":"2024-03-01T00:00:00Z",{REST}}}"#);
        let error = decode_json::<pb::RerankRequest>(json.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("unknown field `time`"), "{error}");
    }
}
