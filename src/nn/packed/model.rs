//! A decoder that serves: packed weights, pooled buffers, and a cache of keys and values.

use super::attention::{AttentionGroup, BlockTableEntry, HEAD_DIM_MAX, Heads, Tasks, attend};
use super::blocks::Blocks;
use super::kv::{Cache, KvSlot, Layout, PAGE_TOKENS};
use super::lines::Lines;
use super::matrix::{Format, Inputs, Matrix, PANEL, Plan, Product, multiply};
use super::rows::{Add, Gate, InPlace, Norm as NormRows, RopeTable, each_row};
use super::thread_pool::ThreadPool;
use crate::nn::decoder::{
    self, Checkpoint, CheckpointError, DecoderConfig, DecoderConfigError, EMBEDDING, LinearId,
    NormId, TensorDtype as Stored, UnfusedKernels,
};
use crate::nn::simd::SimdLevel;
use candle_core::quantized::GgmlDType;
use std::io;
use std::num::NonZeroUsize;

/// How a model's weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightDtype {
    /// 32 bits; keys and values as well.
    F32,
    /// 16 bits; keys and values as well.
    Bf16,
    /// 8 bits with a scale for each 32; keys and values in 16 bits. On a GPU with a scale for each row of a matrix, and
    /// each row that it is multiplied with, and the unembedding in 16 bits.
    Int8,
    /// 4 bits, by candle's products of `Q4_K`; keys and values in 16 bits. A matrix that a GGUF file
    /// holds in other blocks is multiplied as it is.
    Int4,
    /// 8 bits of a floating-point number (E4M3), with a scale for each row of a matrix, and each row that it is
    /// multiplied with; the unembedding in 16 bits. On a GPU alone.
    Float8,
}

/// How keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// As what is computed with weights of a precision: in 32 bits or in 16.
    #[default]
    Model,
    /// 8 bits of a floating-point number (E4M3), with a power of two for each token of a head. On a GPU alone.
    Float8,
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct PackedOptions {
    /// How weights are kept.
    pub weight_dtype: WeightDtype,
    /// How keys and values are.
    pub kv_dtype: KvDtype,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// The processor's instructions.
    pub level: SimdLevel,
    /// Pages of keys and values.
    pub kv_pages: usize,
    /// Rows of a pass.
    pub max_batched_tokens: usize,
}

/// What a model takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelMemory {
    /// Packed weights and norms.
    pub weights: usize,
    /// Keys and values, once every page was used.
    pub cache: usize,
}

/// The rows of one pass: tokens, where they stand, and what they see.
#[derive(Clone, Debug, Default)]
pub struct PagedBatch {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// The position of each row.
    pub positions: Vec<u32>,
    /// Where each row's keys and values go.
    pub slots: Vec<KvSlot>,
    /// Rows that see the same pages.
    pub groups: Vec<AttentionGroup>,
    /// Those pages.
    pub seen: Vec<BlockTableEntry>,
}

/// A decoder that serves.
#[derive(Debug)]
pub struct PackedDecoder {
    checkpoint: Checkpoint,
    level: SimdLevel,
    pool: ThreadPool,
    /// Layer by layer, and the unembedding last.
    weights: Vec<Weight>,
    norms: Norms,
    frequencies: Vec<f32>,
    attention_scale: f32,
    state: State,
}

#[derive(Debug)]
enum Weight {
    Packed(Matrix),
    Blocks(Blocks),
}

#[derive(Debug)]
struct Norms {
    attention: Vec<Vec<f32>>,
    query: Vec<Vec<f32>>,
    key: Vec<Vec<f32>>,
    mlp: Vec<Vec<f32>>,
    last: Vec<f32>,
}

/// What a pass writes to.
#[derive(Debug)]
struct State {
    cache: Cache,
    pass: PagedBatch,
    turns: RopeTable,
    inputs: Inputs,
    free_buffers: Vec<Vec<f32>>,
    /// Panels of the unembedding that hold the chosen tokens of a step.
    panels: Vec<usize>,
    tasks: Tasks,
}

/// A table of rows, from the pool.
#[derive(Debug)]
pub struct Activations {
    values: Vec<f32>,
    width: usize,
}

/// Logits of some tokens.
#[derive(Debug)]
pub struct SelectedLogits {
    table: Activations,
    /// The panels that it holds, in order; none where it holds the whole vocabulary.
    panels: Vec<usize>,
}

// === impl WeightDtype ===

impl WeightDtype {
    /// What keeps a checkpoint's weights as they are, as far as there is such a thing here.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        // Files of four bits often keep the unembedding in six: a layer tells.
        let stored = checkpoint.matrix(LinearId::Gate(0))?.format();
        Ok(match stored {
            Stored::F32 => Self::F32,
            Stored::F16 | Stored::Bf16 => Self::Bf16,
            Stored::Blocks(GgmlDType::Q4K | GgmlDType::Q4_0 | GgmlDType::Q4_1) => Self::Int4,
            Stored::Blocks(_) => Self::Int8,
        })
    }

    /// Its name, as others call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "q8_0",
            Self::Int4 => "q4_k",
            Self::Float8 => "fp8",
        }
    }

    /// Bits that a weight takes, with its share of the scales.
    pub fn bits(self) -> f64 {
        match self {
            Self::F32 => 32.0,
            Self::Bf16 => 16.0,
            // A scale of 16 bits for each 32; on a GPU less, but for the unembedding.
            Self::Int8 => 8.5,
            // A block of 256 takes 144 bytes.
            Self::Int4 => 4.5,
            // But for the unembedding.
            Self::Float8 => 8.0,
        }
    }

    fn format(self) -> Option<Format> {
        match self {
            Self::F32 => Some(Format::F32),
            Self::Bf16 => Some(Format::Bf16),
            Self::Int8 => Some(Format::Int8),
            Self::Int4 | Self::Float8 => None,
        }
    }

    /// Bytes of a page of keys and values.
    pub fn page_bytes(self, kept: KvDtype, config: &DecoderConfig) -> usize {
        match kept {
            KvDtype::Model => self.layout(config).page_bytes(),
            KvDtype::Float8 => 2 * config.layers * config.kv_heads * kept.head_bytes(config),
        }
    }

    fn layout(self, config: &DecoderConfig) -> Layout {
        Layout {
            format: if self == Self::F32 { Format::F32 } else { Format::Bf16 },
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }
}

// === impl KvDtype ===

impl KvDtype {
    /// Bytes of the keys of one head in a page of a GPU, or of its values: tokens of 8 bits have one beside their numbers.
    pub fn head_bytes(self, config: &DecoderConfig) -> usize {
        let of_token = match self {
            Self::Model => config.head_dim * size_of::<half::bf16>(),
            Self::Float8 => config.head_dim + 1,
        };
        PAGE_TOKENS * of_token
    }
}

// === impl PackedDecoder ===

impl PackedDecoder {
    /// Packs the weights of a checkpoint.
    pub fn load(checkpoint: Checkpoint, options: PackedOptions) -> Result<Self, CheckpointError> {
        let config = checkpoint.config();
        if config.head_dim > HEAD_DIM_MAX {
            let supported = "at most 256 where it serves";
            let value = config.head_dim.to_string();
            return Err(DecoderConfigError::unsupported("head_dim", value, supported).into());
        }
        if options.weight_dtype == WeightDtype::Float8 {
            let value = options.weight_dtype.as_str().to_owned();
            return Err(DecoderConfigError::unsupported("quantize", value, "kept on a GPU").into());
        }
        if options.kv_dtype == KvDtype::Float8 {
            let value = WeightDtype::Float8.as_str().to_owned();
            return Err(
                DecoderConfigError::unsupported("quantize_cache", value, "kept on a GPU").into()
            );
        }
        let pool = ThreadPool::new(options.threads);
        let weights = load_weights(&checkpoint, &pool, options.weight_dtype)?;
        let norms = Norms::load(&checkpoint)?;
        let (frequencies, attention_scale) = config.inverse_frequencies();
        let layout = options.weight_dtype.layout(config);
        // At worst every row of a pass is a branch of its own.
        let cache = Cache::new(layout, options.kv_pages, options.max_batched_tokens);
        let cache = cache.map_err(no_memory("keys and values"))?;
        let state = State {
            cache,
            pass: PagedBatch::default(),
            turns: RopeTable::default(),
            inputs: Inputs::default(),
            free_buffers: Vec::new(),
            panels: Vec::new(),
            tasks: Tasks::default(),
        };
        let level = options.level;
        Ok(Self { checkpoint, level, pool, weights, norms, frequencies, attention_scale, state })
    }

    /// What the model's configuration says.
    pub fn config(&self) -> &DecoderConfig {
        self.checkpoint.config()
    }

    /// Pages of keys and values that last; pages from this number on are scratch.
    pub fn pages(&self) -> usize {
        self.state.cache.pages()
    }

    /// The bytes that it takes.
    pub fn memory(&self) -> ModelMemory {
        let weights: usize = self.weights.iter().map(Weight::bytes).sum();
        ModelMemory { weights: weights + self.norms.bytes(), cache: self.state.cache.bytes() }
    }

    /// The pass to fill before [`PackedDecoder::forward`].
    pub fn pass(&mut self) -> &mut PagedBatch {
        &mut self.state.pass
    }

    /// The rows of the pass after the last norm.
    pub fn forward(&mut self) -> Result<Activations, CheckpointError> {
        let (frequencies, scale) = (&self.frequencies, self.attention_scale);
        let State { turns, pass, cache, tasks, .. } = &mut self.state;
        turns.fill(&pass.positions, frequencies, scale);
        tasks.cut(self.level, cache.layout(), self.checkpoint.config().heads, &pass.groups);
        let Self { checkpoint, level, pool, weights, norms, state, .. } = self;
        let mut kernels = Serve { checkpoint, level: *level, pool, weights, norms, state };
        decoder::forward(checkpoint.config(), &mut kernels)
    }

    /// The logits of the whole vocabulary for some of the rows, one after the other.
    pub fn logits(
        &mut self,
        rows: &Activations,
        wanted: &[usize],
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        self.unembed(rows, wanted, None, out)
    }

    /// The logits of some tokens, and of others that happen to lie beside them, for some of the rows.
    /// They have the bits that [`PackedDecoder::logits`] gives them.
    pub fn columns(
        &mut self,
        rows: &Activations,
        wanted: &[usize],
        tokens: &[u32],
    ) -> Result<SelectedLogits, CheckpointError> {
        let mut panels = std::mem::take(&mut self.state.panels);
        panels.clear();
        let last = &self.weights[self.weights.len() - 1];
        let (chosen, width) = if let Weight::Packed(_) = last {
            panels.extend(tokens.iter().map(|token| *token as usize / PANEL));
            panels.sort_unstable();
            panels.dedup();
            (Some(panels.as_slice()), panels.len() * PANEL)
        } else {
            (None, last.outputs())
        };
        let mut table = self.state.take(width, wanted.len());
        self.unembed(rows, wanted, chosen, &mut table.values)?;
        Ok(SelectedLogits { table, panels })
    }

    /// Gives them back to the pool.
    pub fn give_columns_back(&mut self, columns: SelectedLogits) {
        self.state.give(columns.table);
        self.state.panels = columns.panels;
    }

    /// The logits of all panels, or of the chosen ones, for some of the rows.
    fn unembed(
        &mut self,
        rows: &Activations,
        wanted: &[usize],
        panels: Option<&[usize]>,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let Self { level, pool, weights, state, .. } = self;
        let mut picked = state.take(rows.width, wanted.len());
        for (row, to) in wanted.iter().zip(picked.values.chunks_exact_mut(rows.width)) {
            to.copy_from_slice(rows.row(*row));
        }
        match &weights[weights.len() - 1] {
            Weight::Packed(matrix) => {
                let inputs = &mut state.inputs;
                inputs.fill(*level, pool, matrix.format(), &picked.values, picked.width);
                let product = match panels {
                    Some(panels) => Product::of_panels(matrix, panels, out),
                    None => Product::whole(matrix, out),
                };
                multiply(*level, pool, inputs, &[product]);
            }
            Weight::Blocks(blocks) => blocks.multiply(pool, &picked.values, picked.width, out)?,
        }
        state.give(picked);
        Ok(())
    }

    /// Gives a table back to the pool.
    pub fn give_back(&mut self, buffer: Activations) {
        self.state.give(buffer);
    }
}

fn load_weights(
    checkpoint: &Checkpoint,
    pool: &ThreadPool,
    precision: WeightDtype,
) -> Result<Vec<Weight>, CheckpointError> {
    let config = checkpoint.config();
    let mut wanted: Vec<LinearId> = (0..config.layers).flat_map(LinearId::of_layer).collect();
    wanted.push(LinearId::Unembed);
    let bias = |linear: LinearId| linear.bias(config).map(|name| checkpoint.tensor(&name)?.read());
    let Some(format) = precision.format() else {
        let blocks = wanted.into_iter().map(|linear| {
            let bias = bias(linear).transpose()?.unwrap_or_default();
            let outputs = linear.dims(config).0;
            let load = |rows| checkpoint.quantize_q4k(linear, rows);
            Ok(Weight::Blocks(Blocks::load(pool, outputs, bias, load)?))
        });
        return blocks.collect();
    };
    let plans = wanted.iter().map(|linear| {
        let (outputs, inputs) = linear.dims(config);
        Ok(Plan { format, outputs, inputs, bias: bias(*linear).transpose()? })
    });
    let plans = plans.collect::<Result<Vec<_>, CheckpointError>>()?;
    let read = |m: usize, rows, out: &mut [f32]| checkpoint.matrix(wanted[m])?.read_rows(rows, out);
    let lines = Lines::zeroed(Plan::lines(&plans)).map_err(no_memory("weights"))?;
    Ok(Matrix::pack(pool, plans, lines, read)?.into_iter().map(Weight::Packed).collect())
}

fn no_memory(what: &'static str) -> impl Fn(io::Error) -> CheckpointError {
    move |source| CheckpointError::Memory { what, source }
}

// === impl Weight ===

impl Weight {
    fn bytes(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.bytes(),
            Self::Blocks(blocks) => blocks.bytes(),
        }
    }

    fn outputs(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.outputs(),
            Self::Blocks(blocks) => blocks.outputs(),
        }
    }
}

// === impl Norms ===

impl Norms {
    fn load(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let config = checkpoint.config();
        let read = |norm: NormId| checkpoint.tensor(&norm.name())?.read();
        let all = |norm: fn(usize) -> NormId, there: bool| {
            let layers = if there { config.layers } else { 0 };
            (0..layers).map(|layer| read(norm(layer))).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            attention: all(NormId::Attention, true)?,
            query: all(NormId::Query, config.head_norms)?,
            key: all(NormId::Key, config.head_norms)?,
            mlp: all(NormId::Mlp, true)?,
            last: read(NormId::Last)?,
        })
    }

    fn bytes(&self) -> usize {
        let layers = [&self.attention, &self.query, &self.key, &self.mlp];
        let numbers: usize = layers.into_iter().flatten().map(Vec::len).sum();
        (numbers + self.last.len()) * size_of::<f32>()
    }

    fn scale(&self, norm: NormId) -> &[f32] {
        match norm {
            NormId::Attention(layer) => &self.attention[layer],
            NormId::Query(layer) => &self.query[layer],
            NormId::Key(layer) => &self.key[layer],
            NormId::Mlp(layer) => &self.mlp[layer],
            NormId::Last => &self.last,
        }
    }
}

// === impl State ===

impl State {
    /// A table from the pool. It holds anything: whoever takes it writes all of it.
    fn take(&mut self, width: usize, rows: usize) -> Activations {
        let mut values = self.free_buffers.pop().unwrap_or_default();
        values.resize(width * rows, 0.0);
        Activations { values, width }
    }

    fn give(&mut self, buffer: Activations) {
        self.free_buffers.push(buffer.values);
    }
}

// === impl Activations ===

impl Activations {
    /// One of its rows.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    fn rows(&self) -> usize {
        self.values.len() / self.width
    }
}

// === impl SelectedLogits ===

impl SelectedLogits {
    /// The logit of a token that was asked for, in row `index` of those that were.
    pub fn get(&self, index: usize, token: u32) -> f32 {
        let token = token as usize;
        let column = match self.panels.binary_search(&(token / PANEL)) {
            Ok(panel) => panel * PANEL + token % PANEL,
            Err(_) => token,
        };
        self.table.row(index)[column]
    }
}

/// The kernels at work on one pass.
struct Serve<'a> {
    checkpoint: &'a Checkpoint,
    level: SimdLevel,
    pool: &'a ThreadPool,
    weights: &'a [Weight],
    norms: &'a Norms,
    state: &'a mut State,
}

impl<'a> Serve<'a> {
    fn weight(&self, linear: LinearId) -> &'a Weight {
        let (layer, place) = match linear {
            LinearId::Query(layer) => (layer, 0),
            LinearId::Key(layer) => (layer, 1),
            LinearId::Value(layer) => (layer, 2),
            LinearId::Output(layer) => (layer, 3),
            LinearId::Gate(layer) => (layer, 4),
            LinearId::Up(layer) => (layer, 5),
            LinearId::Down(layer) => (layer, 6),
            LinearId::Unembed => return &self.weights[self.weights.len() - 1],
        };
        &self.weights[layer * LinearId::of_layer(layer).len() + place]
    }

    fn norm_rows(&self, norm: NormId) -> NormRows<'_> {
        let epsilon = self.checkpoint.config().norm_epsilon as f32;
        NormRows { scale: self.norms.scale(norm), epsilon }
    }
}

impl UnfusedKernels for Serve<'_> {
    type Rows = Activations;
    type Error = CheckpointError;

    fn embedding(&mut self) -> Result<Activations, CheckpointError> {
        let width = self.checkpoint.config().width;
        let view = self.checkpoint.tensor(EMBEDDING)?;
        let mut rows = self.state.take(width, self.state.pass.tokens.len());
        for (token, row) in self.state.pass.tokens.iter().zip(rows.values.chunks_exact_mut(width)) {
            let at = *token as usize;
            view.read_rows(at..at + 1, row)?;
        }
        Ok(rows)
    }

    fn rms_norm(
        &mut self,
        rows: &Activations,
        norm: NormId,
    ) -> Result<Activations, CheckpointError> {
        let mut normed = self.state.take(rows.width, rows.rows());
        let (on, width) = ((self.level, self.pool), rows.width);
        let others = (rows.values.as_slice(), width);
        each_row(on, &self.norm_rows(norm), (&mut normed.values, width), others);
        Ok(normed)
    }

    fn rms_norm_in_place(
        &mut self,
        mut rows: Activations,
        norm: NormId,
    ) -> Result<Activations, CheckpointError> {
        let (on, width) = ((self.level, self.pool), rows.width);
        each_row(on, &InPlace(self.norm_rows(norm)), (&mut rows.values, width), (&[], 0));
        Ok(rows)
    }

    fn linear<const N: usize>(
        &mut self,
        rows: Activations,
        matrices: [LinearId; N],
    ) -> Result<[Activations; N], CheckpointError> {
        let count = rows.rows();
        let mut outs = matrices.map(|linear| {
            let outputs = self.weight(linear).outputs();
            self.state.take(outputs, count)
        });
        if let Weight::Packed(first) = self.weight(matrices[0]) {
            let mut inputs = std::mem::take(&mut self.state.inputs);
            inputs.fill(self.level, self.pool, first.format(), &rows.values, rows.width);
            let mut matrices = matrices.iter();
            let products =
                outs.each_mut().map(|out| match matrices.next().map(|l| self.weight(*l)) {
                    Some(Weight::Packed(matrix)) => Product::whole(matrix, &mut out.values),
                    _ => unreachable!("all matrices of a model are kept alike"),
                });
            multiply(self.level, self.pool, &inputs, &products);
            self.state.inputs = inputs;
        } else {
            for (linear, out) in matrices.into_iter().zip(&mut outs) {
                if let Weight::Blocks(blocks) = self.weight(linear) {
                    blocks.multiply(self.pool, &rows.values, rows.width, &mut out.values)?;
                }
            }
        }
        self.state.give(rows);
        Ok(outs)
    }

    fn rope(&mut self, mut rows: Activations) -> Result<Activations, CheckpointError> {
        let (on, width) = ((self.level, self.pool), rows.width);
        each_row(on, &self.state.turns, (&mut rows.values, width), (&[], 0));
        Ok(rows)
    }

    fn attention(
        &mut self,
        layer: usize,
        [queries, keys, values]: [Activations; 3],
    ) -> Result<Activations, CheckpointError> {
        let config = self.checkpoint.config();
        let heads = Heads { heads: config.heads, window: config.windows[layer] };
        let mut out = self.state.take(queries.width, queries.rows());
        let State { cache, pass, tasks, .. } = &mut *self.state;
        cache.write(self.pool, layer, &pass.slots, [&keys.values, &values.values]);
        let (on, view) = ((self.level, self.pool), (&*tasks, &*pass.groups, &*pass.seen));
        attend(on, cache, (layer, heads), view, &queries.values, &mut out.values);
        for buffer in [queries, keys, values] {
            self.state.give(buffer);
        }
        Ok(out)
    }

    fn silu_mul(
        &mut self,
        mut gate: Activations,
        up: Activations,
    ) -> Result<Activations, CheckpointError> {
        let (on, width) = ((self.level, self.pool), gate.width);
        each_row(on, &Gate, (&mut gate.values, width), (&up.values, width));
        self.state.give(up);
        Ok(gate)
    }

    fn add(
        &mut self,
        mut rows: Activations,
        delta: Activations,
    ) -> Result<Activations, CheckpointError> {
        let (on, width) = ((self.level, self.pool), rows.width);
        each_row(on, &Add, (&mut rows.values, width), (&delta.values, width));
        self.state.give(delta);
        Ok(rows)
    }
}
