//! The sizes and switches of a decoder, and the bounds that they have to keep.

use std::ops::RangeInclusive;

/// Rows that a table of embeddings may have.
pub const VOCABULARY_MAX: usize = 1 << 20;
/// Numbers that a row may have.
pub const WIDTH_MAX: usize = 1 << 16;
/// Layers that a decoder may have.
pub const LAYERS_MAX: usize = 512;
/// Heads that a layer may have.
pub const HEADS_MAX: usize = 1024;
/// Numbers that a head may have.
pub const HEAD_DIM_MAX: usize = 1024;
/// Numbers that the gated MLP may have inside.
pub const MLP_WIDTH_MAX: usize = 1 << 18;
/// Positions that a decoder may be made for.
pub const POSITIONS_MAX: usize = 1 << 24;
/// Tokens that may end a text.
pub const ENDS_MAX: usize = 64;

/// The sizes and switches of a decoder.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "a checkpoint has each switch of its own")]
pub struct DecoderConfig {
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
    /// Tokens that end a text, ascending.
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
    /// Each by a factor of its own, as a GGUF file lists them for Llama 3.
    Listed(Vec<f32>),
}

/// Why a model's configuration is not for us.
#[derive(Debug, thiserror::Error)]
pub enum DecoderConfigError {
    /// It cannot be read as what it should be.
    #[error("the model's configuration: {0}")]
    Malformed(String),
    /// It names something that this decoder does not do.
    #[error(
        "the model's configuration: `{field}` is {value}, which is not supported ({supported})"
    )]
    Unsupported {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
        /// What it could say.
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
    /// Adds tokens that end a text, and keeps them ascending and distinct.
    pub fn add_ends(&mut self, ends: impl IntoIterator<Item = u32>) {
        self.ends.extend(ends);
        self.ends.sort_unstable();
        self.ends.dedup();
    }

    /// Whether the sizes are in their bounds and fit together.
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
