//! A language model that ranks: an engine, and the prompts that it is sent.

use super::facts::OfferedItem;
use super::grounds::{Grounds, ThinkingMode};
use super::prompt::{OFFERED_MAX, PromptError, Prompts};
use super::shopper::ShopperContext;
use super::thought_text::ThoughtText;
use crate::bundle::Catalog;
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

/// A language model that weighs and compares candidates.
#[derive(Debug)]
pub struct Reranker {
    engine: Engine,
    prompts: Prompts,
    /// Stop tokens, which are banned in thoughts.
    stop_tokens: Vec<u32>,
    weight_dtype: WeightDtype,
}

/// How a language model runs.
#[derive(Clone, Copy, Debug)]
pub struct RerankerOptions {
    /// The device of the forward passes.
    pub device: ComputeDevice,
    /// Threads of a CPU's forward passes.
    pub threads: NonZeroUsize,
    /// Size of the KV cache in bytes.
    pub kv_cache_bytes: u64,
    /// The type of the weights in memory. `None` keeps the checkpoint's.
    pub weight_dtype: Option<WeightDtype>,
    /// The type of the KV cache. `None` leaves it to the device.
    pub kv_cache_dtype: Option<WeightDtype>,
    /// Tokens in one forward pass.
    pub max_batched_tokens: NonZeroUsize,
    /// Whether a GPU replays decode batches as CUDA graphs.
    pub cuda_graphs: bool,
    /// Limits of the scheduler.
    pub scheduler: SchedulerConfig,
}

/// Candidates that are being weighed. Dropping it aborts the request.
#[derive(Debug)]
pub struct PendingWeighing(ResponseStream);

/// Candidates that are being compared. Dropping it aborts the request.
#[derive(Debug)]
pub struct PendingComparison<'a> {
    response: ResponseStream,
    prompts: &'a Prompts,
    constraint: Constraint,
    offered: Vec<OfferedItem>,
    thinks: bool,
}

/// A choice among entries that is being made. Dropping it aborts the request.
#[derive(Debug)]
pub struct PendingChoice {
    response: ResponseStream,
    constraint: Constraint,
}

/// The answer of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ComparedAnswer {
    /// The candidates, best first: a permutation of those offered.
    pub order: Vec<u32>,
    /// The thought; empty without one.
    pub thought: String,
    /// The tokens that it took.
    pub usage: Usage,
}

/// Why a language model does not start.
#[derive(Debug, thiserror::Error)]
pub enum RerankerError {
    /// The checkpoint can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The prompts can't be built.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// It can't run on the device.
    #[error(transparent)]
    Device(#[from] ComputeDeviceError),
    /// The engine does not start.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum RerankError {
    /// The engine rejected it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine admitted it, and it failed later.
    #[error(transparent)]
    Failed(#[from] RequestFailure),
    /// There is no candidate, or two are equal.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// The generated tokens are no text.
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
        prompts.check_vocabulary(config.vocabulary)?;
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

    /// Its prompts.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Whether its engine takes requests.
    pub fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }

    /// The type of its weights in memory.
    pub fn weight_dtype(&self) -> WeightDtype {
        self.weight_dtype
    }

    /// Weighs each candidate alone: one branch each on the shopper's trunk.
    pub fn weigh(
        &self,
        shopper: ShopperContext<'_>,
        offers: &[OfferedItem],
        priority: Priority,
    ) -> Result<PendingWeighing, RerankError> {
        let kind = RequestKind::Weigh(WeighRequest {
            trunk: self.prompts.trunk(shopper),
            branches: offers.iter().map(|offer| self.prompts.branch(offer)).collect(),
            output: BranchOutput::TokenLogits(vec![self.prompts.score_token()]),
        });
        Ok(PendingWeighing(self.submit(kind, priority)?))
    }

    /// Compares the first [`OFFERED_MAX`] candidates, at once or after a thought. Their order does not matter.
    pub fn compare(
        &self,
        shopper: ShopperContext<'_>,
        offers: &[OfferedItem],
        thinking: &ThinkingMode,
        priority: Priority,
    ) -> Result<PendingComparison<'_>, RerankError> {
        let prompts = &self.prompts;
        let mut offered = offers[..offers.len().min(OFFERED_MAX)].to_vec();
        prompts.sort_offers(&mut offered);
        let mut prompt = prompts.trunk(shopper);
        prompt.extend(prompts.offers(&offered));
        let order = Constraint::permutation(&prompts.labels()[..offered.len()], &[])?;
        let thought = match thinking {
            ThinkingMode::Off => None,
            ThinkingMode::Free(tokens_max) => Some(self.free_thought(*tokens_max, order.clone())?),
            ThinkingMode::Grounded(grounds, tokens_max) => {
                self.grounded_thought(grounds, *tokens_max, order.clone())?
            }
        };
        let thinks = thought.is_some();
        prompt.extend(if thinks { prompts.thought_prefix() } else { prompts.answer_prefix() });
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
            response: self.submit(kind, priority)?,
            prompts,
            constraint,
            offered,
            thinks,
        })
    }

    /// The constraint of a free thought in at most `tokens_max` tokens, and then the order.
    fn free_thought(
        &self,
        tokens_max: usize,
        order: Constraint,
    ) -> Result<Constraint, ConstraintError> {
        let thinking = Thinking {
            tokens_max,
            open: Vec::new(),
            close: self.prompts.answer_prefix().to_vec(),
            stop_tokens: self.stop_tokens.clone(),
        };
        Constraint::think(thinking, order)
    }

    /// The constraint of a thought that can be proved, in at most `tokens_max` tokens, and then the order. `None` if no
    /// claim about a candidate can be proved.
    fn grounded_thought(
        &self,
        grounds: &Grounds,
        tokens_max: usize,
        order: Constraint,
    ) -> Result<Option<Constraint>, ConstraintError> {
        let one_of = |mut sentences: Vec<Vec<u32>>, tokens_max: usize| {
            sentences.retain(|tokens| tokens.len() <= tokens_max);
            let trie = (!sentences.is_empty()).then(|| Trie::new(&sentences)).transpose()?;
            trie.map(|trie| Constraint::entries(Arc::new(trie), 1)).transpose()
        };
        let claims = grounds.encode_claims(&self.prompts);
        let Some(claim) = one_of(claims, tokens_max)? else { return Ok(None) };
        let left = tokens_max.saturating_sub(claim.tokens_needed());
        let then = Constraint::chain(claim, order)?;
        let Some(likes) = one_of(grounds.encode_likes(&self.prompts), left)? else {
            return Ok(Some(then));
        };
        Constraint::chain(likes, then).map(Some)
    }

    /// The trie of all items' semantic ids.
    pub fn item_trie(&self) -> Result<Arc<Trie>, ConstraintError> {
        let ids: Vec<Vec<u32>> = self.prompts.items().map(<[u32]>::to_vec).collect();
        Ok(Arc::new(Trie::new(&ids)?))
    }

    /// Predicts the item of [`item_trie`](Self::item_trie) that a shopper wants next: the greedy completion of their
    /// trunk. It need not be in any slate.
    pub fn predict_item(
        &self,
        shopper: ShopperContext<'_>,
        items: &Arc<Trie>,
        priority: Priority,
    ) -> Result<PendingChoice, RerankError> {
        let trunk = self.prompts.trunk(shopper);
        self.choose(trunk, items, 1, SamplingParams::GREEDY, priority)
    }

    /// Generates `count` distinct entries of a trie after a prompt.
    pub fn choose(
        &self,
        prompt: Vec<u32>,
        entries: &Arc<Trie>,
        count: usize,
        sampling: SamplingParams,
        priority: Priority,
    ) -> Result<PendingChoice, RerankError> {
        let constraint = Constraint::entries(entries.clone(), count)?;
        let kind = RequestKind::Generate(GenerateRequest {
            prompt,
            samples: NonZeroUsize::MIN,
            tokens_max: constraint.tokens_needed(),
            sampling,
            constraint: constraint.clone(),
            stop_tokens: Vec::new(),
        });
        Ok(PendingChoice { response: self.submit(kind, priority)?, constraint })
    }

    fn submit(&self, kind: RequestKind, priority: Priority) -> Result<ResponseStream, EngineError> {
        self.engine.submit(EngineRequest { kind, priority })
    }
}

// === impl PendingWeighing ===

impl PendingWeighing {
    /// The logit of each candidate, in their order, and the tokens that it took.
    pub async fn logits(mut self) -> Result<(Vec<f32>, Usage), RerankError> {
        let mut received = Received::default();
        while let Some(event) = self.0.next().await {
            received.take(&event)?;
        }
        Ok((received.logits, received.usage))
    }

    /// [`logits`](Self::logits) for a thread that is not in an async runtime.
    pub fn blocking_logits(mut self) -> Result<(Vec<f32>, Usage), RerankError> {
        let mut received = Received::default();
        while let Some(event) = self.0.blocking_next() {
            received.take(&event)?;
        }
        Ok((received.logits, received.usage))
    }
}

// === impl PendingChoice ===

impl PendingChoice {
    /// The indices of the chosen entries, in the order of the text, and the tokens that it took. It blocks the thread.
    pub fn blocking_chosen(mut self) -> Result<(Vec<usize>, Usage), RerankError> {
        let mut received = Received::default();
        while let Some(event) = self.response.blocking_next() {
            received.take(&event)?;
        }
        let chosen = self.constraint.parse(&received.tokens).unwrap_or_default();
        Ok((chosen, received.usage))
    }
}

// === impl PendingComparison ===

impl PendingComparison<'_> {
    /// The answer. `on_thought` receives the thought's text as it is generated.
    pub async fn answer(
        mut self,
        mut on_thought: impl FnMut(&str),
    ) -> Result<ComparedAnswer, RerankError> {
        let mut received = Received::default();
        let mut text = ThoughtText::new(self.prompts);
        let answer = self.prompts.answer_prefix();
        let mut thinking = self.thinks;
        while let Some(event) = self.response.next().await {
            received.take(&event)?;
            // A token is part of the thought once the answer's prefix can't start at it.
            thinking = thinking && !received.tokens.ends_with(answer);
            let last = received.tokens.len().checked_sub(answer.len()).filter(|_| thinking);
            if let (Some(last), EngineEvent::Token { .. }) = (last, &event) {
                on_thought(&text.push(received.tokens[last])?);
            }
        }
        if self.thinks {
            on_thought(&text.finish()?);
        }
        self.parse(&received)
    }

    /// [`answer`](Self::answer) for a thread that is not in an async runtime, without the stream of the thought.
    pub fn blocking_answer(mut self) -> Result<ComparedAnswer, RerankError> {
        let mut received = Received::default();
        while let Some(event) = self.response.blocking_next() {
            received.take(&event)?;
        }
        self.parse(&received)
    }

    fn parse(&self, received: &Received) -> Result<ComparedAnswer, RerankError> {
        let labels = self.constraint.parse(&received.tokens).unwrap_or_default();
        let order = labels.iter().map(|&label| self.offered[label].item).collect();
        let thought = self.prompts.thought_before_answer(&received.tokens);
        let thought = ThoughtText::decode(self.prompts, thought)?;
        Ok(ComparedAnswer { order, thought, usage: received.usage })
    }
}

/// What a request has returned so far.
#[derive(Debug, Default)]
struct Received {
    logits: Vec<f32>,
    tokens: Vec<u32>,
    usage: Usage,
}

impl Received {
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
