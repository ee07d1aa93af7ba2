//! A language model that reads shoppers and items: an engine, and the prompts that it is spoken to in.

use super::facts::Offer;
use super::grounds::Grounds;
use super::prompt::{OFFERED_MAX, PromptError, Prompts, Words};
use super::spoken::Spoken;
use crate::bundle::{Catalog, HistoryEvent};
use crate::domain::{Criticality, Deadline, Timestamp};
use crate::engine::{
    Ask, Constraint, ConstraintError, Engine, EngineError, Event, Failure, Generate, Limits, Place,
    PlaceError, Reply, Sampling, Thinking, Trie, Usage, Wanted, Weigh, Work,
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
    ends: Vec<u32>,
    precision: WeightDtype,
}

/// How a language model runs, and how much it may take on.
#[derive(Clone, Copy, Debug)]
pub struct RunLimits {
    /// Where.
    pub place: Place,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// Bytes of all keys and values.
    pub cache: u64,
    /// How weights are kept; as they are stored, without it.
    pub precision: Option<WeightDtype>,
    /// How keys and values are; as their place does by itself, without it.
    pub cache_precision: Option<WeightDtype>,
    /// Rows of a step.
    pub rows_max: NonZeroUsize,
    /// Whether a GPU replays steps of texts that go on as CUDA graphs.
    pub graphs: bool,
    /// Sequences, running and waiting.
    pub sequences: Limits,
}

/// A shopper, as a prompt reads them.
#[derive(Clone, Copy, Debug)]
pub struct Shopper<'a> {
    /// What they did, oldest first.
    pub history: &'a [HistoryEvent],
    /// When they want something.
    pub now: Timestamp,
    /// What is said in words.
    pub words: Words<'a>,
}

impl<'a> Shopper<'a> {
    /// A shopper of whom nothing is said in words.
    pub fn of(history: &'a [HistoryEvent], now: Timestamp) -> Self {
        Self { history, now, words: Words::default() }
    }
}

/// Who asks, and until when an answer is worth anything.
#[derive(Clone, Copy, Debug)]
pub struct Urgency {
    /// Who goes first when there is not enough for all.
    pub criticality: Criticality,
    /// When the answer is worth nothing any more; `None` for work that nobody waits for.
    pub deadline: Option<Deadline>,
}

/// Whether a model thinks before it answers, and within what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thinks {
    /// It answers at once.
    Not,
    /// Whatever it likes, in so many tokens.
    Freely(usize),
    /// Nothing but what can be shown, in so many tokens.
    Within(Grounds, usize),
}

/// Candidates that are being weighed. Dropping it stops the work.
#[derive(Debug)]
pub struct Weighing(Reply);

/// Candidates that are being compared. Dropping it stops the work.
#[derive(Debug)]
pub struct Comparing<'a> {
    reply: Reply,
    prompts: &'a Prompts,
    constraint: Constraint,
    offered: Vec<Offer>,
    thinks: bool,
}

/// What is being chosen from what may be said. Dropping it stops the work.
#[derive(Debug)]
pub struct Choosing {
    reply: Reply,
    constraint: Constraint,
}

/// What came of a comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
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
    Place(#[from] PlaceError),
    /// It does not run.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why nothing came of an ask.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The engine did not take it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine took it, and did not bring it to its end.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The candidates can't be told apart, or there is none.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// What was written is no text.
    #[error(transparent)]
    Words(#[from] crate::language::LmTokenizerError),
}

// === impl Reranker ===

impl Reranker {
    /// Starts the model of a folder, which must know the catalogue's items.
    pub fn start(
        folder: &Path,
        catalog: &Catalog,
        limits: RunLimits,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, RerankerError> {
        let prompts = Prompts::open(folder, catalog)?;
        let checkpoint = Checkpoint::open(folder)?;
        let config = checkpoint.config();
        prompts.fit(config.vocabulary)?;
        let precision = match limits.precision {
            Some(precision) => precision,
            None => WeightDtype::of(&checkpoint)?,
        };
        let precision = limits.place.precision(precision)?;
        let kept = limits.place.kept(limits.cache_precision)?;
        let options = PackedOptions {
            weight_dtype: precision,
            kv_dtype: kept,
            threads: limits.threads,
            level: SimdLevel::best(),
            kv_pages: (limits.cache / precision.page_bytes(kept, config) as u64) as usize,
            max_batched_tokens: limits.rows_max.get(),
        };
        let (tokens, ends) = (config.positions_max, config.ends.clone());
        let decodes_max = if limits.graphs { limits.sequences.running_max.get() } else { 0 };
        let build = move || limits.place.load(checkpoint, options, tokens, decodes_max);
        let engine = Engine::start(build, limits.sequences, metrics)?;
        Ok(Self { engine, prompts, ends, precision })
    }

    /// The words that it is spoken to in.
    pub fn prompts(&self) -> &Prompts {
        &self.prompts
    }

    /// Whether it can still be asked.
    pub fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }

    /// How its weights are kept.
    pub fn precision(&self) -> WeightDtype {
        self.precision
    }

    /// Weighs each of these candidates alone, in one prefill.
    pub fn weigh(
        &self,
        shopper: Shopper<'_>,
        offers: &[Offer],
        urgency: Urgency,
    ) -> Result<Weighing, AskError> {
        let work = Work::Weigh(Weigh {
            trunk: self.prompts.trunk(shopper),
            branches: offers.iter().map(|offer| self.prompts.branch(offer)).collect(),
            wanted: Wanted::Chosen(vec![self.prompts.asked()]),
        });
        Ok(Weighing(self.ask(work, urgency)?))
    }

    /// Compares the first [`OFFERED_MAX`] of these candidates at once, or after a thought. In which order
    /// those come makes no difference.
    pub fn compare(
        &self,
        shopper: Shopper<'_>,
        offers: &[Offer],
        thinks: &Thinks,
        urgency: Urgency,
    ) -> Result<Comparing<'_>, AskError> {
        let prompts = &self.prompts;
        let mut offered = offers[..offers.len().min(OFFERED_MAX)].to_vec();
        prompts.offer_order(&mut offered);
        let mut prompt = prompts.trunk(shopper);
        prompt.extend(prompts.offer(&offered));
        let order = Constraint::permutation(&prompts.labels()[..offered.len()], &[])?;
        let thought = match thinks {
            Thinks::Not => None,
            Thinks::Freely(most) => Some(self.freely(*most, order.clone())?),
            Thinks::Within(grounds, most) => self.within(grounds, *most, order.clone())?,
        };
        let thinks = thought.is_some();
        prompt.extend(if thinks { prompts.think() } else { prompts.answer() });
        let constraint = thought.unwrap_or(order);
        let work = Work::Generate(Generate {
            prompt,
            samples: NonZeroUsize::MIN,
            tokens_max: constraint.tokens_needed(),
            sampling: Sampling::GREEDY,
            constraint: constraint.clone(),
            ends: Vec::new(),
        });
        Ok(Comparing { reply: self.ask(work, urgency)?, prompts, constraint, offered, thinks })
    }

    /// A thought of so many tokens, and then the order.
    fn freely(&self, most: usize, order: Constraint) -> Result<Constraint, ConstraintError> {
        let thinking = Thinking {
            tokens_max: most,
            open: Vec::new(),
            close: self.prompts.answer().to_vec(),
            ends: self.ends.clone(),
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
        shopper: Shopper<'_>,
        items: &Arc<Trie>,
        urgency: Urgency,
    ) -> Result<Choosing, AskError> {
        let trunk = self.prompts.trunk(shopper);
        self.choose(trunk, items, 1, Sampling::GREEDY, urgency)
    }

    /// Writes so many different ones of what may be said after a prompt.
    pub fn choose(
        &self,
        prompt: Vec<u32>,
        among: &Arc<Trie>,
        count: usize,
        sampling: Sampling,
        urgency: Urgency,
    ) -> Result<Choosing, AskError> {
        let constraint = Constraint::entries(among.clone(), count)?;
        let work = Work::Generate(Generate {
            prompt,
            samples: NonZeroUsize::MIN,
            tokens_max: constraint.tokens_needed(),
            sampling,
            constraint: constraint.clone(),
            ends: Vec::new(),
        });
        Ok(Choosing { reply: self.ask(work, urgency)?, constraint })
    }

    fn ask(&self, work: Work, urgency: Urgency) -> Result<Reply, EngineError> {
        let Urgency { criticality, deadline } = urgency;
        self.engine.ask(Ask { work, criticality, deadline })
    }
}

// === impl Weighing ===

impl Weighing {
    /// The logit of each item, in their order, and what it took.
    pub async fn logits(mut self) -> Result<(Vec<f32>, Usage), AskError> {
        let mut heard = Heard::default();
        while let Some(event) = self.0.next().await {
            heard.take(&event)?;
        }
        Ok((heard.logits, heard.usage))
    }

    /// The same for callers that are no tasks.
    pub fn blocking_logits(mut self) -> Result<(Vec<f32>, Usage), AskError> {
        let mut heard = Heard::default();
        while let Some(event) = self.0.blocking_next() {
            heard.take(&event)?;
        }
        Ok((heard.logits, heard.usage))
    }
}

// === impl Choosing ===

impl Choosing {
    /// The places of what was chosen, in the order in which it was said, and what it took; for callers
    /// that are no tasks.
    pub fn blocking_chosen(mut self) -> Result<(Vec<usize>, Usage), AskError> {
        let mut heard = Heard::default();
        while let Some(event) = self.reply.blocking_next() {
            heard.take(&event)?;
        }
        let chosen = self.constraint.read(&heard.tokens).unwrap_or_default();
        Ok((chosen, heard.usage))
    }
}

// === impl Comparing ===

impl Comparing<'_> {
    /// What came of it. `aloud` hears the thought as it is written.
    pub async fn answer(mut self, mut aloud: impl FnMut(&str)) -> Result<Compared, AskError> {
        let mut heard = Heard::default();
        let mut spoken = Spoken::new(self.prompts);
        let answer = self.prompts.answer();
        let mut thinking = self.thinks;
        while let Some(event) = self.reply.next().await {
            heard.take(&event)?;
            // A token is told once it is clear that it does not begin the answer.
            thinking = thinking && !heard.tokens.ends_with(answer);
            let told = heard.tokens.len().checked_sub(answer.len()).filter(|_| thinking);
            if let (Some(at), Event::Token { .. }) = (told, &event) {
                aloud(&spoken.add(heard.tokens[at])?);
            }
        }
        if self.thinks {
            aloud(&spoken.rest()?);
        }
        self.read(&heard)
    }

    /// The same for callers that are no tasks.
    pub fn blocking_answer(mut self) -> Result<Compared, AskError> {
        let mut heard = Heard::default();
        while let Some(event) = self.reply.blocking_next() {
            heard.take(&event)?;
        }
        self.read(&heard)
    }

    fn read(&self, heard: &Heard) -> Result<Compared, AskError> {
        let labels = self.constraint.read(&heard.tokens).unwrap_or_default();
        let order = labels.iter().map(|&label| self.offered[label].item).collect();
        let thought = self.prompts.thought(&heard.tokens);
        let thought = Spoken::all(self.prompts, thought)?;
        Ok(Compared { order, thought, usage: heard.usage })
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
    fn take(&mut self, event: &Event) -> Result<(), Failure> {
        match event {
            Event::Weighed(branches) => self.logits = branches.concat(),
            Event::Token { token, .. } => self.tokens.push(*token),
            Event::Done { usage, .. } => self.usage = *usage,
            Event::Failed(failure) => return Err(failure.clone()),
        }
        Ok(())
    }
}
