//! A decoder for training: initialised at random or read from a folder, its vocabulary grown, and written as a Hugging
//! Face folder.

use super::{
    Adapters, Checkpoint, CheckpointError, DecoderConfig, EMBEDDING, Exact, LinearId, Parameters,
    TokenBatch, config::VOCABULARY_MAX,
};
use candle_core::{D, DType, Device, Error, Result, Tensor};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use std::fs;
use std::path::Path;

/// The distance of a new token's row from the mean of the old ones, as a share of their standard deviation.
const NOISE: f32 = 0.02;
/// The tokenizer's files, each optional.
const TOKENIZER: [&str; 4] =
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"];

/// A decoder in the host's memory, and its adapters if it has any.
#[derive(Clone, Debug)]
pub struct TrainableDecoder {
    /// Its hyperparameters.
    pub config: DecoderConfig,
    /// Its weights.
    pub parameters: Parameters,
    /// Low-rank adapters.
    pub adapters: Option<Adapters>,
}

// === impl TrainableDecoder ===

impl TrainableDecoder {
    /// Reads a Hugging Face folder or a GGUF file in f32.
    pub fn open(path: &Path) -> std::result::Result<Self, CheckpointError> {
        Self::open_in(path, DType::F32)
    }

    /// The same with weights in another dtype, for a frozen decoder.
    pub fn open_in(path: &Path, dtype: DType) -> std::result::Result<Self, CheckpointError> {
        let checkpoint = Checkpoint::open(path)?;
        let parameters = Parameters::load(&checkpoint, dtype, &Device::Cpu)?;
        Ok(Self { config: checkpoint.config().clone(), parameters, adapters: None })
    }

    /// Initialises a decoder at random. The same seed gives the same weights on every machine.
    pub fn random(config: DecoderConfig, seed: u64) -> Result<Self> {
        config.check().map_err(Error::wrap)?;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let parameters = Parameters::random(&config, &mut random, &Device::Cpu)?;
        Ok(Self { config, parameters, adapters: None })
    }

    /// Kernels for a forward pass over a batch, in f32 or in bf16.
    pub fn exact(&self, batch: &TokenBatch, dtype: DType) -> Result<Exact<'_>> {
        let exact = Exact::new(&self.config, &self.parameters, batch, dtype)?;
        Ok(match &self.adapters {
            Some(adapters) => exact.with_adapters(adapters),
            None => exact,
        })
    }

    /// Grows the vocabulary. A new token's rows of the embedding and the unembedding start near the mean of the old
    /// ones: a row unlike them could get the largest logit everywhere (Hewitt 2021).
    pub fn grow(&mut self, vocabulary: usize, seed: u64) -> Result<()> {
        let old = self.config.vocabulary;
        if !(old..=VOCABULARY_MAX).contains(&vocabulary) {
            let bounds = format!("from {old} to {VOCABULARY_MAX}");
            return Err(Error::Msg(format!("`vocabulary` is {vocabulary}, not {bounds}")));
        }
        if self.adapters.is_some() {
            return Err(Error::Msg("a vocabulary grows before a model gets adapters".into()));
        }
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let unembedding = LinearId::Unembed.name();
        let tables = [Some(EMBEDDING), (!self.config.tied).then_some(&*unembedding)];
        for name in tables.into_iter().flatten() {
            let table = self.parameters.get(name)?.detach();
            let new = new_rows(&table, vocabulary - old, &mut random)?;
            let grown = Tensor::cat(&[&table, &new], 0)?;
            self.parameters.insert(name, grown);
        }
        self.config.vocabulary = vocabulary;
        Ok(())
    }

    /// The decoder with its adapters merged into the weights.
    pub fn merged(&self) -> Result<Self> {
        let parameters = match &self.adapters {
            Some(adapters) => adapters.merge(&self.parameters)?,
            None => self.parameters.clone(),
        };
        Ok(Self { config: self.config.clone(), parameters, adapters: None })
    }

    /// Writes a folder that `raisonne generate` and transformers load, with merged adapters and the tokenizer of
    /// `tokenizer_of`.
    pub fn save(&self, folder: &Path, tokenizer_of: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("config.json"), self.config.to_json().map_err(Error::wrap)?)?;
        self.merged()?.parameters.save(&folder.join("model.safetensors"))?;
        for file in TOKENIZER {
            let from = tokenizer_of.join(file);
            if from.is_file() {
                fs::copy(from, folder.join(file))?;
            }
        }
        Ok(())
    }
}

/// Random rows near the mean of a table's rows.
fn new_rows(table: &Tensor, count: usize, random: &mut ChaCha8Rng) -> Result<Tensor> {
    let mean = table.mean(0)?;
    let spread = table.broadcast_sub(&mean)?.sqr()?.mean_all()?.sqrt()?.to_scalar::<f32>()?;
    let drawn = Normal::new(0.0, NOISE * spread).map_err(Error::wrap)?;
    let width = table.dim(D::Minus1)?;
    let noise: Vec<f32> = drawn.sample_iter(random).take(count * width).collect();
    Tensor::from_vec(noise, (count, width), table.device())?.broadcast_add(&mean)
}

#[cfg(test)]
mod tests {
    use super::super::config::tests::tiny;
    use super::*;

    fn rows(model: &TrainableDecoder, name: &str) -> Vec<Vec<f32>> {
        model.parameters.get(name).unwrap().to_vec2().unwrap()
    }

    #[test]
    fn new_rows_are_near_the_mean_and_the_old_ones_stay() {
        for tied in [true, false] {
            let mut model = TrainableDecoder::random(DecoderConfig { tied, ..tiny() }, 3).unwrap();
            let names = if tied { vec![EMBEDDING] } else { vec![EMBEDDING, "lm_head.weight"] };
            let before: Vec<_> = names.iter().map(|name| rows(&model, name)).collect();
            let mut again = model.clone();
            model.grow(15, 8).unwrap();
            again.grow(15, 8).unwrap();
            assert_eq!(model.config.vocabulary, 15);
            for (name, old) in names.into_iter().zip(before) {
                let new = rows(&model, name);
                assert_eq!(new, rows(&again, name));
                assert_eq!((new.len(), &new[..12]), (15, &old[..]));
                assert_ne!(new[12], new[13]);
                for column in 0..8 {
                    let mean = old.iter().map(|row| row[column]).sum::<f32>() / 12.0;
                    assert!(new[12..].iter().all(|row| (row[column] - mean).abs() < 0.003));
                }
            }
            // The model still matches its configuration.
            let batch = TokenBatch::plain(&[[14, 12]]);
            let mut exact = model.exact(&batch, DType::F32).unwrap();
            super::super::forward(&model.config, &mut exact).unwrap();
        }
    }

    #[test]
    fn a_vocabulary_only_grows() {
        let mut model = TrainableDecoder::random(tiny(), 3).unwrap();
        let error = model.grow(11, 0).unwrap_err().to_string();
        assert_eq!(error, "`vocabulary` is 11, not from 12 to 1048576");
    }

    #[test]
    fn what_is_saved_opens_as_it_was() {
        let (home, from) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(from.path().join("tokenizer.json"), "{}").unwrap();
        let model =
            TrainableDecoder::random(DecoderConfig { head_norms: true, ..tiny() }, 4).unwrap();
        model.save(home.path(), from.path()).unwrap();
        assert!(home.path().join("tokenizer.json").is_file());
        let read = TrainableDecoder::open(home.path()).unwrap();
        assert_eq!(read.config, model.config);
        for (name, tensor) in model.parameters.iter() {
            let numbers = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(numbers(tensor), numbers(read.parameters.get(name).unwrap()), "{name}");
        }
    }
}
