//! A decoder that serves: packed weights, pooled buffers, and a cache of keys and values.

use super::attention::{Group, Heads, Seen, attend};
use super::crew::Crew;
use super::kv::{Cache, Layout, Slot};
use super::lanes::Level;
use super::matrix::{Format, Inputs, Matrix, Plan, multiply};
use super::rows::{Add, Gate, InPlace, Norm as NormRows, Turns, each_row};
use crate::nn::decoder::{
    self, Checkpoint, CheckpointError, Config, EMBEDDING, Format as Stored, Kernels, Linear, Norm,
};
use candle_core::quantized::{GgmlDType, QMatMul};
use candle_core::{Device, Module as _, Tensor};
use std::num::NonZeroUsize;

/// How a model's weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits; keys and values as well.
    F32,
    /// 16 bits; keys and values as well.
    Bf16,
    /// 8 bits with a scale for each 32; keys and values in 16 bits.
    Int8,
    /// 4 bits, by candle's products of `Q4_K`; keys and values in 16 bits.
    Int4,
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How weights are kept.
    pub precision: Precision,
    /// Threads that compute.
    pub threads: NonZeroUsize,
    /// The processor's instructions.
    pub level: Level,
    /// Pages of keys and values.
    pub pages: usize,
    /// Rows of a pass.
    pub rows_max: usize,
}

/// What a model takes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Packed weights and norms.
    pub weights: usize,
    /// Keys and values, once every page was used.
    pub cache: usize,
}

/// The rows of one pass: tokens, where they stand, and what they see.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// The token of each row.
    pub tokens: Vec<u32>,
    /// The position of each row.
    pub positions: Vec<u32>,
    /// Where each row's keys and values go.
    pub slots: Vec<Slot>,
    /// Rows that see the same pages.
    pub groups: Vec<Group>,
    /// Those pages.
    pub seen: Vec<Seen>,
}

/// A decoder that serves.
#[derive(Debug)]
pub struct Packed {
    checkpoint: Checkpoint,
    level: Level,
    crew: Crew,
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
    Blocks { product: QMatMul, dims: (usize, usize), bias: Vec<f32> },
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
    pass: Pass,
    turns: Turns,
    inputs: Inputs,
    pool: Vec<Vec<f32>>,
}

/// A table of rows, from the pool.
#[derive(Debug)]
pub struct Buffer {
    values: Vec<f32>,
    width: usize,
}

// === impl Precision ===

impl Precision {
    /// What keeps a checkpoint's weights as they are, as far as there is such a thing here.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let stored = checkpoint.matrix(Linear::Unembed)?.format();
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
        }
    }

    fn format(self) -> Option<Format> {
        match self {
            Self::F32 => Some(Format::F32),
            Self::Bf16 => Some(Format::Bf16),
            Self::Int8 => Some(Format::Int8),
            Self::Int4 => None,
        }
    }

    fn cache_format(self) -> Format {
        if self == Self::F32 { Format::F32 } else { Format::Bf16 }
    }
}

// === impl Packed ===

impl Packed {
    /// Packs the weights of a checkpoint.
    pub fn load(checkpoint: Checkpoint, options: Options) -> Result<Self, CheckpointError> {
        let config = checkpoint.config();
        let crew = Crew::new(options.threads);
        let weights = crew.install(|| load_weights(&checkpoint, &crew, options.precision))?;
        let norms = Norms::load(&checkpoint)?;
        let (frequencies, attention_scale) = config.inverse_frequencies();
        let layout = Layout {
            format: options.precision.cache_format(),
            layers: config.layers,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        };
        // At worst every row of a pass is a branch of its own.
        let cache = Cache::new(layout, options.pages, options.rows_max);
        let state = State {
            cache,
            pass: Pass::default(),
            turns: Turns::default(),
            inputs: Inputs::default(),
            pool: Vec::new(),
        };
        let level = options.level;
        Ok(Self { checkpoint, level, crew, weights, norms, frequencies, attention_scale, state })
    }

    /// What the model's configuration says.
    pub fn config(&self) -> &Config {
        self.checkpoint.config()
    }

    /// Pages of keys and values that last; pages from this number on are scratch.
    pub fn pages(&self) -> usize {
        self.state.cache.pages()
    }

    /// The bytes that it takes.
    pub fn memory(&self) -> Memory {
        let weights: usize = self.weights.iter().map(Weight::bytes).sum();
        Memory { weights: weights + self.norms.bytes(), cache: self.state.cache.bytes() }
    }

    /// The pass to fill before [`Packed::forward`].
    pub fn pass(&mut self) -> &mut Pass {
        &mut self.state.pass
    }

    /// The rows of the pass after the last norm.
    pub fn forward(&mut self) -> Result<Buffer, CheckpointError> {
        let (frequencies, scale) = (&self.frequencies, self.attention_scale);
        self.state.turns.fill(&self.state.pass.positions, frequencies, scale);
        let Self { checkpoint, level, crew, weights, norms, state, .. } = self;
        let mut kernels = Serve { checkpoint, level: *level, crew, weights, norms, state };
        crew.install(|| decoder::forward(checkpoint.config(), &mut kernels))
    }

    /// The logits of the whole vocabulary for some of the rows, one after the other.
    pub fn logits(&mut self, rows: &Buffer, wanted: &[usize]) -> Result<Buffer, CheckpointError> {
        let Self { checkpoint, level, crew, weights, norms, state, .. } = self;
        let mut picked = state.take(rows.width, wanted.len());
        for (row, to) in wanted.iter().zip(picked.values.chunks_exact_mut(rows.width)) {
            to.copy_from_slice(rows.row(*row));
        }
        let mut kernels = Serve { checkpoint, level: *level, crew, weights, norms, state };
        let [logits] = crew.install(|| kernels.linear(picked, [Linear::Unembed]))?;
        Ok(logits)
    }

    /// The logits of some tokens for one row.
    pub fn logits_of(
        &self,
        row: &[f32],
        tokens: &[u32],
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        if let Some(Weight::Packed(matrix)) = self.weights.last() {
            for (token, out) in tokens.iter().zip(out) {
                *out = matrix.dot(*token as usize, row);
            }
            return Ok(());
        }
        let view = self.checkpoint.matrix(Linear::Unembed)?;
        let mut weights = vec![0.0; row.len()];
        for (token, out) in tokens.iter().zip(out) {
            let at = *token as usize;
            view.read_rows(at..at + 1, &mut weights)?;
            *out = weights.iter().zip(row).map(|(weight, value)| weight * value).sum();
        }
        Ok(())
    }

    /// Gives a table back to the pool.
    pub fn give_back(&mut self, buffer: Buffer) {
        self.state.give(buffer);
    }
}

fn load_weights(
    checkpoint: &Checkpoint,
    crew: &Crew,
    precision: Precision,
) -> Result<Vec<Weight>, CheckpointError> {
    let config = checkpoint.config();
    let mut wanted: Vec<Linear> = (0..config.layers).flat_map(Linear::of_layer).collect();
    wanted.push(Linear::Unembed);
    let bias = |linear: Linear| linear.bias(config).map(|name| checkpoint.tensor(&name)?.read());
    let Some(format) = precision.format() else {
        let blocks = wanted.iter().map(|linear| {
            let name = match linear {
                Linear::Unembed if config.tied => EMBEDDING.into(),
                linear => linear.name(),
            };
            let product = checkpoint.quantize_q4k(&name)?;
            let bias = bias(*linear).transpose()?.unwrap_or_default();
            Ok(Weight::Blocks { product, dims: linear.dims(config), bias })
        });
        return blocks.collect();
    };
    let plans = wanted.iter().map(|linear| {
        let (outputs, inputs) = linear.dims(config);
        Ok(Plan { format, outputs, inputs, bias: bias(*linear).transpose()? })
    });
    let plans = plans.collect::<Result<Vec<_>, CheckpointError>>()?;
    let read = |m: usize, rows, out: &mut [f32]| checkpoint.matrix(wanted[m])?.read_rows(rows, out);
    Ok(Matrix::pack(crew, plans, read)?.into_iter().map(Weight::Packed).collect())
}

// === impl Weight ===

impl Weight {
    fn bytes(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.bytes(),
            Self::Blocks { product, bias, .. } => {
                let blocks = match product {
                    QMatMul::QTensor(tensor) => tensor.storage_size_in_bytes(),
                    QMatMul::Tensor(tensor) | QMatMul::TensorF16(tensor) => {
                        tensor.elem_count() * tensor.dtype().size_in_bytes()
                    }
                };
                blocks + size_of_val(&**bias)
            }
        }
    }

    fn outputs(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.outputs(),
            Self::Blocks { dims, .. } => dims.0,
        }
    }
}

// === impl Norms ===

impl Norms {
    fn load(checkpoint: &Checkpoint) -> Result<Self, CheckpointError> {
        let config = checkpoint.config();
        let read = |norm: Norm| checkpoint.tensor(&norm.name())?.read();
        let all = |norm: fn(usize) -> Norm, there: bool| {
            let layers = if there { config.layers } else { 0 };
            (0..layers).map(|layer| read(norm(layer))).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            attention: all(Norm::Attention, true)?,
            query: all(Norm::Query, config.head_norms)?,
            key: all(Norm::Key, config.head_norms)?,
            mlp: all(Norm::Mlp, true)?,
            last: read(Norm::Last)?,
        })
    }

    fn bytes(&self) -> usize {
        let layers = [&self.attention, &self.query, &self.key, &self.mlp];
        let numbers: usize = layers.into_iter().flatten().map(Vec::len).sum();
        (numbers + self.last.len()) * size_of::<f32>()
    }

    fn scale(&self, norm: Norm) -> &[f32] {
        match norm {
            Norm::Attention(layer) => &self.attention[layer],
            Norm::Query(layer) => &self.query[layer],
            Norm::Key(layer) => &self.key[layer],
            Norm::Mlp(layer) => &self.mlp[layer],
            Norm::Last => &self.last,
        }
    }
}

// === impl State ===

impl State {
    /// A table from the pool. It holds what it held: whoever takes it writes all of it.
    fn take(&mut self, width: usize, rows: usize) -> Buffer {
        let mut values = self.pool.pop().unwrap_or_default();
        values.resize(width * rows, 0.0);
        Buffer { values, width }
    }

    fn give(&mut self, buffer: Buffer) {
        self.pool.push(buffer.values);
    }
}

// === impl Buffer ===

impl Buffer {
    /// One of its rows.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.width..(index + 1) * self.width]
    }

    fn rows(&self) -> usize {
        self.values.len() / self.width
    }
}

/// The kernels at work on one pass.
struct Serve<'a> {
    checkpoint: &'a Checkpoint,
    level: Level,
    crew: &'a Crew,
    weights: &'a [Weight],
    norms: &'a Norms,
    state: &'a mut State,
}

impl Serve<'_> {
    fn weight(&self, linear: Linear) -> &Weight {
        let (layer, place) = match linear {
            Linear::Query(layer) => (layer, 0),
            Linear::Key(layer) => (layer, 1),
            Linear::Value(layer) => (layer, 2),
            Linear::Output(layer) => (layer, 3),
            Linear::Gate(layer) => (layer, 4),
            Linear::Up(layer) => (layer, 5),
            Linear::Down(layer) => (layer, 6),
            Linear::Unembed => return &self.weights[self.weights.len() - 1],
        };
        &self.weights[layer * Linear::of_layer(layer).len() + place]
    }

    fn norm_rows(&self, norm: Norm) -> NormRows<'_> {
        let epsilon = self.checkpoint.config().norm_epsilon as f32;
        NormRows { scale: self.norms.scale(norm), epsilon }
    }
}

impl Kernels for Serve<'_> {
    type Rows = Buffer;
    type Error = CheckpointError;

    fn embed(&mut self) -> Result<Buffer, CheckpointError> {
        let width = self.checkpoint.config().width;
        let view = self.checkpoint.tensor(EMBEDDING)?;
        let mut rows = self.state.take(width, self.state.pass.tokens.len());
        for (token, row) in self.state.pass.tokens.iter().zip(rows.values.chunks_exact_mut(width)) {
            let at = *token as usize;
            view.read_rows(at..at + 1, row)?;
        }
        Ok(rows)
    }

    fn norm(&mut self, rows: &Buffer, norm: Norm) -> Result<Buffer, CheckpointError> {
        let mut normed = self.state.take(rows.width, rows.rows());
        let (on, width) = ((self.level, self.crew), rows.width);
        let others = (rows.values.as_slice(), width);
        each_row(on, &self.norm_rows(norm), (&mut normed.values, width), others);
        Ok(normed)
    }

    fn norm_heads(&mut self, mut rows: Buffer, norm: Norm) -> Result<Buffer, CheckpointError> {
        let (on, width) = ((self.level, self.crew), rows.width);
        each_row(on, &InPlace(self.norm_rows(norm)), (&mut rows.values, width), (&[], 0));
        Ok(rows)
    }

    fn linear<const N: usize>(
        &mut self,
        rows: Buffer,
        layers: [Linear; N],
    ) -> Result<[Buffer; N], CheckpointError> {
        let count = rows.rows();
        let mut outs = layers.map(|linear| {
            let outputs = self.weight(linear).outputs();
            self.state.take(outputs, count)
        });
        let mut inputs = std::mem::take(&mut self.state.inputs);
        if let Weight::Packed(matrix) = self.weight(layers[0]) {
            inputs.fill(self.level, self.crew, matrix.format(), &rows.values, rows.width);
        }
        let mut products = Vec::with_capacity(N);
        for (linear, out) in layers.into_iter().zip(&mut outs) {
            match self.weight(linear) {
                Weight::Packed(matrix) => products.push((matrix, out.values.as_mut_slice())),
                Weight::Blocks { product, bias, .. } => {
                    multiply_blocks(product, bias, &rows, out)?;
                }
            }
        }
        multiply(self.level, self.crew, &inputs, &mut products);
        self.state.inputs = inputs;
        self.state.give(rows);
        Ok(outs)
    }

    fn rotate(&mut self, mut rows: Buffer) -> Result<Buffer, CheckpointError> {
        let (on, width) = ((self.level, self.crew), rows.width);
        each_row(on, &self.state.turns, (&mut rows.values, width), (&[], 0));
        Ok(rows)
    }

    fn attend(
        &mut self,
        layer: usize,
        [mut queries, keys, values]: [Buffer; 3],
    ) -> Result<Buffer, CheckpointError> {
        let config = self.checkpoint.config();
        let heads = Heads { heads: config.heads, window: config.windows[layer] };
        let State { cache, pass, .. } = &mut *self.state;
        cache.write(self.crew, layer, &pass.slots, [&keys.values, &values.values]);
        let mut seen = std::mem::take(&mut pass.seen);
        let mut out = self.state.take(queries.width, queries.rows());
        let State { cache, pass, .. } = &mut *self.state;
        let (on, view) = ((self.level, self.crew), (pass.groups.as_slice(), seen.as_slice()));
        attend(on, cache, (layer, heads), view, &queries.values, &mut out.values);
        std::mem::swap(&mut pass.seen, &mut seen);
        std::mem::swap(&mut queries, &mut out);
        for buffer in [out, keys, values] {
            self.state.give(buffer);
        }
        Ok(queries)
    }

    fn gate(&mut self, mut gate: Buffer, up: Buffer) -> Result<Buffer, CheckpointError> {
        let (on, width) = ((self.level, self.crew), gate.width);
        each_row(on, &Gate, (&mut gate.values, width), (&up.values, width));
        self.state.give(up);
        Ok(gate)
    }

    fn add(&mut self, mut rows: Buffer, more: Buffer) -> Result<Buffer, CheckpointError> {
        let (on, width) = ((self.level, self.crew), rows.width);
        each_row(on, &Add, (&mut rows.values, width), (&more.values, width));
        self.state.give(more);
        Ok(rows)
    }
}

/// A product by candle: the path of four bits.
fn multiply_blocks(
    product: &QMatMul,
    bias: &[f32],
    rows: &Buffer,
    out: &mut Buffer,
) -> Result<(), CheckpointError> {
    let inputs = Tensor::from_slice(&rows.values, (rows.rows(), rows.width), &Device::Cpu)?;
    let products = product.forward(&inputs)?.flatten_all()?.to_vec1::<f32>()?;
    out.values.copy_from_slice(&products);
    if !bias.is_empty() {
        for row in out.values.chunks_exact_mut(out.width) {
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    }
    Ok(())
}
