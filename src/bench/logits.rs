//! What does a model say of a text, row by row? To hold a place where it runs against another engine.

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

/// What `raisonne bench logits` writes down.
#[derive(Debug, Clone)]
pub struct LogitsOptions {
    /// The model.
    pub model: PathBuf,
    /// How its weights are kept; as they are stored, without it.
    pub precision: Option<WeightDtype>,
    /// How keys and values are; as their place does by itself, without it.
    pub cache_precision: Option<WeightDtype>,
    /// Threads that compute, and the processor's instructions.
    pub threads: NonZeroUsize,
    /// See `threads`.
    pub level: SimdLevel,
    /// Where it runs.
    pub device: ComputeDevice,
    /// A JSON array of the text's tokens.
    pub tokens: PathBuf,
    /// Rows of a step.
    pub rows_max: usize,
    /// Rows at the end of the text of which the logits are written.
    pub last: usize,
    /// The safetensors file: `prefill` and `decode`, each (last, vocabulary).
    pub out: PathBuf,
}

/// Writes the logits of a text's last rows twice: as a prompt is read, in chunks of many rows, and as a text
/// is written, one row at a time.
pub fn logits(options: &LogitsOptions) -> Result<()> {
    let LogitsOptions { tokens, rows_max, last, .. } = options;
    let reading = || format!("reading {}", tokens.display());
    let text = std::fs::read_to_string(tokens).with_context(reading)?;
    let tokens: Vec<u32> = serde_json::from_str(&text).with_context(reading)?;
    ensure!(
        (1..tokens.len()).contains(last),
        "`last` is {last}, and the text has {} tokens, of which some come before",
        tokens.len()
    );
    ensure!(*rows_max > 0, "`rows_max` is 0, and must be at least 1");
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
        kv_dtype: options.device.kv_dtype(options.cache_precision)?,
        threads: options.threads,
        level: options.level,
        kv_pages: tokens.len().div_ceil(PAGE_TOKENS),
        max_batched_tokens: *rows_max,
    };
    let mut runner = options.device.load(checkpoint, load, tokens.len(), 1)?;
    let mut tables = HashMap::new();
    let read_until = tokens.len() - last;
    for (name, from, rows) in [("prefill", 0, *rows_max), ("decode", read_until, 1)] {
        // What comes before was left in the pages by the prefill.
        let mut table = Vec::with_capacity(last * vocabulary);
        for past in (from..tokens.len()).step_by(rows) {
            let until = tokens.len().min(past + rows);
            let wanted = (past..until).filter(|at| *at >= read_until).map(|at| at - past);
            read(&mut runner, &tokens[..until], past, wanted, &mut table)?;
        }
        tables.insert(name, Tensor::from_vec(table, (*last, vocabulary), &Device::Cpu)?);
    }
    let writing = || format!("writing {}", options.out.display());
    candle_core::safetensors::save(&tables, &options.out).with_context(writing)
}

/// Reads the tokens from `past` on, and adds the logits of the rows that are wanted.
fn read(
    runner: &mut impl Runner,
    tokens: &[u32],
    past: usize,
    wanted: impl Iterator<Item = usize>,
    table: &mut Vec<f32>,
) -> Result<()> {
    let reads: Vec<RowOutput> =
        wanted.map(|row| RowOutput { row, kind: OutputKind::FullLogits }).collect();
    let pages: Vec<u32> = (0..tokens.len().div_ceil(PAGE_TOKENS) as u32).collect();
    let rows = 0..tokens.len() - past;
    let span = SequenceSpan { rows, block_table: 0..pages.len(), past, branch: false };
    let step = ForwardBatch {
        tokens: tokens[past..].to_vec(),
        spans: vec![span],
        block_tables: pages,
        outputs: reads,
        ..ForwardBatch::default()
    };
    let mut answers = ForwardOutput::default();
    runner.forward(&step, &mut answers)?;
    for index in 0..step.outputs.len() {
        table.extend_from_slice(answers.get(index));
    }
    Ok(())
}
