//! A decoder's tensors by their Hugging Face names: constants or trained variables.

use super::{Checkpoint, CheckpointError, DecoderConfig, tensors};
use candle_core::{DType, Device, Error, Result, Tensor, Var};
use rand::Rng;
use rand_distr::{Distribution, Normal};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The standard deviation of initial weights, as in transformers.
const SPREAD: f32 = 0.02;

/// Named tensors. Trained ones are candle variables.
#[derive(Clone, Debug, Default)]
pub struct Parameters(BTreeMap<String, Tensor>);

// === impl Parameters ===

impl Parameters {
    /// The weights of a checkpoint, as constants.
    pub fn load(
        checkpoint: &Checkpoint,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, CheckpointError> {
        Ok(Self(checkpoint.to_tensors(dtype, device)?))
    }

    /// Initial weights as variables: norms of one, biases of zero, normally distributed matrices.
    pub fn random(config: &DecoderConfig, random: &mut impl Rng, device: &Device) -> Result<Self> {
        let drawn = Normal::new(0.0, SPREAD).expect("the spread is a positive number");
        let mut parameters = Self::default();
        for (name, dims) in tensors(config) {
            let tensor = match dims.len() {
                1 if name.ends_with("bias") => Tensor::zeros(dims, DType::F32, device)?,
                1 => Tensor::ones(dims, DType::F32, device)?,
                _ => {
                    let numbers = dims.iter().product();
                    let values: Vec<f32> = drawn.sample_iter(&mut *random).take(numbers).collect();
                    Tensor::from_vec(values, dims, device)?
                }
            };
            parameters.insert(&name, Var::from_tensor(&tensor)?.as_tensor().clone());
        }
        Ok(parameters)
    }

    /// Turns the tensors with a `chosen` name into variables.
    pub fn train(&mut self, chosen: impl Fn(&str) -> bool) -> Result<()> {
        for (name, tensor) in &mut self.0 {
            if chosen(name) {
                *tensor = Var::from_tensor(tensor)?.as_tensor().clone();
            }
        }
        Ok(())
    }

    /// Turns all tensors into constants.
    pub fn freeze(&mut self) {
        self.0.values_mut().for_each(|tensor| *tensor = tensor.detach());
    }

    /// Converts matrices to another dtype; norms and biases, which are small, stay.
    pub fn keep_in(&mut self, dtype: DType) -> Result<()> {
        for tensor in self.0.values_mut().filter(|tensor| tensor.rank() > 1) {
            *tensor = tensor.to_dtype(dtype)?;
        }
        Ok(())
    }

    /// Adds or replaces a tensor.
    pub fn insert(&mut self, name: &str, tensor: Tensor) {
        self.0.insert(name.into(), tensor);
    }

    /// A tensor by its name.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.0.get(name).ok_or_else(|| Error::Msg(format!("parameter `{name}` is missing")))
    }

    /// All names and tensors, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The trained variables, for an optimiser.
    pub fn variables(&self) -> Result<Vec<Var>> {
        self.0.values().filter(|tensor| tensor.is_variable()).map(Var::from_tensor).collect()
    }

    /// Writes all tensors as a safetensors file.
    pub fn save(&self, path: &Path) -> Result<()> {
        let tensors: HashMap<&str, Tensor> =
            self.iter().map(|(name, tensor)| (name, tensor.clone())).collect();
        candle_core::safetensors::save(&tensors, path)
    }
}
