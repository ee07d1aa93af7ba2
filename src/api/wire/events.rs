//! Events to take, and what became of them.

use super::super::error::{ApiError, Violation};
use super::super::pb;
use super::super::validator::Validator;
use super::{RequestContext, event_kind, request_id};
use crate::domain::limits::EVENTS_MAX;
use crate::domain::{Event, EventKind};
use crate::events::{NewEvent, RecordCall, RecordOutcome, Refusal, Uncounted};
use std::sync::Arc;

/// What a response to events will need.
#[derive(Debug)]
pub struct RecordContext {
    request_id: Arc<str>,
    /// Events that were left out before the others were looked at.
    refused: Vec<pb::RefusedEvent>,
}

/// Decodes and validates events. Times are checked by whoever knows which events were taken before.
pub fn record_call(
    request: pb::RecordEventsRequest,
    context: RequestContext,
) -> Result<(RecordContext, RecordCall), ApiError> {
    let pb::RecordEventsRequest { request_id: id, events, take_valid } = request;
    let mut validator = Validator::default();
    let request_id = request_id(&mut validator, id, context.request_id);
    if events.is_empty() {
        validator.reject("events", format_args!("is empty; 1 to {EVENTS_MAX} are allowed"));
    }
    validator.count("events", events.len(), EVENTS_MAX);
    let (mut valid, mut refused) = (Vec::with_capacity(events.len().min(EVENTS_MAX)), Vec::new());
    for (index, event) in events.into_iter().take(EVENTS_MAX).enumerate() {
        if !take_valid {
            valid.push(shopper_event(&mut validator, index, event));
            continue;
        }
        let mut own = Validator::default();
        let event = shopper_event(&mut own, index, event);
        match own.into_first() {
            None => valid.push(event),
            Some(Violation { field, problem }) => {
                refused.push(pb::RefusedEvent { index: index as u32, field, problem });
            }
        }
    }
    let call = RecordCall { events: valid, take_valid, now: context.now };
    validator.finish((RecordContext { request_id, refused }, call))
}

// === impl RecordContext ===

impl RecordContext {
    /// Encodes what became of the events.
    pub fn response(self, outcome: RecordOutcome) -> pb::RecordEventsResponse {
        let RecordOutcome { taken, known, refused: others, uncounted } = outcome;
        let Self { request_id, mut refused } = self;
        refused.extend(others.iter().map(|(index, refusal)| pb::RefusedEvent {
            index: *index,
            field: refused_field(*index, refusal),
            problem: refusal.to_string(),
        }));
        refused.sort_by_key(|event| event.index);
        let uncounted = uncounted.into_iter().map(|(index, why)| {
            let why = match why {
                Uncounted::UnknownItem => pb::WhyUncounted::UnknownItem,
                Uncounted::BeforeBundle => pb::WhyUncounted::BeforeBundle,
            };
            pb::UncountedEvent { index, why: why.into() }
        });
        pb::RecordEventsResponse {
            request_id: request_id.to_string(),
            taken,
            known,
            refused,
            uncounted: uncounted.collect(),
        }
    }

    /// The error of a call that was refused as a whole.
    pub fn refused(refused: &[(u32, Refusal)]) -> ApiError {
        let mut validator = Validator::default();
        for (index, refusal) in refused {
            validator.reject(refused_field(*index, refusal), refusal);
        }
        validator.into_error()
    }
}

fn refused_field(index: u32, refusal: &Refusal) -> String {
    format!("events[{index}].{}", refusal.field())
}

fn shopper_event(validator: &mut Validator, i: usize, event: pb::ShopperEvent) -> NewEvent {
    let pb::ShopperEvent { event_id, user_id, item_id, time, kind } = event;
    validator.id(format_args!("events[{i}].event_id"), &event_id);
    validator.id(format_args!("events[{i}].user_id"), &user_id);
    validator.id(format_args!("events[{i}].item_id"), &item_id);
    if time.is_none() {
        validator.reject(format_args!("events[{i}].time"), "is missing, but required");
    }
    let time = time.map(|time| time.seconds).unwrap_or_default();
    let kind = event_kind(validator, format_args!("events[{i}].kind"), kind);
    let event = Event { item: item_id.into(), time, kind };
    NewEvent { index: i as u32, id: event_id, user: user_id.into(), event }
}

impl From<EventKind> for pb::EventKind {
    fn from(kind: EventKind) -> Self {
        match kind {
            EventKind::Impression => Self::Impression,
            EventKind::Click => Self::Click,
            EventKind::Cart => Self::Cart,
            EventKind::Purchase => Self::Purchase,
            EventKind::Dismissal => Self::Dismissal,
        }
    }
}
