//! A decoder of the Llama family (Llama, Qwen2.5, Qwen3), wired once for serving and for training.
//!
//! [`forward`] says which operation follows which, and knows no tensor. [`Kernels`] are its operations: each consumes
//! the type that an earlier one returns, so an operation that is missing, left out or in another place is a compile
//! error on every backend. A backend that fuses implements [`Kernels`] itself (`nn/cuda`). One that computes operation
//! by operation implements [`UnfusedKernels`] (candle's tensors for gradients, pooled buffers over paged KV for
//! serving on a CPU), and the composition below makes [`Kernels`] of that. So the wiring that trained a model serves it.

mod batch;
mod checkpoint;
mod checkpoint_error;
mod config;
mod describe;
mod exact;
mod gguf;
mod hub;
pub mod lora;
mod model;
mod parameters;
mod recompute;
mod rope;
mod view;

pub use batch::{PADDING, TRUNK, TokenBatch};
pub use checkpoint::Checkpoint;
pub use checkpoint_error::CheckpointError;
#[cfg(test)]
pub(crate) use config::tests::tiny;
pub use config::{DecoderConfig, DecoderConfigError, RopeScaling};
pub use exact::Exact;
pub use lora::Adapters;
pub use model::TrainableDecoder;
pub use parameters::Parameters;
pub use recompute::backprop;
pub use view::{TensorDtype, TensorView};

use std::iter;

/// A weight matrix, `outputs x inputs`, of one layer or of the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinearId {
    /// Normed rows to queries, of a layer.
    Query(usize),
    /// Normed rows to keys.
    Key(usize),
    /// Normed rows to values.
    Value(usize),
    /// Attention's output to the residual stream.
    Output(usize),
    /// Normed rows to the gate of the gated MLP.
    Gate(usize),
    /// Normed rows to the numbers that are gated.
    Up(usize),
    /// The gated numbers to the residual stream.
    Down(usize),
    /// Rows to logits.
    Unembed,
}

/// The scale of a root-mean-square norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NormId {
    /// Before a layer's attention.
    Attention(usize),
    /// Of each head of the queries (Qwen3).
    Query(usize),
    /// Of each head of the keys (Qwen3).
    Key(usize),
    /// Before a layer's MLP.
    Mlp(usize),
    /// After the last layer.
    Last,
}

/// The operations of the wiring, one row per token.
///
/// Associated types differ where a backend fuses: a value may be a buffer, a product that is still to be scaled, or a
/// proof that a buffer was written. An operation may write over what it takes by value.
pub trait Kernels {
    /// The residual stream.
    type Stream;
    /// Normed rows of the stream.
    type Normed;
    /// Projected queries, keys and values.
    type Heads;
    /// The same, normed and rotated.
    type RotatedHeads;
    /// Attention's output, before its projection.
    type Attended;
    /// The gated numbers of the MLP.
    type Gated;
    /// A sublayer's output, which is still to be added to the stream.
    type Delta;
    /// The rows after the last norm.
    type Output;
    /// Why an operation fails.
    type Error;

    /// The embeddings of the tokens of the pass.
    fn embed(&mut self) -> Result<Self::Stream, Self::Error>;
    /// `stream / rms(stream) * scale`, row by row.
    fn norm(&mut self, stream: &Self::Stream, norm: NormId) -> Result<Self::Normed, Self::Error>;
    /// `stream + delta`, and the norm of the sum.
    fn add_and_norm(
        &mut self,
        stream: Self::Stream,
        delta: Self::Delta,
        norm: NormId,
    ) -> Result<(Self::Stream, Self::Normed), Self::Error>;
    /// The norm of `stream + delta` for the rows that are read.
    fn add_and_norm_last(
        &mut self,
        stream: Self::Stream,
        delta: Self::Delta,
        norm: NormId,
    ) -> Result<Self::Output, Self::Error>;
    /// The projections of [`LinearId::qkv`].
    fn project_heads(
        &mut self,
        layer: usize,
        normed: Self::Normed,
    ) -> Result<Self::Heads, Self::Error>;
    /// Norms each head of queries and keys, if `head_norms`, and rotates it by its row's position. A backend with a
    /// paged KV cache may write keys and values to their pages here.
    fn norm_and_rope(
        &mut self,
        layer: usize,
        heads: Self::Heads,
        head_norms: bool,
    ) -> Result<Self::RotatedHeads, Self::Error>;
    /// Causal attention: each row sees the rows before it in its own sequence, and itself.
    fn attend(
        &mut self,
        layer: usize,
        heads: Self::RotatedHeads,
    ) -> Result<Self::Attended, Self::Error>;
    /// The projection of [`LinearId::Output`].
    fn project_attended(
        &mut self,
        layer: usize,
        attended: Self::Attended,
    ) -> Result<Self::Delta, Self::Error>;
    /// `silu(gate) * up` of the projections of [`LinearId::gate_up`].
    fn project_gated(
        &mut self,
        layer: usize,
        normed: Self::Normed,
    ) -> Result<Self::Gated, Self::Error>;
    /// The projection of [`LinearId::Down`].
    fn project_down(
        &mut self,
        layer: usize,
        gated: Self::Gated,
    ) -> Result<Self::Delta, Self::Error>;
}

/// The operations of a backend that computes them one by one. Each backend gets [`Kernels`] from them.
///
/// An operation may write over what it takes by value, or return it to a pool.
pub trait UnfusedKernels {
    /// Rows of numbers, one row per token.
    type Rows;
    /// Why an operation fails.
    type Error;

    /// The embeddings of the tokens of the pass.
    fn embedding(&mut self) -> Result<Self::Rows, Self::Error>;
    /// `rows / rms(rows) * scale`, row by row.
    fn rms_norm(&mut self, rows: &Self::Rows, norm: NormId) -> Result<Self::Rows, Self::Error>;
    /// The same for rows that are not needed afterwards, over each part that is as long as the scale: a head, or the
    /// whole row.
    fn rms_norm_in_place(
        &mut self,
        rows: Self::Rows,
        norm: NormId,
    ) -> Result<Self::Rows, Self::Error>;
    /// `rows W^T (+ b)` for several matrices of the same input.
    fn linear<const N: usize>(
        &mut self,
        rows: Self::Rows,
        matrices: [LinearId; N],
    ) -> Result<[Self::Rows; N], Self::Error>;
    /// Rotates each head by its row's position (half-split, as Hugging Face does).
    fn rope(&mut self, rows: Self::Rows) -> Result<Self::Rows, Self::Error>;
    /// Causal attention of queries over keys and values.
    fn attention(
        &mut self,
        layer: usize,
        queries_keys_values: [Self::Rows; 3],
    ) -> Result<Self::Rows, Self::Error>;
    /// `silu(gate) * up`
    fn silu_mul(&mut self, gate: Self::Rows, up: Self::Rows) -> Result<Self::Rows, Self::Error>;
    /// `rows + delta`
    fn add(&mut self, rows: Self::Rows, delta: Self::Rows) -> Result<Self::Rows, Self::Error>;
}

impl<K: UnfusedKernels> Kernels for K {
    type Stream = K::Rows;
    type Normed = K::Rows;
    type Heads = [K::Rows; 3];
    type RotatedHeads = [K::Rows; 3];
    type Attended = K::Rows;
    type Gated = K::Rows;
    type Delta = K::Rows;
    type Output = K::Rows;
    type Error = K::Error;

    fn embed(&mut self) -> Result<K::Rows, K::Error> {
        self.embedding()
    }

    fn norm(&mut self, stream: &K::Rows, norm: NormId) -> Result<K::Rows, K::Error> {
        self.rms_norm(stream, norm)
    }

    fn add_and_norm(
        &mut self,
        stream: K::Rows,
        delta: K::Rows,
        norm: NormId,
    ) -> Result<(K::Rows, K::Rows), K::Error> {
        let stream = self.add(stream, delta)?;
        let normed = self.rms_norm(&stream, norm)?;
        Ok((stream, normed))
    }

    fn add_and_norm_last(
        &mut self,
        stream: K::Rows,
        delta: K::Rows,
        norm: NormId,
    ) -> Result<K::Rows, K::Error> {
        let stream = self.add(stream, delta)?;
        self.rms_norm_in_place(stream, norm)
    }

    fn project_heads(&mut self, layer: usize, normed: K::Rows) -> Result<[K::Rows; 3], K::Error> {
        self.linear(normed, LinearId::qkv(layer))
    }

    fn norm_and_rope(
        &mut self,
        layer: usize,
        [mut queries, mut keys, values]: [K::Rows; 3],
        head_norms: bool,
    ) -> Result<[K::Rows; 3], K::Error> {
        if head_norms {
            queries = self.rms_norm_in_place(queries, NormId::Query(layer))?;
            keys = self.rms_norm_in_place(keys, NormId::Key(layer))?;
        }
        Ok([self.rope(queries)?, self.rope(keys)?, values])
    }

    fn attend(&mut self, layer: usize, heads: [K::Rows; 3]) -> Result<K::Rows, K::Error> {
        self.attention(layer, heads)
    }

    fn project_attended(&mut self, layer: usize, attended: K::Rows) -> Result<K::Rows, K::Error> {
        let [delta] = self.linear(attended, [LinearId::Output(layer)])?;
        Ok(delta)
    }

    fn project_gated(&mut self, layer: usize, normed: K::Rows) -> Result<K::Rows, K::Error> {
        let [gate, up] = self.linear(normed, LinearId::gate_up(layer))?;
        self.silu_mul(gate, up)
    }

    fn project_down(&mut self, layer: usize, gated: K::Rows) -> Result<K::Rows, K::Error> {
        let [delta] = self.linear(gated, [LinearId::Down(layer)])?;
        Ok(delta)
    }
}

/// The rows after the last norm, from the tokens of the pass. `config` has at least one layer, as its check says.
pub fn forward<K: Kernels>(config: &DecoderConfig, kernels: &mut K) -> Result<K::Output, K::Error> {
    let mut stream = kernels.embed()?;
    let mut normed = kernels.norm(&stream, NormId::Attention(0))?;
    for layer in 1..config.layers {
        let (rows, delta) = sublayers(config, kernels, layer - 1, stream, normed)?;
        (stream, normed) = kernels.add_and_norm(rows, delta, NormId::Attention(layer))?;
    }
    let (stream, delta) = sublayers(config, kernels, config.layers - 1, stream, normed)?;
    kernels.add_and_norm_last(stream, delta, NormId::Last)
}

/// One layer by itself: the stream after its attention, and its MLP's output, which is still to be added to that.
pub fn residual_block<K: Kernels>(
    config: &DecoderConfig,
    kernels: &mut K,
    layer: usize,
    stream: K::Stream,
) -> Result<(K::Stream, K::Delta), K::Error> {
    let normed = kernels.norm(&stream, NormId::Attention(layer))?;
    sublayers(config, kernels, layer, stream, normed)
}

/// One layer by itself, from the rows that come in to those that go out.
pub fn block<K: UnfusedKernels>(
    config: &DecoderConfig,
    kernels: &mut K,
    layer: usize,
    rows: K::Rows,
) -> Result<K::Rows, K::Error> {
    let (rows, delta) = residual_block(config, kernels, layer, rows)?;
    kernels.add(rows, delta)
}

/// Attention, its addition to the stream, and a gated MLP. `normed` is the norm of `stream`.
fn sublayers<K: Kernels>(
    config: &DecoderConfig,
    kernels: &mut K,
    layer: usize,
    stream: K::Stream,
    normed: K::Normed,
) -> Result<(K::Stream, K::Delta), K::Error> {
    let heads = kernels.project_heads(layer, normed)?;
    let heads = kernels.norm_and_rope(layer, heads, config.head_norms)?;
    let attended = kernels.attend(layer, heads)?;
    let delta = kernels.project_attended(layer, attended)?;
    let (stream, normed) = kernels.add_and_norm(stream, delta, NormId::Mlp(layer))?;
    let gated = kernels.project_gated(layer, normed)?;
    let delta = kernels.project_down(layer, gated)?;
    Ok((stream, delta))
}

// === impl LinearId ===

impl LinearId {
    /// The name of its weight in a Hugging Face folder.
    pub fn name(self) -> String {
        match self {
            Self::Query(layer) => format!("model.layers.{layer}.self_attn.q_proj.weight"),
            Self::Key(layer) => format!("model.layers.{layer}.self_attn.k_proj.weight"),
            Self::Value(layer) => format!("model.layers.{layer}.self_attn.v_proj.weight"),
            Self::Output(layer) => format!("model.layers.{layer}.self_attn.o_proj.weight"),
            Self::Gate(layer) => format!("model.layers.{layer}.mlp.gate_proj.weight"),
            Self::Up(layer) => format!("model.layers.{layer}.mlp.up_proj.weight"),
            Self::Down(layer) => format!("model.layers.{layer}.mlp.down_proj.weight"),
            Self::Unembed => "lm_head.weight".into(),
        }
    }

    /// The name of its bias, if the configuration gives it one.
    pub fn bias(self, config: &DecoderConfig) -> Option<String> {
        let biased = match self {
            Self::Query(_) | Self::Key(_) | Self::Value(_) => config.qkv_bias,
            Self::Output(_) => config.output_bias,
            Self::Gate(_) | Self::Up(_) | Self::Down(_) => config.mlp_bias,
            Self::Unembed => false,
        };
        biased.then(|| self.name().replace(".weight", ".bias"))
    }

    /// Outputs and inputs.
    pub fn dims(self, config: &DecoderConfig) -> (usize, usize) {
        let (width, inner) = (config.width, config.mlp_width);
        let (queries, keys) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        match self {
            Self::Query(_) => (queries, width),
            Self::Key(_) | Self::Value(_) => (keys, width),
            Self::Output(_) => (width, queries),
            Self::Gate(_) | Self::Up(_) => (inner, width),
            Self::Down(_) => (width, inner),
            Self::Unembed => (config.vocabulary, width),
        }
    }

    /// The names and dimensions of its weight and of its bias, if it has one.
    fn tensors(self, config: &DecoderConfig) -> impl Iterator<Item = (String, Vec<usize>)> {
        let (outputs, inputs) = self.dims(config);
        let bias = self.bias(config).map(|bias| (bias, vec![outputs]));
        iter::once((self.name(), vec![outputs, inputs])).chain(bias)
    }

    /// The matrices of a layer that make queries, keys and values of the same rows.
    pub fn qkv(layer: usize) -> [Self; 3] {
        [Self::Query(layer), Self::Key(layer), Self::Value(layer)]
    }

    /// The matrices of a layer's gated MLP that have the same rows as input.
    pub fn gate_up(layer: usize) -> [Self; 2] {
        [Self::Gate(layer), Self::Up(layer)]
    }

    /// The matrices of one layer.
    pub fn of_layer(layer: usize) -> [Self; 7] {
        let l = layer;
        [
            Self::Query(l),
            Self::Key(l),
            Self::Value(l),
            Self::Output(l),
            Self::Gate(l),
            Self::Up(l),
            Self::Down(l),
        ]
    }
}

// === impl NormId ===

impl NormId {
    /// The name of its scale in a Hugging Face folder.
    pub fn name(self) -> String {
        match self {
            Self::Attention(layer) => format!("model.layers.{layer}.input_layernorm.weight"),
            Self::Query(layer) => format!("model.layers.{layer}.self_attn.q_norm.weight"),
            Self::Key(layer) => format!("model.layers.{layer}.self_attn.k_norm.weight"),
            Self::Mlp(layer) => format!("model.layers.{layer}.post_attention_layernorm.weight"),
            Self::Last => "model.norm.weight".into(),
        }
    }

    /// How many numbers it scales.
    pub fn width(self, config: &DecoderConfig) -> usize {
        match self {
            Self::Query(_) | Self::Key(_) => config.head_dim,
            Self::Attention(_) | Self::Mlp(_) | Self::Last => config.width,
        }
    }

    fn tensor(self, config: &DecoderConfig) -> (String, Vec<usize>) {
        (self.name(), vec![self.width(config)])
    }
}

/// The name of the table of token embeddings. A tied model unembeds with it as well.
pub const EMBEDDING: &str = "model.embed_tokens.weight";

/// The names and dimensions of all tensors of a decoder.
pub fn tensors(config: &DecoderConfig) -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![(EMBEDDING.into(), vec![config.vocabulary, config.width])];
    for layer in 0..config.layers {
        for matrix in LinearId::of_layer(layer) {
            tensors.extend(matrix.tensors(config));
        }
        let norms = [NormId::Attention(layer), NormId::Mlp(layer)];
        let head_norms = [NormId::Query(layer), NormId::Key(layer)];
        let head_norms = head_norms.into_iter().filter(|_| config.head_norms);
        tensors.extend(norms.into_iter().chain(head_norms).map(|norm| norm.tensor(config)));
    }
    tensors.push(NormId::Last.tensor(config));
    if !config.tied {
        tensors.extend(LinearId::Unembed.tensors(config));
    }
    tensors
}
