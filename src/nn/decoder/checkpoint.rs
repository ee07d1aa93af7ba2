//! A decoder's weights on disk: a Hugging Face folder or a GGUF file.
//!
//! Files are memory-mapped. Opening one reads its header only, and a matrix is packed row by row without a whole copy in
//! memory.

use super::view::{TensorDtype, TensorLocation};
use super::{CheckpointError, DecoderConfig, EMBEDDING, LinearId, TensorView, gguf, tensors};
use crate::regular_file::{self, Links};
use candle_core::quantized::{GgmlDType, QMatMul};
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Most bytes of a `config.json` or another JSON file.
const JSON_MAX: u64 = 64 << 20;
/// Most bytes of a file of weights. It is mapped, and not read as a whole.
const WEIGHTS_MAX: u64 = 1 << 40;
/// The weights of a folder with one file.
const SINGLE: &str = "model.safetensors";
/// The map from weights to files, in a folder with several.
const INDEX: &str = "model.safetensors.index.json";
/// The prefix of the names in a causal model. A body without its unembedding lacks it.
const PREFIX: &str = "model.";

/// A decoder's configuration and weights. Every tensor that the wiring needs exists and has the right dimensions.
#[derive(Debug)]
pub struct Checkpoint {
    config: DecoderConfig,
    files: Vec<Mmap>,
    places: HashMap<String, TensorLocation>,
}

// === impl Checkpoint ===

impl Checkpoint {
    /// Opens a folder with `config.json` and `*.safetensors`, a GGUF file, or a folder with one.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        let unclear =
            |found: &str| Err(CheckpointError::Unclear { path: path.into(), found: found.into() });
        if path.is_file() {
            return Self::open_gguf(path);
        }
        if path.join("config.json").is_file() {
            return Self::open_folder(path);
        }
        match files_ending(path, "gguf")?.as_slice() {
            [] => unclear("holds no model"),
            [file] => Self::open_gguf(file),
            [_, _, ..] => unclear("holds several GGUF files"),
        }
    }

    fn open_folder(dir: &Path) -> Result<Self, CheckpointError> {
        let mut config = DecoderConfig::from_json(&text(&dir.join("config.json"))?)?;
        let generation = dir.join("generation_config.json");
        if generation.is_file() {
            config.add_generation(&text(&generation)?)?;
        }
        let mut files = Vec::new();
        let mut places = HashMap::new();
        for path in weight_files(dir)? {
            let map = map(&path)?;
            place_tensors(&map, files.len(), &path, &mut places)?;
            files.push(map);
        }
        Self { config, files, places }.checked()
    }

    fn open_gguf(path: &Path) -> Result<Self, CheckpointError> {
        let map = map(path)?;
        let (config, places) = gguf::read(&map, path)?;
        let tokenizer = path.with_file_name("tokenizer.json");
        if !tokenizer.is_file() {
            return Err(CheckpointError::Tokenizer(tokenizer));
        }
        Self { config, files: vec![map], places }.checked()
    }

    /// Keeps the tensors that the wiring needs, and checks their dimensions.
    fn checked(mut self) -> Result<Self, CheckpointError> {
        let mut needed = HashMap::new();
        for (name, expected) in tensors(&self.config) {
            let bare = name.strip_prefix(PREFIX).unwrap_or(&name);
            let place = self.places.remove(&name).or_else(|| self.places.remove(bare));
            let Some(place) = place else { return Err(CheckpointError::Missing(name)) };
            if place.dims != expected {
                let found = place.dims;
                return Err(CheckpointError::Dimensions { name, found, expected });
            }
            needed.insert(name, place);
        }
        self.places = needed;
        Ok(self)
    }

    /// The model's configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Number of parameters.
    pub fn parameters(&self) -> usize {
        self.places.values().map(|place| place.dims.iter().product::<usize>()).sum()
    }

    /// Their bytes in the files.
    pub fn bytes(&self) -> usize {
        self.places.values().map(|place| place.bytes.len()).sum()
    }

    /// A tensor by its Hugging Face name, also from a GGUF file.
    ///
    /// A tied model has no unembedding of its own: use [`Checkpoint::matrix`].
    pub fn tensor(&self, name: &str) -> Result<TensorView<'_>, CheckpointError> {
        let missing = || CheckpointError::Missing(name.into());
        let (name, place) = self.places.get_key_value(name).ok_or_else(missing)?;
        let TensorLocation { file, bytes, dims, format, interleaved } = place;
        let bytes = &self.files[*file][bytes.clone()];
        Ok(TensorView { name, format: *format, dims, bytes, interleaved: *interleaved })
    }

    /// The weights of a matrix.
    pub fn matrix(&self, matrix: LinearId) -> Result<TensorView<'_>, CheckpointError> {
        match matrix {
            LinearId::Unembed if self.config.tied => self.tensor(EMBEDDING),
            matrix => self.tensor(&matrix.name()),
        }
    }

    /// A range of a matrix's rows for candle's quantised products: in `Q4_K` blocks, or in `Q8_0` blocks if its inputs
    /// are not whole `Q4_K` blocks. A matrix that a GGUF file stores in blocks keeps them.
    pub fn quantize_q4k(
        &self,
        matrix: LinearId,
        rows: Range<usize>,
    ) -> Result<QMatMul, CheckpointError> {
        let view = self.matrix(matrix)?;
        let whole = view.columns().is_multiple_of(GgmlDType::Q4K.block_size());
        view.quantize(rows, if whole { GgmlDType::Q4K } else { GgmlDType::Q8_0 })
    }

    /// All tensors as candle tensors, by name.
    pub fn to_tensors(
        &self,
        dtype: DType,
        device: &Device,
    ) -> Result<BTreeMap<String, Tensor>, CheckpointError> {
        let tensor = |name: &String| {
            let view = self.tensor(name)?;
            let tensor = Tensor::from_vec(view.read()?, view.dims(), device)?;
            Ok((name.clone(), tensor.to_dtype(dtype)?))
        };
        self.places.keys().map(tensor).collect()
    }
}

/// The files that hold a folder's weights.
fn weight_files(dir: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let unclear = |found: String| CheckpointError::Unclear { path: dir.into(), found };
    let index = dir.join(INDEX);
    if index.is_file() {
        let index: Index = serde_json::from_str(&text(&index)?)
            .map_err(|error| unclear(format!("holds a malformed {INDEX} ({error})")))?;
        let files: BTreeSet<String> = index.weight_map.into_values().collect();
        // A name with a path separator could point outside the model's folder.
        if let Some(odd) =
            files.iter().find(|&file| Path::new(file).file_name() != Some(file.as_ref()))
        {
            return Err(unclear(format!("holds an {INDEX} that names `{odd}`")));
        }
        return Ok(files.into_iter().map(|file| dir.join(file)).collect());
    }
    if dir.join(SINGLE).is_file() {
        return Ok(vec![dir.join(SINGLE)]);
    }
    let files = files_ending(dir, "safetensors")?;
    if files.is_empty() { Err(unclear("holds no *.safetensors".into())) } else { Ok(files) }
}

/// The files of a folder with an extension, sorted by name.
fn files_ending(dir: &Path, ending: &str) -> Result<Vec<PathBuf>, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: dir.into(), source };
    let entries = fs::read_dir(dir).map_err(failed)?;
    let paths = entries.map(|entry| Ok(entry.map_err(failed)?.path()));
    let mut paths = paths.collect::<Result<Vec<_>, CheckpointError>>()?;
    paths.retain(|path| path.extension().is_some_and(|found| found == ending) && path.is_file());
    paths.sort_unstable();
    Ok(paths)
}

fn text(path: &Path) -> Result<String, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: path.into(), source };
    regular_file::read_to_string(path, Links::Followed, JSON_MAX).map_err(failed)
}

#[expect(
    unsafe_code,
    reason = "a mapping is sound while the file does not change, and a checkpoint is never changed after it \
              was written: a new one gets a new folder"
)]
fn map(path: &Path) -> Result<Mmap, CheckpointError> {
    let failed = |source| CheckpointError::Read { path: path.into(), source };
    let file = regular_file::open(path, Links::Followed, WEIGHTS_MAX).map_err(failed)?;
    // SAFETY: the file is opened for reading, its bytes are only read, and they do not change (see above).
    unsafe { Mmap::map(&file) }.map_err(failed)
}

/// Adds the locations of a safetensors file's tensors.
fn place_tensors(
    map: &Mmap,
    file: usize,
    path: &Path,
    places: &mut HashMap<String, TensorLocation>,
) -> Result<(), CheckpointError> {
    let (header, metadata) = SafeTensors::read_metadata(map)
        .map_err(|source| CheckpointError::Safetensors { path: path.into(), source })?;
    // The file begins with the header's length in eight bytes.
    let data = header + size_of::<u64>();
    for (name, info) in metadata.tensors() {
        let format = match info.dtype {
            Dtype::F32 => TensorDtype::F32,
            Dtype::F16 => TensorDtype::F16,
            Dtype::BF16 => TensorDtype::Bf16,
            other => {
                return Err(CheckpointError::Type { name, found: format!("{other:?}") });
            }
        };
        let (start, end) = info.data_offsets;
        let (bytes, dims) = (data + start..data + end, info.shape.clone());
        let place = TensorLocation { file, bytes, dims, format, interleaved: None };
        if places.insert(name.clone(), place).is_some() {
            return Err(CheckpointError::Twice(name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::tiny;
    use super::*;
    use serde_json::json;
    use tempfile::TempDir;

    /// Tensors of zeros under their names.
    type Tensors = BTreeMap<String, Vec<usize>>;

    fn write(path: PathBuf, tensors: &Tensors, dtype: Dtype) {
        let bytes = vec![0; 4096];
        let views = tensors.iter().map(|(name, dims)| {
            let size = dims.iter().product::<usize>() * dtype.bitsize() / 8;
            let view = safetensors::tensor::TensorView::new(dtype, dims.clone(), &bytes[..size]);
            (name.clone(), view.unwrap())
        });
        fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// A folder with the configuration of [`tiny`], and the tensors that belong to it.
    fn folder() -> (TempDir, Tensors) {
        let dir = TempDir::new().unwrap();
        let fields = json!({"model_type": "llama", "vocab_size": 12, "hidden_size": 8,
            "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "intermediate_size": 6, "max_position_embeddings": 64, "tie_word_embeddings": true,
            "eos_token_id": null});
        fs::write(dir.path().join("config.json"), fields.to_string()).unwrap();
        (dir, tensors(&tiny()).into_iter().collect())
    }

    fn says(dir: &TempDir) -> String {
        Checkpoint::open(dir.path()).unwrap_err().to_string()
    }

    #[test]
    fn a_folder_opens_with_one_file_or_with_many() {
        let (dir, mut all) = folder();
        write(dir.path().join(SINGLE), &all, Dtype::BF16);
        let single = Checkpoint::open(dir.path()).unwrap();
        let numbers: usize = all.values().map(|dims| dims.iter().product::<usize>()).sum();
        assert_eq!((single.parameters(), single.bytes()), (numbers, 2 * numbers));
        assert_eq!(single.config().vocabulary, 12);
        let unembedding = single.matrix(LinearId::Unembed).unwrap();
        assert_eq!((unembedding.dims(), unembedding.format()), (&[12, 8][..], TensorDtype::Bf16));

        let rest = all.split_off("model.layers.1");
        let places = all.keys().map(|name| (name, "a.safetensors"));
        let places = places.chain(rest.keys().map(|name| (name, "b.safetensors")));
        let index = json!({"weight_map": places.collect::<BTreeMap<_, _>>()});
        write(dir.path().join("a.safetensors"), &all, Dtype::F32);
        write(dir.path().join("b.safetensors"), &rest, Dtype::F16);
        fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
        let sharded = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(sharded.tensor(EMBEDDING).unwrap().format(), TensorDtype::F32);
        assert_eq!(sharded.parameters(), numbers);
        fs::remove_file(dir.path().join(INDEX)).unwrap();
        fs::remove_file(dir.path().join(SINGLE)).unwrap();
        assert_eq!(Checkpoint::open(dir.path()).unwrap().parameters(), numbers);
        write(dir.path().join("c.safetensors"), &rest, Dtype::F16);
        assert!(says(&dir).ends_with("is there twice"));
    }

    #[test]
    fn the_body_alone_opens_under_its_bare_names() {
        let (dir, all) = folder();
        let bare = all.into_iter().map(|(name, dims)| (name.replace(PREFIX, ""), dims)).collect();
        write(dir.path().join(SINGLE), &bare, Dtype::F32);
        Checkpoint::open(dir.path()).unwrap().tensor(EMBEDDING).unwrap();
    }

    #[test]
    fn errors_name_the_tensor_or_file_at_fault() {
        let (dir, all) = folder();
        assert!(says(&dir).contains("holds no *.safetensors"));
        let file = dir.path().join(SINGLE);
        let mut torn = all.clone();
        torn.remove("model.norm.weight");
        write(file.clone(), &torn, Dtype::F32);
        assert_eq!(says(&dir), "tensor `model.norm.weight` is missing");
        torn.insert("model.norm.weight".into(), vec![9]);
        write(file.clone(), &torn, Dtype::F32);
        assert_eq!(says(&dir), "tensor `model.norm.weight` has dimensions [9], not [8]");
        write(file.clone(), &all, Dtype::F64);
        assert!(says(&dir).ends_with("is F64, not F32, F16 or BF16"));
        write(file.clone(), &all, Dtype::F32);
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(says(&dir).ends_with("is not a safetensors file"));
        let index = json!({"weight_map": {EMBEDDING: "../model.safetensors"}});
        fs::write(dir.path().join(INDEX), index.to_string()).unwrap();
        assert!(says(&dir).contains("names `../model.safetensors`"));
        assert!(says(&TempDir::new().unwrap()).contains("holds no model"));
        let odd = dir.path().join("odd.gguf");
        fs::write(&odd, "GGUF").unwrap();
        let odd = Checkpoint::open(&odd).unwrap_err().to_string();
        assert!(odd.contains("not a valid GGUF file"));
    }
}
