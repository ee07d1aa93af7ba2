//! Which device does a model run on?

use super::cpu_runner::CpuRunner;
use super::forward::{Runner, RunnerError};
use crate::nn::decoder::Checkpoint;
use crate::nn::packed::{KvDtype, PackedOptions, WeightDtype};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The device that a model runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ComputeDevice {
    /// The CPU: `cpu`.
    #[default]
    Cpu,
    /// An NVIDIA GPU by its ordinal: `cuda:0`. `cuda` is the first.
    Gpu(usize),
}

const CPU: &str = "cpu";
const GPU: &str = "cuda";

/// Why a model can't run on a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeDeviceError {
    /// The name of the device is unknown.
    #[error("{0:?} is no device: it must be \"cpu\", \"cuda\" or \"cuda:N\"")]
    Unknown(String),
    /// A GPU has no kernels for weights of this type.
    #[error("weights of type {0} do not run on a GPU: choose bf16, fp8 or int8")]
    WeightsOnGpu(&'static str),
    /// A CPU has no kernels for weights of this type.
    #[error("weights of type {0} do not run on a CPU: choose f32, bf16, q8_0 or q4_k")]
    WeightsOnCpu(&'static str),
    /// A GPU has no kernels for a KV cache of this type.
    #[error("a KV cache of type {0} does not run on a GPU: choose bf16 or fp8")]
    KvCacheOnGpu(&'static str),
    /// On a CPU the type of the KV cache is no option.
    #[error("a KV cache of type {0} can't be chosen on a CPU: its type follows from the weights")]
    KvCacheOnCpu(&'static str),
    /// The program lacks the feature `cuda`.
    #[error("this program was built without the feature `cuda`, and can't use a GPU")]
    NotBuilt,
}

// === impl ComputeDevice ===

impl ComputeDevice {
    /// The type that the device keeps weights in, if the checkpoint or the caller wants `dtype`.
    pub fn weight_dtype(self, dtype: WeightDtype) -> Result<WeightDtype, ComputeDeviceError> {
        match (self, dtype) {
            (Self::Cpu, WeightDtype::Float8) => {
                Err(ComputeDeviceError::WeightsOnCpu(dtype.as_str()))
            }
            (Self::Gpu(_), WeightDtype::F32 | WeightDtype::Bf16) => Ok(WeightDtype::Bf16),
            (Self::Cpu, _) | (Self::Gpu(_), WeightDtype::Float8 | WeightDtype::Int8) => Ok(dtype),
            (Self::Gpu(_), _) => Err(ComputeDeviceError::WeightsOnGpu(dtype.as_str())),
        }
    }

    /// The type of the KV cache on the device, if the caller wants `dtype`.
    pub fn kv_dtype(self, dtype: Option<WeightDtype>) -> Result<KvDtype, ComputeDeviceError> {
        match (self, dtype) {
            (_, None) | (Self::Gpu(_), Some(WeightDtype::Bf16)) => Ok(KvDtype::Model),
            (Self::Gpu(_), Some(WeightDtype::Float8)) => Ok(KvDtype::Float8),
            (Self::Gpu(_), Some(other)) => Err(ComputeDeviceError::KvCacheOnGpu(other.as_str())),
            (Self::Cpu, Some(other)) => Err(ComputeDeviceError::KvCacheOnCpu(other.as_str())),
        }
    }

    /// Loads a model for sequences of up to `context_tokens_max` tokens. A GPU captures CUDA graphs of up to
    /// `decodes_max` decodes, and ignores the options of threads and instructions.
    pub fn load(
        self,
        checkpoint: Checkpoint,
        options: PackedOptions,
        context_tokens_max: usize,
        decodes_max: usize,
    ) -> Result<Box<dyn Runner>, RunnerError> {
        match self {
            Self::Cpu => Ok(Box::new(CpuRunner::load(checkpoint, options, context_tokens_max)?)),
            Self::Gpu(ordinal) => {
                load_on_gpu(ordinal, &checkpoint, options, context_tokens_max, decodes_max)
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn load_on_gpu(
    ordinal: usize,
    checkpoint: &Checkpoint,
    options: PackedOptions,
    context_tokens_max: usize,
    decodes_max: usize,
) -> Result<Box<dyn Runner>, RunnerError> {
    use crate::nn::cuda::{CudaOptions, CudaWeightDtype};
    let PackedOptions { weight_dtype, kv_dtype, kv_pages, max_batched_tokens, .. } = options;
    let weight_dtype = match weight_dtype {
        WeightDtype::Float8 => CudaWeightDtype::Float8,
        WeightDtype::Int8 => CudaWeightDtype::Int8,
        WeightDtype::F32 | WeightDtype::Bf16 | WeightDtype::Int4 => CudaWeightDtype::Bf16,
    };
    let options = CudaOptions {
        ordinal,
        kv_pages,
        max_batched_tokens,
        context_tokens_max,
        decodes_max,
        weight_dtype,
        kv_dtype,
    };
    let runner = super::CudaRunner::load(checkpoint, options);
    Ok(Box::new(runner.map_err(|error| RunnerError::Failed(error.into()))?))
}

#[cfg(not(feature = "cuda"))]
fn load_on_gpu(
    _ordinal: usize,
    _checkpoint: &Checkpoint,
    _options: PackedOptions,
    _context_tokens_max: usize,
    _decodes_max: usize,
) -> Result<Box<dyn Runner>, RunnerError> {
    Err(RunnerError::Failed(ComputeDeviceError::NotBuilt.into()))
}

impl FromStr for ComputeDevice {
    type Err = ComputeDeviceError;

    fn from_str(text: &str) -> Result<Self, ComputeDeviceError> {
        let unknown = || ComputeDeviceError::Unknown(text.to_owned());
        match text.split_once(':') {
            None if text == CPU => Ok(Self::Cpu),
            None if text == GPU => Ok(Self::Gpu(0)),
            Some((GPU, number)) => number.parse().map(Self::Gpu).map_err(|_| unknown()),
            _ => Err(unknown()),
        }
    }
}

impl TryFrom<String> for ComputeDevice {
    type Error = ComputeDeviceError;

    fn try_from(text: String) -> Result<Self, ComputeDeviceError> {
        text.parse()
    }
}

impl From<ComputeDevice> for String {
    fn from(place: ComputeDevice) -> Self {
        place.to_string()
    }
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str(CPU),
            Self::Gpu(number) => write!(f, "{GPU}:{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_the_usual_names() {
        for (text, device) in [
            ("cpu", ComputeDevice::Cpu),
            ("cuda", ComputeDevice::Gpu(0)),
            ("cuda:3", ComputeDevice::Gpu(3)),
        ] {
            assert_eq!(text.parse(), Ok(device));
        }
        assert_eq!(ComputeDevice::Gpu(3).to_string().parse(), Ok(ComputeDevice::Gpu(3)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            let error = text.parse::<ComputeDevice>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?} is no device")), "{error}");
        }
    }

    #[test]
    fn a_kv_cache_has_a_type_that_the_device_has_kernels_for() {
        let gpu = ComputeDevice::Gpu(0);
        assert_eq!(gpu.kv_dtype(None), Ok(KvDtype::Model));
        assert_eq!(gpu.kv_dtype(Some(WeightDtype::Bf16)), Ok(KvDtype::Model));
        assert_eq!(gpu.kv_dtype(Some(WeightDtype::Float8)), Ok(KvDtype::Float8));
        let error = gpu.kv_dtype(Some(WeightDtype::Int8)).unwrap_err();
        let expected = "a KV cache of type q8_0 does not run on a GPU: choose bf16 or fp8";
        assert_eq!(error.to_string(), expected);
        assert_eq!(ComputeDevice::Cpu.kv_dtype(None), Ok(KvDtype::Model));
        let error = ComputeDevice::Cpu.kv_dtype(Some(WeightDtype::Float8)).unwrap_err();
        assert!(error.to_string().starts_with("a KV cache of type fp8 can't be chosen on a CPU"));
    }

    #[test]
    fn weights_have_a_type_that_the_device_has_kernels_for() {
        let gpu = ComputeDevice::Gpu(0);
        assert_eq!(gpu.weight_dtype(WeightDtype::F32), Ok(WeightDtype::Bf16));
        assert_eq!(ComputeDevice::Cpu.weight_dtype(WeightDtype::Int4), Ok(WeightDtype::Int4));
        let error = gpu.weight_dtype(WeightDtype::Int4).unwrap_err();
        let expected = "weights of type q4_k do not run on a GPU: choose bf16, fp8 or int8";
        assert_eq!(error.to_string(), expected);
        for eight_bits in [WeightDtype::Float8, WeightDtype::Int8] {
            assert_eq!(gpu.weight_dtype(eight_bits), Ok(eight_bits));
        }
        let error = ComputeDevice::Cpu.weight_dtype(WeightDtype::Float8).unwrap_err();
        assert!(error.to_string().starts_with("weights of type fp8 do not run on a CPU"));
    }
}
