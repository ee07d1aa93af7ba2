//! Where does a model run?

use super::cpu_runner::CpuRunner;
use super::forward::{ForwardBatch, ForwardOutput, Runner, RunnerError, RunnerLimits};
use crate::nn::decoder::Checkpoint;
use crate::nn::packed::{KvDtype, PackedOptions, WeightDtype};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Where a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ComputeDevice {
    /// On this machine's processor.
    #[default]
    Cpu,
    /// On an NVIDIA GPU, by its number.
    Gpu(usize),
}

/// What a GPU is called.
const GPU: &str = "cuda";
const CPU: &str = "cpu";

/// Why a model can't run where it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ComputeDeviceError {
    /// Nobody knows such a place.
    #[error("{0:?} is no device: it must be \"cpu\", \"cuda\" or \"cuda:N\"")]
    Unknown(String),
    /// There are no kernels for these weights on a GPU.
    #[error("weights are kept as {0}, and a GPU keeps them as bf16, fp8 or int8")]
    OnGpu(&'static str),
    /// There are none on a processor.
    #[error("weights are kept as {0}, and a processor keeps them as f32, bf16, q8_0 or q4_k")]
    OnCpu(&'static str),
    /// There are no kernels for these keys and values on a GPU.
    #[error("keys and values are kept as {0}, and a GPU keeps them as bf16 or fp8")]
    CacheOnGpu(&'static str),
    /// There are none on a processor, whatever they are.
    #[error(
        "keys and values are kept as {0}, and a processor keeps them as its weights want: it has no choice"
    )]
    CacheOnCpu(&'static str),
    /// This program is for processors.
    #[error("this program was built without the feature `cuda`, and can't use a GPU")]
    NotBuilt,
}

// === impl ComputeDevice ===

impl ComputeDevice {
    /// How weights are kept there that would be kept like this on a processor.
    pub fn weight_dtype(self, precision: WeightDtype) -> Result<WeightDtype, ComputeDeviceError> {
        match (self, precision) {
            (Self::Cpu, WeightDtype::Float8) => Err(ComputeDeviceError::OnCpu(precision.as_str())),
            (Self::Gpu(_), WeightDtype::F32 | WeightDtype::Bf16) => Ok(WeightDtype::Bf16),
            (Self::Cpu, _) | (Self::Gpu(_), WeightDtype::Float8 | WeightDtype::Int8) => {
                Ok(precision)
            }
            (Self::Gpu(_), _) => Err(ComputeDeviceError::OnGpu(precision.as_str())),
        }
    }

    /// How keys and values are kept there, if they are wanted so.
    pub fn kv_dtype(self, precision: Option<WeightDtype>) -> Result<KvDtype, ComputeDeviceError> {
        match (self, precision) {
            (_, None) | (Self::Gpu(_), Some(WeightDtype::Bf16)) => Ok(KvDtype::Model),
            (Self::Gpu(_), Some(WeightDtype::Float8)) => Ok(KvDtype::Float8),
            (Self::Gpu(_), Some(other)) => Err(ComputeDeviceError::CacheOnGpu(other.as_str())),
            (Self::Cpu, Some(any)) => Err(ComputeDeviceError::CacheOnCpu(any.as_str())),
        }
    }

    /// Loads a model there, for sequences of up to `context_tokens_max` tokens. Threads and instructions are a
    /// processor's; a GPU captures steps of up to `decodes_max` texts that go on as CUDA graphs.
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
                gpu(ordinal, &checkpoint, options, [context_tokens_max, decodes_max])
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn gpu(
    ordinal: usize,
    checkpoint: &Checkpoint,
    options: PackedOptions,
    [context_tokens_max, decodes_max]: [usize; 2],
) -> Result<Box<dyn Runner>, RunnerError> {
    use crate::nn::cuda::{CudaOptions, CudaWeightDtype};
    let PackedOptions {
        weight_dtype: precision,
        kv_dtype: kept,
        kv_pages: pages,
        max_batched_tokens: rows_max,
        ..
    } = options;
    let weight_dtype = match precision {
        WeightDtype::Float8 => CudaWeightDtype::Float8,
        WeightDtype::Int8 => CudaWeightDtype::Int8,
        WeightDtype::F32 | WeightDtype::Bf16 | WeightDtype::Int4 => CudaWeightDtype::Bf16,
    };
    let options = CudaOptions {
        ordinal,
        kv_pages: pages,
        max_batched_tokens: rows_max,
        context_tokens_max,
        decodes_max,
        weight_dtype,
        kv_dtype: kept,
    };
    let runner = super::CudaRunner::load(checkpoint, options);
    Ok(Box::new(runner.map_err(|error| RunnerError::Failed(error.into()))?))
}

#[cfg(not(feature = "cuda"))]
fn gpu(
    _ordinal: usize,
    _checkpoint: &Checkpoint,
    _options: PackedOptions,
    _most: [usize; 2],
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

impl Runner for Box<dyn Runner> {
    fn limits(&self) -> RunnerLimits {
        (**self).limits()
    }

    fn forward(&mut self, step: &ForwardBatch, out: &mut ForwardOutput) -> Result<(), RunnerError> {
        (**self).forward(step, out)
    }

    fn enqueue_time(&self) -> Duration {
        (**self).enqueue_time()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_called_what_people_call_them() {
        for (text, place) in [
            ("cpu", ComputeDevice::Cpu),
            ("cuda", ComputeDevice::Gpu(0)),
            ("cuda:3", ComputeDevice::Gpu(3)),
        ] {
            assert_eq!(text.parse(), Ok(place));
        }
        assert_eq!(ComputeDevice::Gpu(3).to_string().parse(), Ok(ComputeDevice::Gpu(3)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0"] {
            let error = text.parse::<ComputeDevice>().unwrap_err();
            assert!(error.to_string().contains(&format!("{text:?} is no device")), "{error}");
        }
    }

    #[test]
    fn keys_and_values_are_kept_as_there_are_kernels_for() {
        let gpu = ComputeDevice::Gpu(0);
        assert_eq!(gpu.kv_dtype(None), Ok(KvDtype::Model));
        assert_eq!(gpu.kv_dtype(Some(WeightDtype::Bf16)), Ok(KvDtype::Model));
        assert_eq!(gpu.kv_dtype(Some(WeightDtype::Float8)), Ok(KvDtype::Float8));
        let refused = gpu.kv_dtype(Some(WeightDtype::Int8)).unwrap_err();
        let right = "keys and values are kept as q8_0, and a GPU keeps them as bf16 or fp8";
        assert_eq!(refused.to_string(), right);
        assert_eq!(ComputeDevice::Cpu.kv_dtype(None), Ok(KvDtype::Model));
        let refused = ComputeDevice::Cpu.kv_dtype(Some(WeightDtype::Float8)).unwrap_err();
        assert!(
            refused.to_string().starts_with("keys and values are kept as fp8, and a processor")
        );
    }

    #[test]
    fn weights_are_kept_as_there_are_kernels_for() {
        let gpu = ComputeDevice::Gpu(0);
        assert_eq!(gpu.weight_dtype(WeightDtype::F32), Ok(WeightDtype::Bf16));
        assert_eq!(ComputeDevice::Cpu.weight_dtype(WeightDtype::Int4), Ok(WeightDtype::Int4));
        let refused = gpu.weight_dtype(WeightDtype::Int4).unwrap_err();
        let right = "weights are kept as q4_k, and a GPU keeps them as bf16, fp8 or int8";
        assert_eq!(refused.to_string(), right);
        for of_eight in [WeightDtype::Float8, WeightDtype::Int8] {
            assert_eq!(gpu.weight_dtype(of_eight), Ok(of_eight));
        }
        let refused = ComputeDevice::Cpu.weight_dtype(WeightDtype::Float8).unwrap_err();
        assert!(refused.to_string().starts_with("weights are kept as fp8, and a processor"));
    }
}
