//! A checkpoint's weights come onto a device.

#![expect(unsafe_code, reason = "a device is driven by addresses")]

use super::device::{Argument, CudaError, Device, Kernel, Table};
use super::products::CudaWeightDtype;
use super::rows::wide_threads;
use crate::nn::decoder::{
    self, Checkpoint, CheckpointError, DecoderConfig, DecoderConfigError, LinearId, NormId,
};
use half::bf16;
use std::cell::Cell;
use std::time::{Duration, Instant};

/// Head widths that there are kernels for, and the most query heads that may share a key head.
const HEAD_DIMS: [usize; 5] = [8, 16, 32, 64, 128];
/// Of narrow heads fewer.
const GROUP_MAX: usize = 8;
const NARROW_GROUP_MAX: usize = 4;
/// Numbers of a row, and of its MLP, that a block keeps: 16 and 32 for each of its threads.
const WIDTH_MAX: usize = 8_192;
const WIDE_MAX: usize = 32_768;
/// Weights that are copied or converted at a time.
const CHUNK: usize = 1 << 24;
/// How often it is told how far the weights have come.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// The weights of a layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub qkv: Weights,
    pub output: Weights,
    pub gates_ups: Weights,
    pub down: Weights,
    pub attention_norm: Table<f32>,
    pub mlp_norm: Table<f32>,
    pub head_norms: Option<[Table<f32>; 2]>,
}

/// Matrices that go over the same rows, one below the other.
#[derive(Debug)]
pub(super) struct Weights {
    pub numbers: Table<u8>,
    /// What each row of them is multiplied by, where they have 8 bits.
    pub scales: Option<Table<f32>>,
    pub bias: Option<Table<f32>>,
}

/// Why a model can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Its files can't be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// It is one that there are no kernels for.
    #[error(transparent)]
    Config(#[from] DecoderConfigError),
    /// The device refuses.
    #[error(transparent)]
    Device(#[from] CudaError),
}

/// Brings weights onto the device.
pub(super) struct Loader<'a> {
    checkpoint: &'a Checkpoint,
    config: &'a DecoderConfig,
    device: &'a Device,
    format: CudaWeightDtype,
    quantize: Kernel,
    progress: Progress,
}

/// How far the weights have come: a line in the log, once in a while.
#[derive(Debug)]
struct Progress {
    /// Numbers that there are, and that are on the device.
    all: usize,
    done: Cell<usize>,
    told: Cell<Instant>,
}

/// Refuses what there are no kernels for.
pub(super) fn check(
    config: &DecoderConfig,
    format: CudaWeightDtype,
) -> Result<(), DecoderConfigError> {
    let (dim, group) = (config.head_dim, config.heads / config.kv_heads);
    let (among, supported) = match format {
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
        if !width.is_multiple_of(among) {
            return Err(unsupported(supported));
        }
    }
    if !HEAD_DIMS.contains(&dim) {
        let supported = "8, 16, 32, 64 or 128 on a GPU";
        return Err(DecoderConfigError::unsupported("head_dim", dim.to_string(), supported));
    }
    let most = if dim == HEAD_DIMS[0] { NARROW_GROUP_MAX } else { GROUP_MAX };
    if group > most {
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

// === impl Progress ===

impl Progress {
    fn new(all: usize, now: Instant) -> Self {
        Self { all, done: Cell::new(0), told: Cell::new(now) }
    }

    /// So many more numbers are on the device. Says whether it is time to tell.
    fn add(&self, numbers: usize, now: Instant) -> bool {
        self.done.set(self.done.get() + numbers);
        let is_due = now.duration_since(self.told.get()) >= TOLD_EVERY;
        if is_due {
            self.told.set(now);
        }
        is_due
    }

    fn tell(&self) {
        let [bytes, of] = [self.done.get(), self.all].map(|numbers| numbers * size_of::<bf16>());
        tracing::info!(bytes, of, "weights go to the GPU");
    }
}

// === impl Loader ===

impl<'a> Loader<'a> {
    pub fn new(
        checkpoint: &'a Checkpoint,
        config: &'a DecoderConfig,
        device: &'a Device,
        format: CudaWeightDtype,
    ) -> Result<Self, CudaError> {
        let progress = Progress::new(checkpoint.parameters(), Instant::now());
        let quantize = device.kernel("quantize")?;
        Ok(Self { checkpoint, config, device, format, quantize, progress })
    }

    fn add(&self, numbers: usize) {
        if self.progress.add(numbers, Instant::now()) {
            self.progress.tell();
        }
    }

    /// All of a layer.
    pub fn layer(&self, layer: usize) -> Result<Layer, LoadError> {
        let qkv = [LinearId::Query(layer), LinearId::Key(layer), LinearId::Value(layer)];
        let gates_ups = [LinearId::Gate(layer), LinearId::Up(layer)];
        let (output, down) = ([LinearId::Output(layer)], [LinearId::Down(layer)]);
        let head_norms = self.config.head_norms.then(|| {
            let norms =
                [NormId::Query(layer), NormId::Key(layer)].map(|norm| self.numbers(&[norm.name()]));
            let [query, key] = norms;
            Ok::<_, LoadError>([query?, key?])
        });
        Ok(Layer {
            qkv: self.weights(&qkv)?,
            output: self.weights(&output)?,
            gates_ups: self.weights(&gates_ups)?,
            down: self.weights(&down)?,
            attention_norm: self.numbers(&[NormId::Attention(layer).name()])?,
            mlp_norm: self.numbers(&[NormId::Mlp(layer).name()])?,
            head_norms: head_norms.transpose()?,
        })
    }

    fn weights(&self, of: &[LinearId]) -> Result<Weights, LoadError> {
        let halves = self.table(&of.iter().map(|linear| linear.name()).collect::<Vec<_>>())?;
        let bias = self.biases(of)?;
        if self.format == CudaWeightDtype::Bf16 {
            return Ok(Weights { numbers: halves.into_bytes(), scales: None, bias });
        }
        let (_, width) = of[0].dims(self.config);
        let rows = halves.len() / width;
        let numbers = self.device.zeroed::<u8>(halves.len())?;
        let scales = self.device.zeroed::<f32>(rows)?;
        let arguments = [
            Argument::Table(numbers.at(0)),
            Argument::Table(scales.at(0)),
            Argument::Count(self.format as u32),
            Argument::Table(halves.at(0)),
            Argument::Count(width as u32),
        ];
        // SAFETY: the arguments of `quantize`, over tables of as many rows.
        unsafe {
            self.device.launch(&self.quantize, [rows, 1, 1], wide_threads(width), &arguments)?;
        }
        // The numbers of 16 bits go when they are read.
        self.device.wait()?;
        Ok(Weights { numbers, scales: Some(scales), bias })
    }

    fn biases(&self, of: &[LinearId]) -> Result<Option<Table<f32>>, LoadError> {
        let names: Option<Vec<String>> = of.iter().map(|linear| linear.bias(self.config)).collect();
        names.map(|names| self.numbers(&names)).transpose()
    }

    /// Tables one below the other, in bf16: those that lie in a file as bf16 are copied from where they are mapped.
    pub fn table(&self, names: &[String]) -> Result<Table<bf16>, LoadError> {
        let views = names.iter().map(|name| self.checkpoint.tensor(name));
        let views = views.collect::<Result<Vec<_>, _>>()?;
        let count = views.iter().map(|view| view.rows() * view.columns()).sum();
        let mut table = self.device.zeroed(count)?;
        let (mut exact, mut halves) = (Vec::new(), Vec::new());
        let mut place = 0;
        for view in views {
            let rows_at_once = (CHUNK / view.columns()).max(1);
            for from in (0..view.rows()).step_by(rows_at_once) {
                let rows = from..view.rows().min(from + rows_at_once);
                let count = rows.len() * view.columns();
                match (view.format(), view.bytes()) {
                    (decoder::TensorDtype::Bf16, Some(bytes)) if cfg!(target_endian = "little") => {
                        let size = view.columns() * size_of::<bf16>();
                        let bytes = &bytes[rows.start * size..rows.end * size];
                        self.device.write_bytes(&mut table, place, bytes)?;
                    }
                    _ => {
                        exact.resize(count, 0.0);
                        view.read_rows(rows, &mut exact)?;
                        halves.clear();
                        halves.extend(exact.iter().map(|&number| bf16::from_f32(number)));
                        self.device.write(&mut table, place, &halves)?;
                        // What is being copied must not change.
                        self.device.wait()?;
                    }
                }
                self.add(count);
                place += count;
            }
        }
        Ok(table)
    }

    /// Rows of numbers one after the other, as they are.
    pub fn numbers(&self, names: &[String]) -> Result<Table<f32>, LoadError> {
        let mut all = Vec::new();
        for name in names {
            all.extend(self.checkpoint.tensor(name)?.read()?);
        }
        let mut table = self.device.zeroed(all.len())?;
        self.device.write(&mut table, 0, &all)?;
        self.device.wait()?;
        self.add(all.len());
        Ok(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_once_a_second() {
        let begun = Instant::now();
        let progress = Progress::new(100, begun);
        let told = |after: u64| progress.add(10, begun + Duration::from_millis(after));
        assert_eq!(
            [10, 990, 1_000, 1_010, 1_990, 2_010].map(told),
            [false, false, true, false, false, true]
        );
        assert_eq!(progress.done.get(), 60);
    }
}
