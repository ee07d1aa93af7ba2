//! Reads the files of an encoder's folder.

use super::error::TextEncoderError;
use crate::regular_file::{self, Links, SETTINGS_BYTES_MAX};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView};
use serde::de::DeserializeOwned;
use std::path::Path;

/// The weights of a folder.
pub(super) const WEIGHTS: &str = "model.safetensors";

/// A tensor's numbers in single precision.
pub(super) fn floats(view: &TensorView<'_>) -> Result<Vec<f32>, String> {
    let bytes = view.data();
    Ok(match view.dtype() {
        Dtype::F64 => {
            bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes) as f32).collect()
        }
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::F16 => {
            bytes.as_chunks().0.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()
        }
        Dtype::BF16 => {
            bytes.as_chunks().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
        }
        Dtype::I8 => bytes.iter().map(|byte| f32::from(byte.cast_signed())).collect(),
        other => return Err(format!("a tensor is {other:?}, not of floating point")),
    })
}

/// Reads a file of at most so many bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>, TextEncoderError> {
    regular_file::read(path, Links::Followed, most)
        .map_err(|source| TextEncoderError::Read { path: path.into(), source })
}

/// Reads a JSON file of settings.
pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, TextEncoderError> {
    let bytes = read(path, SETTINGS_BYTES_MAX)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| TextEncoderError::Tensors(format!("{}: {error}", path.display())))
}
