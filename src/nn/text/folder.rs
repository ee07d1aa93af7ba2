//! Reads folders of pretrained encoders: static tables in the layouts of three libraries, and BERTs.

use super::bert::{BertSettings, Pooling};
use super::error::TextEncoderError;
use super::files::{WEIGHTS, floats, json, read};
use super::table::TokenTable;
use crate::regular_file::DATA_BYTES_MAX;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The tokenizer of a folder.
const TOKENIZER: &str = "tokenizer.json";
/// The folder of sentence-transformers' static module within a model's.
const STATIC_MODULE: &str = "0_StaticEmbedding";
/// The list of sentence-transformers' modules.
const MODULES: &str = "modules.json";
/// Tokens of a BERT whose folder does not say how many it reads.
const BERT_TOKENS: usize = 512;
/// Endings of files that are pickles.
const PICKLES: [&str; 5] = ["bin", "pt", "pth", "pkl", "ckpt"];

/// A static table as it was read from a folder.
#[derive(Debug)]
pub struct StaticFolder {
    /// The table, (tokens, width), in single precision.
    pub table: TokenTable,
    /// Its tokenizer.
    pub tokenizer: PathBuf,
    /// Whether unknown tokens count for nothing, as Model2Vec has it.
    pub drops_unknown: bool,
}

/// A BERT's folder whose settings were read.
#[derive(Debug)]
pub struct BertFolder {
    /// The folder.
    pub folder: PathBuf,
    /// How it encodes.
    pub settings: BertSettings,
    /// Its tokenizer.
    pub tokenizer: PathBuf,
}

/// Reads a folder with a static table.
///
/// WordLlama's has one table, Model2Vec's `embeddings` with optional `weights` and `mapping`, and sentence-transformers'
/// an `embedding.weight`, in the folder or in `0_StaticEmbedding`.
pub fn static_table(folder: &Path) -> Result<StaticFolder, TextEncoderError> {
    let module = folder.join(STATIC_MODULE);
    let home = if module.join(WEIGHTS).exists() { module } else { folder.to_owned() };
    let path = weights_in(&home)?;
    let bytes = read(&path, DATA_BYTES_MAX)?;
    let wrong = |why: String| TextEncoderError::Tensors(format!("{}: {why}", path.display()));
    let file = SafeTensors::deserialize(&bytes).map_err(|error| wrong(error.to_string()))?;
    let (name, view) = table_of(&file).map_err(&wrong)?;
    let width = view.shape()[1];
    let mut rows = floats(&view).map_err(&wrong)?;
    let tensor = |name: &str| file.tensor(name).ok();
    if let Some(mapping) = tensor("mapping") {
        rows = mapped(&rows, width, &mapping).map_err(&wrong)?;
    }
    if let Some(weights) = tensor("weights") {
        let weights = floats(&weights).map_err(&wrong)?;
        let tokens = rows.len() / width.max(1);
        if weights.len() != tokens {
            return Err(wrong(format!(
                "`weights` has {} numbers for {tokens} tokens",
                weights.len()
            )));
        }
        for (row, weight) in rows.chunks_exact_mut(width).zip(weights) {
            for value in row {
                *value *= weight;
            }
        }
    }
    let drops_unknown = name == "embeddings";
    Ok(StaticFolder {
        table: TokenTable::new(rows, width)?,
        tokenizer: file_in(&home, TOKENIZER)?,
        drops_unknown,
    })
}

/// Reads the settings of a folder with a BERT, as sentence-transformers lays it out, or as transformers does.
pub fn bert_folder(folder: &Path) -> Result<BertFolder, TextEncoderError> {
    let path = file_in(folder, "config.json")?;
    let config: BertFamily = json(&path)?;
    let family = config.model_type.unwrap_or_else(|| "missing".to_owned());
    if family != "bert" {
        return Err(TextEncoderError::Family { path, found: family });
    }
    weights_in(folder)?;
    let prompts: Prompts = json_or_default(&folder.join("config_sentence_transformers.json"))?;
    let lengths: Lengths = json_or_default(&folder.join("sentence_bert_config.json"))?;
    let tokenizer: TokenizerLengths = json_or_default(&folder.join("tokenizer_config.json"))?;
    let positions = config.max_position_embeddings.unwrap_or(BERT_TOKENS);
    let most = lengths.max_seq_length.or(tokenizer.tokens_max());
    let settings = BertSettings {
        pooling: pooling_of(folder)?,
        tokens_max: most.unwrap_or(positions).min(positions),
        lowercase: lengths.do_lower_case,
        document_prefix: prompts.first_of(&["document", "passage", "corpus"]),
        query_prefix: prompts.first_of(&["query"]),
    };
    Ok(BertFolder { settings, tokenizer: file_in(folder, TOKENIZER)?, folder: folder.to_owned() })
}

#[derive(Deserialize)]
struct BertFamily {
    model_type: Option<String>,
    max_position_embeddings: Option<usize>,
}

#[derive(Default, Deserialize)]
struct Lengths {
    max_seq_length: Option<usize>,
    #[serde(default)]
    do_lower_case: bool,
}

/// Where sentence-transformers writes the length since its version 6.
#[derive(Default, Deserialize)]
struct TokenizerLengths {
    /// A float, because 1e30 stands for no bound.
    model_max_length: Option<f64>,
}

#[derive(Default, Deserialize)]
struct Prompts {
    #[serde(default)]
    prompts: BTreeMap<String, Option<String>>,
    default_prompt_name: Option<String>,
}

// === impl TokenizerLengths ===

impl TokenizerLengths {
    /// The tokens of a text, at most.
    fn tokens_max(&self) -> Option<usize> {
        self.model_max_length.filter(|most| *most >= 1.0).map(|most| most as usize)
    }
}

// === impl Prompts ===

impl Prompts {
    /// The prompt by the first of these names that is there, or else the default one.
    fn first_of(&self, names: &[&str]) -> String {
        let named = |name: &str| self.prompts.get(name).cloned().flatten();
        let first = names.iter().find_map(|name| named(name).filter(|prompt| !prompt.is_empty()));
        let default = || self.default_prompt_name.as_deref().and_then(named);
        first.or_else(default).unwrap_or_default()
    }
}

#[derive(Deserialize)]
struct ModuleEntry {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The pooling of sentence-transformers' modules. Without them it is the mean, as sentence-transformers has it.
fn pooling_of(folder: &Path) -> Result<Pooling, TextEncoderError> {
    let path = folder.join(MODULES);
    let modules: Vec<ModuleEntry> = json_or_default(&path)?;
    let mut pooling = Pooling::Mean;
    for module in modules {
        match module.kind.rsplit('.').next().unwrap_or_default() {
            // A text's vector is scaled to length one in any case.
            "Transformer" | "Normalize" => {}
            "Pooling" => pooling = pooling_in(&folder.join(module.path).join("config.json"))?,
            _ => {
                let expected = "Transformer, Pooling or Normalize".to_owned();
                return Err(TextEncoderError::Setting {
                    path,
                    field: "type",
                    found: module.kind,
                    expected,
                });
            }
        }
    }
    Ok(pooling)
}

fn pooling_in(path: &Path) -> Result<Pooling, TextEncoderError> {
    let config: serde_json::Map<String, serde_json::Value> = json(path)?;
    let newer = config.get("pooling_mode").map(|mode| match mode.as_str() {
        Some(mode) => mode.to_owned(),
        None => mode.to_string(),
    });
    let older = || {
        let chosen = config.iter().filter(|(key, value)| {
            key.starts_with("pooling_mode_") && value.as_bool() == Some(true)
        });
        let names: Vec<&str> = chosen.map(|(key, _)| &key["pooling_mode_".len()..]).collect();
        names.join(" and ")
    };
    let found = newer.unwrap_or_else(older);
    match found.as_str() {
        "mean" | "mean_tokens" => Ok(Pooling::Mean),
        "cls" | "cls_token" => Ok(Pooling::Cls),
        _ => Err(TextEncoderError::Setting {
            path: path.into(),
            field: "pooling_mode",
            found: if found.is_empty() { "missing".to_owned() } else { found },
            expected: "mean or cls".to_owned(),
        }),
    }
}

/// The weights of a folder. One that has them only as a pickle is refused: a pickle can run code.
fn weights_in(folder: &Path) -> Result<PathBuf, TextEncoderError> {
    let path = folder.join(WEIGHTS);
    if path.is_file() {
        return Ok(path);
    }
    let entries = fs::read_dir(folder)
        .map_err(|source| TextEncoderError::Read { path: folder.into(), source })?;
    let names = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let is_pickle = |path: &PathBuf| {
        path.extension().is_some_and(|end| PICKLES.iter().any(|pickle| end == *pickle))
    };
    let folder = folder.to_owned();
    match names.filter(is_pickle).min() {
        Some(pickle) => {
            let file = pickle.file_name().unwrap_or_default().to_string_lossy().into_owned();
            Err(TextEncoderError::Pickle { folder, file })
        }
        None => Err(TextEncoderError::Missing { folder, expected: WEIGHTS }),
    }
}

fn file_in(folder: &Path, name: &'static str) -> Result<PathBuf, TextEncoderError> {
    let path = folder.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(TextEncoderError::Missing { folder: folder.to_owned(), expected: name })
}

/// The table among a file's tensors: by its name, or the only one of two dimensions.
fn table_of<'a>(file: &SafeTensors<'a>) -> Result<(String, TensorView<'a>), String> {
    let tables = || file.iter().filter(|(_, view)| view.shape().len() == 2);
    let named = ["embeddings", "embedding.weight"]
        .into_iter()
        .find_map(|name| tables().find(|(found, _)| *found == name));
    let count = tables().count();
    let (name, _) = match (named, count) {
        (Some(table), _) => table,
        (None, 1) => tables().next().expect("one table was counted"),
        _ => {
            return Err(format!(
                "it has {count} tables and none is `embeddings` or `embedding.weight`"
            ));
        }
    };
    Ok((name.to_owned(), file.tensor(name).map_err(|error| error.to_string())?))
}

/// The rows that a mapping of tokens names.
fn mapped(rows: &[f32], width: usize, mapping: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let (numbers, _) = mapping.data().as_chunks::<8>();
    if mapping.dtype() != Dtype::I64 {
        return Err(format!("`mapping` is {:?}, not I64", mapping.dtype()));
    }
    let mut out = Vec::with_capacity(numbers.len() * width);
    for (token, number) in numbers.iter().enumerate() {
        let number = i64::from_le_bytes(*number);
        let row =
            usize::try_from(number).ok().and_then(|row| rows.get(row * width..)?.get(..width));
        match row {
            Some(row) => out.extend_from_slice(row),
            None => return Err(format!("`mapping` leads token {token} to row {number}")),
        }
    }
    Ok(out)
}

fn json_or_default<T: DeserializeOwned + Default>(path: &Path) -> Result<T, TextEncoderError> {
    match json(path) {
        Err(TextEncoderError::Read { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(T::default())
        }
        read => read,
    }
}
