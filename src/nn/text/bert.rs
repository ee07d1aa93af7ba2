//! A BERT that encodes texts on the processor (Devlin et al. 2019; Reimers and Gurevych 2019 for the pooling).

use super::error::TextEncoderError;
use super::files::{WEIGHTS, floats, json};
use super::{EncodeTokens, to_unit_length};
use crate::regular_file::{self, DATA_BYTES_MAX, Links};
use candle_core::{DType, Device, Result as CandleResult, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config, HiddenAct, PositionEmbeddingType};
use rayon::prelude::*;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Tokens of a batch, padding included: few enough that its numbers stay in the processor's caches.
const BATCH_TOKENS_MAX: usize = 512;
/// The file of a bundle's BERT with its [`BertSettings`].
const SETTINGS: &str = "encoder.json";
/// The file of its shape.
const CONFIG: &str = "config.json";

/// How the tokens' vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    Cls,
}

/// How a BERT encodes texts, beside its weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BertSettings {
    /// The pooling.
    pub pooling: Pooling,
    /// Tokens that it reads, special ones included.
    pub tokens_max: usize,
    /// Whether texts are made lower case before their tokens are looked up.
    pub lowercase: bool,
    /// Written before an item's text.
    pub document_prefix: String,
    /// Written before a query.
    pub query_prefix: String,
}

/// A BERT and its settings.
pub struct Bert {
    model: BertModel,
    settings: BertSettings,
    width: usize,
    vocabulary: usize,
}

/// The shape of a BERT, by the names of transformers.
#[derive(Deserialize)]
struct BertShape {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    #[serde(default)]
    position_embedding_type: Option<String>,
}

// === impl BertShape ===

impl BertShape {
    fn config(&self, path: &Path) -> Result<Config, TextEncoderError> {
        let refused = |field: &'static str, found: &dyn ToString, expected: &str| {
            let (found, expected) = (found.to_string(), expected.to_owned());
            Err(TextEncoderError::Setting { path: path.into(), field, found, expected })
        };
        let hidden_act = match self.hidden_act.as_str() {
            "gelu" => HiddenAct::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" => HiddenAct::GeluApproximate,
            "relu" => HiddenAct::Relu,
            other => return refused("hidden_act", &other, "gelu, gelu_new or relu"),
        };
        let positions = self.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return refused("position_embedding_type", &positions, "absolute");
        }
        let (width, heads) = (self.hidden_size, self.num_attention_heads);
        if heads == 0 || width == 0 || !width.is_multiple_of(heads) {
            return refused("num_attention_heads", &heads, &format!("a divisor of {width}"));
        }
        Ok(Config {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act,
            hidden_dropout_prob: 0.0,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
            initializer_range: 0.0,
            layer_norm_eps: self.layer_norm_eps,
            pad_token_id: 0,
            position_embedding_type: PositionEmbeddingType::Absolute,
            use_cache: false,
            classifier_dropout: None,
            model_type: Some("bert".to_owned()),
        })
    }
}

// === impl Bert ===

impl Bert {
    /// Reads the BERT of a folder, with these settings.
    pub fn open(folder: &Path, settings: BertSettings) -> Result<Self, TextEncoderError> {
        let path = folder.join(CONFIG);
        let shape: BertShape = json(&path)?;
        let config = shape.config(&path)?;
        let tensors = tensors_of(&folder.join(WEIGHTS))?;
        let model =
            BertModel::load(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), &config)?;
        let (width, vocabulary) = (config.hidden_size, config.vocab_size);
        let tokens_max = settings.tokens_max.clamp(1, config.max_position_embeddings);
        let bert =
            Self { model, settings: BertSettings { tokens_max, ..settings }, width, vocabulary };
        // Sizes that do not fit together show now, and not when a text is encoded.
        bert.batch(&[&[0]])?;
        bert.batch(&[&vec![0; tokens_max]])?;
        Ok(bert)
    }

    /// Reads what [`Self::save`] wrote.
    pub fn load(folder: &Path) -> Result<Self, TextEncoderError> {
        let settings = json(&folder.join(SETTINGS))?;
        Self::open(folder, settings)
    }

    /// Copies the BERT of the folder `from`, from which this one was opened, and its settings into the folder `into`.
    pub fn save(&self, from: &Path, into: &Path) -> Result<(), TextEncoderError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| TextEncoderError::Read { path, source }
        };
        fs::create_dir_all(into).map_err(failed(into))?;
        for file in [CONFIG, WEIGHTS] {
            let bytes = regular_file::read(&from.join(file), Links::Followed, DATA_BYTES_MAX)
                .map_err(failed(&from.join(file)))?;
            fs::write(into.join(file), bytes).map_err(failed(&into.join(file)))?;
        }
        let text = serde_json::to_vec_pretty(&self.settings).expect("settings are plain values");
        fs::write(into.join(SETTINGS), text).map_err(failed(&into.join(SETTINGS)))
    }

    /// Its settings.
    pub fn settings(&self) -> &BertSettings {
        &self.settings
    }

    /// The unit vectors of some texts, padded to the longest of them: (texts, width).
    fn batch(&self, texts: &[&[u32]]) -> CandleResult<Vec<f32>> {
        let longest = texts.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let (mut ids, mut mask) = (Vec::new(), Vec::new());
        for tokens in texts {
            let padding = longest - tokens.len();
            ids.extend(tokens.iter().copied().chain(std::iter::repeat_n(0, padding)));
            mask.extend(tokens.iter().map(|_| 1.0_f32).chain(std::iter::repeat_n(0.0, padding)));
        }
        let shape = (texts.len(), longest);
        let ids = Tensor::from_vec(ids, shape, &Device::Cpu)?;
        let mask = Tensor::from_vec(mask, shape, &Device::Cpu)?;
        // A mask over texts of one length would change nothing, and cost an addition per layer.
        let padded = texts.iter().any(|tokens| tokens.len() < longest);
        let states = self.model.forward(&ids, &ids.zeros_like()?, padded.then_some(&mask))?;
        let pooled = match self.settings.pooling {
            Pooling::Cls => states.narrow(1, 0, 1)?.squeeze(1)?,
            // The length that the mean divides by is lost when the vector is scaled to length one.
            Pooling::Mean => states.broadcast_mul(&mask.unsqueeze(2)?)?.sum(1)?,
        };
        let mut vectors: Vec<f32> = pooled.flatten_all()?.to_vec1()?;
        vectors.chunks_exact_mut(self.width).for_each(to_unit_length);
        Ok(vectors)
    }
}

impl EncodeTokens for Bert {
    fn width(&self) -> usize {
        self.width
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn encode_all(&self, texts: &[Vec<u32>]) -> Vec<f32> {
        let known = |tokens: &Vec<u32>| -> Vec<u32> {
            let known = tokens.iter().copied().filter(|&token| (token as usize) < self.vocabulary);
            known.take(self.settings.tokens_max).collect()
        };
        let texts: Vec<Vec<u32>> = texts.iter().map(known).collect();
        let mut order: Vec<usize> = (0..texts.len()).filter(|&at| !texts[at].is_empty()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse(texts[at].len()));
        let encode = |batch: &&[usize]| {
            let texts: Vec<&[u32]> = batch.iter().map(|&at| texts[at].as_slice()).collect();
            self.batch(&texts).expect("the sizes were checked when the BERT was opened")
        };
        let batches = batches(&order, &texts);
        let vectors: Vec<Vec<f32>> = batches.par_iter().map(encode).collect();
        let mut out = vec![0.0; texts.len() * self.width];
        for (&at, vector) in batches
            .iter()
            .copied()
            .flatten()
            .zip(vectors.iter().flat_map(|of| of.chunks_exact(self.width)))
        {
            out[at * self.width..][..self.width].copy_from_slice(vector);
        }
        out
    }
}

impl std::fmt::Debug for Bert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bert").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Cuts texts, given by their numbers with the longest first, into batches of at most [`BATCH_TOKENS_MAX`] tokens.
fn batches<'a>(order: &'a [usize], texts: &[Vec<u32>]) -> Vec<&'a [usize]> {
    let mut batches = Vec::new();
    let mut rest = order;
    while let Some(&first) = rest.first() {
        let count = (BATCH_TOKENS_MAX / texts[first].len()).clamp(1, rest.len());
        let (batch, after) = rest.split_at(count);
        batches.push(batch);
        rest = after;
    }
    batches
}

/// The tensors of a file, in single precision. A number that is not finite is refused with its row.
fn tensors_of(path: &Path) -> Result<HashMap<String, Tensor>, TextEncoderError> {
    let bytes = regular_file::read(path, Links::Followed, DATA_BYTES_MAX)
        .map_err(|source| TextEncoderError::Read { path: path.into(), source })?;
    let wrong = |why: String| TextEncoderError::Tensors(format!("{}: {why}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
    let mut tensors = HashMap::new();
    for (name, view) in file.iter() {
        // Older files keep the numbers of the positions, which are no weights.
        let Ok(numbers) = floats(&view) else { continue };
        let width = view.shape().last().copied().unwrap_or(1).max(1);
        if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
            return Err(TextEncoderError::NotFinite(format!("row {} of `{name}`", at / width)));
        }
        tensors.insert(name.to_owned(), Tensor::from_vec(numbers, view.shape(), &Device::Cpu)?);
    }
    Ok(tensors)
}
