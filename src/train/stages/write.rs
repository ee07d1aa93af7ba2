//! Writes the cards of a bundle as of a moment, by default the end of the log.
//!
//! The evidence writer writes them first. A language model then chooses texts, if the recipe says so.

use crate::bundle::{Cards, Catalog, HISTORY_LEN, HistoryEvent, Part, UserCard, write_cards};
use crate::domain::{EventKind, Timestamp};
use crate::evidence::Pattern;
use crate::language::WordWeights;
use crate::reranker::ShopperContext;
use crate::scorer::{RecheadScorer, ShopperTexts, TextSources};
use crate::train::dataset::Dataset;
use crate::train::offline_reranker::OfflineReranker;
use crate::train::offline_scorer::rechead;
use crate::train::replay::Replay;
use crate::train::snapshot::Snapshot;
use crate::train::writer::{self, CONCURRENCY, LmCardWriter};
use crate::train::{Stage, Workspace};
use crate::upstream::ItemKnn;
use anyhow::Context as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Sample requests in a bundle.
const SAMPLES: usize = 12;
/// The fewest purchases of a sample's user.
const SAMPLE_PURCHASES_MIN: usize = 6;

/// Writes user and item cards.
#[derive(Debug)]
pub struct Write;

impl Stage for Write {
    fn name(&self) -> &'static str {
        "write"
    }

    fn about(&self) -> &'static str {
        "Writes user and item cards from all evidence up to a moment, with the vectors of the text encoder and the Rechead"
    }

    fn inputs(&self) -> &'static [Part] {
        &[Part::Catalog, Part::Tokenizer, Part::Text]
    }

    fn may_read(&self) -> &'static [Part] {
        &[
            Part::SemanticIds,
            Part::Scorer,
            Part::ScorerShape,
            Part::Direct,
            Part::Decoder,
            Part::Rechead,
            Part::RecheadShape,
        ]
    }

    fn recipe_sections(&self) -> &'static [&'static str] {
        scorer_sections!["language_model.write", "rechead", "cards"]
    }

    fn outputs(&self) -> &'static [Part] {
        &[Part::ItemCards, Part::UserCards, Part::CardVectors, Part::Statistics, Part::Samples]
    }

    fn run(&self, workspace: &mut Workspace<'_>) -> anyhow::Result<Value> {
        let (catalog, reader) = (workspace.catalog()?, workspace.reader()?);
        let dataset = workspace.dataset(&catalog)?;
        let currency = &workspace.recipe.shop.currency;
        let texts: Vec<String> = (0..catalog.len() as u32).map(|item| catalog.text(item)).collect();
        let vectors = reader.vectors(&texts);
        let as_of =
            workspace.recipe.cards.as_of.map_or(dataset.split.end, jiff::Timestamp::as_second);
        let mut snapshot = Snapshot::take(&dataset, &catalog, &reader, &vectors, as_of, currency);
        let (earlier, histories): (Vec<_>, Vec<_>) = (0..dataset.users.len())
            .map(|user| UserCard::split_past(past(&dataset, user, as_of)))
            .unzip();
        let shoppers: Vec<ShopperContext<'_>> =
            histories.iter().map(|history| ShopperContext::of(history, as_of)).collect();
        let items = &snapshot.cards.items;
        let pattern = |history: &Vec<HistoryEvent>| Pattern::of(&catalog, items, history);
        let text = |pattern: Pattern| pattern.text(&catalog, currency);
        let mut patterns: Vec<Option<String>> =
            histories.iter().map(|history| pattern(history).map(text)).collect();
        let mut expected = vec![None; shoppers.len()];
        let mut by_model = Value::Null;
        let write = workspace.recipe.language_model.as_ref().and_then(|model| model.write);
        if write.is_some() || workspace.recipe.expects_items() {
            let reranker = OfflineReranker::with_concurrency(
                &workspace.path(Part::Decoder),
                &catalog,
                CONCURRENCY,
            )?;
            if let Some(recipe) = write {
                let currency = workspace.recipe.shop.currency.clone();
                let writer = LmCardWriter::new(workspace, &reranker, &catalog, &currency, recipe)?;
                let cards = &mut snapshot.cards;
                by_model = rewrite(workspace, &writer, &dataset, cards, &shoppers, &mut patterns)?;
                snapshot.encode_reasons(&reader);
            }
            if workspace.recipe.expects_items() {
                let total = shoppers.len() as u64;
                let progress = &mut *workspace.progress;
                let show = &mut |done| progress.show("expecting", done as u64, total);
                expected = reranker.expected(&shoppers, show)?;
            }
        }
        let Snapshot { upstream, mut cards } = snapshot;
        let head = rechead(workspace)?
            .map(|(network, weight)| RecheadScorer::new(network, weight, &cards, None));
        cards.rechead_vectors = head.as_ref().map(RecheadScorer::made_vectors).unwrap_or_default();
        let pasts = earlier.into_iter().zip(histories);
        let shoppers = dataset.users.iter().zip(pasts).zip(patterns).zip(expected);
        for (((user, (earlier, history)), pattern), expected_item) in shoppers {
            let Some(pattern) = pattern else { continue };
            let vector = reader.vector(&pattern);
            let written = ShopperTexts {
                history: &history,
                thought: Some(&vector),
                thought_text: &pattern,
                answer: expected_item,
            };
            let from = TextSources { catalog: &catalog, cards: &cards, reader: &reader };
            let rechead_vector =
                head.as_ref().map_or(Vec::new(), |head| head.shopper_vector(written, from));
            let pattern = pattern.into();
            let card =
                UserCard { pattern, vector, history, earlier, expected_item, rechead_vector };
            cards.users.insert(user.clone(), Arc::new(card));
        }
        write_cards(&workspace.dir, &cards)?;
        let words = Arc::new(WordWeights::default());
        let mut replay = Replay::new(&dataset, &catalog, words, 0)?;
        replay.advance(as_of);
        let statistics = replay.statistics().to_bytes();
        std::fs::write(workspace.path(Part::Statistics), statistics)
            .context("writing the statistics")?;
        writer::remove_answer_logs(workspace)?;
        let samples = samples(&dataset, &catalog, &upstream, as_of, workspace.recipe.slates.size);
        std::fs::write(workspace.path(Part::Samples), serde_json::to_vec_pretty(&samples)?)?;
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        for reason in cards.items.iter().flat_map(|card| &card.reasons) {
            *kinds.entry(reason.evidence[0].kind.as_str()).or_default() += 1;
        }
        Ok(json!({
            "as_of": as_of,
            "users": cards.users.len(),
            "items": cards.items.len(),
            "rechead_width": cards.rechead_vectors.len() / cards.items.len().max(1),
            "items_without_reasons": cards.items.iter().filter(|card| card.reasons.is_empty()).count(),
            "reasons": kinds,
            "by_language_model": by_model,
        }))
    }
}

/// Lets the language model write those texts that are not significantly worse for the scorer.
fn rewrite(
    workspace: &mut Workspace<'_>,
    writer: &LmCardWriter<'_>,
    dataset: &Dataset,
    cards: &mut Cards,
    shoppers: &[ShopperContext<'_>],
    patterns: &mut Vec<Option<String>>,
) -> anyhow::Result<Value> {
    let (accepted, judged) = writer.judge(workspace)?;
    let mut report = json!({ "judged": judged });
    let Cards { as_of, items, .. } = cards;
    if accepted.reasons {
        report["reasons"] = writer.reasons(workspace, writer::REASONS, dataset, items, *as_of)?;
    }
    if accepted.patterns {
        (*patterns, report["patterns"]) =
            writer.patterns(workspace, writer::PATTERNS, items, shoppers)?;
    }
    Ok(report)
}

/// Sample requests in the API's JSON form: users with some purchases, each with the slate that the shop's own retriever
/// gives them at that moment.
fn samples(
    dataset: &Dataset,
    catalog: &Catalog,
    upstream: &ItemKnn,
    as_of: Timestamp,
    size: usize,
) -> Vec<Value> {
    let known = |user: usize| {
        let bought = &dataset.bought[user];
        &bought[..bought.partition_point(|b| b.time < as_of)]
    };
    let has_history =
        |user: &usize| (SAMPLE_PURCHASES_MIN..=HISTORY_LEN).contains(&known(*user).len());
    let users: Vec<usize> = (0..dataset.users.len()).filter(has_history).collect();
    let stride = (users.len() / SAMPLES).max(1);
    let request = |user: usize| {
        let history: Vec<_> = known(user).iter().map(|b| (b.item, b.time)).collect();
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

/// A user's events before a moment, oldest first.
fn past(dataset: &Dataset, user: usize, as_of: Timestamp) -> Vec<HistoryEvent> {
    let bought = dataset.bought[user].iter().map(|b| HistoryEvent {
        item: b.item,
        time: b.time,
        kind: EventKind::Purchase,
    });
    let all = dataset.browsed[user].iter().copied().chain(bought);
    let mut all: Vec<HistoryEvent> = all.filter(|event| event.time < as_of).collect();
    all.sort_by_key(|event| event.time);
    all
}
