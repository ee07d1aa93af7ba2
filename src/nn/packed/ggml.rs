//! A matrix in GGML blocks, multiplied by candle: for formats that no kernel here reads, mostly 4 bits.
#![allow(unsafe_code, reason = "columns of one table are written by several threads at a time")]

use super::thread_pool::{DisjointMut, ThreadPool};
use crate::nn::decoder::CheckpointError;
use candle_core::quantized::QMatMul;
use candle_core::{Device, Module as _, Tensor};
use std::ops::Range;
use std::sync::Mutex;

/// Outputs of candle's tile: parts begin at multiples of it.
const TILE: usize = 16;

/// A matrix in parts, which the threads multiply in parallel.
///
/// candle would split a product over as many threads as the machine has, not over those of the model.
#[derive(Debug)]
pub struct GgmlMatrix {
    parts: Vec<(Range<usize>, QMatMul)>,
    bias: Vec<f32>,
}

impl GgmlMatrix {
    /// Loads a matrix of `outputs` rows, part by part.
    pub fn load(
        pool: &ThreadPool,
        outputs: usize,
        bias: Vec<f32>,
        load: impl Fn(Range<usize>) -> Result<QMatMul, CheckpointError>,
    ) -> Result<Self, CheckpointError> {
        let rows = outputs.div_ceil(pool.threads()).next_multiple_of(TILE);
        let starts = (0..outputs).step_by(rows);
        let part = |from| {
            let rows = from..outputs.min(from + rows);
            Ok((rows.clone(), load(rows)?))
        };
        Ok(Self { parts: starts.map(part).collect::<Result<_, CheckpointError>>()?, bias })
    }

    /// Outputs.
    pub fn outputs(&self) -> usize {
        self.parts.last().map_or(0, |(rows, _)| rows.end)
    }

    /// Memory in bytes.
    pub fn bytes(&self) -> usize {
        let parts = self.parts.iter().map(|(_, product)| match product {
            QMatMul::QTensor(tensor) => tensor.storage_size_in_bytes(),
            QMatMul::Tensor(tensor) | QMatMul::TensorF16(tensor) => {
                tensor.elem_count() * tensor.dtype().size_in_bytes()
            }
        });
        parts.sum::<usize>() + size_of_val(&*self.bias)
    }

    /// `out = rows W^T + b`
    pub fn multiply(
        &self,
        pool: &ThreadPool,
        rows: &[f32],
        width: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let outputs = self.outputs();
        let rows = Tensor::from_slice(rows, (rows.len() / width, width), &Device::Cpu)?;
        let out = DisjointMut::new(out);
        let outcome = Mutex::new(Ok(()));
        pool.each(self.parts.len(), |part| {
            let (columns, product) = &self.parts[part];
            let products = product
                .forward(&rows)
                .and_then(|products| products.flatten_all()?.to_vec1::<f32>());
            match products {
                Ok(products) => {
                    for (r, products) in products.chunks_exact(columns.len()).enumerate() {
                        // SAFETY: these columns belong to this part, and a part to one task.
                        let out = unsafe { out.slice(r * outputs + columns.start, columns.len()) };
                        out.copy_from_slice(products);
                        for (out, bias) in out.iter_mut().zip(self.bias.iter().skip(columns.start))
                        {
                            *out += bias;
                        }
                    }
                }
                Err(error) => *outcome.lock().expect("no task panics") = Err(error),
            }
        });
        Ok(outcome.into_inner().expect("no task panics")?)
    }
}
