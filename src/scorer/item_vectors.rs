//! The wide vector of every item, a byte for each number.

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, SafeTensorError, TensorView};

/// The name of the bytes in the file: (items, width).
const BYTES: &str = "items.bytes";
/// The name of the scales in the file: (items).
const SCALES: &str = "items.scales";
/// The largest byte of a row.
const BYTE_MAX: f32 = 127.0;

/// One wide vector of each item, each number as a byte times the scale of its row.
///
/// An item takes `width + 2` bytes. The vectors are unit vectors, or all zeros for an item without known words.
#[derive(Clone, Debug, PartialEq)]
pub struct ItemVectors {
    width: usize,
    /// (items, width)
    bytes: Vec<i8>,
    /// (items)
    scales: Vec<f16>,
}

/// Why a file of item vectors is refused.
#[derive(Debug, thiserror::Error)]
pub enum ItemVectorsError {
    /// The bytes are not safetensors, or lack a tensor.
    #[error("not the vectors of items")]
    Format(#[from] SafeTensorError),
    /// The two tensors do not fit together.
    #[error(
        "{BYTES} is {bytes:?} and {SCALES} {scales:?}, not (items, width) bytes and (items) halves"
    )]
    Shapes {
        /// The shape of the bytes.
        bytes: Vec<usize>,
        /// The shape of the scales.
        scales: Vec<usize>,
    },
    /// A scale is negative or not finite.
    #[error("the scale of item {0} is not a finite number of at least 0")]
    Scale(usize),
}

// === impl ItemVectors ===

impl ItemVectors {
    /// Quantises vectors: (items, width). Numbers that are not finite count as zero.
    pub fn of(vectors: &[f32], width: usize) -> Self {
        let width = width.max(1);
        let (mut bytes, mut scales) = (Vec::with_capacity(vectors.len()), Vec::new());
        for row in vectors.chunks_exact(width) {
            let finite = |value: &f32| if value.is_finite() { *value } else { 0.0 };
            let most = row.iter().map(finite).fold(0.0_f32, |most, value| most.max(value.abs()));
            let scale = f16::from_f32(most / BYTE_MAX);
            let inverse = if scale > f16::ZERO { scale.to_f32().recip() } else { 0.0 };
            // A scale that was rounded down would lead past the largest byte: the cast stops there.
            bytes.extend(row.iter().map(|value| (finite(value) * inverse).round() as i8));
            scales.push(scale);
        }
        Self { width, bytes, scales }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Bytes that an item takes.
    pub fn bytes_an_item(&self) -> usize {
        self.width + size_of::<f16>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// Numbers in a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The product of an item's vector with another one: their cosine, where that is a unit vector of the same encoder.
    /// An unknown item has 0.
    pub fn dot(&self, item: u32, vector: &[f32]) -> f32 {
        let Some((row, scale)) = self.row(item) else { return 0.0 };
        let products = row.iter().zip(vector).map(|(&byte, value)| f32::from(byte) * value);
        scale * products.sum::<f32>()
    }

    /// The product of two items' vectors. It is exact before the scales, so it costs less than [`Self::dot`].
    pub fn between(&self, one: u32, other: u32) -> f32 {
        let (Some((one, a)), Some((other, b))) = (self.row(one), self.row(other)) else {
            return 0.0;
        };
        let product = |(&one, &other): (&i8, &i8)| i32::from(one) * i32::from(other);
        let sum: i32 = one.iter().zip(other).map(product).sum();
        a * b * sum as f32
    }

    /// Adds `weight` times an item's vector to `sum`, which is as wide.
    pub fn add_to(&self, sum: &mut [f32], item: u32, weight: f32) {
        let Some((row, scale)) = self.row(item) else { return };
        for (sum, &byte) in sum.iter_mut().zip(row) {
            *sum += weight * scale * f32::from(byte);
        }
    }

    /// The numbers of an item's vector.
    pub fn vector(&self, item: u32) -> Vec<f32> {
        let mut vector = vec![0.0; self.width];
        self.add_to(&mut vector, item, 1.0);
        vector
    }

    fn row(&self, item: u32) -> Option<(&[i8], f32)> {
        let scale = self.scales.get(item as usize)?;
        Some((&self.bytes[item as usize * self.width..][..self.width], scale.to_f32()))
    }

    /// The vectors as safetensors.
    pub fn to_bytes(&self) -> Result<Vec<u8>, ItemVectorsError> {
        let bytes: Vec<u8> = self.bytes.iter().map(|byte| byte.cast_unsigned()).collect();
        let scales: Vec<u8> = self.scales.iter().flat_map(|scale| scale.to_le_bytes()).collect();
        let views = [
            (BYTES, TensorView::new(Dtype::I8, vec![self.len(), self.width], &bytes)?),
            (SCALES, TensorView::new(Dtype::F16, vec![self.len()], &scales)?),
        ];
        Ok(safetensors::serialize(views, None)?)
    }

    /// Reads what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ItemVectorsError> {
        let file = SafeTensors::deserialize(bytes)?;
        let (bytes, scales) = (file.tensor(BYTES)?, file.tensor(SCALES)?);
        let fits = match (bytes.shape(), scales.shape()) {
            ([items, width], [scales]) => items == scales && *width > 0,
            _ => false,
        };
        if !fits || (bytes.dtype(), scales.dtype()) != (Dtype::I8, Dtype::F16) {
            let (bytes, scales) = (bytes.shape().to_vec(), scales.shape().to_vec());
            return Err(ItemVectorsError::Shapes { bytes, scales });
        }
        let (halves, _) = scales.data().as_chunks::<2>();
        let scales: Vec<f16> = halves.iter().map(|half| f16::from_le_bytes(*half)).collect();
        if let Some(item) = scales.iter().position(|scale| !scale.is_finite() || *scale < f16::ZERO)
        {
            return Err(ItemVectorsError::Scale(item));
        }
        let width = bytes.shape()[1];
        let bytes = bytes.data().iter().map(|byte| byte.cast_signed()).collect();
        Ok(Self { width, bytes, scales })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn unit_vectors(items: usize, width: usize) -> Vec<f32> {
        let mut random = ChaCha8Rng::seed_from_u64(5);
        let mut row = || {
            let row: Vec<f32> = (0..width).map(|_| random.random_range(-1.0..1.0)).collect();
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            row.into_iter().map(move |value| value / length)
        };
        (0..items).flat_map(|_| row()).collect()
    }

    #[test]
    fn products_are_those_of_the_vectors() {
        let vectors = unit_vectors(20, 96);
        let items = ItemVectors::of(&vectors, 96);
        assert_eq!((items.len(), items.width()), (20, 96));
        let rows: Vec<&[f32]> = vectors.chunks(96).collect();
        for (item, row) in (0..).zip(&rows) {
            for (other, other_row) in (0..).zip(&rows) {
                let exact: f32 = row.iter().zip(*other_row).map(|(a, b)| a * b).sum();
                assert!((items.dot(item, other_row) - exact).abs() < 5e-3);
                assert!((items.between(item, other) - exact).abs() < 5e-3);
            }
            let kept = items.vector(item);
            assert!(kept.iter().zip(*row).all(|(kept, value)| (kept - value).abs() < 2e-3));
        }
    }

    #[test]
    fn whatever_is_not_finite_or_not_there_counts_as_zero() {
        let items = ItemVectors::of(&[f32::NAN, 1.0, 0.0, 0.0, f32::INFINITY, -1.0], 2);
        assert_eq!(items.vector(1), [0.0, 0.0]);
        assert_eq!(items.vector(0)[0].to_bits(), 0.0_f32.to_bits());
        assert!((items.dot(0, &[1.0, 1.0]) - 1.0).abs() < 1e-3);
        assert!((items.between(0, 2) + 1.0).abs() < 1e-3);
        assert_eq!((items.dot(9, &[1.0, 1.0]), items.between(9, 0)), (0.0, 0.0));
    }

    #[test]
    fn vectors_survive_the_file_and_wrong_files_are_refused() {
        let items = ItemVectors::of(&unit_vectors(3, 8), 8);
        let bytes = items.to_bytes().unwrap();
        assert_eq!(ItemVectors::from_bytes(&bytes).unwrap(), items);
        assert!(ItemVectors::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        let torn = ItemVectors { scales: items.scales[..2].to_vec(), ..items.clone() };
        assert!(
            torn.to_bytes().is_err() || ItemVectors::from_bytes(&torn.to_bytes().unwrap()).is_err()
        );
        for bad in [f16::NAN, f16::INFINITY, f16::from_f32(-1.0)] {
            let mut torn = items.clone();
            torn.scales[1] = bad;
            let error = ItemVectors::from_bytes(&torn.to_bytes().unwrap()).unwrap_err();
            assert!(error.to_string().contains("item 1"), "{error}");
        }
    }
}
