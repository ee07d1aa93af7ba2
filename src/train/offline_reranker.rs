//! A language model on the workspace: what it says of many slates.

use super::cases::Case;
use super::snapshot::Snapshot;
use crate::bundle::{Catalog, GoldenRequest};
use crate::engine::{ComputeDevice, Priority, SamplingParams, SchedulerConfig, Trie, Usage};
use crate::reranker::{
    self, ComparedAnswer, ComparedFile, Grounds, OfferedItem, Prompts, Reranker, RerankerOptions,
    ShopperContext, ThinkingMode,
};
use crate::scorer::ScorerModel;
use crate::telemetry::Metrics;
use anyhow::{Context as _, ensure};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::thread::available_parallelism;

/// Slates that are with the engine at a time.
pub const CONCURRENCY: usize = 8;
/// Rows of a step.
const ROWS_MAX: usize = 2048;
/// Bytes of keys and values.
const CACHE: u64 = 512 << 20;
/// Nobody waits for a workspace.
const NO_HURRY: Priority = Priority::BACKGROUND;

/// What is to be written after a prompt: so many of what may be said.
#[derive(Debug)]
pub struct ChoicePrompt {
    /// What comes before.
    pub prompt: Vec<u32>,
    /// What may be said, in tokens.
    pub options: Vec<Vec<u32>>,
    /// How many of it.
    pub count: usize,
    /// Where chance comes from; without it the likeliest is said.
    pub seed: Option<u64>,
}

/// A language model that reads slates.
#[derive(Debug)]
pub struct OfflineReranker {
    reranker: Reranker,
    catalog: Arc<Catalog>,
}

// === impl OfflineReranker ===

impl OfflineReranker {
    /// Starts the model of a folder, for slates.
    pub fn start(folder: &Path, catalog: &Arc<Catalog>) -> anyhow::Result<Self> {
        Self::with_concurrency(folder, catalog, CONCURRENCY)
    }

    /// Starts the model of a folder, for so many asks at a time.
    pub fn with_concurrency(
        folder: &Path,
        catalog: &Arc<Catalog>,
        concurrency: usize,
    ) -> anyhow::Result<Self> {
        let some = |count| NonZeroUsize::MIN.saturating_add(count - 1);
        let limits = RerankerOptions {
            device: ComputeDevice::Cpu,
            threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            kv_cache_bytes: CACHE,
            weight_dtype: None,
            kv_cache_dtype: None,
            max_batched_tokens: some(ROWS_MAX),
            cuda_graphs: false,
            scheduler: SchedulerConfig {
                running_max: some(concurrency),
                // One that is done may hold its place for a moment while the next is asked.
                waiting_max: some(concurrency),
                prefill_chunk_max: some(ROWS_MAX),
            },
        };
        let reranker = Reranker::start(folder, catalog, limits, &Arc::new(Metrics::new()));
        let reranker =
            reranker.with_context(|| format!("the language model {}", folder.display()))?;
        Ok(Self { reranker, catalog: catalog.clone() })
    }

    /// The words that it is spoken to in.
    pub fn prompts(&self) -> &Prompts {
        self.reranker.prompts()
    }

    /// What it chooses of what may be said, by places, and what that took: nothing where there is nothing to
    /// choose from, or nothing that can be told apart.
    pub fn choose(
        &self,
        asked: Vec<Option<ChoicePrompt>>,
    ) -> anyhow::Result<Vec<(Vec<usize>, Usage)>> {
        let begun = asked.into_iter().map(|asked| {
            let Some(asked) = asked else { return Ok(None) };
            let Ok(among) = Trie::new(&asked.options) else { return Ok(None) };
            let sampling = match asked.seed {
                Some(seed) => SamplingParams { temperature: 1.0, seed, ..SamplingParams::GREEDY },
                None => SamplingParams::GREEDY,
            };
            let (prompt, among) = (asked.prompt, Arc::new(among));
            self.reranker.choose(prompt, &among, asked.count, sampling, NO_HURRY).map(Some)
        });
        let begun = begun.collect::<Result<Vec<_>, _>>()?;
        let chosen = begun.into_iter().map(|choosing| match choosing {
            Some(choosing) => Ok(choosing.blocking_chosen()?),
            None => Ok(Default::default()),
        });
        chosen.collect()
    }

    /// The logit of each candidate of each case's slate.
    pub fn weigh(
        &self,
        cases: &[Case],
        snapshots: &[Snapshot],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut logits = Vec::with_capacity(cases.len());
        for some in cases.chunks(CONCURRENCY) {
            progress(logits.len());
            let asked = some.iter().map(|case| {
                // There is nothing to ask of an empty slate.
                let is_asked = !case.slate.is_empty();
                let offers = case.offers(&self.catalog, snapshots, &case.slate);
                is_asked.then(|| self.reranker.weigh(case.shopper(), &offers, NO_HURRY)).transpose()
            });
            let asked = asked.collect::<Result<Vec<_>, _>>()?;
            for (case, weighing) in some.iter().zip(asked) {
                let heard = match weighing {
                    Some(weighing) => weighing.blocking_logits()?.0,
                    None => Vec::new(),
                };
                ensure!(heard.len() == case.slate.len(), "a candidate was not weighed");
                logits.push(heard);
            }
        }
        Ok(logits)
    }

    /// Says of each case which item it expects the shopper to want.
    pub fn expect(
        &self,
        cases: &mut [Case],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<()> {
        let shoppers: Vec<ShopperContext<'_>> = cases.iter().map(Case::shopper).collect();
        let expected = self.expected(&shoppers, progress)?;
        for (case, expects) in cases.iter_mut().zip(expected) {
            case.expected_item = expects;
        }
        Ok(())
    }

    /// The item that it expects each of these shoppers to want, wherever it is in the catalogue.
    pub fn expected(
        &self,
        shoppers: &[ShopperContext<'_>],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Option<u32>>> {
        let items = self.reranker.items()?;
        let mut expected = Vec::with_capacity(shoppers.len());
        for some in shoppers.chunks(CONCURRENCY) {
            progress(expected.len());
            let asked = some.iter().map(|&shopper| self.reranker.expect(shopper, &items, NO_HURRY));
            for expecting in asked.collect::<Result<Vec<_>, _>>()? {
                let (named, _) = expecting.blocking_chosen()?;
                expected.push(named.first().map(|&item| item as u32));
            }
        }
        Ok(expected)
    }

    /// The logits of a golden request, which is made of the model's own users and items.
    pub fn weigh_golden(
        &self,
        model: &ScorerModel,
        golden: &GoldenRequest,
    ) -> anyhow::Result<Vec<f32>> {
        let history = &model.cards.users[&golden.user.as_str().into()].history;
        let shopper = ShopperContext::of(history, golden.now);
        let number = |item: &String| model.catalog.number(&item.as_str().into());
        let items: Vec<u32> = golden.items.iter().filter_map(number).collect();
        let offers = reranker::offers(&model.catalog, &model.cards, shopper, &items);
        Ok(self.reranker.weigh(shopper, &offers, NO_HURRY)?.blocking_logits()?.0)
    }

    /// What it makes of one offer to one shopper, after a thought of so many tokens.
    pub fn think(
        &self,
        shopper: ShopperContext<'_>,
        offers: &[OfferedItem],
        thought_tokens_max: usize,
    ) -> anyhow::Result<ComparedAnswer> {
        let thinks = ThinkingMode::Freely(thought_tokens_max);
        let comparing = self.reranker.compare(shopper, offers, &thinks, NO_HURRY)?;
        Ok(comparing.blocking_answer()?)
    }

    /// What it makes of each case's offer, on this rung.
    pub fn compare(
        &self,
        cases: &[Case],
        snapshots: &[Snapshot],
        offers: &[Vec<u32>],
        rung: ComparedFile,
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<ComparedAnswer>> {
        let mut answers = Vec::with_capacity(cases.len());
        for (some, offers) in cases.chunks(CONCURRENCY).zip(offers.chunks(CONCURRENCY)) {
            progress(answers.len());
            let asked = some.iter().zip(offers).map(|(case, offer)| {
                let cards = &snapshots[case.snapshot].cards.items;
                let grounds = || Grounds::of(&self.catalog, cards, &case.history, offer);
                let offers = case.offers(&self.catalog, snapshots, offer);
                let compare = || {
                    let thinks = rung.thinks(grounds);
                    self.reranker.compare(case.shopper(), &offers, &thinks, NO_HURRY)
                };
                (!offers.is_empty()).then(compare).transpose()
            });
            for comparing in asked.collect::<Result<Vec<_>, _>>()? {
                answers.push(match comparing {
                    Some(comparing) => comparing.blocking_answer()?,
                    None => ComparedAnswer::default(),
                });
            }
        }
        Ok(answers)
    }
}
