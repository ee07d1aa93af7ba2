//! The network's named tensors, in memory and as safetensors.

use super::DinShape;
use candle_core::{Device, Tensor, Var};
use candle_nn::VarMap;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, Uniform};
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensorError, SafeTensors};
use std::collections::{BTreeMap, HashMap};

/// Standard deviation of an initial embedding.
const EMBEDDING_SPREAD: f32 = 0.05;

/// Named f32 tensors, row-major.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Weights(BTreeMap<String, Array>);

#[derive(Debug, Clone, PartialEq)]
struct Array {
    dims: Vec<usize>,
    values: Vec<f32>,
}

/// Why weights are refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The bytes are not safetensors.
    #[error("not a safetensors file")]
    Format(#[from] SafeTensorError),
    /// A tensor holds something other than 32-bit floats.
    #[error("tensor `{name}` is {found:?}, not F32")]
    Type {
        /// The tensor.
        name: String,
        /// Its dtype.
        found: Dtype,
    },
    /// A tensor that the network needs is missing.
    #[error("tensor `{0}` is missing")]
    Missing(String),
    /// A tensor's dimensions differ from the network's.
    #[error("tensor `{name}` has dimensions {found:?}, not {expected:?}")]
    Dimensions {
        /// The tensor.
        name: String,
        /// Its dimensions.
        found: Vec<usize>,
        /// The network's.
        expected: Vec<usize>,
    },
    /// A tensor holds a NaN or an infinity.
    #[error("tensor `{0}` has a value that is not finite")]
    NotFinite(String),
    /// The sizes of the network are inconsistent.
    #[error("{0}")]
    Shape(String),
    /// The training library refused.
    #[error("tensor library")]
    Candle(#[from] candle_core::Error),
}

impl Weights {
    /// Initial weights; the same seed gives the same weights on every machine.
    ///
    /// Embeddings are drawn from a normal distribution, and so are the vectors that stand in for a
    /// missing pattern or missing reasons. Layers are uniform within one over the root of their
    /// number of inputs. Norms start as the identity, and the weights of overlaps (`own`) as 0.
    pub fn random(shape: &DinShape, seed: u64) -> Result<Self, WeightsError> {
        shape.check().map_err(WeightsError::Shape)?;
        Ok(Self::drawn(&shape.tensors(), seed))
    }

    /// Zeros: weights whose logits are 0.
    pub fn zeros(shape: &DinShape) -> Result<Self, WeightsError> {
        shape.check().map_err(WeightsError::Shape)?;
        let mut weights = Self::default();
        for (name, dims) in shape.tensors() {
            weights.insert(&name, &dims, vec![0.0; dims.iter().product()]);
        }
        Ok(weights)
    }

    /// The same as [`Self::random`] for tensors of these names and dimensions.
    pub(super) fn drawn(tensors: &[(String, Vec<usize>)], seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut weights = Self::default();
        let mut inputs = 1;
        for (name, dims) in tensors {
            let count = dims.iter().product();
            // A bias follows its matrix, and is drawn with that matrix's inputs.
            if dims.len() == 2 {
                inputs = dims[1];
            }
            let values = match name.rsplit_once('.').unwrap_or(("", name)) {
                ("item_id" | "age" | "kind", _) | ("", "no_pattern" | "no_reasons") => {
                    let normal = Normal::new(0.0, EMBEDDING_SPREAD)
                        .expect("the spread of an embedding is a positive constant");
                    normal.sample_iter(&mut rng).take(count).collect()
                }
                ("", "own") => vec![0.0; count],
                (layer, part) if layer.contains("norm") => {
                    vec![if part == "weight" { 1.0 } else { 0.0 }; count]
                }
                _ => {
                    let bound = (inputs as f32).sqrt().recip();
                    let uniform = Uniform::new(-bound, bound)
                        .expect("the bound of a layer's weights is positive");
                    uniform.sample_iter(&mut rng).take(count).collect()
                }
            };
            weights.insert(name, dims, values);
        }
        weights
    }

    /// Reads safetensors.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WeightsError> {
        let mut weights = Self::default();
        for (name, view) in SafeTensors::deserialize(bytes)?.iter() {
            if view.dtype() != Dtype::F32 {
                return Err(WeightsError::Type { name: name.into(), found: view.dtype() });
            }
            let (values, _) = view.data().as_chunks();
            let values = values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            weights.insert(name, view.shape(), values);
        }
        Ok(weights)
    }

    /// Writes safetensors; equal weights give equal bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, WeightsError> {
        let bytes: Vec<Vec<u8>> = self
            .0
            .values()
            .map(|array| array.values.iter().flat_map(|value| value.to_le_bytes()).collect())
            .collect();
        let views = self.0.iter().zip(&bytes).map(|((name, array), bytes)| {
            Ok((name, TensorView::new(Dtype::F32, array.dims.clone(), bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, SafeTensorError>>()?;
        Ok(safetensors::serialize(views, None)?)
    }

    /// Copies trained variables.
    pub fn from_varmap(vars: &VarMap) -> Result<Self, WeightsError> {
        let mut weights = Self::default();
        let vars = vars.data().lock().expect("no holder of the variables panics");
        for (name, var) in vars.iter() {
            let values = var.flatten_all()?.to_vec1()?;
            weights.insert(name, var.dims(), values);
        }
        Ok(weights)
    }

    /// The tensors as trainable variables.
    pub fn to_varmap(&self, device: &Device) -> Result<VarMap, WeightsError> {
        let vars = VarMap::new();
        {
            let mut data = vars.data().lock().expect("no holder of the variables panics");
            for (name, array) in &self.0 {
                let tensor = Tensor::from_slice(&array.values, array.dims.as_slice(), device)?;
                data.insert(name.clone(), Var::from_tensor(&tensor)?);
            }
        }
        Ok(vars)
    }

    /// The tensors as constants.
    pub fn to_tensors(&self, device: &Device) -> Result<HashMap<String, Tensor>, WeightsError> {
        let tensor = |array: &Array| Tensor::from_slice(&array.values, &*array.dims, device);
        self.0.iter().map(|(name, array)| Ok((name.clone(), tensor(array)?))).collect()
    }

    /// Adds or replaces a tensor of the product of `dims` values.
    pub fn insert(&mut self, name: &str, dims: &[usize], values: Vec<f32>) {
        assert_eq!(values.len(), dims.iter().product::<usize>(), "`{name}` must fill {dims:?}");
        self.0.insert(name.into(), Array { dims: dims.into(), values });
    }

    /// Adds or replaces the tensors of `part`, under names that begin with `prefix` and a dot.
    pub fn insert_all(&mut self, prefix: &str, part: &Self) {
        let named = |(name, array): (&String, &Array)| (format!("{prefix}.{name}"), array.clone());
        self.0.extend(part.0.iter().map(named));
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The values of a tensor, if it exists.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.0.get(name).map(|array| array.values.as_slice())
    }

    /// The dimensions of a tensor, if it exists.
    pub fn dims(&self, name: &str) -> Option<&[usize]> {
        self.0.get(name).map(|array| array.dims.as_slice())
    }

    /// Checks that the tensors are those of a network of this shape, and finite.
    pub fn check(&self, shape: &DinShape) -> Result<(), WeightsError> {
        shape.check().map_err(WeightsError::Shape)?;
        self.check_tensors(shape.tensors())
    }

    /// Checks that these tensors exist, and are finite.
    pub(super) fn check_tensors(
        &self,
        tensors: impl IntoIterator<Item = (String, Vec<usize>)>,
    ) -> Result<(), WeightsError> {
        for (name, expected) in tensors {
            let Some(array) = self.0.get(&name) else { return Err(WeightsError::Missing(name)) };
            if array.dims != expected {
                return Err(WeightsError::Dimensions { name, found: array.dims.clone(), expected });
            }
            if !array.values.iter().all(|value| value.is_finite()) {
                return Err(WeightsError::NotFinite(name));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> DinShape {
        DinShape { items: 3, width: 8, text: 4, heads: 2, layers: 1, ffn: 8, ..DinShape::default() }
    }

    #[test]
    fn the_seed_decides_the_weights_and_their_bytes() {
        let bytes = |seed| Weights::random(&small(), seed).unwrap().to_bytes().unwrap();
        assert_eq!(bytes(7), bytes(7));
        assert_ne!(bytes(7), bytes(8));
    }

    #[test]
    fn weights_survive_the_file_and_the_variables() {
        let weights = Weights::random(&small(), 7).unwrap();
        assert_eq!(Weights::from_bytes(&weights.to_bytes().unwrap()).unwrap(), weights);
        let vars = weights.to_varmap(&Device::Cpu).unwrap();
        assert_eq!(Weights::from_varmap(&vars).unwrap(), weights);
        weights.check(&small()).unwrap();
    }

    #[test]
    fn a_wrong_tensor_is_named() {
        let says = |weights: &Weights| weights.check(&small()).unwrap_err().to_string();
        let whole = Weights::random(&small(), 7).unwrap();
        let mut torn = whole.clone();
        torn.insert("own", &[1], vec![0.0]);
        assert_eq!(says(&torn), "tensor `own` has dimensions [1], not [2]");
        torn.insert("own", &[2], vec![0.0, f32::NAN]);
        assert_eq!(says(&torn), "tensor `own` has a value that is not finite");
        torn.0.remove("own");
        assert_eq!(says(&torn), "tensor `own` is missing");
        let bytes = whole.to_bytes().unwrap();
        assert!(Weights::from_bytes(&bytes[..bytes.len() - 1]).is_err());
    }
}
