//! A decoder's hyperparameters and their limits.

use std::ops::RangeInclusive;

/// Most rows of the embedding table.
pub const VOCABULARY_MAX: usize = 1 << 20;
/// Most dimensions of a hidden state.
pub const WIDTH_MAX: usize = 1 << 16;
/// Most layers.
pub const LAYERS_MAX: usize = 512;
/// Most heads of a layer.
pub const HEADS_MAX: usize = 1024;
/// Most dimensions of a head.
pub const HEAD_DIM_MAX: usize = 1024;
/// Most dimensions inside the gated MLP.
pub const MLP_WIDTH_MAX: usize = 1 << 18;
/// Most positions.
pub const POSITIONS_MAX: usize = 1 << 24;
/// Most end-of-sequence tokens.
pub const ENDS_MAX: usize = 64;

/// A decoder's hyperparameters.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "a checkpoint has each switch of its own")]
pub struct DecoderConfig {
    /// Rows of the embedding table (`vocab_size`).
    pub vocabulary: usize,
    /// Dimensions of a hidden state (`hidden_size`).
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
    /// Dimensions inside the gated MLP (`intermediate_size`).
    pub mlp_width: usize,
    /// Added under the root of a norm.
    pub norm_epsilon: f64,
    /// Whether queries and keys are normed per head (Qwen3).
    pub head_norms: bool,
    /// Whether queries, keys and values have biases (Qwen2.5).
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub output_bias: bool,
    /// Whether the MLP's matrices have biases.
    pub mlp_bias: bool,
    /// Whether the embedding table is also the unembedding (`tie_word_embeddings`).
    pub tied: bool,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the frequencies are scaled for long contexts.
    pub rope_scaling: RopeScaling,
    /// The sliding window per layer: tokens that a row attends to, itself included. `None` is full attention.
    pub windows: Vec<Option<usize>>,
    /// Most positions of a sequence (`max_position_embeddings`).
    pub positions_max: usize,
    /// End-of-sequence tokens, ascending.
    pub ends: Vec<u32>,
}

/// How rotary frequencies are scaled (`rope_scaling`).
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Position interpolation: all by one factor.
    Linear(f64),
    /// Llama 3: low frequencies by a factor, high ones not at all, with a ramp between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// `low_freq_factor`: the start of the ramp, in wavelengths per original context.
        low: f64,
        /// `high_freq_factor`: its end.
        high: f64,
        /// The original context length.
        original: usize,
    },
    /// YaRN (Peng et al. 2023), as the Qwen family uses it.
    Yarn {
        /// The factor.
        factor: f64,
        /// The original context length.
        original: usize,
        /// `beta_fast`: rotations above which a frequency is not scaled.
        fast: f64,
        /// `beta_slow`: rotations below which it is scaled in full.
        slow: f64,
        /// The factor of cosines and sines.
        attention: f64,
    },
    /// A factor per frequency, as GGUF files of Llama 3 list them.
    Listed(Vec<f32>),
}

/// Why a model's configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum DecoderConfigError {
    /// A field is missing or malformed.
    #[error("the model's configuration: {0}")]
    Malformed(String),
    /// A field has a value that this decoder does not support.
    #[error(
        "the model's configuration: `{field}` is {value}, which is not supported ({supported})"
    )]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The supported values.
        supported: &'static str,
    },
}

// === impl DecoderConfigError ===

impl DecoderConfigError {
    pub(crate) fn unsupported(
        field: &'static str,
        value: impl Into<String>,
        supported: &'static str,
    ) -> Self {
        Self::Unsupported { field, value: value.into(), supported }
    }
}

// === impl DecoderConfig ===

impl DecoderConfig {
    /// Adds end-of-sequence tokens, and keeps them ascending and distinct.
    pub fn add_ends(&mut self, ends: impl IntoIterator<Item = u32>) {
        self.ends.extend(ends);
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    /// Checks that the sizes are within their limits and consistent.
    pub fn check(&self) -> Result<(), DecoderConfigError> {
        within("vocab_size", self.vocabulary, 1..=VOCABULARY_MAX)?;
        within("hidden_size", self.width, 1..=WIDTH_MAX)?;
        within("num_hidden_layers", self.layers, 1..=LAYERS_MAX)?;
        within("num_attention_heads", self.heads, 1..=HEADS_MAX)?;
        within("num_key_value_heads", self.kv_heads, 1..=self.heads)?;
        within("head_dim", self.head_dim, 2..=HEAD_DIM_MAX)?;
        within("intermediate_size", self.mlp_width, 1..=MLP_WIDTH_MAX)?;
        within("max_position_embeddings", self.positions_max, 1..=POSITIONS_MAX)?;
        let malformed = |what: String| Err(DecoderConfigError::Malformed(what));
        let (heads, kv_heads) = (self.heads, self.kv_heads);
        if !heads.is_multiple_of(kv_heads) {
            return malformed(format!("{heads} heads cannot share {kv_heads} key and value heads"));
        }
        if !self.head_dim.is_multiple_of(2) {
            return malformed(format!("`head_dim` {} cannot be rotated by halves", self.head_dim));
        }
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon < 1.0) {
            return malformed(format!("`rms_norm_eps` is {}", self.norm_epsilon));
        }
        if self.windows.len() != self.layers {
            let given = self.windows.len();
            return malformed(format!("`layer_types` names {given} layers of {}", self.layers));
        }
        if self.windows.contains(&Some(0)) {
            return malformed("`sliding_window` is 0, in which a token does not see itself".into());
        }
        if self.ends.len() > ENDS_MAX {
            return malformed(format!("more than {ENDS_MAX} tokens end a text"));
        }
        if let Some(end) = self.ends.iter().find(|&&end| end as usize >= self.vocabulary) {
            return malformed(format!("token {end} ends a text, but has no embedding"));
        }
        self.check_rope()
    }
}

fn within(
    field: &str,
    value: usize,
    bounds: RangeInclusive<usize>,
) -> Result<(), DecoderConfigError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    let (least, most) = (bounds.start(), bounds.end());
    Err(DecoderConfigError::Malformed(format!("`{field}` is {value}, not from {least} to {most}")))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A decoder of a few thousand weights.
    pub(crate) fn tiny() -> DecoderConfig {
        DecoderConfig {
            vocabulary: 12,
            width: 8,
            layers: 2,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            mlp_width: 6,
            norm_epsilon: 1e-6,
            head_norms: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            tied: true,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::None,
            windows: vec![None; 2],
            positions_max: 64,
            ends: Vec::new(),
        }
    }

    #[test]
    fn sizes_that_do_not_fit_are_named() {
        let says = |change: fn(&mut DecoderConfig)| {
            let mut config = tiny();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        tiny().check().unwrap();
        let lead = "the model's configuration: ";
        let zero = says(|c| c.layers = 0);
        assert_eq!(zero, format!("{lead}`num_hidden_layers` is 0, not from 1 to 512"));
        let absurd = says(|c| c.vocabulary = usize::MAX);
        assert!(absurd.starts_with(&format!("{lead}`vocab_size` is 18446744073709551615")));
        let uneven = says(|c| (c.heads, c.kv_heads) = (6, 4));
        assert_eq!(uneven, format!("{lead}6 heads cannot share 4 key and value heads"));
        assert!(says(|c| c.head_dim = 5).contains("cannot be rotated by halves"));
        assert!(says(|c| c.windows = vec![None]).contains("names 1 layers of 2"));
        assert!(says(|c| c.windows = vec![Some(0); 2]).contains("does not see itself"));
        assert!(says(|c| c.ends = vec![12]).contains("token 12"));
        assert!(says(|c| c.norm_epsilon = f64::NAN).contains("rms_norm_eps"));
        assert!(says(|c| c.rope_theta = 0.0).contains("rope_theta"));
    }

    #[test]
    fn ends_are_distinct_and_ascending() {
        let mut config = tiny();
        config.add_ends([7, 2, 7]);
        config.add_ends([3, 2]);
        assert_eq!(config.ends, [2, 3, 7]);
    }
}
