//! Residual quantisation of text vectors: a vector becomes a few codes, from coarse to fine.
//!
//! The RQ-VAE of TIGER (Rajput et al. 2023), trained as in GR2 (section 2.3). With a text vector
//! `x` (text), the latent `h` (width), and a codebook (codes, width) per level:
//!
//! ```text
//! h = encoder(x)                                       two layers, ReLU between them
//! r_1 = h,  z_k = argmin_j |r_k − e_k,j|²,  r_k+1 = r_k − e_k,z_k
//! x̂ = decoder(Σ_k e_k,z_k)                             two layers, ReLU between them
//! ```
//!
//! The codes `z_1 … z_K` are the first codes of an item's semantic id. Items with similar texts may share them; the last
//! code, which tells them apart, is assigned elsewhere.
//!
//! Encoding is plain loops, so that a text's codes depend neither on the batch nor on the number of threads.

mod codebook;
mod config;
mod contrast;
mod fit;
mod level;
mod network;

pub use config::{RqVaeConfig, Techniques};
pub use fit::{Losses, RqVaeProgress, fit};

use super::{Weights, WeightsError};
use crate::regular_file::{self, DATA_BYTES_MAX, Links};
use codebook::Codebook;
use std::path::Path;

/// The table of codebooks in the file: (levels, codes, width).
const CODEBOOKS: &str = "codebooks";
/// Most learnt levels; published ids have three or four in all.
pub const LEVELS_MAX: usize = 16;
/// Most codes of a level: a code is 16 bits.
pub const CODES_MAX: usize = 1 << 16;

/// A trained quantiser.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantizer {
    encoder: Mlp,
    decoder: Mlp,
    codebooks: Vec<Codebook>,
}

/// Two layers with a ReLU between them.
#[derive(Clone, Debug, PartialEq)]
struct Mlp([RqVaeLinear; 2]);

/// A layer.
#[derive(Clone, Debug, PartialEq)]
struct RqVaeLinear {
    /// (outputs, inputs)
    weight: Vec<f32>,
    /// (outputs)
    bias: Vec<f32>,
}

/// Why a quantiser cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum QuantizerError {
    /// Reading or writing failed.
    #[error("can't use the quantiser's file")]
    Io(#[from] std::io::Error),
    /// The tensors are not those of a quantiser.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A tensor's size is inconsistent with the others'.
    #[error("tensor `{name}` has dimensions {found:?}, which do not fit the layers beside it")]
    Misfit {
        /// The table.
        name: String,
        /// Its dimensions.
        found: Vec<usize>,
    },
}

// === impl Quantizer ===

impl Quantizer {
    /// Width of the text vectors that it reads.
    pub fn text_width(&self) -> usize {
        self.decoder.0[1].bias.len()
    }

    /// Levels: codes of a vector.
    pub fn levels(&self) -> usize {
        self.codebooks.len()
    }

    /// Codes of a level.
    pub fn codes(&self) -> usize {
        self.codebooks.first().map_or(0, Codebook::len)
    }

    /// The codes of a text vector, from coarse to fine.
    pub fn encode(&self, vector: &[f32]) -> Vec<u16> {
        let mut residual = self.encoder.forward(vector);
        let level = |codebook: &Codebook| {
            let (code, _) = codebook.nearest(&residual);
            codebook.subtract(code, &mut residual);
            code as u16
        };
        self.codebooks.iter().map(level).collect()
    }

    /// The text vector that codes decode to. Fewer codes than levels give a coarser one.
    pub fn decode(&self, codes: &[u16]) -> Vec<f32> {
        let mut sum = vec![0.0; self.encoder.0[1].bias.len()];
        for (codebook, &code) in self.codebooks.iter().zip(codes) {
            for (sum, value) in sum.iter_mut().zip(codebook.row(usize::from(code))) {
                *sum += value;
            }
        }
        self.decoder.forward(&sum)
    }

    /// Writes it as safetensors.
    pub fn save(&self, path: &Path) -> Result<(), QuantizerError> {
        let mut weights = Weights::default();
        for (name, mlp) in [("encoder", &self.encoder), ("decoder", &self.decoder)] {
            for (layer, dense) in mlp.0.iter().enumerate() {
                let (outputs, inputs) = (dense.bias.len(), dense.weight.len() / dense.bias.len());
                let name = tensor(name, layer, "weight");
                weights.insert(&name, &[outputs, inputs], dense.weight.clone());
                weights.insert(&name.replace("weight", "bias"), &[outputs], dense.bias.clone());
            }
        }
        let dims = [self.levels(), self.codes(), self.encoder.0[1].bias.len()];
        let codebooks = self.codebooks.iter().flat_map(Codebook::values).copied().collect();
        weights.insert(CODEBOOKS, &dims, codebooks);
        Ok(std::fs::write(path, weights.to_bytes()?)?)
    }

    /// Reads a file of [`Quantizer::save`].
    pub fn load(path: &Path) -> Result<Self, QuantizerError> {
        let weights =
            Weights::from_bytes(&regular_file::read(path, Links::Followed, DATA_BYTES_MAX)?)?;
        let (encoder, decoder) = (Mlp::read(&weights, "encoder")?, Mlp::read(&weights, "decoder")?);
        let (values, dims) = table(&weights, CODEBOOKS)?;
        let misfit = |name: &str, found: &[usize]| QuantizerError::Misfit {
            name: name.to_owned(),
            found: found.to_vec(),
        };
        let width = encoder.outputs();
        if dims.len() != 3 || dims[2] != width || !(1..=CODES_MAX).contains(&dims[1]) {
            return Err(misfit(CODEBOOKS, dims));
        }
        if decoder.inputs() != width || decoder.outputs() != encoder.inputs() {
            return Err(misfit("decoder", &[decoder.outputs(), decoder.inputs()]));
        }
        let codebooks = values.chunks(dims[1] * width);
        let codebooks = codebooks.map(|values| Codebook::new(values.to_vec(), width)).collect();
        Ok(Self { encoder, decoder, codebooks })
    }
}

/// The name of a layer's tensor, numbered as in PyTorch's `Sequential` with a ReLU between layers.
fn tensor(mlp: &str, layer: usize, part: &str) -> String {
    format!("{mlp}.{}.{part}", 2 * layer)
}

/// A tensor's values and dimensions.
fn table<'a>(weights: &'a Weights, name: &str) -> Result<(&'a [f32], &'a [usize]), WeightsError> {
    let missing = || WeightsError::Missing(name.to_owned());
    let values = weights.get(name).ok_or_else(missing)?;
    if !values.iter().all(|value| value.is_finite()) {
        return Err(WeightsError::NotFinite(name.to_owned()));
    }
    Ok((values, weights.dims(name).ok_or_else(missing)?))
}

// === impl Mlp ===

impl Mlp {
    fn inputs(&self) -> usize {
        self.0[0].weight.len() / self.0[0].bias.len()
    }

    fn outputs(&self) -> usize {
        self.0[1].bias.len()
    }

    /// (inputs) → (outputs)
    fn forward(&self, xs: &[f32]) -> Vec<f32> {
        let mut hidden = self.0[0].forward(xs);
        for value in &mut hidden {
            *value = value.max(0.0);
        }
        self.0[1].forward(&hidden)
    }

    fn read(weights: &Weights, name: &str) -> Result<Self, QuantizerError> {
        let dense = |layer| -> Result<RqVaeLinear, QuantizerError> {
            let (weight, dims) = table(weights, &tensor(name, layer, "weight"))?;
            let (bias, outputs) = table(weights, &tensor(name, layer, "bias"))?;
            if dims.len() != 2 || outputs != [dims[0]] || dims.contains(&0) {
                let name = tensor(name, layer, "weight");
                return Err(QuantizerError::Misfit { name, found: dims.to_vec() });
            }
            Ok(RqVaeLinear { weight: weight.to_vec(), bias: bias.to_vec() })
        };
        let mlp = Self([dense(0)?, dense(1)?]);
        if mlp.0[1].weight.len() != mlp.0[0].bias.len() * mlp.outputs() {
            let (name, found) = (tensor(name, 1, "weight"), vec![mlp.0[1].weight.len()]);
            return Err(QuantizerError::Misfit { name, found });
        }
        Ok(mlp)
    }
}

// === impl RqVaeLinear ===

impl RqVaeLinear {
    fn forward(&self, xs: &[f32]) -> Vec<f32> {
        let rows = self.weight.chunks_exact(xs.len()).zip(&self.bias);
        rows.map(|(row, bias)| row.iter().zip(xs).fold(*bias, |sum, (w, x)| sum + w * x)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};

    /// Two levels of two codes over two numbers; the encoder and the decoder change nothing that
    /// is positive.
    fn quantizer() -> Quantizer {
        let same = RqVaeLinear { weight: vec![1.0, 0.0, 0.0, 1.0], bias: vec![0.0, 0.0] };
        let same = Mlp([same.clone(), same]);
        let coarse = Codebook::new(vec![0.0, 0.0, 4.0, 4.0], 2);
        let fine = Codebook::new(vec![0.0, 0.0, 1.0, 0.0], 2);
        Quantizer { encoder: same.clone(), decoder: same, codebooks: vec![coarse, fine] }
    }

    #[test]
    fn each_level_says_what_the_one_before_left_over() {
        let quantizer = quantizer();
        assert_eq!(quantizer.encode(&[4.9, 4.1]), [1, 1]);
        assert_eq!(quantizer.encode(&[0.2, 0.1]), [0, 0]);
        assert_eq!(quantizer.decode(&[1, 1]), [5.0, 4.0]);
        assert_eq!(quantizer.decode(&[1]), [4.0, 4.0]);
    }

    #[test]
    fn a_saved_quantiser_is_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quantizer.safetensors");
        quantizer().save(&path).unwrap();
        assert_eq!(Quantizer::load(&path).unwrap(), quantizer());
    }

    #[test]
    fn tables_that_do_not_fit_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quantizer.safetensors");
        let says = |change: &dyn Fn(&mut Weights)| {
            quantizer().save(&path).unwrap();
            let mut weights = Weights::from_bytes(&std::fs::read(&path).unwrap()).unwrap();
            change(&mut weights);
            std::fs::write(&path, weights.to_bytes().unwrap()).unwrap();
            Quantizer::load(&path).unwrap_err().to_string()
        };
        let said = says(&|weights| weights.insert(CODEBOOKS, &[2, 2, 1], vec![0.0; 4]));
        assert!(said.starts_with("tensor `codebooks` has dimensions [2, 2, 1]"), "{said}");
        let said = says(&|weights| weights.insert("encoder.2.weight", &[2, 3], vec![0.0; 6]));
        assert!(said.contains("encoder.2.weight"), "{said}");
        let said = says(&|weights| weights.insert("decoder.0.bias", &[2], vec![f32::NAN, 0.0]));
        assert_eq!(said, "tensor `decoder.0.bias` has a value that is not finite");
    }

    #[test]
    fn loops_and_candle_agree() {
        use rand::SeedableRng;
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(4);
        let layers = network::MlpModule::new([10, 7, 5], &mut rng).unwrap();
        let xs: Vec<f32> = (0..10).map(|at| (at as f32).sin()).collect();
        let slow =
            layers.forward(&Tensor::from_slice(&xs, (1, 10), &Device::Cpu).unwrap()).unwrap();
        let slow: Vec<f32> = slow.flatten_all().unwrap().to_vec1().unwrap();
        for (fast, slow) in layers.frozen().unwrap().forward(&xs).iter().zip(slow) {
            assert!((fast - slow).abs() < 1e-5, "{fast} {slow}");
        }
    }
}
