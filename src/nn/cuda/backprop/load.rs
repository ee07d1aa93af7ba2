//! A model that is trained comes onto a device, and what was learned about its adapters comes back.

use super::super::device::{Device, Table};
use super::super::model::turns;
use super::BackpropError;
use crate::nn::decoder::{Adapters, LinearId, NormId, TrainableDecoder};
use candle_core::{DType, Device as Processor, Tensor};
use half::bf16;

/// A frozen layer, and the adapters on its matrices.
#[derive(Debug)]
pub(super) struct Layer {
    pub qkv: Frozen,
    pub output: Frozen,
    pub gates_ups: Frozen,
    pub down: Frozen,
    pub attention_norm: Table<f32>,
    pub mlp_norm: Table<f32>,
    pub head_norms: Option<[Table<f32>; 2]>,
    /// In the order of [`LinearId::of_layer`].
    pub adapters: [Option<Adapter>; 7],
}

/// Matrices that go over the same rows, one below the other.
#[derive(Debug)]
pub(super) struct Frozen {
    pub numbers: Table<bf16>,
    pub bias: Option<Table<f32>>,
}

/// What is trained beside a frozen matrix: `(rank, inputs)` and `(outputs, rank)`, and their gradients.
#[derive(Debug)]
pub(super) struct Adapter {
    matrix: LinearId,
    pub outputs: usize,
    pub inputs: usize,
    pub rank: usize,
    pub down: Table<bf16>,
    pub up: Table<bf16>,
    pub down_gradient: Table<f32>,
    pub up_gradient: Table<f32>,
}

/// Brings tensors onto the device.
pub(super) struct Loader<'a> {
    pub model: &'a TrainableDecoder,
    pub adapters: &'a Adapters,
    pub device: &'a Device,
}

// === impl Loader ===

impl Loader<'_> {
    pub fn layer(&self, layer: usize) -> Result<Layer, BackpropError> {
        let qkv = [LinearId::Query(layer), LinearId::Key(layer), LinearId::Value(layer)];
        let norm = |norm: NormId| self.exact(&[norm.name()]);
        let head_norms = self.model.config.head_norms.then(|| {
            Ok::<_, BackpropError>([norm(NormId::Query(layer))?, norm(NormId::Key(layer))?])
        });
        let mut adapters = [const { None }; 7];
        for (place, matrix) in adapters.iter_mut().zip(LinearId::of_layer(layer)) {
            *place = self.adapter(matrix)?;
        }
        Ok(Layer {
            qkv: self.frozen(&qkv)?,
            output: self.frozen(&[LinearId::Output(layer)])?,
            gates_ups: self.frozen(&[LinearId::Gate(layer), LinearId::Up(layer)])?,
            down: self.frozen(&[LinearId::Down(layer)])?,
            attention_norm: norm(NormId::Attention(layer))?,
            mlp_norm: norm(NormId::Mlp(layer))?,
            head_norms: head_norms.transpose()?,
            adapters,
        })
    }

    /// Cosines and sines of so many positions.
    pub fn turns(&self, positions: usize) -> Result<Table<f32>, BackpropError> {
        let turns = turns(&self.model.config, positions);
        let mut table = self.device.zeroed(turns.len())?;
        self.device.write(&mut table, 0, &turns)?;
        // What is being copied must not go.
        self.device.wait()?;
        Ok(table)
    }

    fn frozen(&self, of: &[LinearId]) -> Result<Frozen, BackpropError> {
        let biases: Option<Vec<String>> =
            of.iter().map(|matrix| matrix.bias(&self.model.config)).collect();
        let names: Vec<String> = of.iter().map(|matrix| matrix.name()).collect();
        let bias = biases.map(|names| self.exact(&names)).transpose()?;
        Ok(Frozen { numbers: self.short(&names)?, bias })
    }

    fn adapter(&self, matrix: LinearId) -> Result<Option<Adapter>, BackpropError> {
        let Some([down, up]) = self.adapters.pair(matrix) else { return Ok(None) };
        let ((rank, inputs), (outputs, _)) = (down.dims2()?, up.dims2()?);
        let zeroed = |of: &Tensor| self.device.zeroed(of.elem_count());
        let (down_gradient, up_gradient) = (zeroed(down)?, zeroed(up)?);
        let short = |of: &Tensor| self.device.zeroed(of.elem_count());
        let (down, up) = (short(down)?, short(up)?);
        Ok(Some(Adapter { matrix, outputs, inputs, rank, down, up, down_gradient, up_gradient }))
    }

    fn tensors(&self, names: &[String]) -> Result<Vec<&Tensor>, BackpropError> {
        Ok(names.iter().map(|name| self.model.parameters.get(name)).collect::<Result<_, _>>()?)
    }

    /// Tables one below the other, in bf16.
    pub fn short(&self, names: &[String]) -> Result<Table<bf16>, BackpropError> {
        let tensors = self.tensors(names)?;
        let all = tensors.iter().map(|tensor| tensor.elem_count()).sum();
        let mut table = self.device.zeroed(all)?;
        let mut place = 0;
        for tensor in tensors {
            place += write_short(self.device, &mut table, place, tensor)?;
        }
        Ok(table)
    }

    /// Rows of numbers one after the other, as they are.
    pub fn exact(&self, names: &[String]) -> Result<Table<f32>, BackpropError> {
        let mut all = Vec::new();
        for tensor in self.tensors(names)? {
            all.extend(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?);
        }
        let mut table = self.device.zeroed(all.len())?;
        self.device.write(&mut table, 0, &all)?;
        self.device.wait()?;
        Ok(table)
    }
}

/// Writes a tensor's numbers in bf16, and says how many they are.
fn write_short(
    device: &Device,
    table: &mut Table<bf16>,
    place: usize,
    tensor: &Tensor,
) -> Result<usize, BackpropError> {
    let numbers = tensor.to_dtype(DType::BF16)?.flatten_all()?.to_vec1::<bf16>()?;
    device.write(table, place, &numbers)?;
    device.wait()?;
    Ok(numbers.len())
}

// === impl Layer ===

impl Layer {
    pub fn adapters(&self) -> impl Iterator<Item = &Adapter> {
        self.adapters.iter().flatten()
    }

    pub fn adapters_mut(&mut self) -> impl Iterator<Item = &mut Adapter> {
        self.adapters.iter_mut().flatten()
    }
}

// === impl Adapter ===

impl Adapter {
    pub fn take(&mut self, device: &Device, adapters: &Adapters) -> Result<(), BackpropError> {
        if let Some([down, up]) = adapters.pair(self.matrix) {
            write_short(device, &mut self.down, 0, down)?;
            write_short(device, &mut self.up, 0, up)?;
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
        let tables = [&self.down_gradient, &self.up_gradient];
        let read = variables.into_iter().zip(tables).map(|(variable, table)| {
            let mut numbers = vec![0.0_f32; variable.elem_count()];
            device.read(table, &mut numbers)?;
            device.wait()?;
            let gradient = Tensor::from_vec(numbers, variable.shape(), &Processor::Cpu)?;
            Ok((variable.clone(), gradient))
        });
        read.collect()
    }
}
