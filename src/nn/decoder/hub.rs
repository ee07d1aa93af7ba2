//! Reads a Hugging Face `config.json`, with transformers' defaults of each family.

use super::rope::yarn_attention;
use super::{DecoderConfig, DecoderConfigError, RopeScaling};
use serde::Deserialize;
use serde_json::Value;

/// The supported families, for errors.
const FAMILIES: &str = "llama, qwen2 and qwen3";
/// The supported attention patterns, for errors.
const LAYER_TYPES: &str = "full_attention, and sliding_attention where use_sliding_window is set";
/// The supported rotary scalings, for errors.
const ROPE_TYPES: &str = "default, linear, llama3 and yarn";
/// YaRN's default bounds of the ramp.
const YARN_BETAS: (f64, f64) = (32.0, 1.0);

/// The families of decoders that share this wiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DecoderFamily {
    Llama,
    Qwen2,
    Qwen3,
}

/// The fields of a `config.json` that determine the computation.
#[derive(Debug, Deserialize)]
struct Fields {
    model_type: Option<String>,
    architectures: Option<Vec<String>>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    tie_word_embeddings: Option<bool>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    rope_theta: Option<f64>,
    rope_scaling: Option<Rotation>,
    rope_parameters: Option<Rotation>,
    partial_rotary_factor: Option<f64>,
    use_sliding_window: Option<bool>,
    sliding_window: Option<usize>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    eos_token_id: Option<Ends>,
    quantization_config: Option<Value>,
    num_experts: Option<usize>,
    num_local_experts: Option<usize>,
}

/// `rope_scaling`, or the newer `rope_parameters`, which holds the base as well.
#[derive(Debug, Default, Deserialize)]
struct Rotation {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    /// The old name of `rope_type`.
    r#type: Option<String>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<usize>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
    partial_rotary_factor: Option<f64>,
    mrope_section: Option<Value>,
    /// Some models have other rotary parameters per attention pattern.
    full_attention: Option<Value>,
    sliding_attention: Option<Value>,
}

/// One end-of-sequence token, or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ends {
    One(u32),
    Many(Vec<u32>),
}

/// The end-of-sequence tokens of a `generation_config.json`.
#[derive(Debug, Deserialize)]
struct Generation {
    eos_token_id: Option<Ends>,
}

// === impl DecoderConfig ===

impl DecoderConfig {
    /// Reads a `config.json`.
    pub fn from_json(json: &str) -> Result<Self, DecoderConfigError> {
        let fields: Fields = parse(json)?;
        let family = fields.family()?;
        fields.refuse()?;
        let width = fields.hidden_size.unwrap_or(4096);
        let layers = fields.num_hidden_layers.unwrap_or(32);
        let heads = fields.num_attention_heads.unwrap_or(32);
        let attention_bias = fields.attention_bias.unwrap_or(false);
        let positions_max = fields.max_position_embeddings.unwrap_or(family.positions());
        let (rope_theta, rope_scaling) = fields.rope(positions_max)?;
        let mut config = Self {
            vocabulary: fields.vocab_size.unwrap_or(family.vocabulary()),
            width,
            layers,
            heads,
            kv_heads: fields.num_key_value_heads.unwrap_or(family.kv_heads(heads)),
            head_dim: fields.head_dim.map_or_else(|| family.head_dim(width, heads), Ok)?,
            mlp_width: fields.intermediate_size.unwrap_or(family.mlp_width()),
            norm_epsilon: fields.rms_norm_eps.unwrap_or(1e-6),
            head_norms: family == DecoderFamily::Qwen3,
            qkv_bias: family == DecoderFamily::Qwen2 || attention_bias,
            output_bias: family != DecoderFamily::Qwen2 && attention_bias,
            mlp_bias: family == DecoderFamily::Llama && fields.mlp_bias.unwrap_or(false),
            tied: fields.tie_word_embeddings.unwrap_or(false),
            rope_theta,
            rope_scaling,
            windows: fields.windows(family, layers)?,
            positions_max,
            ends: Vec::new(),
        };
        let default =
            (family == DecoderFamily::Llama && 2 < config.vocabulary).then_some(Ends::One(2));
        config.add_ends(fields.eos_token_id.or(default).into_iter().flatten());
        config.check()?;
        Ok(config)
    }

    /// Adds the end-of-sequence tokens of a `generation_config.json`: a chat model has more than its base.
    pub fn add_generation(&mut self, json: &str) -> Result<(), DecoderConfigError> {
        let generation: Generation = parse(json)?;
        self.add_ends(generation.eos_token_id.into_iter().flatten());
        self.check()
    }
}

/// Parses JSON; an error names the field at fault.
fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, DecoderConfigError> {
    let from = &mut serde_json::Deserializer::from_str(json);
    serde_path_to_error::deserialize(from)
        .map_err(|error| DecoderConfigError::Malformed(error.to_string()))
}

// === impl DecoderFamily ===

impl DecoderFamily {
    fn named(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "llama" => Self::Llama,
            "qwen2" => Self::Qwen2,
            "qwen3" => Self::Qwen3,
            _ => return None,
        })
    }

    /// The family of a causal model or of its body.
    fn of_architecture(architecture: &str) -> Option<Self> {
        Some(match architecture {
            "LlamaForCausalLM" | "LlamaModel" => Self::Llama,
            "Qwen2ForCausalLM" | "Qwen2Model" => Self::Qwen2,
            "Qwen3ForCausalLM" | "Qwen3Model" => Self::Qwen3,
            _ => return None,
        })
    }

    fn vocabulary(self) -> usize {
        if self == Self::Llama { 32_000 } else { 151_936 }
    }

    fn mlp_width(self) -> usize {
        if self == Self::Llama { 11_008 } else { 22_016 }
    }

    fn positions(self) -> usize {
        if self == Self::Llama { 2048 } else { 32_768 }
    }

    fn kv_heads(self, heads: usize) -> usize {
        if self == Self::Llama { heads } else { 32 }
    }

    fn head_dim(self, width: usize, heads: usize) -> Result<usize, DecoderConfigError> {
        match width.checked_rem(heads) {
            _ if self == Self::Qwen3 => Ok(128),
            Some(0) => Ok(width / heads),
            _ => Err(DecoderConfigError::Malformed(format!(
                "{heads} heads do not divide {width} numbers"
            ))),
        }
    }
}

// === impl Fields ===

impl Fields {
    /// The family, on which `model_type` and `architectures` must agree.
    fn family(&self) -> Result<DecoderFamily, DecoderConfigError> {
        let unsupported =
            |field, value: &str| DecoderConfigError::unsupported(field, value, FAMILIES);
        let typed = match &self.model_type {
            Some(name) => {
                Some(DecoderFamily::named(name).ok_or_else(|| unsupported("model_type", name))?)
            }
            None => None,
        };
        let mut built = None;
        for name in self.architectures.iter().flatten() {
            let family = DecoderFamily::of_architecture(name);
            let family = family.filter(|&family| typed.is_none_or(|typed| typed == family));
            built = Some(family.ok_or_else(|| unsupported("architectures", name))?);
        }
        typed.or(built).ok_or_else(|| unsupported("model_type", "missing"))
    }

    /// Refuses settings that this decoder does not implement.
    fn refuse(&self) -> Result<(), DecoderConfigError> {
        let unsupported =
            |field, value: String, can| Err(DecoderConfigError::unsupported(field, value, can));
        if let Some(act) = self.hidden_act.as_ref().filter(|act| *act != "silu") {
            return unsupported("hidden_act", act.clone(), "silu");
        }
        if let Some(config) = self.quantization_config.as_ref().filter(|value| !value.is_null()) {
            let method = config.get("quant_method").unwrap_or(config).to_string();
            return unsupported("quantization_config", method, "f32, f16, bf16 or a GGUF file");
        }
        for (field, experts) in
            [("num_experts", self.num_experts), ("num_local_experts", self.num_local_experts)]
        {
            if let Some(experts) = experts.filter(|&experts| experts > 0) {
                return unsupported(field, experts.to_string(), "0: a dense MLP");
            }
        }
        let ropes = [&self.rope_scaling, &self.rope_parameters];
        let partial = ropes.into_iter().flatten().find_map(|rope| rope.partial_rotary_factor);
        let partial = self.partial_rotary_factor.or(partial).unwrap_or(1.0);
        if (partial - 1.0).abs() > f64::EPSILON {
            return unsupported("partial_rotary_factor", partial.to_string(), "1");
        }
        Ok(())
    }

    /// The rotary base and scaling.
    fn rope(&self, positions_max: usize) -> Result<(f64, RopeScaling), DecoderConfigError> {
        let none = Rotation::default();
        // A file may have both; transformers reads the older one.
        let given = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let younger = self.rope_parameters.as_ref().and_then(|rope| rope.rope_theta);
        let rope = given.unwrap_or(&none);
        let theta = rope.rope_theta.or(self.rope_theta).or(younger).unwrap_or(10_000.0);
        Ok((theta, rope.scaling(positions_max)?))
    }

    /// The sliding window of each layer.
    fn windows(
        &self,
        family: DecoderFamily,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, DecoderConfigError> {
        let unsupported =
            |kind: &str| DecoderConfigError::unsupported("layer_types", kind, LAYER_TYPES);
        let slides = family != DecoderFamily::Llama && self.use_sliding_window.unwrap_or(false);
        let window = slides.then_some(self.sliding_window.unwrap_or(4096));
        let layers = layers.min(super::config::LAYERS_MAX + 1);
        let Some(types) = self.layer_types.as_ref().filter(|_| family != DecoderFamily::Llama)
        else {
            let first = self.max_window_layers.unwrap_or(28);
            return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
        };
        let windows = types.iter().map(|kind| match kind.as_str() {
            "full_attention" => Ok(None),
            "sliding_attention" if window.is_some() => Ok(window),
            other => Err(unsupported(other)),
        });
        windows.collect()
    }
}

// === impl Rotation ===

impl Rotation {
    fn scaling(&self, positions_max: usize) -> Result<RopeScaling, DecoderConfigError> {
        let unsupported =
            |field, value: &str, can| Err(DecoderConfigError::unsupported(field, value, can));
        if self.mrope_section.is_some() {
            return unsupported("mrope_section", "given", "one position per token");
        }
        if self.full_attention.is_some() || self.sliding_attention.is_some() {
            return unsupported("rope_parameters", "given per kind of layer", "one for all layers");
        }
        let kind = self.rope_type.as_ref().or(self.r#type.as_ref());
        let original = self.original_max_position_embeddings.unwrap_or(positions_max);
        Ok(match kind.map_or("default", String::as_str) {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear(needed("factor", self.factor)?),
            "llama3" => RopeScaling::Llama3 {
                factor: needed("factor", self.factor)?,
                low: needed("low_freq_factor", self.low_freq_factor)?,
                high: needed("high_freq_factor", self.high_freq_factor)?,
                original,
            },
            "yarn" if self.truncate == Some(false) => {
                return unsupported("truncate", "false", "true");
            }
            "yarn" => {
                let factor = self.factor.unwrap_or(positions_max as f64 / original as f64);
                let attention = self.attention_factor.unwrap_or_else(|| self.attention(factor));
                let fast = self.beta_fast.unwrap_or(YARN_BETAS.0);
                let slow = self.beta_slow.unwrap_or(YARN_BETAS.1);
                RopeScaling::Yarn { factor, original, fast, slow, attention }
            }
            other => return unsupported("rope_type", other, ROPE_TYPES),
        })
    }

    fn attention(&self, factor: f64) -> f64 {
        match (self.mscale, self.mscale_all_dim) {
            (Some(m), Some(all)) if m != 0.0 && all != 0.0 => {
                yarn_attention(factor, m) / yarn_attention(factor, all)
            }
            _ => yarn_attention(factor, 1.0),
        }
    }
}

fn needed(field: &str, value: Option<f64>) -> Result<f64, DecoderConfigError> {
    value.ok_or_else(|| {
        DecoderConfigError::Malformed(format!("the rotary scaling has no `{field}`"))
    })
}

// === impl Ends ===

impl IntoIterator for Ends {
    type Item = u32;
    type IntoIter = std::vec::IntoIter<u32>;

    fn into_iter(self) -> Self::IntoIter {
        match self {
            Self::One(token) => vec![token],
            Self::Many(tokens) => tokens,
        }
        .into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(fields: &Value) -> Result<DecoderConfig, DecoderConfigError> {
        DecoderConfig::from_json(&fields.to_string())
    }

    fn says(fields: &Value) -> String {
        read(fields).unwrap_err().to_string()
    }

    #[test]
    fn each_family_has_its_defaults() {
        let llama = read(&json!({"model_type": "llama"})).unwrap();
        assert_eq!(
            (llama.vocabulary, llama.mlp_width, llama.positions_max),
            (32_000, 11_008, 2048)
        );
        assert_eq!((llama.kv_heads, llama.head_dim), (32, 128));
        assert_eq!((llama.qkv_bias, llama.output_bias, llama.head_norms), (false, false, false));
        assert_eq!((llama.rope_theta, llama.ends), (10_000.0, vec![2]));
        let qwen2 = read(&json!({"architectures": ["Qwen2ForCausalLM"]})).unwrap();
        assert_eq!((qwen2.qkv_bias, qwen2.output_bias, qwen2.head_norms), (true, false, false));
        assert_eq!((qwen2.windows, qwen2.ends), (vec![None; 32], vec![]));
        let qwen3 = json!({"model_type": "qwen3", "hidden_size": 1024, "attention_bias": true});
        let qwen3 = read(&qwen3).unwrap();
        assert_eq!((qwen3.head_dim, qwen3.qkv_bias, qwen3.output_bias), (128, true, true));
        assert!(qwen3.head_norms && !qwen3.tied && !qwen3.mlp_bias);
    }

    #[test]
    fn the_rotation_is_read_where_it_was_and_where_it_is() {
        let old = json!({"model_type": "qwen3", "rope_theta": 1_000_000, "rope_scaling": {
            "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}});
        let new = json!({"model_type": "qwen3", "rope_parameters": {"rope_theta": 1e6,
            "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}});
        let (old, new) = (read(&old).unwrap(), read(&new).unwrap());
        assert_eq!(old, new);
        let RopeScaling::Yarn { fast, slow, attention, .. } = old.rope_scaling else { panic!() };
        assert_eq!((fast, slow, attention), (32.0, 1.0, 0.1 * 4_f64.ln() + 1.0));
        let llama = json!({"model_type": "llama", "rope_scaling": {"rope_type": "llama3",
            "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}});
        let expected = RopeScaling::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192 };
        assert_eq!(read(&llama).unwrap().rope_scaling, expected);
    }

    #[test]
    fn windows_follow_the_switch_and_the_layers() {
        let sliding = json!({"model_type": "qwen2", "num_hidden_layers": 3, "sliding_window": 16,
            "use_sliding_window": true, "max_window_layers": 2});
        assert_eq!(read(&sliding).unwrap().windows, [None, None, Some(16)]);
        let mut listed = sliding.clone();
        listed["layer_types"] = json!(["sliding_attention", "full_attention", "full_attention"]);
        assert_eq!(read(&listed).unwrap().windows, [Some(16), None, None]);
        listed["use_sliding_window"] = json!(false);
        assert!(says(&listed).contains("`layer_types` is sliding_attention"));
        let mut off = sliding;
        off["use_sliding_window"] = json!(false);
        assert_eq!(read(&off).unwrap().windows, [None; 3]);
    }

    #[test]
    fn end_of_sequence_tokens_come_from_both_files() {
        let mut config = read(&json!({"model_type": "qwen3", "eos_token_id": 9})).unwrap();
        config.add_generation(r#"{"eos_token_id": [9, 5], "temperature": 0.6}"#).unwrap();
        assert_eq!(config.ends, [5, 9]);
        assert!(config.add_generation(r#"{"eos_token_id": 999999999}"#).is_err());
    }

    #[test]
    fn unsupported_settings_are_named() {
        let says = |more: &Value| {
            let mut fields = json!({"model_type": "llama"});
            fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            says(&fields)
        };
        let other = says(&json!({"model_type": "mixtral"}));
        assert_eq!(
            other,
            "the model's configuration: `model_type` is mixtral, which is not supported \
             (llama, qwen2 and qwen3)",
        );
        let fields = [
            (json!({"architectures": ["LlamaForSequenceClassification"]}), "`architectures`"),
            (json!({"architectures": ["Qwen3ForCausalLM"]}), "`architectures`"),
            (json!({"hidden_act": "gelu"}), "`hidden_act` is gelu"),
            (json!({"quantization_config": {"quant_method": "gptq"}}), "is \"gptq\""),
            (json!({"num_local_experts": 8}), "`num_local_experts` is 8"),
            (json!({"partial_rotary_factor": 0.5}), "`partial_rotary_factor` is 0.5"),
            (json!({"rope_scaling": {"type": "dynamic", "factor": 2}}), "`rope_type` is dynamic"),
            (json!({"rope_scaling": {"type": "longrope"}}), "`rope_type` is longrope"),
            (json!({"rope_scaling": {"type": "default", "mrope_section": [1]}}), "mrope_section"),
            (json!({"rope_scaling": {"type": "linear"}}), "no `factor`"),
            (json!({"rope_scaling": {"type": "yarn", "truncate": false}}), "`truncate`"),
            (json!({"rope_parameters": {"full_attention": {}}}), "`rope_parameters`"),
            (json!({"num_attention_heads": 7}), "7 heads do not divide 4096"),
            (json!({"num_attention_heads": 0}), "0 heads do not divide 4096"),
            (json!({"hidden_size": "wide"}), "hidden_size: invalid type"),
            (json!({"num_hidden_layers": 4_000_000_000_u64}), "`num_hidden_layers`"),
        ];
        for (fields, expected) in &fields {
            let said = says(fields);
            assert!(said.contains(expected), "{said} does not say {expected}");
        }
    }
}
