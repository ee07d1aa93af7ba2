//! A static table of token vectors: a text's vector is the sum of its tokens', of length one.

use super::error::TextEncoderError;
use super::{EncodeTokens, to_unit_length};
use candle_core::{DType, Device, Tensor};
use half::f16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

/// The widest vector that is read, so that a sum fits on the stack.
pub const TABLE_WIDTH_MAX: usize = 1024;

/// A vector for each token.
///
/// The mean over tokens, which other libraries take, differs from the sum by a factor: the unit vector is the same.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenTable {
    width: usize,
    rows: Rows,
}

/// The numbers of a table: (vocabulary, width).
#[derive(Clone, Debug, PartialEq)]
enum Rows {
    Single(Vec<f32>),
    Half(Vec<f16>),
}

// === impl TokenTable ===

impl TokenTable {
    /// A table of these numbers, (vocabulary, width). A row with a number that is not finite is refused.
    pub fn new(rows: Vec<f32>, width: usize) -> Result<Self, TextEncoderError> {
        if !(1..=TABLE_WIDTH_MAX).contains(&width) {
            return Err(TextEncoderError::Width { found: width, most: TABLE_WIDTH_MAX });
        }
        let is_wrong = |row: &[f32]| row.iter().any(|value| !value.is_finite());
        if let Some(row) = rows.chunks_exact(width).position(is_wrong) {
            return Err(TextEncoderError::NotFinite(format!("row {row} of the table of tokens")));
        }
        Ok(Self { width, rows: Rows::Single(rows) })
    }

    /// The same table in half precision, which takes half the memory.
    pub fn halved(self) -> Self {
        let rows = match self.rows {
            Rows::Single(rows) => {
                // The largest half is far above any table's numbers, and infinity would spoil a sum.
                let half =
                    |value: &f32| f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()));
                Rows::Half(rows.iter().map(half).collect())
            }
            half @ Rows::Half(_) => half,
        };
        Self { rows, ..self }
    }

    /// The same table with zeros for a token, which then counts for nothing.
    pub fn without(mut self, token: u32) -> Self {
        let (start, width) = (token as usize * self.width, self.width);
        match &mut self.rows {
            Rows::Single(rows) => rows
                .get_mut(start..start + width)
                .into_iter()
                .flatten()
                .for_each(|value| *value = 0.0),
            Rows::Half(rows) => rows
                .get_mut(start..start + width)
                .into_iter()
                .flatten()
                .for_each(|value| *value = f16::ZERO),
        }
        self
    }

    /// The numbers of all rows: (vocabulary, width).
    pub fn numbers(&self) -> Vec<f32> {
        match &self.rows {
            Rows::Single(rows) => rows.clone(),
            Rows::Half(rows) => rows.to_f32_vec(),
        }
    }

    /// Reads a tensor of two dimensions, and keeps half precision.
    pub(super) fn of_tensor(tensor: &Tensor) -> Result<Self, TextEncoderError> {
        let (_, width) = tensor.dims2()?;
        let numbers = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        let table = Self::new(numbers, width)?;
        Ok(if tensor.dtype() == DType::F16 { table.halved() } else { table })
    }

    /// The table as a tensor, in its own precision.
    pub(super) fn to_tensor(&self) -> candle_core::Result<Tensor> {
        let shape = (self.vocabulary(), self.width);
        match &self.rows {
            Rows::Single(rows) => Tensor::from_slice(rows, shape, &Device::Cpu),
            Rows::Half(rows) => Tensor::from_slice(rows, shape, &Device::Cpu),
        }
    }

    /// Writes a text's unit vector into `out`, [`EncodeTokens::width`] long.
    ///
    /// Unknown tokens are skipped. A text without a known token is the zero vector.
    pub fn encode(&self, tokens: &[u32], out: &mut [f32]) {
        out.fill(0.0);
        let known = tokens.iter().filter(|&&token| (token as usize) < self.vocabulary());
        let start = |&token: &u32| token as usize * self.width;
        match &self.rows {
            Rows::Single(rows) => {
                for row in known.map(|token| &rows[start(token)..][..self.width]) {
                    add(out, row);
                }
            }
            Rows::Half(rows) => {
                let mut row = [0.0; TABLE_WIDTH_MAX];
                let row = &mut row[..self.width];
                for token in known {
                    rows[start(token)..][..self.width].convert_to_f32_slice(row);
                    add(out, row);
                }
            }
        }
        to_unit_length(out);
    }
}

impl EncodeTokens for TokenTable {
    fn width(&self) -> usize {
        self.width
    }

    fn vocabulary(&self) -> usize {
        match &self.rows {
            Rows::Single(rows) => rows.len() / self.width,
            Rows::Half(rows) => rows.len() / self.width,
        }
    }

    fn encode_all(&self, texts: &[Vec<u32>]) -> Vec<f32> {
        let mut out = vec![0.0; texts.len() * self.width];
        let rows = out.par_chunks_exact_mut(self.width).zip(texts);
        rows.for_each(|(out, tokens)| self.encode(tokens, out));
        out
    }
}

fn add(sum: &mut [f32], row: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(table: &TokenTable, tokens: &[u32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; table.width()];
        table.encode(tokens, &mut out);
        out
    }

    #[test]
    fn a_text_without_known_tokens_is_the_zero_vector() {
        for table in [TokenTable::new(vec![1.0; 64], 64).unwrap()] {
            for table in [table.clone(), table.halved()] {
                for (tokens, value) in [(&[][..], 0.0_f32), (&[7], 0.0), (&[0, 7], 0.125)] {
                    assert_eq!(encoded(&table, tokens), [value; 64], "{tokens:?}");
                }
                let all = table.encode_all(&[vec![], vec![0], vec![9]]);
                assert_eq!(all, [[0.0; 64], [0.125; 64], [0.0; 64]].concat());
            }
        }
    }

    #[test]
    fn a_number_that_is_not_finite_is_refused_with_its_row() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut rows = vec![0.5; 12];
            rows[7] = bad;
            let error = TokenTable::new(rows, 4).unwrap_err().to_string();
            assert!(error.contains("row 1 "), "{error}");
        }
        for width in [0, TABLE_WIDTH_MAX + 1] {
            assert!(TokenTable::new(vec![0.0; 4], width).is_err());
        }
    }

    #[test]
    fn half_precision_is_near_and_never_infinite() {
        let table = TokenTable::new(vec![0.1, -0.7, 1e9, 0.0, 0.3, 0.2], 2).unwrap();
        let halved = table.clone().halved();
        for token in [0, 2] {
            let pairs = encoded(&table, &[token]).into_iter().zip(encoded(&halved, &[token]));
            assert!(pairs.into_iter().all(|(one, other)| (one - other).abs() < 1e-3));
        }
        assert!(encoded(&halved, &[0, 1, 1]).iter().all(|value| value.is_finite()));
    }
}
