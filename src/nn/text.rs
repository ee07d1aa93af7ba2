//! A static text encoder: the weighted sum of a text's token vectors, projected and normalised to length one.
//!
//! It ignores the order of words, which hardly matters for titles and one-sentence reasons, and costs a few hundred
//! multiplications per text. The weights and the projection are linear, so a trained encoder folds them into the token
//! table: `encode` adds rows and normalises.

mod fit;

pub use fit::{TextEncoderConfig, TextEncoderProgress, fit};

use crate::regular_file::{self, DATA_BYTES_MAX, Links};
use candle_core::{DType, Device, Error, Result, Tensor};
use std::collections::HashMap;
use std::path::Path;

/// Width of a text's vector.
pub const TEXT_WIDTH: usize = 64;
/// A vector of a smaller squared length counts as zero.
const SQUARE_MIN: f32 = 1e-12;
/// The name of the table in the file.
const TABLE: &str = "text.rows";

/// Maps the tokens of a text to a unit vector. Related texts get similar vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct TextEncoder {
    /// `(vocabulary, TEXT_WIDTH)`: weight × vector × projection of each token.
    rows: Vec<f32>,
}

impl TextEncoder {
    /// Size of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        self.rows.len() / TEXT_WIDTH
    }

    /// The row of each token: (vocabulary, `TEXT_WIDTH`).
    pub fn rows(&self) -> &[f32] {
        &self.rows
    }

    /// Writes a text's unit vector into `out`, `TEXT_WIDTH` long.
    ///
    /// Unknown tokens are skipped. A text without a known token is the zero vector, as is a missing text.
    pub fn encode(&self, tokens: &[u32], out: &mut [f32]) {
        let mut sum = [0.0_f32; TEXT_WIDTH];
        let (rows, _) = self.rows.as_chunks::<TEXT_WIDTH>();
        for row in tokens.iter().filter_map(|&token| rows.get(token as usize)) {
            for (sum, value) in sum.iter_mut().zip(row) {
                *sum += value;
            }
        }
        let square: f32 = sum.iter().map(|value| value * value).sum();
        let scale = if square > SQUARE_MIN { square.sqrt().recip() } else { 0.0 };
        for (out, sum) in out.iter_mut().zip(sum) {
            *out = sum * scale;
        }
    }

    /// Writes the table as safetensors.
    pub fn save(&self, path: &Path) -> Result<()> {
        let shape = (self.vocabulary(), TEXT_WIDTH);
        let table = Tensor::from_slice(&self.rows, shape, &Device::Cpu)?;
        candle_core::safetensors::save(&HashMap::from([(TABLE, table)]), path)
    }

    /// Reads a file of [`TextEncoder::save`].
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = regular_file::read(path, Links::Followed, DATA_BYTES_MAX)?;
        let mut tensors = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu)?;
        let table = tensors.remove(TABLE);
        let table = table.ok_or_else(|| Error::CannotFindTensor { path: TABLE.to_owned() })?;
        let (_, width) = table.dims2()?;
        if width != TEXT_WIDTH {
            candle_core::bail!("{TABLE} is {width} wide and should be {TEXT_WIDTH}");
        }
        Ok(Self { rows: table.to_dtype(DType::F32)?.flatten_all()?.to_vec1()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_without_known_tokens_is_the_zero_vector() {
        let encoder = TextEncoder { rows: vec![1.0; TEXT_WIDTH] };
        let encoded = |tokens: &[u32]| {
            let mut out = [f32::NAN; TEXT_WIDTH];
            encoder.encode(tokens, &mut out);
            out
        };
        let is = |tokens: &[u32], value: f32| {
            assert_eq!(encoded(tokens).map(f32::to_bits), [value.to_bits(); TEXT_WIDTH]);
        };
        is(&[], 0.0);
        is(&[7], 0.0);
        is(&[0, 7], 0.125);
    }

    #[test]
    fn a_saved_encoder_is_the_same_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text.safetensors");
        let encoder = TextEncoder { rows: (0..128).map(|value| value as f32).collect() };
        encoder.save(&path).unwrap();
        assert_eq!(TextEncoder::load(&path).unwrap(), encoder);
        let narrow = Tensor::zeros((3, 5), DType::F32, &Device::Cpu).unwrap();
        candle_core::safetensors::save(&HashMap::from([(TABLE, narrow)]), &path).unwrap();
        assert!(TextEncoder::load(&path).unwrap_err().to_string().contains("5 wide"));
    }
}
