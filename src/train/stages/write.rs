//! The cards that a bundle ships: everything known at the end of the log.

use crate::bundle::{Catalog, HISTORY_LEN, Part, Past, UserCard, write_cards};
use crate::domain::{EventKind, Timestamp};
use crate::evidence;
use crate::reranker::Shopper;
use crate::train::dataset::Dataset;
use crate::train::snapshot::Snapshot;
use crate::train::speaker::Speaker;
use crate::train::{Bench, Stage};
use crate::upstream::CoPurchase;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Ready-made requests in a bundle.
const SAMPLES: usize = 12;
/// Purchases that a sample's user has at least.
const SAMPLE_HISTORY: usize = 6;

/// Writes user and item cards.
#[derive(Debug)]
pub struct Write;

impl Stage for Write {
    fn name(&self) -> &'static str {
        "write"
    }

    fn about(&self) -> &'static str {
        "Writes user and item cards from all evidence up to the end of the log, and the vectors of their texts"
    }

    fn needs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text]
    }

    fn makes(&self) -> &'static [Part] {
        &[Part::ItemCards, Part::UserCards, Part::CardVectors, Part::Samples]
    }

    fn run(&self, bench: &mut Bench<'_>) -> anyhow::Result<Value> {
        let (catalog, reader) = (bench.catalog()?, bench.reader()?);
        let dataset = bench.dataset(&catalog)?;
        let currency = &bench.recipe.shop.currency;
        let texts: Vec<String> = (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
        let vectors = reader.vectors(&texts);
        let end = dataset.split.end;
        let Snapshot { upstream, mut cards } =
            Snapshot::take(&dataset, &catalog, &reader, &vectors, end, currency);
        let histories: Vec<Vec<Past>> =
            (0..dataset.users.len()).map(|user| latest(&dataset, user)).collect();
        let mut expected = expected(bench, &catalog, &histories, end)?.into_iter();
        let currency = &bench.recipe.shop.currency;
        for (user, history) in dataset.users.iter().zip(histories) {
            let expects = expected.next().flatten();
            let pattern = evidence::pattern(&catalog, &cards.items, &history, currency);
            if !pattern.is_empty() {
                let vector = reader.vector(&pattern);
                let (pattern, head) = (pattern.into(), Vec::new());
                let card = UserCard { pattern, vector, history, expects, head };
                cards.users.insert(user.clone(), Arc::new(card));
            }
        }
        write_cards(&bench.dir, &cards)?;
        let samples = samples(&dataset, &catalog, &upstream, bench.recipe.slates.size);
        std::fs::write(bench.path(Part::Samples), serde_json::to_vec_pretty(&samples)?)?;
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in cards.items.iter().flat_map(|card| &card.reasons) {
            *kinds.entry(reason.evidence[0].kind.as_str()).or_default() += 1;
        }
        Ok(json!({
            "as_of": end,
            "users": cards.users.len(),
            "items": cards.items.len(),
            "items_without_reasons": cards.items.iter().filter(|card| card.reasons.is_empty()).count(),
            "reasons": kinds,
        }))
    }
}

/// The item that the language model expects each shopper to want, if there is a Rechead that reads it.
fn expected(
    bench: &mut Bench<'_>,
    catalog: &Arc<Catalog>,
    histories: &[Vec<Past>],
    now: Timestamp,
) -> anyhow::Result<Vec<Option<u32>>> {
    if !bench.recipe.expects() {
        return Ok(Vec::new());
    }
    let model = Speaker::start(&bench.path(Part::Decoder), catalog)?;
    let shoppers: Vec<Shopper<'_>> =
        histories.iter().map(|history| Shopper { history, now }).collect();
    let total = shoppers.len() as u64;
    model.expected(&shoppers, &mut |done| bench.progress.show("expecting", done as u64, total))
}

/// Requests to try the bundle with: users with a history, and the slates that the shop's own ranker
/// gives them now. In the JSON form of the API, ready to be posted.
fn samples(dataset: &Dataset, catalog: &Catalog, upstream: &CoPurchase, size: usize) -> Vec<Value> {
    let told = |user: &usize| (SAMPLE_HISTORY..=HISTORY_LEN).contains(&dataset.bought[*user].len());
    let users: Vec<usize> = (0..dataset.users.len()).filter(told).collect();
    let stride = (users.len() / SAMPLES).max(1);
    let request = |user: usize| {
        let history: Vec<_> = dataset.bought[user].iter().map(|b| (b.item, b.time)).collect();
        let had: Vec<u32> = history.iter().map(|&(item, _)| item).collect();
        let slate = upstream.slate(&history, size, &|item| had.contains(&item));
        let candidates = slate.into_iter().map(|(item, score)| {
            json!({ "itemId": catalog.item(item).id.as_str(), "priorScore": score })
        });
        json!({
            "requestId": format!("sample-{user}"),
            "user": { "userId": dataset.users[user].as_str() },
            "candidates": candidates.collect::<Vec<_>>(),
            "topN": 5,
            "reasonsPerItem": 2,
        })
    };
    users.into_iter().step_by(stride).take(SAMPLES).map(request).collect()
}

/// A user's latest events of every kind that is read, oldest first.
fn latest(dataset: &Dataset, user: usize) -> Vec<Past> {
    let bought = dataset.bought[user].iter().map(|b| Past {
        item: b.item,
        time: b.time,
        kind: EventKind::Purchase,
    });
    let mut all: Vec<Past> = dataset.browsed[user].iter().copied().chain(bought).collect();
    all.sort_by_key(|past| past.time);
    all.split_off(all.len().saturating_sub(HISTORY_LEN))
}
