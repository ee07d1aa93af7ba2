//! What a `config.json` says of a decoder.

/// The sizes and switches of a decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Tokens that have an embedding row.
    pub vocabulary: usize,
    /// Numbers in a row (`hidden_size`).
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Numbers in a head.
    pub head_dim: usize,
    /// Numbers inside the gated MLP (`intermediate_size`).
    pub mlp_width: usize,
    /// Added under the root of a norm.
    pub norm_epsilon: f64,
    /// Queries and keys are normed head by head (Qwen3).
    pub head_norms: bool,
    /// Queries, keys and values have a bias (Qwen2.5).
    pub qkv_bias: bool,
    /// The attention's output has a bias.
    pub output_bias: bool,
    /// The matrices of the MLP have biases.
    pub mlp_bias: bool,
    /// The table of embeddings is also the unembedding.
    pub tied: bool,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the frequencies are stretched for long contexts.
    pub rope_scaling: RopeScaling,
    /// Tokens that a layer looks back on, itself included: one entry per layer, `None` for all.
    pub windows: Vec<Option<usize>>,
    /// Positions that the model was made for.
    pub positions_max: usize,
    /// Tokens that end a text.
    pub ends: Vec<u32>,
}

/// How rotary frequencies are stretched (`rope_scaling`).
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// They are not.
    None,
    /// All by one factor.
    Linear(f64),
    /// Llama 3: the slow ones by a factor, the fast ones not, a ramp between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Where the ramp begins, as a share of the original context.
        low: f64,
        /// Where it ends.
        high: f64,
        /// The context that the model was made for at first.
        original: usize,
    },
    /// YaRN, as the Qwen family uses it.
    Yarn {
        /// The factor.
        factor: f64,
        /// The context that the model was made for at first.
        original: usize,
        /// Rotations above which a frequency is left alone.
        fast: f64,
        /// Rotations below which it is stretched in full.
        slow: f64,
        /// What the cosines and sines are multiplied by.
        attention: f64,
    },
}

/// Why a `config.json` is not for us.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read as what it should be.
    #[error("config.json: {0}")]
    Malformed(String),
    /// It names something that this decoder does not do.
    #[error("config.json: `{field}` is {value}, which is not supported ({supported})")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it could say.
        supported: &'static str,
    },
}
