//! The serving decoder: packed weights, pooled activations and a paged KV cache.

use super::attention::{
    AttentionGroup, AttentionShape, AttentionTasks, BlockTableEntry, HEAD_DIM_MAX, attend,
};
use super::ggml::GgmlMatrix;
use super::kv::{KvCache, KvLayout, KvSlot, PAGE_TOKENS};
use super::lines::Lines;
use super::matrix::{
    MatrixProduct, MatrixSpec, PANEL, PackedFormat, PackedInputs, PackedMatrix, multiply,
};
use super::rows::{AddRows, RmsNorm, RmsNormInPlace, RopeTable, SiluGate, each_row};
use super::thread_pool::ThreadPool;
use crate::nn::decoder::{
    self, Checkpoint, CheckpointError, DecoderConfig, DecoderConfigError, EMBEDDING, LinearId,
    NormId, TensorDtype as Stored, UnfusedKernels,
};
use crate::nn::simd::SimdLevel;
use candle_core::quantized::GgmlDType;
use std::io;
use std::num::NonZeroUsize;

/// The number format of a served model's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightDtype {
    /// f32, with an f32 KV cache.
    F32,
    /// bf16, with a bf16 KV cache.
    Bf16,
    /// int8 with a scale per 32 inputs, and a bf16 KV cache. On a GPU with a scale per row of weights and of activations,
    /// and the unembedding in bf16.
    Int8,
    /// 4 bits by candle's `Q4_K` products, with a bf16 KV cache. A matrix that a GGUF file stores in other blocks is
    /// multiplied in those.
    Int4,
    /// 8-bit floating point (E4M3) with a scale per row of weights and of activations, and the unembedding in bf16. On a
    /// GPU only.
    Float8,
}

/// The number format of the KV cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// As the model computes: f32 with f32 weights, else bf16.
    #[default]
    Model,
    /// 8-bit floating point (E4M3) with a power-of-two scale per token and head. On a GPU only.
    Float8,
}

/// How a decoder is loaded.
#[derive(Clone, Copy, Debug)]
pub struct PackedOptions {
    /// The weights' format.
    pub weight_dtype: WeightDtype,
    /// The KV cache's format.
    pub kv_dtype: KvDtype,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// The processor's instructions to use.
    pub level: SimdLevel,
    /// Persistent KV pages.
    pub kv_pages: usize,
    /// Most rows of a forward pass.
    pub max_batched_tokens: usize,
}

/// A model's memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelMemory {
    /// Packed weights and norms.
    pub weights: usize,
    /// The KV cache, once every page was written.
    pub cache: usize,
}

/// The rows of one forward pass: tokens, positions, KV slots and block tables.
#[derive(Clone, Debug, Default)]
pub struct PagedBatch {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// The position of each row.
    pub positions: Vec<u32>,
    /// The KV slot of each row.
    pub slots: Vec<KvSlot>,
    /// Rows by sequence.
    pub groups: Vec<AttentionGroup>,
    /// The pages of each group, in order: [`AttentionGroup::pages`] points here.
    pub block_table: Vec<BlockTableEntry>,
}

/// A decoder for serving on a CPU.
#[derive(Debug)]
pub struct PackedDecoder {
    checkpoint: Checkpoint,
    level: SimdLevel,
    pool: ThreadPool,
    /// Layer by layer, then the unembedding.
    weights: Vec<PackedWeight>,
    norms: NormScales,
    frequencies: Vec<f32>,
    attention_scale: f32,
    state: DecoderState,
}

#[derive(Debug)]
enum PackedWeight {
    Packed(PackedMatrix),
    Ggml(GgmlMatrix),
}

#[derive(Debug)]
struct NormScales {
    attention: Vec<Vec<f32>>,
    query: Vec<Vec<f32>>,
    key: Vec<Vec<f32>>,
    mlp: Vec<Vec<f32>>,
    last: Vec<f32>,
}

/// The buffers of a forward pass.
#[derive(Debug)]
struct DecoderState {
    cache: KvCache,
    batch: PagedBatch,
    rope: RopeTable,
    inputs: PackedInputs,
    free_buffers: Vec<Vec<f32>>,
    /// Panels of the unembedding with the tokens whose logits are requested.
    panels: Vec<usize>,
    tasks: AttentionTasks,
}

/// Rows of f32 in a pooled buffer.
#[derive(Debug)]
pub struct Activations {
    values: Vec<f32>,
    width: usize,
}

/// The logits of selected tokens.
#[derive(Debug)]
pub struct SelectedLogits {
    table: Activations,
    /// The computed panels, in order; empty if all were computed.
    panels: Vec<usize>,
}

// === impl WeightDtype ===

impl WeightDtype {
    /// The format that is nearest to the one in which a checkpoint stores its weights.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        // 4-bit files often store the unembedding in 6 bits, so a layer decides.
        let stored = checkpoint.matrix(LinearId::Gate(0))?.format();
        Ok(match stored {
            Stored::F32 => Self::F32,
            Stored::F16 | Stored::Bf16 => Self::Bf16,
            Stored::Blocks(GgmlDType::Q4K | GgmlDType::Q4_0 | GgmlDType::Q4_1) => Self::Int4,
            Stored::Blocks(_) => Self::Int8,
        })
    }

    /// Its name in llama.cpp's terms.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "q8_0",
            Self::Int4 => "q4_k",
            Self::Float8 => "fp8",
        }
    }

    /// Bits per weight, with its share of the scales.
    pub fn bits(self) -> f64 {
        match self {
            Self::F32 => 32.0,
            Self::Bf16 => 16.0,
            // A scale of 16 bits per 32 weights. On a GPU less, except for the unembedding.
            Self::Int8 => 8.5,
            // A block of 256 weights takes 144 bytes.
            Self::Int4 => 4.5,
            // Except for the unembedding.
            Self::Float8 => 8.0,
        }
    }

    fn format(self) -> Option<PackedFormat> {
        match self {
            Self::F32 => Some(PackedFormat::F32),
            Self::Bf16 => Some(PackedFormat::Bf16),
            Self::Int8 => Some(PackedFormat::Int8),
            Self::Int4 | Self::Float8 => None,
        }
    }

    /// Bytes of a KV page.
    pub fn page_bytes(self, kept: KvDtype, config: &DecoderConfig) -> usize {
        match kept {
            KvDtype::Model => self.layout(config).page_bytes(),
            KvDtype::Float8 => 2 * config.layers * config.kv_heads * kept.head_bytes(config),
        }
    }

    fn layout(self, config: &DecoderConfig) -> KvLayout {
        KvLayout {
            format: if self == Self::F32 { PackedFormat::F32 } else { PackedFormat::Bf16 },
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        }
    }
}

// === impl KvDtype ===

impl KvDtype {
    /// Bytes of the keys, or of the values, of one head in a page on a GPU. A token in 8 bits has one more byte for its
    /// scale.
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
            return Err(
                DecoderConfigError::unsupported("quantize", value, "supported on a GPU").into()
            );
        }
        if options.kv_dtype == KvDtype::Float8 {
            let value = WeightDtype::Float8.as_str().to_owned();
            return Err(DecoderConfigError::unsupported(
                "quantize_cache",
                value,
                "supported on a GPU",
            )
            .into());
        }
        let pool = ThreadPool::new(options.threads);
        let weights = load_weights(&checkpoint, &pool, options.weight_dtype)?;
        let norms = NormScales::load(&checkpoint)?;
        let (frequencies, attention_scale) = config.inverse_frequencies();
        let layout = options.weight_dtype.layout(config);
        // In the worst case every row is a branch of its own, with a scratch page.
        let cache = KvCache::new(layout, options.kv_pages, options.max_batched_tokens);
        let cache = cache.map_err(no_memory("keys and values"))?;
        let state = DecoderState {
            cache,
            batch: PagedBatch::default(),
            rope: RopeTable::default(),
            inputs: PackedInputs::default(),
            free_buffers: Vec::new(),
            panels: Vec::new(),
            tasks: AttentionTasks::default(),
        };
        let level = options.level;
        Ok(Self { checkpoint, level, pool, weights, norms, frequencies, attention_scale, state })
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        self.checkpoint.config()
    }

    /// Persistent KV pages; pages from this number on are scratch.
    pub fn pages(&self) -> usize {
        self.state.cache.pages()
    }

    /// Its memory in bytes.
    pub fn memory(&self) -> ModelMemory {
        let weights: usize = self.weights.iter().map(PackedWeight::bytes).sum();
        ModelMemory { weights: weights + self.norms.bytes(), cache: self.state.cache.bytes() }
    }

    /// The batch to fill before [`PackedDecoder::forward`].
    pub fn batch_mut(&mut self) -> &mut PagedBatch {
        &mut self.state.batch
    }

    /// Runs the layers; gives the rows after the last norm.
    pub fn forward(&mut self) -> Result<Activations, CheckpointError> {
        let (frequencies, scale) = (&self.frequencies, self.attention_scale);
        let DecoderState { rope, batch, cache, tasks, .. } = &mut self.state;
        rope.fill(&batch.positions, frequencies, scale);
        tasks.cut(self.level, cache.layout(), self.checkpoint.config().heads, &batch.groups);
        let Self { checkpoint, level, pool, weights, norms, state, .. } = self;
        let mut kernels = PackedKernels { checkpoint, level: *level, pool, weights, norms, state };
        decoder::forward(checkpoint.config(), &mut kernels)
    }

    /// The logits of the whole vocabulary for selected rows, row by row.
    pub fn logits(
        &mut self,
        rows: &Activations,
        wanted: &[usize],
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        self.unembed(rows, wanted, None, out)
    }

    /// The logits of selected tokens for selected rows: the same bits as [`PackedDecoder::logits`]. Computes the
    /// panels that hold the tokens.
    pub fn selected_logits(
        &mut self,
        rows: &Activations,
        wanted: &[usize],
        tokens: &[u32],
    ) -> Result<SelectedLogits, CheckpointError> {
        let mut panels = std::mem::take(&mut self.state.panels);
        panels.clear();
        let last = &self.weights[self.weights.len() - 1];
        let (chosen, width) = if let PackedWeight::Packed(_) = last {
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

    /// Returns the buffer to the pool.
    pub fn recycle_logits(&mut self, columns: SelectedLogits) {
        self.state.give(columns.table);
        self.state.panels = columns.panels;
    }

    /// The logits of all panels, or of the chosen ones, for selected rows.
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
            PackedWeight::Packed(matrix) => {
                let inputs = &mut state.inputs;
                inputs.fill(*level, pool, matrix.format(), &picked.values, picked.width);
                let product = match panels {
                    Some(panels) => MatrixProduct::of_panels(matrix, panels, out),
                    None => MatrixProduct::whole(matrix, out),
                };
                multiply(*level, pool, inputs, &[product]);
            }
            PackedWeight::Ggml(blocks) => {
                blocks.multiply(pool, &picked.values, picked.width, out)?;
            }
        }
        state.give(picked);
        Ok(())
    }

    /// Returns a buffer to the pool.
    pub fn recycle(&mut self, buffer: Activations) {
        self.state.give(buffer);
    }
}

fn load_weights(
    checkpoint: &Checkpoint,
    pool: &ThreadPool,
    precision: WeightDtype,
) -> Result<Vec<PackedWeight>, CheckpointError> {
    let config = checkpoint.config();
    let mut wanted: Vec<LinearId> = (0..config.layers).flat_map(LinearId::of_layer).collect();
    wanted.push(LinearId::Unembed);
    let bias = |linear: LinearId| linear.bias(config).map(|name| checkpoint.tensor(&name)?.read());
    let Some(format) = precision.format() else {
        let blocks = wanted.into_iter().map(|linear| {
            let bias = bias(linear).transpose()?.unwrap_or_default();
            let outputs = linear.dims(config).0;
            let load = |rows| checkpoint.quantize_q4k(linear, rows);
            Ok(PackedWeight::Ggml(GgmlMatrix::load(pool, outputs, bias, load)?))
        });
        return blocks.collect();
    };
    let plans = wanted.iter().map(|linear| {
        let (outputs, inputs) = linear.dims(config);
        Ok(MatrixSpec { format, outputs, inputs, bias: bias(*linear).transpose()? })
    });
    let plans = plans.collect::<Result<Vec<_>, CheckpointError>>()?;
    let read = |m: usize, rows, out: &mut [f32]| checkpoint.matrix(wanted[m])?.read_rows(rows, out);
    let lines = Lines::zeroed(MatrixSpec::lines(&plans)).map_err(no_memory("weights"))?;
    Ok(PackedMatrix::pack(pool, plans, lines, read)?
        .into_iter()
        .map(PackedWeight::Packed)
        .collect())
}

fn no_memory(what: &'static str) -> impl Fn(io::Error) -> CheckpointError {
    move |source| CheckpointError::Memory { what, source }
}

// === impl PackedWeight ===

impl PackedWeight {
    fn bytes(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.bytes(),
            Self::Ggml(blocks) => blocks.bytes(),
        }
    }

    fn outputs(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.outputs(),
            Self::Ggml(blocks) => blocks.outputs(),
        }
    }
}

// === impl NormScales ===

impl NormScales {
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

// === impl DecoderState ===

impl DecoderState {
    /// A buffer from the pool with arbitrary contents: the caller overwrites all of it.
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
    /// The logit of a requested token, in row `index` of the requested ones.
    pub fn get(&self, index: usize, token: u32) -> f32 {
        let token = token as usize;
        let column = match self.panels.binary_search(&(token / PANEL)) {
            Ok(panel) => panel * PANEL + token % PANEL,
            Err(_) => token,
        };
        self.table.row(index)[column]
    }
}

/// The kernels of one forward pass.
struct PackedKernels<'a> {
    checkpoint: &'a Checkpoint,
    level: SimdLevel,
    pool: &'a ThreadPool,
    weights: &'a [PackedWeight],
    norms: &'a NormScales,
    state: &'a mut DecoderState,
}

impl<'a> PackedKernels<'a> {
    fn weight(&self, linear: LinearId) -> &'a PackedWeight {
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

    fn norm_rows(&self, norm: NormId) -> RmsNorm<'_> {
        let epsilon = self.checkpoint.config().norm_epsilon as f32;
        RmsNorm { scale: self.norms.scale(norm), epsilon }
    }
}

impl UnfusedKernels for PackedKernels<'_> {
    type Rows = Activations;
    type Error = CheckpointError;

    fn embedding(&mut self) -> Result<Activations, CheckpointError> {
        let width = self.checkpoint.config().width;
        let view = self.checkpoint.tensor(EMBEDDING)?;
        let mut rows = self.state.take(width, self.state.batch.tokens.len());
        for (token, row) in self.state.batch.tokens.iter().zip(rows.values.chunks_exact_mut(width))
        {
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
        each_row(on, &RmsNormInPlace(self.norm_rows(norm)), (&mut rows.values, width), (&[], 0));
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
        if let PackedWeight::Packed(first) = self.weight(matrices[0]) {
            let mut inputs = std::mem::take(&mut self.state.inputs);
            inputs.fill(self.level, self.pool, first.format(), &rows.values, rows.width);
            let mut matrices = matrices.iter();
            let products =
                outs.each_mut().map(|out| match matrices.next().map(|l| self.weight(*l)) {
                    Some(PackedWeight::Packed(matrix)) => {
                        MatrixProduct::whole(matrix, &mut out.values)
                    }
                    _ => unreachable!("all matrices of a model have one format"),
                });
            multiply(self.level, self.pool, &inputs, &products);
            self.state.inputs = inputs;
        } else {
            for (linear, out) in matrices.into_iter().zip(&mut outs) {
                if let PackedWeight::Ggml(blocks) = self.weight(linear) {
                    blocks.multiply(self.pool, &rows.values, rows.width, &mut out.values)?;
                }
            }
        }
        self.state.give(rows);
        Ok(outs)
    }

    fn rope(&mut self, mut rows: Activations) -> Result<Activations, CheckpointError> {
        let (on, width) = ((self.level, self.pool), rows.width);
        each_row(on, &self.state.rope, (&mut rows.values, width), (&[], 0));
        Ok(rows)
    }

    fn attention(
        &mut self,
        layer: usize,
        [queries, keys, values]: [Activations; 3],
    ) -> Result<Activations, CheckpointError> {
        let config = self.checkpoint.config();
        let heads = AttentionShape { heads: config.heads, window: config.windows[layer] };
        let mut out = self.state.take(queries.width, queries.rows());
        let DecoderState { cache, batch, tasks, .. } = &mut *self.state;
        cache.write(self.pool, layer, &batch.slots, [&keys.values, &values.values]);
        let (on, view) = ((self.level, self.pool), (&*tasks, &*batch.groups, &*batch.block_table));
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
        each_row(on, &SiluGate, (&mut gate.values, width), (&up.values, width));
        self.state.give(up);
        Ok(gate)
    }

    fn add(
        &mut self,
        mut rows: Activations,
        delta: Activations,
    ) -> Result<Activations, CheckpointError> {
        let (on, width) = ((self.level, self.pool), rows.width);
        each_row(on, &AddRows, (&mut rows.values, width), (&delta.values, width));
        self.state.give(delta);
        Ok(rows)
    }
}
