//! A GGUF file: its metadata as a configuration, its tensors under Hugging Face's names.

use super::config::LAYERS_MAX;
use super::rope::yarn_attention;
use super::view::{TensorDtype, TensorLocation, TensorView};
use super::{
    CheckpointError, DecoderConfig, DecoderConfigError, EMBEDDING, LinearId, NormId, RopeScaling,
    tensors,
};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

/// The supported architectures, for errors.
const ARCHITECTURES: &str = "llama, qwen2 and qwen3";
/// Required alignment of tensors in bytes.
const ALIGNMENT: usize = 4;
/// The tensor of Llama 3's frequency factors.
const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The metadata of a file. Its keys are prefixed with the name of the architecture.
struct Metadata<'a> {
    architecture: &'a str,
    content: &'a Content,
}

/// The configuration of a mapped file, and the locations of its tensors.
pub(super) fn read(
    bytes: &[u8],
    path: &Path,
) -> Result<(DecoderConfig, HashMap<String, TensorLocation>), CheckpointError> {
    let unsound = |why: String| CheckpointError::Gguf { path: path.into(), why };
    let content = Content::read(&mut Cursor::new(bytes)).map_err(|why| unsound(why.to_string()))?;
    let metadata = Metadata::of(&content)?;
    let mut config = metadata.config()?;
    config.check()?;
    if content.tensor_infos.contains_key(ROPE_FACTORS) {
        let place = place(&content, ROPE_FACTORS, bytes.len()).map_err(unsound)?;
        let TensorLocation { format, dims, bytes: range, .. } = &place;
        let bytes = &bytes[range.clone()];
        let view =
            TensorView { name: ROPE_FACTORS, format: *format, dims, bytes, interleaved: None };
        config.rope_scaling = RopeScaling::Listed(view.read()?);
        config.check()?;
    }
    let interleaved = (metadata.architecture == "llama").then_some(config.head_dim);
    let mut places = HashMap::new();
    let names = names(&config);
    for (name, _) in tensors(&config) {
        let Some((stored, turned)) = names.get(&name) else { continue };
        if !content.tensor_infos.contains_key(stored) {
            return Err(CheckpointError::Missing(format!("{stored}` or `{name}")));
        }
        let place = place(&content, stored, bytes.len()).map_err(unsound)?;
        let interleaved = interleaved.filter(|_| *turned);
        places.insert(name, TensorLocation { interleaved, ..place });
    }
    Ok((config, places))
}

/// GGUF's name of each tensor, and whether RoPE applies to its heads.
fn names(config: &DecoderConfig) -> HashMap<String, (String, bool)> {
    let mut names = HashMap::from([
        (EMBEDDING.into(), ("token_embd.weight".into(), false)),
        (NormId::Last.name(), ("output_norm.weight".into(), false)),
        (LinearId::Unembed.name(), ("output.weight".into(), false)),
    ]);
    for layer in 0..config.layers {
        for matrix in LinearId::of_layer(layer) {
            let part = match matrix {
                LinearId::Query(_) => "attn_q",
                LinearId::Key(_) => "attn_k",
                LinearId::Value(_) => "attn_v",
                LinearId::Output(_) => "attn_output",
                LinearId::Gate(_) => "ffn_gate",
                LinearId::Up(_) => "ffn_up",
                LinearId::Down(_) => "ffn_down",
                LinearId::Unembed => continue,
            };
            let turned = matches!(matrix, LinearId::Query(_) | LinearId::Key(_));
            names.insert(matrix.name(), (format!("blk.{layer}.{part}.weight"), turned));
            if let Some(bias) = matrix.bias(config) {
                names.insert(bias, (format!("blk.{layer}.{part}.bias"), turned));
            }
        }
        for (norm, part) in [
            (NormId::Attention(layer), "attn_norm"),
            (NormId::Query(layer), "attn_q_norm"),
            (NormId::Key(layer), "attn_k_norm"),
            (NormId::Mlp(layer), "ffn_norm"),
        ] {
            names.insert(norm.name(), (format!("blk.{layer}.{part}.weight"), false));
        }
    }
    names
}

/// The location of a tensor in a file of `file` bytes.
fn place(content: &Content, name: &str, file: usize) -> Result<TensorLocation, String> {
    let info = &content.tensor_infos[name];
    let format = match info.ggml_dtype {
        GgmlDType::F32 => TensorDtype::F32,
        GgmlDType::F16 => TensorDtype::F16,
        GgmlDType::BF16 => TensorDtype::Bf16,
        kind => TensorDtype::Blocks(kind),
    };
    let dims = info.shape.dims().to_vec();
    let rows = dims.first().copied().unwrap_or(1);
    let columns = dims.iter().skip(1).try_fold(1_usize, |product, &dim| product.checked_mul(dim));
    let size = columns.and_then(|columns| format.bytes(rows, columns));
    let size = size.ok_or_else(|| format!("tensor `{name}` is not made of whole blocks"))?;
    let start = usize::try_from(content.tensor_data_offset.saturating_add(info.offset))
        .map_err(|_| format!("tensor `{name}` begins beyond all memory"))?;
    let end = start.checked_add(size).filter(|&end| end <= file);
    let end = end.ok_or_else(|| format!("tensor `{name}` ends beyond the file"))?;
    if !start.is_multiple_of(ALIGNMENT) {
        return Err(format!("tensor `{name}` does not begin at a multiple of {ALIGNMENT} bytes"));
    }
    Ok(TensorLocation { file: 0, bytes: start..end, dims, format, interleaved: None })
}

// === impl Metadata ===

impl<'a> Metadata<'a> {
    fn of(content: &'a Content) -> Result<Self, DecoderConfigError> {
        let field = "general.architecture";
        let architecture = match content.metadata.get(field) {
            Some(Value::String(name)) => name.as_str(),
            _ => "missing",
        };
        if !["llama", "qwen2", "qwen3"].contains(&architecture) {
            return Err(DecoderConfigError::unsupported(field, architecture, ARCHITECTURES));
        }
        Ok(Self { architecture, content })
    }

    fn config(&self) -> Result<DecoderConfig, DecoderConfigError> {
        self.refuse()?;
        let (width, heads) =
            (self.needed("embedding_length")?, self.needed("attention.head_count")?);
        let layers = self.needed("block_count")?;
        let positions_max = self.needed("context_length")?;
        let head_dim = match (self.size("attention.key_length")?, width.checked_rem(heads)) {
            (Some(given), _) => given,
            (None, Some(0)) => width / heads,
            (None, _) => {
                let why = format!("{heads} heads do not divide {width} numbers");
                return Err(DecoderConfigError::Malformed(why));
            }
        };
        let embedding = self.content.tensor_infos.get("token_embd.weight");
        let rows = embedding.and_then(|info| info.shape.dims().first().copied()).unwrap_or(0);
        let mut config = DecoderConfig {
            vocabulary: rows,
            width,
            layers,
            heads,
            kv_heads: self.size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            mlp_width: self.needed("feed_forward_length")?,
            norm_epsilon: self.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-6),
            head_norms: self.architecture == "qwen3",
            qkv_bias: self.has("blk.0.attn_q.bias"),
            output_bias: self.has("blk.0.attn_output.bias"),
            mlp_bias: self.has("blk.0.ffn_gate.bias"),
            tied: !self.has("output.weight"),
            rope_theta: self.number("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: self.scaling(positions_max)?,
            windows: vec![None; layers.min(LAYERS_MAX + 1)],
            positions_max,
            ends: Vec::new(),
        };
        let ends = ["eos", "eot", "eom"].map(|end| format!("tokenizer.ggml.{end}_token_id"));
        let ends = ends.iter().filter_map(|key| self.content.metadata.get(key)?.to_u64().ok());
        config.add_ends(ends.filter_map(|end| u32::try_from(end).ok()));
        Ok(config)
    }

    /// Refuses settings that this decoder does not implement.
    fn refuse(&self) -> Result<(), DecoderConfigError> {
        if let Some(experts) = self.size("expert_count")?.filter(|&experts| experts > 0) {
            return Err(DecoderConfigError::unsupported(
                "expert_count",
                experts.to_string(),
                "0: a dense MLP",
            ));
        }
        if let Some(window) = self.size("attention.sliding_window")?.filter(|&window| window > 0) {
            return Err(DecoderConfigError::unsupported(
                "attention.sliding_window",
                window.to_string(),
                "0",
            ));
        }
        Ok(())
    }

    fn scaling(&self, positions_max: usize) -> Result<RopeScaling, DecoderConfigError> {
        let kind = match self.value("rope.scaling.type") {
            Some(Value::String(kind)) => kind.as_str(),
            _ => "none",
        };
        let factor = || {
            let given = self.number("rope.scaling.factor")?;
            given.ok_or_else(|| {
                DecoderConfigError::Malformed("`rope.scaling.factor` is missing".into())
            })
        };
        Ok(match kind {
            "none" => RopeScaling::None,
            "linear" => RopeScaling::Linear(factor()?),
            "yarn" => {
                let factor = factor()?;
                let given = self.number("rope.scaling.attn_factor")?.unwrap_or(1.0);
                RopeScaling::Yarn {
                    factor,
                    original: self
                        .size("rope.scaling.original_context_length")?
                        .unwrap_or(positions_max),
                    fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                    slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                    attention: given * yarn_attention(factor, 1.0),
                }
            }
            other => {
                let supported = "none, linear and yarn";
                return Err(DecoderConfigError::unsupported("rope.scaling.type", other, supported));
            }
        })
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(&format!("{}.{key}", self.architecture))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, DecoderConfigError> {
        let malformed = || DecoderConfigError::Malformed(format!("`{key}` is not a size"));
        let size = |value: &Value| {
            let whole = match value {
                Value::I32(value) => u64::try_from(*value).ok(),
                Value::I64(value) => u64::try_from(*value).ok(),
                value => value.to_u64().ok(),
            };
            whole.and_then(|whole| usize::try_from(whole).ok()).ok_or_else(malformed)
        };
        self.value(key).map(size).transpose()
    }

    fn needed(&self, key: &str) -> Result<usize, DecoderConfigError> {
        let missing =
            || DecoderConfigError::Malformed(format!("`{}.{key}` is missing", self.architecture));
        self.size(key)?.ok_or_else(missing)
    }

    fn number(&self, key: &str) -> Result<Option<f64>, DecoderConfigError> {
        let number = |value: &Value| match value {
            Value::F32(value) => Ok(f64::from(*value)),
            Value::F64(value) => Ok(*value),
            _ => Err(DecoderConfigError::Malformed(format!("`{key}` is not a number"))),
        };
        self.value(key).map(number).transpose()
    }
}
