//! Loads a checkpoint's weights onto a device.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::buffers::wide_threads;
use super::device::{CudaError, Device, DeviceBuffer, Kernel};
use super::interface::{
    Bias, ColumnScale, CudaWeightDtype, HEAD_SHAPES, KeyNormScale, LayerWeight, NARROW,
    NORM_THREADS, NormScale, Packed, Quantize, QueryNormScale, Role, RowScale, WIDE, WIDE_THREADS,
    Width,
};
use crate::nn::decoder::{
    self, Checkpoint, CheckpointError, DecoderConfig, DecoderConfigError, LinearId, NormId,
};
use half::bf16;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Numbers of a row, and of its MLP, that a block has registers for.
const WIDTH_MAX: usize = (4 * NARROW * NORM_THREADS) as usize;
const WIDE_MAX: usize = (4 * WIDE * WIDE_THREADS) as usize;
/// Weights that are copied or converted at a time.
const CHUNK: usize = 1 << 24;
/// Time between two log lines about the progress.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// The weights of a layer.
#[derive(Debug)]
pub(super) struct DeviceLayer {
    pub qkv: DeviceWeights,
    pub output: DeviceWeights,
    pub gates_ups: DeviceWeights,
    pub down: DeviceWeights,
    pub attention_norm: DeviceBuffer<NormScale>,
    pub mlp_norm: DeviceBuffer<NormScale>,
    pub head_norms: Option<HeadNorms>,
}

/// The scales of norms over heads.
#[derive(Debug)]
pub(super) struct HeadNorms {
    pub query: DeviceBuffer<QueryNormScale>,
    pub key: DeviceBuffer<KeyNormScale>,
}

/// Matrices with the same input, one below the other.
#[derive(Debug)]
pub(super) struct DeviceWeights {
    pub numbers: DeviceBuffer<Packed>,
    /// The scale of each of their rows, if they have 8 bits.
    pub scales: Option<DeviceBuffer<ColumnScale>>,
    pub bias: Option<DeviceBuffer<Bias>>,
}

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model's files can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// There are no kernels for the model.
    #[error(transparent)]
    Config(#[from] DecoderConfigError),
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] CudaError),
}

/// Loads weights onto the device.
pub(super) struct WeightLoader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a DecoderConfig,
    device: &'a Device,
    dtype: CudaWeightDtype,
    quantize: Kernel<Quantize>,
    progress: LoadProgress,
}

/// The progress of loading: a log line once in a while.
#[derive(Debug)]
struct LoadProgress {
    /// Weights of the model, and those that are on the device.
    all: usize,
    done: Cell<usize>,
    logged: Cell<Instant>,
}

/// Refuses a model that there are no kernels for.
pub(super) fn check(
    config: &DecoderConfig,
    dtype: CudaWeightDtype,
) -> Result<(), DecoderConfigError> {
    let (dim, group) = (config.head_dim, config.heads / config.kv_heads);
    let (multiple, supported) = match dtype {
        CudaWeightDtype::Bf16 => (4, "multiples of 4 on a GPU"),
        CudaWeightDtype::Float8 | CudaWeightDtype::Int8 => {
            (16, "multiples of 16 on a GPU, where weights have 8 bits")
        }
    };
    let widths = [
        ("hidden_size", config.width, WIDTH_MAX, "up to 8,192 on a GPU"),
        ("intermediate_size", config.mlp_width, WIDE_MAX, "up to 32,768 on a GPU"),
    ];
    for (field, width, most, at_most) in widths {
        let unsupported =
            |supported| DecoderConfigError::unsupported(field, width.to_string(), supported);
        if width > most {
            return Err(unsupported(at_most));
        }
        if !width.is_multiple_of(multiple) {
            return Err(unsupported(supported));
        }
    }
    let shape = HEAD_SHAPES.iter().find(|(width, _)| *width as usize == dim);
    let Some(&(_, group_max)) = shape else {
        let supported = "8, 16, 32, 64 or 128 on a GPU";
        return Err(DecoderConfigError::unsupported("head_dim", dim.to_string(), supported));
    };
    if group > group_max as usize {
        let supported =
            "at most 8 times `num_key_value_heads` on a GPU, and 4 where heads have 8 numbers";
        return Err(DecoderConfigError::unsupported(
            "num_attention_heads",
            config.heads.to_string(),
            supported,
        ));
    }
    Ok(())
}

// === impl LoadProgress ===

impl LoadProgress {
    fn new(all: usize, now: Instant) -> Self {
        Self { all, done: Cell::new(0), logged: Cell::new(now) }
    }

    /// Counts weights that are on the device. Returns whether a log line is due.
    fn add(&self, numbers: usize, now: Instant) -> bool {
        self.done.set(self.done.get() + numbers);
        let is_due = now.duration_since(self.logged.get()) >= LOG_EVERY;
        if is_due {
            self.logged.set(now);
        }
        is_due
    }

    fn log(&self) {
        let [bytes, of] = [self.done.get(), self.all].map(|numbers| numbers * size_of::<bf16>());
        tracing::info!(bytes, of, "loading weights onto the GPU");
    }
}

// === impl WeightLoader ===

impl<'a> WeightLoader<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        config: &'a DecoderConfig,
        device: &'a Device,
        dtype: CudaWeightDtype,
    ) -> Result<Self, CudaError> {
        let progress = LoadProgress::new(checkpoint.parameters(), Instant::now());
        let quantize = device.kernel()?;
        Ok(Self { checkpoint, config, device, dtype, quantize, progress })
    }

    fn add(&self, numbers: usize) {
        if self.progress.add(numbers, Instant::now()) {
            self.progress.log();
        }
    }

    /// The weights and norms of a layer.
    pub fn layer(&self, layer: usize) -> Result<DeviceLayer, LoadError> {
        let head_norms = self.config.head_norms.then(|| {
            let query = self.numbers(&[NormId::Query(layer).name()])?;
            let key = self.numbers(&[NormId::Key(layer).name()])?;
            Ok::<_, LoadError>(HeadNorms { query, key })
        });
        Ok(DeviceLayer {
            qkv: self.weights(&LinearId::qkv(layer))?,
            output: self.weights(&[LinearId::Output(layer)])?,
            gates_ups: self.weights(&LinearId::gate_up(layer))?,
            down: self.weights(&[LinearId::Down(layer)])?,
            attention_norm: self.numbers(&[NormId::Attention(layer).name()])?,
            mlp_norm: self.numbers(&[NormId::Mlp(layer).name()])?,
            head_norms: head_norms.transpose()?,
        })
    }

    fn weights(&self, matrices: &[LinearId]) -> Result<DeviceWeights, LoadError> {
        let short: DeviceBuffer<LayerWeight> =
            self.table(&matrices.iter().map(|linear| linear.name()).collect::<Vec<_>>())?;
        let bias = self.biases(matrices)?;
        if self.dtype == CudaWeightDtype::Bf16 {
            return Ok(DeviceWeights { numbers: short.into_packed(), scales: None, bias });
        }
        let (_, width) = matrices[0].dims(self.config);
        let rows = short.len() / width;
        let numbers: DeviceBuffer<Packed> = self.device.zeroed(short.len())?;
        let scales: DeviceBuffer<RowScale> = self.device.zeroed(rows)?;
        let arguments = Quantize {
            packed: numbers.at(0),
            row_scales: scales.at(0),
            dtype: self.dtype,
            rows: short.at(0).with_role(),
            width: Width::of(width),
        };
        // SAFETY: all buffers have as many rows.
        unsafe {
            self.device.launch(&self.quantize, [rows, 1, 1], wide_threads(width), &arguments)?;
        }
        // The bf16 weights are freed once they are read.
        self.device.wait()?;
        // The scale of a row of weights is that of a column of their product.
        Ok(DeviceWeights { numbers, scales: Some(scales.into_role()), bias })
    }

    fn biases(&self, matrices: &[LinearId]) -> Result<Option<DeviceBuffer<Bias>>, LoadError> {
        let names: Option<Vec<String>> =
            matrices.iter().map(|linear| linear.bias(self.config)).collect();
        names.map(|names| self.numbers(&names)).transpose()
    }

    /// Tensors one below the other, in bf16. Tensors that a file has in bf16 are copied from its mapped memory.
    pub fn table<R: Role<Number = bf16>>(
        &self,
        names: &[String],
    ) -> Result<DeviceBuffer<R>, LoadError> {
        let views = names.iter().map(|name| self.checkpoint.tensor(name));
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let count = views.iter().map(|view| view.rows() * view.columns()).sum();
        let mut table = self.device.zeroed(count)?;
        let (mut exact, mut short) = (Vec::new(), Vec::new());
        let mut next = 0;
        for view in views {
            let rows_at_once = (CHUNK / view.columns()).max(1);
            for from in (0..view.rows()).step_by(rows_at_once) {
                let rows = from..view.rows().min(from + rows_at_once);
                let count = rows.len() * view.columns();
                match (view.format(), view.bytes()) {
                    (decoder::TensorDtype::Bf16, Some(bytes)) if cfg!(target_endian = "little") => {
                        let size = view.columns() * size_of::<bf16>();
                        let bytes = &bytes[rows.start * size..rows.end * size];
                        self.device.write_bytes(&mut table, next, bytes)?;
                    }
                    _ => {
                        exact.resize(count, 0.0);
                        view.read_rows(rows, &mut exact)?;
                        short.clear();
                        short.extend(exact.iter().map(|&number| bf16::from_f32(number)));
                        self.device.write(&mut table, next, &short)?;
                        // The host's numbers must stay until they are copied.
                        self.device.wait()?;
                    }
                }
                self.add(count);
                next += count;
            }
        }
        Ok(table)
    }

    /// Tensors one after the other, in f32.
    pub fn numbers<R: Role<Number = f32>>(
        &self,
        names: &[String],
    ) -> Result<DeviceBuffer<R>, LoadError> {
        let mut all = Vec::new();
        for name in names {
            all.extend(self.checkpoint.tensor(name)?.read()?);
        }
        let table = self.device.upload::<R>(&all)?;
        self.add(all.len());
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_logged_once_a_second() {
        let begun = Instant::now();
        let progress = LoadProgress::new(100, begun);
        let due = |after: u64| progress.add(10, begun + Duration::from_millis(after));
        assert_eq!(
            [10, 990, 1_000, 1_010, 1_990, 2_010].map(due),
            [false, false, true, false, false, true]
        );
        assert_eq!(progress.done.get(), 60);
    }
}
