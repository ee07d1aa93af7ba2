//! What is known about the shopper of a query: from the query's own history, from the cache, from the
//! store, or from the bundle's cards.

use crate::bundle::{HistoryEvent, UserCard};
use crate::domain::{Event, EventKind, Query, Timestamp, UserId};
use crate::evidence;
use crate::scorer::{ScorerModel, ShopperTexts};
use crate::store::{Store, StoreTable};
use crate::telemetry::Metrics;
use moka::sync::Cache;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Looks up users' cards, and caches those of recent users.
pub struct UserCards {
    model: Arc<ScorerModel>,
    currency: String,
    store: Option<Arc<dyn Store>>,
    cache: Cache<UserId, Arc<UserCard>>,
    metrics: Arc<Metrics>,
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
            .weigher(|_: &UserId, card: &Arc<UserCard>| bytes(card))
            .time_to_live(limits.ttl)
            .build();
        Self { model, currency, store, cache, metrics }
    }

    /// The card of the query's user: never an error, at worst an empty card.
    ///
    /// The card of a replay is written from the events before its moment alone. What a language model expected of the user
    /// later is no part of it.
    pub async fn of(&self, query: &Query) -> Arc<UserCard> {
        let is_read = |time: Timestamp| !query.is_replay || time < query.now;
        if let Some(history) = &query.history {
            self.metrics.cards("inline", 1);
            let events = history.iter().filter(|event| is_read(event.time));
            return Arc::new(self.write(self.known(events), None));
        }
        let card = self.latest(&query.user).await;
        if card.history.iter().all(|event| is_read(event.time)) {
            return card;
        }
        let before = card.past().filter(|event| is_read(event.time));
        Arc::new(self.write(before.collect(), None))
    }

    /// The card of a user as it is now.
    async fn latest(&self, user: &UserId) -> Arc<UserCard> {
        if let Some(card) = self.cache.get(user) {
            self.metrics.cards("memory", 1);
            return card;
        }
        let (card, source) = match self.stored(user).await {
            Some(card) => (Arc::new(card), "store"),
            None => match self.model.cards.users.get(user) {
                Some(card) => (self.with_head(card), "bundle"),
                None => (Arc::default(), "missing"),
            },
        };
        self.metrics.cards(source, 1);
        self.cache.insert(user.clone(), card.clone());
        card
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
        let UserCard { history, vector, expected_item, .. } = card;
        self.model.shopper_vector(ShopperTexts {
            history,
            thought: Some(vector),
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

/// Roughly how many bytes of memory a card takes.
fn bytes(card: &UserCard) -> u32 {
    let numbers = card.vector.len() + card.rechead_vector.len();
    let events = card.history.len() + card.earlier.len();
    let bytes = card.pattern.len() + numbers * 4 + events * size_of::<HistoryEvent>();
    bytes as u32 + 128
}
