//! The nearline writer: a language model writes what stands on cards.
//!
//! An item's reasons come from its buyers (CURec's reason lists): for each of the latest ones the model
//! reads what they had done before, and says why they took it. What it may say are the ways in which the
//! claims on the item's card can be said, so that whatever it writes can be shown. A shopper's pattern
//! tells what the model expects to matter to them next, of what their things have in common.

mod judge;
mod lessons;

pub use lessons::lessons;

use super::Workspace;
use super::answers::{Answers, Mark};
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

/// What it writes: the names of progress, and of files that keep what was answered so far, so that a
/// stage that was cut short asks nothing twice.
pub const REASONS: &str = "reasons";
/// Shoppers' interests.
pub const PATTERNS: &str = "patterns";
/// The same to be judged by.
const JUDGED_REASONS: &str = "judged reasons";
const JUDGED_PATTERNS: &str = "judged patterns";
/// Questions that are asked at a time.
pub const AT_ONCE: usize = 64;
/// Reasons that the report shows.
const SHOWN: usize = 5;

/// A language model that writes.
pub struct Writer<'a> {
    /// The model.
    reranker: &'a OfflineReranker,
    /// The items.
    catalog: &'a Catalog,
    /// The sign before prices.
    currency: &'a str,
    /// How it writes.
    of: WriterRecipe,
    /// A hash of the model: what another one said is not taken up.
    model: String,
}

/// A way in which a reason on a card can be said.
struct Saying {
    /// The place of the reason on the card.
    reason: usize,
    text: String,
    tokens: Vec<u32>,
}

/// Who took an item, and when.
#[derive(Clone, Copy, Debug)]
struct Taken {
    item: u32,
    user: u32,
    time: Timestamp,
}

/// The places of what was chosen of what could be said.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Chosen {
    chosen: Vec<usize>,
}

/// What an engine did for it, this time: what was answered before is not counted.
#[derive(Debug, Default, Serialize)]
struct Work {
    prompt_tokens: usize,
    cached_tokens: usize,
    generated_tokens: usize,
    forced_tokens: usize,
    seconds: f64,
}

// === impl Work ===

impl Work {
    fn add(&mut self, usage: Usage) {
        self.prompt_tokens += usage.prompt_tokens;
        self.cached_tokens += usage.cached_tokens;
        self.generated_tokens += usage.generated_tokens;
        self.forced_tokens += usage.forced_tokens;
    }
}

// === impl Writer ===

impl<'a> Writer<'a> {
    /// A writer that speaks by the model of a workspace.
    pub fn new(
        workspace: &Workspace<'_>,
        reranker: &'a OfflineReranker,
        catalog: &'a Catalog,
        currency: &'a str,
        of: WriterRecipe,
    ) -> anyhow::Result<Self> {
        let model = hash_of(&workspace.path(Part::Decoder))?;
        Ok(Self { reranker, catalog, currency, of, model })
    }

    /// Lets the latest buyers' reasons stand first on every card, in the model's words: those that it
    /// gave most often lead. Reasons that it never gave keep the words and the order that they had.
    /// The cards' vectors are those of the old texts. `what` names the work.
    pub fn reasons(
        &self,
        workspace: &mut Workspace<'_>,
        what: &str,
        dataset: &Dataset,
        cards: &mut [ItemCard],
        as_of: Timestamp,
    ) -> anyhow::Result<Value> {
        let prompts = self.reranker.prompts();
        let buyers = latest_buyers(dataset, self.catalog.len(), as_of, self.of.buyers_max);
        let sayings = (0_u32..)
            .zip(&*cards)
            .map(|(item, card)| sayings(self.catalog, self.currency, prompts, item, card));
        let sayings = sayings.collect::<anyhow::Result<Vec<_>>>()?;
        let ask = |at: usize| {
            let Taken { item, user, time } = buyers[at];
            let history = before(dataset, user, item, time)?;
            let shopper = ShopperContext::of(&history, time);
            let sayings = sayings[item as usize].iter();
            Some(ChoicePrompt {
                prompt: prompts.why(shopper, item),
                options: sayings.map(|saying| saying.tokens.clone()).collect(),
                count: 1,
                seed: Some(u64::from(user) << 32 | u64::from(item)),
            })
        };
        let mut questions = blake3::Hasher::new();
        for Taken { item, user, time } in &buyers {
            questions.update(&item.to_le_bytes()).update(&user.to_le_bytes());
            questions.update(&time.to_le_bytes());
        }
        for text in sayings.iter().flatten().map(|saying| saying.text.as_bytes()) {
            questions.update(text);
        }
        let (answers, work) = self.ask_all(workspace, (what, questions), buyers.len(), &ask)?;
        let mut said: Vec<Vec<usize>> = vec![Vec::new(); cards.len()];
        for (taken, answer) in buyers.iter().zip(&answers) {
            said[taken.item as usize].extend(answer.chosen.first());
        }
        for ((card, said), sayings) in cards.iter_mut().zip(&said).zip(&sayings) {
            retell(card, said, sayings);
        }
        let told = cards.iter().flat_map(|card| &card.reasons);
        let told: Vec<&str> = told
            .filter(|told| told.source == ReasonSource::Cached)
            .map(|told| &*told.text)
            .collect();
        let apart = (told.len() / SHOWN).max(1);
        Ok(json!({
            "asked": buyers.len(),
            "answered": answers.iter().filter(|answer| !answer.chosen.is_empty()).count(),
            "written": told.len(),
            "items": said.iter().filter(|said| !said.is_empty()).count(),
            "distinct_2": rounded(distinct_2(&told)),
            "overlap": rounded(overlap(&told)),
            "work": work,
            "some": told.iter().step_by(apart).take(SHOWN).collect::<Vec<_>>(),
        }))
    }

    /// The pattern of each of these shoppers, with what the model expects them to like; `None` of those of
    /// whom nothing is known. `what` names the work.
    pub fn patterns(
        &self,
        workspace: &mut Workspace<'_>,
        what: &str,
        cards: &[ItemCard],
        shoppers: &[ShopperContext<'_>],
    ) -> anyhow::Result<(Vec<Option<String>>, Value)> {
        let prompts = self.reranker.prompts();
        let known: Vec<Vec<u32>> =
            shoppers.iter().map(|of| tastes(self.catalog, prompts, of.history)).collect();
        let ask = |at: usize| {
            let tokens = known[at].iter().map(|&attribute| prompts.taste(attribute));
            Some(ChoicePrompt {
                prompt: prompts.tastes(shoppers[at]),
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
        let (answers, work) = self.ask_all(workspace, (what, questions), shoppers.len(), &ask)?;
        let asked = answers.iter().filter(|answer| !answer.chosen.is_empty()).count();
        let told = shoppers.iter().zip(known).zip(answers).map(|((shopper, known), answer)| {
            let mut pattern = Pattern::of(self.catalog, cards, shopper.history)?;
            if !answer.chosen.is_empty() {
                pattern.likes = answer.chosen.iter().map(|&place| known[place]).collect();
            }
            Some(pattern.text(self.catalog, self.currency))
        });
        Ok((told.collect(), json!({ "shoppers": shoppers.len(), "answered": asked, "work": work })))
    }

    /// Asks all that was not asked before.
    fn ask_all(
        &self,
        workspace: &mut Workspace<'_>,
        (what, questions): (&str, blake3::Hasher),
        count: usize,
        ask: &dyn Fn(usize) -> Option<ChoicePrompt>,
    ) -> anyhow::Result<(Vec<Chosen>, Work)> {
        let questions = questions.finalize().to_hex().to_string();
        let mark = Mark { by: self.model.clone(), questions };
        let mut answers = Answers::open(&so_far(workspace, what), &mark)?;
        let missing = answers.missing(count);
        let known = count - missing.len();
        let (begun, mut work) = (Instant::now(), Work::default());
        for (done, some) in missing.chunks(AT_ONCE).enumerate() {
            workspace.progress.show(what, (known + done * AT_ONCE) as u64, count as u64);
            let asked: Vec<Option<ChoicePrompt>> = some.iter().map(|&at| ask(at)).collect();
            for (&at, (chosen, usage)) in some.iter().zip(self.reranker.choose(asked)?) {
                answers.add(at, Chosen { chosen })?;
                work.add(usage);
            }
        }
        work.seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        Ok((answers.into_all(), work))
    }
}

/// All that may be said of an item, each in tokens of its own.
fn sayings(
    catalog: &Catalog,
    currency: &str,
    prompts: &Prompts,
    item: u32,
    card: &ItemCard,
) -> anyhow::Result<Vec<Saying>> {
    let category = catalog.category(catalog.item(item).category);
    let mut all: Vec<Saying> = Vec::new();
    for (place, reason) in card.reasons.iter().enumerate() {
        let claims = reason.evidence.first();
        for text in claims.into_iter().flat_map(|of| evidence::phrasings(of, category, currency)) {
            let tokens = prompts.reason(&text, reason.backing)?;
            if all.iter().all(|other| other.tokens != tokens) {
                all.push(Saying { reason: place, text, tokens });
            }
        }
    }
    Ok(all)
}

/// Puts what was said, by places in `sayings`, in front, most often said first.
fn retell(card: &mut ItemCard, said: &[usize], sayings: &[Saying]) {
    let mut times: FxHashMap<usize, u32> = FxHashMap::default();
    let mut words: FxHashMap<usize, &str> = FxHashMap::default();
    for &place in said {
        let Saying { reason, text, .. } = &sayings[place];
        *times.entry(*reason).or_default() += 1;
        words.entry(*reason).or_insert(text);
    }
    let mut places: Vec<usize> = (0..card.reasons.len()).collect();
    places.sort_by_key(|place| Reverse(times.get(place).copied().unwrap_or(0)));
    let reasons = places.into_iter().map(|place| {
        let reason = card.reasons[place].clone();
        match words.get(&place) {
            Some(&text) => CardReason { text: text.into(), source: ReasonSource::Cached, ..reason },
            None => reason,
        }
    });
    card.reasons = reasons.collect();
}

/// The latest buyers of each item before a moment, at most so many of each.
fn latest_buyers(dataset: &Dataset, items: usize, as_of: Timestamp, most: usize) -> Vec<Taken> {
    let known = dataset.purchases.partition_point(|purchase| purchase.time < as_of);
    let mut buyers: Vec<Vec<Taken>> = vec![Vec::new(); items];
    for purchase in dataset.purchases[..known].iter().rev() {
        let of_it = &mut buyers[purchase.item as usize];
        if of_it.len() < most && of_it.iter().all(|taken| taken.user != purchase.user) {
            let (item, user, time) = (purchase.item, purchase.user, purchase.time);
            of_it.push(Taken { item, user, time });
        }
    }
    // In the order of shoppers, so that what they have in common is found in the engine's cache.
    let mut all = buyers.concat();
    all.sort_by_key(|taken| (taken.user, taken.time, taken.item));
    all
}

/// What a shopper had done before they took an item.
fn before(dataset: &Dataset, user: u32, item: u32, time: Timestamp) -> Option<Vec<HistoryEvent>> {
    let user = user as usize;
    let line = dataset.bought[user].iter().position(|b| b.item == item && b.time == time)?;
    Some(dataset.history(user, line, true, EVENTS_MAX))
}

/// What a shopper's things have in common, as far as it can be told apart in tokens.
fn tastes(catalog: &Catalog, prompts: &Prompts, history: &[HistoryEvent]) -> Vec<u32> {
    let mut tastes = evidence::liked_attributes(catalog, history);
    let mut met: Vec<Vec<u32>> = Vec::new();
    tastes.retain(|&attribute| {
        let tokens = prompts.taste(attribute);
        let is_new = !met.contains(&tokens);
        met.push(tokens);
        is_new
    });
    tastes
}

/// Forgets what was answered, once it stands on cards.
pub fn done(workspace: &Workspace<'_>) -> anyhow::Result<()> {
    for what in [REASONS, PATTERNS, JUDGED_REASONS, JUDGED_PATTERNS] {
        let file = so_far(workspace, what);
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    Ok(())
}

fn so_far(workspace: &Workspace<'_>, what: &str) -> PathBuf {
    workspace.dir.join(format!("write.{}.jsonl", what.replace(' ', "_")))
}

/// A hash of a model's folder: of its files' names and contents.
fn hash_of(folder: &Path) -> anyhow::Result<String> {
    let reading = || format!("reading the language model {}", folder.display());
    let entries = fs::read_dir(folder).with_context(reading)?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    let mut hash = blake3::Hasher::new();
    for file in files {
        // Its name alone: a folder may be moved.
        hash.update(file.file_name().unwrap_or_default().as_encoded_bytes());
        hash.update_reader(fs::File::open(&file).with_context(reading)?).with_context(reading)?;
    }
    Ok(hash.finalize().to_hex().to_string())
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}
