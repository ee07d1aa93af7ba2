//! What one climb lends to its rungs: the query, and what it refers to, looked up once.

use super::{KnownShopper, Shortfall, UserCards};
use crate::bundle::{UserCard, month};
use crate::domain::{Candidate, ItemId, Query, Timestamp};
use crate::events::LiveStatistics;
use crate::evidence::LiveFacts;
use crate::items::{NewItem, NewItems};
use crate::scorer::ScorerModel;
use crate::scorer::features::{FeatureContext, HistoryCounts, LiveCounts, SpokenQuery};
use crate::statistics::Statistics;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// What one climb lends to its rungs.
///
/// The first rung that needs the shopper's card resolves the query, on its own time and before the
/// deadline; the rungs above find it resolved. So the order given waits for no look-up, and a look-up
/// that does not end in time is a shortfall of the rung that began it.
#[derive(Debug)]
pub struct ClimbContext {
    query: Query,
    resolved: OnceCell<ResolvedQuery>,
}

/// What a query refers to.
#[derive(Debug)]
pub struct ResolvedQuery {
    /// What is known about the shopper.
    pub card: Arc<UserCard>,
    /// The catalogue's number of each candidate; `None` for those that it does not hold.
    pub numbers: Vec<Option<u32>>,
    /// The candidates that were put while the service runs and that the catalogue does not hold.
    pub new_items: Vec<Option<Arc<NewItem>>>,
    /// The shopper's history, counted for the features of every candidate.
    pub counts: Arc<HistoryCounts>,
    /// What is counted live for the shopper, if the bundle counts anything live.
    pub live: Option<Arc<LiveCounts>>,
    /// What the query and the profile say, if the bundle's scorer hears them.
    pub spoken: Option<Arc<SpokenQuery>>,
    /// The counts of the bundle's items and of those that were put, up to date with every acknowledged event.
    pub statistics: Arc<Statistics>,
    /// The number of each candidate in these counts: the catalogue's, or that of an item that was put.
    pub counted: Vec<Option<u32>>,
    /// The moment from which on every event is in these counts; `None` if what came lately is not.
    counted_since: Option<Timestamp>,
}

/// Looks up what queries refer to.
#[derive(Debug)]
pub struct Resolver {
    model: Arc<ScorerModel>,
    user_cards: UserCards,
    new_items: NewItems,
    live: LiveStatistics,
}

// === impl ClimbContext ===

impl ClimbContext {
    /// The context of one query's climb.
    pub fn new(query: Query) -> Self {
        Self { query, resolved: OnceCell::new() }
    }

    /// The query.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// What the query refers to, looked up once per climb. Falls short if nothing is known of any
    /// candidate. Dropping the future leaves the look-up to the next rung.
    pub async fn resolve(&self, resolver: &Resolver) -> Result<&ResolvedQuery, Shortfall> {
        self.resolved.get_or_try_init(|| resolver.resolve(&self.query)).await
    }
}

// === impl ResolvedQuery ===

impl ResolvedQuery {
    /// The shopper's context, from which the features of any candidate follow.
    pub fn features<'a>(&'a self, model: &'a ScorerModel) -> FeatureContext<'a> {
        FeatureContext::with_counts(&model.catalog, &self.card.history, self.counts.clone())
    }

    /// What can be claimed of the candidate at this position from the counts as of `now`.
    pub fn facts(&self, position: usize, now: Timestamp) -> LiveFacts {
        let put_at = self.new_items[position].as_ref().map(|put| put.put_at);
        let counts = self.counted[position].map(|number| self.statistics.item(number, now));
        let since = self.counted_since.filter(|_| counts.is_some());
        LiveFacts::of(&counts.unwrap_or_default(), since, put_at, now)
    }
}

// === impl Resolver ===

impl Resolver {
    /// Looks up candidates in the model's catalogue and then in `new_items`, shoppers in `user_cards`, and counts in
    /// `live`.
    pub fn new(
        model: Arc<ScorerModel>,
        user_cards: UserCards,
        new_items: NewItems,
        live: LiveStatistics,
    ) -> Self {
        Self { model, user_cards, new_items, live }
    }

    async fn resolve(&self, query: &Query) -> Result<ResolvedQuery, Shortfall> {
        let ScorerModel { catalog, cards, .. } = &*self.model;
        let number = |item: &ItemId| catalog.number(item);
        let numbers: Vec<Option<u32>> =
            query.candidates.iter().map(|candidate| number(&candidate.item)).collect();
        let new_items = self.new_items(query, &numbers);
        let texts = query.candidates.iter().zip(&new_items);
        let any_text = texts.into_iter().any(|(c, put)| c.inline.is_some() || put.is_some());
        if !any_text && numbers.iter().all(Option::is_none) {
            return Err(Shortfall::Missing("items"));
        }
        let KnownShopper { card, past } = self.user_cards.of(query).await;
        let (history, now) = (&card.history, query.now);
        let counts = HistoryCounts::of(catalog, cards, history, now, month(now));
        let statistics = self.statistics(query);
        let live = self.model.live_counts(&statistics, past, now).map(Arc::new);
        let counted = query.candidates.iter().map(|candidate| self.live.number(&candidate.item));
        let (counted, counts) = (counted.collect(), Arc::new(counts));
        let counted_since = self.counted_since(query);
        let spoken = self.model.spoken(query.query_text.as_deref(), query.profile.as_deref());
        Ok(ResolvedQuery {
            card,
            numbers,
            new_items,
            counts,
            live,
            spoken: spoken.map(Arc::new),
            statistics,
            counted,
            counted_since,
        })
    }

    /// The moment from which on every event is counted: the bundle's counts begin with its log, and those of a bundle
    /// without counts where its log ends. `None` for a replay, and for a server that takes no events.
    fn counted_since(&self, query: &Query) -> Option<Timestamp> {
        let begin = match self.model.live {
            Some(_) => Timestamp::MIN,
            None => self.model.cards.as_of,
        };
        (!query.is_replay && self.live.is_followed()).then_some(begin)
    }

    /// The counts as of now. A replay reads those of the bundle, because what came since is later than its moment.
    fn statistics(&self, query: &Query) -> Arc<Statistics> {
        match &self.model.live {
            Some(live) if query.is_replay => live.statistics.clone(),
            _ => self.live.load(),
        }
    }

    /// The candidates that the bundle does not hold and that were put. A replay knows none: what was put may be later
    /// than its moment.
    fn new_items(&self, query: &Query, numbers: &[Option<u32>]) -> Vec<Option<Arc<NewItem>>> {
        let put = |(candidate, number): (&Candidate, &Option<u32>)| {
            let is_asked = number.is_none() && !query.is_replay;
            self.new_items.get(&candidate.item).filter(|_| is_asked)
        };
        query.candidates.iter().zip(numbers).map(put).collect()
    }
}
