//! A tensor in a mapped file, read as f32 by ranges of rows.

use super::CheckpointError;
use candle_core::quantized::{GgmlDType, QMatMul, QStorage, QTensor};
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use std::borrow::Cow;
use std::ops::Range;

/// Rows that are converted to f32 at a time while a matrix is quantised.
const QUANTIZE_ROWS: usize = 1024;

/// The number format of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TensorDtype {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit brain floats: the upper half of an f32.
    Bf16,
    /// GGML blocks of a GGUF file.
    Blocks(GgmlDType),
}

/// The location of a tensor's bytes.
#[derive(Debug)]
pub(super) struct TensorLocation {
    pub file: usize,
    pub bytes: Range<usize>,
    pub dims: Vec<usize>,
    pub format: TensorDtype,
    /// The head dimension, if a GGUF file interleaves the rows of each head.
    pub interleaved: Option<usize>,
}

/// A tensor of a checkpoint. Rows come in Hugging Face's order.
#[derive(Clone, Copy, Debug)]
pub struct TensorView<'a> {
    pub(super) name: &'a str,
    pub(super) format: TensorDtype,
    pub(super) dims: &'a [usize],
    pub(super) bytes: &'a [u8],
    pub(super) interleaved: Option<usize>,
}

// === impl TensorDtype ===

impl TensorDtype {
    /// Numbers of a block, and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::Bf16 => (1, 2),
            Self::Blocks(kind) => (kind.block_size(), kind.type_size()),
        }
    }

    /// Bytes of `rows` rows of `columns` numbers, if a row is whole blocks.
    pub(super) fn bytes(self, rows: usize, columns: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        let whole = columns.is_multiple_of(numbers).then_some(columns / numbers)?;
        whole.checked_mul(bytes)?.checked_mul(rows)
    }
}

// === impl TensorView ===

impl<'a> TensorView<'a> {
    /// Its number format.
    pub fn format(&self) -> TensorDtype {
        self.format
    }

    /// Its dimensions.
    pub fn dims(&self) -> &'a [usize] {
        self.dims
    }

    /// Rows of a matrix. Each number of a vector is a row.
    pub fn rows(&self) -> usize {
        self.dims.first().copied().unwrap_or(1)
    }

    /// Numbers in a row.
    pub fn columns(&self) -> usize {
        self.dims.iter().skip(1).product()
    }

    /// Its bytes, if the rows are stored in Hugging Face's order.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        self.interleaved.is_none().then_some(self.bytes)
    }

    /// Reads a range of rows, which must fill `out`.
    pub fn read_rows(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), CheckpointError> {
        let fits = rows.len().checked_mul(self.columns()) == Some(out.len());
        if rows.start > rows.end || rows.end > self.rows() || !fits {
            let (name, of, length) = (self.name.into(), self.rows(), out.len());
            return Err(CheckpointError::Rows { name, rows, of, length });
        }
        let bytes = self.row_bytes(rows.clone());
        match self.format {
            TensorDtype::F32 => decode(&bytes, out, f32::from_le_bytes),
            TensorDtype::F16 => decode(&bytes, out, |two| f16::from_le_bytes(two).to_f32()),
            TensorDtype::Bf16 => decode(&bytes, out, |two| bf16::from_le_bytes(two).to_f32()),
            TensorDtype::Blocks(kind) => {
                let storage = QStorage::from_data(bytes, &Device::Cpu, kind)?;
                let tensor = QTensor::new(storage, (rows.len(), self.columns()))?;
                let values = tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
                out.copy_from_slice(&values);
            }
        }
        Ok(())
    }

    /// All numbers as f32.
    pub fn read(&self) -> Result<Vec<f32>, CheckpointError> {
        let mut values = vec![0.0; self.rows() * self.columns()];
        self.read_rows(0..self.rows(), &mut values)?;
        Ok(values)
    }

    /// A range of rows for candle's quantised products: in their own blocks if they are quantised already, else in
    /// blocks of `kind`.
    pub fn quantize(
        &self,
        rows: Range<usize>,
        kind: GgmlDType,
    ) -> Result<QMatMul, CheckpointError> {
        let columns = self.columns();
        let tensor = |bytes: Cow<'_, [u8]>, kind| {
            let storage = QStorage::from_data(bytes, &Device::Cpu, kind)?;
            QMatMul::from_qtensor(QTensor::new(storage, (rows.len(), columns))?)
        };
        if let TensorDtype::Blocks(kind) = self.format {
            return Ok(tensor(self.row_bytes(rows.clone()), kind)?);
        }
        if !columns.is_multiple_of(kind.block_size()) {
            let (name, block) = (self.name.into(), kind.block_size());
            return Err(CheckpointError::Blocks { name, columns, block });
        }
        let mut blocks = Vec::new();
        let mut values = vec![0.0; QUANTIZE_ROWS.min(rows.len()) * columns];
        for start in rows.clone().step_by(QUANTIZE_ROWS) {
            let end = (start + QUANTIZE_ROWS).min(rows.end);
            let values = &mut values[..(end - start) * columns];
            self.read_rows(start..end, values)?;
            let part = Tensor::from_slice(values, (end - start, columns), &Device::Cpu)?;
            blocks.extend_from_slice(&QTensor::quantize(&part, kind)?.data()?);
        }
        Ok(tensor(Cow::Owned(blocks), kind)?)
    }

    /// The bytes of a range of rows, in Hugging Face's order.
    ///
    /// RoPE in a GGUF file of the Llama family rotates adjacent dimensions, in Hugging Face halves of a head. So within a
    /// head GGUF stores the rows of the first half at even indices, and those of the second half at odd ones.
    fn row_bytes(&self, rows: Range<usize>) -> Cow<'a, [u8]> {
        let size = self.bytes.len() / self.rows().max(1);
        let Some(head) = self.interleaved else {
            return Cow::Borrowed(&self.bytes[rows.start * size..rows.end * size]);
        };
        let mut gathered = Vec::with_capacity(rows.len() * size);
        for row in rows {
            let (half, pair) = (row % head / (head / 2), row % (head / 2));
            let place = row / head * head + 2 * pair + half;
            gathered.extend_from_slice(&self.bytes[place * size..(place + 1) * size]);
        }
        Cow::Owned(gathered)
    }
}

fn decode<const N: usize>(bytes: &[u8], out: &mut [f32], number: impl Fn([u8; N]) -> f32) {
    let (numbers, rest) = bytes.as_chunks::<N>();
    debug_assert!(rest.is_empty(), "rows are made of whole numbers");
    for (out, &bytes) in out.iter_mut().zip(numbers) {
        *out = number(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view<'a>(format: TensorDtype, dims: &'a [usize], bytes: &'a [u8]) -> TensorView<'a> {
        TensorView { name: "matrix", format, dims, bytes, interleaved: None }
    }

    #[test]
    fn rows_are_read_in_every_format() {
        let values = [1.0_f32, -2.5, 3.25, 0.5, -0.125, 8.0];
        let f32s: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let f16s: Vec<u8> = values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect();
        let bf16s: Vec<u8> = values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect();
        for (format, bytes) in
            [(TensorDtype::F32, f32s), (TensorDtype::F16, f16s), (TensorDtype::Bf16, bf16s)]
        {
            let view = view(format, &[3, 2], &bytes);
            assert_eq!(view.read().unwrap(), values);
            let mut middle = vec![0.0; 2];
            view.read_rows(1..2, &mut middle).unwrap();
            assert_eq!(middle, [3.25, 0.5]);
            let beyond = view.read_rows(2..4, &mut [0.0; 4]).unwrap_err().to_string();
            assert_eq!(beyond, "rows 2..4 of `matrix`, which has 3, do not fill 4 numbers");
        }
    }

    #[test]
    fn interleaved_rows_come_in_halves() {
        let bytes: Vec<u8> = (0..8_u8).flat_map(|row| f32::from(row).to_le_bytes()).collect();
        let view = TensorView { interleaved: Some(4), ..view(TensorDtype::F32, &[8], &bytes) };
        assert_eq!(view.read().unwrap(), [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        assert!(view.bytes().is_none());
    }

    #[test]
    fn a_quantised_matrix_multiplies_almost_alike() {
        use candle_core::Module;
        let (rows, columns) = (QUANTIZE_ROWS + 3, 256);
        let value = |at: usize| ((at * 37 + at / 256) % 101) as f32 / 101.0 - 0.5;
        let values: Vec<f32> = (0..rows * columns).map(value).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let dims = [rows, columns];
        let view = view(TensorDtype::F32, &dims, &bytes);
        let input = Tensor::ones((1, columns), candle_core::DType::F32, &Device::Cpu).unwrap();
        for (kind, error) in [(GgmlDType::Q8_0, 0.1), (GgmlDType::Q4K, 1.5)] {
            let products = view.quantize(0..rows, kind).unwrap().forward(&input).unwrap();
            let products = products.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (product, row) in products.iter().zip(values.chunks(columns)) {
                let exact: f32 = row.iter().sum();
                assert!((product - exact).abs() < error, "{product} is not {exact}");
            }
        }
    }
}
