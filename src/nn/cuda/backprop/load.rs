//! Uploads a model that is trained, and reads the gradients of its adapters.

use super::super::device::{Device, DeviceBuffer};
use super::super::interface::{AdapterGradient, AdapterNumber, Bias, LayerWeight, NormScale, Role};
use super::super::load::HeadNorms;
use super::error::BackpropError;
use crate::nn::decoder::{Adapters, LinearId, NormId, TrainableDecoder};
use candle_core::{DType, Device as Processor, Tensor};
use half::bf16;

/// A frozen layer, and the adapters on its matrices.
#[derive(Debug)]
pub(super) struct FrozenLayer {
    pub qkv: FrozenWeights,
    pub output: FrozenWeights,
    pub gates_ups: FrozenWeights,
    pub down: FrozenWeights,
    pub attention_norm: DeviceBuffer<NormScale>,
    pub mlp_norm: DeviceBuffer<NormScale>,
    pub head_norms: Option<HeadNorms>,
    adapters: Vec<DeviceAdapter>,
}

/// Frozen matrices with the same input, one below the other.
#[derive(Debug)]
pub(super) struct FrozenWeights {
    pub numbers: DeviceBuffer<LayerWeight>,
    pub bias: Option<DeviceBuffer<Bias>>,
}

/// A low-rank adapter of a frozen matrix: `(rank, inputs)` and `(outputs, rank)`, and their gradients.
#[derive(Debug)]
pub(super) struct DeviceAdapter {
    matrix: LinearId,
    pub outputs: usize,
    pub inputs: usize,
    pub rank: usize,
    pub down: DeviceBuffer<AdapterNumber>,
    pub up: DeviceBuffer<AdapterNumber>,
    pub down_gradient: DeviceBuffer<AdapterGradient>,
    pub up_gradient: DeviceBuffer<AdapterGradient>,
}

/// Uploads tensors.
pub(super) struct TensorLoader<'a> {
    pub model: &'a TrainableDecoder,
    pub adapters: &'a Adapters,
    pub device: &'a Device,
}

// === impl TensorLoader ===

impl TensorLoader<'_> {
    pub fn layer(&self, layer: usize) -> Result<FrozenLayer, BackpropError> {
        let norm = |norm: NormId| self.f32(&[norm.name()]);
        let head_norms = self.model.config.head_norms.then(|| {
            let query = self.f32(&[NormId::Query(layer).name()])?;
            let key = self.f32(&[NormId::Key(layer).name()])?;
            Ok::<_, BackpropError>(HeadNorms { query, key })
        });
        let adapters = LinearId::of_layer(layer).into_iter();
        let adapters = adapters.filter_map(|matrix| self.adapter(matrix).transpose());
        Ok(FrozenLayer {
            qkv: self.weights(&LinearId::qkv(layer))?,
            output: self.weights(&[LinearId::Output(layer)])?,
            gates_ups: self.weights(&LinearId::gate_up(layer))?,
            down: self.weights(&[LinearId::Down(layer)])?,
            attention_norm: norm(NormId::Attention(layer))?,
            mlp_norm: norm(NormId::Mlp(layer))?,
            head_norms: head_norms.transpose()?,
            adapters: adapters.collect::<Result<_, _>>()?,
        })
    }

    fn weights(&self, matrices: &[LinearId]) -> Result<FrozenWeights, BackpropError> {
        let biases: Option<Vec<String>> =
            matrices.iter().map(|matrix| matrix.bias(&self.model.config)).collect();
        let names: Vec<String> = matrices.iter().map(|matrix| matrix.name()).collect();
        let bias = biases.map(|names| self.f32(&names)).transpose()?;
        Ok(FrozenWeights { numbers: self.bf16(&names)?, bias })
    }

    fn adapter(&self, matrix: LinearId) -> Result<Option<DeviceAdapter>, BackpropError> {
        let Some([down, up]) = self.adapters.pair(matrix) else { return Ok(None) };
        let ((rank, inputs), (outputs, _)) = (down.dims2()?, up.dims2()?);
        Ok(Some(DeviceAdapter {
            matrix,
            outputs,
            inputs,
            rank,
            down: self.device.zeroed(rank * inputs)?,
            up: self.device.zeroed(outputs * rank)?,
            down_gradient: self.device.zeroed(rank * inputs)?,
            up_gradient: self.device.zeroed(outputs * rank)?,
        }))
    }

    fn tensors(&self, names: &[String]) -> Result<Vec<&Tensor>, BackpropError> {
        Ok(names.iter().map(|name| self.model.parameters.get(name)).collect::<Result<_, _>>()?)
    }

    /// Tensors one below the other, in bf16.
    pub fn bf16<R: Role<Number = bf16>>(
        &self,
        names: &[String],
    ) -> Result<DeviceBuffer<R>, BackpropError> {
        let tensors = self.tensors(names)?;
        let all = tensors.iter().map(|tensor| tensor.elem_count()).sum();
        let mut buffer = self.device.zeroed(all)?;
        let mut from = 0;
        for tensor in tensors {
            from += write_bf16(self.device, &mut buffer, from, tensor)?;
        }
        Ok(buffer)
    }

    /// Tensors one after the other, in f32.
    pub fn f32<R: Role<Number = f32>>(
        &self,
        names: &[String],
    ) -> Result<DeviceBuffer<R>, BackpropError> {
        let mut all = Vec::new();
        for tensor in self.tensors(names)? {
            all.extend(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        }
        Ok(self.device.upload::<R>(&all)?)
    }
}

/// Writes a tensor in bf16, and returns how many numbers it has.
fn write_bf16<R: Role<Number = bf16>>(
    device: &Device,
    buffer: &mut DeviceBuffer<R>,
    from: usize,
    tensor: &Tensor,
) -> Result<usize, BackpropError> {
    let numbers = tensor.to_dtype(DType::BF16)?.flatten_all()?.to_vec1::<bf16>()?;
    device.write(buffer, from, &numbers)?;
    device.wait()?;
    Ok(numbers.len())
}

// === impl FrozenLayer ===

impl FrozenLayer {
    /// The adapter of a matrix, if it has one.
    pub fn adapter(&self, matrix: LinearId) -> Option<&DeviceAdapter> {
        self.adapters.iter().find(|adapter| adapter.matrix == matrix)
    }

    pub fn adapters(&self) -> impl Iterator<Item = &DeviceAdapter> {
        self.adapters.iter()
    }

    pub fn adapters_mut(&mut self) -> impl Iterator<Item = &mut DeviceAdapter> {
        self.adapters.iter_mut()
    }
}

// === impl DeviceAdapter ===

impl DeviceAdapter {
    /// Uploads the adapter, and sets its gradients to zero.
    pub fn upload(&mut self, device: &Device, adapters: &Adapters) -> Result<(), BackpropError> {
        if let Some([down, up]) = adapters.pair(self.matrix) {
            write_bf16(device, &mut self.down, 0, down)?;
            write_bf16(device, &mut self.up, 0, up)?;
        }
        device.clear(&mut self.down_gradient)?;
        device.clear(&mut self.up_gradient)?;
        Ok(())
    }

    /// The variables, and the gradient of each.
    pub fn read(
        &self,
        device: &Device,
        adapters: &Adapters,
    ) -> Result<Vec<(Tensor, Tensor)>, BackpropError> {
        let Some(variables) = adapters.pair(self.matrix) else { return Ok(Vec::new()) };
        let buffers = [&self.down_gradient, &self.up_gradient];
        let read = variables.into_iter().zip(buffers).map(|(variable, buffer)| {
            let mut numbers = vec![0.0_f32; variable.elem_count()];
            device.read(buffer, &mut numbers)?;
            device.wait()?;
            let gradient = Tensor::from_vec(numbers, variable.shape(), &Processor::Cpu)?;
            Ok((variable.clone(), gradient))
        });
        read.collect()
    }
}
