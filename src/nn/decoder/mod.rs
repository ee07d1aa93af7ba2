//! A decoder of the Llama family (Llama, Qwen2.5, Qwen3), wired once for serving and for training.
//!
//! The wiring knows no tensor. It says which layer follows which, and a set of [`Kernels`] does the
//! arithmetic on rows of its own kind: candle's tensors where gradients are needed, pooled buffers
//! over paged keys and values where speed is. So a model is served by the very wiring that trained
//! it, and the two sets of kernels are held against each other.

mod batch;
mod checkpoint;
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

pub use batch::{Batch, PADDING, TRUNK};
pub use checkpoint::{Checkpoint, CheckpointError};
#[cfg(test)]
pub(crate) use config::tests::tiny;
pub use config::{Config, ConfigError, RopeScaling};
pub use exact::Exact;
pub use lora::Adapters;
pub use model::Model;
pub use parameters::Parameters;
pub use recompute::backprop;
pub use view::{Format, View};

use std::iter;

/// A weight matrix, `outputs x inputs`, of one layer or of the whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinearId {
    /// Rows to queries, of a layer.
    Query(usize),
    /// Rows to keys.
    Key(usize),
    /// Rows to values.
    Value(usize),
    /// What was attended to, back to rows.
    Output(usize),
    /// The gate of the gated MLP.
    Gate(usize),
    /// What is gated.
    Up(usize),
    /// What came through, back to rows.
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

/// The arithmetic of a decoder, on rows: one row per token.
///
/// What an operation takes by value it may write over or put back in its pool.
pub trait Kernels {
    /// Rows of numbers, one row per token.
    type Rows;
    /// Why arithmetic can fail.
    type Error;

    /// The embeddings of the tokens at hand.
    fn embed(&mut self) -> Result<Self::Rows, Self::Error>;
    /// `rows / rms(rows) * scale`, row by row.
    fn norm(&mut self, rows: &Self::Rows, norm: NormId) -> Result<Self::Rows, Self::Error>;
    /// The same of rows that nobody needs as they were, over each part that is as long as the
    /// scale: a head, or the whole row.
    fn norm_in_place(&mut self, rows: Self::Rows, norm: NormId) -> Result<Self::Rows, Self::Error>;
    /// `rows W^T (+ b)` for several matrices of the same input.
    fn linear<const N: usize>(
        &mut self,
        rows: Self::Rows,
        layers: [LinearId; N],
    ) -> Result<[Self::Rows; N], Self::Error>;
    /// Rotates each head by its row's position (half-split, as Hugging Face does).
    fn rotate(&mut self, rows: Self::Rows) -> Result<Self::Rows, Self::Error>;
    /// What each row's queries see: everything before the row in its own sequence, and itself.
    fn attend(
        &mut self,
        layer: usize,
        queries_keys_values: [Self::Rows; 3],
    ) -> Result<Self::Rows, Self::Error>;
    /// `silu(gate) * up`
    fn gate(&mut self, gate: Self::Rows, up: Self::Rows) -> Result<Self::Rows, Self::Error>;
    /// `rows + more`
    fn add(&mut self, rows: Self::Rows, more: Self::Rows) -> Result<Self::Rows, Self::Error>;
}

/// The rows after the last norm, from the tokens that the kernels have at hand.
pub fn forward<K: Kernels>(config: &Config, kernels: &mut K) -> Result<K::Rows, K::Error> {
    let mut rows = kernels.embed()?;
    for layer in 0..config.layers {
        rows = block(config, kernels, layer, rows)?;
    }
    kernels.norm_in_place(rows, NormId::Last)
}

/// One layer: attention, then a gated MLP, each added to what came in.
pub fn block<K: Kernels>(
    config: &Config,
    kernels: &mut K,
    layer: usize,
    rows: K::Rows,
) -> Result<K::Rows, K::Error> {
    let normed = kernels.norm(&rows, NormId::Attention(layer))?;
    let qkv = [LinearId::Query(layer), LinearId::Key(layer), LinearId::Value(layer)];
    let [mut queries, mut keys, values] = kernels.linear(normed, qkv)?;
    if config.head_norms {
        queries = kernels.norm_in_place(queries, NormId::Query(layer))?;
        keys = kernels.norm_in_place(keys, NormId::Key(layer))?;
    }
    let (queries, keys) = (kernels.rotate(queries)?, kernels.rotate(keys)?);
    let seen = kernels.attend(layer, [queries, keys, values])?;
    let [seen] = kernels.linear(seen, [LinearId::Output(layer)])?;
    let rows = kernels.add(rows, seen)?;

    let normed = kernels.norm(&rows, NormId::Mlp(layer))?;
    let [gate, up] = kernels.linear(normed, [LinearId::Gate(layer), LinearId::Up(layer)])?;
    let gated = kernels.gate(gate, up)?;
    let [down] = kernels.linear(gated, [LinearId::Down(layer)])?;
    kernels.add(rows, down)
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

    /// The name of its bias, for a layer that has one.
    pub fn bias(self, config: &Config) -> Option<String> {
        let biased = match self {
            Self::Query(_) | Self::Key(_) | Self::Value(_) => config.qkv_bias,
            Self::Output(_) => config.output_bias,
            Self::Gate(_) | Self::Up(_) | Self::Down(_) => config.mlp_bias,
            Self::Unembed => false,
        };
        biased.then(|| self.name().replace(".weight", ".bias"))
    }

    /// Outputs and inputs.
    pub fn dims(self, config: &Config) -> (usize, usize) {
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

    /// The names and dimensions of its weight and of the bias that it may have.
    fn tensors(self, config: &Config) -> impl Iterator<Item = (String, Vec<usize>)> {
        let (outputs, inputs) = self.dims(config);
        let bias = self.bias(config).map(|bias| (bias, vec![outputs]));
        iter::once((self.name(), vec![outputs, inputs])).chain(bias)
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
    pub fn width(self, config: &Config) -> usize {
        match self {
            Self::Query(_) | Self::Key(_) => config.head_dim,
            Self::Attention(_) | Self::Mlp(_) | Self::Last => config.width,
        }
    }

    fn tensor(self, config: &Config) -> (String, Vec<usize>) {
        (self.name(), vec![self.width(config)])
    }
}

/// The name of the table of token embeddings, which a tied model unembeds with as well.
pub const EMBEDDING: &str = "model.embed_tokens.weight";

/// The names and dimensions of all tensors that a decoder is made of.
pub fn tensors(config: &Config) -> Vec<(String, Vec<usize>)> {
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
