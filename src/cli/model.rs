//! The arguments of commands that load a language model.

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

/// Tokens of one forward pass, for one sequence.
const MAX_BATCHED_TOKENS: usize = 512;

/// A model and its data types.
#[derive(Args, Debug)]
pub(super) struct LoadArgs {
    /// Hugging Face folder (config.json, tokenizer.json, *.safetensors), or a GGUF file with tokenizer.json beside it.
    #[arg(long)]
    pub(super) model: PathBuf,
    /// Data type of the weights in memory; by default, the type in the files.
    #[arg(long, value_enum)]
    quantize: Option<Quantize>,
    /// Data type of the KV cache on a GPU: bf16 (the default), or fp8 for almost twice as many pages.
    #[arg(long, value_enum)]
    quantize_cache: Option<Quantize>,
    /// Threads that compute; by default, one per core.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
    /// CPU instructions: avx512-bf16, avx512, avx2 or portable; by default, the best that this CPU has.
    #[arg(long, value_parser = level)]
    instructions: Option<SimdLevel>,
}

/// A model that was opened and checked, but not loaded, with its tokenizer.
pub(super) struct OpenedModel {
    checkpoint: Checkpoint,
    device: ComputeDevice,
    options: PackedOptions,
    pub tokenizer: LmTokenizer,
}

impl LoadArgs {
    /// Opens the model's files, to run on this device.
    pub(super) fn open(&self, device: ComputeDevice) -> anyhow::Result<OpenedModel> {
        let checkpoint = Checkpoint::open(&self.model)
            .with_context(|| format!("opening the model `{}`", self.model.display()))?;
        let folder = if self.model.is_dir() {
            &*self.model
        } else {
            self.model.parent().unwrap_or(&self.model)
        };
        let tokenizer = LmTokenizer::load(folder)?;
        let weight_dtype = match self.weight_dtype() {
            None => WeightDtype::of(&checkpoint)?,
            Some(dtype) => dtype,
        };
        let weight_dtype = device.weight_dtype(weight_dtype)?;
        let kv_dtype = device.kv_dtype(self.kv_dtype())?;
        let (threads, level) = (self.threads(), self.level());
        let options = PackedOptions {
            weight_dtype,
            kv_dtype,
            threads,
            level,
            kv_pages: 0,
            max_batched_tokens: MAX_BATCHED_TOKENS,
        };
        Ok(OpenedModel { checkpoint, device, options, tokenizer })
    }

    /// The requested data type of the weights.
    pub(super) fn weight_dtype(&self) -> Option<WeightDtype> {
        self.quantize.map(Quantize::dtype)
    }

    /// The requested data type of the KV cache.
    pub(super) fn kv_dtype(&self) -> Option<WeightDtype> {
        self.quantize_cache.map(Quantize::dtype)
    }

    /// The requested instructions, or the best of this CPU.
    pub(super) fn level(&self) -> SimdLevel {
        self.instructions.unwrap_or_else(SimdLevel::best)
    }

    /// The requested number of threads, or one per core.
    pub(super) fn threads(&self) -> NonZeroUsize {
        self.threads.or(available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

impl OpenedModel {
    /// The stop tokens.
    pub(super) fn stop_tokens(&self) -> Vec<u32> {
        self.checkpoint.config().ends.clone()
    }

    /// The data type of the weights.
    pub(super) fn weight_dtype(&self) -> WeightDtype {
        self.options.weight_dtype
    }

    /// Loads the model, with KV pages for one sequence of `tokens` tokens, but at most the model's context length.
    pub(super) fn start(self, tokens: usize) -> anyhow::Result<(Engine, LmTokenizer)> {
        let Self { checkpoint, device, options, tokenizer } = self;
        let tokens = tokens.min(checkpoint.config().positions_max);
        let options = PackedOptions { kv_pages: tokens.div_ceil(PAGE_TOKENS) + 1, ..options };
        let build = move || device.load(checkpoint, options, tokens, 1);
        let one = NonZeroUsize::MIN;
        let prefill_chunk_max = one.saturating_add(MAX_BATCHED_TOKENS);
        let limits = SchedulerConfig { running_max: one, waiting_max: one, prefill_chunk_max };
        Ok((Engine::start(build, limits, &Arc::new(Metrics::new()))?, tokenizer))
    }
}

/// The instructions of that name, if this CPU has them.
fn level(name: &str) -> Result<SimdLevel, String> {
    SimdLevel::all_here().find(|level| level.as_str() == name).ok_or_else(|| {
        let here: Vec<_> = SimdLevel::all_here().map(SimdLevel::as_str).collect();
        format!("this CPU has {}", here.join(", "))
    })
}
