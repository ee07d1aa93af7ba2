//! A language model that reads many slates offline, on an engine of its own.

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

/// Concurrent requests to the engine.
pub const CONCURRENCY: usize = 8;
/// The most tokens of a forward pass.
const BATCHED_TOKENS_MAX: usize = 2048;
/// The size of the KV cache in bytes.
const KV_CACHE_BYTES: u64 = 512 << 20;
/// Offline work has no deadline.
const PRIORITY: Priority = Priority::BACKGROUND;

/// A prompt, and options of which the model generates some.
#[derive(Debug)]
pub struct ChoicePrompt {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// The options, in tokens.
    pub options: Vec<Vec<u32>>,
    /// How many options to choose.
    pub count: usize,
    /// The sampling seed. Without one, decoding is greedy.
    pub seed: Option<u64>,
}

/// A language model with the prompts of one catalogue.
#[derive(Debug)]
pub struct OfflineReranker {
    reranker: Reranker,
    catalog: Arc<Catalog>,
}

// === impl OfflineReranker ===

impl OfflineReranker {
    /// Starts the model in a folder with [`CONCURRENCY`].
    pub fn start(folder: &Path, catalog: &Arc<Catalog>) -> anyhow::Result<Self> {
        Self::with_concurrency(folder, catalog, CONCURRENCY)
    }

    /// Starts the model in a folder for so many concurrent requests.
    pub fn with_concurrency(
        folder: &Path,
        catalog: &Arc<Catalog>,
        concurrency: usize,
    ) -> anyhow::Result<Self> {
        let positive = |count| NonZeroUsize::MIN.saturating_add(count - 1);
        let options = RerankerOptions {
            device: ComputeDevice::Cpu,
            threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
            kv_cache_bytes: KV_CACHE_BYTES,
            weight_dtype: None,
            kv_cache_dtype: None,
            max_batched_tokens: positive(BATCHED_TOKENS_MAX),
            cuda_graphs: false,
            scheduler: SchedulerConfig {
                running_max: positive(concurrency),
                // A finished request may occupy its slot for a moment while the next one is submitted.
                waiting_max: positive(concurrency),
                prefill_chunk_max: positive(BATCHED_TOKENS_MAX),
            },
        };
        let reranker = Reranker::start(folder, catalog, options, &Arc::new(Metrics::new()));
        let reranker = reranker
            .with_context(|| format!("starting the language model {}", folder.display()))?;
        Ok(Self { reranker, catalog: catalog.clone() })
    }

    /// The prompts.
    pub fn prompts(&self) -> &Prompts {
        self.reranker.prompts()
    }

    /// The indices of the options chosen after each prompt, and the tokens used. Empty without a prompt, without options, or
    /// if two options have the same tokens.
    pub fn choose(
        &self,
        prompts: Vec<Option<ChoicePrompt>>,
    ) -> anyhow::Result<Vec<(Vec<usize>, Usage)>> {
        let pending = prompts.into_iter().map(|prompt| {
            let Some(prompt) = prompt else { return Ok(None) };
            let Ok(options) = Trie::new(&prompt.options) else { return Ok(None) };
            let sampling = match prompt.seed {
                Some(seed) => SamplingParams { temperature: 1.0, seed, ..SamplingParams::GREEDY },
                None => SamplingParams::GREEDY,
            };
            let (count, options) = (prompt.count, Arc::new(options));
            self.reranker.choose(prompt.prompt, &options, count, sampling, PRIORITY).map(Some)
        });
        let pending = pending.collect::<Result<Vec<_>, _>>()?;
        let chosen = pending.into_iter().map(|pending| match pending {
            Some(pending) => Ok(pending.blocking_chosen()?),
            None => Ok(Default::default()),
        });
        chosen.collect()
    }

    /// The weighed rung's logit of each candidate, by case.
    pub fn weigh(
        &self,
        cases: &[Case],
        snapshots: &[Snapshot],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Vec<f32>>> {
        let mut logits = Vec::with_capacity(cases.len());
        for chunk in cases.chunks(CONCURRENCY) {
            progress(logits.len());
            let pending = chunk.iter().map(|case| {
                // The engine refuses a request without branches.
                let has_candidates = !case.slate.is_empty();
                let offers = case.offers(&self.catalog, snapshots, &case.slate);
                has_candidates
                    .then(|| self.reranker.weigh(case.shopper(), &offers, PRIORITY))
                    .transpose()
            });
            let pending = pending.collect::<Result<Vec<_>, _>>()?;
            for (case, pending) in chunk.iter().zip(pending) {
                let weighed = match pending {
                    Some(pending) => pending.blocking_logits()?.0,
                    None => Vec::new(),
                };
                ensure!(weighed.len() == case.slate.len(), "a candidate was not weighed");
                logits.push(weighed);
            }
        }
        Ok(logits)
    }

    /// Fills in each case's expected item.
    pub fn expect(
        &self,
        cases: &mut [Case],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<()> {
        let shoppers: Vec<ShopperContext<'_>> = cases.iter().map(Case::shopper).collect();
        let expected = self.expected(&shoppers, progress)?;
        for (case, item) in cases.iter_mut().zip(expected) {
            case.expected_item = item;
        }
        Ok(())
    }

    /// The item of the whole catalogue that the model predicts each shopper to take next.
    pub fn expected(
        &self,
        shoppers: &[ShopperContext<'_>],
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<Option<u32>>> {
        let items = self.reranker.item_trie()?;
        let mut expected = Vec::with_capacity(shoppers.len());
        for chunk in shoppers.chunks(CONCURRENCY) {
            progress(expected.len());
            let pending =
                chunk.iter().map(|&shopper| self.reranker.predict_item(shopper, &items, PRIORITY));
            for pending in pending.collect::<Result<Vec<_>, _>>()? {
                let (items, _) = pending.blocking_chosen()?;
                expected.push(items.first().map(|&item| item as u32));
            }
        }
        Ok(expected)
    }

    /// The weighed rung's logits of a golden request, whose user and items are the model's own.
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
        Ok(self.reranker.weigh(shopper, &offers, PRIORITY)?.blocking_logits()?.0)
    }

    /// Compares the offered items for a shopper, after a thought of at most so many tokens.
    pub fn think(
        &self,
        shopper: ShopperContext<'_>,
        offers: &[OfferedItem],
        thought_tokens_max: usize,
    ) -> anyhow::Result<ComparedAnswer> {
        let thinking = ThinkingMode::Free(thought_tokens_max);
        let pending = self.reranker.compare(shopper, offers, &thinking, PRIORITY)?;
        Ok(pending.blocking_answer()?)
    }

    /// Compares each case's offered items on a rung. A case without any has an empty answer.
    pub fn compare(
        &self,
        cases: &[Case],
        snapshots: &[Snapshot],
        offers: &[Vec<u32>],
        rung: ComparedFile,
        progress: &mut dyn FnMut(usize),
    ) -> anyhow::Result<Vec<ComparedAnswer>> {
        let mut answers = Vec::with_capacity(cases.len());
        for (chunk, offers) in cases.chunks(CONCURRENCY).zip(offers.chunks(CONCURRENCY)) {
            progress(answers.len());
            let pending = chunk.iter().zip(offers).map(|(case, offer)| {
                let cards = &snapshots[case.snapshot].cards.items;
                let grounds = || Grounds::of(&self.catalog, cards, &case.history, offer);
                let offers = case.offers(&self.catalog, snapshots, offer);
                let compare = || {
                    let thinks = rung.thinks(grounds);
                    self.reranker.compare(case.shopper(), &offers, &thinks, PRIORITY)
                };
                (!offers.is_empty()).then(compare).transpose()
            });
            for pending in pending.collect::<Result<Vec<_>, _>>()? {
                answers.push(match pending {
                    Some(pending) => pending.blocking_answer()?,
                    None => ComparedAnswer::default(),
                });
            }
        }
        Ok(answers)
    }
}
