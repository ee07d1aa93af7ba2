//! Which logits does a model compute for a text? It writes them to a file, to compare devices and engines.

use crate::engine::{
    ComputeDevice, ForwardBatch, ForwardOutput, OutputKind, RowOutput, Runner, SequenceSpan,
};
use crate::nn::decoder::Checkpoint;
use crate::nn::packed::{PAGE_TOKENS, PackedOptions, SimdLevel, WeightDtype};
use anyhow::{Context as _, Result, ensure};
use candle_core::{Device, Tensor};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// The options of `raisonne bench logits`.
#[derive(Debug, Clone)]
pub struct LogitsOptions {
    /// The model.
    pub model: PathBuf,
    /// The type of its weights in memory. `None` keeps the checkpoint's.
    pub precision: Option<WeightDtype>,
    /// The type of the KV cache. `None` leaves it to the device.
    pub kv_cache_dtype: Option<WeightDtype>,
    /// Threads of a CPU's forward passes.
    pub threads: NonZeroUsize,
    /// The CPU's instructions.
    pub level: SimdLevel,
    /// The device of the forward passes.
    pub device: ComputeDevice,
    /// A JSON array of the text's tokens.
    pub tokens: PathBuf,
    /// Tokens in one forward pass.
    pub max_batched_tokens: usize,
    /// Rows at the end of the text whose logits are written.
    pub last: usize,
    /// The safetensors file: `prefill` and `decode`, each (last, vocabulary).
    pub out: PathBuf,
}

/// Writes the logits of a text's last rows twice: from a prefill in chunks, and from decodes of one row each.
pub fn logits(options: &LogitsOptions) -> Result<()> {
    let LogitsOptions { tokens, max_batched_tokens, last, .. } = options;
    let reading = || format!("reading {}", tokens.display());
    let text = std::fs::read_to_string(tokens).with_context(reading)?;
    let tokens: Vec<u32> = serde_json::from_str(&text).with_context(reading)?;
    ensure!(
        (1..tokens.len()).contains(last),
        "`last` is {last}, and the text has {} tokens, of which some come before",
        tokens.len()
    );
    ensure!(*max_batched_tokens > 0, "`max_batched_tokens` is 0, and must be at least 1");
    let checkpoint = Checkpoint::open(&options.model)?;
    let vocabulary = checkpoint.config().vocabulary;
    let unknown = tokens.iter().find(|token| **token as usize >= vocabulary);
    ensure!(unknown.is_none(), "the text has token {unknown:?}, and the model knows {vocabulary}");
    let precision = match options.precision {
        Some(precision) => precision,
        None => WeightDtype::of(&checkpoint)?,
    };
    let load = PackedOptions {
        weight_dtype: options.device.weight_dtype(precision)?,
        kv_dtype: options.device.kv_dtype(options.kv_cache_dtype)?,
        threads: options.threads,
        level: options.level,
        kv_pages: tokens.len().div_ceil(PAGE_TOKENS),
        max_batched_tokens: *max_batched_tokens,
    };
    let mut runner = options.device.load(checkpoint, load, tokens.len(), 1)?;
    let mut tables = HashMap::new();
    let first_row = tokens.len() - last;
    for (name, from, rows) in [("prefill", 0, *max_batched_tokens), ("decode", first_row, 1)] {
        // The decodes find the tokens before them in the KV cache of the prefill.
        let mut logits_table = Vec::with_capacity(last * vocabulary);
        for past in (from..tokens.len()).step_by(rows) {
            let until = tokens.len().min(past + rows);
            let selected = (past..until).filter(|at| *at >= first_row).map(|at| at - past);
            append_logits(&mut runner, &tokens[..until], past, selected, &mut logits_table)?;
        }
        tables.insert(name, Tensor::from_vec(logits_table, (*last, vocabulary), &Device::Cpu)?);
    }
    let writing = || format!("writing {}", options.out.display());
    candle_core::safetensors::save(&tables, &options.out).with_context(writing)
}

/// Computes the tokens from `past` on, and appends the logits of the selected rows.
fn append_logits(
    runner: &mut impl Runner,
    tokens: &[u32],
    past: usize,
    selected: impl Iterator<Item = usize>,
    logits_table: &mut Vec<f32>,
) -> Result<()> {
    let outputs: Vec<RowOutput> =
        selected.map(|row| RowOutput { row, kind: OutputKind::FullLogits }).collect();
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE_TOKENS) as u32).collect();
    let rows = 0..tokens.len() - past;
    let span = SequenceSpan { rows, block_table: 0..pages.len(), past, branch: false };
    let batch = ForwardBatch {
        tokens: tokens[past..].to_vec(),
        spans: vec![span],
        block_tables: pages,
        outputs,
        ..ForwardBatch::default()
    };
    let mut output = ForwardOutput::default();
    runner.forward(&batch, &mut output)?;
    for index in 0..batch.outputs.len() {
        logits_table.extend_from_slice(output.get(index));
    }
    Ok(())
}
