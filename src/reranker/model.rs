//! A language model that reads shoppers and items: an engine, and the prompts that it is spoken to in.

use super::facts::OfferedItem;
use super::grounds::Grounds;
use super::prompt::{OFFERED_MAX, PromptError, Prompts, ShopperWords};
use super::thought_text::ThoughtText;
use crate::bundle::{Catalog, HistoryEvent};
use crate::domain::Timestamp;
use crate::engine::{
    BranchOutput, ComputeDevice, ComputeDeviceError, Constraint, ConstraintError, Engine,
    EngineError, EngineEvent, EngineRequest, GenerateRequest, Priority, RequestFailure,
    RequestKind, ResponseStream, SamplingParams, SchedulerConfig, Thinking, Trie, Usage,
    WeighRequest,
};
use crate::nn::decoder::{Checkpoint, CheckpointError};
use crate::nn::packed::{PackedOptions, SimdLevel, WeightDtype};
use crate::telemetry::Metrics;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

/// A language model that reads shoppers and items.
#[derive(Debug)]
pub struct Reranker {
    engine: Engine,
    prompts: Prompts,
    /// Tokens that end a text, which may not be thought.
    stop_tokens: Vec<u32>,
    weight_dtype: WeightDtype,
}

/// How a language model runs, and how much it may take on.
#[derive(Clone, Copy, Debug)]
pub struct RerankerOptions {
    /// The device that it runs on.
    pub device: ComputeDevice,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Size of the KV cache in bytes.
    pub kv_cache_bytes: u64,
    /// The type of the weights in memory. `None` keeps the checkpoint's.
    pub weight_dtype: Option<WeightDtype>,
    /// The type of the KV cache. `None` leaves it to the device.
    pub kv_cache_dtype: Option<WeightDtype>,
    /// Tokens of one forward pass.
    pub max_batched_tokens: NonZeroUsize,
    /// Whether a GPU replays decode batches as CUDA graphs.
    pub cuda_graphs: bool,
    /// Limits of the scheduler.
    pub scheduler: SchedulerConfig,
}

/// A shopper, as a prompt reads them.
#[derive(Clone, Copy, Debug)]
pub struct ShopperContext<'a> {
    /// What they did, oldest first.
    pub history: &'a [HistoryEvent],
    /// When they want something.
    pub now: Timestamp,
    /// What is said in words.
    pub words: ShopperWords<'a>,
}

impl<'a> ShopperContext<'a> {
    /// A shopper of whom nothing is said in words.
    pub fn of(history: &'a [HistoryEvent], now: Timestamp) -> Self {
        Self { history, now, words: ShopperWords::default() }
    }
}

/// Whether a model thinks before it answers, and within what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThinkingMode {
    /// It answers at once.
    Not,
    /// Whatever it likes, in so many tokens.
    Freely(usize),
    /// Nothing but what can be shown, in so many tokens.
    Within(Grounds, usize),
}

/// Candidates that are being weighed. Dropping it stops the work.
#[derive(Debug)]
pub struct PendingWeighing(ResponseStream);

/// Candidates that are being compared. Dropping it stops the work.
#[derive(Debug)]
pub struct PendingComparison<'a> {
    reply: ResponseStream,
    prompts: &'a Prompts,
    constraint: Constraint,
    offered: Vec<OfferedItem>,
    thinks: bool,
}

/// What is being chosen from what may be said. Dropping it stops the work.
#[derive(Debug)]
pub struct PendingChoice {
    reply: ResponseStream,
    constraint: Constraint,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComparedAnswer {
    /// The candidates, best first: always a permutation of those that were offered.
    pub order: Vec<u32>,
    /// What was thought before.
    pub thought: String,
    /// What it took.
    pub usage: Usage,
}

/// Why there is no language model.
#[derive(Debug, thiserror::Error)]
pub enum RerankerError {
    /// Its files can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It can't be spoken to.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// It can't run where it should.
    #[error(transparent)]
    Device(#[from] ComputeDeviceError),
    /// It does not run.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why nothing came of an ask.
#[derive(Debug, thiserror::Error)]
pub enum RerankError {
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine took it, and did not bring it to its end.
    #[error(transparent)]
    Failed(#[from] RequestFailure),
    /// The candidates can't be told apart, or there is none.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// What was written is no text.
    #[error(transparent)]
    Tokenizer(#[from] crate::language::LmTokenizerError),
}

// === impl Reranker ===

impl Reranker {
    /// Starts the model of a folder, which must know the catalogue's items.
    pub fn start(
        folder: &Path,
        catalog: &Catalog,
        options: RerankerOptions,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, RerankerError> {
        let prompts = Prompts::open(folder, catalog)?;
        let checkpoint = Checkpoint::open(folder)?;
        let config = checkpoint.config();
        prompts.fit(config.vocabulary)?;
        let weight_dtype = match options.weight_dtype {
            Some(dtype) => dtype,
            None => WeightDtype::of(&checkpoint)?,
        };
        let weight_dtype = options.device.weight_dtype(weight_dtype)?;
        let kv_dtype = options.device.kv_dtype(options.kv_cache_dtype)?;
        let packed = PackedOptions {
            weight_dtype,
            kv_dtype,
            threads: options.threads,
            level: SimdLevel::best(),
            kv_pages: (options.kv_cache_bytes / weight_dtype.page_bytes(kv_dtype, config) as u64)
                as usize,
            max_batched_tokens: options.max_batched_tokens.get(),
        };
        let (tokens, stop_tokens) = (config.positions_max, config.ends.clone());
        let decodes_max = if options.cuda_graphs { options.scheduler.running_max.get() } else { 0 };
        let build = move || options.device.load(checkpoint, packed, tokens, decodes_max);
        let engine = Engine::start(build, options.scheduler, metrics)?;
        Ok(Self { engine, prompts, stop_tokens, weight_dtype })
    }

    /// The words that it is spoken to in.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Whether it can still be asked.
    pub fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }

    /// The type of its weights in memory.
    pub fn weight_dtype(&self) -> WeightDtype {
        self.weight_dtype
    }

    /// Weighs each of these candidates alone, in one prefill.
    pub fn weigh(
        &self,
        shopper: ShopperContext<'_>,
        offers: &[OfferedItem],
        priority: Priority,
    ) -> Result<PendingWeighing, RerankError> {
        let kind = RequestKind::Weigh(WeighRequest {
            trunk: self.prompts.trunk(shopper),
            branches: offers.iter().map(|offer| self.prompts.branch(offer)).collect(),
            output: BranchOutput::TokenLogits(vec![self.prompts.asked()]),
        });
        Ok(PendingWeighing(self.submit(kind, priority)?))
    }

    /// Compares the first [`OFFERED_MAX`] of these candidates at once, or after a thought. In which order
    /// those come makes no difference.
    pub fn compare(
        &self,
        shopper: ShopperContext<'_>,
        offers: &[OfferedItem],
        thinks: &ThinkingMode,
        priority: Priority,
    ) -> Result<PendingComparison<'_>, RerankError> {
        let prompts = &self.prompts;
        let mut offered = offers[..offers.len().min(OFFERED_MAX)].to_vec();
        prompts.offer_order(&mut offered);
        let mut prompt = prompts.trunk(shopper);
        prompt.extend(prompts.offer(&offered));
        let order = Constraint::permutation(&prompts.labels()[..offered.len()], &[])?;
        let thought = match thinks {
            ThinkingMode::Not => None,
            ThinkingMode::Freely(most) => Some(self.freely(*most, order.clone())?),
            ThinkingMode::Within(grounds, most) => self.within(grounds, *most, order.clone())?,
        };
        let thinks = thought.is_some();
        prompt.extend(if thinks { prompts.think() } else { prompts.answer() });
        let constraint = thought.unwrap_or(order);
        let kind = RequestKind::Generate(GenerateRequest {
            prompt,
            samples: NonZeroUsize::MIN,
            tokens_max: constraint.tokens_needed(),
            sampling: SamplingParams::GREEDY,
            constraint: constraint.clone(),
            stop_tokens: Vec::new(),
        });
        Ok(PendingComparison {
            reply: self.submit(kind, priority)?,
            prompts,
            constraint,
            offered,
            thinks,
        })
    }

    /// A thought of so many tokens, and then the order.
    fn freely(&self, most: usize, order: Constraint) -> Result<Constraint, ConstraintError> {
        let thinking = Thinking {
            tokens_max: most,
            open: Vec::new(),
            close: self.prompts.answer().to_vec(),
            stop_tokens: self.stop_tokens.clone(),
        };
        Constraint::think(thinking, order)
    }

    /// Something that can be shown, in at most so many tokens, and then the order; `None` where there is
    /// nothing to be shown of any candidate.
    fn within(
        &self,
        grounds: &Grounds,
        most: usize,
        order: Constraint,
    ) -> Result<Option<Constraint>, ConstraintError> {
        let one_of = |mut told: Vec<Vec<u32>>, most: usize| {
            told.retain(|tokens| tokens.len() <= most);
            let trie = (!told.is_empty()).then(|| Trie::new(&told)).transpose()?;
            trie.map(|trie| Constraint::entries(Arc::new(trie), 1)).transpose()
        };
        let claims = grounds.claims_told(&self.prompts);
        let Some(claim) = one_of(claims, most)? else { return Ok(None) };
        let left = most.saturating_sub(claim.tokens_needed());
        let then = Constraint::chain(claim, order)?;
        let Some(likes) = one_of(grounds.likes_told(&self.prompts), left)? else {
            return Ok(Some(then));
        };
        Constraint::chain(likes, then).map(Some)
    }

    /// All items that the catalogue holds, as what may be named.
    pub fn items(&self) -> Result<Arc<Trie>, ConstraintError> {
        let ids: Vec<Vec<u32>> = self.prompts.items().map(<[u32]>::to_vec).collect();
        Ok(Arc::new(Trie::new(&ids)?))
    }

    /// Names the item, of [all](Self::items), that a shopper is expected to want: the semantic id that
    /// goes on where their trunk ends, token by token the likeliest. It need not be in any slate.
    pub fn expect(
        &self,
        shopper: ShopperContext<'_>,
        items: &Arc<Trie>,
        priority: Priority,
    ) -> Result<PendingChoice, RerankError> {
        let trunk = self.prompts.trunk(shopper);
        self.choose(trunk, items, 1, SamplingParams::GREEDY, priority)
    }

    /// Writes so many different ones of what may be said after a prompt.
    pub fn choose(
        &self,
        prompt: Vec<u32>,
        among: &Arc<Trie>,
        count: usize,
        sampling: SamplingParams,
        priority: Priority,
    ) -> Result<PendingChoice, RerankError> {
        let constraint = Constraint::entries(among.clone(), count)?;
        let kind = RequestKind::Generate(GenerateRequest {
            prompt,
            samples: NonZeroUsize::MIN,
            tokens_max: constraint.tokens_needed(),
            sampling,
            constraint: constraint.clone(),
            stop_tokens: Vec::new(),
        });
        Ok(PendingChoice { reply: self.submit(kind, priority)?, constraint })
    }

    fn submit(&self, kind: RequestKind, priority: Priority) -> Result<ResponseStream, EngineError> {
        self.engine.submit(EngineRequest { kind, priority })
    }
}

// === impl PendingWeighing ===

impl PendingWeighing {
    /// The logit of each item, in their order, and what it took.
    pub async fn logits(mut self) -> Result<(Vec<f32>, Usage), RerankError> {
        let mut heard = Heard::default();
        while let Some(event) = self.0.next().await {
            heard.take(&event)?;
        }
        Ok((heard.logits, heard.usage))
    }

    /// The same for callers that are no tasks.
    pub fn blocking_logits(mut self) -> Result<(Vec<f32>, Usage), RerankError> {
        let mut heard = Heard::default();
        while let Some(event) = self.0.blocking_next() {
            heard.take(&event)?;
        }
        Ok((heard.logits, heard.usage))
    }
}

// === impl PendingChoice ===

impl PendingChoice {
    /// The places of what was chosen, in the order in which it was said, and what it took; for callers
    /// that are no tasks.
    pub fn blocking_chosen(mut self) -> Result<(Vec<usize>, Usage), RerankError> {
        let mut heard = Heard::default();
        while let Some(event) = self.reply.blocking_next() {
            heard.take(&event)?;
        }
        let chosen = self.constraint.parse(&heard.tokens).unwrap_or_default();
        Ok((chosen, heard.usage))
    }
}

// === impl PendingComparison ===

impl PendingComparison<'_> {
    /// What came of it. `aloud` hears the thought as it is written.
    pub async fn answer(
        mut self,
        mut aloud: impl FnMut(&str),
    ) -> Result<ComparedAnswer, RerankError> {
        let mut heard = Heard::default();
        let mut spoken = ThoughtText::new(self.prompts);
        let answer = self.prompts.answer();
        let mut thinking = self.thinks;
        while let Some(event) = self.reply.next().await {
            heard.take(&event)?;
            // A token is told once it is clear that it does not begin the answer.
            thinking = thinking && !heard.tokens.ends_with(answer);
            let told = heard.tokens.len().checked_sub(answer.len()).filter(|_| thinking);
            if let (Some(at), EngineEvent::Token { .. }) = (told, &event) {
                aloud(&spoken.add(heard.tokens[at])?);
            }
        }
        if self.thinks {
            aloud(&spoken.rest()?);
        }
        self.read(&heard)
    }

    /// The same for callers that are no tasks.
    pub fn blocking_answer(mut self) -> Result<ComparedAnswer, RerankError> {
        let mut heard = Heard::default();
        while let Some(event) = self.reply.blocking_next() {
            heard.take(&event)?;
        }
        self.read(&heard)
    }

    fn read(&self, heard: &Heard) -> Result<ComparedAnswer, RerankError> {
        let labels = self.constraint.parse(&heard.tokens).unwrap_or_default();
        let order = labels.iter().map(|&label| self.offered[label].item).collect();
        let thought = self.prompts.thought(&heard.tokens);
        let thought = ThoughtText::all(self.prompts, thought)?;
        Ok(ComparedAnswer { order, thought, usage: heard.usage })
    }
}

/// What was heard of an ask.
#[derive(Debug, Default)]
struct Heard {
    logits: Vec<f32>,
    tokens: Vec<u32>,
    usage: Usage,
}

impl Heard {
    fn take(&mut self, event: &EngineEvent) -> Result<(), RequestFailure> {
        match event {
            EngineEvent::Weighed(branches) => self.logits = branches.concat(),
            EngineEvent::Token { token, .. } => self.tokens.push(*token),
            EngineEvent::Done { usage, .. } => self.usage = *usage,
            EngineEvent::Failed(failure) => return Err(failure.clone()),
        }
        Ok(())
    }
}
