//! The nearline card writer: a language model chooses the texts on cards.
//!
//! An item's reasons come from its buyers (CURec's reason lists). For each of the latest buyers, the model reads the
//! history before the purchase and chooses why the item was taken. The options are the phrasings of the claims on the
//! item's card, so every text rests on evidence. For a shopper's pattern, the model chooses the liked attributes that it
//! predicts to matter next.

mod judge;
mod lessons;

pub use lessons::lessons;

use super::Workspace;
use super::answer_log::{AnswerLog, AnswerLogKey};
use super::dataset::Dataset;
use super::measure::{distinct_2, overlap};
use super::offline_reranker::{ChoicePrompt, OfflineReranker};
use super::recipe::WriterRecipe;
use crate::bundle::{CardReason, Catalog, HistoryEvent, ItemCard, Part};
use crate::domain::{ReasonSource, Timestamp};
use crate::engine::Usage;
use crate::evidence::{self, PATTERN_LIKES_MAX, Pattern};
use crate::reranker::{EVENTS_MAX, Prompts, ShopperContext};
use anyhow::Context as _;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::time::Instant;

/// The task of items' reasons. A task names its progress and its answer log.
pub const REASONS: &str = "reasons";
/// The task of shoppers' patterns.
pub const PATTERNS: &str = "patterns";
/// The same tasks on validation cases.
const JUDGED_REASONS: &str = "judged reasons";
const JUDGED_PATTERNS: &str = "judged patterns";
/// Concurrent prompts.
pub const CONCURRENCY: usize = 64;
/// Example reasons in the report.
const SHOWN: usize = 5;

/// A language model that writes cards.
pub struct LmCardWriter<'a> {
    /// The language model.
    reranker: &'a OfflineReranker,
    /// The catalogue.
    catalog: &'a Catalog,
    /// The currency sign before prices.
    currency: &'a str,
    /// The recipe.
    recipe: WriterRecipe,
    /// A hash of the model's files, for the answer log.
    model: String,
}

/// One phrasing of a reason on a card.
struct ReasonWording {
    /// The index of the reason on the card.
    reason: usize,
    text: String,
    tokens: Vec<u32>,
}

/// A shopper who bought an item, and when.
#[derive(Clone, Copy, Debug)]
struct ItemBuyer {
    item: u32,
    user: u32,
    time: Timestamp,
}

/// The indices of the chosen options.
#[derive(Debug, Default, Serialize, Deserialize)]
struct ChosenOptions {
    chosen: Vec<usize>,
}

/// The engine's usage in this run. Answers from the log are not counted.
#[derive(Debug, Default, Serialize)]
struct WriterUsage {
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    forced_tokens: usize,
    seconds: f64,
}

// === impl WriterUsage ===

impl WriterUsage {
    fn add(&mut self, usage: Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.cached_tokens += usage.cached_tokens;
        self.generated_tokens += usage.generated_tokens;
        self.forced_tokens += usage.forced_tokens;
    }
}

// === impl LmCardWriter ===

impl<'a> LmCardWriter<'a> {
    /// A writer for the model of a workspace.
    pub fn new(
        workspace: &Workspace<'_>,
        reranker: &'a OfflineReranker,
        catalog: &'a Catalog,
        currency: &'a str,
        recipe: WriterRecipe,
    ) -> anyhow::Result<Self> {
        let model = folder_hash(&workspace.path(Part::Decoder))?;
        Ok(Self { reranker, catalog, currency, recipe, model })
    }

    /// Moves the reasons that the model chose for the latest buyers to the front of each card, the most frequent first, in the
    /// chosen phrasing. Other reasons keep their text and order. The cards' vectors are not updated.
    pub fn reasons(
        &self,
        workspace: &mut Workspace<'_>,
        task: &str,
        dataset: &Dataset,
        cards: &mut [ItemCard],
        as_of: Timestamp,
    ) -> anyhow::Result<Value> {
        let prompts = self.reranker.prompts();
        let buyers = latest_buyers(dataset, self.catalog.len(), as_of, self.recipe.buyers_max);
        let wordings = (0_u32..)
            .zip(&*cards)
            .map(|(item, card)| wordings(self.catalog, self.currency, prompts, item, card));
        let wordings = wordings.collect::<anyhow::Result<Vec<_>>>()?;
        let prompt = |at: usize| {
            let ItemBuyer { item, user, time } = buyers[at];
            let history = history_before(dataset, user, item, time)?;
            let shopper = ShopperContext::of(&history, time);
            let wordings = wordings[item as usize].iter();
            Some(ChoicePrompt {
                prompt: prompts.reason_prompt(shopper, item),
                options: wordings.map(|wording| wording.tokens.clone()).collect(),
                count: 1,
                seed: Some(u64::from(user) << 32 | u64::from(item)),
            })
        };
        let mut questions = blake3::Hasher::new();
        for ItemBuyer { item, user, time } in &buyers {
            questions.update(&item.to_le_bytes()).update(&user.to_le_bytes());
            questions.update(&time.to_le_bytes());
        }
        for text in wordings.iter().flatten().map(|wording| wording.text.as_bytes()) {
            questions.update(text);
        }
        let (answers, usage) =
            self.choose_all(workspace, (task, questions), buyers.len(), &prompt)?;
        let mut chosen: Vec<Vec<usize>> = vec![Vec::new(); cards.len()];
        for (buyer, answer) in buyers.iter().zip(&answers) {
            chosen[buyer.item as usize].extend(answer.chosen.first());
        }
        for ((card, chosen), wordings) in cards.iter_mut().zip(&chosen).zip(&wordings) {
            apply_wordings(card, chosen, wordings);
        }
        let written = cards.iter().flat_map(|card| &card.reasons);
        let written: Vec<&str> = written
            .filter(|reason| reason.source == ReasonSource::Cached)
            .map(|reason| &*reason.text)
            .collect();
        let stride = (written.len() / SHOWN).max(1);
        Ok(json!({
            "asked": buyers.len(),
            "answered": answers.iter().filter(|answer| !answer.chosen.is_empty()).count(),
            "written": written.len(),
            "items": chosen.iter().filter(|chosen| !chosen.is_empty()).count(),
            "distinct_2": rounded(distinct_2(&written)),
            "overlap": rounded(overlap(&written)),
            "work": usage,
            "some": written.iter().step_by(stride).take(SHOWN).collect::<Vec<_>>(),
        }))
    }

    /// Each shopper's pattern, with the attributes that the model predicts to matter. `None` for a shopper without history.
    pub fn patterns(
        &self,
        workspace: &mut Workspace<'_>,
        task: &str,
        cards: &[ItemCard],
        shoppers: &[ShopperContext<'_>],
    ) -> anyhow::Result<(Vec<Option<String>>, Value)> {
        let prompts = self.reranker.prompts();
        let known: Vec<Vec<u32>> =
            shoppers.iter().map(|of| distinct_likes(self.catalog, prompts, of.history)).collect();
        let prompt = |at: usize| {
            let tokens = known[at].iter().map(|&attribute| prompts.encode_taste(attribute));
            Some(ChoicePrompt {
                prompt: prompts.taste_prompt(shoppers[at]),
                options: tokens.collect(),
                count: known[at].len().min(PATTERN_LIKES_MAX),
                seed: None,
            })
        };
        let mut questions = blake3::Hasher::new();
        for shopper in shoppers {
            questions.update(&shopper.now.to_le_bytes());
            for past in shopper.history {
                questions.update(&past.item.to_le_bytes()).update(&past.time.to_le_bytes());
            }
        }
        let (answers, usage) =
            self.choose_all(workspace, (task, questions), shoppers.len(), &prompt)?;
        let answered = answers.iter().filter(|answer| !answer.chosen.is_empty()).count();
        let patterns = shoppers.iter().zip(known).zip(answers).map(|((shopper, known), answer)| {
            let mut pattern = Pattern::of(self.catalog, cards, shopper.history)?;
            if !answer.chosen.is_empty() {
                pattern.likes = answer.chosen.iter().map(|&index| known[index]).collect();
            }
            Some(pattern.text(self.catalog, self.currency))
        });
        Ok((
            patterns.collect(),
            json!({ "shoppers": shoppers.len(), "answered": answered, "work": usage }),
        ))
    }

    /// Answers every question, from the log or by the model.
    fn choose_all(
        &self,
        workspace: &mut Workspace<'_>,
        (task, questions): (&str, blake3::Hasher),
        count: usize,
        prompt: &dyn Fn(usize) -> Option<ChoicePrompt>,
    ) -> anyhow::Result<(Vec<ChosenOptions>, WriterUsage)> {
        let questions = questions.finalize().to_hex().to_string();
        let key = AnswerLogKey { answerer: self.model.clone(), questions };
        let mut log = AnswerLog::open(&answer_log_path(workspace, task), &key)?;
        let missing = log.missing(count);
        let known = count - missing.len();
        let (begun, mut usage) = (Instant::now(), WriterUsage::default());
        for (done, chunk) in missing.chunks(CONCURRENCY).enumerate() {
            workspace.progress.show(task, (known + done * CONCURRENCY) as u64, count as u64);
            let prompts: Vec<Option<ChoicePrompt>> = chunk.iter().map(|&at| prompt(at)).collect();
            for (&at, (chosen, used)) in chunk.iter().zip(self.reranker.choose(prompts)?) {
                log.append(at, ChosenOptions { chosen })?;
                usage.add(used);
            }
        }
        usage.seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        Ok((log.into_answers(), usage))
    }
}

/// The phrasings of an item's reasons. No two have the same tokens.
fn wordings(
    catalog: &Catalog,
    currency: &str,
    prompts: &Prompts,
    item: u32,
    card: &ItemCard,
) -> anyhow::Result<Vec<ReasonWording>> {
    let category = catalog.category(catalog.item(item).category);
    let mut all: Vec<ReasonWording> = Vec::new();
    for (index, reason) in card.reasons.iter().enumerate() {
        let claims = reason.evidence.first();
        for text in claims.into_iter().flat_map(|of| evidence::phrasings(of, category, currency)) {
            let tokens = prompts.encode_reason(&text, reason.backing)?;
            if all.iter().all(|other| other.tokens != tokens) {
                all.push(ReasonWording { reason: index, text, tokens });
            }
        }
    }
    Ok(all)
}

/// Moves the chosen reasons to the front, the most frequent first. `chosen` are indices in `wordings`.
fn apply_wordings(card: &mut ItemCard, chosen: &[usize], wordings: &[ReasonWording]) {
    let mut counts: FxHashMap<usize, u32> = FxHashMap::default();
    let mut texts: FxHashMap<usize, &str> = FxHashMap::default();
    for &index in chosen {
        let ReasonWording { reason, text, .. } = &wordings[index];
        *counts.entry(*reason).or_default() += 1;
        texts.entry(*reason).or_insert(text);
    }
    let mut order: Vec<usize> = (0..card.reasons.len()).collect();
    order.sort_by_key(|index| Reverse(counts.get(index).copied().unwrap_or(0)));
    let reasons = order.into_iter().map(|index| {
        let reason = card.reasons[index].clone();
        match texts.get(&index) {
            Some(&text) => CardReason { text: text.into(), source: ReasonSource::Cached, ..reason },
            None => reason,
        }
    });
    card.reasons = reasons.collect();
}

/// The latest distinct buyers of each item before a moment, at most `max` per item, sorted by user.
fn latest_buyers(dataset: &Dataset, items: usize, as_of: Timestamp, max: usize) -> Vec<ItemBuyer> {
    let known = dataset.purchases.partition_point(|purchase| purchase.time < as_of);
    let mut buyers: Vec<Vec<ItemBuyer>> = vec![Vec::new(); items];
    for purchase in dataset.purchases[..known].iter().rev() {
        let buyers_of_item = &mut buyers[purchase.item as usize];
        if buyers_of_item.len() < max
            && buyers_of_item.iter().all(|buyer| buyer.user != purchase.user)
        {
            let (item, user, time) = (purchase.item, purchase.user, purchase.time);
            buyers_of_item.push(ItemBuyer { item, user, time });
        }
    }
    // Prompts of one shopper share a prefix, which the engine's cache then holds.
    let mut all = buyers.concat();
    all.sort_by_key(|buyer| (buyer.user, buyer.time, buyer.item));
    all
}

/// A shopper's history before they bought an item.
fn history_before(
    dataset: &Dataset,
    user: u32,
    item: u32,
    time: Timestamp,
) -> Option<Vec<HistoryEvent>> {
    let user = user as usize;
    let line = dataset.bought[user].iter().position(|b| b.item == item && b.time == time)?;
    Some(dataset.history(user, line, true, EVENTS_MAX))
}

/// The attributes that a shopper's items have in common, without those whose tokens repeat.
fn distinct_likes(catalog: &Catalog, prompts: &Prompts, history: &[HistoryEvent]) -> Vec<u32> {
    let mut likes = evidence::liked_attributes(catalog, history);
    let mut seen: Vec<Vec<u32>> = Vec::new();
    likes.retain(|&attribute| {
        let tokens = prompts.encode_taste(attribute);
        let is_new = !seen.contains(&tokens);
        seen.push(tokens);
        is_new
    });
    likes
}

/// Deletes the answer logs, once the cards are written.
pub fn remove_answer_logs(workspace: &Workspace<'_>) -> anyhow::Result<()> {
    for task in [REASONS, PATTERNS, JUDGED_REASONS, JUDGED_PATTERNS] {
        let file = answer_log_path(workspace, task);
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    Ok(())
}

fn answer_log_path(workspace: &Workspace<'_>, task: &str) -> PathBuf {
    workspace.dir.join(format!("write.{}.jsonl", task.replace(' ', "_")))
}

/// A hash of the names and contents of a folder's files.
fn folder_hash(folder: &Path) -> anyhow::Result<String> {
    let reading = || format!("reading the language model {}", folder.display());
    let entries = fs::read_dir(folder).with_context(reading)?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort_unstable();
    let mut hash = blake3::Hasher::new();
    for file in files {
        // The name without the folder, which may be moved.
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update_reader(fs::File::open(&file).with_context(reading)?).with_context(reading)?;
    }
    Ok(hash.finalize().to_hex().to_string())
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
