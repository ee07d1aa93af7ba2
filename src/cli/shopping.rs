//! Simulated shoppers who go on shopping while the demo serves, until a product begins to trend.
//!
//! Each asks the server for a slate, looks at it from the top, and reports what they did, over gRPC as a shop would. After
//! a while, many of them come for one product.

use crate::api::pb::rerank_service_client::RerankServiceClient;
use crate::api::pb::{
    Effort, EventKind, Explain, RecordEventsRequest, RerankRequest, RerankResponse, ShopperEvent,
    User,
};
use anyhow::Context as _;
use rand::{Rng, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::transport::Channel;

/// The seed of what shoppers do.
const SEED: u64 = 7;
/// The pause between two visits.
const VISIT_INTERVAL: Duration = Duration::from_millis(500);
/// How long everybody shops as usual.
pub(super) const TREND_AFTER: Duration = Duration::from_secs(20);
/// The share of visits that are for the product that trends.
const TREND_SHARE: f64 = 0.5;
/// The place of the product that will trend, in the order before.
const TREND_RANK: usize = 20;
/// Items of a slate that a shopper may look at.
const EXAMINED_MAX: usize = 10;
/// The chance that a shopper looks at the next item too.
const EXAMINE_CHANCE: f64 = 0.8;
/// The chance that an item which is looked at is clicked, that a clicked one goes into the cart, and that it is then bought.
const CLICK_CHANCE: f64 = 0.3;
const CART_CHANCE: f64 = 0.5;
const BUY_CHANCE: f64 = 0.6;

/// Shoppers who shop by one connection.
#[derive(Debug)]
pub(super) struct Shopping {
    client: RerankServiceClient<Channel>,
    /// Slates that shoppers may see.
    slates: Vec<RerankRequest>,
    shoppers: Vec<String>,
    /// The product that will trend.
    trending: String,
    rng: ChaCha8Rng,
    /// Distinguishes the events of this run from those of other runs in the same store.
    run: u64,
    events: u64,
}

/// Something that a shopper does with a product.
type Step = (String, EventKind);

// === impl Shopping ===

impl Shopping {
    /// Prepares `shoppers` to be shown the `slates`. The product that will trend is far down the first slate.
    ///
    /// Nobody shops for the shopper of the first slate, whose order then changes by what others do alone.
    pub(super) async fn prepare(
        mut client: RerankServiceClient<Channel>,
        slates: &[RerankRequest],
        shoppers: impl Iterator<Item = String>,
    ) -> anyhow::Result<Self> {
        let first = slates.first().context("the bundle has no samples")?;
        let order = client.rerank(scored(first)).await?.into_inner().results;
        let trending = order.get(TREND_RANK - 1).or(order.last());
        let trending = trending.context("the first sample has no candidates")?.item_id.clone();
        let watched = first.user.as_ref().map(|user| user.user_id.clone()).unwrap_or_default();
        let mut shoppers: Vec<_> = shoppers.filter(|shopper| *shopper != watched).collect();
        shoppers.sort_unstable();
        anyhow::ensure!(!shoppers.is_empty(), "the bundle knows no shoppers");
        let (slates, run) = (slates.to_vec(), rand::random());
        let rng = ChaCha8Rng::seed_from_u64(SEED);
        Ok(Self { client, slates, shoppers, trending, rng, run, events: 0 })
    }

    /// The product that will trend.
    pub(super) fn trending(&self) -> &str {
        &self.trending
    }

    /// Shops until it is dropped. A visit that fails is reported, and the next one comes.
    pub(super) async fn run(mut self) {
        let begun = Instant::now();
        let mut visits = interval(VISIT_INTERVAL);
        visits.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            visits.tick().await;
            let is_trending = begun.elapsed() >= TREND_AFTER;
            if let Err(error) = self.visit(is_trending).await {
                tracing::warn!(%error, "a simulated visit failed");
            }
        }
    }

    /// One shopper comes, sees a slate and reports what they did.
    async fn visit(&mut self, is_trending: bool) -> Result<(), tonic::Status> {
        let shopper = self.shoppers[self.rng.random_range(0..self.shoppers.len())].clone();
        let steps = if is_trending && self.rng.random_bool(TREND_SHARE) {
            purchase(&self.trending)
        } else {
            let slate = &self.slates[self.rng.random_range(0..self.slates.len())];
            let user = Some(User { user_id: shopper.clone(), ..User::default() });
            let request = RerankRequest { user, ..scored(slate) };
            let shown = self.client.rerank(request).await?.into_inner();
            steps(&shown, &mut self.rng)
        };
        if steps.is_empty() {
            return Ok(());
        }
        let now = crate::api::wall_clock();
        let events = steps.into_iter().map(|(item_id, kind)| {
            self.events += 1;
            ShopperEvent {
                event_id: format!("{:016x}-{}", self.run, self.events),
                user_id: shopper.clone(),
                item_id,
                time: Some(pbjson_types::Timestamp { seconds: now, nanos: 0 }),
                kind: kind.into(),
            }
        });
        let events = events.collect();
        self.client.record_events(RecordEventsRequest { events, ..Default::default() }).await?;
        Ok(())
    }
}

/// The whole order of a slate by the small models, without reasons.
fn scored(slate: &RerankRequest) -> RerankRequest {
    RerankRequest {
        top_n: 0,
        effort: Effort::Scored.into(),
        explain: Explain::None.into(),
        ..slate.clone()
    }
}

/// What a shopper does with a slate: they look from the top down, and some of what they see is clicked and bought.
fn steps(shown: &RerankResponse, rng: &mut impl Rng) -> Vec<Step> {
    let mut steps = Vec::new();
    for result in shown.results.iter().take(EXAMINED_MAX) {
        if rng.random_bool(CLICK_CHANCE) {
            let mut done = purchase(&result.item_id);
            let is_in_cart = rng.random_bool(CART_CHANCE);
            let is_bought = is_in_cart && rng.random_bool(BUY_CHANCE);
            done.truncate(1 + usize::from(is_in_cart) + usize::from(is_bought));
            steps.extend(done);
        }
        if !rng.random_bool(EXAMINE_CHANCE) {
            break;
        }
    }
    steps
}

/// A product is opened, put into the cart and bought.
fn purchase(item: &str) -> Vec<Step> {
    [EventKind::Click, EventKind::Cart, EventKind::Purchase]
        .map(|kind| (item.to_owned(), kind))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::pb;
    use crate::app::{self, App};
    use crate::config::{Config, HumanDuration};
    use std::collections::BTreeMap;
    use std::path::Path;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_product_that_many_come_for_gets_a_reason() {
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.api.listen = "127.0.0.1:0".parse().unwrap();
        config.api.deadline_default = HumanDuration(Duration::from_secs(20));
        config.bundle.path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo");
        config.store.path = Some(home.path().join("facts.redb"));
        let (services, opened) = app::open_services(&config).await.unwrap();
        let app = App::start(&config.api, services).await.unwrap();
        let channel = Channel::from_shared(format!("http://{}", app.address())).unwrap();
        let mut client = RerankServiceClient::new(channel.connect().await.unwrap());
        let samples = std::fs::read(config.bundle.path.join("samples.json")).unwrap();
        let slates: Vec<RerankRequest> = serde_json::from_slice(&samples).unwrap();
        let users = opened.model.cards.users.keys().map(ToString::to_string);
        let prepared = Shopping::prepare(client.clone(), &slates, users).await;
        let mut shopping = prepared.unwrap();
        let watched = &slates[0].user.as_ref().unwrap().user_id;
        assert!(!shopping.shoppers.contains(watched));

        let trending = shopping.trending().to_owned();
        let explained = RerankRequest { explain: Explain::Cached.into(), ..scored(&slates[0]) };
        let mut told = async || {
            let answer = client.rerank(explained.clone()).await.unwrap().into_inner();
            let result = answer.results.into_iter().find(|result| result.item_id == trending);
            let reasons = result.unwrap().reasons.into_iter();
            let mut evidence = reasons.flat_map(|reason| reason.evidence);
            evidence.find(|e| e.kind() == pb::EvidenceKind::SoldSince).map(|e| e.count)
        };
        assert_eq!(told().await, None);
        for _ in 0..40 {
            shopping.visit(true).await.unwrap();
        }
        let count = told().await.expect("about half of forty visits were for the product");
        assert!((10..=40).contains(&count), "{count}");
        shopping.visit(false).await.unwrap();
        app.stop().await.unwrap();
    }

    #[test]
    fn shoppers_take_from_the_top_and_buy_only_what_they_clicked() {
        let result = |n: usize| pb::Result { item_id: n.to_string(), ..Default::default() };
        let shown = RerankResponse { results: (0..50).map(result).collect(), ..Default::default() };
        let mut rng = ChaCha8Rng::seed_from_u64(SEED);
        let mut counts: BTreeMap<(usize, i32), usize> = BTreeMap::new();
        for _ in 0..2_000 {
            for (item, kind) in steps(&shown, &mut rng) {
                *counts.entry((item.parse().unwrap(), kind.into())).or_default() += 1;
            }
        }
        let count = |item: usize, kind: EventKind| {
            counts.get(&(item, kind.into())).copied().unwrap_or_default()
        };
        for item in 0..EXAMINED_MAX {
            let [clicks, carts, bought] = [EventKind::Click, EventKind::Cart, EventKind::Purchase]
                .map(|kind| count(item, kind));
            assert!(clicks > carts && carts > bought && bought > 0, "{item}: {counts:?}");
            assert!(item == 0 || clicks < count(item - 1, EventKind::Click) + 40, "{counts:?}");
        }
        assert!(count(0, EventKind::Click) > 3 * count(9, EventKind::Click));
        assert!(counts.keys().all(|(item, _)| *item < EXAMINED_MAX));
        assert!(steps(&RerankResponse::default(), &mut rng).is_empty());
    }
}
