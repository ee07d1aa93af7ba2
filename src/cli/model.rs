//! Loading a language model from the command line.

use crate::config::Quantize;
use crate::engine::{ComputeDevice, Engine, SchedulerConfig};
use crate::language::LmTokenizer;
use crate::nn::decoder::Checkpoint;
use crate::nn::packed::{PAGE_TOKENS, PackedOptions, SimdLevel, WeightDtype};
use crate::telemetry::Metrics;
use anyhow::Context as _;
use clap::Args;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;

/// Rows of a step, for one text.
const ROWS_MAX: usize = 512;

/// Which model, and how it is kept.
#[derive(Args, Debug)]
pub(super) struct LoadArgs {
    /// A Hugging Face folder (config.json, tokenizer.json, *.safetensors), or a GGUF file with
    /// tokenizer.json beside it.
    #[arg(long)]
    pub(super) model: PathBuf,
    /// How weights are kept in memory; as they are stored, without it.
    #[arg(long, value_enum)]
    quantize: Option<Quantize>,
    /// How keys and values are, on a GPU: bf16, or fp8 for twice as many; bf16, without it.
    #[arg(long, value_enum)]
    quantize_cache: Option<Quantize>,
    /// Threads that compute; all cores, without it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// The processor's instructions: avx512-bf16, avx512, avx2 or portable; the best for it,
    /// without it.
    #[arg(long, value_parser = level)]
    instructions: Option<SimdLevel>,
}

/// A model's folder that was found sound, and the words that it knows.
pub(super) struct Opened {
    checkpoint: Checkpoint,
    place: ComputeDevice,
    options: PackedOptions,
    pub vocabulary: LmTokenizer,
}

impl LoadArgs {
    /// Opens the model's folder, for a model that will run in this place.
    pub(super) fn open(&self, place: ComputeDevice) -> anyhow::Result<Opened> {
        let checkpoint = Checkpoint::open(&self.model)
            .with_context(|| format!("opening the model `{}`", self.model.display()))?;
        let folder = if self.model.is_dir() {
            &*self.model
        } else {
            self.model.parent().unwrap_or(&self.model)
        };
        let vocabulary = LmTokenizer::load(folder)?;
        let precision = match self.precision() {
            None => WeightDtype::of(&checkpoint)?,
            Some(precision) => precision,
        };
        let precision = place.weight_dtype(precision)?;
        let kept = place.kv_dtype(self.cache_precision())?;
        let (threads, level) = (self.threads(), self.level());
        let options = PackedOptions {
            weight_dtype: precision,
            kv_dtype: kept,
            threads,
            level,
            kv_pages: 0,
            max_batched_tokens: ROWS_MAX,
        };
        Ok(Opened { checkpoint, place, options, vocabulary })
    }

    /// How weights are to be kept, if that was said.
    pub(super) fn precision(&self) -> Option<WeightDtype> {
        self.quantize.map(Quantize::precision)
    }

    /// How keys and values are to be, if that was said.
    pub(super) fn cache_precision(&self) -> Option<WeightDtype> {
        self.quantize_cache.map(Quantize::precision)
    }

    /// The instructions that were asked for, or the best there are.
    pub(super) fn level(&self) -> SimdLevel {
        self.instructions.unwrap_or_else(SimdLevel::best)
    }

    /// As many threads as were asked for, or as there are cores.
    pub(super) fn threads(&self) -> NonZeroUsize {
        self.threads.or(available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

impl Opened {
    /// Tokens that end a text.
    pub(super) fn ends(&self) -> Vec<u32> {
        self.checkpoint.config().ends.clone()
    }

    /// How weights will be kept.
    pub(super) fn precision(&self) -> WeightDtype {
        self.options.weight_dtype
    }

    /// Loads the model, with room for one text of so many tokens, or as many as it was made for.
    pub(super) fn start(self, tokens: usize) -> anyhow::Result<(Engine, LmTokenizer)> {
        let Self { checkpoint, place, options, vocabulary } = self;
        let tokens = tokens.min(checkpoint.config().positions_max);
        let options = PackedOptions { kv_pages: tokens.div_ceil(PAGE_TOKENS) + 1, ..options };
        let build = move || place.load(checkpoint, options, tokens, 1);
        let one = NonZeroUsize::MIN;
        let prefill_chunk_max = one.saturating_add(ROWS_MAX);
        let limits = SchedulerConfig { running_max: one, waiting_max: one, prefill_chunk_max };
        Ok((Engine::start(build, limits, &Arc::new(Metrics::new()))?, vocabulary))
    }
}

/// A level of instructions by its name, if this processor has it.
fn level(name: &str) -> Result<SimdLevel, String> {
    SimdLevel::all_here().find(|level| level.as_str() == name).ok_or_else(|| {
        let here: Vec<_> = SimdLevel::all_here().map(SimdLevel::as_str).collect();
        format!("this processor has {}", here.join(", "))
    })
}
