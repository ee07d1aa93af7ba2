//! Converts between the contract's messages and the domain's types. No other file knows both.
//!
//! Conversions destructure every field, so that a new one cannot be forgotten.

mod events;
mod items;

pub use events::{RecordContext, record_call};
pub use items::{ItemsPut, item_puts};

use super::error::ApiError;
use super::pb;
use super::validator::Validator;
use crate::domain::limits::{
    ATTRIBUTE_BYTES_MAX, ATTRIBUTES_MAX, CANDIDATES_MAX, CLOCK_SKEW_S_MAX, HISTORY_MAX,
    ID_BYTES_MAX, LABELS_MAX, QUERY_BYTES_MAX, REASONS_PER_ITEM_MAX, TITLE_BYTES_MAX,
};
use crate::domain::{
    Candidate, Criticality, Deadline, Effort, Event, EventKind, Evidence, EvidenceKind, Explain,
    ItemId, ItemText, Quality, Query, Ranked, Reason, ReasonSource, Scores, Timestamp, UserId,
    Version,
};
use crate::rank::{ClimbAnswer, Receipt, Shortfall};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::sync::Arc;

/// Reasons per item of a request that states no number.
const REASONS_PER_ITEM_DEFAULT: usize = 3;
/// Bytes of a language tag.
const LOCALE_BYTES_MAX: usize = 35;
/// The first second that a protobuf timestamp can express: the year 1.
pub(super) const TIME_MIN: Timestamp = -62_135_596_800;

/// What a call states outside its message.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request's id, if the message gives none.
    pub request_id: Arc<str>,
    /// When the request arrived, by the wall clock; of a replay, its moment in the past.
    pub now: Timestamp,
    /// Whether it is a replay: of every history, only the events before `now` are read.
    pub is_replay: bool,
    /// When the climb must end.
    pub deadline: Deadline,
}

/// What a response needs of its query. The ladder owns the query by then.
#[derive(Debug)]
pub struct ResponseContext {
    request_id: Arc<str>,
    items: Vec<ItemId>,
    top_n: usize,
}

/// Decodes and validates a request to rank.
pub fn rerank_query(
    request: pb::RerankRequest,
    context: RequestContext,
) -> Result<Query, ApiError> {
    let pb::RerankRequest {
        request_id,
        user,
        query,
        candidates,
        top_n,
        effort,
        explain,
        reasons_per_item,
        locale,
        criticality,
        bundle,
        labels,
        seed: _, // This release draws no random numbers while it ranks.
    } = request;
    let mut validator = Validator::default();
    let (user, history, profile) = shopper(&mut validator, user, &context);
    validator.bytes("query", &query, QUERY_BYTES_MAX);
    validator.bytes("locale", &locale, LOCALE_BYTES_MAX);
    pairs(&mut validator, "labels", &labels, LABELS_MAX, ID_BYTES_MAX);
    let all = candidates.len();
    let candidates = self::candidates(&mut validator, candidates);
    validator.at_most("top_n", top_n as usize, all.max(1));
    let query = Query {
        request_id: self::request_id(&mut validator, request_id, context.request_id),
        user,
        history,
        profile,
        query_text: (!query.is_empty()).then(|| query.into()),
        candidates,
        top_n: if top_n == 0 { all } else { top_n as usize },
        effort: validator.enum_value::<pb::Effort>("effort", effort).into(),
        explain: validator.enum_value::<pb::Explain>("explain", explain).into(),
        reasons_per_item: self::reasons_per_item(&mut validator, reasons_per_item),
        criticality: validator.enum_value::<pb::Criticality>("criticality", criticality).into(),
        bundle: pinned_bundle(&mut validator, bundle),
        now: context.now,
        is_replay: context.is_replay,
        deadline: context.deadline,
    };
    validator.finish(query)
}

/// Decodes and validates a request for reasons.
pub fn explain_query(
    request: pb::ExplainRequest,
    context: RequestContext,
) -> Result<Query, ApiError> {
    let pb::ExplainRequest { request_id, user, item_ids, reasons_per_item, locale, bundle } =
        request;
    let mut validator = Validator::default();
    let (user, history, _) = shopper(&mut validator, user, &context);
    validator.bytes("locale", &locale, LOCALE_BYTES_MAX);
    let ids = item_ids.iter().map(String::as_str);
    distinct(&mut validator, "item_ids", "", ids, CANDIDATES_MAX);
    let bare = |item: String| Candidate { item: item.into(), prior_score: None, inline: None };
    let query = Query {
        request_id: self::request_id(&mut validator, request_id, context.request_id),
        user,
        history,
        profile: None,
        query_text: None,
        top_n: item_ids.len(),
        candidates: item_ids.into_iter().map(bare).collect(),
        effort: Effort::Scored,
        explain: Explain::Cached,
        reasons_per_item: self::reasons_per_item(&mut validator, reasons_per_item),
        criticality: Criticality::Default,
        bundle: pinned_bundle(&mut validator, bundle),
        now: context.now,
        is_replay: context.is_replay,
        deadline: context.deadline,
    };
    validator.finish(query)
}

/// A piece of a thought, as a message of the stream.
pub fn thought(piece: &str) -> pb::StreamRerankResponse {
    pb::StreamRerankResponse { thought: piece.to_owned(), ..Default::default() }
}

// === impl ResponseContext ===

impl ResponseContext {
    /// What a response to this query will need.
    pub fn of(query: &Query) -> Self {
        Self {
            request_id: query.request_id.clone(),
            items: query.candidates.iter().map(|candidate| candidate.item.clone()).collect(),
            top_n: query.top_n,
        }
    }

    /// Encodes an answer.
    pub fn response(&self, answer: ClimbAnswer) -> pb::RerankResponse {
        let ClimbAnswer { ranking, shortfalls, receipt, last: _ } = answer;
        let results = ranking.order.iter().take(self.top_n).zip(1..);
        pb::RerankResponse {
            request_id: self.request_id.to_string(),
            results: results.map(|(ranked, rank)| self.result(ranked, rank)).collect(),
            quality: pb::Quality::from(ranking.quality).into(),
            shortfalls: shortfalls.into_iter().map(Into::into).collect(),
            bundle: ranking.version.to_string(),
            receipt: Some(receipt.into()),
            rationale: ranking.rationale.as_deref().unwrap_or_default().to_owned(),
        }
    }

    /// Encodes reasons, in the order in which the items were requested.
    pub fn explanation(
        &self,
        bundle: &Version,
        reasons: Vec<(ItemId, Arc<[Reason]>)>,
    ) -> pb::ExplainResponse {
        let found: HashMap<ItemId, Arc<[Reason]>> = reasons.into_iter().collect();
        let items = self.items.iter().map(|item| pb::Explained {
            item_id: item.to_string(),
            reasons: found
                .get(item)
                .into_iter()
                .flat_map(|all| all.iter())
                .map(Into::into)
                .collect(),
        });
        pb::ExplainResponse {
            request_id: self.request_id.to_string(),
            items: items.collect(),
            bundle: bundle.to_string(),
        }
    }

    fn result(&self, ranked: &Ranked, rank: u32) -> pb::Result {
        let Ranked { input, score, scores, reasons } = ranked;
        let Scores { prior, scorer, rechead, weighed, reranker } = *scores;
        pb::Result {
            item_id: self.items[*input].to_string(),
            rank,
            input_rank: *input as u32 + 1,
            score: *score,
            scores: Some(pb::Scores { prior, scorer, rechead, weighed, reranker }),
            reasons: reasons.iter().map(Into::into).collect(),
        }
    }
}

// === Parts of a request ===

fn request_id(validator: &mut Validator, given: String, otherwise: Arc<str>) -> Arc<str> {
    validator.bytes("request_id", &given, ID_BYTES_MAX);
    if given.is_empty() { otherwise } else { given.into() }
}

fn pinned_bundle(validator: &mut Validator, bundle: String) -> Option<Version> {
    validator.bytes("bundle", &bundle, ID_BYTES_MAX);
    (!bundle.is_empty()).then(|| bundle.into())
}

fn reasons_per_item(validator: &mut Validator, per_item: u32) -> usize {
    validator.at_most("reasons_per_item", per_item as usize, REASONS_PER_ITEM_MAX);
    if per_item == 0 { REASONS_PER_ITEM_DEFAULT } else { per_item as usize }
}

fn shopper(
    validator: &mut Validator,
    user: Option<pb::User>,
    context: &RequestContext,
) -> (UserId, Option<Vec<Event>>, Option<Arc<str>>) {
    let pb::User { user_id, history, profile } = user.unwrap_or_default();
    // A replay does not read later events, so they are allowed.
    let latest = if context.is_replay { Timestamp::MAX } else { context.now };
    validator.id("user.user_id", &user_id);
    validator.bytes("user.profile", &profile, QUERY_BYTES_MAX);
    validator.count("user.history", history.len(), HISTORY_MAX);
    let mut events: Vec<_> = history
        .into_iter()
        .take(HISTORY_MAX)
        .enumerate()
        .map(|(i, event)| self::event(validator, i, event, latest))
        .collect();
    events.sort_by_key(|event| event.time);
    let profile = (!profile.is_empty()).then(|| profile.into());
    (user_id.into(), (!events.is_empty()).then_some(events), profile)
}

fn event(validator: &mut Validator, i: usize, event: pb::Event, now: Timestamp) -> Event {
    let pb::Event { item_id, time, kind } = event;
    validator.id(format_args!("user.history[{i}].item_id"), &item_id);
    let field = format_args!("user.history[{i}].time");
    let time = time.map(|time| time.seconds);
    match time {
        None => validator.reject(field, "is missing, but required"),
        Some(time) if time < TIME_MIN => {
            validator.reject(field, format_args!("is {time} s, before the year 1"));
        }
        Some(time) if time > now.saturating_add(CLOCK_SKEW_S_MAX) => {
            let ahead = time.saturating_sub(now);
            validator.reject(
                field,
                format_args!("is {ahead} s in the future; the limit is {CLOCK_SKEW_S_MAX}"),
            );
        }
        Some(_) => {}
    }
    let kind = event_kind(validator, format_args!("user.history[{i}].kind"), kind);
    Event { item: item_id.into(), time: time.unwrap_or_default(), kind }
}

fn event_kind(validator: &mut Validator, field: std::fmt::Arguments<'_>, kind: i32) -> EventKind {
    match validator.enum_value::<pb::EventKind>(field, kind) {
        // An unknown number was rejected already.
        pb::EventKind::Unspecified if kind == 0 => {
            validator.reject(field, "is missing, but required");
            EventKind::Click
        }
        pb::EventKind::Unspecified | pb::EventKind::Click => EventKind::Click,
        pb::EventKind::Impression => EventKind::Impression,
        pb::EventKind::Cart => EventKind::Cart,
        pb::EventKind::Purchase => EventKind::Purchase,
        pb::EventKind::Dismissal => EventKind::Dismissal,
    }
}

fn candidates(validator: &mut Validator, candidates: Vec<pb::Candidate>) -> Vec<Candidate> {
    let ids = candidates.iter().map(|candidate| candidate.item_id.as_str());
    distinct(validator, "candidates", ".item_id", ids, CANDIDATES_MAX);
    candidates
        .into_iter()
        .take(CANDIDATES_MAX)
        .enumerate()
        .map(|(i, candidate)| {
            let pb::Candidate { item_id, prior_score, item } = candidate;
            validator.finite(format_args!("candidates[{i}].prior_score"), prior_score);
            let inline =
                item.map(|item| item_text(validator, format_args!("candidates[{i}].item"), item));
            Candidate { item: item_id.into(), prior_score, inline }
        })
        .collect()
}

/// Checks that a list of ids is not empty, not too long, and without duplicates.
fn distinct<'a>(
    validator: &mut Validator,
    list: &str,
    field: &str,
    ids: impl ExactSizeIterator<Item = &'a str>,
    max: usize,
) {
    let count = ids.len();
    if count == 0 {
        validator.reject(list, format_args!("is empty; 1 to {max} are allowed"));
    }
    validator.count(list, count, max);
    let mut first = HashMap::with_capacity(count.min(max));
    for (i, id) in ids.take(max).enumerate() {
        validator.id(format_args!("{list}[{i}]{field}"), id);
        match first.entry(id) {
            Entry::Vacant(free) => {
                free.insert(i);
            }
            Entry::Occupied(taken) if !id.is_empty() => {
                let field = format_args!("{list}[{i}]{field}");
                validator.reject(field, format_args!("is the same as {list}[{}]", taken.get()));
            }
            Entry::Occupied(_) => {}
        }
    }
}

/// Checks the texts of the item in this `field`.
fn item_text(validator: &mut Validator, field: impl Display, item: pb::Item) -> ItemText {
    let pb::Item { title, category, attributes } = item;
    validator.bytes(format_args!("{field}.title"), &title, TITLE_BYTES_MAX);
    validator.bytes(format_args!("{field}.category"), &category, TITLE_BYTES_MAX);
    let field = format_args!("{field}.attributes");
    pairs(validator, field, &attributes, ATTRIBUTES_MAX, ATTRIBUTE_BYTES_MAX);
    ItemText { title, category, attributes: attributes.into_iter().collect() }
}

fn pairs<'a>(
    validator: &mut Validator,
    field: impl Display,
    pairs: impl IntoIterator<Item = (&'a String, &'a String), IntoIter: ExactSizeIterator>,
    count_max: usize,
    bytes_max: usize,
) {
    let pairs = pairs.into_iter();
    validator.count(&field, pairs.len(), count_max);
    for (name, value) in pairs.take(count_max) {
        validator.bytes(format_args!("{field} (a name)"), name, bytes_max);
        if name.len() <= bytes_max {
            validator.bytes(format_args!("{field}[{name:?}]"), value, bytes_max);
        }
    }
}

impl From<pb::Effort> for Effort {
    fn from(effort: pb::Effort) -> Self {
        match effort {
            pb::Effort::Unspecified | pb::Effort::Auto => Self::Auto,
            pb::Effort::Scored => Self::Scored,
            pb::Effort::Weighed => Self::Weighed,
            pb::Effort::Reranked => Self::Reranked,
            pb::Effort::Reasoned => Self::Reasoned,
        }
    }
}

impl From<Effort> for pb::Effort {
    fn from(effort: Effort) -> Self {
        match effort {
            Effort::Auto => Self::Auto,
            Effort::Scored => Self::Scored,
            Effort::Weighed => Self::Weighed,
            Effort::Reranked => Self::Reranked,
            Effort::Reasoned => Self::Reasoned,
        }
    }
}

impl From<pb::Explain> for Explain {
    fn from(explain: pb::Explain) -> Self {
        match explain {
            pb::Explain::None => Self::None,
            pb::Explain::Unspecified | pb::Explain::Cached => Self::Cached,
            pb::Explain::Live => Self::Live,
        }
    }
}

impl From<pb::Criticality> for Criticality {
    fn from(criticality: pb::Criticality) -> Self {
        match criticality {
            pb::Criticality::Critical => Self::Critical,
            pb::Criticality::Unspecified | pb::Criticality::Default => Self::Default,
            pb::Criticality::Sheddable => Self::Sheddable,
        }
    }
}

// === Parts of a response ===

impl From<Quality> for pb::Quality {
    fn from(quality: Quality) -> Self {
        match quality {
            Quality::Given => Self::Given,
            Quality::Scored => Self::Scored,
            Quality::Weighed => Self::Weighed,
            Quality::Reranked => Self::Reranked,
            Quality::Reasoned => Self::Reasoned,
        }
    }
}

impl From<(Quality, Shortfall)> for pb::Shortfall {
    fn from((quality, shortfall): (Quality, Shortfall)) -> Self {
        let (why, missing) = match shortfall {
            Shortfall::TooSlow => (pb::Why::TooSlow, ""),
            Shortfall::Late => (pb::Why::Late, ""),
            Shortfall::Busy => (pb::Why::Busy, ""),
            Shortfall::Missing(what) => (pb::Why::Missing, what),
            Shortfall::Broken => (pb::Why::Broken, ""),
        };
        let quality = pb::Quality::from(quality).into();
        Self { quality, why: why.into(), missing: missing.to_owned() }
    }
}

impl From<Receipt> for pb::Receipt {
    fn from(receipt: Receipt) -> Self {
        let Receipt {
            queue,
            compute,
            card_hits,
            card_misses,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
        } = receipt;
        Self {
            queue: Some(queue.into()),
            compute: Some(compute.into()),
            card_hits,
            card_misses,
            prompt_tokens,
            cached_tokens,
            generated_tokens,
        }
    }
}

impl From<&Reason> for pb::Reason {
    fn from(reason: &Reason) -> Self {
        let Reason { text, source, evidence, weight, bundle, written_at } = reason;
        let source = match source {
            ReasonSource::Evidence => pb::Source::Evidence,
            ReasonSource::Cached => pb::Source::Cached,
            ReasonSource::Live => pb::Source::Live,
        };
        Self {
            text: text.to_string(),
            source: source.into(),
            evidence: evidence.iter().map(Into::into).collect(),
            weight: *weight,
            bundle: bundle.to_string(),
            written_at: Some(pbjson_types::Timestamp { seconds: *written_at, nanos: 0 }),
        }
    }
}

impl From<&Evidence> for pb::Evidence {
    fn from(evidence: &Evidence) -> Self {
        let Evidence { kind, item, attribute, value, count, of } = evidence;
        let kind = match kind {
            EvidenceKind::CoPurchase => pb::EvidenceKind::CoPurchase,
            EvidenceKind::Attribute => pb::EvidenceKind::Attribute,
            EvidenceKind::Price => pb::EvidenceKind::Price,
            EvidenceKind::Season => pb::EvidenceKind::Season,
            EvidenceKind::Recency => pb::EvidenceKind::Recency,
            EvidenceKind::Repeat => pb::EvidenceKind::Repeat,
            EvidenceKind::AttributeBuyers => pb::EvidenceKind::AttributeBuyers,
            EvidenceKind::SoldSince => pb::EvidenceKind::SoldSince,
            EvidenceKind::NewSince => pb::EvidenceKind::NewSince,
            EvidenceKind::Asked => pb::EvidenceKind::Asked,
        };
        Self {
            kind: kind.into(),
            item_id: item.as_ref().map(ItemId::to_string).unwrap_or_default(),
            attribute: attribute.to_string(),
            value: value.to_string(),
            count: *count,
            of: *of,
        }
    }
}
