//! Loading a language model from the command line.

use crate::engine::{CpuRunner, Engine, Limits, RunnerError};
use crate::language::Vocabulary;
use crate::nn::decoder::Checkpoint;
use crate::nn::packed::{Level, Options, PAGE_TOKENS, Precision};
use crate::telemetry::Metrics;
use anyhow::Context as _;
use clap::{Args, ValueEnum};
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
    /// Threads that compute; all cores, without it.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

/// How weights are kept, by the names that people know.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Quantize {
    /// 32 bits.
    F32,
    /// 16 bits.
    Bf16,
    /// 8 bits, with a scale for each 32.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits.
    #[value(name = "q4_k")]
    Q4K,
}

/// A model that is ready.
pub(super) struct Loaded {
    pub engine: Engine,
    pub vocabulary: Vocabulary,
    pub ends: Vec<u32>,
    pub precision: Precision,
}

impl LoadArgs {
    /// Loads the model, with room for a text of as many tokens as `tokens` says.
    pub(super) fn load(
        &self,
        tokens: impl FnOnce(&Vocabulary) -> anyhow::Result<usize>,
    ) -> anyhow::Result<Loaded> {
        let checkpoint = Checkpoint::open(&self.model)
            .with_context(|| format!("opening the model `{}`", self.model.display()))?;
        let folder = if self.model.is_dir() {
            &*self.model
        } else {
            self.model.parent().unwrap_or(&self.model)
        };
        let vocabulary = Vocabulary::load(folder)?;
        let tokens = tokens(&vocabulary)?;
        let ends = checkpoint.config().ends.clone();
        let precision = match self.precision() {
            None => Precision::of(&checkpoint)?,
            Some(precision) => precision,
        };
        let options = Options {
            precision,
            threads: self.threads(),
            level: Level::best(),
            pages: tokens.div_ceil(PAGE_TOKENS) + 1,
            rows_max: ROWS_MAX,
        };
        let build = move || {
            CpuRunner::load(checkpoint, options, tokens)
                .map_err(|error| RunnerError(error.to_string()))
        };
        let one = NonZeroUsize::MIN;
        let limits =
            Limits { running_max: one, waiting_max: one, share_max: one.saturating_add(ROWS_MAX) };
        let engine = Engine::start(build, limits, &Arc::new(Metrics::new()))?;
        Ok(Loaded { engine, vocabulary, ends, precision })
    }

    /// How weights are to be kept, if that was said.
    pub(super) fn precision(&self) -> Option<Precision> {
        self.quantize.map(Quantize::precision)
    }

    /// As many threads as were asked for, or as there are cores.
    pub(super) fn threads(&self) -> NonZeroUsize {
        self.threads.or(available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

impl Quantize {
    fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Q8_0 => Precision::Int8,
            Self::Q4K => Precision::Int4,
        }
    }
}
