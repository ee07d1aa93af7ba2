//! Writes a decoder's hyperparameters as a `config.json` for transformers.

use super::{DecoderConfig, DecoderConfigError, RopeScaling};
use serde_json::{Map, Value, json};

// === impl DecoderConfig ===

impl DecoderConfig {
    /// Writes a `config.json`, which [`DecoderConfig::from_json`] reads as the same configuration.
    ///
    /// Configurations that no Hugging Face family can express are refused.
    pub fn to_json(&self) -> Result<String, DecoderConfigError> {
        let (family, architecture) = self.family()?;
        let mut fields = json!({
            "architectures": [architecture],
            "model_type": family,
            "vocab_size": self.vocabulary,
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.mlp_width,
            "hidden_act": "silu",
            "max_position_embeddings": self.positions_max,
            "rms_norm_eps": self.norm_epsilon,
            "tie_word_embeddings": self.tied,
            "rope_theta": self.rope_theta,
            "torch_dtype": "float32",
            "eos_token_id": self.ends,
        });
        let more = fields.as_object_mut().expect("the fields are an object");
        if family != "qwen2" {
            more.insert("attention_bias".into(), self.qkv_bias.into());
        }
        if family == "llama" {
            more.insert("mlp_bias".into(), self.mlp_bias.into());
        } else {
            more.extend(self.sliding()?);
        }
        if let Some(scaling) = self.scaling()? {
            more.insert("rope_scaling".into(), scaling);
        }
        Ok(format!("{fields:#}\n"))
    }

    /// The family with these settings, and its class.
    fn family(&self) -> Result<(&'static str, &'static str), DecoderConfigError> {
        let Self { head_norms, qkv_bias, output_bias, mlp_bias, .. } = *self;
        match (head_norms, qkv_bias, output_bias, mlp_bias) {
            (true, qkv, output, false) if qkv == output => Ok(("qwen3", "Qwen3ForCausalLM")),
            (false, true, false, false) => Ok(("qwen2", "Qwen2ForCausalLM")),
            (false, qkv, output, _) if qkv == output && !self.slides() => {
                Ok(("llama", "LlamaForCausalLM"))
            }
            _ => Err(DecoderConfigError::Malformed(
                "no family of decoders has these switches".into(),
            )),
        }
    }

    fn slides(&self) -> bool {
        self.windows.iter().any(Option::is_some)
    }

    /// The Qwen families' window fields: one size for all layers with a window.
    fn sliding(&self) -> Result<Map<String, Value>, DecoderConfigError> {
        let mut sizes = self.windows.iter().copied().flatten();
        let size = sizes.next();
        if sizes.any(|other| Some(other) != size) {
            let windows = &self.windows;
            return Err(DecoderConfigError::Malformed(format!(
                "layers look back differently: {windows:?}"
            )));
        }
        let kind = |window: &Option<usize>| {
            if window.is_some() { "sliding_attention" } else { "full_attention" }
        };
        let mut fields = Map::new();
        let kinds: Vec<&str> = self.windows.iter().map(kind).collect();
        fields.insert("layer_types".into(), kinds.into());
        fields.insert("use_sliding_window".into(), self.slides().into());
        fields.insert("sliding_window".into(), size.into());
        Ok(fields)
    }

    fn scaling(&self) -> Result<Option<Value>, DecoderConfigError> {
        Ok(Some(match &self.rope_scaling {
            RopeScaling::None => return Ok(None),
            RopeScaling::Linear(factor) => json!({ "rope_type": "linear", "factor": factor }),
            RopeScaling::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }),
            RopeScaling::Yarn { factor, original, fast, slow, attention } => json!({
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original,
                "beta_fast": fast,
                "beta_slow": slow,
                "attention_factor": attention,
            }),
            RopeScaling::Listed(_) => {
                let what = "frequencies that a GGUF file lists have no name of their own";
                return Err(DecoderConfigError::Malformed(what.into()));
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::tiny;
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        let same = |change: fn(&mut DecoderConfig)| {
            let mut config = tiny();
            change(&mut config);
            let read = DecoderConfig::from_json(&config.to_json().unwrap()).unwrap();
            assert_eq!(read, config);
        };
        same(|c| c.ends = vec![2]);
        same(|c| (c.head_norms, c.ends) = (true, vec![3, 4]));
        same(|c| (c.head_norms, c.qkv_bias, c.output_bias) = (true, true, true));
        same(|c| (c.head_norms, c.windows) = (true, vec![None, Some(7)]));
        same(|c| (c.qkv_bias, c.tied) = (true, false));
        same(|c| (c.qkv_bias, c.output_bias, c.mlp_bias, c.ends) = (true, true, true, vec![2]));
        same(|c| c.rope_scaling = RopeScaling::Linear(2.0));
        same(|c| {
            let (factor, low, high, original) = (8.0, 1.0, 4.0, 32);
            c.rope_scaling = RopeScaling::Llama3 { factor, low, high, original };
        });
        same(|c| {
            let (factor, original, fast, slow, attention) = (4.0, 16, 32.0, 1.0, 1.1);
            c.rope_scaling = RopeScaling::Yarn { factor, original, fast, slow, attention };
        });
    }

    #[test]
    fn what_no_family_says_is_refused() {
        let says = |change: fn(&mut DecoderConfig)| {
            let mut config = tiny();
            change(&mut config);
            config.to_json().unwrap_err().to_string()
        };
        assert!(says(|c| c.output_bias = true).contains("no family"));
        assert!(says(|c| (c.head_norms, c.mlp_bias) = (true, true)).contains("no family"));
        let uneven: fn(&mut DecoderConfig) =
            |c| (c.head_norms, c.windows) = (true, vec![Some(5), Some(7)]);
        assert!(says(uneven).contains("look back differently"));
        assert!(says(|c| c.rope_scaling = RopeScaling::Listed(vec![1.0; 2])).contains("GGUF"));
    }
}
