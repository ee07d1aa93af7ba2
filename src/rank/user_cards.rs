//! What is known about the shopper of a query: from the query's own history, from the cache, from the
//! store, or from the bundle's cards.

use crate::bundle::{HistoryEvent, UserCard};
use crate::domain::{Event, EventKind, Query, Timestamp, UserId};
use crate::events::{EventRecorder, LiveStatistics, StoredEvent};
use crate::evidence;
use crate::scorer::{ScorerModel, ShopperTexts};
use crate::statistics::{ItemPast, ShopEvent, ShopperPast};
use crate::store::{Store, StoreTable};
use crate::telemetry::Metrics;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of one item of a past.
const PAST_ITEM_BYTES: usize = size_of::<ItemPast>() + size_of::<u32>();

/// Looks up users' cards, and caches those of recent users.
pub struct UserCards {
    model: Arc<ScorerModel>,
    currency: String,
    store: Option<Arc<dyn Store>>,
    events: Option<(EventRecorder, LiveStatistics)>,
    cache: Cache<UserId, CachedShopper>,
    metrics: Arc<Metrics>,
}

/// What is known about the shopper of a query.
#[derive(Clone, Debug, Default)]
pub struct KnownShopper {
    /// Their card.
    pub card: Arc<UserCard>,
    /// Their whole past, if the bundle counts anything live.
    pub past: Arc<ShopperPast>,
}

/// A shopper in the cache, as they were known with these events.
#[derive(Clone)]
struct CachedShopper {
    known: KnownShopper,
    since: Arc<[StoredEvent]>,
}

/// A user card in the store: JSON, with items by id, since item numbers change from bundle to bundle.
/// It has no vectors: the bundle at hand makes them, so they are always of its own spaces.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StoredCard {
    /// The user's last events, oldest first: (item, time, kind).
    pub history: Vec<(String, i64, String)>,
    /// The id of the item that a language model expects the user to want.
    #[serde(default)]
    pub expects: Option<String>,
}

/// Limits of the cache of user cards.
#[derive(Clone, Copy, Debug)]
pub struct CardCacheLimits {
    /// Bytes of all cached cards.
    pub bytes: u64,
    /// How long a card is cached.
    pub ttl: Duration,
}

// === impl UserCards ===

impl UserCards {
    /// Cards are looked up in a cache, then in the store, then among the model's.
    pub fn new(
        model: Arc<ScorerModel>,
        currency: String,
        store: Option<Arc<dyn Store>>,
        limits: CardCacheLimits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let cache = Cache::builder()
            .max_capacity(limits.bytes)
            .weigher(|_: &UserId, cached: &CachedShopper| bytes(&cached.known))
            .time_to_live(limits.ttl)
            .build();
        Self { model, currency, store, events: None, cache, metrics }
    }

    /// The same cards, with the events that are stored since the bundle was made; items that were put have the numbers of
    /// `live`.
    pub fn with_events(self, events: Option<EventRecorder>, live: LiveStatistics) -> Self {
        Self { events: events.map(|events| (events, live)), ..self }
    }

    /// What is known about the query's user: never an error, at worst nothing.
    ///
    /// The card of a replay is written from the events before its moment alone. What a language model expected of the user
    /// later is no part of it.
    pub async fn of(&self, query: &Query) -> KnownShopper {
        let is_read = |time: Timestamp| !query.is_replay || time < query.now;
        if let Some(history) = &query.history {
            self.metrics.cards("inline", 1);
            let events = history.iter().filter(|event| is_read(event.time));
            return self.shopper(self.write(self.known(events), None), &[]);
        }
        let known = self.latest(&query.user).await;
        if known.card.history.iter().all(|event| is_read(event.time)) {
            return known;
        }
        let before = known.card.past().filter(|event| is_read(event.time));
        self.shopper(self.write(before.collect(), None), &[])
    }

    /// What is known about a user now.
    async fn latest(&self, user: &UserId) -> KnownShopper {
        let since = self.since(user).await;
        let cached = self.cache.get(user);
        if let Some(cached) = cached.filter(|cached| *cached.since == *since) {
            self.metrics.cards("memory", 1);
            return cached.known;
        }
        let (card, source) = match self.stored(user).await {
            Some(card) => (Arc::new(card), "store"),
            None => match self.model.cards.users.get(user) {
                Some(card) => (self.with_head(card), "bundle"),
                None => (Arc::default(), "missing"),
            },
        };
        let with_since = self.with_since(&card, &since).map(|card| (card, "events"));
        let (card, source) = with_since.unwrap_or((card, source));
        self.metrics.cards(source, 1);
        let known = self.shopper(card, &since);
        self.cache.insert(user.clone(), CachedShopper { known: known.clone(), since });
        known
    }

    /// The stored events of a user since the bundle was made, by time.
    async fn since(&self, user: &UserId) -> Arc<[StoredEvent]> {
        let Some((events, _)) = &self.events else { return Arc::from([]) };
        let stored = events.of(user).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "a shopper's events can't be read: only the bundle's are used");
            Arc::from([])
        });
        let as_of = self.model.cards.as_of;
        match stored.iter().position(|stored| stored.event.time >= as_of) {
            Some(0) => stored,
            first => stored[first.unwrap_or(stored.len())..].into(),
        }
    }

    /// The card with the events since the bundle was made; `None` if they add nothing that a model reads.
    fn with_since(&self, card: &UserCard, since: &[StoredEvent]) -> Option<Arc<UserCard>> {
        let new = self.known(since.iter().map(|stored| &stored.event));
        if new.is_empty() {
            return None;
        }
        let mut past: Vec<HistoryEvent> = card.past().collect();
        past.extend(new);
        past.sort_by_key(|event| event.time);
        Some(Arc::new(self.write(past, card.expected_item)))
    }

    /// The shopper of a card. Events of items that were put are part of their past alone: no model reads those items.
    fn shopper(&self, card: impl Into<Arc<UserCard>>, since: &[StoredEvent]) -> KnownShopper {
        let card = card.into();
        if self.model.live.is_none() {
            return KnownShopper { card, past: Arc::default() };
        }
        let shop_event = |HistoryEvent { item, time, kind }| ShopEvent { item, time, kind };
        let put = since.iter().filter_map(|StoredEvent { event, .. }| {
            let (_, live) = self.events.as_ref()?;
            let is_put = self.model.catalog.number(&event.item).is_none();
            let item = live.number(&event.item).filter(|_| is_put)?;
            Some(ShopEvent { item, time: event.time, kind: event.kind })
        });
        let past = ShopperPast::of(card.past().map(shop_event).chain(put));
        KnownShopper { card, past: Arc::new(past) }
    }

    async fn stored(&self, user: &UserId) -> Option<UserCard> {
        let store = self.store.as_ref()?;
        let bytes = match store.get(StoreTable::UserCards, user.as_str().as_bytes()).await {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "the store can't be read: the bundle's card is used instead");
                return None;
            }
        };
        match serde_json::from_slice::<StoredCard>(&bytes) {
            Ok(card) => {
                let number = |item: &String| self.model.catalog.number(&item.as_str().into());
                let expects = card.expects.as_ref().and_then(number);
                Some(self.write(card.events(&self.model), expects))
            }
            Err(error) => {
                tracing::warn!(%error, "a stored card can't be read: the bundle's is used instead");
                None
            }
        }
    }

    /// The events of items that the catalogue holds, of kinds that the network reads.
    fn known<'e>(&self, events: impl Iterator<Item = &'e Event>) -> Vec<HistoryEvent> {
        events
            .filter(|event| event.kind.is_read())
            .filter_map(|event| {
                let item = self.model.catalog.number(&event.item)?;
                Some(HistoryEvent { item, time: event.time, kind: event.kind })
            })
            .collect()
    }

    /// A bundle's card with its vector in the Rechead's space, which older bundles do not hold.
    fn with_head(&self, card: &Arc<UserCard>) -> Arc<UserCard> {
        if !card.rechead_vector.is_empty() {
            return card.clone();
        }
        let rechead_vector = self.head(card);
        if rechead_vector.is_empty() {
            return card.clone();
        }
        Arc::new(UserCard { rechead_vector, ..(**card).clone() })
    }

    fn head(&self, card: &UserCard) -> Vec<f32> {
        let UserCard { history, vector, expected_item, pattern, .. } = card;
        self.model.shopper_vector(ShopperTexts {
            history,
            thought: Some(vector),
            thought_text: pattern,
            answer: *expected_item,
        })
    }

    /// Makes the card of a history: its pattern, and the vectors of both spaces.
    fn write(&self, past: Vec<HistoryEvent>, expects: Option<u32>) -> UserCard {
        let (earlier, history) = UserCard::split_past(past);
        let ScorerModel { catalog, cards, .. } = &*self.model;
        let pattern = evidence::pattern_text(catalog, &cards.items, &history, &self.currency);
        let vector =
            if pattern.is_empty() { Vec::new() } else { self.model.reader.vector(&pattern) };
        let (pattern, rechead_vector) = (pattern.into(), Vec::new());
        let expected_item = expects;
        let card = UserCard { pattern, vector, history, earlier, expected_item, rechead_vector };
        UserCard { rechead_vector: self.head(&card), ..card }
    }
}

impl std::fmt::Debug for UserCards {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UserCards")
            .field("cached", &self.cache.entry_count())
            .finish_non_exhaustive()
    }
}

// === impl StoredCard ===

impl StoredCard {
    fn events(self, model: &ScorerModel) -> Vec<HistoryEvent> {
        let past = |(item, time, kind): (String, i64, String)| {
            let item = model.catalog.number(&item.into())?;
            let kind = EventKind::parse(&kind).filter(|kind| kind.is_read())?;
            Some(HistoryEvent { item, time, kind })
        };
        self.history.into_iter().filter_map(past).collect()
    }
}

/// Roughly how many bytes of memory a shopper takes.
fn bytes(KnownShopper { card, past }: &KnownShopper) -> u32 {
    let numbers = card.vector.len() + card.rechead_vector.len();
    let events = card.history.len() + card.earlier.len();
    let bytes = card.pattern.len() + numbers * 4 + events * size_of::<HistoryEvent>();
    (bytes + past.items().len() * PAST_ITEM_BYTES) as u32 + 128
}
